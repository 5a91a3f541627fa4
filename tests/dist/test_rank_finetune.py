"""Fine-tuning on 1, 2, 4 and 8 ranks is the same run: weights, best weights, moments, every logged number, the scores
of every record and result.json, bit for bit, for two stages with a frozen encoder, batch norm with balanced classes,
and regression; over a resume that changes the number of ranks, too. A record that one rank cannot score, and a rank
that dies while validating, end all of them by name."""
import os
import signal
import sys
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from rank_jobs import end, kill_second, ranks, start  # noqa: E402
import runs  # noqa: E402
from runs import CLASSIFY, JEPA, expect, good, metrics, refused, same, scratch  # noqa: E402

CONV = ["finetune", "regress_demo", "model.encoder.channels=8", "data.synthetic.records=120", "data.synthetic.seconds=3",
        "data.crop=1s", "evaluation.window=1s", "evaluation.stride=0.5s", "evaluation.every=3", "evaluation.bootstrap=20",
        "train.batch_size=16", "train.threads=1", "stages.0.steps=7", "stages.0.learning_rate.warmup=1"]
CASES = {"two stages": lambda root: [*CLASSIFY, f"init_from={root}/jepa"],
         "batch norm": lambda root: ["finetune", "finetune_scratch", "data.corpus=",
                                     "data.rate=100Hz", "model.encoder.kind=resnet1d_wang", *CONV[2:],
                                     "stages.0.patience=0", "data.task=rhythm", "objective.class_weights=balanced",
                                     "objective.mixup=0.3", "objective.augment.noise=[0.5, 0.1, 0.3]",
                                     "objective.head.kind=concat_pool", "objective.head.hidden=16"],
         "regression": lambda root: [*CONV, "data.targets=[age, heart_rate]"]}


def same_results(run, reference, what):
    same(run, reference, what)
    names = sorted(f for f in os.listdir(reference) if f.endswith(".npy")) + ["result.json"]
    expect(len(names) >= 5, f"{what}: {names}")
    for name in names:
        a, b = (open(os.path.join(d, name), "rb").read() for d in (run, reference))
        expect(a == b, f"{what}: {name} differs")


def check_same(root):
    for name, command in CASES.items():
        one = os.path.join(root, name.replace(" ", "_"))
        good(*command(root), f"output.dir={one}", "--quiet")
        expect(np.isfinite([line["loss"] for line in metrics(one)]).all(), f"{name}: {metrics(one)}")
        for n in 2, 4, 8:
            run = f"{one}-{n}"
            r = good(*ranks(n), *command(root), f"output.dir={run}", "--quiet")
            expect(r.stdout.count("test: ") <= 2, f"{name}: {n} ranks print {r.stdout}")
            same_results(run, one, f"{name} on {n} ranks")


def check_resume(root):
    """Stopped on 2 ranks in either stage; the rest on others."""
    stopped = 0
    for n, line in (1, 1), (4, 4), (8, 6):
        run = os.path.join(root, f"stopped-{n}")
        jobs = start(2, [*CASES["two stages"](root), f"output.dir={run}", "--quiet"])
        path = os.path.join(run, "metrics.jsonl")
        while all(p.poll() is None for p in jobs) and not (
                os.path.exists(path) and sum(1 for _ in open(path)) >= line):
            time.sleep(0.001)
        jobs[1].send_signal(signal.SIGTERM)
        codes, said = end(jobs)
        expect(codes in ([75] * 2, [0] * 2), f"{run}: {codes} {said}")
        stopped += codes[0] == 75
        good(*(ranks(n) if n > 1 else []), "resume", run, "--quiet")
        same_results(run, f"{root}/two_stages", f"stopped on 2 ranks, resumed on {n}")
    expect(stopped > 0, "no run was stopped before its end")


def check_failures(root):
    out = f"output.dir={root}/none"
    # 16 records are 8 micro-batches of 2: three ranks cannot have as many each
    refused(2, ["cannot be shared out to 3 ranks"], *ranks(3), *CONV, out)
    expect(not os.path.exists(f"{root}/none"), "a refused run left a folder")
    jobs = start(2, [*CONV, out, "stages.0.steps=100000", "evaluation.every=1", "--quiet"])
    while not os.path.exists(f"{root}/none/metrics.jsonl") and all(p.poll() is None for p in jobs):
        time.sleep(0.01)
    kill_second(jobs)


def main():
    with scratch() as root:
        good(*JEPA, f"output.dir={root}/jepa", "train.steps=2", "train.learning_rate.warmup=1", "--quiet")
        check_same(root)
        check_resume(root)
        check_failures(root)
    sys.exit(1 if runs.failures else 0)


main()
