"""What the tests of whole runs share: a run that takes a tenth of a second, and ways to look at it."""
import array
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile

PROGRAM = os.environ["PURKINJE"]
# Interrupted by signals, not by power cuts, runs need no disk; in memory their syncs cost nothing.
ROOT = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
ENV = {k: v for k, v in os.environ.items() if k not in ("PURKINJE_RECIPES", "CORPUS", "PRETRAINED")}
TINY = [
    "model.encoder.width=16", "model.encoder.depth=1", "model.encoder.heads=2",
    "data.synthetic.seconds=2", "data.crop=1s", "train.log_every=1", "train.threads=1",
]
JEPA = [
    "pretrain", "jepa_demo", *TINY, "objective.predictor.width=16", "objective.predictor.depth=1",
    "objective.predictor.heads=2", "objective.mask.min_block=2", "data.synthetic.records=64",
    "train.batch_size=16", "train.learning_rate.warmup=2", "output.checkpoint.every=3",
]
# Two stages: a probe of a frozen encoder, then everything.
CLASSIFY = [
    "finetune", "finetune_two_stage", "data.corpus=", "data.task=rhythm", "data.crop=1s",
    "data.synthetic.records=96", "data.synthetic.seconds=2", "data.synthetic.seed=2",
    "data.folds.train=[1, 2, 3, 4, 5, 6]", "data.folds.validation=[7, 8, 9]",
    "train.batch_size=16", "train.threads=1", "evaluation.window=1s", "evaluation.stride=0.5s",
    "evaluation.every=2", "evaluation.bootstrap=20", "stages.0.steps=7", "stages.1.steps=7",
    "stages.1.learning_rate.warmup=2", "output.checkpoint.every=2", "output.checkpoint.keep_last=2",
]
failures = []


def scratch():
    return tempfile.TemporaryDirectory(prefix="purkinje-", dir=ROOT)


def expect(condition, what):
    if not condition:
        failures.append(what)
        print("failed:", what, flush=True)
    return condition


def purkinje(*args, **more):
    return subprocess.run(
        [PROGRAM, *map(str, args)], capture_output=True, text=True, env=ENV, timeout=300, **more
    )


def good(*args, **more):
    """Runs the program and insists on success."""
    r = purkinje(*args, **more)
    if r.returncode != 0:
        raise SystemExit(f"purkinje {' '.join(map(str, args))}: exit {r.returncode}\n{r.stderr}")
    return r


def refused(code, words, *args, **more):
    """Runs the program, which must end with `code` and name all `words`; nothing may crash."""
    r = purkinje(*args, **more)
    said = r.stderr
    what = f"purkinje {' '.join(map(str, args))}"
    expect(r.returncode == code, f"{what}: exit {r.returncode}, not {code}: {said}")
    for w in words:
        expect(w in said, f"{what}: does not say '{w}': {said}")
    return r


def sign(corpus):
    """Edited columns no longer have the checksum that corpus.json names; the refusal tells it."""
    said = purkinje("data", "info", corpus).stderr
    new, old = re.search(r"columns is (\w+), corpus.json says (\w+)", said).groups()
    with open(os.path.join(corpus, "corpus.json"), "r+") as f:
        text = f.read()
        f.seek(0)
        f.write(text.replace(old, new))


def tensors(path):
    """name -> (dtype, shape, bytes) of a safetensors file."""
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(size))
        body = f.read()
    header.pop("__metadata__", None)
    return {
        n: (t["dtype"], tuple(t["shape"]), body[slice(*t["data_offsets"])]) for n, t in header.items()
    }


def steps_on_disk(run):
    folder = os.path.join(run, "checkpoints")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(n[5:]) for n in names if n.startswith("step-"))


def weights(run):
    """Every tensor of the newest checkpoint: weights, EMA, moments, best; shards of a file as the whole."""
    folder = os.path.join(run, "checkpoints", f"step-{steps_on_disk(run)[-1]:09d}")
    files = sorted(n for n in os.listdir(folder) if n.endswith(".safetensors"))
    out = {}
    for n in files:
        whole = re.sub(r"-\d{5}-of-\d{5}\.", ".", n)
        for k, v in tensors(os.path.join(folder, n)).items():
            expect(f"{whole}:{k}" not in out, f"{folder}: {k} is in two shards of {whole}")
            out[f"{whole}:{k}"] = v
    return out


CLOCK = {"records_per_s", "data_wait", "peak_memory", "seconds", "mfu", "step_seconds"}


def metrics(run):
    """Lines of metrics.jsonl without what the clock decides."""
    with open(os.path.join(run, "metrics.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def state(run):
    with open(os.path.join(run, "run.json")) as f:
        return json.load(f)["state"]


def same_from(root, step, *later):
    """ROOT/whole, cut back to a checkpoint and gone on with, has the bits that it had: weights, moments, best."""
    shutil.copytree(f"{root}/whole", f"{root}/cut")
    for gone in later:
        shutil.rmtree(f"{root}/cut/checkpoints/step-{gone:09d}", ignore_errors=True)
    expect(steps_on_disk(f"{root}/cut")[-1] == step, f"checkpoints {steps_on_disk(root + '/cut')}")
    good("resume", f"{root}/cut", "--quiet")
    for file in ("model", "moment1", "moment2", "best"):
        path = f"checkpoints/step-{later[-1]:09d}/{file}.safetensors"
        a, b = open(f"{root}/whole/{path}", "rb").read(), open(f"{root}/cut/{path}", "rb").read()
        expect(a == b, f"a resumed run differs in {file}")


def same(run, reference, what):
    """Final weights bit for bit, every logged number, and no step twice."""
    a, b = weights(run), weights(reference)
    differ = sorted(k for k in a.keys() | b.keys() if a.get(k) != b.get(k))
    expect(not differ, f"{what}: {len(differ)} of {len(b)} tensors differ: {differ[:3]}")
    a, b = metrics(run), metrics(reference)
    steps = [line["step"] for line in a]
    expect(len(set(steps)) == len(steps), f"{what}: steps logged twice: {steps}")
    wrong = [(x, y) for x, y in zip(a, b) if x != y]
    expect(len(a) == len(b) and not wrong, f"{what}: {len(a)} of {len(b)} metrics, differing: {wrong[:1]}")
    expect(state(run) == "done", f"{what}: state {state(run)}")


def arena(run, name):
    """All numbers of a file of the newest checkpoint, in the order of names."""
    out = array.array("f")
    for key, (_, _, raw) in sorted(weights(run).items()):
        if key.startswith(name):
            out.frombytes(raw)
    return out


def distance(run, reference, name):
    """|a - b| / |b| of all these numbers."""
    a, b = arena(run, name), arena(reference, name)
    if not expect(len(a) == len(b) and len(a) > 1000, f"{run}: {len(a)} and {len(b)} numbers in {name}"):
        return 1.0
    return (sum((x - y) ** 2 for x, y in zip(a, b)) / sum(y * y for y in b)) ** 0.5
