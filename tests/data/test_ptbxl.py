"""purkinje data import ptbxl, on generated folders of PTB-XL's layout, read back with h5py.

Labels are derived again here from the tables (also from the official ones when they are there), and
samples from the arrays that were written."""

import ast
import csv
import glob
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

try:
    import h5py
except ImportError:
    print("skipped: h5py is not installed")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests"))
import shared_data  # noqa: E402

PURKINJE = os.environ["PURKINJE"]
LEADS = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()
TASKS = "all diagnostic subdiagnostic superdiagnostic form rhythm".split()
COLUMNS = ("ecg_id patient_id age sex height report scp_codes strat_fold filename_lr "
           "filename_hr").split()
STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal ECG,1.0,,,NORM,NORM
NDT,"non-diagnostic T, of a kind",1.0,1.0,,STTC,STTC
IMI,inferior,1.0,,,MI,IMI
_AVB,block,1.0,,,CD,_AVB
ABQRS,abnormal QRS,,1.0,,,
SR,sinus rhythm,,,1.0,,
AFIB,atrial fibrillation,,,1.0,,
"""
INVALID, FLAG_INVALID, FLAG_FLAT = -32768, 1, 4
passed = failed = 0


def check(good, what):
    global passed, failed
    if good:
        passed += 1
    else:
        failed += 1
        print("failed:", what, file=sys.stderr)


def run(*args, cwd=None):
    p = subprocess.run([PURKINJE, *args], capture_output=True, text=True, timeout=300, cwd=cwd)
    return p.returncode, p.stdout, p.stderr


def fails(code, message, *args):
    got, _, text = run("data", "import", *args)
    check(got == code and message in text, f"wanted {code} '{message}', got {got}: {text.strip()}")


# ---- a folder like PTB-XL's ----

def write_record(path, signal, leads=LEADS, rate=100, gain=1000.0, baseline=0, checksum=0):
    """signal: [leads, samples] digital int16"""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    name = os.path.basename(path)
    with open(path + ".hea", "w") as f:
        f.write(f"{name} {len(leads)} {rate} {signal.shape[1]}\n")
        for lead, row in zip(leads, signal):
            total = (int(row.sum()) + checksum) & 0xFFFF
            f.write(f"{name}.dat 16 {gain}({baseline})/mV 16 0 {row[0]} {total} 0 {lead}\n")
    signal.T.astype("<i2").tofile(path + ".dat")


def row_of(i, codes, fold, age="56.0", sex="1"):
    folder = f"{i // 1000 * 1000:05d}"
    return {"ecg_id": str(i), "patient_id": f"{i // 2 + 100}.0", "age": age, "sex": sex, "height": "",
            "report": 'sagt "nichts",\nzwei Zeilen, Ä', "scp_codes": codes, "strat_fold": str(fold),
            "filename_lr": f"records100/{folder}/{i:05d}_lr",
            "filename_hr": f"records500/{folder}/{i:05d}_hr"}


def write_tables(folder, rows, columns=COLUMNS, statements=STATEMENTS):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "ptbxl_database.csv"), "w", newline="", encoding="utf-8") as f:
        w = csv.DictWriter(f, columns, extrasaction="ignore")
        w.writeheader()
        w.writerows(rows)
    with open(os.path.join(folder, "scp_statements.csv"), "w") as f:
        f.write(statements)


CODES = ["{'NORM': 100.0, 'SR': 0.0}", "{'NDT': 0.0}", "{'IMI': 35.0, 'ABQRS': 0.0, 'AFIB': 0.0}", "{}",
         "{'_AVB': 15.0, 'IMI': 100.0}", "{'SR': 0.0}", "{'NDT': 50.0, 'NORM': 80}"]


def make_folder(folder, n=50):
    """Rows 1..n with 10-s records; returns rows and the digital signals."""
    rng = np.random.default_rng(1)
    rows, signals = [], {}
    for i in range(1, n + 1):
        rows.append(row_of(i, CODES[i % len(CODES)], i % 10 + 1, "300.0" if i == 3 else
                           "" if i == 4 else f"{i}.0", "" if i == 5 else str(i % 2)))
        signals[i] = rng.integers(-3000, 3000, (12, 1000)).astype(np.int16)
        write_record(os.path.join(folder, rows[-1]["filename_lr"]), signals[i])
    write_tables(folder, rows)
    return rows, signals


# ---- reading back ----

class Corpus:
    def __init__(self, folder):
        with open(os.path.join(folder, "corpus.json")) as f:
            self.about = json.load(f)
        with open(os.path.join(folder, "import_report.json")) as f:
            self.report = json.load(f)
        self.shards = sorted(glob.glob(folder + "/*.h5"))
        parts = [h5py.File(s, "r") for s in self.shards]
        names = "signal record_id patient_id length scale lead_mask quality fold statements".split()
        self.column = {k: np.concatenate([p[k][:] for p in parts]) for k in names}
        self.label = {t: np.concatenate([p["labels"][t][:] for p in parts]) for t in TASKS}
        self.classes = {t: [c.decode() for c in parts[0]["labels"][t].attrs["class_names"]]
                        for t in TASKS}
        self.target = {t: np.concatenate([p["targets"][t][:] for p in parts]) for t in ("age", "sex")}
        self.id = [s.decode() for s in self.column["record_id"]]

    def at(self, i):
        return self.id.index(f"{i:05d}_lr")

    def signal(self, i, n=1000):
        return self.column["signal"][self.at(i), :, :n]


def hashes(folder):
    return {os.path.basename(p): hashlib.sha256(open(p, "rb").read()).hexdigest()
            for p in glob.glob(folder + "/*")}


def labels_again(folder, rows):
    """task -> (classes, multi-hot rows), as in helme/ecg_ptbxl_benchmarking without dropping rows."""
    with open(os.path.join(folder, "scp_statements.csv"), encoding="utf-8") as f:
        table = {r[""]: r for r in csv.DictReader(f)}
    kept = {
        "all": {k: k for k in table},
        "diagnostic": {k: k for k, r in table.items() if r["diagnostic"] == "1.0"},
        "subdiagnostic": {k: r["diagnostic_subclass"] for k, r in table.items() if r["diagnostic"] == "1.0"},
        "superdiagnostic": {k: r["diagnostic_class"] for k, r in table.items() if r["diagnostic"] == "1.0"},
        "form": {k: k for k, r in table.items() if r["form"] == "1.0"},
        "rhythm": {k: k for k, r in table.items() if r["rhythm"] == "1.0"}}
    out = {}
    for task, names in kept.items():
        classes = sorted(set(names.values()))
        hot = np.zeros((len(rows), len(classes)), np.uint8)
        for i, r in enumerate(rows):
            for code in ast.literal_eval(r["scp_codes"]):
                if code in names:
                    hot[i, classes.index(names[code])] = 1
        out[task] = classes, hot
    return out


def check_labels(corpus, folder, rows, what):
    for task, (classes, hot) in labels_again(folder, rows).items():
        check(corpus.classes[task] == classes, f"{what}: classes of {task}")
        check(np.array_equal(corpus.label[task], hot), f"{what}: labels of {task}")


# ---- the tests ----

def imports(tmp):
    folder = os.path.join(tmp, "small")
    rows, signals = make_folder(folder)
    for workers in ("1", "3"):
        code, out, err = run("data", "import", "ptbxl", folder, f"{tmp}/out{workers}", "--workers",
                             workers, "--shard-records", "16")
        check(code == 0 and "50 of 50 records imported" in out, f"{workers} workers: {out}{err}")
        check("import 50/50 records (100.0 %)" in err, f"progress: {err}")
    a, b = hashes(f"{tmp}/out1"), hashes(f"{tmp}/out3")
    check(len(a) == 6 and a == b, f"1 and 3 workers give the same bytes: {sorted(a)} {sorted(b)}")
    c = Corpus(f"{tmp}/out3")
    check(c.about["leads"] == LEADS and c.about["rate"] == 100 and len(c.shards) == 4, "corpus.json")
    check(c.id == [os.path.basename(r["filename_lr"]) for r in rows], "order of the table")
    check(all(np.array_equal(c.signal(i), x) for i, x in signals.items()), "samples")
    check(np.all(c.column["scale"] == np.float32(0.001)) and np.all(c.column["lead_mask"] == 4095) and
          np.all(c.column["quality"] == 0) and np.all(c.column["length"] == 1000), "columns")
    check([int(r["strat_fold"]) for r in rows] == c.column["fold"].tolist(), "folds")
    check([s.decode() for s in c.column["statements"]] == [r["scp_codes"] for r in rows], "statements")
    people = c.column["patient_id"]
    check(len(set(people)) == len({r["patient_id"] for r in rows}) and np.all(people[1::2][:-1] ==
          people[2::2]) and np.all(people > 100000), "hashed patients")
    check(np.isnan(c.target["age"][2]) and np.isnan(c.target["age"][3]) and c.target["age"][0] == 1 and
          np.isnan(c.target["sex"][4]) and c.target["sex"][0] == 1, "targets")
    check(c.classes["subdiagnostic"] == ["IMI", "NORM", "STTC", "_AVB"], "classes are sorted by bytes")
    check_labels(c, folder, rows, "generated")
    check(c.report["problems"] == [] and c.report["imported"] == 50, "report without problems")
    fails(73, "holds a corpus already", "ptbxl", folder, f"{tmp}/out3")
    code, out, err = run("data", "import", "ptbxl", folder, f"{tmp}/folds", "--folds", "2,9", "--json",
                         "--quiet")
    check(code == 0 and json.loads(out)["imported"] == 10 and err == "", f"--folds: {out}{err}")
    check(set(Corpus(f"{tmp}/folds").column["fold"]) == {2, 9}, "--folds takes only these")


def odd_records(tmp):
    """What waveforms may look like, and what is rejected."""
    folder = os.path.join(tmp, "odd")
    rows, signals = make_folder(folder, 14)
    path = {i: os.path.join(folder, r["filename_lr"]) for i, r in enumerate(rows, 1)}
    s = {i: x.copy() for i, x in signals.items()}
    order = [3, 0, 1, 2, 5, 4, 6, 7, 8, 9, 10, 11]  # aVF before aVL, and names in other cases
    write_record(path[1], s[1][order], [LEADS[k].swapcase() for k in order])
    write_record(path[2], s[2], gain=200.0, baseline=7)
    s[3][4] *= 10  # 30 mV at gain 1000: fits
    write_record(path[3], s[3] // 10, gain=50.0)  # 60 mV peaks: do not fit at 1 uV
    s[4][0, :5] = s[4][0, 500:502] = s[4][1, 990:] = INVALID
    s[4][2] = INVALID
    write_record(path[4], s[4])
    write_record(path[5], s[5][:11], LEADS[:11])
    s[6][3] = 123
    write_record(path[6], s[6])
    write_record(path[7], s[7][:, :900])
    os.truncate(path[8] + ".dat", 23998)
    write_record(path[9], s[9], checksum=1)
    write_record(path[10], s[10], rate=500)
    write_record(path[11], s[11], ["V7"] * 12)
    write_record(path[12], s[12], LEADS[:11] + ["I"])
    with open(path[13] + ".hea", "w") as f:
        f.write("no header\n")
    rows.append(row_of(15, CODES[0], 1))
    write_tables(folder, rows)
    path[15] = os.path.join(folder, rows[-1]["filename_lr"])
    write_record(path[15], np.zeros((12, 1001), np.int16))
    os.remove(path[14] + ".dat")
    out = f"{tmp}/odd_out"
    fails(69, "1 of 15 records of " + folder + " are missing, the first of them "
          "records100/00000/00014_lr.dat", "ptbxl", folder, out)
    check(not os.path.exists(out), "a refused import writes nothing")
    code, text, err = run("data", "import", "ptbxl", folder, out, "--allow-missing", "--workers", "3")
    check(code == 0 and "7 of 15 records imported" in text and "missing:  1" in text and
          "rejected: 7" in text, f"summary: {text}{err}")
    c = Corpus(out)
    check(np.array_equal(c.signal(1), s[1]), "leads by name, whatever their case and order")
    check(np.array_equal(c.signal(2), (s[2].astype(int) - 7) * 5), "gain 200, baseline 7: 5 uV a unit")
    mv, scale = (s[3] // 10) / 50.0, c.column["scale"][c.at(3)][:, None].astype(float)
    check(np.all(np.abs(c.signal(3) * scale - mv) <= 0.5001 * scale), "a larger LSB where it is needed")
    check(np.all((scale[:, 0] > 0.0011) == (np.abs(mv).max(1) > 32.767)) and
          np.all(np.abs(c.signal(3).astype(int)).max(1)[scale[:, 0] > 0.0011] == 32767), "nothing clips")
    x = s[4].astype(float)
    x[x == INVALID] = np.nan
    for k in (0, 1):
        good = ~np.isnan(x[k])
        x[k] = np.interp(np.arange(1000), np.arange(1000)[good], x[k][good])
    rest = [k for k in range(12) if k != 2]
    check(np.all(np.abs(c.signal(4)[rest] - x[rest]) <= 0.5) and np.all(c.signal(4)[2] == INVALID) and
          c.column["lead_mask"][c.at(4)] == 4095 - 4 and c.column["quality"][c.at(4)] == FLAG_INVALID,
          "invalid samples are interpolated, a lead without any is absent")
    check(np.all(c.signal(5)[11] == INVALID) and np.array_equal(c.signal(5)[:11], s[5][:11]) and
          c.column["lead_mask"][c.at(5)] == 2047 and c.column["quality"][c.at(5)] == 0, "lead missing")
    check(c.column["quality"][c.at(6)] == FLAG_FLAT, "flat lead")
    check(c.column["length"][c.at(7)] == 900 and np.all(c.signal(7)[:, 900:] == INVALID) and
          np.array_equal(c.signal(7)[:, :900], s[7][:, :900]), "short record")
    why = {p["record"][-8:-3]: (p["problem"], p["why"], p["line"]) for p in c.report["problems"]}
    for i, problem, text in ((14, "missing", "its .dat file is not there"),
                             (8, "rejected", "need 24000 bytes, the file has 23998"),
                             (9, "rejected", "00009_lr.hea:2: checksum of signal 0 'I'"),
                             (10, "rejected", "500 samples per second, 100 were expected"),
                             (11, "rejected", "none of its 12 signals"),
                             (12, "rejected", "signals 0 and 11 are both lead I"),
                             (13, "rejected", "00013_lr.hea:1:4: number of signals 'header'"),
                             (15, "rejected", "has 1001 samples, at most 1000 were expected")):
        got = why.get(f"{i:05d}", ("", "", 0))
        check(got[0] == problem and text in got[1], f"report of record {i}: {got}")
    check(len(why) == 10 and c.report["missing"] == 1 and c.report["rejected"] == 7 and
          c.report["incomplete"] == 2, "report: counts")
    check(why["00004"][:2] == ("leads", "no signal in III") and why["00005"][:2] == ("leads", "no signal in V6"),
          f"report: leads {why['00004']} {why['00005']}")
    code, text, err = run("data", "import", "ptbxl", folder, f"{tmp}/odd_z", "norm=record", "--allow-missing")
    z = {p["record"][-8:-3]: p["why"] for p in Corpus(f"{tmp}/odd_z").report["problems"]}
    check(code == 0 and "leads:    3 records without a signal" in text and
          z["00006"] == "no signal in aVR (a lead is constant)", f"a constant lead is reported: {text}{z.get('00006')}")
    check(why["00008"][2] == 16, "report: line of the table (each row has a line break in it)")
    for i in range(1, 16):
        for suffix in (".hea", ".dat"):
            if os.path.exists(path[i] + suffix):
                os.truncate(path[i] + suffix, 0)
    fails(65, f"{tmp}/nothing/import_report.json tells why. The first: {folder}/records", "ptbxl", folder, f"{tmp}/nothing", "--allow-missing")
    check(not os.path.exists(f"{tmp}/nothing/corpus.json"), "no corpus of nothing")


def bad_tables(tmp):
    folder, out = os.path.join(tmp, "tables"), f"{tmp}/tables_out"
    rows, _ = make_folder(folder, 3)

    def table_fails(message, columns=COLUMNS, statements=STATEMENTS, **change):
        write_tables(folder, [dict(rows[0], **change), rows[1], rows[2]], columns, statements)
        fails(65, message, "ptbxl", folder, out)

    table_fails("ptbxl_database.csv has no column 'strat_fold'; it has 'ecg_id', 'patient_id', 'age'",
                columns=[c for c in COLUMNS if c != "strat_fold"])
    table_fails("scp_statements.csv has no column 'rhythm'; it has ''",
                statements=STATEMENTS.replace(",rhythm", ",rythm"))
    table_fails("column 'scp_codes': statement 'XYZ' is not in scp_statements.csv",
                scp_codes="{'XYZ': 0.0}")
    table_fails("column 'scp_codes': ':' was expected after 'SR'", scp_codes="{'SR'}")
    table_fails("column 'age': 'old' is not a number", age="old")
    table_fails("column 'age': -1 is outside of 0 to 300", age="-1")
    table_fails("column 'sex': 2 is outside of 0 to 1", sex="2")
    table_fails("column 'strat_fold': fold 11; 1 to 10", strat_fold="11")
    table_fails("column 'ecg_id': '' is not a whole number", ecg_id="")
    table_fails("ecg_id 2 is in lines 2 and 4", ecg_id="2")
    table_fails("column 'filename_lr': '/etc/passwd' is outside of the folder", filename_lr="/etc/passwd")
    table_fails("column 'filename_lr': 'records100/../../x' is outside of the folder",
                filename_lr="records100/../../x")
    table_fails("diagnostic statement 'NORM' needs a class", statements=STATEMENTS.replace(
        "1.0,,,NORM,NORM", "1.0,,,,NORM"))
    table_fails("column 'form': 1 or nothing was expected", statements=STATEMENTS.replace(
        "1.0,1.0,,STTC", "1.0,2.0,,STTC"))
    table_fails("statement 'SR' is there twice", statements=STATEMENTS + "SR,again,,,1.0,,\n")
    write_tables(folder, [])
    fails(65, "ptbxl_database.csv has no rows", "ptbxl", folder, out)
    os.remove(folder + "/scp_statements.csv")
    write_tables(folder + "2", rows)
    os.remove(folder + "2/scp_statements.csv")
    fails(74, "scp_statements.csv: No such file", "ptbxl", folder + "2", out)
    fails(74, "ptbxl_database.csv: No such file", "ptbxl", tmp, out)
    check(not os.path.exists(out), "tables are checked before anything is written")
    fails(2, "data import needs a source; the sources that can be imported are: ptbxl")
    fails(2, "unknown source 'edf'", "edf", folder, out)
    fails(2, "takes the folder of PTB-XL", "ptbxl", folder, "rate=100")
    fails(2, "rate=0: rate=HZ takes 10 to 2000", "ptbxl", folder, out, "rate=0")
    fails(2, "norm=z: rate=HZ takes", "ptbxl", folder, out, "norm=z")
    fails(2, "a band-pass of 0.5 to 60 Hz at 100 Hz", "ptbxl", folder, out, "band=0.5-60")
    fails(2, "'crop=10' is not a setting", "ptbxl", folder, out, "crop=10")
    for folds in ("0", "11", "1,", ",1", "1;2", "", "one"):
        fails(2, "--folds", "ptbxl", folder, out, "--folds", folds)
    fails(2, "--workers 0: a whole number from 1", "ptbxl", folder, out, "--workers", "0")


def prepared(tmp):
    """band, norm and other rates: as SciPy computes them from the same samples."""
    from scipy import signal as sp
    folder, rng = f"{tmp}/prepared", np.random.default_rng(5)
    rows = [row_of(i, CODES[i % len(CODES)], i % 10 + 1, "50.0", "1") for i in range(1, 4)]
    t = np.arange(5000) / 500
    x = {}
    for i, row in enumerate(rows, 1):
        x[i] = np.round(400 * np.sin(2 * np.pi * (1 + i) * t) + 900 * np.sin(2 * np.pi * 0.1 * t) +
                        rng.normal(0, 60, (12, 5000))).astype(np.int16)
        if i == 2:
            x[i][3] = 500  # constant: it has no deviation to be divided by
            x[i][7, 100:140] = -32768  # WFDB's "no value"
        write_record(os.path.join(folder, row["filename_hr"]), x[i], rate=500)
        write_record(os.path.join(folder, row["filename_lr"]), x[i][:, ::5])
    write_tables(folder, rows)

    def expected(raw, rate, band, norm):
        y = raw.astype(float) / 1000
        gaps = raw == -32768
        y[gaps] = np.interp(np.flatnonzero(gaps), np.flatnonzero(~gaps), y[~gaps])
        if rate != 500:
            y = sp.resample_poly(y, rate, 500, padtype="mean")
        y = sp.sosfiltfilt(sp.butter(4, band, "bandpass", fs=rate, output="sos"), y)
        return (y - y.mean()) / y.std() if norm else y

    for rate, norm in (250, True), (250, False), (500, False):
        for workers in 1, 2:
            out = f"{tmp}/prepared_{rate}_{norm}_{workers}"
            code, _, err = run("data", "import", "ptbxl", folder, out, f"rate={rate}", "band=0.67-40",
                               f"norm={'record' if norm else 'none'}", "--workers", str(workers), "-q")
            check(code == 0, f"prepared: {err}")
        check(hashes(f"{tmp}/prepared_{rate}_{norm}_1") == hashes(f"{tmp}/prepared_{rate}_{norm}_2"), "workers change the corpus")
        c = Corpus(out)
        check(c.about["units"] == ("std" if norm else "mV") and
              "Butterworth 0.67 to 40 Hz, order 4, forwards and backwards" in c.about["preprocessing"] and
              ("resampled from 500 Hz" in c.about["preprocessing"]) == (rate == 250) and
              ("(x - mean) / std" in c.about["preprocessing"]) == norm, f"prepared: {c.about}")
        for i in x:
            k = c.id.index(f"{i:05d}_hr")
            mask = int(c.column["lead_mask"][k])
            check(mask == (0xfff & ~8 if norm and i == 2 else 0xfff), f"prepared: leads of {i}: {mask:#x}")
            check(c.column["length"][k] == 10 * rate, "prepared: length")
            flags = FLAG_FLAT | FLAG_INVALID if i == 2 else 0
            check(int(c.column["quality"][k]) == flags, f"prepared: quality of {i}: {c.column['quality'][k]}")
            for lead in range(12):
                if not mask >> lead & 1:
                    continue
                got = c.column["signal"][k, lead, :10 * rate] * float(c.column["scale"][k][lead])
                off = np.abs(got - expected(x[i][lead], rate, [0.67, 40], norm)).max()
                check(off <= 0.501 * float(c.column["scale"][k][lead]) + 1e-6,
                      f"prepared: record {i}, lead {lead} at {rate} Hz is off by {off}")


def interrupted(tmp):
    """Killed half-way: nothing looks valid, no process stays, and it can be started again."""
    folder, out = os.path.join(tmp, "long"), f"{tmp}/long_out"
    rows, _ = make_folder(folder, 20)
    many = [dict(rows[i % 20], ecg_id=str(i)) for i in range(5000)]  # 20 records, read many times
    write_tables(folder, many)
    arguments = ["data", "import", "ptbxl", folder, out, "--workers", "2", "--shard-records", "500"]
    for how in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        for _ in range(20):  # a busy machine may look away until the import is over: then again
            third = f"{out}/shard-00002.h5"  # what else the one before left stays
            if os.path.exists(third):
                os.remove(third)
            p = subprocess.Popen([PURKINJE, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not os.path.exists(third) and p.poll() is None:
                time.sleep(0.005)
            p.send_signal(how)
            code = p.wait(timeout=60)
            if code != 0:
                break
            shutil.rmtree(out)
        check(code == -how, f"interrupted by {how}: {code}")
        check(os.listdir(out) and not os.path.exists(f"{out}/corpus.json"), "an unfinished corpus "
              "has no corpus.json")
        for _ in range(600):
            left = [q for q in glob.glob("/proc/[0-9]*/cmdline") if out.encode() in read(q)]
            if not left:
                break
            time.sleep(0.05)
        check(not left, f"workers outlive the import: {left}")
    code, text, err = run(*arguments)
    check(code == 0 and "5000 of 5000" in text, f"started again: {text}{err}")
    check(run("data", "import", "ptbxl", folder, f"{tmp}/long_clean", "--shard-records", "500")[0] == 0,
          "clean import")
    check(hashes(out) == hashes(f"{tmp}/long_clean"), "restarted and clean imports are the same")


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def examples(tmp):
    """Every command that --help shows, in a folder that has what they name."""
    rng = np.random.default_rng(5)
    rows, _ = make_folder(os.path.join(tmp, "ptb-xl-1.0.3"), 20)
    for r in rows[:6]:
        write_record(os.path.join(tmp, "ptb-xl-1.0.3", r["filename_hr"]),
                     rng.integers(-3000, 3000, (12, 5000)).astype(np.int16), rate=500)
    for r in rows:
        if r["strat_fold"] == "10":
            os.remove(os.path.join(tmp, "ptb-xl-1.0.3", r["filename_lr"] + ".hea"))
    beats = np.sin(np.arange(2500) / 16).round(4)  # for the examples of PPG sources
    for folder, name in (("bidmc_csv", "bidmc_01_Signals.csv"), ("my_folder", "a.csv")):
        os.makedirs(os.path.join(tmp, folder))
        with open(os.path.join(tmp, folder, name), "w") as f:
            f.write("Time [s], PLETH, II\n" + "".join(
                f"{i / 125},{v},{v / 2}\n" for i, v in enumerate(beats)))
    with open(os.path.join(tmp, "my_ppg.yaml"), "w") as f:
        f.write("name: mine\nrate: 125 Hz\nleads: [{name: PPG, column: PLETH}]\n")
    for command in ("import", "dump"):
        code, text, _ = run("data", command, "--help")
        shown = [line.strip().split()[1:] for line in text.split("examples:")[1].splitlines()
                 if line.startswith("  purkinje ")]
        check(code == 0 and len(shown) >= 2, f"--help of data {command}")
        for words in shown:
            code, _, err = run(*words, cwd=tmp)
            check(code == 0, f"example {' '.join(words)}: {err}")
    check(len(Corpus(os.path.join(tmp, "corpus_100hz")).id) == 18, "example at 100 Hz")
    c = Corpus(os.path.join(tmp, "corpus_500hz"))
    check(c.column["signal"].shape == (6, 12, 5120) and c.report["missing"] == 14, "example at 500 Hz")
    check(np.load(os.path.join(tmp, "samples.npy")).shape == (12, 1000), "example of data dump")


def official(tmp):
    """The official tables with invented waveforms for some rows: all labels derived again."""
    source = shared_data.folder("ptb-xl")
    if not source:
        return
    folder = os.path.join(tmp, "official")
    os.makedirs(folder)
    for name in ("ptbxl_database.csv", "scp_statements.csv"):
        os.symlink(os.path.abspath(os.path.join(source, name)), os.path.join(folder, name))
    with open(folder + "/ptbxl_database.csv", newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    chosen = rows[::20]
    flat = np.zeros((12, 1000), np.int16)
    for r in chosen:
        write_record(os.path.join(folder, r["filename_lr"]), flat)
    code, text, err = run("data", "import", "ptbxl", folder, f"{tmp}/official_out", "--allow-missing")
    check(code == 0 and f"{len(chosen)} of 21799" in text and "PTB-XL 1.0.3" in text, f"{text}{err}")
    c = Corpus(f"{tmp}/official_out")
    check_labels(c, folder, chosen, "official")
    check([len(c.classes[t]) for t in TASKS] == [71, 44, 23, 5, 19, 12], "number of classes")
    ages = np.array([float(r["age"]) for r in chosen])  # 300 is how the table writes "over 89"
    check((ages == 300).any() and np.array_equal(c.target["age"], np.where(ages > 89, np.nan, ages), equal_nan=True), "ages")
    by_patient = {}
    for r, p in zip(chosen, c.column["patient_id"]):
        by_patient.setdefault(r["patient_id"], set()).add(int(p))
    check(all(len(v) == 1 for v in by_patient.values()) and
          len(set.union(*by_patient.values())) == len(by_patient), "one hash for each patient")
    print(f"{len(chosen)} rows of the official table: labels of all six tasks equal")
    validation_fold(tmp, source)


def validation_fold(tmp, source):
    """Fold 9 as it is: every sample, and the rate."""
    folder = os.path.join(tmp, "fold9")
    subprocess.run([sys.executable, source + "/unpack.py", folder, "9"], check=True,
                   stdout=subprocess.DEVNULL)
    code, text, err = run("data", "import", "ptbxl", folder, f"{tmp}/fold9_out", "--folds", "9")
    check(code == 0 and "2183 of 2183" in text, f"{text}{err}")
    c = Corpus(f"{tmp}/fold9_out")
    with open(folder + "/ptbxl_database.csv", newline="", encoding="utf-8") as f:
        rows = [r for r in csv.DictReader(f) if r["strat_fold"] == "9"]
    wrong = sum(not np.array_equal(np.fromfile(f"{folder}/{r['filename_lr']}.dat", "<i2").reshape(
        1000, 12).T, x) for r, x in zip(rows, c.column["signal"][:, :, :1000]))
    check(wrong == 0 and np.all(c.column["scale"] == np.float32(0.001)), f"{wrong} records differ")
    check_labels(c, folder, rows, "fold 9")
    print("2183 records of fold 9: every sample equal")


def main():
    for test in (imports, odd_records, bad_tables, prepared, interrupted, examples, official):
        with tempfile.TemporaryDirectory() as tmp:
            test(tmp)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
