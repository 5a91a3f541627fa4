"""The BIDMC import (CSV, numerics, Fix files): gaps, flat lines, polarity, damaged input, a full disk, real recordings."""

import glob
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys

from ppg_case import (INVALID, PURKINJE, REAL, check, fails, intact, load,
                      main, pulse, run, same_windows, windows, write)

import numpy as np
import pandas as pd


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


def real(tmp):
    if not REAL:
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


if __name__ == "__main__":
    sys.exit(main(bidmc, gaps_and_flats, polarity, bidmc_damage, broken_off, real))
