"""Runs that must fail, each with its exit code and a message that says what, where and what to do; and
what is left behind must still be usable."""
import glob
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

from runs import (CLASSIFY, ENV, JEPA, PROGRAM, expect, failures, good, metrics, purkinje, refused,
                  same, scratch, state, steps_on_disk, tensors)


def existing(root, done):
    """A run is neither overwritten nor deleted by a run that cannot start."""
    out = f"output.dir={done}"
    refused(2, ["holds a run already", "purkinje resume", "--overwrite"], *JEPA, "train.steps=6", out)
    refused(65, ["smaller"], *JEPA, "data.synthetic.records=4", out, "--overwrite")
    expect(steps_on_disk(done)[-1] == 6, "a refused --overwrite deleted the old run")
    good(*JEPA, "train.steps=4", out, "--overwrite")
    expect(steps_on_disk(done) == [3, 4] and state(done) == "done", "--overwrite")
    stale = ["result.json", "test_scores.npy", "nan-step-3.safetensors", "notes.txt"]
    for name in stale:
        open(os.path.join(done, name), "w").close()
    good(*JEPA, "train.steps=4", out, "--overwrite")
    left = [n for n in stale if os.path.exists(os.path.join(done, n))]
    expect(left == ["notes.txt"], f"--overwrite left {left} of the old run, or deleted a user's file")
    refused(69, ["holds no run"], "resume", os.path.join(root, "nothing"))
    refused(2, ["train.batch_size=8", "init_from="], "resume", done, "train.batch_size=8")
    refused(2, ["4 steps already", "train.steps=2"], "resume", done, "train.steps=2")
    refused(2, ["which recipe"], "pretrain")
    good("resume", done)


def locked(root):
    """A second process is told who has the run."""
    run = os.path.join(root, "locked")
    p = subprocess.Popen([PROGRAM, *JEPA, "train.steps=100000", f"output.dir={run}", "--quiet"], env=ENV)
    try:
        for _ in range(24000):
            if os.path.exists(os.path.join(run, "metrics.jsonl")) and steps_on_disk(run):
                break
            time.sleep(0.005)
        words = ["in use by process", str(p.pid)]
        refused(69, words, "resume", run)
        refused(69, words, *JEPA, f"output.dir={run}", "--overwrite")
        expect(p.poll() is None and steps_on_disk(run), "the second process disturbed the first")
        p.send_signal(signal.SIGTERM)
        expect(p.wait(60) == 75, f"the first process ended with {p.returncode}")
    finally:
        p.kill()
        p.wait()


def recipes(root):
    """Wrong settings: all at once, with a place and a help, and no folder is left behind."""
    out = f"output.dir={root}/none"
    refused(2, ["batchsize", "did you mean 'batch_size'", "train.steps", "mask.keep"], *JEPA,
            "train.batchsize=4", "train.steps=0", "objective.mask.keep=[0.5, 1.5]", out)
    refused(2, ["purkinje finetune"], "pretrain", *CLASSIFY[1:], f"init_from={root}/done", out)
    refused(2, ["purkinje pretrain"], "finetune", *JEPA[1:], out)
    refused(2, ["did you mean 'jepa_demo'"], "pretrain", "jepa_dem", out)
    refused(65, ["batch", "60", "56"], *JEPA, "train.batch_size=60", out)
    refused(2, ["crop", "patch"], *JEPA, "data.crop=1.03s", out)
    refused(2, ["rate"], *JEPA, "data.rate=101 Hz", "data.crop=1 s", out)
    refused(2, ["longer than the synthetic records", "3 s", "2 s"], *JEPA, "data.crop=3s", out)
    refused(65, ["V9"], *JEPA, "data.leads=[I, V9]", out)
    refused(2, ["bf16", "GPU"], *JEPA, "train.precision=bf16", out)
    refused(2, ["micro"], *JEPA, "train.micro_batch=3", out)
    bare = ["pretrain", "jepa_vit_tiny_ptbxl_100hz", "train.steps=4000", out]
    refused(2, ["CORPUS"], *bare)
    refused(69, ["/nowhere"], *bare, "data.corpus=/nowhere")
    expect(not os.path.exists(os.path.join(root, "none")), "a refused run left a folder")
    refused(73, ["/proc/none"], *JEPA, "output.dir=/proc/none")


def encoders(root, done):
    """init_from: nothing there, tensors missing, unexpected, of another shape, rate or lead."""
    fit = [*CLASSIFY, f"output.dir={root}/none"]
    refused(69, ["/nowhere"], *fit, "data.rate=100 Hz", "init_from=/nowhere")
    refused(2, ["PRETRAINED"], *fit)
    init = f"init_from={done}"
    refused(65, ["no task 'beat'", "rhythm"], *fit, init, "data.task=beat")
    refused(65, ["no labelled record", "checkpoints"], *fit, init,
            "data.folds.validation=[40]")
    refused(2, ["200 Hz"], *fit, init, "data.synthetic.rate=200 Hz")
    refused(2, ["data.rate is 200", "encoder 100"], *fit, init, "data.rate=200 Hz")
    refused(2, ["width", "32", "16"], *fit, init, "model.encoder.width=32")
    refused(2, ["leads"], *fit, init, "data.leads=[II, I]")
    refused(65, ["needs lead I", "does not have"], *fit, init, "data.synthetic.ppg=true")
    for name, change, words in DAMAGE:
        run = os.path.join(root, "damaged")
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(done, run)
        exported(run, os.path.join(root, "export"), change)
        refused(65, words, *fit, "data.rate=100 Hz", f"init_from={root}/export")
    expect(not os.path.exists(os.path.join(root, "none")), "a refused run left a folder")


def pretrained(root, done):
    """Pretraining that starts from an encoder: it must be the recipe's, to the order of its leads."""
    first = [*JEPA, "train.steps=3", f"init_from={done}", f"output.dir={root}/none"]
    rate = ["data.rate=200 Hz", "model.encoder.patch=25 ms"]  # tensors of the same shapes
    refused(2, ["data.rate is 200", "encoder 100"], *first, *rate)
    leads = "data.leads=[II, I, III, aVR, aVL, aVF, V1, V2, V3, V4, V5, V6]"
    refused(2, ["data.leads", "order"], *first, leads)
    refused(2, ["model.encoder.depth is 2"], *first, "model.encoder.depth=2")
    expect(not os.path.exists(os.path.join(root, "none")), "a refused run left a folder")
    good(*first[:-1], f"output.dir={root}/continued")


def drop(t):
    del t["encoder.blocks.0.attn.qkv.weight"]


def add(t):
    t["encoder.blocks.1.norm1.weight"] = ("F32", (16,), bytes(64))


def widen(t):
    t["encoder.norm.weight"] = ("F32", (32,), bytes(128))


def halve(t):
    t["encoder.norm.weight"] = ("F16", (16,), bytes(32))


DAMAGE = [
    ("missing", drop, ["missing: encoder.blocks.0.attn.qkv.weight"]),
    ("unexpected", add, ["unexpected: encoder.blocks.1.norm1.weight"]),
    ("shape", widen, ["encoder.norm.weight", "[32]", "[16]"]),
    ("type", halve, ["encoder.norm.weight", "F16", "F32"]),
]


def exported(run, folder, change):
    """The newest EMA encoder as model.safetensors and config.json, with one thing changed."""
    os.makedirs(folder, exist_ok=True)
    newest = os.path.join(run, "checkpoints", f"step-{steps_on_disk(run)[-1]:09d}")
    t = tensors(os.path.join(newest, "ema.safetensors"))
    change(t)
    header, body = {}, b""
    for name, (kind, shape, data) in t.items():
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + body)
    with open(os.path.join(newest, "state.json")) as f:
        model = json.load(f)["model"]
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(model, f)


def elsewhere(root, done):
    """An encoder without a recipe beside it describes itself; and a run that has begun needs it no more."""
    folder = os.path.join(root, "export")
    exported(done, folder, lambda t: None)
    whole, half = os.path.join(root, "from_export"), os.path.join(root, "from_export_half")
    good(*CLASSIFY, "data.rate=100 Hz", f"init_from={folder}", f"output.dir={whole}")
    shutil.copytree(whole, half)
    shutil.rmtree(os.path.join(half, "checkpoints", f"step-{steps_on_disk(half)[-1]:09d}"))
    shutil.rmtree(folder)
    good("resume", half)
    same(half, whole, "resumed without init_from's file")


def corrupt(root):
    """A damaged newest checkpoint is passed over with a warning; without any good one it is an error."""
    whole, run = os.path.join(root, "whole"), os.path.join(root, "corrupt")
    good(*JEPA, "train.steps=9", "output.checkpoint.keep_last=9", f"output.dir={whole}")
    shutil.copytree(whole, run)
    flip(os.path.join(run, "checkpoints/step-000000009/model.safetensors"))
    r = good("resume", run)
    expect("warning:" in r.stderr and "step-000000009" in r.stderr, f"no warning: {r.stderr}")
    same(run, whole, "resumed from the checkpoint before")
    flip(os.path.join(run, "checkpoints/step-000000009/moment1.safetensors"))
    expect(good("resume", run, "--quiet").stderr == "", "--quiet is not quiet")
    same(run, whole, "the same, quietly")
    for step in steps_on_disk(run):
        flip(os.path.join(run, f"checkpoints/step-{step:09d}/ema.safetensors"))
    refused(65, ["step-000000003", "step-000000009"], "resume", run)


def flip(path):
    with open(path, "r+b") as f:
        f.seek(-9, os.SEEK_END)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 16]))


def small_files():
    """No file may pass 24 KiB: as on a full disk, write() fails (with EFBIG instead of ENOSPC)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (24 << 10, 24 << 10))


def full_disk(root):
    """A checkpoint that cannot be written ends the run; the one before stays good."""
    whole, run = os.path.join(root, "disk_whole"), os.path.join(root, "disk")
    good(*JEPA, "train.steps=9", f"output.dir={whole}")
    shutil.copytree(whole, run)
    for step in (6, 9):
        if step != 6:
            shutil.rmtree(os.path.join(run, f"checkpoints/step-{step:09d}"))
    refused(73, ["step-000000009", "safetensors"], "resume", run, preexec_fn=small_files)
    expect(steps_on_disk(run) == [6], f"checkpoints after a full disk: {steps_on_disk(run)}")
    hidden = [n for n in os.listdir(os.path.join(run, "checkpoints")) if n.startswith(".")]
    expect(not hidden, f"left behind: {hidden}")
    expect(state(run) == "failed", f"state {state(run)}")
    good("resume", run)
    same(run, whole, "resumed after a full disk")
    if shutil.which("strace"):
        shutil.rmtree(os.path.join(run, "checkpoints/step-000000009"))
        trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=fsync:error=ENOSPC:when=4"]
        r = subprocess.run([*trace, PROGRAM, "resume", run], capture_output=True, text=True, env=ENV)
        if "ptrace" not in r.stderr.lower():
            expect(r.returncode == 73 and "No space left" in r.stderr and run in r.stderr,
                   f"ENOSPC: exit {r.returncode}: {r.stderr}")
            good("resume", run)
            same(run, whole, "resumed after ENOSPC")


def diverging(root, done):
    """A loss that is not finite: the batch is kept, the weights are those before, exit 76 or go on."""
    for name, first in (("jepa", [*JEPA, "train.steps=12", "train.learning_rate.peak=100",
                                  "train.learning_rate.start=100", "train.weight_decay.start=100",
                                  "train.weight_decay.end=100"]),
                        ("fit", [*CLASSIFY, f"init_from={done}", "stages.0.learning_rate.peak=100",
                                 "stages.0.learning_rate.start=100", "stages.0.steps=60",
                                 "stages.0.weight_decay.start=100", "stages.0.weight_decay.end=100",
                                 "evaluation.every=100"])):
        run = os.path.join(root, f"nan_{name}")
        r = refused(76, ["step ", "kept in", run], *first, f"output.dir={run}")
        kept = glob.glob(os.path.join(run, "nan-step-*.safetensors"))
        if not expect(len(kept) == 1 and state(run) == "diverged", f"{name}: {kept}, {r.stderr}"):
            continue
        t = tensors(kept[0])
        expect(t["signal"][:2] == ("I16", (16, 12, 100)) and t["row"][1] == (16,), f"{name}: batch {t.keys()}")
        expect(("label" in t) == (name == "fit"), f"{name}: labels of the kept batch")
        run += "_skip"
        words = ["the step is skipped", "10 steps in a row were skipped"]
        refused(76, words, *first, "train.on_nan=skip", f"output.dir={run}")
        expect(len(glob.glob(os.path.join(run, "nan-step-*"))) == 1, f"{name}: kept every batch of a row")
        last = steps_on_disk(run)[-1]
        model = tensors(os.path.join(run, f"checkpoints/step-{last:09d}/model.safetensors"))
        expect(all(is_finite(v[2]) for v in model.values()), f"{name}: skipping poisoned the weights")


def is_finite(data):
    return all(data[i + 3] & 0x7F != 0x7F or not data[i + 2] & 0x80 for i in range(0, len(data), 4))


def bad_shards(root):
    """A shard cut short is found at the start or names the record; nothing hangs."""
    corpus, run = os.path.join(root, "corpus"), os.path.join(root, "shard")
    good("data", "synth", corpus, "--records", 64, "--rate", 100, "--seconds", 2)
    first = [*[a for a in JEPA if not a.startswith("data.synthetic")], f"data.corpus={corpus}"]
    mine = os.path.join(root, "mine.yaml")
    with open(mine, "w") as f:
        f.write("schema: 1\nextends: [base/jepa.yaml]\nseed: 7\nmodel:\n  encoder: {patch: 50 ms}\n"
                "data: {rate: 100 Hz}\ntrain: {precision: fp32}\n")
    first[1] = mine
    good(*first, "train.steps=6", f"output.dir={run}")
    refused(65, ["longer than the records", "3 s", "2 s"], *first, "data.crop=3s", f"output.dir={run}_no")
    refused(65, ["100 Hz", "200 Hz"], *first, "data.rate=200 Hz", f"output.dir={run}_no")
    refused(65, ["no database 'mimic'", "synthetic"], *first, "data.mixture={mimic: 1}", f"output.dir={run}_no")
    shard = sorted(glob.glob(os.path.join(corpus, "**", "*.h5"), recursive=True))[0]
    whole = open(shard, "rb").read()
    for keep in (0, 100, len(whole) // 3, len(whole) - 1):
        with open(shard, "wb") as f:
            f.write(whole[:keep])
        r = purkinje(*first, "train.steps=6", f"output.dir={run}_bad", "--overwrite")
        expect(r.returncode in (65, 69, 74) and os.path.basename(shard) in r.stderr,
               f"shard of {keep} of {len(whole)} bytes: exit {r.returncode}: {r.stderr}")
    with open(shard, "wb") as f:
        f.write(whole)
    p = subprocess.Popen([PROGRAM, *first, "train.steps=1000000", f"output.dir={run}_cut"], env=ENV,
                         stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        for _ in range(24000):
            if steps_on_disk(f"{run}_cut"):
                break
            time.sleep(0.005)
        os.truncate(shard, len(whole) // 3)
        said = p.communicate(timeout=300)[1]
        expect(p.returncode in (65, 74) and re.search(r"record", said) and os.path.basename(shard) in said,
               f"shard cut during training: exit {p.returncode}: {said[-600:]}")
        expect(state(f"{run}_cut") == "failed", "state after a lost shard")
    finally:
        p.kill()
        p.wait()
    with open(shard, "wb") as f:
        f.write(whole)
    last = steps_on_disk(f"{run}_cut")[-1]
    good("resume", f"{run}_cut", f"train.steps={last + 3}")


def quiet_and_plain(root):
    """Logs hold no escape codes, quiet runs say nothing, stdout is the run's folder alone."""
    run = os.path.join(root, "plain")
    r = good(*JEPA, "train.steps=8", f"output.dir={run}")
    expect(r.stdout == run + "\n", f"stdout: {r.stdout!r}")
    expect(not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", r.stderr), f"control codes: {r.stderr!r}")
    expect("step 8/8" in r.stderr and "loss" in r.stderr, f"no progress: {r.stderr}")
    r = good(*JEPA, "train.steps=8", f"output.dir={run}", "--overwrite", "--quiet")
    expect(r.stdout == run + "\n" and r.stderr == "", f"quiet: {r.stdout!r} {r.stderr!r}")
    with open(os.path.join(run, "run.json")) as f:
        argv = json.load(f)["argv"]
    expect(argv[1:3] == ["pretrain", "jepa_demo"] and argv[-1] == "--quiet", f"argv in run.json: {argv}")
    wanted = {"step", "loss", "learning_rate", "weight_decay", "ema_momentum", "grad_norm",
              "records_per_s", "data_wait", "peak_memory", "embedding_std", "effective_rank",
              "target_variance", "seconds", "mfu"}
    with open(os.path.join(run, "metrics.jsonl")) as f:
        lines = [json.loads(line) for line in f]
    for line in lines:
        expect(wanted <= line.keys(), f"metrics lack {wanted - line.keys()}")
    events = b"".join(open(p, "rb").read() for p in glob.glob(os.path.join(run, "tb", "events.*")))
    missing = [w for w in wanted - {"step"} if w.encode() not in events]
    expect(not missing, f"TensorBoard lacks {missing}")
    expect([line["step"] for line in metrics(run)] == list(range(1, 9)), "steps of metrics.jsonl")
    with open(os.path.join(run, "train.log")) as f:
        log = f.read()
    expect("train step 8  loss" in log and "done after step 8" in log, f"train.log: {log}")


def main():
    with scratch() as root:
        done = os.path.join(root, "done")
        good(*JEPA, "train.steps=6", f"output.dir={done}")
        for test in (existing, encoders, pretrained, elsewhere, diverging):
            print(test.__name__, flush=True)
            test(root, done)
        for test in (locked, recipes, corrupt, full_disk, bad_shards, quiet_and_plain):
            print(test.__name__, flush=True)
            test(root)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
