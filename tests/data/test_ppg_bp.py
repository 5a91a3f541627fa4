"""The PPG-BP import: segments, subjects, stages of hypertension, damaged tables, the real ones."""

import glob
import os
import shutil
import sys

from ppg_case import REAL, check, fails, intact, load, main, pulse, same_windows, windows, write

import numpy as np
import pandas as pd


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


def real(tmp):
    if not REAL:
        return
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


if __name__ == "__main__":
    sys.exit(main(ppg_bp, real))
