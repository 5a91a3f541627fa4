"""purkinje data import on several ranks: the corpus of 1, 2, 3, 5 ranks, and of more ranks than records, is
that of one process, every byte of every file, with damaged records among them. A rank that dies, fails or
does not see the folder ends all, leaves no corpus and no process, and the next import gives the same bytes."""
import array
import glob
import hashlib
import math
import os
import random
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import expect, good, purkinje, refused, scratch  # noqa: E402

LEADS = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()
STATEMENTS = (",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
              "NORM,normal ECG,1.0,,,NORM,NORM\n"
              "ABQRS,abnormal QRS,,1.0,,,\nSR,sinus rhythm,,,1.0,,\n")


def make_ptbxl(folder, n):
    """n records; of every seven one has a wrong checksum, another a short file."""
    rng = random.Random(1)
    os.makedirs(f"{folder}/records100/00000")
    with open(f"{folder}/scp_statements.csv", "w") as f:
        f.write(STATEMENTS)
    rows = ["ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr,filename_hr"]
    for i in range(1, n + 1):
        name = f"{i:05d}_lr"
        path = f"{folder}/records100/00000/{name}"
        x = array.array("h", [rng.randrange(-3000, 3000) for _ in range(12000)])
        with open(path + ".hea", "w") as f:
            f.write(f"{name} 12 100 1000\n")
            for k, lead in enumerate(LEADS):
                total = sum(x[k::12]) + (i % 7 == 3) & 0xffff
                f.write(f"{name}.dat 16 1000(0)/mV 16 0 {x[k]} {total} 0 {lead}\n")
        with open(path + ".dat", "wb") as f:
            f.write(x.tobytes()[:23998 if i % 7 == 5 else None])
        rows.append(f"{i},{i // 2},{i % 90}.0,{i % 2},\"{{'NORM': 100.0, 'SR': 0.0}}\",{i % 10 + 1},"
                    f"records100/00000/{name},records500/00000/{i:05d}_hr")
    with open(f"{folder}/ptbxl_database.csv", "w") as f:
        f.write("\n".join(rows) + "\n")


def make_e4(folder, n):
    """Recordings of different lengths, one without a usable window, one damaged."""
    for i in range(n):
        os.makedirs(f"{folder}/session_{i:02d}")
        values = [f"{math.sin(k / 9 + i) + math.sin(k / 4) / 3:.2f}" for k in range(64 * (7 * i + 15))]
        if i == 2:
            values = ["1.00"] * len(values)
        if i == 4:
            values[100] = "damaged"
        with open(f"{folder}/session_{i:02d}/BVP.csv", "w") as f:
            f.write("1600000000.0\n64.0\n" + "\n".join(values) + "\n")


def contents(folder):
    return {os.path.basename(p): hashlib.sha256(open(p, "rb").read()).hexdigest() for p in glob.glob(f"{folder}/*")}


def same(out, reference, what):
    a, b = contents(out), contents(reference)
    expect(a == b and "corpus.json" in a and "import_report.json" in a, f"{what}: {sorted(a)} {sorted(b)}")


def no_corpus(out, what):
    left = os.listdir(out) if os.path.exists(out) else []
    expect("corpus.json" not in left, f"{what} leaves a corpus")
    return left


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def processes(word):
    return [p.split("/")[2] for p in glob.glob("/proc/[0-9]*/cmdline") if word.encode() in read(p)]


def check_same(root, source, folder, sizes, settings=()):
    one = f"{root}/{source}"
    good("data", "import", source, folder, one, *settings, "--quiet")
    for n in sizes:
        out = f"{one}-{n}"
        r = good("launch", "-n", n, "data", "import", source, folder, out, *settings, "--workers", n % 2 + 1)
        expect(r.stdout.count("imported to") == 1, f"{source}, {n} ranks print {r.stdout!r}")
        same(out, one, f"{source} on {n} ranks")


def start(n, words, folder=lambda r: None):
    """Ranks that nobody launches: their environment is set by hand, as torchrun does."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env = {**runs.ENV, "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(port), "PURKINJE_TIMEOUT": "30"}
    return [subprocess.Popen([runs.PROGRAM, *words(r)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             cwd=folder(r), env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(n)]


def end(jobs):
    out = [p.communicate(timeout=60) for p in jobs]
    return [p.returncode for p in jobs], [e for _, e in out]


def make_stuck(folder):
    """Session 3, of the second of two ranks, is a pipe that nobody writes to: its import never ends."""
    make_e4(folder, 4)
    os.remove(f"{folder}/session_03/BVP.csv")
    os.mkfifo(f"{folder}/session_03/BVP.csv")


with scratch() as root:
    make_ptbxl(f"{root}/ptb", 23)
    probe = purkinje("data", "import", "ptbxl", f"{root}/ptb", f"{root}/probe", "--quiet")
    if "without HDF5" in probe.stderr:
        print(f"skipped: {probe.stderr.strip()}")
        sys.exit(77)
    make_e4(f"{root}/e4s", 7)
    check_same(root, "ptbxl", f"{root}/ptb", (2, 3, 5, 29), ("--shard-records", "8"))
    check_same(root, "e4", f"{root}/e4s", (2, 3, 9), ("stride=3",))
sys.exit(1 if runs.failures else 0)
