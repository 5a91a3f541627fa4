"""purkinje inspect: its examples run as written, its numbers are numpy's, damage is reported."""
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np

PROGRAM = os.environ["PURKINJE"]
BUILD = os.path.dirname(PROGRAM)


def inspect(*args):
    return subprocess.run([PROGRAM, "inspect", *args], capture_output=True, text=True)


def listing(path):
    r = inspect(path, "--json")
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


def write(path, tensors, metadata):
    """A safetensors file made by hand, so that the test needs no package."""
    header, data = {"__metadata__": metadata}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)


def check_statistics():
    rng = np.random.default_rng(1)
    arrays = {
        "F64": rng.normal(1e6, 1, 300000),
        "F32": rng.normal(0, 3, (500, 7)).astype(np.float32),
        "F16": np.array([1, -2.5, 6e-8, 65504, 0], np.float16),
        "I64": np.array([-(2**40), 5, 7]),
        "U16": np.array([0, 65535], np.uint16),
        "I8": np.array([-128, 127, 3], np.int8),
        "BOOL": np.array([True, False, True]),
    }
    arrays["F32"][3, 2] = np.nan
    arrays["F32"][4, 4] = -np.inf
    tensors = {f"t.{k}": (k, list(a.shape), a.tobytes()) for k, a in arrays.items()}
    bf = rng.normal(0, 1, 64).astype(np.float32).view(np.uint32) & 0xFFFF0000
    tensors["t.BF16"] = ("BF16", [64], (bf >> 16).astype(np.uint16).tobytes())
    arrays["BF16"] = bf.view(np.float32)
    tensors["empty"] = ("F32", [0, 3], b"")
    write("stats.safetensors", tensors, {"note": "escape \x1b[31m"})
    got = {t["name"]: t for t in listing("stats.safetensors")["tensors"]}
    for kind, a in arrays.items():
        t, x = got[f"t.{kind}"], a.astype(np.float64)
        finite = x[np.isfinite(x)]
        assert t["shape"] == list(a.shape) and t["dtype"] == kind
        assert t["nan"] == np.isnan(x).sum() and t["infinite"] == np.isinf(x).sum()
        for key, want in [("min", finite.min()), ("max", finite.max()), ("mean", finite.mean()),
                          ("std", finite.std())]:
            assert abs(t[key] - want) <= 1e-9 * max(abs(want), finite.std(), 1e-12), (kind, key, t[key], want)
    assert got["empty"]["min"] is None and got["empty"]["bytes"] == 0
    text = inspect("stats.safetensors").stdout
    assert "\x1b" not in text and "escape ?[31m" in text, text
    assert "min" not in inspect("stats.safetensors", "--no-stats").stdout


def check_examples():
    help_text = inspect("--help").stdout
    examples = [l.split()[2:] for l in help_text.split("examples:")[1].splitlines() if l.startswith("  purkinje ")]
    assert len(examples) >= 2, help_text
    for e in examples:
        r = inspect(*e)
        assert r.returncode == 0 and r.stdout, (e, r.stderr)


def check_damage():
    folder = "runs/demo/checkpoints/step-000000006"
    got = listing(folder)
    assert got["kind"] == "checkpoint" and got["step"] == 6 and got["state"]["step"] == 6
    names = [t["name"] for f in got["files"] for t in f["tensors"]]
    assert sorted(names) == ["cursor", "encoder.weight", "encoder.weight"], names
    got = listing("runs/demo")
    assert [(c["step"], c["valid"]) for c in got["checkpoints"]] == [(5, True), (6, True)], got
    with open(folder + "/model.safetensors", "r+b") as f:
        f.seek(700)
        byte = f.read(1)
        f.seek(700)
        f.write(bytes([byte[0] ^ 4]))
    r = inspect(folder)
    assert r.returncode == 65 and "model.safetensors is damaged" in r.stderr and not r.stdout, r
    assert [c["valid"] for c in listing("runs/demo")["checkpoints"]] == [True, False]
    assert "BROKEN" in inspect("runs/demo").stdout
    os.truncate("model.safetensors", 100)
    assert inspect("model.safetensors").returncode == 65
    assert inspect("nowhere").returncode == 74 and inspect(".").returncode == 65
    assert inspect().returncode == 2 and inspect("a", "b").returncode == 2


with tempfile.TemporaryDirectory() as scratch:
    os.chdir(scratch)
    subprocess.run([BUILD + "/test_safetensors", "write", "model.safetensors"], check=True)
    subprocess.run([BUILD + "/test_ckpt", "write", "runs/demo/checkpoints", "1", "6"], check=True)
    check_examples()
    check_statistics()
    check_damage()
    os.chdir("/")
print("inspect: examples, statistics and damage as expected")
sys.exit(0)
