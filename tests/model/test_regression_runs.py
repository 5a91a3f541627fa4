"""Regression from the command line: every loss learns two targets, one of them missing in places; scores are those of
scikit-learn on the written predictions, the level of chance is the training mean's; a run resumes to the same bits;
eval, embed, an export and PyTorch repeat its predictions; what cannot be learned is refused."""
import json
import math
import os
import sys

import h5py
import numpy as np
from sklearn import metrics as sk

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import expect, good, refused  # noqa: E402

STEPS = 16
SMALL = ["finetune", "regress_demo", "data.targets=[heart_rate, age]", "data.synthetic.records=200",
         "data.synthetic.seconds=4", "data.crop=2s", "evaluation.window=2s", "evaluation.stride=1s",
         "model.encoder.channels=8", "train.batch_size=32", "train.threads=2", "evaluation.every=4",
         "evaluation.bootstrap=50", f"stages.0.steps={STEPS}", "stages.0.learning_rate.warmup=0",
         "stages.0.learning_rate.peak=1e-2", "--quiet"]
LOSSES = {"mse": ["objective.loss=mse"], "mae": ["objective.loss=mae"],
          "huber": ["objective.loss=huber", "objective.delta=0.5"],
          "mae of a transformer": ["objective.loss=mae"]}
VIT = ["finetune", "finetune_scratch", "objective.kind=regress", "data.corpus=", "data.rate=100Hz",
       "model.encoder.width=16", "model.encoder.depth=1", "model.encoder.heads=2", "model.encoder.patch=50ms",
       "stages.0.patience=0", *[a for a in SMALL[2:] if not a.startswith("model.encoder")]]


def train(out, *more, base=SMALL):
    good(*base, *more, f"output.dir={out}")
    return [line for line in runs.metrics(out) if line["kind"] == "validation"]


def load(out, split):
    return (np.load(f"{out}/{split}_predictions.npy").astype(float), np.load(f"{out}/{split}_targets.npy").astype(float))


def check_losses(root):
    for name, more in LOSSES.items():
        lines = train(f"{root}/{name}", *more, base=VIT if "transformer" in name else SMALL)
        loss = [line["loss"] for line in lines]
        expect(len(loss) == STEPS // 4 and all(math.isfinite(x) for x in loss), f"{name}: {loss}")
        expect(loss[-1] < loss[0], f"{name} learns nothing: {loss}")
        expect(lines[-1]["best_rmse"] == min(line["rmse"] for line in lines), f"{name}: {lines}")


def check_scores(root):
    """The numbers of result.json from the files beside it."""
    out = f"{root}/mse"
    result = json.load(open(f"{out}/result.json"))
    expect(result["protocol"]["targets"] == ["heart_rate", "age"], result["protocol"])
    for split in "validation", "test":
        p, y = load(out, split)
        in_deviations = []
        expect(np.isnan(y[:, 1]).sum() > 0 and not np.isnan(y[:, 0]).any(), "age must be missing somewhere")
        for k, target in enumerate(result[split]["targets"]):
            known = ~np.isnan(y[:, k])
            a, b, have = y[known, k], p[known, k], target["scores"]
            want = {"rows": known.sum(), "mae": sk.mean_absolute_error(a, b), "r2": sk.r2_score(a, b),
                    "rmse": math.sqrt(sk.mean_squared_error(a, b)), "pearson_r": np.corrcoef(a, b)[0, 1]}
            for key, value in want.items():
                expect(abs(have[key] - value) <= 1e-9 * abs(value), f"{split} {key}: {have[key]}, not {value}")
            level = np.full_like(a, target["training_mean"])
            chance = target["chance"]["training_mean"]["mae"]
            expect(abs(chance - sk.mean_absolute_error(a, level)) < 1e-9, f"{split}: chance {chance}")
            low, high = have["interval_95"]["mae"]
            expect(low < have["mae"] < high, f"{split}: interval {low} {high}")
            expect(have["subjects"] < have["rows"], "patients have several records")
            in_deviations.append(want["rmse"] / target["training_std"])
        have = result[split]["rmse_in_deviations"]
        expect(abs(have - np.mean(in_deviations)) < 1e-12, f"{split}: {have}, not {in_deviations}")
    best = [line["best_rmse"] for line in runs.metrics(out) if line["kind"] == "validation"][-1]
    expect(abs(best - result["validation"]["rmse_in_deviations"]) < 1e-9, f"the best weights were not kept: {best}")


def check_learned(root):
    """Heart rate can be read off the signal: with a few more steps it is far better than the mean."""
    out = f"{root}/learned"
    train(out, "stages.0.steps=120", "data.targets=[heart_rate]", "data.synthetic.records=400", "evaluation.every=40")
    target = json.load(open(f"{out}/result.json"))["test"]["targets"][0]
    expect(target["chance"]["verdict"] == "better than chance", target["chance"]["verdict"])
    expect(target["scores"]["mae"] < 0.5 * target["chance"]["training_mean"]["mae"], target["scores"])


def check_elsewhere(root):
    """eval, embed and an export give what the run gave, on the run's own records."""
    out, exported = f"{root}/mse", f"{root}/exported"
    good("data", "synth", f"{root}/corpus", "--records", "200", "--seconds", "4", "--rate", "100", "--seed", "2")
    result = json.load(open(f"{out}/result.json"))
    good("export", out, exported)
    for model in out, exported:
        have = json.loads(good("eval", model, f"{root}/corpus", "--folds", "10", "--json", "--bootstrap", "0").stdout)
        for a, b in zip(have["result"]["targets"], result["test"]["targets"]):
            expect(a["scores"]["mae"] == b["scores"]["mae"], f"eval {model}: {a['scores']}, not {b['scores']}")
    good("embed", exported, f"{root}/corpus", f"{root}/e.h5", "--folds", "10")
    with h5py.File(f"{root}/e.h5") as f:
        p = f["predictions"][:]
    expect(np.array_equal(p, np.load(f"{out}/test_predictions.npy")), "embed writes other predictions")
    card = open(f"{exported}/README.md").read()
    expect("| `age` |" in card and "ecg-regression" in card and "MAE of the training mean" in card, card)
    refused(2, ["the model predicts numbers (heart_rate, ...)"], "eval", out, f"{root}/corpus", "--task", "rhythm",
            "--folds", "10")
    check_torch(root, exported)


def check_torch(root, exported):
    sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "docs", "examples"))
    import load_model
    import torch
    with h5py.File([e.path for e in os.scandir(f"{root}/corpus") if e.name.endswith(".h5")][0]) as f:
        raw = f["signal"][:, :, :400]
        mv = np.where(raw == -32768, np.nan, raw * f["scale"][:][:, :, None])[f["fold"][:] == 10]
    model = load_model.Model(exported)
    mv = torch.from_numpy(mv.astype(np.float32))
    with torch.no_grad():
        have = model.of_record(model.targets, mv).numpy()
    want = np.load(f"{root}/mse/test_predictions.npy")
    expect(np.allclose(have, want, rtol=1e-4, atol=1e-3), f"PyTorch: {np.abs(have - want).max()}")


def check_resume(root):
    more = ["output.checkpoint.every=4", "output.checkpoint.keep_last=9", "objective.head.kind=concat_pool"]
    train(f"{root}/whole", *more)
    runs.same_from(root, 8, 12, 16)


def check_two_stages(root):
    """Any protocol of classification becomes a regression by two keys."""
    good(*runs.JEPA, f"output.dir={root}/jepa", "train.steps=2", "train.learning_rate.warmup=1", "--quiet")
    classify = [a for a in runs.CLASSIFY if not a.startswith("data.task")]
    good(*classify, "objective.kind=regress", "data.targets=[age]", f"init_from={root}/jepa",
         f"output.dir={root}/two", "--quiet")
    expect(len(json.load(open(f"{root}/two/result.json"))["validation"]["targets"]) == 1, "no result")


def check_refusals(root):
    out = f"output.dir={root}/none"
    for code, more, words in (
            (2, ["objective.loss=bce"], "'objective.loss: bce' is of 'objective.kind: classify'"),
            (2, ["objective.kind=classify", "data.task=rhythm"], "'data.targets' has no meaning when objective.kind is classify"),
            (2, ["evaluation.metric=macro_auc"], "'evaluation.metric: macro_auc' is of 'objective.kind: classify'"),
            (2, ["objective.mixup=0.2"], "has no meaning when objective.kind is regress"),
            (2, ["data.task=rhythm"], "has no meaning when objective.kind is regress"),
            (2, ["objective.loss=mse", "objective.delta=2"], "'objective.delta' is of the loss huber, not of 'mse'"),
            (2, ["data.targets=[age, age]"], "target 'age' is in 'data.targets' twice"),
            (2, ["data.targets=[]"], "takes 1 to 16 elements"),
            (65, ["data.targets=[agee]"], "has no target 'agee'; it has: heart_rate, age")):
        refused(code, [words], *SMALL, *more, out)
    expect(not os.path.exists(f"{root}/none"), "a refused recipe left a folder")


def check_values(root):
    """Targets out of range: infinite, all alike, hardly any."""
    corpus = f"{root}/bad"
    good("data", "synth", corpus, "--records", "60", "--seconds", "4", "--rate", "100")
    shard = [e.path for e in os.scandir(corpus) if e.name.endswith(".h5")][0]
    more = [f"data.corpus={corpus}", f"output.dir={root}/none"]
    base = [a for a in VIT if not a.startswith(("data.synthetic", "data.corpus"))]
    with h5py.File(shard) as f:
        kept = f["targets/age"][:]
    for values, words in ((np.where(np.arange(60) == 7, np.inf, kept), "of record synth-0000007 is infinite"),
                          (np.full(60, 50), "target 'age' is 50 in all"),
                          (np.where(np.arange(60) == 3, 50, np.nan), "values among the training records")):
        with h5py.File(shard, "r+") as f:
            f["targets/age"][:] = values
        runs.sign(corpus)
        refused(65, [words], *base, *more, "data.targets=[age]")


def main():
    with runs.scratch() as root:
        check_losses(root)
        check_scores(root)
        check_learned(root)
        check_elsewhere(root)
        check_resume(root)
        check_two_stages(root)
        check_refusals(root)
        check_values(root)
    sys.exit(1 if runs.failures else 0)


main()
