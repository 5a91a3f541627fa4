"""Contrastive pretraining and convolutional encoders from the command line: every objective and every encoder trains,
logs its pairs, resumes to the same bits, and is fine-tuned, frozen or not, by each head; what cannot be compared is
refused in words."""
import array
import json
import math
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import expect, good, refused  # noqa: E402

ENCODERS = {"vit": "kind: vit, width: 16, depth: 1, heads: 2, patch: 50 ms, registers: 1",
            "resnet1d_wang": "kind: resnet1d_wang, channels: 8", "xresnet1d50": "kind: xresnet1d50, channels: 4",
            "xresnet1d101": "kind: xresnet1d101, channels: 4", "efficientnet1d": "kind: efficientnet1d",
            "net1d": "kind: net1d"}
RECIPE = """schema: 1
extends: [base/contrastive.yaml]
seed: 7
data: {synthetic: {records: 96, seconds: 10, seed: 1}, rate: 100 Hz, crop: 5 s}
model: {encoder: {%s}}
objective: {projection: {hidden: 16, width: 8}}
train: {steps: 2, batch_size: 16, learning_rate: {warmup: 1}, log_every: 1}
"""
SCRATCH = """schema: 1
extends: [base/classify.yaml]
data: {corpus: "", synthetic: {records: 100, seconds: 10}, rate: 100 Hz, task: rhythm}
model: {encoder: {%s}}
objective: {head: {kind: concat_pool}}
stages: [{name: all, steps: 2, learning_rate: {peak: 1e-3}}]
train: {batch_size: 16}
evaluation: {every: 2, bootstrap: 0}
"""
OBJECTIVES = {"record": ["objective.projection.norm=false"], "normalised": [], "adjacent": ["objective.pairs=adjacent"], "participant": ["objective.pairs=participant"],
              "moco": ["objective.momentum=true", "objective.temperature=0.2"],
              "koleo": ["objective.momentum=true", "objective.projection.norm=false", "objective.koleo=0.1",
                        "objective.pairs=participant"]}
QUIET = ["--quiet", "--device", "cpu"]
HEADS = "mean_linear", "attentive", "concat_pool"


def write_recipes(root):
    for name, encoder in ENCODERS.items():
        for kind, text in ("pretrain", RECIPE), ("scratch", SCRATCH):
            with open(f"{root}/{kind}-{name}.yaml", "w", encoding="utf-8") as f:
                f.write(text % encoder)


def pretrain(root, encoder, out, *more):
    good("pretrain", f"{root}/pretrain-{encoder}.yaml", *QUIET, f"output.dir={root}/{out}", *more)
    return f"{root}/{out}"


def check_log(run, what, momentum=False, pairs=8):
    """Losses near that of unrelated rows at most, and the collapse measures in their ranges."""
    for line in runs.metrics(run):
        expect(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]), f"{what}: {line}")
        expect(0 <= line["alignment"] <= 4 and -8 <= line["uniformity"] <= 0, f"{what}: pairs {line}")
        expect(line["embedding_std"] > 0 and 1 < line["effective_rank"] <= 2 * pairs, f"{what}: rank {line}")
        expect(("ema_momentum" in line) == momentum and "target_variance" not in line, f"{what}: {sorted(line)}")


def check_objectives(root):
    for name, more in OBJECTIVES.items():
        check_log(pretrain(root, "vit", name, *more, "train.steps=3"), name, name in ("moco", "koleo"))
    first = {name: runs.metrics(f"{root}/{name}")[0]["loss"] for name in OBJECTIVES}
    expect(len(set(first.values())) == len(first), f"objectives with equal losses: {first}")
    # Two views of 8 records, untrained: about the logarithm of the 15 others, and above it by noise alone.
    expect(0 < first["record"] < math.log(15) + 1, f"SimCLR's first loss: {first}")
    pretrain(root, "vit", "parts", "train.steps=3", "train.accumulate=2", "objective.projection.norm=false")
    check_log(f"{root}/parts", "accumulated", pairs=4)
    a, b = (runs.metrics(f"{root}/{n}")[0]["loss"] for n in ("parts", "record"))
    expect(a < b, f"4 pairs at a time are as hard to tell apart as 8: {a}, {b}")
    pretrain(root, "vit", "longer", "train.steps=60", "data.synthetic.records=400", "train.batch_size=64",
             "train.log_every=20")
    lines = runs.metrics(f"{root}/longer")
    expect(lines[-1]["loss"] < lines[0]["loss"] - 0.05, f"nothing is learned: {[x['loss'] for x in lines]}")


def check_averages(run, objective, encoder):
    """ema.safetensors has encoder, running statistics and projector, not the predictor; they moved, but less."""
    folder = f"{run}/checkpoints/step-000000004"
    have = os.path.exists(f"{folder}/ema.safetensors")
    if not expect(have == (objective != "record"), f"{run}: a moving average: {have}") or not have:
        return
    ema, model = (runs.tensors(f"{folder}/{n}.safetensors") for n in ("ema", "model"))
    expect(any(n.startswith("projector.") for n in ema), f"{run}: no projector in {sorted(ema)}")
    expect(not any(n.startswith("predictor.") for n in ema), f"{run}: a predictor in {sorted(ema)}")
    variances = [n for n in ema if n.endswith("running_var")]
    expect(bool(variances) == (encoder != "vit" or objective == "moco"), f"{run}: running statistics {variances}")
    expect(all(ema[n][2] != model[n][2] for n in variances), f"{run}: averages of statistics are the statistics")
    expect(all(ema[n][1] == model[n][1] for n in ema), f"{run}: shapes")


def check_resume(root):
    """With batch norm, whose running statistics are state, and with the EMA copies of it and of the projector."""
    for encoder in "vit", "resnet1d_wang":
        for objective in "record", "moco", "koleo":
            a = pretrain(root, encoder, f"{encoder}-{objective}", *OBJECTIVES[objective], "train.steps=4",
                         "output.checkpoint.every=2")
            shutil.copytree(a, a + "-again")
            shutil.rmtree(f"{a}-again/checkpoints/step-000000004")
            good("resume", a + "-again")
            runs.same(a + "-again", a, f"{encoder}, {objective}: resumed from step 2")
            check_averages(a, objective, encoder)


def check_threads(root):
    """The bits do not depend on the number of threads."""
    a, b = (pretrain(root, "resnet1d_wang", f"threads{n}", *OBJECTIVES["koleo"], f"train.threads={n}") for n in (1, 2))
    runs.same(b, a, "two threads")


def scored(out):
    with open(out + "/result.json", encoding="utf-8") as f:
        auc = json.load(f)["test"]["macro_auc"]
    expect(0 < auc < 1, f"{out}: macro AUC {auc}")


def finetune(out, run, head, frozen):
    good("finetune", "probe_attentive", "data.corpus=", "data.synthetic.records=100", "data.task=rhythm",
         "evaluation.bootstrap=0", "evaluation.every=2", "train.batch_size=16", "stages.0.steps=2",
         f"stages.0.freeze_encoder={str(frozen).lower()}", f"init_from={run}", "weights=online",
         f"objective.head.kind={head}", f"output.dir={out}", *QUIET)
    scored(out)


def encoder_of(run):
    """name -> bytes of the encoder's tensors in the newest checkpoint."""
    folder = f"{run}/checkpoints/step-{runs.steps_on_disk(run)[-1]:09d}"
    return {k: v[2] for k, v in runs.tensors(f"{folder}/model.safetensors").items() if k.startswith("encoder.")}


def check_encoders(root):
    for name in ENCODERS:
        run = pretrain(root, name, f"pre-{name}")
        check_log(run, name)
        plan = json.loads(good("plan", f"{root}/pretrain-{name}.yaml", "--json", "--no-probe").stdout)
        expect(plan["parameters"]["encoder"] > 0 and plan["parameters"]["projector"] > 0, f"{name}: {plan}")
        before = encoder_of(run)
        for head in HEADS if name in ("vit", "resnet1d_wang") else HEADS[2:]:
            out = f"{root}/{name}-{head}"
            finetune(out, run, head, True)
            after = encoder_of(out)
            expect(after == before, f"{name}, {head}: {len(after)} frozen tensors of {len(before)} moved")
            finetune(out + "-free", run, head, False)
            still = [k for k, v in encoder_of(out + "-free").items() if v == before[k]]
            # The norms' weights of two steps may round to what they were; statistics and convolutions do not.
            expect(len(still) < len(before) / 2, f"{name}, {head}: not trained: {still}")
        good("finetune", f"{root}/scratch-{name}.yaml", f"output.dir={root}/{name}-scratch", *QUIET)
        scored(f"{root}/{name}-scratch")


def check_refusals(root):
    out = [*QUIET, f"output.dir={root}/no"]

    def no(code, words, *more, encoder="vit"):
        refused(code, words, "pretrain", f"{root}/pretrain-{encoder}.yaml", *out, *more)

    no(2, ["2 records at once cannot be compared", "counts both records of a pair"], "train.batch_size=2")
    no(2, ["5 records at once", "even number of 4 or more"], "train.batch_size=10", "train.accumulate=2")
    no(65, ["is the only one of its participant", "objective.single_records=true"], "objective.pairs=participant",
       "objective.single_records=false")
    no(65, ["participants of", "have two records or more", "smaller batch_size"], "objective.pairs=participant",
       "data.synthetic.records=24")
    no(65, ["two adjacent crops 1200", "shorten the crop"], "objective.pairs=adjacent", "data.crop=6s")
    no(2, ["[probability, low, high]"], "objective.augment.noise=[0.5]")
    no(2, ["[probability, low, high]", "low <= high"], "objective.augment.noise=[0.5, 0.3, 0.1]")
    no(2, ["'objective.augment.permute' takes 0 to 1 elements"], "objective.augment.permute=[0.5, 1]")
    no(2, ["none can be chosen", "model.encoder.channels"], "model.encoder.channels=8", encoder="efficientnet1d")
    no(2, ["'model.encoder.width' has no meaning"], "model.encoder.width=8", encoder="xresnet1d50")
    no(2, ["the encoder of init_from is of the kind xresnet1d50"], f"init_from={root}/pre-xresnet1d50", encoder="resnet1d_wang")
    for kind, more in ("jepa", "predictor: {width: 8, depth: 1, heads: 1}"), ("mae", "mask_ratio: 0.5"):
        with open(f"{root}/hides.yaml", "w", encoding="utf-8") as f:
            f.write(f"schema: 1\ndata: {{synthetic: {{records: 10}}, rate: 100 Hz, crop: 5 s}}\n"
                    f"model: {{encoder: {{kind: resnet1d_wang}}}}\nobjective: {{kind: {kind}, {more}}}\n"
                    f"train: {{steps: 1, batch_size: 4, learning_rate: {{peak: 1e-3}}}}\n")
        refused(2, ["hides tokens, which 'resnet1d_wang' does not have", "objective.kind: contrastive"],
                "recipe", "validate", f"{root}/hides.yaml")
    scratch = ["finetune", f"{root}/scratch-resnet1d_wang.yaml", *out]
    refused(2, ["register_linear' needs a transformer"], *scratch, "objective.head.kind=register_linear")
    refused(2, ["a micro-batch of one record", "train.micro_batch"], *scratch, "train.micro_batch=1")
    refused(2, ["register_linear' needs a transformer"], "finetune", "probe_attentive", "data.corpus=", "data.synthetic.records=80",
            "data.task=rhythm", *out, f"init_from={root}/pre-resnet1d_wang", "objective.head.kind=register_linear")
    expect(not os.path.exists(f"{root}/no/checkpoints"), "a refused run left checkpoints")


def write_wfdb(folder):
    """40 recordings of ten people. In turn: three leads; one of them constant; one without values; one lead alone."""
    os.makedirs(folder)
    for i in range(40):
        beat = [round(800 * math.exp(-((t % (70 + i)) - 20) ** 2 / 9)) for t in range(1000)]
        lead = {"I": beat, "II": [round(0.7 * x + 90 * math.sin(t / 9 + i)) for t, x in enumerate(beat)],
                "V1": [-x for x in beat]}
        if i % 4 == 1:
            lead["II"] = [100] * 1000
        if i % 4 == 2:
            lead["V1"] = [-32768] * 1000
        if i % 4 == 3:
            lead = {"I": beat}
        raw = array.array("h", [lead[n][t] for t in range(1000) for n in lead])
        name = f"s{i // 4:02d}_{i:02d}"
        with open(f"{folder}/{name}.dat", "wb") as f:
            f.write(raw.tobytes())
        with open(f"{folder}/{name}.hea", "w", encoding="ascii") as f:
            f.write(f"{name} {len(lead)} 100 1000\n")
            for n, values in lead.items():
                f.write(f"{name}.dat 16 1000(0)/mV 16 0 {values[0]} {sum(values) & 65535} 0 {n}\n")


def check_damaged(root):
    """Leads without values or of one value, and records with a single lead: finite, whatever the encoder."""
    write_wfdb(f"{root}/wfdb")
    said = good("data", "import", "wfdb", f"{root}/wfdb", f"{root}/corpus", "rate=100", "flat=1", "leads=I,II,V1",
                "subject=(s[0-9]+)_", "folds=none")
    expect("40 of 40" in said.stderr + said.stdout, said.stderr + said.stdout)
    for name, encoder in ENCODERS.items():
        with open(f"{root}/damaged.yaml", "w", encoding="utf-8") as f:
            f.write(RECIPE.replace("synthetic: {records: 96, seconds: 10, seed: 1}", f"corpus: {root}/corpus") % encoder)
        run = f"{root}/damaged-{name}"
        good("pretrain", f"{root}/damaged.yaml", *QUIET, f"output.dir={run}", *OBJECTIVES["koleo"])
        check_log(run, f"damaged records, {name}", True)
        wrong = [k for k, v in runs.weights(run).items() if not finite(v)]
        expect(not wrong, f"{name}: not finite: {wrong[:3]}")


def finite(tensor):
    dtype, _, raw = tensor
    return dtype != "F32" or all(math.isfinite(x) for x in array.array("f", raw))


def main():
    with runs.scratch() as root:
        write_recipes(root)
        check_objectives(root)
        check_resume(root)
        check_threads(root)
        check_encoders(root)
        check_refusals(root)
        check_damaged(root)
    sys.exit(1 if runs.failures else 0)


main()
