"""A corpus on disk, seen from outside: h5py reads the shards, equal runs give equal bytes, and every
kind of damage is found and named. The checksum is written a second time here, so that shards can be
changed on purpose and presented with a checksum that fits."""
import filecmp
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np
except ImportError:
    print("skipped: needs h5py and numpy")
    sys.exit(77)

PROGRAM = os.environ["PURKINJE"]
failures = 0


def check(ok, what):
    global failures
    if not ok:
        failures += 1
        print("failed:", what, file=sys.stderr)


def run(*words, code=0, cwd=None):
    r = subprocess.run([PROGRAM, *words], capture_output=True, text=True, cwd=cwd)
    check(r.returncode == code, f"{' '.join(words)}: exit code {r.returncode}, not {code}: {r.stderr}")
    check("HDF5-DIAG" not in r.stderr, "libhdf5 printed its error stack")
    return r


def checksum(data):
    """datasets/checksum.c in Python: four lanes of 8 bytes."""
    mask, p0, p1 = 2**64 - 1, 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
    rotate = lambda x, by: (x << by | x >> (64 - by)) & mask
    lanes = [p0, p1, p0 ^ p1, (p0 + p1) & mask]
    padded = data + b"\0" * (-len(data) % 32)
    for block in struct.iter_unpack("<4Q", padded):
        lanes = [rotate(l ^ w, 29) * p0 & mask for l, w in zip(lanes, block)]
    h = (len(data) * p1 + p0) & mask
    for lane in lanes:
        h = ((rotate(h, 27) ^ lane) * p1 + p0) & mask
    h = (h ^ h >> 32) * p0 & mask
    return f"{h ^ h >> 29:016x}"


def approve(folder, shard=0):
    """Makes corpus.json agree with whatever the shard is now."""
    path = f"{folder}/corpus.json"
    info = json.load(open(path))
    entry = info["shards"][shard]
    data = open(f"{folder}/{entry['file']}", "rb").read()
    size = entry["records"] * len(info["leads"]) * info["samples_padded"] * 2
    try:
        with h5py.File(f"{folder}/{entry['file']}", "r") as f:
            entry["signal_offset"] = f["signal"].id.get_offset() or 0
    except (OSError, KeyError, TypeError, AttributeError):
        pass
    start = entry["signal_offset"]
    entry["bytes"] = len(data)
    entry["checksum"] = checksum(data)
    entry["columns_checksum"] = checksum(data[:start] + data[start + size:])
    json.dump(info, open(path, "w"))


def copy(source, name):
    shutil.rmtree(name, ignore_errors=True)
    shutil.copytree(source, name)
    return name


def test_layout(folder, leads, samples, padded, records, per_shard):
    info = json.load(open(f"{folder}/corpus.json"))
    check(info["purkinje_corpus"] == 1 and info["shard_version"] == 1, "versions")
    check(info["samples"] == samples and info["samples_padded"] == padded, "padding")
    check([s["records"] for s in info["shards"]] ==
          [min(per_shard, records - i) for i in range(0, records, per_shard)], "records of shards")
    total, squares, count = 0, 0, 0
    for entry in info["shards"]:
        path = f"{folder}/{entry['file']}"
        check(os.path.getsize(path) == entry["bytes"], "bytes")
        check(checksum(open(path, "rb").read()) == entry["checksum"], "checksum, written twice")
        with h5py.File(path, "r") as f:
            n = entry["records"]
            s = f["signal"]
            check(s.shape == (n, leads, padded) and s.dtype == np.dtype("<i2"), "shape and type")
            check(s.chunks is None and s.compression is None and not s.external, "contiguous")
            check(s.id.get_create_plist().get_alloc_time() == h5py.h5d.ALLOC_TIME_EARLY, "early")
            offset = s.id.get_offset()
            check(offset % 4096 == 0 and leads * padded * 2 % 4096 == 0, "alignment")
            check(offset == entry["signal_offset"], "offset")
            check([x.decode() for x in s.attrs["lead_names"]] == info["leads"], "lead names")
            check(s.attrs["rate"] == info["rate"] and s.attrs["samples"] == samples, "rate")
            check(abs(s.attrs["lsb"] - 0.001) < 1e-9 and s.attrs["units"].decode() == info["units"], "lsb")
            check(f.attrs["purkinje_shard"] == 1, "shard version")
            raw = np.fromfile(path, "<i2", n * leads * padded, offset=offset).reshape(s.shape)
            check(np.array_equal(raw, s[:]), "bytes at the offset are the signal")
            check(not s[:, :, samples:].any(), "padding is zero")
            columns = {k: f[k] for k in ("record_id", "patient_id", "dataset", "length", "scale",
                                         "lead_mask", "quality", "fold", "statements")}
            check(all(c.shape[0] == n for c in columns.values()), "columns")
            check(columns["scale"].shape == (n, leads), "scale per lead")
            check((columns["length"][:] == samples).all(), "length")
            for task in info["tasks"]:
                labels = f["labels"][task["name"]]
                names = [x.decode() for x in labels.attrs["class_names"]]
                check(names == task["classes"] == sorted(names), "class names")
                check(labels.dtype == np.uint8 and labels.shape == (n, len(names)), "labels")
                for i in range(0, n, 7):  # statements say the same as the columns
                    said = set(columns["statements"][i].decode().split(","))
                    check({c for c, y in zip(names, labels[i]) if y} == said & set(names), "labels")
            for target in info["targets"]:
                check(f["targets"][target].dtype == np.float32, "targets")
            x = s[:, :, :samples].astype(np.float64) * columns["scale"][:][:, :, None]
            total, count = total + x.sum((0, 2)), count + n * samples
            squares = squares + (x**2).sum((0, 2))
    mean = total / count
    check(np.allclose(info["sources"][0]["mean"], mean, atol=1e-9), "mean of the source")
    check(np.allclose(info["sources"][0]["std"], np.sqrt(squares / count - mean**2), atol=1e-9), "std")
    shown = json.loads(run("data", "stats", folder, "--json").stdout)
    check(np.allclose(list(shown["mean"].values()), mean, atol=1e-9), "data stats")
    shown = json.loads(run("data", "info", folder, "--json").stdout)
    check(shown["records"] == records and sum(shown["folds"].values()) == records, "data info")


def test_flips(folder):
    """One flipped bit anywhere is found, in the shard that has it; in columns also by opening."""
    rng = random.Random(1)
    info = json.load(open(f"{folder}/corpus.json"))
    size = len(info["leads"]) * info["samples_padded"] * 2
    for trial in range(60):
        entry = rng.choice(info["shards"])
        path = f"{folder}/{entry['file']}"
        columns = list(range(entry["signal_offset"])) if trial % 3 == 0 else range(entry["bytes"])
        at = rng.choice(columns) if trial > 2 else [0, entry["bytes"] - 1, entry["signal_offset"]][trial]
        with open(path, "r+b") as f:
            f.seek(at)
            old = f.read(1)
            f.seek(at)
            f.write(bytes([old[0] ^ 1 << rng.randrange(8)]))
        r = run("data", "verify", folder, "--quiet", code=65)
        check(f"{entry['file']} is damaged" in r.stderr, f"flip at {at} of {path}: {r.stderr}")
        check("1 damaged shard" in r.stderr, "the others are intact")
        inside = entry["signal_offset"] <= at < entry["signal_offset"] + entry["records"] * size
        r = run("data", "info", folder, code=0 if inside else 65)
        check(inside or f"{entry['file']} is damaged" in r.stderr, "opening finds damaged columns")
        with open(path, "r+b") as f:
            f.seek(at)
            f.write(old)
    run("data", "verify", folder)


def refused(folder, text, code=65, command="info"):
    r = run("data", command, folder, code=code)
    check(re.search(text, r.stderr), f"{folder}: '{text}' expected, got: {r.stderr}")


def test_broken(good):
    path = "broken/shard-00000.h5"

    copy(good, "broken")
    os.truncate(path, os.path.getsize(path) - 1)
    refused("broken", "shard-00000.h5 has .* truncated")
    refused("broken", "1 damaged shard.*\n.*truncated", command="verify")
    approve("broken")
    refused("broken", "shard-00000.h5")

    copy(good, "broken")
    os.remove(path)
    refused("broken", "shard-00000.h5 is missing")
    refused("broken", "shard-00000.h5 is missing", command="verify")

    def change(text, edit):
        copy(good, "broken")
        with h5py.File(path, "r+") as f:
            edit(f)
        approve("broken")
        refused("broken", text)

    def replace(name, **how):
        def edit(f):
            data = f[name][:]
            del f[name]
            f.create_dataset(name, data=data, **how)
        return edit

    def link(name, kind):
        def edit(f):
            f.move(name, "elsewhere")
            f[name] = kind
        return edit

    def version(f):
        f.attrs["purkinje_shard"] = np.int32(99)

    def no_version(f):
        del f.attrs["purkinje_shard"]

    def virtual(f):
        layout = h5py.VirtualLayout(f["signal"].shape, "<i2")
        layout[:] = h5py.VirtualSource(f["signal"])
        f.move("signal", "elsewhere")
        f.create_virtual_dataset("signal", layout)

    change("shard version 99, this program reads version 1", version)
    change("purkinje_shard.*is missing", no_version)
    change("'signal' is not contiguous", replace("signal", chunks=(1, 12, 1024)))
    change("'signal' is not contiguous", replace("signal", compression="gzip"))
    change("'signal' has another type", replace("signal", dtype=">i2"))
    change("'signal' has another type", replace("signal", dtype="<i4"))
    change("'fold' has another type", replace("fold", dtype="<i8"))
    change("'fold' is not contiguous", replace("fold", maxshape=(None,)))
    change("'signal' is not contiguous", virtual)
    change("'signal' is a soft or external link", link("signal", h5py.SoftLink("/elsewhere")))
    change("'signal' is a soft or external link",
           link("signal", h5py.ExternalLink("/etc/passwd", "/signal")))
    change("'labels' is a soft or external link", link("labels", h5py.SoftLink("/elsewhere")))
    change("'labels/rhythm' is a soft", link("labels/rhythm", h5py.SoftLink("/elsewhere")))
    change("'labels/rhythm' is missing", lambda f: f.__delitem__("labels/rhythm"))
    change("'signal' is missing", lambda f: f.__delitem__("signal"))

    def outside(f):
        n = f["fold"].shape[0]
        del f["fold"]
        f.create_dataset("fold", (n,), "<i2", external=[("/etc/passwd", 0, 2 * n)])

    change("'fold' has external storage", outside)

    def wrong_source(f):
        f["dataset"][3] = 1000000

    change("record synth-0000003 has source 1000000", wrong_source)

    copy(good, "broken")  # HDF5 of somebody else
    with h5py.File(path, "w") as f:
        f["tracings"] = np.zeros((30, 12, 4096), "f4")
    refused("broken", "shard-00000.h5 has .* corpus.json says")
    approve("broken")
    refused("broken", "purkinje_shard.*is missing")

    copy(good, "broken")  # not HDF5 at all, but of the right size
    size = os.path.getsize(path)
    open(path, "wb").write(b"\x42" * size)
    refused("broken", "is damaged")
    approve("broken")
    refused("broken", "as HDF5")


def test_json(good):
    def change(text, edit, code=65):
        copy(good, "broken")
        info = json.load(open("broken/corpus.json"))
        edit(info)
        json.dump(info, open("broken/corpus.json", "w"))
        refused("broken", text, code)

    change("corpus schema 2, this program reads schema 1", lambda j: j.update(purkinje_corpus=2))
    change("'purkinje_corpus' is missing", lambda j: j.pop("purkinje_corpus"))
    change("'rate' is no rate", lambda j: j.update(rate=0))
    change("'leads' has 17 members", lambda j: j.update(leads=["x"] * 17))
    change("'samples' is -1", lambda j: j.update(samples=-1))
    change("'samples_padded' does not keep", lambda j: j.update(samples_padded=1001))
    change("'records'", lambda j: j.update(records=10**18))
    change("'sources' do not add up", lambda j: j["sources"][0].update(records=30))
    change("'shards' do not add up", lambda j: j["shards"].pop())
    change("'file' is not the name", lambda j: j["shards"][0].update(file="../x.h5"))
    change("'bytes' is too small", lambda j: j["shards"][0].update(bytes=10000))
    change("'checksum' is not", lambda j: j["shards"][0].update(checksum="zz"))
    change("'shards' has 0 members", lambda j: j.update(shards=[]))
    change("'std' holds something", lambda j: j["sources"][0].update(std=["x"] * 12))
    change("'tasks' has a name", lambda j: j["tasks"][0].update(name="a/b"))
    change("another shape", lambda j: j["tasks"][0]["classes"].append("zebra"))
    rng = random.Random(2)
    text = open(f"{good}/corpus.json", "rb").read()
    for _ in range(60):  # whatever is in it: accepted or refused, never a crash
        at, copied = rng.randrange(len(text)), bytearray(text)
        if rng.random() < 0.5:
            copied[at] = rng.choice(b'0123456789-.,:"{}[]ex')
        else:
            del copied[at:at + rng.randrange(1, 40)]
        copy(good, "broken")
        open("broken/corpus.json", "wb").write(copied)
        r = subprocess.run([PROGRAM, "data", "info", "broken"], capture_output=True, text=True)
        check(r.returncode in (0, 65), f"changed corpus.json: {r.returncode} {r.stderr}")
    copy(good, "broken")
    open("broken/corpus.json", "w").write("{")
    refused("broken", "corpus.json:1:2: bad JSON")
    os.remove("broken/corpus.json")
    refused("broken", "not finished", 69)


def test_examples():
    """Those of --help, as they are written there, in this folder."""
    for command in (("data", "synth"), ("data", "info"), ("data", "verify"), ("data", "stats"),
                    ("bench", "loader")):
        text = run(*command, "--help").stdout.split("examples:\n")[1]
        lines = [l.strip()[len("purkinje "):] for l in text.splitlines() if l.startswith("  purkinje")]
        check(len(lines) >= 2, f"{command} has two examples")
        for line in lines:
            r = run(*line.split())
            if "--json" in line:
                json.loads(r.stdout)
    ratio = json.loads(run("bench", "loader", "demo", "--records", "2000", "--json").stdout)
    check(ratio["ratio"] > 0.2, "the loader is far from bare pread")  # wide: other tests run too


def main():
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        os.chdir(scratch)
        words = ("--records", "31", "--rate", "100", "--shard-records", "12", "--seed", "5")
        run("data", "synth", "one", *words)
        run("data", "synth", "two", *words)
        same = filecmp.dircmp("one", "two")
        check(not same.left_only and not same.right_only, "two runs write the same files")
        check(not filecmp.cmpfiles("one", "two", same.common_files, shallow=False)[1],
              "two runs write the same bytes")
        check(sorted(os.listdir("one")) == ["corpus.json"] + [f"shard-0000{i}.h5" for i in range(3)],
              "nothing is left behind")
        refused_again = run("data", "synth", "one", code=73)
        check("holds a corpus already" in refused_again.stderr, "no overwriting")
        test_layout("one", 12, 1000, 1024, 31, 12)
        run("data", "synth", "long", "--records", "5", "--shard-records", "5")
        test_layout("long", 12, 5000, 5120, 5, 5)
        run("data", "synth", "pulse1", "--ppg", "--records", "9", "--rate", "125")
        test_layout("pulse1", 1, 1250, 2048, 9, 488281)
        test_flips("one")
        test_broken("one")
        test_json("one")
        test_examples()
        run("data", "info", code=2)
        run("data", "stats", "one", "--folds", "9-1", code=2)
        run("data", "stats", "one", "--task", "nothing", code=2)
        os.chdir("..")
    print(f"{failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
