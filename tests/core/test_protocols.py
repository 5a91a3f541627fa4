"""The evaluation protocols that come along run as documented: rate, leads and encoder from init_from, and
what the protocol promises in result.json. Shortened, on synthetic records and a tiny encoder."""
import json
import os
import re
import subprocess
import sys
import tempfile

PROGRAM = os.environ["PURKINJE"]
ENV = {k: v for k, v in os.environ.items() if k not in ("PURKINJE_RECIPES", "CORPUS", "PRETRAINED")}
failures = []


def purkinje(root, *args, **env):
    return subprocess.run([PROGRAM, *args], cwd=root, capture_output=True, text=True, timeout=120,
                          env={**ENV, **env})


def expect(condition, what):
    if not condition:
        failures.append(what)
        print("failed:", what, flush=True)


def short(root, recipe):
    """Overrides that cut every stage of a recipe to a few steps."""
    text = purkinje(root, "recipe", "show", recipe, PRETRAINED="runs/jepa_demo", CORPUS="/none").stdout
    stages = len(re.findall(r"^    steps: ", text, re.M)) or len(re.findall(r"^\s+-? *freeze_encoder: ", text, re.M))
    expect(stages >= 1, f"{recipe}: no stages in {text[:300]}")
    cut = []
    for i in range(stages):
        cut += [f"stages.{i}.steps=4", f"stages.{i}.learning_rate.warmup=1"]
    return stages, [*cut, "evaluation.every=2", "evaluation.bootstrap=10", "train.batch_size=16"]


def check(root, recipe, run, stages, more):
    r = purkinje(root, "finetune", recipe, *more, f"output.dir={run}", "--quiet")
    if r.returncode != 0:
        expect(False, f"{recipe}: exit {r.returncode}: {r.stderr}")
        return
    with open(os.path.join(root, run, "result.json")) as f:
        result = json.load(f)
    protocol = result["protocol"]
    expect(protocol["rate_hz"] == 100 and protocol["steps"] == 4 * stages, f"{recipe}: {protocol}")
    expect(protocol["selected_stage"] == stages - 1, f"{recipe}: {protocol}")
    test = result.get("test") is not None
    expect(test, f"{recipe}: no test result")
    for split in ("validation", "test"):
        auc = result.get(split, {}).get("macro_auc", -1)
        expect(0 <= auc <= 1, f"{recipe}: macro AUC of {split} is {auc}")
    expect("test: " in r.stdout and r.stdout.endswith(run + "\n"), f"{recipe}: {r.stdout}")
    frozen = "linear" in recipe or "probe" in recipe
    with open(os.path.join(root, run, "recipe.yaml")) as f:
        text = f.read()
    expect(("freeze_encoder: true" in text) == (frozen or stages == 2), f"{recipe}: freeze_encoder")
    again = purkinje(root, "resume", run)
    expect(again.returncode == 0, f"{recipe}: resume: {again.stderr}")
    with open(os.path.join(root, run, "result.json")) as f:
        expect(json.load(f) == result, f"{recipe}: resuming a finished run changes its result")
    print(f"{recipe}: {stages} stages, test macro AUC {result['test']['macro_auc']:.3f}", flush=True)


def main():
    synthetic = ["data.corpus=", "data.synthetic.records=200", "data.task=rhythm"]
    encoder = ["model.encoder.width=16", "model.encoder.depth=1", "model.encoder.heads=2"]
    with tempfile.TemporaryDirectory(prefix="purkinje-protocols-") as root:
        r = purkinje(root, "pretrain", "jepa_demo", *encoder, "train.steps=2", "train.learning_rate.warmup=1",
                     "data.synthetic.records=64", "train.batch_size=16", "--quiet")
        expect(r.returncode == 0 and r.stdout == "runs/jepa_demo\n", f"jepa_demo: {r.stderr}")
        names = json.loads(purkinje(root, "recipe", "ls", "--json").stdout)
        names = [n["name"] for n in names] if isinstance(names, list) else [n["name"] for n in names["recipes"]]
        names = [n for n in names if n.startswith(("finetune_", "probe_"))]
        expect(len(names) >= 6, f"protocols: {names}")
        for name in names:
            stages, cut = short(root, name)
            random = name in ("finetune_scratch", "probe_random")
            more = [*synthetic, *cut]
            if name == "finetune_demo":
                more = ["data.synthetic.records=200", *cut]  # names its data and encoder itself
            elif random:
                more += [*encoder, "data.rate=100Hz", "model.encoder.patch=50ms"]
            else:
                more.append("init_from=runs/jepa_demo")
            check(root, name, f"runs/{name}", stages, more)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


sys.exit(main())
