"""CSV and NPY files that a small YAML describes: columns, clocks, units, irregular times, damage, real recordings."""

import glob
import math
import shutil
import sys

from ppg_case import REAL, check, fails, intact, load, main, pulse, same_windows, windows, write

import numpy as np
import pandas as pd


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


def real(tmp):
    if not REAL:
        return
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


if __name__ == "__main__":
    sys.exit(main(files, real))
