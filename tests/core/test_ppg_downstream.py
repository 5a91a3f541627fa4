"""tools/ppg_downstream at a tiny size, and the words of eval linear: scores, errors and the verdict beside chance are
computed again with numpy from what eval linear saves, a subject on both sides is refused, and the real PPG-BP files, where
they are, give the table of blood pressure, heart rate and hypertension."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import expect, good  # noqa: E402
sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests"))
import shared_data  # noqa: E402

try:
    import numpy as np
except ImportError:
    print("skipped: needs numpy")
    sys.exit(77)

SOURCE = os.environ["PK_SOURCE_DIR"]
PPG_BP = shared_data.folder("ppg/ppg-bp")
SMALL = ["data.leads=[PPG]", "model.encoder.width=16", "model.encoder.depth=1", "model.encoder.heads=2",
         "objective.decoder.width=8", "objective.decoder.depth=1", "objective.decoder.heads=2", "train.steps=3",
         "train.batch_size=16", "train.learning_rate.warmup=1", "data.crop=1.92s", "model.encoder.patch=160ms"]


def downstream(*words, code=0):
    r = subprocess.run([sys.executable, f"{SOURCE}/tools/ppg_downstream", *words], capture_output=True, text=True,
                       env=runs.ENV, timeout=120)
    expect(r.returncode == code, f"ppg_downstream {words}: exit {r.returncode}: {r.stderr[-800:]}")
    return r


def check_numbers(out, row):
    """MAE, RMSE, r and the gap to the mean from the saved predictions."""
    folder = f"{out}/{row['name']}.{row['encoder']}"
    y, p = np.load(f"{folder}/targets.npy"), np.load(f"{folder}/scores-100.npy").ravel()
    with open(f"{folder}/result.json", encoding="utf-8") as f:
        chance = json.load(f)["results"][0]["chance"]
    expect(abs(np.abs(p - y).mean() - row["value"]) < 1e-9, f"MAE {row}")
    expect(abs(np.sqrt(((p - y) ** 2).mean()) - row["rmse"]) < 1e-9, f"RMSE {row}")
    expect(row["r"] is None or abs(np.corrcoef(p, y)[0, 1] - row["r"]) < 1e-9, f"r {row}")
    gap, (low, high) = chance["mae_above_ours"], chance["mae_above_ours_interval_95"]
    expect(abs(row["chance"] - row["value"] - gap) < 1e-9 and low <= gap <= high, f"gap {gap} [{low}, {high}], {row}")
    want = "better" if low > 0 else "worse" if high < 0 else "no better"
    want = "too few test subjects to tell" if row["test_subjects"] < 10 else want + " than chance"
    expect(row["verdict"] == want, f"{row['verdict']}, not {want}")


def check(root, corpus, recipe_words, names, title):
    out = f"{root}/{title}"
    said = downstream("--corpus", corpus, "--recipe", "mae_vit_tiny_ptbxl_100hz", "--out", out, "--bootstrap", "100",
                      "--device", "cpu", *SMALL, *recipe_words).stdout
    with open(f"{out}/table.json", encoding="utf-8") as f:
        rows = json.load(f)
    expect([r["name"] for r in rows] == [n for n in names for _ in range(2)], f"rows {rows}")
    expect([r["encoder"] for r in rows] == ["trained", "random"] * len(names), f"rows {rows}")
    for r in rows:
        expect(r["verdict"] in said and r["interval"][0] <= r["value"] <= r["interval"][1], f"{r}")
        if r["score"] == "MAE":
            check_numbers(out, r)
        else:
            expect(0 < r["value"] < 1 and r["chance"] == 0.5, f"{r}")
    return out


def main():
    with runs.scratch() as root:
        runs.ENV.update(CORPUS=root, RUNS=root, PURKINJE=runs.PROGRAM)
        corpus = f"{root}/pulse"
        good("data", "synth", corpus, "--ppg", "--records", "120", "--rate", "100", "--seconds", "4", "-q")
        out = check(root, corpus, [], ["heart_rate"], "synthetic")
        words = ["eval", "linear", f"{out}/run", corpus, "--test", "9,10", "--bootstrap", "50"]
        said = good(*words, "--target", "heart_rate").stdout
        expect("in words: MAE" in said and "beats/min; predicting the mean gives" in said, said)
        said = good(*words, "--task", "rhythm").stdout
        expect("in words: macro AUC" in said and "guessing gives 0.5" in said, said)
        expect("in words" not in good(*words[:-1], "0", "--target", "heart_rate").stdout, "a verdict without an interval")
        few = good("eval", "linear", f"{out}/run", f"{corpus}", "--train", "1-9", "--test", "10", "--target", "heart_rate",
                   "--json").stdout
        few = json.loads(few)
        expect((few["test_subjects"] < 10) == (few["results"][0]["chance"]["verdict"] == "too few test subjects to tell"),
               f"{few['test_subjects']} subjects: {few['results'][0]['chance']['verdict']}")
        downstream("--corpus", corpus, "--model", f"{out}/run", "--out", f"{root}/x", "--targets", "sbp", code=1)
        downstream("--corpus", corpus, "--model", f"{out}/run", "--out", f"{root}/x", "--test", "8,9", code=2)
        if PPG_BP:
            good("data", "import", "ppg-bp", PPG_BP, f"{root}/bp", "-q")
            check(root, f"{root}/bp", ["data.rate=125 Hz"], ["hr", "sbp", "dbp", "hypertension"], "ppg-bp")
        else:
            print("no real PPG-BP here: synthetic only")
    print(f"{len(runs.failures)} failures")
    return 1 if runs.failures else 0


sys.exit(main())
