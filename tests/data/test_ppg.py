"""PPG imports (bidmc, ppg-bp, e4, wfdb, files) against NumPy, SciPy and pandas.

Every window of a corpus is computed again here: the same files read by pandas or NumPy, SciPy's
cheby2, sosfiltfilt and resample_poly, cut, standardised, and compared with the stored integers (at
most half an LSB apart). Real recordings (shared/data/ppg) and generated ones; damaged input, each
with the message that it must give."""

import glob
import hashlib
import json
import math
import os
import random
import re
import resource
import shutil
import signal
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

PURKINJE = os.environ["PURKINJE"]
SHARED = [os.environ.get("PK_SOURCE_DIR", ".") + "/../shared/data/ppg", "/work/shared/data/ppg"]
REAL = next((f for f in SHARED if os.path.isdir(f)), None)
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


def make_bidmc(folder, number, signals, rate=125, fix="", numerics=None, names=None):
    stem = f"{folder}/bidmc_{number:02d}"
    names = names or ["PLETH", "II"][:len(signals)]
    n = len(signals[0])
    rows = ["Time [s], " + ", ".join(names)]
    rows += [f"{i / rate:.5g}," + ",".join(str(s[i]) for s in signals) for i in range(n)]
    write(stem + "_Signals.csv", "\n".join(rows) + "\n")
    if numerics is not None:
        write(stem + "_Numerics.csv", "Time [s], HR, PULSE, RESP, SpO2\n" +
              "".join(f"{i},{','.join(map(str, r))}\n" for i, r in enumerate(numerics)))
    if fix is not None:
        write(stem + "_Fix.txt", f"bidmc_{number:02d}\nSignals sampling frequency: {rate} Hz\n{fix}")
    return stem


def bidmc(tmp):
    folder = f"{tmp}/bidmc"
    a, b = pulse(5000, 125), pulse(5000, 125, 55, 1)
    numbers = [(60 + i, "NaN" if i % 3 else 61, "", 97) for i in range(40)]
    make_bidmc(folder, 1, [a, b], fix="Age: 88\nGender: M\nMIMIC II matched wdb ID: s01182\n",
               numerics=numbers)
    make_bidmc(folder, 2, [b, a], fix="Age: 90+\nGender: F\nMIMIC II matched wdb ID: s01182\n")
    make_bidmc(folder, 3, [a], fix=None)
    make_bidmc(folder, 4, [a], names=["II"])
    c = load(f"{tmp}/b1", "bidmc", folder, workers="1")
    d = load(f"{tmp}/b3", "bidmc", folder, workers="3")
    sums = [{os.path.basename(p): hashlib.sha256(open(p, "rb").read()).hexdigest()
             for p in glob.glob(x.folder + "/*")} for x in (c, d)]
    check(sums[0] == sums[1] and len(sums[0]) == 3, "1 and 3 workers give the same bytes")
    intact(c.folder)
    for number, x in ((1, a), (2, b), (3, a)):
        same_windows(c, f"bidmc_{number:02d}", "PPG", windows(x, 125, 125), f"bidmc {number}")
    check("there is no column 'PLETH'; it has 'Time [s]', 'II'" in c.problems()["bidmc_04"],
          f"a recording without PPG: {c.problems()}")
    check(c.patient[0] == c.patient[c.row["bidmc_02_00000"]] != c.patient[c.row["bidmc_03_00000"]],
          "two recordings of one MIMIC patient are one subject")
    hr = [np.mean([60 + i for i in range(10 * k, 10 * k + 10)]) for k in range(4)]
    check(np.allclose(c.target["hr"][:4], hr) and np.all(c.target["pulse"][:4] == 61) and
          np.isnan(c.target["resp"]).all() and np.all(c.target["spo2"][:4] == 97) and
          np.isnan(c.target["hr"][4:]).all(), "targets are means over the window")
    check(c.target["age"][0] == 88 and np.isnan(c.target["age"][4]) and c.target["sex"][0] == 0 and
          c.target["sex"][4] == 1 and np.isnan(c.target["sex"][8]), "age and sex")
    # everything about the treatment, one setting at a time
    for name, settings, how in (
            ("rate", ["rate=64"], dict(to=64)), ("up", ["rate=250"], dict(to=250)),
            ("stride", ["stride=2.4", "window=6.4"], dict(stride=2.4, window=6.4)),
            ("band", ["band=0.8-8", "stop=40"], dict(band=(.8, 8), stop=40)),
            ("off", ["band=off"], dict(band=None)), ("flip", ["polarity=flip"], dict(polarity="flip")),
            ("raw", ["norm=none", "band=off"], dict(norm="none", band=None)),
            ("rawf", ["norm=none", "rate=50"], dict(norm="none", to=50))):
        e = load(f"{tmp}/b_{name}", "bidmc", folder, *settings)
        same_windows(e, "bidmc_01", "PPG", windows(a, 125, **{"to": 125, **how}), f"bidmc {name}")
    # both kinds of lead, where one of them may be absent
    e = load(f"{tmp}/b_mixed", "bidmc", folder, "leads=II,PPG")
    info = intact(e.folder)
    check(info["leads"] == ["II", "PPG"] and info["modality"] == "ecg+ppg" and
          e.about["units"] == "mV, PPG z", f"mixed: {info['leads']} {e.about['units']}")
    ecg = dict(norm="none", band=(.5, 40))
    for number, p, q in ((1, a, b), (2, b, a), (3, a, None), (4, None, a)):
        for lead, x, how in (("PPG", p, {}), ("II", q, ecg)):
            same_windows(e, f"bidmc_{number:02d}", lead, {} if x is None else windows(x, 125, 125, **how),
                         f"mixed {number} {lead}")
    masks = [e.mask[e.row[f"bidmc_{k:02d}_00000"]] for k in (1, 2, 3, 4)]
    check(masks == [3, 3, 2, 1], f"lead masks: {masks}")
    check(e.report["incomplete"] == sum(int(m) != 3 for m in e.mask) == sum(r["incomplete"] for r in e.report["recordings"]),
          f"windows without a lead: {e.report['incomplete']} of {len(e.mask)}")
    check(np.all(e.signal[e.row["bidmc_04_00001"], 1, :1250] == INVALID), "an absent lead has no values")


def gaps_and_flats(tmp):
    folder = f"{tmp}/gaps"
    x = pulse(7500, 125)
    x[100:110] = np.nan      # 80 ms: interpolated
    x[2000:2031] = np.nan    # 31 samples, the longest that is
    x[3500:3532] = np.nan    # one more
    x[4600:4630] = np.nan
    x[4640:4700] = np.nan    # leaves a stretch too short to be filtered
    x[5000:5340] = 1.0       # more than a quarter of window 4 is flat
    x[6300:6560] = -1.0      # less than that of window 5
    make_bidmc(folder, 1, [["" if np.isnan(v) else v for v in x]])
    c = load(f"{tmp}/g1", "bidmc", folder)
    same_windows(c, "bidmc_01", "PPG", windows(x, 125, 125), "gaps")
    r = c.report["recordings"][0]
    check((r["windows"], r["kept"], r["gap"], r["flat"]) == (6, 3, 2, 1), f"gaps: {r}")
    check(c.id == [f"bidmc_01_0000{k}" for k in (0, 1, 5)] and c.quality.tolist() == [1, 1, 0],
          f"gaps: {c.id} {c.quality}")
    for settings, how in ((["gap=0.5", "flat=1"], dict(gap=.5, flat=1)), (["gap=0"], dict(gap=0)),
                          (["rate=64", "stride=1.25"], dict(to=64, stride=1.25)),
                          (["flat=0"], dict(flat=0))):
        e = load(f"{tmp}/g_{settings[0].replace('=', '-')}", "bidmc", folder, *settings)
        same_windows(e, "bidmc_01", "PPG", windows(x, 125, **{"to": 125, **how}), f"gaps {settings}")
    shutil.rmtree(folder)
    make_bidmc(folder, 1, [["nan"] * 3000])
    make_bidmc(folder, 2, [[0.5] * 3000])
    make_bidmc(folder, 3, [pulse(1249, 125)])
    fails(65, f"not one window could be imported from 3 recordings; {tmp}/g_none/import_report.json tells why. The first: "
          "bidmc_01: none of its windows is usable", "bidmc", folder, f"{tmp}/g_none")


def polarity(tmp):
    folder = f"{tmp}/polarity"
    x = pulse(6000, 125)
    make_bidmc(folder, 1, [x])
    make_bidmc(folder, 2, [1 - x])
    y = 1 - x
    y[3000:3005] += 50  # one artefact, whose own skewness says the contrary
    make_bidmc(folder, 3, [y])
    c = load(f"{tmp}/pol", "bidmc", folder, "polarity=auto")
    check([r["flipped_channels"] for r in c.report["recordings"]] == [0, 1, 1], "what is turned over")
    for k, v in ((1, x), (2, 1 - x), (3, y)):
        same_windows(c, f"bidmc_0{k}", "PPG", windows(v, 125, 125, polarity="auto"), f"polarity {k}")


def bidmc_damage(tmp):
    folder, out = f"{tmp}/bad_b", f"{tmp}/bad_b_out"
    x = pulse(2500, 125)

    def damage(message, edit, which="Signals.csv"):
        shutil.rmtree(folder, ignore_errors=True)
        make_bidmc(folder, 1, [x], numerics=[(60, 60, 12, 97)] * 21)
        make_bidmc(folder, 2, [x])
        path = f"{folder}/bidmc_01_{which}"
        lines = open(path).read().split("\n")
        text = edit(lines)
        with open(path, "w") as f:
            f.write("\n".join(lines) if text is None else text)
        c = load(out, "bidmc", folder)
        check(message in c.problems().get("bidmc_01", "") and len(c.id) == 2,
              f"wanted '{message}', got {c.problems()}")
        shutil.rmtree(out)

    def put(row, column, text):
        def edit(lines):
            cells = lines[row].split(",")
            cells[column] = text
            lines[row] = ",".join(cells)
        return edit

    damage("bidmc_01_Signals.csv:1: there is no column 'PLETH'", put(0, 1, " PLETHX"))
    damage("bidmc_01_Signals.csv:1: there is more than one column 'PLETH'", put(0, 1, " PLETH,PLETH"))
    damage("bidmc_01_Signals.csv:8:7: column 'PLETH': '0.5x' is not a number", put(7, 1, "0.5x"))
    damage("column 'PLETH': 'inf' is not a number", put(7, 1, "inf"))
    damage("column 'PLETH': '0x10' is not a number", put(7, 1, "0x10"))
    damage("column 'PLETH': '1e999' is not a number", put(7, 1, "1e999"))
    damage("column 'PLETH': '1e39' is not a number", put(7, 1, "1e39"))  # beyond the floats of a corpus
    damage("bidmc_01_Signals.csv:100: no time", put(99, 0, ""))
    damage("bidmc_01_Signals.csv:100: time goes backwards, from 0.776 to 0.5", put(99, 0, "0.5"))
    damage("bidmc_01_Signals.csv:5: 3 cells, the first line has 2", put(4, 1, "1,2"))
    damage("bidmc_01_Signals.csv:9: an empty line", lambda l: l.__setitem__(8, ""))
    damage("bidmc_01_Signals.csv has no rows", lambda l: "")
    damage("bidmc_01_Signals.csv has no rows", lambda l: l[0])
    damage("is 0: this is not text", lambda l: l[0] + "\n\0")
    damage("2500 rows in 19.992 s are 125 Hz; 250 Hz was expected",
           lambda l: "Signals sampling frequency: 250 Hz\n", "Fix.txt")
    damage("signals sampling frequency '125 kHz'", lambda l: "Signals sampling frequency: 125 kHz\n",
           "Fix.txt")
    damage("bidmc_01_Numerics.csv:3:3: column 'HR': 'sixty'", put(2, 1, "sixty"), "Numerics.csv")
    damage("bidmc_01_Numerics.csv: 21 rows in 40 s are 0.5 Hz; 1 Hz was expected",
           lambda l: "Time [s], HR\n" + "".join(f"{2 * i},60\n" for i in range(21)), "Numerics.csv")
    rng = random.Random(1)
    for _ in range(25):  # whatever is in it: imported or refused, never a crash
        def scramble(lines):
            text = bytearray("\n".join(lines[:300]).encode())
            for _ in range(rng.randrange(1, 6)):
                at = rng.randrange(len(text))
                text[at:at + rng.randrange(3)] = bytes(rng.choice(b',\n\r"x-.e9 \t') for _ in range(2))
            return text.decode()
        shutil.rmtree(folder, ignore_errors=True)
        make_bidmc(folder, 1, [x])
        path = f"{folder}/bidmc_01_Signals.csv"
        text = scramble(open(path).read().split("\n"))
        write(path, text)
        code, _, err = run("data", "import", "bidmc", folder, out, "window=1", "-q")
        check(code in (0, 65), f"scrambled: {code} {err}")
        shutil.rmtree(out, ignore_errors=True)
    code, _, err = run("data", "import", "bidmc", f"{tmp}", out, "leads=PPG,PPG")
    check(code == 2 and "lead PPG twice" in err, f"leads twice: {err}")
    make_bidmc(folder, 1, [x])
    for words, message in (
            (["leads=VX"], "this source has no lead 'VX'; it has PPG, I, II"),
            (["rate=0"], "'rate=0' is not a value"), (["rate=20"], "up to 12 Hz does not fit below half"),
            (["window=1.0001"], "a whole number"), (["stride=0.001"], "a whole number"),
            (["band=12-0.5"], "'band=12-0.5' is not a value"), (["polarity=up"], "is not a value"),
            (["norm=max"], "is not a value"), (["speed=3"], "is not a setting"), (["flat=2"], "flat=2"),
            (["subject=("], "no regular expression"), (["stop=0"], "stop=0"), (["rate=1e9"], "rate=1e+09"),
            (["rate=nan"], "not a value"), (["window=nan"], "not a value"), (["gap=nan"], "gap=nan"),
            (["--folds", "1"], "are of the source ptbxl")):
        fails(2, message, "bidmc", folder, out, *words)
    fails(69, "holds nothing of the source 'bidmc'", "bidmc", os.path.dirname(os.path.abspath(__file__)), out)
    fails(74, "cannot read the folder", "bidmc", f"{tmp}/nowhere", out)
    fails(2, "sources that can be imported are: ptbxl, bidmc, ppg-bp, e4, wfdb, files", "xyz", "a", "b")


BP_COLUMNS = ("Num.,subject_ID,Sex(M/F),Age(year),Height(cm),Weight(kg),Systolic Blood Pressure(mmHg),"
              "Diastolic Blood Pressure(mmHg),Heart Rate(b/m),BMI(kg/m^2),Hypertension,Diabetes,"
              "cerebral infarction,cerebrovascular disease")


def make_bp(folder, rows=None, n=2100):
    shutil.rmtree(folder, ignore_errors=True)
    rows = rows or ["1,2,Female,45,152,63,161,89,97,27.2,Stage 2 hypertension,Type 2 Diabetes,,",
                    "2,3,Male,50,157,,160,93,76,20.2,Normal,,cerebral infarction,",
                    "3,6,Female,47,150,47,101,71,79,20.8,,,,"]
    write(f"{folder}/subjects.csv", "\n".join([BP_COLUMNS, *rows]) + "\n")
    x = {}
    for k, name in enumerate(("2_1", "2_3", "3_1")):
        x[name] = np.round(2000 + 300 * pulse(n, 1000, 60 + k, k))
        write(f"{folder}/0_subject/{name}.txt", "\t".join(f"{v:.1f}" for v in x[name]) + "\t")
    return x


def ppg_bp(tmp):
    folder, out = f"{tmp}/bp", f"{tmp}/bp_out"
    x = make_bp(folder)
    c = load(out, "ppg-bp", folder)
    intact(out)
    for name, v in x.items():
        same_windows(c, name, "PPG", windows(v, 1000, 125, 2.096), f"ppg-bp {name}", single=True)
    check(c.classes["hypertension"] == ["Normal", "Prehypertension", "Stage 1 hypertension",
                                        "Stage 2 hypertension"] and
          c.label["hypertension"].tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]] and
          c.label["diabetes"].tolist() == [[1, 0], [1, 0], [0, 1]], "ppg-bp: labels")
    check(c.target["sbp"].tolist() == [161, 161, 160] and c.target["sex"].tolist() == [1, 1, 0] and
          np.isnan(c.target["weight"][2]) and c.target["bmi"][0] == np.float32(27.2), "ppg-bp: targets")
    check(c.statements[2] == "Normal; cerebral infarction" and c.patient[0] == c.patient[1] != c.patient[2],
          "ppg-bp: notes and subjects")
    check("there is no segment of subject 6" in c.problems()["6"], f"ppg-bp: {c.problems()}")
    e = load(f"{tmp}/bp_1s", "ppg-bp", folder, "rate=64", "window=1", "stride=0.5")
    for name, v in x.items():
        same_windows(e, name, "PPG", windows(v, 1000, 64, 1, .5), f"ppg-bp 1 s {name}")
    shutil.rmtree(out)
    for text, message in (("1\t2\tx\t", "2_1.txt:1:5: 'x' is not a number"), ("", "2_1.txt has no numbers"),
                          ("1\t2\n", "has 2 numbers; a segment is 2100")):
        make_bp(folder)
        write(f"{folder}/0_subject/2_1.txt", text)
        write(f"{folder}/0_subject/77_1.txt", "1\n")
        c = load(out, "ppg-bp", folder)
        check(message in c.problems()["2_1"] and "subject '77' is not in" in c.problems()["77_1"],
              f"ppg-bp: {c.problems()}")
        shutil.rmtree(out)
    row = "1,2,Female,45,152,63,161,89,97,27.2,Normal,,,"
    for rows, message in (([row, row], "subject 2 is in two rows"),
                          ([row.replace("161", "high")], "subjects.csv:2:22: column 'Systolic Blood"),
                          ([row.replace("Normal", "Stage 9")], "'Stage 9' is no stage"),
                          ([row.replace("Female", "X")], "'X' is not Male or Female"),
                          ([row + ",1"], "subjects.csv:2:")):
        make_bp(folder, rows)
        fails(65, message, "ppg-bp", folder, out)
    make_bp(folder)
    text = open(f"{folder}/subjects.csv").read()
    write(f"{folder}/subjects.csv", text.replace("Heart Rate(b/m)", "HR"))
    fails(65, "has no column 'Heart Rate(b/m)'; it has", "ppg-bp", folder, out)
    os.remove(f"{folder}/subjects.csv")
    fails(74, "subjects.csv", "ppg-bp", folder, out)


def e4(tmp):
    folder, out = f"{tmp}/e4", f"{tmp}/e4_out"
    x = np.round(40 * pulse(3000, 64), 2)
    hr = np.round(70 + np.arange(30) / 3, 2)

    def session(name, rows, rate="64.000000", start="1644226061.000000", end="\r\n"):
        write(f"{folder}/{name}/BVP.csv", end.join([start, rate, *map(str, rows)]) + end)

    session("S01", x)
    write(f"{folder}/S01/HR.csv", "1644226071.000000\n1.000000\n" + "\n".join(map(str, hr)) + "\n")
    session("S02/morning", x[::-1], "32", end="\n")
    session("S02/noon", [*x[:640], *["NaN"] * 100, *x[740:]])
    c = load(out, "e4", folder)
    intact(out)
    check(c.about["rate"] == 64, "e4: rate")
    same_windows(c, "S01", "PPG", windows(x, 64, 64), "e4 S01")
    same_windows(c, "S02-morning", "PPG", windows(x[::-1], 32, 64), "e4 morning")
    y = x.copy()
    y[640:740] = np.nan
    same_windows(c, "S02-noon", "PPG", windows(y, 64, 64), "e4 noon")
    check(c.patient[c.row["S02-noon_00000"]] == c.patient[c.row["S02-morning_00000"]] != c.patient[0],
          "e4: the first folder is the subject")
    want = [np.nan, *[hr[10 * k - 10:10 * k].mean() for k in (1, 2, 3)]]
    check(np.allclose(c.target["hr"][:4], want, equal_nan=True), f"e4: hr {c.target['hr'][:4]} {want}")
    e = load(f"{tmp}/e4_s", "e4", folder, "subject=/?([a-z]+)/BVP")
    check("expression for the subject" in e.problems()["S01"] and
          len(set(e.patient.tolist())) == 2, "e4: subject=")
    one = load(f"{tmp}/e4_one", "e4", f"{folder}/S01")
    check(one.id[0] == "S01_00000" and one.patient[0] == c.patient[0], "e4: DIR is a session itself")
    shutil.rmtree(out)
    for text, message in (("", "BVP.csv has no rows"), ("1644226061\n64\n", "has no samples after"),
                          ("1644226061\n", "BVP.csv:2: rate nan Hz"), ("1644226061\n0\n1\n", ":2: rate 0 Hz"),
                          ("1644226061\n-64\n1\n", ":2: rate -64 Hz"), ("x\n64\n1\n", "BVP.csv:1:1: column '1': 'x'"),
                          ("-5\n64\n1\n", ":1: start time -5"), ("1644226061\n64\n1\n2,3\n", "BVP.csv:4: 2 cells"),
                          ("1644226061\n64\n1\nabc\n", "BVP.csv:4:1: column '1': 'abc'"),
                          ("1644226061\n20\n" + "1\n2\n" * 300, "a band-pass of 0.5 to 12 Hz at 20 Hz"),
                          ("1644226061\n64\n1\n2\n", "it is shorter than a window")):
        write(f"{folder}/S02/noon/BVP.csv", text)
        c = load(out, "e4", folder)
        check(message in c.problems().get("S02-noon", ""), f"e4: wanted {message}, got {c.problems()}")
        shutil.rmtree(out)
    write(f"{folder}/S01/HR.csv", "1744226071\n1\n70\n")
    c = load(out, "e4", folder)
    check("HR.csv:1: starts 1" in c.problems()["S01"], f"e4: {c.problems()}")


def files(tmp):
    folder, out, about = f"{tmp}/files", f"{tmp}/files_out", f"{tmp}/about.yaml"
    rng = np.random.default_rng(3)

    def describe(text):
        write(about, text)
        return "description=" + about

    # irregular times in ms, two leads, a column that is a target, subjects in a table
    t = np.cumsum(rng.choice([30, 33, 34, 40], 1500)).astype(float)
    t[700:] += 900
    x, y, hr = pulse(1500, 30), pulse(1500, 30, 50, 4), rng.integers(60, 90, 1500)
    for k in (1, 2, 3):
        write(f"{folder}/p{k}/rec.csv", "# camera\ntime;R;G;bpm\n" + "".join(
            f"{a:g};{k * b};{c};{d}\n" for a, b, c, d in zip(t, x, y, hr)))
    write(f"{folder}/people.csv", "who,age,group,smoker\np1,30,b,yes\np2,,a,\np3,50,b,no\n")
    text = """# a study
name: my-study
version: my study, 2026
files: "p*/rec.csv"
delimiter: ";"
comment: "#"
window: 8 s
subject: "^(p[0-9]+)/"
time: {column: time, unit: ms, grid: 30 Hz, gap: 0.3 s}
leads:
  - {name: PPG_R, column: R, scale: -2}
  - {name: PPG_G, column: G}
targets:
  - {name: bpm, column: bpm}
subjects:
  file: people.csv
  column: who
  targets:
    - {name: age, column: age}
  tasks:
    - {name: group, column: group}
    - {name: smoker, column: smoker}
"""
    c = load(out, "files", folder, describe(text), "rate=50", "stride=4")
    intact(out)
    s = t / 1000
    grid = s[0] + np.arange(math.floor((s[-1] - s[0]) * 30 + 1e-9) + 1) / 30

    def on_grid(v):
        v = np.interp(grid, s, v)
        after = np.searchsorted(s, grid, "right").clip(1, len(s) - 1)
        v[(s[after] - s[after - 1] > .3) & (grid > s[after - 1]) & (grid < s[after])] = np.nan
        return v

    for k in (1, 2, 3):
        for lead, v in (("PPG_R", -2 * k * x), ("PPG_G", y)):
            same_windows(c, f"p{k}-rec", lead, windows(on_grid(v), 30, 50, 8, 4), f"files p{k} {lead}")
    check(c.about["version"] == "my study, 2026" and c.leads == ["PPG_R", "PPG_G"], "files: about")
    first = [c.row[f"p{k}-rec_00000"] for k in (1, 2, 3)]
    check(np.allclose(c.target["age"][first], [30, np.nan, 50], equal_nan=True) and
          c.label["group"][first].tolist() == [[0, 1], [1, 0], [0, 1]] and
          c.classes["smoker"] == ["no", "yes"] and
          c.label["smoker"][first].tolist() == [[0, 1], [0, 0], [1, 0]], "files: the subjects' table")
    bpm = on_grid(hr.astype(float))
    want = [np.nanmean(bpm[int(4 * 30 * k):int(4 * 30 * k) + 240]) for k in range(3)]
    check(np.allclose(c.target["bpm"][:3], want, atol=1e-4), f"files: bpm {c.target['bpm'][:3]} {want}")
    e = load(f"{tmp}/f_grid", "files", folder, describe(text.replace(", grid: 30 Hz", "")), "rate=50", "stride=4")
    check(np.array_equal(e.signal, c.signal), "files: the median spacing gives 30 Hz")
    shutil.rmtree(out)

    def refused(message, old="", new="", code=2):
        check(old in text, f"'{old}' is in the description")
        fails(code, message, "files", folder, out, describe(text.replace(old, new)), "rate=50")

    refused("about.yaml:12:14: unknown key 'leads.1.colour'", "name: PPG_G,", "colour: red, name: PPG_G,")
    refused("'name' is missing", "name: my-study\n")
    refused("'leads.1.column' is missing", ", column: G")
    refused("lead PPG_R twice", "PPG_G", "PPG_R")
    refused("'time.unit' must be s, ms or us", "unit: ms", "unit: hours")
    refused("either 'rate' or 'time.column'", "time: {column: time, unit: ms, grid: 30 Hz, gap: 0.3 s}\n")
    refused("not both", "window: 8 s", "rate: 30 Hz")
    refused("'window' must be a number of s, found '8 m'", "8 s", "8 m")
    refused("'delimiter' must be", '";"', '"|"')
    refused("'format' must be csv or npy", "window: 8 s", "format: xls")
    refused("duplicate", "name: my-study", "name: a\nname: b")
    refused("about.yaml:", "leads:", "leads: [", 2)
    refused("has no column 'height'", "column: age", "column: height", 65)
    refused("holds nothing of the source 'files'", "p*/rec.csv", "q*.csv", 69)
    fails(2, "needs description=FILE.yaml", "files", folder, out)
    fails(74, "nowhere.yaml", "files", folder, out, "description=nowhere.yaml")
    write(f"{folder}/people.csv", "who,age,group,smoker\np1,30,b,yes\np1,,a,\n")
    refused("subject 'p1' is in lines 2 and 3", code=65)
    write(f"{folder}/people.csv", "who,age,group,smoker\np1,30,b,yes\np2,x,a,\n")
    refused("people.csv:3:4: column 'age': 'x' is not a number", code=65)
    write(f"{folder}/people.csv", "who,age,group,smoker\np1,30,b,yes\np2,1,a,\n")

    def damage(message, row, new):
        rows = open(f"{folder}/p1/rec.csv").read().split("\n")
        write(f"{folder}/p2/rec.csv", "\n".join([*rows[:row - 1], new, *rows[row:]]))
        c = load(out, "files", folder, describe(text), "rate=50")
        check(message in c.problems().get("p2-rec", "") and "'p3' is not in" in c.problems()["p3-rec"],
              f"wanted {message}, got {c.problems()}")
        shutil.rmtree(out)

    at = lambda k: f"{t[k - 3]:g}"
    damage(f"p2/rec.csv:10: time {at(9)} is in line 9 already", 10, f"{at(9)};1;2;3")
    damage(f"p2/rec.csv:10: time goes backwards, from {at(9)} to {at(8)}", 10, f"{at(8)};1;2;3")
    damage("p2/rec.csv:10: no time", 10, ";1;2;3")
    damage("p2/rec.csv:10:7: column 'G': 'two' is not a number", 10, "1e9;1;two;3")
    damage("p2/rec.csv:10: 3 cells, the first line has 4", 10, "1;2;3")
    damage("there is no column 'R'; it has 'time', 'r'", 2, "time;r;G;bpm")
    damage("is more than 67108864 samples", 1502, "1e15;1;2;3")
    write(f"{folder}/p2/rec.csv", "")
    c = load(out, "files", folder, describe(text), "rate=50")
    check("rec.csv has no rows" in c.problems()["p2-rec"], f"empty: {c.problems()}")
    shutil.rmtree(out)

    # without a header, by number, blanks between, a rate
    shutil.rmtree(folder)
    write(f"{folder}/a.txt", "head\n" + "".join(f"  {i}   {v}\t{w}\n" for i, (v, w) in enumerate(zip(x, y))))
    c = load(out, "files", folder, describe(
        "{name: n, files: '*.txt', delimiter: space, header: false, skip: 1, rate: 62.5 Hz,\n"
        " leads: [{name: PPG, column: 3}, {name: ii, column: 2}, {name: X, column: 2, kind: ecg}]}"), "ecg_band=off")
    same_windows(c, "a", "PPG", windows(y, 62.5, 125), "files: columns by number")
    check(c.leads == ["PPG", "II", "X"], "files: standard leads get their standard names")
    for lead in ("II", "X"):
        same_windows(c, "a", lead, windows(x, 62.5, 125, norm="none", band=None), f"files: lead {lead}")
    shutil.rmtree(out)

    # arrays
    a = np.stack([x, y]).astype(np.float32)
    a[0, 40:45] = np.nan
    np.save(f"{folder}/b.npy", a)
    np.save(f"{folder}/c.npy", (1000 * y).astype(np.int16))
    lead = "leads: [{name: PPG, column: %d, scale: 0.001}]}"
    c = load(out, "files", folder, describe("{name: n, files: '*.npy', rate: 100 Hz, " + lead % 1))
    for name, v in (("b", .001 * a[0].astype(float)), ("c", .001 * (1000 * y).astype(np.int16))):
        same_windows(c, name, "PPG", windows(v, 100, 125), f"npy {name}")
    shutil.rmtree(out)
    np.save(f"{folder}/b.npy", a.T.copy())
    c = load(out, "files", folder, describe(
        "{name: n, format: npy, layout: samples_first, rate: 100 Hz, " + lead % 2))
    same_windows(c, "b", "PPG", windows(.001 * y.astype(np.float32).astype(float), 100, 125), "npy columns")
    check("has 1 leads, numbered from 1; there is no '2'" in c.problems()["c"], f"npy: {c.problems()}")
    shutil.rmtree(out)
    a[0, 3] = np.inf
    np.save(f"{folder}/b.npy", a)
    np.save(f"{folder}/d.npy", np.zeros((2, 2, 2)))
    write(f"{folder}/e.npy", "no array")
    c = load(out, "files", folder, describe("{name: n, format: npy, rate: 100 Hz, " + lead % 1))
    p = c.problems()
    check("sample 3 of lead 1 is infinite" in p["b"] and "of 3 dimensions" in p["d"] and "e.npy" in p["e"],
          f"npy: {p}")


def wfdb(tmp):
    """Records like BIDMC's: names with commas, PPG in NU, at rates of their own."""
    folder, out = f"{tmp}/wfdb", f"{tmp}/wfdb_out"
    os.makedirs(folder)
    x, y = pulse(4000, 125), pulse(8000, 250, 60, 2)

    def record(name, signals):
        """signals: (description, units, gain, digital [frames * per frame], samples per frame)"""
        frames = len(signals[0][3]) // signals[0][4]
        lines, columns = [f"{name} {len(signals)} 125 {frames}"], []
        for d, units, gain, v, per in signals:
            fmt = "16" if per == 1 else f"16x{per}"
            total = int(v.astype(np.int64).sum()) & 0xFFFF
            lines.append(f"{name}.dat {fmt} {gain}(0)/{units} 16 0 {v[0]} {total} 0 {d}")
            columns.append(v.reshape(frames, per))
        write(f"{folder}/{name}.hea", "\n".join(lines) + "\n")
        np.concatenate(columns, 1).astype("<i2").tofile(f"{folder}/{name}.dat")

    p, e = np.round(x * 1000).astype(np.int16), np.round(y * 2000).astype(np.int16)
    gap = p.copy()
    gap[1300:1400] = INVALID
    record("r1", [("RESP,", "pm", 100, p, 1), ("PLETH,", "NU", 1000, p, 1), ("II,", "mV", 2000, e, 2)])
    record("r2", [("Pleth", "NU", 1000, gap, 1), ("V5", "uV", 2, e, 2)])
    record("r3", [("aVR", "mV", 2000, e, 2)])
    record("r4", [("HR", "bpm", 1, p, 1)])
    record("r5", [("II", "NU", 1, p, 1)])
    c = load(out, "wfdb", folder)
    intact(out)
    check(c.leads == ECG + ["PPG"] and c.about["modality"] == "ecg+ppg", "wfdb: leads")
    ecg = dict(norm="none", band=(.5, 40))
    pv, ev = p / 1000, e / 2000
    same_windows(c, "r1", "PPG", windows(pv, 125, 125), "wfdb r1 PPG")
    same_windows(c, "r1", "II", windows(ev, 250, 125, **ecg), "wfdb r1 II")
    same_windows(c, "r2", "PPG", windows(np.where(gap == INVALID, np.nan, pv), 125, 125), "wfdb r2 PPG")
    same_windows(c, "r2", "V5", windows(e / 2 / 1000, 250, 125, **ecg), "wfdb r2 V5 in uV")
    same_windows(c, "r3", "aVR", windows(ev, 250, 125, **ecg), "wfdb r3")
    bit = {l: 1 << i for i, l in enumerate(ECG + ["PPG"])}
    masks = {k: int(c.mask[i]) for k, i in c.row.items()}
    check(masks["r1_00000"] == bit["II"] | bit["PPG"] and masks["r2_00000"] == bit["V5"] | bit["PPG"] and
          masks["r2_00001"] == bit["V5"] and masks["r3_00002"] == bit["aVR"], f"wfdb: masks {masks}")
    q = c.problems()
    check("none of its 1 signals" in q["r4"] and "'NU', which is not a voltage" in q["r5"], f"wfdb: {q}")
    d = load(f"{tmp}/wfdb_p", "wfdb", folder, "leads=PPG", "subject=^(r)")
    check(d.about["modality"] == "ppg" and len(set(d.patient.tolist())) == 1, "wfdb: PPG alone")
    os.truncate(f"{folder}/r1.dat", 1001)
    write(f"{folder}/r3.hea", "nonsense\n")
    shutil.rmtree(out)
    c = load(out, "wfdb", folder)
    check("need" in c.problems()["r1"] and "r3.hea:1" in c.problems()["r3"], f"wfdb: {c.problems()}")


def leaks(tmp):
    """data verify finds a subject in two folds; PTB-XL-like tables can be made to have one."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import test_ptbxl
    folder = f"{tmp}/leaky"
    test_ptbxl.make_folder(folder, 12)  # pairs of neighbours are one patient, in different folds
    code, _, err = run("data", "import", "ptbxl", folder, f"{tmp}/leaky_out", "-q")
    check(code == 0, err)
    code, _, err = run("data", "verify", f"{tmp}/leaky_out", "-q")
    check(code == 65 and "5 subjects are in more than one fold, e.g. that of records" in err, f"leak: {code} {err}")
    code, text, _ = run("data", "verify", f"{tmp}/leaky_out", "-q", "--json")
    check(code == 65 and json.loads(text)["subjects_in_several_folds"] == 5, f"leak: {text}")
    # Training refuses it as well, before anything is written.
    code, _, err = run("pretrain", "jepa_vit_tiny_ptbxl_100hz", f"data.corpus={tmp}/leaky_out", "train.batch_size=2",
                       "data.crop=5s", "data.folds.train=[1,3,5]", "data.folds.validation=[2,4]", "data.folds.test=[6]",
                       f"output.dir={tmp}/leaky_run", "-q")
    check(code == 65 and "are of one participant, but the first is trained on and the second is held out" in err and
          not os.path.exists(f"{tmp}/leaky_run"), f"leak in training: {code} {err}")


def broken_off(tmp):
    """A full disk (files that may not grow) ends the import; nothing of it stays, nor of a killed one."""
    folder, out = f"{tmp}/full", f"{tmp}/full_out"
    for k in range(1, 9):
        make_bidmc(folder, k, [pulse(5000, 125)])
    write(f"{out}/recording-77.part", "of a killed import")
    for limit in (100, 9000, 40000):
        def cap():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        r = subprocess.run([PURKINJE, "data", "import", "bidmc", folder, out, "-q", "--workers", "3"],
                           capture_output=True, text=True, preexec_fn=cap)
        check(r.returncode == 73 and "cannot write" in r.stderr, f"full disk: {r.returncode} {r.stderr}")
        check(os.listdir(out) == [], f"left after a full disk: {os.listdir(out)}")
    check(len(load(out, "bidmc", folder).id) == 32, "and again, with room")


# ---- real recordings ----

def real(tmp):
    if not REAL:
        print("real recordings not checked: no shared/data/ppg")
        return
    ecg = dict(norm="none", band=(.5, 40))
    c = load(f"{tmp}/real_bidmc", "bidmc", f"{REAL}/bidmc", "leads=PPG,II")
    intact(c.folder)
    people = {}
    for path in sorted(glob.glob(f"{REAL}/bidmc/*_Signals.csv")):
        stem = path[:-len("_Signals.csv")]
        name = os.path.basename(stem)
        d = pd.read_csv(path, skipinitialspace=True)
        same_windows(c, name, "PPG", windows(d["PLETH"], 125, 125), name)
        same_windows(c, name, "II", windows(d["II"], 125, 125, **ecg), name + " II")
        n, rows = pd.read_csv(stem + "_Numerics.csv", skipinitialspace=True), [
            i for k, i in sorted(c.row.items()) if k.startswith(name)]
        for target, column in (("hr", "HR"), ("pulse", "PULSE"), ("resp", "RESP"), ("spo2", "SpO2")):
            want = [n[column][10 * int(c.id[i][-5:]):][:10].mean() for i in rows]
            check(np.allclose(c.target[target][rows], want, equal_nan=True), f"{name}: {target}")
        fix = open(stem + "_Fix.txt").read()
        check(np.all(c.target["age"][rows] == float(re.search("Age: (.*)", fix)[1])), f"{name}: age")
        people.setdefault(re.search("wdb ID: (.*)", fix)[1], set()).update(c.patient[rows].tolist())
    check(len(people) == 7 and all(len(v) == 1 for v in people.values()) and
          len(set.union(*people.values())) == 7, "bidmc: subjects are MIMIC's")
    c = load(f"{tmp}/real_64", "bidmc", f"{REAL}/bidmc", "rate=64", "stride=5", "polarity=auto")
    for k in (1, 6):
        d = pd.read_csv(f"{REAL}/bidmc/bidmc_{k:02d}_Signals.csv", skipinitialspace=True)
        same_windows(c, f"bidmc_{k:02d}", "PPG", windows(d["PLETH"], 125, 64, stride=5, polarity="auto"),
                     f"bidmc {k} at 64 Hz")
    check(c.report["flipped_channels"] == 0, "bidmc: hospital PPG is upright")

    c = load(f"{tmp}/real_bp", "ppg-bp", f"{REAL}/ppg-bp")
    intact(c.folder)
    table = pd.read_csv(f"{REAL}/ppg-bp/subjects.csv", index_col="subject_ID")
    check(len(c.id) == len(glob.glob(f"{REAL}/ppg-bp/0_subject/*.txt")) == 480, "ppg-bp: all segments")
    for name, i in c.row.items():
        row = table.loc[int(name.split("_")[0])]
        check(c.target["sbp"][i] == row["Systolic Blood Pressure(mmHg)"] and
              c.target["age"][i] == row["Age(year)"] and c.target["sex"][i] == (row["Sex(M/F)"] == "Female") and
              c.classes["hypertension"][c.label["hypertension"][i].argmax()] == row["Hypertension"] and
              c.label["hypertension"][i].sum() == 1, f"ppg-bp {name}: targets and stage")
        v = np.fromstring(open(f"{REAL}/ppg-bp/0_subject/{name}.txt").read(), sep="\t")
        same_windows(c, name, "PPG", windows(v, 1000, 125, 2.096), f"ppg-bp {name}", single=True)
    check(len({(p, f) for p, f in zip(c.patient, c.fold)}) == len(set(c.patient)) == 160, "ppg-bp: folds")

    c = load(f"{tmp}/real_e4", "e4", f"{REAL}/stress-predict")
    intact(c.folder)
    for path in glob.glob(f"{REAL}/stress-predict/*/BVP.csv"):
        v, name = np.loadtxt(path), path.split("/")[-2]
        same_windows(c, name, "PPG", windows(v[2:], v[1], 64), f"e4 {name}")
        h = np.loadtxt(path.replace("BVP", "HR"))
        at = np.arange(len(h) - 2) + h[0] - v[0]
        rows = [i for i, k in enumerate(c.id) if k.startswith(name)]
        with np.errstate(all="ignore"):
            want = [pd.Series(h[2:][(at >= 10 * k) & (at < 10 * k + 10)]).mean()
                    for k in (int(c.id[i][-5:]) for i in rows)]
        check(np.allclose(c.target["hr"][rows], want, equal_nan=True), f"e4 {name}: hr")

    write(f"{tmp}/welltory.yaml", "name: welltory\nfiles: PPG.csv\nsubject: '(subject_[0-9]+)/'\n"
          "time: {column: time, unit: ms}\nleads: [{name: PPG, column: R}]\n")
    c = load(f"{tmp}/real_w", "files", f"{REAL}/welltory", f"description={tmp}/welltory.yaml", "rate=64",
             "polarity=auto")
    intact(c.folder)
    for path in glob.glob(f"{REAL}/welltory/*/PPG.csv"):
        d, name = pd.read_csv(path), path.split("/")[-2]
        s = d["time"].to_numpy() / 1000
        rate = round(1 / np.sort(np.diff(s))[(len(s) - 1) // 2])
        grid = s[0] + np.arange(math.floor((s[-1] - s[0]) * rate + 1e-9) + 1) / rate
        v = np.interp(grid, s, d["R"])
        same_windows(c, f"{name}-PPG", "PPG", windows(v, rate, 64, polarity="auto"), f"welltory {name}")
    check(c.report["flipped_channels"] == 14, "welltory: brightness falls with every beat")


def main():
    with tempfile.TemporaryDirectory(dir=".") as tmp:
        tmp = os.path.abspath(tmp)
        for test in (bidmc, gaps_and_flats, polarity, bidmc_damage, ppg_bp, e4, files, wfdb, leaks, broken_off, real):
            before = failed
            test(tmp)
            if failed > before:
                print(f"{test.__name__}: {failed - before} failed", file=sys.stderr)
    if os.environ.get("CI") == "true" and os.path.isdir(os.path.dirname(SHARED[0])) and not REAL:
        check(False, "CI has shared/data but not shared/data/ppg")
    print(f"{passed} checks passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
