"""Masked autoencoders from the command line: every recipe is valid and trains two steps, a run resumes to
the same bits, its encoder is planned, exported (and computed again by PyTorch), embedded and fine-tuned in
each of the three tokenisations, and reconstructions are written and drawn."""
import json
import os
import sys
import xml.etree.ElementTree as xml

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "docs", "examples"))
import runs  # noqa: E402
from runs import expect, good, refused  # noqa: E402

SMALL = ["model.encoder.width=16", "model.encoder.depth=1", "model.encoder.heads=2", "objective.decoder.width=8",
         "objective.decoder.depth=1", "objective.decoder.heads=2", "data.synthetic.records=64",
         "train.batch_size=8", "train.learning_rate.warmup=1", "train.log_every=1", "--quiet"]
VARIANTS = {"patch": [], "time": [], "lead": ["model.encoder.patch=6s"]}


def pretrain(out, *more):
    good("pretrain", "mae_demo", *SMALL, f"output.dir={out}", *more)


def check_recipes(root):
    names = json.loads(good("recipe", "ls", "--json").stdout)
    names = [n["name"] for n in (names if isinstance(names, list) else names["recipes"])]
    # That of ECG and PPG needs a corpus of 13 leads: tests/data/test_join.py trains it.
    names = [n for n in names if n.startswith("mae_") and n != "mae_vit_ecg_ppg"]
    expect(len(names) == 4, f"recipes of masked autoencoders: {names}")
    for name in names:
        good("recipe", "validate", name)
        # The published widths with one block, on synthetic records of the recipe's own rate and crop.
        data = [] if name == "mae_demo" else ["data.corpus=", "data.mixture={}"]
        good("pretrain", name, *data, "data.synthetic.records=16", "data.synthetic.seconds=10", "train.steps=2",
             "train.batch_size=4", "train.learning_rate.warmup=1", "train.precision=fp32", "model.encoder.depth=1",
             "objective.decoder.depth=1", "data.folds.validation=[]", "data.folds.test=[]",
             f"output.dir={root}/{name}", "--quiet", "--device", "cpu")
        line = runs.metrics(f"{root}/{name}")[-1]
        expect(line["step"] == 2 and 0.5 < line["loss"] < 2, f"{name}: {line}")
        plan = json.loads(good("plan", name, "--json", "--no-probe").stdout)
        expect(plan["parameters"]["decoder"] > 0 and plan["encoder_flops"] > 0, f"{name}: {plan}")
        # For every patch 3/4 are hidden, and what is left is rounded down.
        expect(plan["keep_min"] == plan["keep_max"] == plan["tokens"] // 4, f"{name}: {plan}")
    b = json.loads(good("plan", "mae_vit_b_250hz", "--json", "--no-probe").stdout)
    # 12 blocks of 12 w^2 + 2 w + 3 w of biases; patch embedding; norms, lead embeddings and three vectors.
    w = 768
    want = 12 * (12 * w * w + 5 * w) + 75 * w + 75 + 2 * w + 12 * w + 2 * w
    expect(b["parameters"]["encoder"] == want, f"ViT-B: {b['parameters']}, not {want}")


def check_resume(root):
    pretrain(f"{root}/whole", "train.steps=6", "output.checkpoint.every=3")
    pretrain(f"{root}/cut", "train.steps=3", "output.checkpoint.every=3")
    loss = [line["loss"] for line in runs.metrics(f"{root}/whole")]
    expect(len(loss) == 6 and all(0 < x < 3 for x in loss), f"losses {loss}")
    # A longer run is another schedule, so that the interrupted one is made by cutting a whole one.
    good("resume", f"{root}/cut", "train.steps=6")
    files = os.listdir(f"{root}/whole/checkpoints/step-000000006")
    expect("ema.safetensors" not in files, f"a moving average that nobody has: {files}")
    import shutil
    shutil.copytree(f"{root}/whole", f"{root}/again")
    shutil.rmtree(f"{root}/again/checkpoints/step-000000006")
    good("resume", f"{root}/again")
    runs.same(f"{root}/again", f"{root}/whole", "resumed from step 3")


def check_export(run, out, corpus, variant):
    """PyTorch computes from the exported folder what purkinje embeds."""
    try:
        import h5py
        import numpy as np
        import torch
        from load_model import Model
    except ImportError as missing:
        print("no comparison with PyTorch:", missing)
        return
    good("export", run, out)
    good("embed", run, corpus, out + ".h5", "-q")
    model = Model(out)
    expect(model.kind == variant, f"{variant}: tokenisation {model.kind}")
    with h5py.File(out + ".h5") as f:
        want = f["embedding"][:]
    with open(os.path.join(corpus, "corpus.json"), encoding="utf-8") as f:
        samples = json.load(f)["samples"]
    x = []
    for shard in sorted(s for s in os.listdir(corpus) if s.endswith((".h5", ".hdf5"))):
        with h5py.File(os.path.join(corpus, shard)) as f:
            raw = f["signal"][:, :, :samples]
            x.append(np.where(raw == -32768, np.nan, raw * f["scale"][:][:, :, None].astype(np.float64)))
    with torch.no_grad():
        got = model.embedding(np.concatenate(x)[:, :, :600]).numpy()
    worst = np.abs(got - want).max() / np.abs(want).max()
    expect(got.shape == want.shape and worst < 1e-5, f"{variant}: PyTorch is {worst} off")
    print(f"{variant}: exported encoder within {worst:.1e} of the scale")


def check_finetune(root, run, variant):
    more = ["data.corpus=", "data.synthetic.records=120", "data.task=rhythm", f"init_from={run}",
            "evaluation.bootstrap=0", "evaluation.every=2", "train.batch_size=16", "data.crop=6s",
            "evaluation.window=6s", "evaluation.stride=3s", "stages.0.steps=4", "--quiet"]
    for head in "attentive", "mean_linear":
        out = f"{root}/{variant}-{head}"
        good("finetune", "probe_attentive", *more, f"objective.head.kind={head}", f"output.dir={out}")
        with open(out + "/result.json", encoding="utf-8") as f:
            auc = json.load(f)["test"]["macro_auc"]
        expect(0 < auc < 1, f"{variant}, {head}: macro AUC {auc}")
    refused(2, ["register"], "finetune", "probe_attentive", *more, "objective.head.kind=register_linear",
            f"output.dir={root}/no")
    # Other windows: fine for patches, not where a token is a lead.
    other = [*more, "evaluation.window=3s", "data.crop=3s", f"output.dir={root}/{variant}-short"]
    if variant == "lead":
        refused(2, ["not a multiple of the patch"], "finetune", "probe_attentive", *other)
    else:
        good("finetune", "probe_attentive", *other)


def read_npy(path):
    import array
    with open(path, "rb") as f:
        raw = f.read()
    size = int.from_bytes(raw[8:10], "little")
    head = eval(raw[10:10 + size].decode(), {"__builtins__": {}})  # noqa: S307 -- our own file
    values = array.array("f", raw[10 + size:])
    return head["shape"], values


def check_reconstruction(root, run, variant):
    good("reconstruct", run, "synthetic:4", f"{root}/x.npy", "--record", "2", "--start", "1.5")
    (three, leads, samples), v = read_npy(f"{root}/x.npy")
    expect((three, leads, samples) == (3, 12, 600), f"{variant}: {three}, {leads}, {samples}")
    n = leads * samples
    original, guess, hidden = v[:n], v[n:2 * n], v[2 * n:]
    share = sum(hidden) / n
    expect(share == 0.75 and set(hidden) == {0.0, 1.0}, f"{variant}: {share} hidden")
    expect(all((g == g) == (h == 1) for g, h in zip(guess, hidden)), f"{variant}: guesses where none belong")
    expect(all(x == x and abs(x) < 20 for x in original), f"{variant}: original")
    expect(all(abs(g) < 20 for g, h in zip(guess, hidden) if h), f"{variant}: guess")
    # Which samples are hidden is the same in every run of the command, and differs between records.
    good("reconstruct", run, "synthetic:4", f"{root}/y.npy", "--record", "3", "--start", "1.5")
    if variant != "lead":
        expect(read_npy(f"{root}/y.npy")[1][2 * n:] != hidden, f"{variant}: one mask for all records")
    said = good("reconstruct", run, "synthetic:4", f"{root}/x.svg", "--record", "2", "--start", "1.5").stdout
    tree = xml.parse(f"{root}/x.svg").getroot()
    tag = "{http://www.w3.org/2000/svg}"
    lines = [p.get("class") for p in tree.iter(tag + "polyline")]
    shaded = [r for r in tree.iter(tag + "rect") if r.get("class") == "hidden"]
    expect(lines.count("original") == 12 and lines.count("guess") == len(shaded) > 0, f"{variant}: {lines}")
    # 25 mm/s: the shaded stretches together are three quarters of twelve leads of 6 s.
    width = sum(float(r.get("width")) for r in shaded)
    expect(abs(width - 0.75 * 12 * 6 * 25) < 1, f"{variant}: {width} mm shaded")
    expect("loss" in said and len(tree.findall(tag + "text")) == 14, f"{variant}: {said}")


def check_refusals(root):
    bad = ["pretrain", "mae_demo", *SMALL, "train.steps=1", f"output.dir={root}/bad"]
    refused(2, ["none to see"], *bad, "objective.mask_ratio=0.99")
    refused(2, ["none to predict"], *bad, "objective.mask_ratio=0")
    refused(2, ["whole lead"], *bad, "objective.variant=lead")
    refused(2, ["no registers"], *bad, "model.encoder.registers=1")
    refused(2, ["not a multiple"], *bad, "objective.decoder.heads=3")
    refused(2, ["no meaning"], *bad, "objective.ema.start=0.9")
    refused(2, ["of the kind 'patch'", "'time'"], *bad, "objective.variant=time", f"init_from={root}/patch")
    refused(2, [".svg or .npy"], "reconstruct", f"{root}/patch", "synthetic:4", "x.png")
    refused(2, ["not one of the 4"], "reconstruct", f"{root}/patch", "synthetic:4", f"{root}/x.svg", "--record", "4")
    refused(2, ["not within"], "reconstruct", f"{root}/patch", "synthetic:4", f"{root}/x.svg", "--start", "5")
    good("pretrain", "jepa_demo", *runs.TINY, "data.synthetic.records=32", "train.batch_size=8", "train.steps=1",
         "train.learning_rate.warmup=0", "objective.mask.min_block=2", f"output.dir={root}/jepa", "--quiet")
    refused(2, ["another objective"], "reconstruct", f"{root}/jepa", "synthetic:4", f"{root}/x.svg")


def main():
    with runs.scratch() as root:
        check_recipes(root)
        check_resume(root)
        good("data", "synth", f"{root}/corpus", "--records", "12", "--rate", "100", "--seconds", "6", "-q")
        for variant, more in VARIANTS.items():
            run = f"{root}/{variant}"
            pretrain(run, "train.steps=3", f"objective.variant={variant}", *more)
            check_export(run, f"{root}/{variant}-export", f"{root}/corpus", variant)
            check_finetune(root, run, variant)
            check_reconstruction(root, run, variant)
        check_refusals(root)
    print(f"{len(runs.failures)} failures")
    return 1 if runs.failures else 0


sys.exit(main())
