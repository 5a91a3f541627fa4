"""train.sync_norm on several ranks of the CUDA backend, with tests/cuda_host/fake_nccl.c between them: n ranks train as
one whose micro-batch is the whole batch, up to the rounding of sums, and as the CPU's ranks do; replicas are equal bit
for bit (the runs compare them); with and without graphs, in parts, with moments shared out, while buckets leave; on one
rank the key changes nothing; a rank that dies in a norm's gather ends the others, soon and by name."""
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import expect, good, metrics, refused, same, scratch, state, steps_on_disk  # noqa: E402

runs.ENV.update(PURKINJE_DEVICE="cuda", PURKINJE_NCCL=os.environ["PK_FAKE_NCCL"], PURKINJE_SHARE_GPU="1")
SYNC = "train.sync_norm=true"
STEPS = 3
CONV = ["finetune", "finetune_scratch", "data.corpus=", "data.rate=100Hz", "data.task=rhythm",
        "model.encoder.kind=resnet1d_wang", "model.encoder.channels=8", "data.synthetic.records=64",
        "data.synthetic.seconds=2", "data.crop=0.5s", "evaluation.window=0.5s", "evaluation.stride=0.5s",
        "evaluation.every=100", "evaluation.bootstrap=20", "train.batch_size=16", "train.threads=1", "train.log_every=1",
        f"stages.0.steps={STEPS}", "stages.0.learning_rate.warmup=1", "stages.0.patience=0", "objective.head.kind=concat_pool",
        "objective.head.hidden=16", "objective.head.dropout=0", "train.precision=fp32", "--quiet"]
SIMCLR = ["pretrain", "simclr_demo", *runs.TINY, "data.synthetic.records=64", "train.batch_size=16", f"train.steps={STEPS}",
          "train.log_every=1", "train.learning_rate.warmup=1", "objective.projection.norm=true", "train.precision=fp32",
          "--quiet"]


def run(root, name, n, command, *more, **env):
    out, before = os.path.join(root, name), dict(runs.ENV)
    runs.ENV.update(env)
    good(*(["launch", "-n", n] if n > 1 else []), *command, *more, f"output.dir={out}")
    runs.ENV.clear()
    runs.ENV.update(before)
    return out


def losses(out):
    return [line["loss"] for line in metrics(out) if "loss" in line]


def apart(a, b):
    x, y = losses(a), losses(b)
    expect(len(x) == len(y) >= STEPS, f"{a}: {len(x)} losses, not {len(y)}")
    return [abs(p / q - 1) for p, q in zip(x, y)]


if __name__ == "__main__":
    with scratch() as root:
        for name, command in (("conv", CONV), ("simclr", SIMCLR)):
            one = run(root, f"{name}-1", 1, command)
            for n in 2, 4:
                t = time.time()
                two = run(root, f"{name}-{n}", n, command, SYNC, FAKE_NCCL_TRACE=f"/tmp/trace-{name}-{n}")
                print(name, n, apart(two, one), time.time() - t)
            alone = run(root, f"{name}-alone", 2, command)
            print(name, "alone", apart(alone, one))
            cpu = run(root, f"{name}-cpu", 2, command, SYNC, PURKINJE_DEVICE="cpu")
            print(name, "cpu", apart(cpu, one))
