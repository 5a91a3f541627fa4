"""Every recipe that comes along is valid, can be planned, and trains two steps at its own sizes of signal (rate,
crop, leads), with a network made small where it is large and synthetic records in place of its corpus."""
import json
import os
import sys

import yaml

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import expect, good  # noqa: E402

SMALL_VIT = ["model.encoder.width=16", "model.encoder.depth=1", "model.encoder.heads=2"]
SMALL = {"jepa": ["objective.predictor.width=16", "objective.predictor.depth=1", "objective.predictor.heads=2"],
         "mae": ["objective.decoder.width=8", "objective.decoder.depth=1", "objective.decoder.heads=2"],
         "contrastive": ["objective.projection.hidden=16", "objective.projection.width=8"]}


def flatten(node, prefix=""):
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        sections = isinstance(value, list) and value and isinstance(value[0], dict)
        if (isinstance(value, dict) and value) or sections:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def settings(name):
    """key -> value of a resolved recipe."""
    return dict(flatten(yaml.safe_load(good("recipe", "show", name).stdout)))


def seconds(text):
    number, unit = str(text).split()
    return float(number) * {"s": 1, "ms": 1e-3, "min": 60, "h": 3600}[unit]


def data_of(have):
    """Synthetic records in place of a corpus, long enough for two crops one after the other."""
    length = max(10, 2 * seconds(have["data.crop"]))
    return [] if "data.synthetic.records" in have else [
        "data.corpus=", "data.mixture={}", "data.folds.train=[]", "data.folds.validation=[9]", "data.folds.test=[10]",
        f"data.synthetic.seconds={length}"]


def dry_run(root, name):
    have = settings(name)
    kind, out = have["objective.kind"], f"{root}/{name}"
    more = [*data_of(have), "data.synthetic.records=80", "train.precision=fp32", f"output.dir={out}", "--quiet"]
    if have["model.encoder.kind"] == "vit" and not have["init_from"]:
        more += SMALL_VIT
    if kind in ("classify", "regress"):
        more += ["data.task=rhythm" if kind == "classify" else "data.targets=[heart_rate]"]
        more += ["train.batch_size=8", "evaluation.every=2", "evaluation.bootstrap=5"]
        stages = sorted({k.split(".")[1] for k in have if k.startswith("stages.")})
        for i in stages:
            more += [f"stages.{i}.steps=2", f"stages.{i}.learning_rate.warmup=0"]
        if have.get("init_from"):
            more += [f"init_from={root}/jepa_demo"]
        elif not have.get("data.rate"):
            more += ["data.rate=100Hz", "model.encoder.patch=50ms"]
        good("finetune", name, *more, "--device", "cpu")
        expect(os.path.exists(f"{out}/result.json"), f"{name}: no result")
        return
    if "PPG" in str(have.get("data.leads")) and "V1" in str(have.get("data.leads")):
        more += ["data.leads=[]"]  # of a joined corpus; synthetic records have one kind of signal
    ppg = kind == "contrastive" and "PPG" in str(have.get("data.leads"))
    more += ["data.synthetic.ppg=true"] if ppg else []
    good("pretrain", name, *more, *SMALL[kind], "train.steps=2", "train.batch_size=8", "train.accumulate=1",
         "train.learning_rate.warmup=1", "--device", "cpu")
    line = runs.metrics(out)[-1]
    expect(line["step"] == 2 and 0 < line["loss"] < 100, f"{name}: {line}")


def main():
    names = json.loads(good("recipe", "ls", "--json").stdout)
    names = [n["name"] for n in (names if isinstance(names, list) else names["recipes"])]
    expect(len(names) >= 19 and "jepa_demo" in names, f"recipes: {names}")
    with runs.scratch() as root:
        # The encoder that the protocols start from comes first.
        for name in ["jepa_demo"] + [n for n in names if n != "jepa_demo"]:
            good("recipe", "validate", name)
            dry_run(root, name)
    sys.exit(1 if runs.failures else 0)


main()
