"""The WFDB reader against the wfdb package on real records, and against generated files.

Real records: every header under shared/data/ecg is read by both and compared bit for bit. The few
that the wfdb package cannot read, or that we refuse, are listed here with the reason. Generated
files: writers of every format, odd sizes, frames, skew, offsets, segments; and damaged files, each
with the message that it must give."""

import glob
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

try:
    import wfdb
except ImportError:
    wfdb = None

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests"))
import shared_data  # noqa: E402

PURKINJE = os.environ["PURKINJE"]
INVALID = -(2**31)
CODES = {8: None, 16: -(2**15), 24: -(2**23), 32: -(2**31), 61: -(2**15), 80: -128, 160: -(2**15),
         212: -2048, 310: -512, 311: -512}
BITS = {8: 8, 16: 16, 24: 24, 32: 32, 61: 16, 80: 8, 160: 16, 212: 12, 310: 10, 311: 10}
passed = failed = 0


def check(good, what):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("failed:", what, file=sys.stderr)


def dump(record, *options):
    """(exit code, stderr, description, samples)"""
    with tempfile.TemporaryDirectory() as tmp:
        npy = os.path.join(tmp, "x.npy")
        p = subprocess.run([PURKINJE, "data", "dump", record, "--json", "--npy", npy, *options],
                           capture_output=True, text=True, timeout=120)
        if p.returncode:
            return p.returncode, p.stderr, None, None
        return 0, p.stderr, json.loads(p.stdout), np.load(npy)


def by_signal(about, samples):
    at, out, flat = 0, [], samples.ravel()
    for s in about["signals"]:
        out.append(flat[at:at + s["samples"]])
        at += s["samples"]
    return out


def same(a, b):
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


# ---- real records ----

# the wfdb package fails on these; what we do
UNREADABLE = {
    "wfdb-lib/multi": "null.hea: No such file",  # a segment of the library's database, not here
    "wfdb/multi-segment/p000878/3269321_layout": None,  # layouts: no samples; we show the signals
    "wfdb/multi-segment/s00001/3248903_layout": None,
    "wfdb/multi-segment/s00001/3975656_layout": None,
    "wfdb/multi-segment/p000878/p000878-2137-10-26-16-57": "more than the 64 Mi samples",
    "wfdb/multi-segment/s00001/3975656_0009": "3975656_0009.dat: No such file",  # above the size
    "wfdb/multi-segment/s00001/3975656_0010": "3975656_0010.dat: No such file",  # limit of the
    "wfdb/multi-segment/s00001/3975656_0011": "3975656_0011.dat: No such file",  # snapshot
    "wfdb/multi-segment/s00001/s00001-2896-10-10-00-31": "3975656_0009.dat: No such file",
}
# we refuse these; the wfdb package reads them
REFUSED = {
    "wfdb/flacformats": "flacformats.d0 has format 508, which is not supported",
    "wfdb/flac_3_constant": "flac_3_constant.dat has format 508, which is not supported",
}


def package_samples(record):
    """Physical and digital samples as the package reads them, a list of signals each."""
    header = wfdb.rdheader(record)
    if not hasattr(header, "seg_name"):
        if header.n_sig == 0:
            return [], []
        p = wfdb.rdrecord(record, smooth_frames=False)
        if "61" in header.fmt:  # the package's digital reading fails on big-endian samples
            return p.e_p_signal, [np.rint(x * g + b) for x, g, b in
                                  zip(p.e_p_signal, p.adc_gain, p.baseline)]
        d = wfdb.rdrecord(record, smooth_frames=False, physical=False)
        return p.e_p_signal, d.e_d_signal
    if header.layout == "fixed":  # the package only merges these after averaging frames
        parts = [package_samples(os.path.join(os.path.dirname(record), s)) for s in header.seg_name]
        return tuple([np.concatenate(x) for x in zip(*(p[k] for p in parts))] for k in (0, 1))
    return list(wfdb.rdrecord(record).p_signal.T), None


def real_records(folder):
    compared = 0
    for header in sorted(glob.glob(folder + "/**/*.hea", recursive=True)):
        record = header[:-4]
        name = os.path.relpath(record, folder)
        code, message, about, samples = dump(record)
        if name in UNREADABLE or name in REFUSED:
            wanted = UNREADABLE.get(name, REFUSED.get(name))
            check(code == 0 if wanted is None else code in (65, 74) and wanted in message,
                  f"{name}: {code} {message}")
            continue
        check(code == 0, f"{name}: {message}")
        if code:
            continue
        physical, digital = package_samples(record)
        ours = by_signal(about, samples)
        check(len(ours) == len(physical), f"{name}: number of signals")
        for k, (a, b) in enumerate(zip(ours, physical)):
            check(same(a, b), f"{name}: signal {k}, physical")
        if digital is None:
            continue
        whole = by_signal(about, dump(record, "--digital")[3])
        for k, (a, b) in enumerate(zip(whole, digital)):
            b = b.astype(np.int64)
            invalid = CODES[about["signals"][k]["format"]]
            check(same(a.astype(np.int64), np.where(b == invalid, INVALID, b)),
                  f"{name}: signal {k}, digital")
        compared += 1
    check(compared > 60, f"only {compared} real records compared")
    print(f"{compared} real records equal to the wfdb package, digital and physical")


# ---- generated records ----

def encode(fmt, x, initial=0):
    """Flat samples -> bytes of a signal file."""
    x = np.asarray(x, np.int64)
    if fmt == 8:
        return np.diff(x, prepend=initial).astype(np.int8).tobytes()
    if fmt in (16, 61, 32):
        return x.astype({16: "<i2", 61: ">i2", 32: "<i4"}[fmt]).tobytes()
    if fmt == 24:
        return b"".join(int(v & 0xFFFFFF).to_bytes(3, "little") for v in x)
    if fmt == 80:
        return (x + 128).astype(np.uint8).tobytes()
    if fmt == 160:
        return (x + 32768).astype("<u2").tobytes()
    out = bytearray()
    if fmt == 212:
        for i in range(0, len(x), 2):
            a, b = int(x[i]) & 0xFFF, int(x[i + 1]) & 0xFFF if i + 1 < len(x) else None
            out += bytes([a & 255, a >> 8 | (b >> 8 << 4 if b is not None else 0)])
            if b is not None:
                out.append(b & 255)
        return bytes(out)
    for i in range(0, len(x), 3):
        v = [int(s) & 0x3FF for s in x[i:i + 3]]
        n = len(v)
        v += [0] * (3 - n)
        if fmt == 310:
            word = [v[0] << 1 | (v[2] & 31) << 11, v[1] << 1 | (v[2] >> 5) << 11]
            out += b"".join(w.to_bytes(2, "little") for w in word)[:{1: 2, 2: 4, 3: 4}[n]]
        else:
            out += (v[0] | v[1] << 10 | v[2] << 20).to_bytes(4, "little")[:{1: 2, 2: 3, 3: 4}[n]]
    return bytes(out)


def make_signal(rng, fmt, n, holes):
    if fmt == 8:
        return np.cumsum(rng.integers(-128, 128, n))
    top = 2**(BITS[fmt] - 1)
    x = rng.integers(-top + 1, top, n)
    x[rng.random(n) < holes] = -top
    return x


class Record:
    """A record on disk in tmp: one file, signals with samples per frame, skew, offset."""

    def __init__(self, tmp, name, fmt, frames, per_frame=(1,), skew=(0,), offset=0, seed=0,
                 length=True, holes=0.05, signed=False):
        rng = np.random.default_rng(seed)
        self.tmp, self.name, self.path = tmp, name, os.path.join(tmp, name)
        self.raw = [make_signal(rng, fmt, frames * s, holes) for s in per_frame]
        initial = [int(rng.integers(-100, 100)) for _ in per_frame]
        gain, base = [200, 50.5, 1000][:len(per_frame)], [0, -7, 12][:len(per_frame)]
        if fmt == 8:
            self.raw = [x + i for x, i in zip(self.raw, initial)]
            stored = [np.diff(x, prepend=i) for x, i in zip(self.raw, initial)]
        else:
            stored = self.raw
        flat = np.concatenate([s.reshape(frames, -1) for s in stored], 1).ravel()
        self.bytes = rng.bytes(offset) + (flat.astype(np.int8).tobytes() if fmt == 8 else
                                          encode(fmt, flat))
        self.lines = [f"{name} {len(per_frame)} 250" + (f" {frames}" if length else "")]
        for k, s in enumerate(per_frame):
            total = int(self.raw[k].sum()) & 0xFFFF
            if signed and total > 32767:
                total -= 65536
            spec = f"{fmt}" + (f"x{s}" if s > 1 else "") + (f":{skew[k]}" if skew[k] else "")
            spec += f"+{offset}" if offset else ""
            self.lines.append(f"{name}.dat {spec} {gain[k]}({base[k]})/mV 12 0 {initial[k]} {total} "
                              f"0 lead {k}")
        self.write()
        self.digital, self.physical = [], []
        for k, x in enumerate(self.raw):
            x = np.where(x == CODES[fmt], INVALID, x) if fmt != 8 else x
            late = min(skew[k] * per_frame[k], len(x))
            x = np.concatenate([x[late:], np.full(late, INVALID)]).astype(np.int64)
            self.digital.append(x)
            p = (x.astype(float) - base[k]) / gain[k]
            p[x == INVALID] = np.nan
            self.physical.append(p)

    def write(self):
        with open(self.path + ".hea", "w") as f:
            f.write("\n".join(self.lines) + "\n")
        with open(self.path + ".dat", "wb") as f:
            f.write(self.bytes)


def equals(record, what):
    code, message, about, samples = dump(record.path)
    check(code == 0, f"{what}: {message}")
    if code:
        return
    for k, (a, b) in enumerate(zip(by_signal(about, samples), record.physical)):
        check(same(a, b), f"{what}: signal {k}, physical")
    for k, (a, b) in enumerate(zip(by_signal(about, dump(record.path, "--digital")[3]),
                                   record.digital)):
        check(same(a.astype(np.int64), b), f"{what}: signal {k}, digital")


def generated_records(tmp):
    for fmt in CODES:
        for n in (1, 2, 3, 4, 5, 6, 7, 100, 101):  # every rest of the groups of 2 and 3
            equals(Record(tmp, f"a{fmt}_{n}", fmt, n, seed=n), f"format {fmt}, {n} samples")
        equals(Record(tmp, f"b{fmt}", fmt, 33, (1, 3, 2), (0, 0, 0), seed=fmt, signed=True),
               f"format {fmt}, 1+3+2 samples a frame, signed checksum")
        equals(Record(tmp, f"c{fmt}", fmt, 31, (2, 1), (3, 40), seed=fmt),
               f"format {fmt}, skew below and above the length")
        equals(Record(tmp, f"d{fmt}", fmt, 29, (1, 1), (0, 0), offset=24, seed=fmt, length=False),
               f"format {fmt}, byte offset, no length")
    r = Record(tmp, "defaults", 16, 10, seed=3, holes=0)
    r.lines = ["defaults 1", "# a comment", "", "defaults.dat 16"]
    r.write()
    about, samples = dump(r.path)[2:]
    check(about["rate"] == 250 and about["signals"][0]["gain"] == 200 and
          about["signals"][0]["units"] == "mV" and about["comments"] == ["a comment"], "defaults")
    check(same(samples[0], r.raw[0] / 200), "defaults: samples")
    r.lines = ["defaults 1 360/120(5.5) 10 12:30:00 05-Feb-2020\r", "defaults.dat 16 0(3)/uV 10 5\r"]
    r.write()
    about, samples = dump(r.path + ".hea")[2:]
    check(about["counter_rate"] == 120 and about["base_counter"] == 5.5 and
          about["base_date"] == "05-Feb-2020" and about["base_time"] == "12:30:00", "record line")
    check(same(samples[0], (r.raw[0] - 3) / 200), "gain 0 is 200, CR LF")
    r.lines = ["defaults 1 360 10", "defaults.dat 16 100 10 5"]
    r.write()
    check(same(dump(r.path)[3][0], (r.raw[0] - 5) / 100), "the baseline defaults to the ADC's zero")


def segments(tmp):
    a = Record(tmp, "seg_a", 16, 20, (1, 2), (0, 0), seed=1)
    b = Record(tmp, "seg_b", 212, 13, (1, 2), (0, 0), seed=2)
    write(tmp, "fixed.hea", "fixed/4 2 250 53\nseg_a 20\n~ 7\nseg_b 13\nseg_b 13\n")
    about, samples = dump(os.path.join(tmp, "fixed"))[2:]
    gap = [np.full(7, np.nan), np.full(14, np.nan)]
    for k, x in enumerate(by_signal(about, samples)):
        check(same(x, np.concatenate([a.physical[k], gap[k], b.physical[k], b.physical[k]])),
              f"fixed layout, signal {k}")
    c = Record(tmp, "seg_c", 16, 9, (1,), seed=4)
    c.lines[1] = c.lines[1].replace("200(0)", "400(9)").replace("lead 0", "beta")
    c.write()
    d = Record(tmp, "seg_d", 16, 5, (1, 1), (0, 0), seed=5)
    d.lines[1] = d.lines[1].replace("lead 0", "alpha")
    d.lines[2] = d.lines[2].replace("lead 1", "beta")
    d.write()
    write(tmp, "layout.hea", "layout 2 250 0\n~ 0 100/mV 12 0 0 0 0 alpha\n~ 0 100/mV 12 0 0 0 0 beta\n")
    write(tmp, "variable.hea", "variable/4 2 250 16\nlayout 0\nseg_c 9\n~ 2\nseg_d 5\n")
    about, samples = dump(os.path.join(tmp, "variable"))[2:]
    nan = lambda n: np.full(n, np.nan)
    scaled = np.where(c.digital[0] == INVALID, np.nan, (c.digital[0] - 9) / 400)
    check(same(samples[0], np.concatenate([nan(11), d.physical[0]])), "variable layout, alpha")
    check(same(samples[1], np.concatenate([scaled, nan(2), d.physical[1]])),
          "variable layout, beta with two calibrations")
    if wfdb:
        theirs = wfdb.rdrecord(os.path.join(tmp, "variable")).p_signal.T
        check(same(samples, theirs), "variable layout equals the package")
    for text, message in (
            ("variable/4 2 250 17\nlayout 0\nseg_c 9\n~ 2\nseg_d 5\n", "promises 17 samples"),
            ("variable/2 2 250 8\nlayout 0\nseg_c 8\n", "has 9 samples, "),
            ("variable/3 2 250 9\nlayout 0\nseg_c 9\nseg_d 0\n", "has length 0"),
            ("variable/2 2 250 9\nlayout 0\nnone 9\n", "none.hea: No such file"),
            ("variable/3 2 250 9\nlayout 0\nseg_c 9\n", "promises 3 segments, 2 follow"),
            ("variable/2 2 250 53\nlayout 0\nfixed 53\n", "cannot have segments itself"),
            ("variable/2 2 250 20\nlayout 0\nseg_a 20\n", "is not in the layout"),
            ("variable/2 2 250 20\n~ 10\n~ 10\n", "all segments are gaps"),
            ("variable/2 2 250 70000000\nlayout 0\n~ 70000000\n", "more than the 64 Mi samples"),
            ("variable/1 2 250 9\nseg_c 9\n", "has 1 signals, the record has 2")):
        write(tmp, "variable.hea", text)
        fails(os.path.join(tmp, "variable"), (65, 74), message)


# ---- damaged records ----

def write(tmp, name, text):
    with open(os.path.join(tmp, name), "wb") as f:
        f.write(text.encode() if isinstance(text, str) else text)


def fails(record, codes, message):
    code, text, _, _ = dump(record)
    check(code in codes and message in text, f"wanted '{message}', got {code}: {text.strip()}")


def damaged(tmp):
    good = Record(tmp, "bad", 16, 100, (1, 1), (0, 0), offset=4, seed=9)
    path, lines, data = good.path, list(good.lines), good.bytes
    good.bytes = data[:-1]
    good.write()
    fails(path, (65,), "bad.dat ends early: 100 samples x 2 in format 16 need 404 bytes, the file has 403")
    os.remove(path + ".dat")
    fails(path, (74,), "cannot open " + path + ".dat: No such file")
    os.mkfifo(path + ".dat")
    fails(path, (74,), "bad.dat is not an ordinary file")
    os.remove(path + ".dat")
    good.bytes = data[:50] + bytes([data[50] ^ 1]) + data[51:]
    good.write()
    fails(path, (65,), "bad.hea:3: checksum of signal 1 'lead 1' in bad.dat is ")
    check(dump(path, "--ignore-checksum")[0] == 0, "--ignore-checksum")
    good.bytes = data
    for line, old, new, message in (
            (1, " 16+4 ", " 17+4 ", "format 17, which is not supported (8 16 24"),
            (1, " 16+4 ", " 516+4 ", "format 516, which is not supported (FLAC)"),
            (1, " 16+4 ", " 16+5 ", "bad.hea:3: signal file bad.dat has format 16 offset 4 here, and "
                                    "format 16 offset 5 in line 2"),
            (1, " 16+4 ", " 16y4 ", "bad.hea:2:9: signal format '16y4'"),
            (1, " 16+4 ", " 16x0+4 ", "samples per frame from 1"),
            (1, " 200(0)/mV ", " 200(0/mV ", "bad.hea:2:14: gain '200(0/mV'"),
            (1, " 200(0)/mV ", " nan ", "gain 'nan'"),
            (1, " 12 0 ", " twelve 0 ", "ADC resolution 'twelve'"),
            (1, "bad.dat", "/etc/passwd", "'/etc/passwd' is outside of the record's folder"),
            (1, "bad.dat", "../bad.dat", "'../bad.dat' is outside of the record's folder"),
            (1, "bad.dat", "-", "standard input"),
            (1, "bad.dat 16+4", "bad.dat", "signal format '200(0)/mV'"),
            (0, "bad 2", "bad 3", "the record line promises 3 signals, 2 follow"),
            (0, "bad 2", "bad 1", "bad.hea:3:1: a line more than the 1 signals"),
            (0, "bad 2", "bad -2", "number of signals '-2'"),
            (0, "bad 2", "bad 100000", "number of signals '100000'"),
            (0, "bad 2 250 100", "bad", "ends before the number of signals"),
            (0, " 250 ", " 0 ", "sampling rate '0'"),
            (0, " 250 ", " 0x10 ", "sampling rate '0x10'"),
            (0, " 100", " 99999999999999999999", "number of samples '99999999999999999999'"),
            (0, " 100", " 9999999999999999", "more than the 64 Mi samples"),
            (0, "bad 2", "bad/0 2", "number of segments '0'")):
        good.lines = list(lines)
        check(old in good.lines[line], f"test: {old} in {good.lines[line]}")
        good.lines[line] = good.lines[line].replace(old, new, 1)
        good.write()
        fails(path, (65,), message)
    write(tmp, "bad.hea", "")
    fails(path, (65,), "the header has no record line")
    write(tmp, "bad.hea", b"bad 1 \0\n")
    fails(path, (65,), "byte 6 is 0; this is not a text header")
    write(tmp, "bad.hea", b"#" * (16 * 2**20 + 1))
    fails(path, (65,), "a header has at most 16777216")
    with open(os.path.join(tmp, "huge.dat"), "wb") as f:
        f.truncate(70 * 2**20)
    write(tmp, "huge.hea", f"huge 1 250 {35 * 2**20}\nhuge.dat 16\n")
    fails(os.path.join(tmp, "huge"), (65,), "more than the 64 MiB")
    write(tmp, "two.hea", "two 2 250\nbad.dat 16\nhuge.dat 16\n")
    fails(os.path.join(tmp, "two"), (65,), "its files disagree: bad.dat holds 202, huge.dat holds")
    fails(os.path.join(tmp, "absent"), (74,), "absent.hea: No such file")
    p = subprocess.run([PURKINJE, "data", "dump"], capture_output=True, text=True)
    check(p.returncode == 2 and "takes one record" in p.stderr, "usage")


def garbage(tmp):
    """Random edits of headers and signal files: an answer or an error, never a crash."""
    rng = np.random.default_rng(11)
    r = Record(tmp, "fuzz", 212, 40, (1, 2), (0, 1), seed=1)
    header = ("\n".join(r.lines) + "\n").encode()
    pool = b"0123456789/()+:x~#.- \n\t\r\xffABC"
    for _ in range(400):
        text = bytearray(header)
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(0, len(text)))
            kind = rng.integers(3)
            if kind == 0:
                text[at] = pool[rng.integers(len(pool))]
            elif kind == 1:
                del text[at:at + int(rng.integers(1, 9))]
            else:
                text[at:at] = bytes(pool[i] for i in rng.integers(0, len(pool), 3))
            if not text:
                text = bytearray(b" ")
        write(tmp, "fuzz.hea", bytes(text))
        p = subprocess.run([PURKINJE, "data", "dump", r.path, "--ignore-checksum"],
                           capture_output=True, timeout=60)
        check(p.returncode in (0, 65, 70, 74), f"exit {p.returncode} for {bytes(text)!r}: {p.stderr}")


def main():
    with tempfile.TemporaryDirectory() as tmp:
        generated_records(tmp)
        segments(tmp)
        damaged(tmp)
        garbage(tmp)
    folder = shared_data.folder("ecg")
    if wfdb and folder:
        real_records(folder)
    elif not wfdb:
        print("real records not compared: no wfdb package")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


main()
