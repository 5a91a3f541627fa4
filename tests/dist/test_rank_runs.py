"""Whole runs on 1, 2, 4 and 8 ranks are the same run: weights, moments and every logged number, bit for
bit, for JEPA, masked autoencoders and contrastive learning, with accumulation, and over a resume that
changes the number of ranks. A signal at one rank stops all at one step; a rank that dies, or reads
another recipe, or lacks the corpus, ends all of them by name."""
import os
import re
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from rank_jobs import SOON, end, ranks, start  # noqa: E402
from runs import JEPA, TINY, expect, good, metrics, refused, same, scratch, state, steps_on_disk  # noqa: E402

SMALL = [*TINY, "data.synthetic.records=64", "train.batch_size=16", "train.learning_rate.warmup=2",
         "output.checkpoint.every=3"]
MAE = ["pretrain", "mae_demo", *SMALL, "objective.decoder.width=16", "objective.decoder.depth=1",
       "objective.decoder.heads=2"]
SIMCLR = ["pretrain", "simclr_demo", *SMALL]
MOCO = [*SIMCLR, "objective.momentum=true"]
STEPS = "train.steps=7"


def check_same(root, name, command, sizes):
    one = os.path.join(root, name)
    good(*command, STEPS, f"output.dir={one}", "--quiet")
    for n in sizes:
        run = f"{one}-{n}"
        r = good(*ranks(n), *command, STEPS, f"output.dir={run}")
        expect(r.stdout == run + "\n", f"{name}: {n} ranks print {r.stdout!r}")
        expect(r.stderr.count("batch: 16 records") == 1, f"{name}: {n} ranks describe themselves {r.stderr}")
        same(run, one, f"{name} on {n} ranks")


def check_resume(root, reference):
    """Stopped on 2 ranks, wherever that is; the rest on others."""
    stopped = 0
    for n in (1, 4, 8):
        run = os.path.join(root, f"stopped-{n}")
        stopped += stop_one(run, 2)
        good(*(ranks(n) if n > 1 else []), "resume", run, "--quiet")
        same(run, reference, f"stopped on 2 ranks, resumed on {n}")
    expect(stopped > 0, "no run was stopped before its end")


LONG = [*JEPA, "train.steps=100000", "output.checkpoint.every=0", "train.log_every=1"]


def until_steps(run, jobs, wanted):
    path = os.path.join(run, "metrics.jsonl")
    limit = time.time() + 60
    while time.time() < limit and all(p.poll() is None for p in jobs):
        if os.path.exists(path) and sum(1 for _ in open(path)) >= wanted:
            return
        time.sleep(0.01)
    raise AssertionError(f"{run} never came to step {wanted}: {end(jobs)}")


def stop_one(run, n):
    """A run of 7 steps in which one rank is asked to stop after the first."""
    jobs = start(n, [*JEPA, STEPS, f"output.dir={run}", "--quiet"])
    path = os.path.join(run, "metrics.jsonl")
    while not (os.path.exists(path) and os.path.getsize(path)) and jobs[0].poll() is None:
        time.sleep(0.001)
    jobs[n - 1].send_signal(signal.SIGTERM)
    codes, said = end(jobs)
    expect(codes in ([75] * n, [0] * n), f"{run}: {codes} {said}")
    return codes[0] == 75


def check_signal(root):
    run = os.path.join(root, "signal")
    jobs = start(4, [*LONG, f"output.dir={run}", "--quiet"])
    until_steps(run, jobs, 3)
    jobs[2].send_signal(signal.SIGUSR2)  # one alone
    jobs[2].wait(timeout=60)  # which stays until rank 0 has written: launchers kill when the first has left
    expect(state(run) == "stopped" and steps_on_disk(run), f"rank 2 left first: {state(run)}")
    codes, said = end(jobs)
    expect(codes == [75] * 4, f"a signal at rank 2: {codes} {said}")
    expect("another rank got a signal" in said[0] and "resume" in said[0], f"rank 0 says {said[0]}")
    expect(state(run) == "stopped", f"state {state(run)}")
    last = steps_on_disk(run)
    expect(len(last) == 1 and last[0] == metrics(run)[-1]["step"], f"{last} {metrics(run)[-1]}")


def check_death(root):
    for victim in (0, 2):
        run = os.path.join(root, f"death-{victim}")
        jobs = start(4, [*LONG, f"output.dir={run}", "--quiet"])
        until_steps(run, jobs, 2)
        jobs[victim].kill()
        begun = time.time()
        codes, said = end(jobs)
        took = time.time() - begun
        expect(codes == [-9 if r == victim else 71 for r in range(4)], f"rank {victim} killed: {codes} {said}")
        expect(f"rank {victim}" in "".join(said), f"rank {victim} killed: {said}")
        expect(took < SOON, f"rank {victim} killed: {took:.1f} s until all had ended")


def check_errors(root):
    bad = os.path.join(root, "bad")
    refused(2, ["8 micro-batches of 2 records", "cannot be shared out to 3 ranks", "train.batch_size"],
            *ranks(3), *JEPA, STEPS, f"output.dir={bad}", "--quiet")
    refused(2, ["4 micro-batches of 4 records", "to 8 ranks"],
            *ranks(8), *JEPA, STEPS, "train.micro_batch=4", f"output.dir={bad}", "--quiet")
    expect(not os.path.exists(bad), "a refused run leaves a folder")
    good(*JEPA, "train.steps=2", f"output.dir={bad}", "--quiet")
    r = refused(2, ["bad"], *ranks(4), *JEPA, STEPS, f"output.dir={bad}", "--quiet")  # exists: rank 0 says it, once
    expect(r.stderr.count("error:") == 1, f"said more than once: {r.stderr}")
    codes, said = end(start(2, [*JEPA, STEPS, f"output.dir={bad}-2", "--quiet"], lambda r: [f"seed={r + 1}"]))
    expect(all(c in (2, 71) for c in codes) and "recipe" in "".join(said), f"two recipes: {codes} {said}")


def check_missing_corpus(root):
    """A folder that one node does not have: all end, and one line says which node."""
    folders = [os.path.join(root, f"disk-{r}") for r in range(2)]
    for f in folders:
        os.mkdir(f)
    good("data", "synth", os.path.join(folders[0], "corpus"), "--records", 64, "--seconds", 2)
    with open(os.path.join(os.environ["PK_SOURCE_DIR"], "recipes", "jepa_demo.yaml")) as f:
        demo = f.read()
    recipe = os.path.join(root, "corpus.yaml")
    with open(recipe, "w") as f:
        f.write(re.sub(r"synthetic: \{.*\}", "corpus: corpus", demo))
    options = [w for w in JEPA[2:] if not w.startswith("data.synthetic")]
    jobs = start(2, ["pretrain", recipe, *options, "data.rate=500 Hz", STEPS, "output.dir=run", "--quiet"],
                 cwd=folders.__getitem__)
    codes, said = end(jobs)
    lines = "".join(said).splitlines()
    expect(codes == [69, 69] and sum("error:" in line for line in lines) == 1, f"corpus on one node: {codes} {said}")
    wanted = f"error: rank 1 ({os.uname().nodename}, process {jobs[1].pid}): corpus/corpus.json is not there"
    expect(any(line.startswith(wanted) for line in lines), f"corpus on one node: {said}")
    expect(not os.path.exists(os.path.join(folders[0], "run")), "a run that never began leaves a folder")


def check_nan(root):
    """A step that is not finite is the same event everywhere, and its whole batch is kept."""
    out = []
    for n, more in ((1, []), (4, []), (2, ["train.on_nan=skip"])):
        run = os.path.join(root, f"nan-{n}")
        r = runs.purkinje(*(ranks(n) if n > 1 else []), *JEPA, "train.steps=12", f"output.dir={run}", "--quiet",
                          "train.learning_rate.peak=100", "train.learning_rate.start=100",
                          "train.weight_decay.start=100", "train.weight_decay.end=100", *more)
        expect(r.returncode == 76, f"diverging on {n} ranks: {r.returncode} {r.stderr}")
        expect(state(run) == "diverged", f"state {state(run)}")
        kept = sorted(f for f in os.listdir(run) if f.startswith("nan-step"))
        expect(len(kept) == 1, f"{n} ranks keep {kept}")
        out.append((kept, runs.tensors(os.path.join(run, kept[0]))))
        expect(out[-1][1]["row"][1] == (16,), f"{n} ranks keep {out[-1][1]['row'][1]} records")
    expect(out[0] == out[1] == out[2], "the batch of a step that diverges is not the same")


with scratch() as root:
    check_same(root, "jepa", JEPA, (2, 4, 8))
    check_same(root, "parts", [*JEPA, "train.accumulate=2", "train.micro_batch=1"], (2, 8))
    check_same(root, "mae", MAE, (4,))
    check_same(root, "simclr", SIMCLR, (2, 8))
    check_same(root, "moco", MOCO, (4,))
    check_resume(root, os.path.join(root, "jepa"))
    check_signal(root)
    check_death(root)
    check_errors(root)
    check_missing_corpus(root)
    check_nan(root)
sys.exit(1 if runs.failures else 0)
