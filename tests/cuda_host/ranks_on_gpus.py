"""Several ranks on the CUDA backend, with tests/cuda_host/fake_nccl.c between them: the run of n ranks is the run
of one, to the bit where both add the same numbers and up to the rounding of sums where not; replicas are equal
bit for bit (the runs compare them, and a wrong bit is found); gradients leave in buckets, during the last backward
pass, and nobody touches them on their way; whatever fails at one rank ends all of them, soon and by name."""
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import CLASSIFY, JEPA, TINY, expect, good, metrics, purkinje, refused, same, scratch, state, steps_on_disk  # noqa: E402

FAKE = os.environ["PK_FAKE_NCCL"]
runs.ENV.update(PURKINJE_DEVICE="cuda", PURKINJE_NCCL=FAKE, PURKINJE_SHARE_GPU="1")
STEPS = 3
FP32 = ["train.precision=fp32", f"train.steps={STEPS}", "output.checkpoint.every=2"]
HALVES = ["train.micro_batch=8"]  # what each of two ranks has, so that one adds the same two numbers
SMALL = [*TINY, "data.synthetic.records=64", "train.batch_size=16", "train.learning_rate.warmup=2",
         "output.checkpoint.every=3"]
MAE = ["pretrain", "mae_demo", *SMALL, "data.crop=0.5s", "objective.decoder.width=16", "objective.decoder.depth=1",
       "objective.decoder.heads=2"]
SIMCLR = ["pretrain", "simclr_demo", *SMALL]
MOCO = [*SIMCLR, "objective.momentum=true", "objective.projection.norm=false"]


def ranks(n):
    return ["launch", "-n", n]


def with_env(**env):
    """For the next runs; returns what takes it back."""
    before = dict(runs.ENV)
    runs.ENV.update(env)

    def back():
        runs.ENV.clear()
        runs.ENV.update(before)

    return back


# The first moment is linear in the gradients: a relative error of each sum is one of it. An fp32 sum over ranks and
# one over a micro-batch cut in two differ by a few roundings of 2^-24; 16 of them are allowed. On a bf16 wire each
# rank's gradient and each partial sum is rounded by at most 2^-9.
NEAR = {"fp32": 16 * 2.0**-24, "bf16": 2 * 2.0**-9}


def near(run, reference, wire, what):
    for name in ("model.safetensors", "moment1.safetensors"):
        d = runs.distance(run, reference, name)
        expect(d <= NEAR[wire], f"{what}: {name} is {d:.2g} away, {NEAR[wire]:.2g} are allowed")
    for a, b in zip(metrics(run), metrics(reference)):
        expect(a["step"] == b["step"] and abs(a["loss"] - b["loss"]) <= NEAR[wire] * abs(b["loss"]),
               f"{what}: loss {a['loss']}, not {b['loss']}, at step {a['step']}")
    expect(state(run) == "done" and len(metrics(run)) == len(metrics(reference)), f"{what}: {state(run)}")


def check_bits(root, name, command):
    one, two = os.path.join(root, f"{name}-1"), os.path.join(root, f"{name}-2")
    good(*command, *FP32, *HALVES, f"output.dir={one}", "--quiet")
    good(*ranks(2), *command, *FP32, *HALVES, f"output.dir={two}", "--quiet")
    same(two, one, f"{name} on 2 ranks")


def check_zero1(root):
    """Moments and update shared out: the bits of every rank with all of them."""
    zero1 = "train.zero1=true"
    for name, command, more, halves in (("halves", JEPA, [], HALVES), ("moco", MOCO, [], HALVES),
                                        ("low", JEPA, ["train.precision=bf16", "train.wire=bf16"], []),
                                        ("parts", JEPA, ["train.accumulate=2"], [])):
        shared, whole = os.path.join(root, f"{name}-zero1"), os.path.join(root, f"{name}-2")
        if more:
            good(*ranks(2), *command, *FP32, *more, f"output.dir={whole}", "--quiet")
        path = os.path.join(root, f"trace-{name}")
        back = with_env(FAKE_NCCL_TRACE=path)
        good(*ranks(2), *command, *FP32, *halves, *more, zero1, f"output.dir={shared}", "--quiet")
        back()
        same(shared, whole, f"{name}, moments shared out")
        kinds = [s[3] for s in trace(path)]
        expect(kinds.count("reduce") >= 2 * STEPS and kinds.count("sum") == 2 * STEPS and kinds.count("share") >= 2 * STEPS,
               f"{name}: {({k: kinds.count(k) for k in set(kinds)})}")
    three, run = os.path.join(root, "halves-zero1-3"), os.path.join(root, "zero1-resumed")
    good(*ranks(4), *JEPA, *FP32, zero1, f"output.dir={three}", "--quiet")
    near(three, os.path.join(root, "jepa"), "fp32", "4 ranks, moments shared out")
    for on in ("true", "false"):  # from a checkpoint that shows nothing of it
        rewind(os.path.join(root, "halves-zero1"), run)
        good(*ranks(2), "resume", run, f"train.zero1={on}", "--quiet")
        expect(runs.weights(run) == runs.weights(os.path.join(root, "halves-2")), f"resumed with train.zero1={on}: other weights")
        shutil.rmtree(run)


def check_contrastive(root):
    """Projections, keys and what the losses of both views tell of their rows meet on the devices,
    ahead of the sums of their step; two parts."""
    late, parts, path = (os.path.join(root, f"gathers-{x}") for x in ("moco", "parts", "trace"))
    back = with_env(FAKE_NCCL_TRACE=path)
    good(*ranks(2), *MOCO, *FP32, *HALVES, f"train.log_every={STEPS}", f"output.dir={late}", "--quiet")
    back()
    expect(runs.weights(late) == runs.weights(os.path.join(root, "moco-1")), "steps that nobody waits for: other weights")
    kinds = [op[3] for op in trace(path)]
    step = len(kinds) // STEPS
    expect(kinds == STEPS * (4 * ["gather"] + (step - 4) * ["sum"]) and step > 6, f"messages in steps of {step}: {kinds}")
    expect({op[1] for op in trace(path)[:2]} == {8 * 64}, f"of 8 records {trace(path)[:2]} are sent")
    # without batch norm, which magnifies rounding from step to step
    two = ["train.accumulate=2", "train.micro_batch=4", "objective.projection.norm=false", "train.steps=2"]
    good(*ranks(2), *SIMCLR, *FP32, *two, f"output.dir={parts}", "--quiet")
    good(*SIMCLR, *FP32, *two, f"output.dir={parts}-1", "--quiet")
    near(parts, f"{parts}-1", "fp32", "2 ranks, 2 contrastive parts")
    return 2 * step


def check_gather_faults(root, third):
    """In a gather of the third step, while nobody waits but for the step's record: of projections or keys, of a loss."""
    for fault, n, at, words in (("die", 4, 0, ["rank 1", "SIGKILL"]),
                                ("stall", 2, 2, ["no progress"]),
                                ("call", 2, 0, ["rank 1 of 2: gathering projections", "says the test"]),
                                ("call", 2, 2, ["rank 1 of 2: gathering what norms and losses", "says the test"])):
        run = os.path.join(root, f"gathers-{fault}-{at}")
        back = with_env(FAKE_NCCL_FAULT=fault, FAKE_NCCL_RANK="1", FAKE_NCCL_AT=str(third + at),
                        **({"PURKINJE_WATCHDOG": "4"} if fault == "stall" else {}))
        begun = time.time()
        refused(71, words, *ranks(n), *MOCO, "train.precision=fp32", "train.steps=200", "train.log_every=100",
                f"output.dir={run}", "--quiet")
        expect(time.time() - begun < 60, f"{fault} in gather {at}: {time.time() - begun:.0f} s until all had ended")
        back()
        expect(state(run) != "done" and not steps_on_disk(run), f"{fault} in gather {at}: {steps_on_disk(run)}")


def check_finetuning(root):
    """A probe, then everything: another program, with other gradients, after the first stage."""
    out = {}
    for n in (1, 2):
        run = out[n] = os.path.join(root, f"classify-{n}")
        good(*ranks(n), *CLASSIFY, f"init_from={root}/halves-1", "train.precision=fp32", *HALVES, "stages.0.steps=2",
             "stages.1.steps=2", f"output.dir={run}", "--quiet")
    same(out[2], out[1], "fine-tuning on 2 ranks")


def trace(path):
    with open(path) as f:
        return [(type_, int(count), int(kernels), kind) for _, type_, count, kernels, kind, _ in (line.split() for line in f)]


def check_buckets(root, one):
    """Both schedules of the executor, and what went over the wire and when."""
    for schedule in ("early", "late"):
        run, path = os.path.join(root, f"jepa-{schedule}"), os.path.join(root, f"trace-{schedule}")
        back = with_env(PK_CUDA_HOST_SCHEDULE=schedule, FAKE_NCCL_TRACE=path)
        r = good(*ranks(2), *JEPA, *FP32, f"output.dir={run}")
        back()
        near(run, one, "fp32", f"2 ranks, {schedule}")
        for word in ("rank 0    GPU 0 of ", "rank 1    GPU 0 of ", "NCCL 2.27.3", "micro-batches of 8 on each of 2 ranks"):
            expect(word in r.stderr, f"nothing says '{word}': {r.stderr}")
    sums = trace(os.path.join(root, "trace-early"))
    step = sums[:[s[0] for s in sums].index("f64") + 1]
    expect(len(step) >= 3 and len(sums) == STEPS * len(step), f"{len(sums)} sums in {STEPS} steps of {len(step)}")
    expect([s[:2] for s in sums] == STEPS * [s[:2] for s in step], "steps do not send the same")
    trained = sum(len(raw) // 4 for key, (_, _, raw) in runs.weights(one).items() if key.startswith("moment1"))
    sent = sum(s[1] for s in step if s[0] == "f32")
    expect(trained <= sent <= 1.2 * trained, f"{sent} gradients of {trained} are sent")  # and padding
    # what else runs before a sum is a matter of chance; in no step would mean that all wait for the end
    spread = [sums[k + len(step) - 1][2] - sums[k][2] for k in range(0, len(sums), len(step))]
    expect(max(spread) > 20, f"between the first bucket and the last {spread} kernels run")
    return len(step)


def check_rounding(root, one, sums):
    four, wire, parts = (os.path.join(root, f"jepa-{x}") for x in ("4", "wire", "parts"))
    good(*ranks(4), *JEPA, *FP32, f"output.dir={four}", "--quiet")
    near(four, one, "fp32", "4 ranks")
    path = os.path.join(root, "trace-wire")
    back = with_env(FAKE_NCCL_TRACE=path)
    good(*ranks(2), *JEPA, *FP32, "train.wire=bf16", f"output.dir={wire}", "--quiet")
    near(wire, one, "bf16", "2 ranks, gradients as bf16")
    expect({s[0] for s in trace(path)} == {"bf16", "f64"}, f"sent {trace(path)[:9]}")
    os.unlink(path)
    good(*ranks(2), *JEPA, *FP32, "train.precision=bf16", "train.accumulate=2", f"output.dir={parts}", "--quiet")
    back()
    expect(len(trace(path)) == STEPS * sums, f"{len(trace(path))} sums in {STEPS} steps of two parts, {sums} wanted in each")
    good(*JEPA, *FP32, "train.precision=bf16", "train.accumulate=2", f"output.dir={parts}-1", "--quiet")
    near(parts, f"{parts}-1", "fp32", "2 ranks, 2 parts")


def check_resume(root):
    """From the checkpoint of a run of two ranks, on as many."""
    whole, run = os.path.join(root, "mae-2"), os.path.join(root, "mae-resumed")
    rewind(whole, run)
    good(*ranks(2), "resume", run, "--quiet")
    expect(runs.weights(run) == runs.weights(whole), "resumed on 2 ranks: other weights")


def rewind(whole, run):
    """A copy of the run as it was before its last checkpoint."""
    shutil.copytree(whole, run, symlinks=True)
    folder = os.path.join(run, "checkpoints")
    expect(steps_on_disk(run) == [2, 3], f"{steps_on_disk(run)}")
    shutil.rmtree(os.path.join(folder, "step-000000003"))
    if os.path.lexists(os.path.join(folder, "latest")):
        os.unlink(os.path.join(folder, "latest"))


def check_refused(root):
    bad = os.path.join(root, "bad")
    two = [*ranks(2), *JEPA, *FP32, f"output.dir={bad}", "--quiet"]
    for code, env, words in (
            (69, {"PURKINJE_NCCL": "/nowhere/libnccl.so"}, ["/nowhere/libnccl.so", "NCCL 2.14", "--device cpu"]),
            (69, {"PURKINJE_NCCL": f"{os.environ['PURKINJE']}"}, ["cannot be loaded"]),
            (69, {"FAKE_NCCL_VERSION": "21212"}, ["NCCL 2.12.12", "2.14 or later"]),
            (2, {"PURKINJE_SHARE_GPU": "0"}, ["ranks 0 and 1 would both train on GPU 0", "CUDA_VISIBLE_DEVICES"]),
            (71, {"FAKE_NCCL_FAULT": "init", "FAKE_NCCL_RANK": "1"}, ["rank 1 of 2: connecting", "says the test"]),
            (71, {"FAKE_NCCL_FAULT": "connect", "FAKE_NCCL_RANK": "0"}, ["rank 0 of 2: connecting", "remote"])):
        back = with_env(**env)
        begun = time.time()
        refused(code, words, *two)
        expect(time.time() - begun < 60, f"{env}: {time.time() - begun:.0f} s until both had ended")
        back()
        expect(not os.path.exists(bad), f"{env}: a refused run leaves a folder")
    refused(2, ["16 records", "3 ranks", "train.batch_size"], *ranks(3), *JEPA, *FP32, f"output.dir={bad}")


def check_faults(root):
    """In the third step of many; each step has five sums."""
    for fault, n, words in (("call", 2, ["rank 1 of 2: the gradient sum", "says the test"]),
                            ("error", 2, ["rank 1", "NCCL", "remote"]),
                            ("die", 4, ["rank 1", "SIGKILL"]),
                            ("stall", 2, ["no progress"]),
                            ("flip", 2, ["rank 1 differs", "weights and moments"])):
        run = os.path.join(root, fault)
        back = with_env(FAKE_NCCL_FAULT=fault, FAKE_NCCL_RANK="1", FAKE_NCCL_AT="12",
                        **({"PURKINJE_WATCHDOG": "4"} if fault == "stall" else {}))
        begun = time.time()
        refused(71, words, *ranks(n), *JEPA, "train.precision=fp32", "train.steps=200", "train.batch_size=8",
                f"output.dir={run}", "--quiet")
        expect(time.time() - begun < 60, f"{fault}: {time.time() - begun:.0f} s until all had ended")
        back()
        expect(state(run) != "done" and all(s <= 3 for s in steps_on_disk(run)), f"{fault}: {steps_on_disk(run)}")


def check_nan(root):
    """A step that is not finite is the same event on all ranks, whoever has the gradient."""
    said = set()
    for zero1 in ("false", "true"):
        run = os.path.join(root, f"nan-{zero1}")
        r = purkinje(*ranks(2), *JEPA, "train.steps=12", f"output.dir={run}", "--quiet", "train.precision=fp32",
                     "train.learning_rate.peak=100", "train.learning_rate.start=100", "train.weight_decay.start=100",
                     "train.weight_decay.end=100", f"train.zero1={zero1}")
        expect(r.returncode == 76 and state(run) == "diverged", f"diverging: {r.returncode} {state(run)} {r.stderr}")
        kept = [f for f in os.listdir(run) if f.startswith("nan-step")]
        expect(len(kept) == 1, f"kept {kept}")
        said |= {line.split("step ", 1)[1] for line in r.stderr.splitlines() if "is not finite" in line or "the gradient of" in line}
    expect(len(said) == 1, f"with and without shares: {said}")


with scratch() as root:
    os.mkdir(os.path.join(root, "tmp"))
    runs.ENV["TMPDIR"] = os.path.join(root, "tmp")
    one = os.path.join(root, "jepa")
    good(*JEPA, *FP32, f"output.dir={one}", "--quiet")
    sums = check_buckets(root, one)
    check_rounding(root, one, sums)
    check_bits(root, "halves", JEPA)
    check_bits(root, "mae", MAE)
    check_bits(root, "simclr", SIMCLR)
    check_bits(root, "moco", MOCO)
    check_zero1(root)
    third = check_contrastive(root)
    check_finetuning(root)
    check_resume(root)
    expect(not os.listdir(os.path.join(root, "tmp")), f"left behind: {os.listdir(os.path.join(root, 'tmp'))}")
    check_refused(root)
    check_faults(root)
    check_gather_faults(root, third)
    check_nan(root)
sys.exit(1 if runs.failures else 0)
