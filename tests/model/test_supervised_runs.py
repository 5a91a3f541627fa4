"""Supervised training from the command line: every loss learns, the one-cycle rate is PyTorch's, runs with mixup,
augmentation and one-cycle resume to the same bits, and settings that a loss would not read are refused."""
import math
import os
import sys

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import expect, good, refused  # noqa: E402

STEPS = 12
SMALL = ["finetune_scratch", "data.corpus=", "data.task=rhythm", "data.rate=100Hz", "data.crop=2s",
         "data.synthetic.records=120", "data.synthetic.seconds=4", "evaluation.window=2s", "evaluation.stride=1s",
         "data.folds.train=[1,2,3,4,5,6,7]", "data.folds.validation=[8]", "data.folds.test=[9,10]",
         "model.encoder.width=16", "model.encoder.depth=1", "model.encoder.heads=2", "model.encoder.patch=50ms",
         "train.batch_size=32", "train.threads=2", "evaluation.every=1", "evaluation.bootstrap=5",
         f"stages.0.steps={STEPS}", "stages.0.patience=0", "stages.0.learning_rate.warmup=0",
         "stages.0.learning_rate.peak=5e-3", "--quiet"]
LOSSES = {"bce": [], "smooth": ["objective.smoothing=0.1"], "focal": ["objective.loss=focal", "objective.alpha=0.25"],
          "asymmetric": ["objective.loss=asymmetric", "objective.gamma=[1, 3]"],
          "balanced": ["objective.class_weights=balanced"],
          "softmax": ["objective.loss=softmax", "objective.single_label=true", "objective.smoothing=0.1",
                      "objective.class_weights=balanced"],
          "mixup": ["objective.mixup=0.4"], "drop_path": ["model.encoder.depth=2", "model.encoder.drop_path=0.2"],
          "softmax_mixup": ["objective.loss=softmax", "objective.single_label=true", "objective.mixup=0.4"],
          "concat": ["objective.head.kind=concat_pool", "objective.head.hidden=16"],
          "resnet": ["model.encoder.kind=resnet1d_wang", "model.encoder.channels=8",
                     "objective.head.kind=concat_pool", "objective.head.hidden=0"]}
CYCLE = ["stages.0.learning_rate.shape=one_cycle", "stages.0.learning_rate.rise=0.25",
         "stages.0.learning_rate.start=4e-4", "stages.0.learning_rate.end=1e-7",
         "stages.0.learning_rate.beta1=[0.95, 0.85]"]
ALL = [*CYCLE, "objective.mixup=0.3", "objective.head.kind=concat_pool", "objective.augment.noise=[0.5, 0.1, 0.3]",
       "objective.augment.cut_out=[0.5, 0.1, 0.4]", "output.checkpoint.every=4", "output.checkpoint.keep_last=9"]


def without_vit(args):
    return [a for a in args if not any(a.startswith(f"model.encoder.{k}=") for k in
                                       ("width", "depth", "heads", "patch"))]


def train(out, *more):
    base = without_vit(SMALL) if any("model.encoder.kind" in m for m in more) else SMALL
    good("finetune", *base, *more, f"output.dir={out}")
    return [line for line in runs.metrics(out) if line["kind"] == "validation"]


def check_losses(root):
    for name, more in LOSSES.items():
        lines = train(f"{root}/{name}", *more)
        loss = [line["loss"] for line in lines]
        expect(len(loss) == STEPS and all(math.isfinite(x) for x in loss), f"{name}: {loss}")
        expect(sum(loss[-3:]) < sum(loss[:3]), f"{name} learns nothing: {loss}")
        # Running statistics of batch norm have hardly moved after so few steps, so evaluation shows nothing yet.
        expect(name in ("concat", "resnet") or lines[-1]["best_macro_auc"] > 0.5, f"{name}: {lines[-1]}")


def check_cycle(root):
    """torch.optim.lr_scheduler.OneCycleLR(max_lr=5e-3, total_steps=STEPS, pct_start=.25, ...), written out."""
    rates = [line["learning_rate"] for line in train(f"{root}/cycle", *CYCLE)]
    top = 0.25 * STEPS - 1
    for step, rate in enumerate(rates):
        a, b, p = (4e-4, 5e-3, step / top) if step <= top else (5e-3, 1e-7, (step - top) / (STEPS - 1 - top))
        want = b + (a - b) * (1 + math.cos(math.pi * p)) / 2
        expect(abs(rate - want) < 1e-12, f"one-cycle at step {step}: {rate}, not {want}")


def check_resume(root):
    train(f"{root}/whole", *ALL)
    runs.same_from(root, 4, 8, 12)


def check_refusals(root):
    out = f"output.dir={root}/none"
    for more, words in (
            (["objective.gamma=[1, 1]"], "'objective.gamma' is of the losses focal and asymmetric, not of 'bce'"),
            (["objective.loss=focal", "objective.gamma=[1]"], "must be [of positives, of negatives]"),
            (["objective.alpha=0.5"], "'objective.alpha' is of the loss focal, not of 'bce'"),
            (["objective.loss=softmax"], "needs records with exactly one label"),
            (["objective.mixup=0.2", "train.micro_batch=1"], "mixes records of a micro-batch, and this has one"),
            ([*CYCLE, "stages.0.learning_rate.warmup=2"], "whose rise is its warm-up"),
            (["objective.augment.noise=[0.5, 0.3, 0.1]"], "must be [probability, low, high]"),
            (["evaluation.window=1s"], "the window must be as long as data.crop"),
            (["model.encoder.kind=xresnet1d50"], "has no meaning when model.encoder.kind is xresnet1d50")):
        refused(2, [words], "finetune", *SMALL, *more, out)
    refused(2, ["the blocks of xresnet1d50 were published without stochastic depth"], "finetune", *without_vit(SMALL),
            "model.encoder.kind=xresnet1d50", "model.encoder.drop_path=0.1", out)
    expect(not os.path.exists(f"{root}/none"), "a refused recipe left a folder")


def main():
    with runs.scratch() as root:
        check_losses(root)
        check_cycle(root)
        check_resume(root)
        check_refusals(root)
    sys.exit(1 if runs.failures else 0)


main()
