"""tools/gpu_check: on the host executor of this build, and on stand-ins that fail in every way it must notice."""
import os
import subprocess
import sys
import tempfile

SOURCE, BUILD = os.environ["PK_SOURCE_DIR"], os.path.dirname(os.environ["PURKINJE"])
CHECK = os.path.join(SOURCE, "tools", "gpu_check")

# A program that "trains": losses and weights depend on device and precision; the file `break` names what goes wrong.
PROGRAM = r"""#!%s
import json, os, struct, sys
here = os.path.dirname(os.path.abspath(__file__))
broken = open(here + "/break").read().split() if os.path.exists(here + "/break") else []
args = sys.argv[1:]
if args[0] == "doctor":
    if "gpu" in broken:
        sys.exit("error: no NVIDIA GPU is visible")
    print("gpu convs    own, and cuDNN 9.1.0" if "cudnn" in broken else "gpu convs    own only: no libcudnn.so.9")
    print("gpu 0        Stand-in, compute capability 9.0")
    sys.exit()
if "yaml" in broken:
    print("error: this build cannot read recipes: it was made without libyaml")
    sys.exit(69)
device = args[args.index("--device") + 1]
def get(key):
    return [a.split("=")[1] for a in args if a.startswith(key + "=")][0]
if args[0] == "pretrain":
    folder, steps, first, every = get("output.dir"), int(get("train.steps")), 1, int(get("output.checkpoint.every"))
    os.makedirs(folder + "/checkpoints")
    json.dump([get("train.precision"), steps, every], open(folder + "/made", "w"))
else:
    folder = args[1]
    precision, steps, every = json.load(open(folder + "/made"))
    first = steps // 2 + 1
precision = json.load(open(folder + "/made"))[0]
off = {"cuda fp32": 1e-6, "cuda bf16": 1e-3}.get(device + " " + precision, 0)
if "far" in broken and device == "cuda":
    off = 0.1
lines = open(folder + "/metrics.jsonl").read().splitlines()[:first - 1] if first > 1 else []
for i in range(first, steps + 1):
    loss = (1 + off) / i
    if "nan" in broken and device == "cuda" and i == 2:
        loss = float("nan")
    lines.append(json.dumps({"step": i, "kind": "train", "loss": loss}))
    if i %% every == 0:
        os.makedirs(folder + "/checkpoints/step-%%09d" %% i, exist_ok=True)
        body = struct.pack("<f", loss) + (os.urandom(4) if "bits" in broken and device == "cuda" else b"abcd")
        head = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
        open(folder + "/checkpoints/step-%%09d/model.safetensors" %% i, "wb").write(struct.pack("<Q", len(head)) + head + body)
open(folder + "/metrics.jsonl", "w").write("\n".join(lines) + "\n")
""" % sys.executable
TEST = """#!/bin/sh
here=$(dirname "$0")
if [ -e "$here/bad" ]; then echo "cols 33: ratio 7.1"; echo "10 checks passed, 1 failed"; exit 1; fi
if [ -e "$here/none" ]; then echo "skipped: no CUDA device"; exit 77; fi
echo "11 checks passed, 0 failed${PURKINJE_CONV:+, convolutions by $PURKINJE_CONV}"
"""
SANITIZER = """#!/bin/sh
# --tool NAME --error-exitcode 86 PROGRAM
case "$2" in memcheck) "$5" && echo "========= ERROR SUMMARY: 0 errors" ;;
*) echo "========= Race reported"; exit "$4" ;; esac
"""


def check(*args, code=0, path=None):
    env = {**os.environ, **({"PATH": path + ":" + os.environ["PATH"]} if path else {})}
    r = subprocess.run([CHECK, *args], capture_output=True, text=True, env=env, timeout=600)
    assert r.returncode == code, (args, r.returncode, r.stdout, r.stderr)
    return r.stdout, r.stderr


def script(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o755)


def stand_ins():
    script("b/purkinje", PROGRAM)
    script("b/test_norm_cuda", TEST)
    script("b/test_step_cuda", TEST)
    out, _ = check("--build", "b")
    assert "gpu 0        Stand-in" in out and out.endswith("\n10 passed, 0 failed\n"), out
    assert "test_norm_cuda" in out and "11 checks passed" in out, out
    assert "losses within 1e-06" in out and "run: same bits when resumed, bf16" in out, out
    assert "+ " in open("b/gpu_check.log").read()
    out, _ = check("--build", "b", "--only", "norm,bf16")
    assert out.endswith("\n4 passed, 0 failed\n"), out


def broken(word, failing, passing):
    with open("b/break", "w") as f:
        f.write(word)
    out, _ = check("--build", "b", code=1)
    os.remove("b/break")
    for name in failing:
        assert any(line.startswith("FAILED") and name in line for line in out.splitlines()), (word, name, out)
    assert out.endswith(f"\n{passing} passed, {10 - passing} failed\n"), (word, out)


def what_goes_wrong():
    broken("bits", ["same bits again, fp32", "same bits when resumed, fp32", "same bits again, bf16",
                    "same bits when resumed, bf16"], 6)
    broken("far", ["CPU fp32 and GPU fp32", "CPU fp32 and GPU bf16", "begun on the CPU", "begun on the GPU"], 6)
    broken("nan", ["CPU fp32 and GPU fp32", "CPU fp32 and GPU bf16", "begun on the GPU"], 7)
    open("b/bad", "w").close()
    out, _ = check("--build", "b", "--only", "norm", code=1)
    os.remove("b/bad")
    assert "cols 33: ratio 7.1" in out and out.endswith("0 passed, 1 failed\n"), out
    open("b/none", "w").close()
    out, _ = check("--build", "b", "--only", "norm", code=1)
    os.remove("b/none")
    assert "finds no GPU, although doctor does" in out, out
    with open("b/break", "w") as f:
        f.write("yaml")
    out, _ = check("--build", "b")  # the tests still count
    assert "8 skipped\n2 passed, 0 failed" in out and "reads no recipes" in out, out
    with open("b/break", "w") as f:
        f.write("gpu")
    _, err = check("--build", "b", code=77)
    assert "no GPU to check: error: no NVIDIA GPU is visible" in err, err
    os.remove("b/break")
    check("--build", "nowhere", code=69)
    check("--host", "--sanitizer", "memcheck", code=2)
    out, _ = check("--build", "b", "--only", "no such row", code=1)
    assert "no row was run" in out, out


def library():
    """The op tests of convolutions twice, where there is a library for them."""
    script("b/test_conv1d_cuda", TEST)
    out, _ = check("--build", "b", "--only", "conv1d")
    assert "own only: no libcudnn.so.9" in out and out.endswith("\n1 skipped\n1 passed, 0 failed\n"), out
    with open("b/break", "w") as f:
        f.write("cudnn")
    out, _ = check("--build", "b", "--only", "conv1d")
    assert "by cudnn" in out and out.endswith("\n2 passed, 0 failed\n"), out
    os.remove("b/break")
    os.remove("b/test_conv1d_cuda")


def sanitizer():
    script("bin/compute-sanitizer", SANITIZER)
    path = os.path.abspath("bin")
    out, _ = check("--build", "b", "--sanitizer", "memcheck", path=path)
    assert "test_norm_cuda under memcheck" in out and "ERROR SUMMARY: 0 errors" in out, out
    assert "test_step" not in out and out.endswith("\n1 passed, 0 failed\n"), out
    out, _ = check("--build", "b", "--sanitizer", "racecheck", path=path, code=1)
    assert "exit code 86" in out and "Race reported" in out, out


def host_executor():
    """The quick tests of this build and all whole runs, really computed."""
    if not os.path.exists(os.path.join(BUILD, "tests", "cuda_host", "purkinje_cuda_host")):
        return False
    log = os.path.abspath("host.log")
    out, _ = check("--host", "--build", BUILD, "--only", "signal,test_ops,run:", "--log", log)
    assert "host executor" in out and out.endswith("\n10 passed, 0 failed\n"), out
    print(out, end="")
    return True


with tempfile.TemporaryDirectory(prefix="purkinje-check-") as scratch:
    os.chdir(scratch)
    for test in (stand_ins, what_goes_wrong, library, sanitizer):
        test()
    real = host_executor()
    os.chdir("/")
print("gpu_check: rows, verdicts and exit codes as expected" + ("" if real else "; no host executor in this build"))
