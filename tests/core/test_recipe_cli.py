"""purkinje recipe: the exact text of errors, all recipes valid, all examples of --help run, the protocols'
numbers as published, and the schema's own consistency."""
import glob
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

import yaml

PROGRAM, SOURCE = os.environ["PURKINJE"], os.environ["PK_SOURCE_DIR"]
bad = 0


def check(ok, what):
    global bad
    if not ok:
        bad += 1
        print("failed:", what, file=sys.stderr)


def run(*args, code=0, env=None):
    full = {k: v for k, v in os.environ.items() if k not in ("CORPUS", "RUNS", "PRETRAINED", "PURKINJE_RECIPES")}
    p = subprocess.run([PROGRAM, *args], capture_output=True, text=True, env={**full, **(env or {})}, timeout=60)
    check(p.returncode == code, f"{args}: exit {p.returncode}, expected {code}\n{p.stdout}{p.stderr}")
    return p.stdout, p.stderr


# The recipe of the design paper; its names are the contract.
CONTRACT = """\
# ViT-S JEPA on ten public ECG databases, 12 leads at 500 Hz. One H200: N h (docs/bench/h200.md). Expected: PTB-XL all .945.
schema: 1
extends: [base/vit_s.yaml]
seed: 7
data:
  corpus: ${CORPUS}/ecg_500hz        # or `synthetic: {records: 2000}`, which needs nothing (recipes/jepa_demo.yaml)
  mixture: {mimic-iv-ecg: 0.7, code-15: 0.1, ptb-xl: 0.2}
  rate: 500 Hz
  crop: 10 s
  leads: [I, II, III, aVR, aVL, aVF, V1, V2, V3, V4, V5, V6]
model:
  encoder: {kind: vit, width: 384, depth: 8, heads: 6, patch: 50 ms, registers: 1}
objective:
  kind: jepa
  predictor: {width: 192, depth: 8, heads: 6}
  mask: {min_block: 10, keep: [0.15, 0.25]}
  ema: {start: 0.998, end: 0.9995}
train:
  steps: 100000
  batch_size: 2048                   # records per optimizer step, over all ranks
  precision: bf16
  optimizer: {kind: adamw, beta: [0.9, 0.99], eps: 1e-6, clip: 0}
  learning_rate: {peak: 1e-3, warmup: 10000, start: 1e-6, end: 1e-6, shape: cosine}
  weight_decay: {start: 0.01, end: 0.1, shape: cosine}
output:
  dir: ${RUNS}/jepa_vit_s
  checkpoint: {every: 10000 steps, keep_last: 2}
"""

GOLDEN = """\
error: recipes/mine.yaml:14:3: unknown key 'batchsize' in 'train'
  14 |   batchsize: 2048
     |   ^~~~~~~~~
help: did you mean 'batch_size'? ('purkinje recipe keys train' lists them)
"""

ALL_AT_ONCE = """\
error: recipes/mine.yaml:3:9: 'data.rate' is a frequency and needs a unit, found '500'
  3 |   rate: 500
    |         ^~~
help: write '500 Hz' (units: Hz, kHz)
error: recipes/mine.yaml:5:10: 'data.leads' must be a list, found 'I'
  5 |   leads: I
    |          ^
help: write '[I]'
error: recipes/mine.yaml:6:19: 'jeap' is not a choice of 'objective.kind'
  6 | objective: {kind: jeap}
    |                   ^~~~
help: did you mean 'jepa'? (choices: jepa, mae, contrastive, classify, regress)
error: recipes/mine.yaml:8:16: 'output.tensorboard' must be true or false, found 'no'
  8 |   tensorboard: no
    |                ^~
help: in YAML 1.2 'no' is a text; write false
error: recipes/mine.yaml:9:1: duplicate key 'seed'
  9 | seed: 1
    | ^~~~
help: it is set on line 1 already
error: override 'train.batchsize=1': unknown key 'batchsize' in 'train'
  1 | train.batchsize=1
    |       ^~~~~~~~~
help: did you mean 'batch_size'? ('purkinje recipe keys train' lists them)
error: 1 of 1 recipes is not valid
"""


def golden():
    os.makedirs("recipes", exist_ok=True)
    text = "\n".join(["schema: 1"] + ["#"] * 11 + ["train:", "  batchsize: 2048"]) + "\n"
    open("recipes/mine.yaml", "w").write(text)
    _, err = run("recipe", "validate", "recipes/mine.yaml", code=2)
    check(GOLDEN in err, f"golden error text:\n{err}")
    # duplicate keys stop 'missing key' complaints: what is there must be readable first
    text = ("seed: 1\ndata:\n  rate: 500\n  crop: 1 s\n  leads: I\nobjective: {kind: jeap}\n"
            "output:\n  tensorboard: no\nseed: 1\n")
    open("recipes/mine.yaml", "w").write(text)
    _, err = run("recipe", "validate", "recipes/mine.yaml", "train.batchsize=1", code=2)
    check(err == ALL_AT_ONCE, f"all errors at once:\n{err}")
    # the program itself prints the same through its one error path
    _, err = run("recipe", "show", "recipes/mine.yaml", "train.batchsize=1", code=2)
    check(err + "error: 1 of 1 recipes is not valid\n" == ALL_AT_ONCE, f"through show:\n{err}")


def contract():
    open("contract.yaml", "w").write(CONTRACT)
    out, err = run("recipe", "validate", "contract.yaml")
    check("contract.yaml: good (" in out and "note: contract.yaml: 'data.corpus' is ${CORPUS}" in err, out + err)
    _, err = run("recipe", "validate", "contract.yaml", env={"CORPUS": "/c", "RUNS": "/r"})
    check(err == "", f"no note when the variables are set: {err}")
    # every value that the paper's example sets comes out of `show` with the line it stands on
    out, _ = run("recipe", "show", "contract.yaml")
    for text, origin in (('corpus: "${CORPUS}/ecg_500hz"', "contract.yaml:6:3"), ("patch: 0.05 s", "contract.yaml:12:56"),
                         ("peak: 0.001", "contract.yaml:23:19"), ("accumulate: 1", "default"),
                         ("every: 10000", "contract.yaml:27:16")):
        check(re.search(re.escape(text) + " +# " + re.escape(origin) + "$", out, re.M), f"show: {text} {origin}\n{out}")
    open("again.yaml", "w").write(out)
    hashes = [run("recipe", "validate", f)[0].split("(")[1] for f in ("contract.yaml", "again.yaml")]
    check(hashes[0] == hashes[1], "the resolved recipe has another hash")


def number(x):
    """PyYAML reads YAML 1.1, where 1e-06 is a text."""
    return float(x) if isinstance(x, (int, float)) or re.fullmatch(r"[-+0-9.e]+", str(x)) else x


def shown(name, *settings):
    return yaml.safe_load(run("recipe", "show", name, *settings)[0])


def protocols():
    """docs: Weimann & Conrad 2024, evaluation; every number of the protocol table."""
    table = {
        "finetune_two_stage": ("attentive", [
            (True, 5000, 5000, 1e-3, None, 0, "constant", 0.1, [0.9, 0.999], 1, 0),
            (False, 5000, 2000, 1e-4, 1e-6, 200, "cosine", 0, [0.9, 0.999], 1, 0.1)]),
        "finetune_one_stage": ("register_linear", [(False, 10000, 2000, 1e-3, 1e-5, 200, "cosine", 0.01, [0.9, 0.99], 0, 0.05)]),
        "finetune_linear": ("mean_linear", [(True, 5000, 5000, 1e-3, None, 0, "constant", 0.1, [0.9, 0.999], 1, 0)]),
    }
    table["finetune_scratch"] = table["finetune_one_stage"]
    table["probe_attentive"] = table["probe_random"] = ("attentive", table["finetune_two_stage"][1][:1])
    for name, (head, stages) in table.items():
        r = shown(name)
        check(r["objective"]["head"]["kind"] == head and r["objective"]["loss"] == "bce", f"{name}: head")
        check(r["weights"] == "ema" and r["train"]["batch_size"] == 128, f"{name}: weights, batch")
        check(r["data"]["folds"] == {"train": list(range(1, 9)), "validation": [9], "test": [10]}, f"{name}: folds")
        check(r["data"]["crop"] == "2.5 s" and r["data"]["statistics"] == "task_rows", f"{name}: data")
        e = r["evaluation"]
        check((e["every"], e["window"], e["stride"], e["aggregation"], e["metric"], e["test"]) ==
              (100, "2.5 s", "1.25 s", "mean_logits", "macro_auc", True), f"{name}: evaluation {e}")
        check(len(r["stages"]) == len(stages), f"{name}: stages")
        for s, (frozen, steps, patience, peak, end, warmup, shape, decay, beta, clip, dropout) in zip(r["stages"], stages):
            lr, wd, opt = s["learning_rate"], s["weight_decay"], s["optimizer"]
            check((s["freeze_encoder"], s["steps"], s["patience"], s["dropout"]) == (frozen, steps, patience, dropout),
                  f"{name}: {s}")
            check((number(lr["peak"]), lr["warmup"], lr["shape"]) == (peak, warmup, shape), f"{name}: {lr}")
            check(end is None or number(lr["end"]) == end, f"{name}: {lr}")
            check(not warmup or number(lr["start"]) == 1e-6, f"{name}: {lr}")
            check(number(wd["start"]) == number(wd["end"]) == decay, f"{name}: {wd}")
            check(opt["beta"] == beta and opt["clip"] == clip, f"{name}: {opt}")
        random = name in ("finetune_scratch", "probe_random")
        check((r["init_from"] == "") == random and ("width" in r["model"]["encoder"]) == random, f"{name}: init_from")
    sizes = {"xs": (192, 8, 4, 96, 8, 4), "s": (384, 8, 6, 192, 8, 6), "b": (768, 12, 12, 384, 12, 12)}
    for size, want in sizes.items():
        r = shown(f"jepa_vit_{size}_500hz")
        e, p, t = r["model"]["encoder"], r["objective"]["predictor"], r["train"]
        got = tuple(x[k] for x in (e, p) for k in ("width", "depth", "heads"))
        check(got == want and e["patch"] == "0.05 s" and e["registers"] == 1, f"vit_{size}: {got}")
        check(t["steps"] == 100000 and t["batch_size"] == (1024 if size == "b" else 2048), f"vit_{size}: {t}")
        check(abs(sum(number(w) for w in r["data"]["mixture"].values()) - 1) < 1e-12, f"vit_{size}: mixture")
        check(r["data"]["folds"]["validation"] == [9] and r["data"]["folds"]["test"] == [10], "no leakage")


def recipes():
    names = {e["name"]: e for e in json.loads(run("recipe", "ls", "--json")[0])}
    files = sorted(glob.glob(f"{SOURCE}/recipes/*.yaml"))
    check(sorted(names) == [os.path.basename(f)[:-5] for f in files] and len(files) >= 13, f"ls: {sorted(names)}")
    out, _ = run("recipe", "validate", *files)
    check(out.count(": good (") == len(files), out)
    for f in files:
        head = re.match(r"(#.*\n)+", open(f).read())
        check(head and "Cost:" in head[0] and "Expected" in head[0], f"{f}: cost and expected result in its head")
    listing, _ = run("recipe", "ls")
    check(listing.count("\n") == len(files) and "jepa_demo" in listing, listing)
    # a folder of one's own comes first, and its recipes may extend the built-in ones
    os.makedirs("own", exist_ok=True)
    open("own/jepa_demo.yaml", "w").write("# Mine.\nschema: 1\nextends: [base/vit_s.yaml, base/jepa.yaml]\n"
                                          "data: {synthetic: {}, rate: 500 Hz}\n")
    out, _ = run("recipe", "show", "jepa_demo", env={"PURKINJE_RECIPES": "nothere:own"})
    check("width: 384" in out and "rate: 500 Hz" in out, out)
    # copying
    run("recipe", "cp", "jepa_demo", "mine.yaml")
    check(open("mine.yaml").read() == open(f"{SOURCE}/recipes/jepa_demo.yaml").read(), "cp")
    run("recipe", "validate", "mine.yaml")
    _, err = run("recipe", "cp", "jepa_demo", "mine.yaml", code=73)
    check("exists already" in err, err)


def keys():
    """Every row is complete, and its own default is accepted by its own check."""
    rows = json.loads(run("recipe", "keys", "--json")[0])
    check(len(rows) > 100 and len({r["key"] for r in rows}) == len(rows), f"{len(rows)} keys")
    for r in rows:
        check(r["doc"] and r["type"] and not r["doc"].endswith("."), f"{r}")
        parent = r["key"].rpartition(".")[0].removesuffix(".*")
        check(not parent or any(p["key"] == parent and "section" in p["type"] for p in rows), f"{r['key']}: no section")
        if r["type"] == "choice" and r["default"]:
            for default in r["default"].split("; regress: "):  # one for each objective.kind
                check(default in r["range"].split(", "), f"{r['key']}: default {r['default']}")
    by_key = {r["key"]: r for r in rows}
    check(by_key["data.crop"]["unit"] == "time" and by_key["train.steps"]["unit"] == "steps", "units")
    out, _ = run("recipe", "keys", "train.learning_rate")
    check("train.learning_rate.warmup" in out and "train.steps" not in out, out)
    out, _ = run("recipe", "keys", "stages.0.optimizer")
    check("stages.*.optimizer.beta" in out, out)
    _, err = run("recipe", "keys", "trian", code=2)
    check("no section or key 'trian'" in err, err)
    # a default written out by hand is the default
    for r in rows:
        if r["default"] and not r["default"].startswith("@") and r["when"] == "" and r["key"] != "extends" and \
                r["key"] not in ("data.corpus", "output.dir"):
            run("recipe", "validate", "-q", "jepa_demo", f"{r['key']}={r['default']}")


def examples():
    for command in ("ls", "show", "cp", "validate", "keys"):
        text, _ = run("recipe", command, "--help")
        found = re.findall(r"^  purkinje (recipe .*)$", text.split("examples:")[1], re.M)
        check(len(found) >= 2, f"{command}: {len(found)} examples")
        for line in found:
            with tempfile.TemporaryDirectory() as scratch:
                here = os.getcwd()
                os.chdir(scratch)
                run(*shlex.split(line))
                os.chdir(here)


def usage():
    for args in (["recipe", "show"], ["recipe", "cp", "x"], ["recipe", "validate"], ["recipe", "validate", "seed=1"],
                 ["recipe", "validate", "jepa_demo", "seed=1", "jepa_demo"], ["recipe", "ls", "x"], ["recipe", "show", "nothere"]):
        _, err = run(*args, code=2)
        check(err.startswith("error: "), f"{args}: {err}")


with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)
    if "without libyaml" in subprocess.run([PROGRAM, "recipe", "show", "jepa_demo"], capture_output=True, text=True).stderr:
        sys.exit(77)
    for test in (golden, contract, protocols, recipes, keys, examples, usage):
        test()
    os.chdir("/")
sys.exit(1 if bad else 0)
