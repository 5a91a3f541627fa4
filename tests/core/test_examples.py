"""Every worked example that the program's help shows runs, in one folder, so that later ones use what
earlier ones made. Each must succeed in ten seconds of computing.

Files that an example names and no example makes are made here."""
import array
import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile

PROGRAM = os.environ["PURKINJE"]
SECONDS = 10
# Examples by their first words, which need more than a scratch folder, and the test that has it.
SKIP = {
    "data import": "needs databases; tests/data/test_ptbxl.py imports small imitations",
    "data dump": "needs PTB-XL; tests/data/test_wfdb.py dumps records",
}
# What others use: data to read, a model to evaluate. The rest keeps the order of the help.
FIRST = ["pretrain", "finetune", "data synth", "export"]
failures = []


def overview():
    text = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"^  (\S+(?: \S+)?)  ", text.split("commands:")[1], re.M)


def examples(name):
    r = subprocess.run([PROGRAM, *name.split(), "--help"], capture_output=True, text=True, check=True)
    found = re.findall(r"^  purkinje (.*)\n      (\S.*)$", r.stdout.split("\nexamples:\n")[1], re.M)
    if len(found) < 2:
        failures.append(f"{name}: {len(found)} examples, two are promised")
    for command, _ in found:
        if not re.sub(r"^launch -n \d+ (?!-)", "", command).startswith(name) and not command.startswith(name):
            failures.append(f"{name}: example of another command: {command}")
    return [command for command, _ in found]


def write_npy(path, kind, shape, data):
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + data)


def make_files(root):
    """model.safetensors for inspect; labels.npy, scores.npy and classes.txt for eval scores."""
    text = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  '
    text += b" " * (-len(text) % 8)
    with open(os.path.join(root, "model.safetensors"), "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + array.array("f", [1, 2]).tobytes())
    rows = [(i % 2, (i // 2) % 2, (i // 4) % 2) for i in range(64)]
    labels = [v for row in rows for v in row]
    scores = [v + ((7 * i) % 11) / 8 for i, v in enumerate(labels)]
    write_npy(os.path.join(root, "labels.npy"), "|u1", (64, 3), bytes(labels))
    write_npy(os.path.join(root, "scores.npy"), "<f4", (64, 3), array.array("f", scores).tobytes())
    with open(os.path.join(root, "classes.txt"), "w") as f:
        f.write("normal\naf\nlbbb\n")


def computing():
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


def main():
    ran = skipped = 0
    with tempfile.TemporaryDirectory(prefix="purkinje-examples-") as root:
        make_files(root)
        for name in sorted(overview(), key=lambda n: FIRST.index(n) if n in FIRST else len(FIRST)):
            for command in examples(name):
                if name in SKIP:
                    skipped += 1
                    continue
                begun = computing()
                r = subprocess.run([PROGRAM, *shlex.split(command)], cwd=root, capture_output=True,
                                   text=True, timeout=300)
                took = computing() - begun
                ran += 1
                if r.returncode != 0:
                    failures.append(f"purkinje {command}: exit {r.returncode}: {r.stderr[-600:]}")
                if took > SECONDS:
                    failures.append(f"purkinje {command}: {took:.1f} s of computing, {SECONDS} are allowed")
                if "--json" in shlex.split(command):
                    try:
                        json.loads(r.stdout)
                    except ValueError as e:
                        failures.append(f"purkinje {command}: not JSON: {e}")
                print(f"{took:6.2f} s  purkinje {command}", flush=True)
    print(f"{ran} examples ran, {skipped} left to other tests: {', '.join(SKIP)}")
    for f in failures:
        print("failed:", f)
    return 1 if failures else 0


sys.exit(main())
