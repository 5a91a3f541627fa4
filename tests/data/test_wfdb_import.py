"""WFDB records with PPG as a corpus: names with commas, units, rates of their own, damage."""

import os
import shutil
import sys

from ppg_case import ECG, INVALID, check, intact, load, main, pulse, same_windows, windows, write

import numpy as np


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


if __name__ == "__main__":
    sys.exit(main(wfdb))
