"""train.sync_norm in whole runs: supervised and contrastive training on 1, 2 and 4 ranks log the same losses up to
rounding, and do not without the key; also resumed on another number of ranks. What cannot be is refused in words that
help, and a rank that is killed ends the others."""
import os
import sys
import time

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from rank_jobs import kill_second, ranks, start  # noqa: E402
import runs  # noqa: E402
from runs import expect, good, metrics, refused, scratch  # noqa: E402

SYNC = "train.sync_norm=true"
CONV = ["finetune", "finetune_scratch", "data.corpus=", "data.rate=100Hz", "data.task=rhythm",
        "model.encoder.kind=resnet1d_wang", "model.encoder.channels=8", "data.synthetic.records=120",
        "data.synthetic.seconds=3", "data.crop=1s", "evaluation.window=1s", "evaluation.stride=0.5s", "evaluation.every=3",
        "evaluation.bootstrap=20", "train.batch_size=16", "train.threads=1", "train.log_every=1", "stages.0.steps=7",
        "stages.0.learning_rate.warmup=1", "stages.0.patience=0", "objective.head.kind=concat_pool",
        "objective.head.hidden=16", "--quiet"]
SIMCLR = ["pretrain", "simclr_demo", *runs.TINY, "data.synthetic.records=64", "train.batch_size=16", "train.steps=7",
          "train.learning_rate.warmup=1", "objective.projection.norm=true", "--quiet"]


def losses(run):
    return np.array([line["loss"] for line in metrics(run) if "loss" in line])


def check_same(root, name, command):
    def run(n, *more):
        out = f"{root}/{name}-{n}-{len(more)}"
        good(*(ranks(n) if n > 1 else []), *command, f"output.dir={out}", *more)
        return losses(out)
    one = run(1, SYNC)
    expect(len(one) >= 3 and one[-1] < one[0], f"{name}: {one}")
    for n in 2, 4:
        far = np.abs(run(n, SYNC) / one - 1).max()
        alone = np.abs(run(n) / one - 1).max()
        print(f"{name}: losses of {n} ranks {far:.1e} apart from one's; without the key {alone:.1e}")
        expect(far < 1e-3 and alone > 10 * far and alone > 3e-3, f"{name}: {n} ranks")
    return one


def check_resume(root, one):
    run = f"{root}/longer"
    good(*ranks(4), *SIMCLR, f"output.dir={run}", SYNC, "train.steps=3")
    good(*ranks(2), "resume", run, "train.steps=5", "--quiet")
    expect(len(losses(run)) == 5 and np.isfinite(losses(run)).all(), f"resumed: {losses(run)}")
    # the schedule is another one, so only the first steps can be compared
    expect(np.allclose(losses(run)[:2], one[:2], rtol=1e-4), f"{losses(run)} and {one}")


def check_refusals(root):
    out = f"output.dir={root}/none"
    refused(2, ["train.sync_norm", "one micro-batch", "not 4 of 2 records", "leave train.micro_batch out"], *ranks(2), *CONV,
            SYNC, out, "train.micro_batch=2")
    refused(2, ["train.sync_norm", "train.accumulate=1"], *ranks(2), *CONV, SYNC, out, "train.accumulate=2")
    refused(2, ["16 records", "3 ranks", "divides it"], *ranks(3), *CONV, SYNC, out)
    refused(2, ["micro-batch of one record"], *ranks(8), *CONV, SYNC, out, "train.batch_size=8")
    expect(not os.path.exists(f"{root}/none"), "a refused run left a folder")


def check_killed(root):
    out = f"{root}/killed"
    jobs = start(2, [*CONV, SYNC, f"output.dir={out}", "stages.0.steps=100000", "evaluation.every=100000"])
    while not os.path.exists(f"{out}/metrics.jsonl") and all(p.poll() is None for p in jobs):
        time.sleep(0.01)
    kill_second(jobs)


def main():
    with scratch() as root:
        check_same(root, "resnet1d_wang", CONV)
        check_resume(root, check_same(root, "simclr", SIMCLR))
        check_refusals(root)
        check_killed(root)
    sys.exit(1 if runs.failures else 0)


main()
