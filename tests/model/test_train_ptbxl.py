"""tools/train_ptbxl at toy size: every phase on an invented PTB-XL folder, on the CPU; stopped by a signal in the middle
and started again; run a third time, when nothing is left to do."""
import csv
import json
import math
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time

PROGRAM, SOURCE = os.environ["PURKINJE"], os.environ["PK_SOURCE_DIR"]
SCRIPT = os.path.join(SOURCE, "tools", "train_ptbxl")
LEADS = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()
COLUMNS = ("ecg_id patient_id age sex height report scp_codes strat_fold filename_lr filename_hr").split()
STATEMENTS = """,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal ECG,1.0,,,NORM,NORM
IMI,inferior,1.0,,,MI,IMI
ABQRS,abnormal QRS,,1.0,,,
SR,sinus rhythm,,,1.0,,
"""
STEPS, EVERY, RECORDS = 6, 3, 90
ENCODER = ["model.encoder.width=16", "model.encoder.depth=1", "model.encoder.heads=2", "objective.predictor.width=16",
           "objective.predictor.depth=1", "objective.predictor.heads=2", "train.precision=fp32", "train.threads=1",
           "train.log_every=1"]
TUNE = ["train.batch_size=8", "train.threads=1", "evaluation.every=4", "evaluation.bootstrap=10"]


def make_folder(folder):
    """Records of a beat a second, inverted where the statement is IMI; fold 10 has no waveforms."""
    random.seed(1)
    rows = []
    for i in range(1, RECORDS + 1):
        sick, fold = i % 3 == 0, i % 10 + 1
        name = f"records100/00000/{i:05d}_lr"
        rows.append(dict(zip(COLUMNS, [i, i, 50, i % 2, "", "", "{'IMI': 100.0, 'ABQRS': 0.0}" if sick else "{'NORM': 100.0, 'SR': 0.0}",
                                       fold, name, name.replace("100/", "500/").replace("_lr", "_hr")])))
        if fold == 10:
            continue
        os.makedirs(os.path.join(folder, "records100/00000"), exist_ok=True)
        samples, sums = [], [0] * 12
        for t in range(1000):
            for lead in range(12):
                beat = 800 * math.exp(-((t - 37 * lead % 50) % 100 - 30) ** 2 / 20)
                v = round((-beat if sick else beat) + random.gauss(0, 40))
                sums[lead] += v
                samples.append(v)
        path = os.path.join(folder, name)
        with open(path + ".dat", "wb") as f:
            f.write(struct.pack(f"<{len(samples)}h", *samples))
        with open(path + ".hea", "w") as f:
            f.write(f"{i:05d}_lr 12 100 1000\n")
            for lead, label in enumerate(LEADS):
                f.write(f"{i:05d}_lr.dat 16 1000.0(0)/mV 16 0 {samples[lead]} {sums[lead] & 0xffff} 0 {label}\n")
    with open(os.path.join(folder, "ptbxl_database.csv"), "w", newline="") as f:
        w = csv.DictWriter(f, COLUMNS)
        w.writeheader()
        w.writerows(rows)
    with open(os.path.join(folder, "scp_statements.csv"), "w") as f:
        f.write(STATEMENTS)


def command(*more):
    words = [SCRIPT, "--data", "ptbxl", "--work", "work", "--keep", "kept", "--program", PROGRAM, "--device", "cpu",
             "--steps", str(STEPS), "--batch", "8", "--every", str(EVERY), "--probe-steps", "12",
             "--tune-steps", "4",
             "--tasks", "superdiagnostic,all", *more]
    for w in ENCODER:
        words += ["--pretrain", w]
    for w in TUNE:
        words += ["--tune", w]
    return words


def steps(folder):
    with open(os.path.join(folder, "metrics.jsonl")) as f:
        return [json.loads(line)["step"] for line in f if '"train"' in line]


def interrupted():
    """A signal in the pretraining: it saves itself, and nothing goes on working."""
    p = subprocess.Popen(command(), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and p.poll() is None and not os.path.exists("work/pretrain/metrics.jsonl"):
        time.sleep(0.005)
    assert p.poll() is None, p.stderr.read()
    p.send_signal(signal.SIGTERM)
    said = p.communicate(timeout=300)[1]
    assert p.returncode == 75 and "the same command goes on" in said, (p.returncode, said)
    state = json.load(open("work/pretrain/run.json"))["state"]
    assert state in ("stopped", "done"), state
    return state


def whole():
    r = subprocess.run(command(), capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, (r.returncode, r.stderr, open("work/log.txt").read()[-3000:])
    assert sorted(set(steps("work/pretrain"))) == list(range(1, STEPS + 1)) == steps("work/pretrain"), steps("work/pretrain")
    table = [line.split("\t") for line in open("work/probes.tsv").read().splitlines()]
    assert [row[0] for row in table] == ["step", "3", "6"], table
    best = max(table[1:], key=lambda row: float(row[1]))
    assert all(0 <= float(v) <= 1 for row in table[1:] for v in row[1:]), table
    for row in table[1:]:
        result = json.load(open(f"work/probe-{int(row[0]):09d}/result.json"))
        assert float(row[1]) == result["validation"]["macro_auc"] and float(row[2]) == result["test"]["macro_auc"], row
        folds = result["protocol"]["folds"]
        assert folds == {"train": [1, 2, 3, 4, 5, 6, 7], "validation": [8], "test": [9]}, folds
    # the first of the highest
    assert f"best encoder: step {best[0]}, validation macro AUC {best[1]}" in r.stderr, (best, r.stderr)
    for task in ("all", "superdiagnostic"):
        protocol = json.load(open(f"work/finetune-{task}/result.json"))["protocol"]
        assert protocol["task"] == task and protocol["init_from"].endswith(f"pretrain/checkpoints/step-{int(best[0]):09d}")
        assert protocol["head"] == "attentive" and protocol["steps"] == 8, protocol
    want = {"model.safetensors", "config.json", "preprocessor_config.json", "README.md", "pretrain.yaml", "probes.tsv",
            "pretrain.metrics.jsonl", "log.txt", "finetune-all.yaml", "finetune-all.json", "finetune-superdiagnostic.yaml",
            "finetune-superdiagnostic.json"}
    assert want <= set(os.listdir("kept")), os.listdir("kept")
    assert os.path.getsize("kept/model.safetensors") < 16e6
    with open("kept/model.safetensors", "rb") as f:  # the weights that were probed best: the encoder's EMA
        kept = f.read()
    with open(f"work/pretrain/checkpoints/step-{int(best[0]):09d}/ema.safetensors", "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        body = f.read()
    name, t = next((n, t) for n, t in header.items() if "blocks.0" in n and "fc1" in n)
    assert body[slice(*t["data_offsets"])] in kept, name
    log = open("kept/log.txt").read()
    assert os.getcwd() not in log and "+ purkinje" in log and "fine-tuned, all: macro AUC" in log, log
    assert "train.steps" in open("kept/pretrain.yaml").read() or "steps:" in open("kept/pretrain.yaml").read()


def nothing_left():
    before = open("work/log.txt").read().count("+ purkinje")
    r = subprocess.run(command("--after"), capture_output=True, text=True, timeout=300)
    assert r.returncode == 0 and open("work/log.txt").read().count("+ purkinje") == before, r.stderr


def refusals():
    for words, code, text in ((["--steps", "ten"], 2, "is no count"), (["--size", "b"], 2, "--size xs or s"),
                              (["--test", "8"], 2, "--test 9 or 10"), (["--program", "nowhere"], 69, "is not there"),
                              (["--colour", "red"], 2, "train_ptbxl --data"), (["--steps"], 2, "train_ptbxl --data")):
        r = subprocess.run([*command(), *words], capture_output=True, text=True)
        assert r.returncode == code and text in r.stderr, (words, r.returncode, r.stderr)
    r = subprocess.run([SCRIPT, "--program", PROGRAM, "--work", "empty"], capture_output=True, text=True)
    assert r.returncode == 2 and "--data" in r.stderr, r.stderr
    r = subprocess.run([SCRIPT, "--program", PROGRAM, "--work", "wrong", "--data", "nowhere"], capture_output=True, text=True)
    assert r.returncode not in (0, 2) and "failed: import" in r.stderr and "nowhere" in r.stderr, (r.returncode, r.stderr)


def main():
    r = subprocess.run([PROGRAM, "data", "info", "nowhere"], capture_output=True, text=True)
    if "without HDF5" in r.stderr:
        print("skipped: this build has no HDF5")
        return 77
    with tempfile.TemporaryDirectory(prefix="purkinje-ptbxl-") as scratch:
        os.chdir(scratch)
        make_folder("ptbxl")
        state = interrupted()
        whole()
        nothing_left()
        refusals()
        os.chdir("/")
    print(f"train_ptbxl: all phases, after an interruption ({state}), and again with nothing to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
