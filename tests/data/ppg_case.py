"""What the tests of PPG imports share: the import itself again with pandas and SciPy's cheby2, sosfiltfilt and
resample_poly, comparison with the stored integers (at most half an LSB apart), generated recordings."""

import glob
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np

try:
    import h5py
    import pandas as pd
    from scipy import signal as sg
except ImportError as missing:
    print(f"skipped: {missing.name} is not installed")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests"))
import shared_data  # noqa: E402

PURKINJE = os.environ["PURKINJE"]
REAL = shared_data.folder("ppg")
INVALID = -32768
ECG = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()
passed = failed = 0


def check(good, what):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("failed:", what, file=sys.stderr)


def run(*args):
    p = subprocess.run([PURKINJE, *args], capture_output=True, text=True, timeout=300)
    check(p.returncode >= 0, f"{args}: signal {-p.returncode}")
    check("Sanitizer" not in p.stderr and "runtime error" not in p.stderr,
          f"{args}: {p.stderr[:2000]}")
    return p.returncode, p.stdout, p.stderr


def fails(code, message, *args):
    got, _, text = run("data", "import", *args, "-q")
    check(got == code and message in text, f"wanted {code} '{message}', got {got}: {text.strip()}")
    if code != 73:
        check(not os.path.exists(os.path.join(args[2], "corpus.json")), f"{args} leaves no corpus")
        shutil.rmtree(args[2], ignore_errors=True)


class Corpus:
    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "corpus.json")) as f:
            self.about = json.load(f)
        with open(os.path.join(folder, "import_report.json")) as f:
            self.report = json.load(f)
        parts = [h5py.File(s, "r") for s in sorted(glob.glob(folder + "/*.h5"))]
        join = lambda name: np.concatenate([p[name][:] for p in parts])
        self.signal, self.patient, self.fold, self.mask, self.scale, self.quality, self.length = map(
            join, "signal patient_id fold lead_mask scale quality length".split())
        self.id = [s.decode() for s in join("record_id")]
        self.statements = [s.decode() for s in join("statements")]
        self.target = {t: join("targets/" + t) for t in parts[0].get("targets", {})}
        self.label = {t: join("labels/" + t) for t in parts[0].get("labels", {})}
        self.classes = {t: [c.decode() for c in parts[0]["labels"][t].attrs["class_names"]]
                        for t in self.label}
        self.leads = self.about["leads"]
        self.row = {k: i for i, k in enumerate(self.id)}
        leftovers = glob.glob(folder + "/*.part")
        check(not leftovers, f"nothing is left behind: {leftovers}")
        check(np.array_equal(self.fold, 1 + self.patient % np.uint64(10)), f"{folder}: folds by subject")

    def value(self, row, lead):
        l = self.leads.index(lead)
        return self.signal[row, l, :self.length[row]] * float(self.scale[row, l])

    def problems(self):
        return {r["recording"]: r["why"] for r in self.report["recordings"] if "why" in r}


def load(out, *args, workers="2"):
    code, text, err = run("data", "import", args[0], args[1], out, *args[2:], "--workers", workers, "-q")
    check(code == 0, f"import {args}: {code} {err}")
    return Corpus(out)


def intact(folder):
    code, text, err = run("data", "verify", folder, "-q")
    check(code == 0 and "is intact" in text, f"verify {folder}: {text}{err}")
    code, text, err = run("data", "info", folder, "--json")
    info = json.loads(text)
    check(code == 0 and info["modality"] in ("ppg", "ecg+ppg", "ecg"), f"info {folder}: {text}{err}")
    code, text, err = run("data", "stats", folder, "--json")
    check(code == 0 and json.loads(text), f"stats {folder}: {text}{err}")
    return info


# ---- the same again, with SciPy ----

def skewness(y, rate):
    n = min(int(10 * rate), len(y))
    out = []
    for i in range(0, len(y) - n + 1, n):
        d = np.diff(y[i:i + n])
        if not np.isnan(d).any():
            d = d - d.mean()
            out.append((d**3).mean() / (d**2).mean()**1.5)
    return np.median(out)


def process(x, rate, to, band=(.5, 12), stop=20, gap=.25, polarity="keep"):
    """(signal at the new rate with NaN, filled) as the import makes it."""
    x = pd.Series(np.array(x, float))  # a copy
    missing = x.isna()
    run_of = (missing != missing.shift()).cumsum()
    size = missing.groupby(run_of).transform("size")
    inner = (~missing).cumsum().gt(0) & (~missing)[::-1].cumsum()[::-1].gt(0)
    fill = missing & inner & (size <= math.floor(gap * rate + 1e-9))
    x[fill] = x.interpolate()[fill]
    x = x.to_numpy()
    g = math.gcd(round(to * 1000), round(rate * 1000))
    up, down = round(to * 1000) // g, round(rate * 1000) // g
    y = np.full(-(-len(x) * up // down), np.nan)
    good = np.flatnonzero(~np.isnan(x))
    for part in np.split(good, np.flatnonzero(np.diff(good) > 1) + 1):
        start = -(-part[0] // down) * down
        s = x[start:part[-1] + 1]
        if band and len(s) <= 27 or len(s) == 0:
            continue
        if band:
            s = sg.sosfiltfilt(sg.cheby2(4, stop, band, "bandpass", fs=rate, output="sos"), s)
        s = sg.resample_poly(s, up, down, padtype="mean") if up != down else s
        y[start // down * up:start // down * up + len(s)] = s
    if polarity == "flip" or polarity == "auto" and skewness(y, to) < -.1:
        y = -y
    return y, fill.to_numpy()


def flat_samples(x, rate):
    x = np.asarray(x, float)
    need = max(math.ceil(.2 * rate), 2)
    change = np.flatnonzero(~(x[1:] == x[:-1])) + 1
    flat = np.zeros(len(x), bool)
    for i, j in zip(np.r_[0, change], np.r_[change, len(x)]):
        if j - i >= need and not np.isnan(x[i]):
            flat[i:j] = True
    return flat


def windows(x, rate, to, window=10, stride=None, norm="z", flat=.25, **how):
    """number -> (samples, filled), of one lead."""
    y, filled = process(x, rate, to, **how)
    n, step, out = round(window * to), round((stride or window) * to), {}
    is_flat = flat_samples(x, rate)
    for k in range((len(y) - n) // step + 1):
        w = y[k * step:k * step + n]
        a, b = math.floor(k * step * rate / to + 1e-6), math.ceil((k * step + n) * rate / to - 1e-6)
        if np.isnan(w).any() or is_flat[a:b].mean() > flat or w.std() == 0:
            continue
        out[k] = (w - w.mean()) / w.std() if norm == "z" else w, filled[a:b].any()
    return out


def same_windows(c, prefix, lead, wanted, what, single=False):
    """Every window of a recording is in the corpus, and no other."""
    l = c.leads.index(lead)
    have = {0 if single else int(k[-5:]): i for k, i in c.row.items()
            if (k == prefix if single else k[:-6] == prefix) and c.mask[i] >> l & 1}
    check(sorted(have) == sorted(wanted), f"{what}: windows {len(have)} {len(wanted)}")
    worst = 0.0
    for k in have.keys() & wanted.keys():
        i, (w, filled) = have[k], wanted[k]
        check(len(w) == c.length[i], f"{what} {k}: length")
        worst = max(worst, np.abs(c.value(i, lead) - w).max() / c.scale[i, l])
        check(bool(c.quality[i] & 1) >= bool(filled), f"{what} {k}: interpolated samples are flagged")
    # the scale is a float32, whose error (4.8e-8 for 0.001) counts at most 0.0016 LSB at 32767
    check(worst <= 0.5 + 2e-3, f"{what}: {worst} LSB from SciPy")


# ---- generated recordings ----

def pulse(n, rate, hr=72, seed=0):
    """Beats that rise faster than they fall, on a drifting base."""
    rng = np.random.default_rng(seed)
    phase = np.cumsum(np.full(n, hr / 60 / rate) * (1 + .05 * np.sin(np.arange(n) / rate)))
    p = phase % 1
    x = np.where(p < .15, np.sin(p / .15 * np.pi / 2), np.exp(-(p - .15) * 4))
    return np.round(x + .2 * np.sin(np.arange(n) / rate / 3) + .01 * rng.standard_normal(n), 5)


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", newline="") as f:
        f.write(text)

def main(*tests):
    """Runs each in a temporary folder; the exit status of the program."""
    with tempfile.TemporaryDirectory(dir=".") as tmp:
        tmp = os.path.abspath(tmp)
        for test in tests:
            before = failed
            test(tmp)
            if failed > before:
                print(f"{test.__name__}: {failed - before} failed", file=sys.stderr)
    print(f"{passed} checks passed, {failed} failed")
    return 1 if failed or not passed else 0
