"""The Empatica E4 import: BVP and HR by their own clocks, damaged files, real recordings."""

import glob
import shutil
import sys

from ppg_case import REAL, check, intact, load, main, pulse, same_windows, windows, write

import numpy as np
import pandas as pd


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


def real(tmp):
    if not REAL:
        return
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


if __name__ == "__main__":
    sys.exit(main(e4, real))
