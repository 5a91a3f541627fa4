"""train.sync_norm on several ranks of the CUDA backend, with tests/cuda_host/fake_nccl.c between them: n ranks train as
one whose micro-batch is the whole batch, up to the rounding of sums, and as the CPU's ranks do; replicas are equal bit
for bit (the runs compare them); with and without graphs, in parts, with moments shared out, while buckets leave; on one
rank the key changes nothing; a rank that dies in a norm's gather ends the others, soon and by name."""
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import expect, good, metrics, refused, same, scratch, state  # noqa: E402

runs.ENV.update(PURKINJE_DEVICE="cuda", PURKINJE_NCCL=os.environ["PK_FAKE_NCCL"], PURKINJE_SHARE_GPU="1")
SYNC = "train.sync_norm=true"
STEPS = 3
CONV = ["finetune", "finetune_scratch", "data.corpus=", "data.rate=100Hz", "data.task=rhythm",
        "model.encoder.kind=resnet1d_wang", "model.encoder.channels=8", "data.synthetic.records=64",
        "data.synthetic.seconds=1", "data.crop=0.5s", "evaluation.window=0.5s", "evaluation.stride=0.5s",
        "evaluation.every=1", "evaluation.bootstrap=20", "train.batch_size=16", "train.threads=1", "train.log_every=1",
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


def apart(out, reference):
    """|a - b| / |b| of the losses (the largest), the running mean of the gradients, and weights."""
    x, y = losses(out), losses(reference)
    if not expect(len(x) == len(y) == STEPS and state(out) == "done", f"{out}: {len(x)} losses, not {len(y)}; {state(out)}"):
        return 9, 9, 9
    d = [max(abs(p / q - 1) for p, q in zip(x, y))]
    return d + [runs.distance(out, reference, name) for name in ("moment1.safetensors", "model.safetensors")]


# Sums over other parts of the batch: every number a few roundings of 2^-24 apart, which 22 norms and three steps
# make 40 at most here. Statistics of each rank's records alone are 1e-2 apart, and are told by it.
NEAR, FAR = 2e-5, 1e-3


def near(out, reference, what):
    d = apart(out, reference)
    print(f"{what}: losses {d[0]:.1e} apart, gradients {d[1]:.1e}, weights {d[2]:.1e}", flush=True)
    expect(max(d) <= NEAR, f"{what}: {d}, {NEAR} are allowed")


def check_same(root, name, command):
    one = run(root, f"{name}-1", 1, command)
    near(run(root, f"{name}-2", 2, command, SYNC, PK_CUDA_HOST_SCHEDULE="early"), one, f"{name} on 2 ranks")
    near(run(root, f"{name}-4", 4, command, SYNC), one, f"{name} on 4 ranks")
    near(run(root, f"{name}-cpu", 2, command, SYNC, PURKINJE_DEVICE="cpu"), f"{root}/{name}-2", f"{name} on 2 CPU ranks")
    expect(apart(run(root, f"{name}-alone", 2, command), one)[0] > FAR, f"{name}: the key changes nothing")
    same(run(root, f"{name}-key", 1, command, SYNC), one, f"{name}, the key on one rank")


def check_schedules(root):
    """Who works ahead makes no difference; and what went over the wire, in which order."""
    path = os.path.join(root, "trace")
    late = run(root, "conv-late", 2, CONV, SYNC, PK_CUDA_HOST_SCHEDULE="late", FAKE_NCCL_TRACE=path)
    same(late, f"{root}/conv-2", "streams that work late")
    with open(path) as f:
        kinds = [line.split()[4] for line in f]
    step = kinds[:len(kinds) // STEPS]
    # 9 norms of the encoder and 2 of the head, forward and backward
    expect(kinds == STEPS * step and step.count("gather") == 22, f"in a step {step}")
    expect("gather" in step[step.index("sum"):], f"no bucket leaves before the last norm: {step}")
    return step


def check_kinds(root):
    """Parts of a batch, storage and wire in bf16, moments shared out, and a run that is resumed."""
    parts, low, zero1 = ["train.accumulate=2"], ["train.precision=bf16"], ["train.zero1=true"]
    near(run(root, "parts-2", 2, SIMCLR, SYNC, *parts), run(root, "parts-1", 1, SIMCLR, *parts), "2 ranks, 2 parts")
    near(run(root, "low-2", 2, CONV, SYNC, *low), run(root, "low-1", 1, CONV, *low), "2 ranks, bf16")
    whole = run(root, "every", 2, SIMCLR, SYNC, "output.checkpoint.every=2")
    same(run(root, "zero1", 2, SIMCLR, SYNC, *zero1, "output.checkpoint.every=2"), whole, "moments shared out")
    again = run(root, "again", 2, SIMCLR, SYNC, "output.checkpoint.every=2")
    shutil.rmtree(f"{again}/checkpoints/step-000000003")
    if os.path.lexists(f"{again}/checkpoints/latest"):
        os.unlink(f"{again}/checkpoints/latest")
    good("launch", "-n", 2, "resume", again, "--quiet")
    expect(runs.weights(again) == runs.weights(whole), "resumed: other weights")


def check_refused(root):
    two = ["launch", "-n", 2, *CONV, SYNC, f"output.dir={root}/none"]
    refused(2, ["train.sync_norm", "not 4 of 2 records", "leave train.micro_batch out"], *two, "train.micro_batch=2")
    refused(2, ["train.sync_norm", "train.accumulate=1"], *two, "train.accumulate=2")
    expect(not os.path.exists(f"{root}/none"), "a refused run left a folder")


def check_faults(root, step):
    """Forward and backward, in the second step of many."""
    forward, backward = len(step), len(step) + len(step) - 1 - step[::-1].index("gather")
    for fault, at, words in (("die", forward, ["rank 1", "SIGKILL"]), ("die", backward, ["rank 1", "SIGKILL"]),
                                ("call", backward, ["rank 1 of 2: gathering what norms and losses", "says the test"]),
                                ("error", forward, ["rank 1", "NCCL", "remote"]),
                                ("stall", forward, ["no progress"])):
        out, before, begun = f"{root}/{fault}-{at}", dict(runs.ENV), time.time()
        runs.ENV.update(FAKE_NCCL_FAULT=fault, FAKE_NCCL_RANK="1", FAKE_NCCL_AT=str(at), **({"PURKINJE_WATCHDOG": "4"} if fault == "stall" else {}))
        refused(71, words, "launch", "-n", 2, *CONV, SYNC, f"output.dir={out}", "stages.0.steps=200",
                "evaluation.every=200")
        runs.ENV.clear()
        runs.ENV.update(before)
        expect(time.time() - begun < 60 and state(out) != "done", f"{fault}: {time.time() - begun:.0f} s, {state(out)}")


with scratch() as root:
    check_same(root, "conv", CONV)
    check_same(root, "simclr", SIMCLR)
    step = check_schedules(root)
    check_kinds(root)
    check_refused(root)
    check_faults(root, step)
sys.exit(1 if runs.failures else 0)
