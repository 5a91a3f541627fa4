"""Exported models: PyTorch computes from the exported folder what purkinje computes (1e-5 of the
scale, encoders of every family and all heads), eval repeats result.json exactly, embed writes what it says,
and every documented example runs."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

try:
    import h5py
    import numpy as np
    import torch
    from safetensors import safe_open
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

PROGRAM, SOURCE = os.environ["PURKINJE"], os.environ["PK_SOURCE_DIR"]
sys.path.insert(0, os.path.join(SOURCE, "docs", "examples"))
from load_model import Model  # noqa: E402

CONVOLUTIONS = {"resnet1d_wang": "{kind: resnet1d_wang, channels: 64}", "xresnet1d50": "{kind: xresnet1d50, channels: 8}",
                "xresnet1d101": "{kind: xresnet1d101, channels: 8}", "efficientnet1d": "{kind: efficientnet1d}",
                "net1d": "{kind: net1d}"}
CONTRASTIVE = """schema: 1
extends: [base/contrastive.yaml]
data: {synthetic: {records: 96, seconds: 10, seed: 1}, rate: 100 Hz, crop: 5 s}
model: {encoder: %s}
objective: {momentum: true, projection: {hidden: 16, width: 8, norm: false}}
train: {steps: 4, batch_size: 16, learning_rate: {warmup: 1}}
"""

HEADS = ("attentive", "register_linear", "mean_linear")
FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
PRETRAIN = ["pretrain", "jepa_demo", "train.steps=4", "train.learning_rate.warmup=1", "train.batch_size=16",
            "data.synthetic.records=64", "output.dir=runs/demo", "--quiet"]
FINETUNE = ["finetune", "finetune_linear", "data.corpus=", "data.synthetic.records=200", "data.task=rhythm",
            "data.rate=100 Hz", "init_from=runs/demo", "stages.0.steps=4", "stages.0.patience=4",
            "stages.0.freeze_encoder=false", "evaluation.every=2", "evaluation.bootstrap=20",
            "train.batch_size=16", "--quiet"]


def purkinje(*args, code=0):
    r = subprocess.run([PROGRAM, *args], capture_output=True, text=True)
    assert r.returncode == code, (args, r.returncode, r.stderr)
    return r.stdout if code == 0 else r.stderr


def make_runs():
    purkinje(*PRETRAIN)
    for head in HEADS:
        loss = ["objective.loss=softmax", "objective.single_label=true"] if head == "mean_linear" else []
        purkinje(*FINETUNE, f"objective.head.kind={head}", f"output.dir=runs/{head}", *loss)
    shutil.copytree("runs/attentive", "runs/probe")  # the name that the examples use
    purkinje("data", "synth", "demo", "--records", "40", "--rate", "100", "-q")


def corpus_mv(folder):
    """[records, leads, samples] in mV, NaN where missing; and the record names."""
    with open(os.path.join(folder, "corpus.json"), encoding="utf-8") as f:
        samples = json.load(f)["samples"]
    x, names = [], []
    for shard in sorted(s for s in os.listdir(folder) if s.endswith((".h5", ".hdf5"))):
        with h5py.File(os.path.join(folder, shard)) as f:
            raw = f["signal"][:, :, :samples]
            x.append(np.where(raw == -32768, np.nan, raw * f["scale"][:][:, :, None].astype(np.float64)))
            names += [n.decode().rstrip("\0") for n in f["record_id"][:]]
    return np.concatenate(x), names


def windows(model, x, window, stride, function):
    """Mean over windows of what `function` makes of each."""
    rate = model.config["input"]["rate_hz"]
    w, s = round(window * rate), round(stride * rate)
    with torch.no_grad():
        parts = [function(x[:, :, a:a + w]) for a in range(0, x.shape[2] - w + 1, s)]
    return torch.stack(parts).double().mean(0).numpy()


def close(got, want, what):
    scale = np.abs(want).max()
    worst = np.abs(got - want).max() / scale
    assert got.shape == want.shape and worst <= 1e-5, (what, got.shape, want.shape, worst)
    print(f"{what}: {worst:.1e} of the scale")


def check_encoder(x, names):
    purkinje("export", "runs/demo", "out/ema")
    purkinje("export", "runs/demo", "out/online", "--weights", "online")
    assert sorted(os.listdir("out/ema")) == FILES and sorted(os.listdir("out")) == ["ema", "online"]
    with safe_open("out/ema/model.safetensors", "pt") as f:
        assert f.metadata()["format"] == "pt" and f.metadata()["step"] == "4"
        shapes = {k: tuple(f.get_slice(k).get_shape()) for k in f.keys()}
    assert shapes["patch_embed.weight"] == (64, 12, 5) and shapes["register"] == (64,)
    assert shapes["blocks.1.attn.qkv.weight"] == (192, 64) and shapes["norm.weight"] == (64,)
    assert not any(k.startswith(("encoder.", "predictor.", "head.")) for k in shapes), shapes
    checkpoint = "runs/demo/checkpoints/step-000000004/"
    for name, file in ("ema", "ema"), ("online", "model"):
        model = Model("out/" + name)
        with safe_open(checkpoint + file + ".safetensors", "pt") as f:
            for k, v in model.weight.items():
                assert torch.equal(f.get_tensor("encoder." + k).flatten(), v.flatten()), k
        for source in "runs/demo", "out/" + name:
            args = ["--weights", name] if source == "runs/demo" else []
            purkinje("embed", source, "demo", "e.h5", *args)
            with h5py.File("e.h5") as f:
                assert "logits" not in f and f.attrs["window_s"] == 5 and f.attrs["stride_s"] == 5
                assert [n.decode() for n in f["record_id"][:]] == names and f["embedding"].dtype == np.float32
                close(f["embedding"][:], windows(model, x, 5, 5, model.embedding), f"{source} {name}")
    purkinje("export", checkpoint, "out/step")
    assert open("out/step/model.safetensors", "rb").read() == open("out/ema/model.safetensors", "rb").read()
    assert not np.array_equal(Model("out/ema").weight["norm.weight"], Model("out/online").weight["norm.weight"])


def check_script(model, x):
    """docs/examples/load_model.py as a program: a table of the records' scores."""
    script, folder = os.path.join(SOURCE, "docs", "examples", "load_model.py"), "out/" + model.config["head"]["kind"]
    np.save("signals.npy", x)
    about, table = (subprocess.run([sys.executable, script, folder, *more], capture_output=True, text=True, check=True)
                    .stdout.splitlines() for more in ([], ["signals.npy"]))
    assert about[1] == "window  250 samples, every 1.25 s" and about[2].split()[1:] == table[0].split("\t"), about
    got = np.array([[float(v) for v in line.split("\t")] for line in table[1:]])
    want = torch.tensor(windows(model, x, 2.5, 1.25, model.logits))
    want = want.softmax(1) if model.config["head"]["single_label"] else want.sigmoid()
    assert got.shape == (40, 5) and np.abs(got - want.numpy()).max() <= 6e-5, (got[:2], want[:2])


def check_classifier(head, x):
    out = "out/" + head
    purkinje("export", "runs/" + head, out)
    model, result = Model(out), json.load(open(f"runs/{head}/result.json", encoding="utf-8"))
    report = json.loads(purkinje("embed", out, "demo", "c.h5", "--json"))
    assert report["records"] == 40 and report["classes"] == 5 and report["width"] == 64, report
    with h5py.File("c.h5") as f:
        close(f["logits"][:], windows(model, x, 2.5, 1.25, model.logits), head + " logits")
        close(f["embedding"][:], windows(model, x, 2.5, 1.25, model.embedding), head + " embedding")
        assert [n.decode() for n in f["logits"].attrs["names"]] == model.config["head"]["classes"]
        assert f.attrs["model"].decode() == out and f.attrs["task"].decode() == "rhythm"
    for source in "runs/" + head, out:
        for split, fold in ("validation", "9"), ("test", "10"):
            got = json.loads(purkinje("eval", source, "synthetic:200", "--folds", fold, "--bootstrap", "20", "--json"))
            assert got["result"] == result[split], (head, source, split)
            assert got["protocol"]["folds"] == fold and got["protocol"]["window_s"] == 2.5
    assert result["protocol"]["single_label"] == got["protocol"]["single_label"] == (head == "mean_linear")
    check_script(model, x)
    card = open(out + "/README.md", encoding="utf-8").read()
    assert re.match(r"---\n.*\n---\n", card, re.S) and f"{result['test']['macro_auc']:.4f}" in card
    assert result and model.config["head"]["kind"] == head
    purkinje("export", out, "out/again")  # an export of an export is the same model
    for name in FILES[1:]:
        assert open(f"{out}/{name}", "rb").read() == open(f"out/again/{name}", "rb").read(), name
    shutil.rmtree("out/again")


def check_convolution(kind, x):
    """Pretrained encoder (its moving average, with averaged statistics) and classifiers on it."""
    with open("conv.yaml", "w", encoding="utf-8") as f:
        f.write(CONTRASTIVE % CONVOLUTIONS[kind])
    run = "runs/" + kind
    purkinje("pretrain", "conv.yaml", f"output.dir={run}", "--quiet")
    purkinje("export", run, "out/" + kind)
    model = Model("out/" + kind)
    e = model.config["encoder"]
    assert e["kind"] == kind and e["patch_samples"] == 1 and "depth" not in e, e
    assert "conv_encoders.py" in open(f"out/{kind}/README.md", encoding="utf-8").read()
    purkinje("embed", "out/" + kind, "demo", "v.h5")
    with h5py.File("v.h5") as f:
        close(f["embedding"][:], windows(model, x, 5, 5, model.embedding), kind)
    count = sum(p.numel() for p in model.convolution.parameters())
    assert f" {count} parameters" in open(f"out/{kind}/README.md", encoding="utf-8").read(), count
    heads = ["concat_pool"] + (["attentive", "mean_linear"] if kind == "resnet1d_wang" else [])
    for head in heads:
        fine = [a for a in FINETUNE if not a.startswith(("data.rate", "init_from"))]
        purkinje(*fine, f"init_from={run}", f"objective.head.kind={head}", f"output.dir={run}-{head}",
                 "evaluation.aggregation=max_sigmoid", "evaluation.every=4", "data.crop=2.5 s")
        compare_classifier(f"{run}-{head}", f"out/{kind}-{head}", x)


def compare_classifier(run, out, x):
    purkinje("export", run, out)
    model, result = Model(out), json.load(open(f"{run}/result.json", encoding="utf-8"))
    purkinje("embed", out, "demo", "w.h5")
    with h5py.File("w.h5") as f:
        close(f["logits"][:], windows(model, x, 2.5, 1.25, model.logits), out + " logits")
    got = json.loads(purkinje("eval", out, "synthetic:200", "--folds", "10", "--bootstrap", "20", "--json"))
    assert got["result"] == result["test"], (out, got["result"], result["test"])
    assert model.config["head"]["aggregation"] == "max_sigmoid"
    with torch.no_grad():
        y = torch.stack([model.logits(x[:, :, a:a + 250]) for a in range(0, x.shape[2] - 249, 125)])
        assert torch.allclose(model.of_record(model.logits, x).sigmoid(), y.sigmoid().amax(0), atol=1e-6)


def check_concat_pool_of_transformer(x):
    purkinje(*FINETUNE, "objective.head.kind=concat_pool", "objective.head.hidden=0", "output.dir=runs/concat",
             "evaluation.aggregation=max_sigmoid")
    compare_classifier("runs/concat", "out/concat", x)


def check_missing(x):
    """A short batch with holes and a missing lead, straight through the example file."""
    model = Model("out/attentive")
    x = x[:2, :, :250].copy()
    x[0, 3], x[1, :, 100:110] = np.nan, np.nan
    pre = model.preprocess(x)
    assert (pre[0, 3] == 0).all() and (pre[1, :, 100:110] == 0).all() and pre.abs().max() <= 5
    assert torch.isfinite(model.logits(x)).all()


def check_choices(names):
    purkinje("embed", "out/attentive", "demo", "f.h5", "--folds", "9,10", "--window", "5", "--stride", "1")
    with h5py.File("f.h5") as f, h5py.File("c.h5") as all_of:
        keep = np.isin(all_of["fold"][:], (9, 10))
        assert set(f["fold"][:]) <= {9, 10} and len(f["fold"]) == keep.sum() > 0
        assert (f["patient_id"][:] == all_of["patient_id"][:][keep]).all()
        assert f.attrs["window_s"] == 5 and f.attrs["stride_s"] == 1
    purkinje("embed", "out/attentive", "demo", "g.h5", "--folds", "9,10", "--window", "5", "--stride", "1")
    assert open("f.h5", "rb").read() == open("g.h5", "rb").read(), "equal input gives equal bytes"


def refused(code, words, *args):
    text = purkinje(*args, code=code)
    assert words in text, (args, text)


def check_refusals():
    refused(2, "the only format is safetensors", "export", "runs/demo", "out/x", "--format", "onnx")
    assert "onnx" not in purkinje("export", "--help")
    refused(2, "--weights best", "export", "runs/demo", "out/x", "--weights", "best")
    refused(2, "is not empty", "export", "runs/demo", "out/ema")
    open("out/ema/mine.txt", "w").close()
    refused(2, "'mine.txt', which no export wrote", "export", "runs/demo", "out/ema", "--overwrite")
    os.remove("out/ema/mine.txt")
    before = open("out/ema/model.safetensors", "rb").read()
    purkinje("export", "runs/demo", "out/ema/", "--overwrite", "--weights", "online")
    assert open("out/ema/model.safetensors", "rb").read() != before
    refused(69, "cannot open the model nowhere", "export", "nowhere", "out/x")
    shutil.copytree("out/online", "out/unknown")
    config = json.load(open("out/unknown/config.json", encoding="utf-8"))
    config["encoder"]["kind"] = "lstm"
    json.dump(config, open("out/unknown/config.json", "w", encoding="utf-8"))
    refused(65, "an encoder of the kind 'lstm', which version", "embed", "out/unknown", "demo", "x.h5")
    try:
        Model("out/unknown")
        raise AssertionError("load_model.py took an encoder that it does not know")
    except ValueError as said:
        assert "'lstm'" in str(said)
    refused(2, "is an encoder without a head", "eval", "runs/demo", "demo")
    refused(2, "say with --folds", "eval", "runs/attentive", "synthetic:200")
    refused(65, "has no task 'none'; it has: rhythm", "eval", "runs/attentive", "demo", "--task", "none")
    refused(65, "has 7 classes, the model has 5", "eval", "runs/attentive", "demo", "--task", "morphology")
    refused(2, "'0' is not a fold", "eval", "runs/attentive", "demo", "--folds", "9,0")
    refused(65, "no record is left", "embed", "runs/demo", "demo", "x.h5", "--folds", "77")
    refused(2, "whole number of the model's patches", "embed", "runs/demo", "demo", "x.h5", "--window", "1.03")
    refused(65, "do not fit records", "embed", "runs/demo", "demo", "x.h5", "--window", "11")
    refused(73, "libhdf5 cannot write", "embed", "runs/demo", "demo", "nowhere/x.h5")
    refused(2, "synthetic:N needs", "embed", "runs/demo", "synthetic:x", "x.h5")
    purkinje("data", "synth", "fast", "--records", "4", "--rate", "250", "-q")
    refused(65, "works at 100 Hz, the data has 250 Hz", "embed", "runs/demo", "fast", "x.h5")
    purkinje("data", "synth", "pulse", "--records", "4", "--rate", "100", "--ppg", "-q")
    refused(65, "needs lead I,", "embed", "runs/demo", "pulse", "x.h5")
    config = json.load(open("out/attentive/config.json", encoding="utf-8"))
    config["head"]["classes"].reverse()
    json.dump(config, open("out/attentive/config.json", "w", encoding="utf-8"))
    refused(65, "class 0 of task rhythm is 'af' in the corpus and 'tachycardia'", "eval", "out/attentive", "demo")
    assert not [f for f in os.listdir(".") if f.startswith("x.h5")] and not os.path.exists("out/x")


def check_examples():
    """In the order of the documentation: export before eval, which reads what it wrote."""
    for command in "export", "eval", "embed":
        text = purkinje(command, "--help").split("examples:")[1]
        examples = [l.split()[2:] for l in text.splitlines() if l.startswith("  purkinje ")]
        assert len(examples) >= 2, text
        for e in examples:
            assert purkinje(command, *e[1:] if e[0] == command else e), e


with tempfile.TemporaryDirectory() as scratch:
    os.chdir(scratch)
    torch.set_num_threads(2)
    make_runs()
    signals, ids = corpus_mv("demo")
    check_encoder(signals, ids)
    for kind in HEADS:
        check_classifier(kind, signals)
    for kind in CONVOLUTIONS:
        check_convolution(kind, signals)
    check_concat_pool_of_transformer(signals)
    check_missing(signals)
    check_choices(ids)
    check_examples()
    check_refusals()
    os.chdir("/")
print("export: torch agrees, eval repeats result.json, examples and refusals as expected")
