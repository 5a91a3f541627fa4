"""Import of weights is strict: what does not fit is refused with a list, what fits is taken as it is.
Files are made with the safetensors package, so nothing of the writer under test is involved."""
import json
import os
import subprocess
import sys
import tempfile

try:
    import torch
    from safetensors.torch import load_file, save_file
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

PROGRAM = os.environ["PURKINJE"]


def purkinje(*args, code=0):
    r = subprocess.run([PROGRAM, *args], capture_output=True, text=True)
    assert r.returncode == code, (args, r.returncode, r.stderr)
    return r.stdout if code == 0 else r.stderr


def write(folder, tensors, config):
    os.makedirs(folder, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder + "/model.safetensors")
    with open(folder + "/config.json", "w", encoding="utf-8") as f:
        json.dump(config, f)
    return folder


def wanted(config):
    """Random tensors of the encoder that a config describes, with PyTorch's names and shapes."""
    e, leads = config["encoder"], len(config["input"]["leads"])
    w, hidden = e["width"], e["mlp_ratio"] * e["width"]
    shapes = {"patch_embed.weight": (w, leads, e["patch_samples"]), "register": (w,), "norm.weight": (w,)}
    for i in range(e["depth"]):
        shapes.update({f"blocks.{i}.norm1.weight": (w,), f"blocks.{i}.attn.qkv.weight": (3 * w, w),
                       f"blocks.{i}.attn.proj.weight": (w, w), f"blocks.{i}.norm2.weight": (w,),
                       f"blocks.{i}.mlp.fc1.weight": (hidden, w), f"blocks.{i}.mlp.fc2.weight": (w, hidden)})
    torch.manual_seed(1)
    return {k: torch.randn(s) * 0.1 for k, s in shapes.items()}


CONFIG = {
    "format": "purkinje", "objective": "jepa",
    "encoder": {"kind": "vit", "width": 32, "depth": 2, "heads": 4, "mlp_ratio": 4, "registers": 1,
                "layer_norm_eps": 1e-6, "patch_samples": 10, "tokens": 25},
    "input": {"rate_hz": 100, "leads": ["I", "II", "V1"], "mean": [0, 0.1, 0], "std": [0.2, 0.3, 0.4], "clip": 5}}


def changed(**encoder):
    c = json.loads(json.dumps(CONFIG))
    c["encoder"].update(encoder)
    return c


def check_accepted(tensors):
    """Names with and without "encoder.", the patch embedding as convolution and as matrix."""
    write("plain", tensors, CONFIG)
    flat = dict(tensors, **{"patch_embed.weight": tensors["patch_embed.weight"].flatten(1)})
    write("prefixed", {"encoder." + k: v for k, v in flat.items()}, CONFIG)
    files = []
    for folder in "plain", "prefixed":
        purkinje("export", folder, folder + "_out")
        files.append(load_file(folder + "_out/model.safetensors"))
    for got in files:
        assert got.keys() == tensors.keys(), got.keys() ^ tensors.keys()
        for k, v in tensors.items():
            assert got[k].shape == v.shape and torch.equal(got[k], v), k
    purkinje("export", "plain/model.safetensors", "by_file")  # the config lies beside it


def check_refused(tensors):
    def refuse(words, t, config=CONFIG):
        text = purkinje("export", write("bad", t, config), "never", code=65)
        for w in words:
            assert w in text, (w, text)
        assert not os.path.exists("never")
        return text

    without = {k: v for k, v in tensors.items() if k not in ("register", "blocks.1.attn.qkv.weight")}
    text = refuse(["missing: encoder.register", "missing: encoder.blocks.1.attn.qkv.weight"], without)
    assert text.count("missing") == 2 and "unexpected" not in text, text
    extra = dict(tensors, **{"blocks.0.attn.qkv.bias": torch.zeros(96), "pos_embed": torch.zeros(25, 32)})
    text = refuse(["unexpected: blocks.0.attn.qkv.bias", "unexpected: pos_embed"], extra)
    assert text.count("unexpected") == 2 and "missing" not in text, text
    shape = dict(tensors, **{"blocks.0.mlp.fc1.weight": torch.zeros(64, 32)})
    refuse(["encoder.blocks.0.mlp.fc1.weight is F32 [64, 32], F32 [128, 32] was expected"], shape)
    turned = dict(tensors, **{"blocks.0.mlp.fc1.weight": torch.zeros(32, 128)})
    refuse(["encoder.blocks.0.mlp.fc1.weight is F32 [32, 128]"], turned)
    half = dict(tensors, **{"norm.weight": torch.zeros(32, dtype=torch.float16)})
    refuse(["encoder.norm.weight is F16 [32], F32 [32] was expected"], half)
    swapped = dict(tensors, **{"patch_embed.weight": tensors["patch_embed.weight"].transpose(1, 2)})
    refuse(["encoder.patch_embed.weight is F32 [32, 10, 3]"], swapped)
    grouped = dict(tensors, **{"blocks.0.attn.qkv.weight": torch.zeros(96, 4, 8)})
    refuse(["encoder.blocks.0.attn.qkv.weight is F32 [96, 4, 8]"], grouped)
    text = refuse(["encoder.patch_embed.weight is F32 [32, 3, 10], F32 [48, 30] was expected", "more"], tensors,
                  changed(width=48))
    assert text.count("\n") < 20, text
    refuse(["missing: encoder.blocks.2.attn.qkv.weight"], tensors, changed(depth=3))
    refuse(["unexpected: blocks.1.attn.qkv.weight"], tensors, changed(depth=1))


def check_descriptions(tensors):
    """A damaged config is refused, and asks for no memory."""
    for bad in (changed(width=0), changed(width=1 << 40), changed(heads=5), changed(tokens=-1), changed(kind="cnn"),
                changed(patch_samples=1 << 30), changed(depth=1 << 31), {"format": "other"}, {}, [],
                dict(CONFIG, input=dict(CONFIG["input"], mean=[0, 0])),
                dict(CONFIG, input=dict(CONFIG["input"], std=[1, 0, 1])),
                dict(CONFIG, input=dict(CONFIG["input"], leads=["I"] * 17, mean=[0] * 17, std=[1] * 17)),
                dict(CONFIG, input=dict(CONFIG["input"], rate_hz=0)),
                dict(CONFIG, head={"kind": "attentive", "window_s": 1, "classes": ["a"] * 600}),
                dict(CONFIG, head={"kind": "attentive", "window_s": -1, "classes": ["a"]})):
        text = purkinje("export", write("bad", tensors, bad), "never", code=65)
        assert "not a model description" in text or "of the kind 'cnn'" in text, text
    with open("bad/config.json", "w", encoding="utf-8") as f:
        f.write("{")
    assert "bad/config.json" in purkinje("export", "bad", "never", code=65)
    os.remove("bad/config.json")
    purkinje("export", "bad/model.safetensors", "never", code=74)


def check_init_from(tensors):
    """Encoder shape and leads of a fine-tuning run come from the file, and so do the weights."""
    args = ["finetune", "finetune_linear", "data.corpus=", "data.synthetic.records=100", "data.rate=100 Hz",
            "data.task=rhythm", "stages.0.steps=1", "stages.0.patience=1", "evaluation.every=1",
            "evaluation.bootstrap=0", "evaluation.test=false", "train.batch_size=8", "--quiet"]
    purkinje(*args, "init_from=plain", "output.dir=runs/linear")
    purkinje("export", "runs/linear", "linear")
    got = load_file("linear/model.safetensors")
    config = json.load(open("linear/config.json", encoding="utf-8"))
    for k, v in tensors.items():
        assert torch.equal(got[k], v), k  # the encoder was frozen
    assert set(got) - set(tensors) == {"head.proj.weight", "head.proj.bias"}
    assert config["input"]["leads"] == ["I", "II", "V1"] and config["encoder"]["depth"] == 2
    write("bad", {k: v for k, v in tensors.items() if k != "register"}, CONFIG)
    text = purkinje(*args, "init_from=bad", "output.dir=runs/bad", code=65)
    assert "missing: encoder.register" in text, text
    # a classifier's head is no part of the encoder that another run starts from
    purkinje(*args, "init_from=linear", "output.dir=runs/again")
    del got["head.proj.bias"]
    write("bad", got, config)
    text = purkinje("export", "bad", "never", code=65)
    assert "missing: head.proj.bias" in text, text


with tempfile.TemporaryDirectory() as scratch:
    os.chdir(scratch)
    encoder = wanted(CONFIG)
    check_accepted(encoder)
    check_refused(encoder)
    check_descriptions(encoder)
    check_init_from(encoder)
    os.chdir("/")
print("weights: accepted and refused as expected")
