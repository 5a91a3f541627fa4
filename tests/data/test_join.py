"""purkinje data join: a synthetic ECG and a synthetic PPG corpus become one with 13 leads. Every column is compared with
what the parts hold (h5py), the bytes are the same again, statistics of the sources stay, what cannot be joined is
refused, and the recipe for such corpora trains two steps that absent leads do not change."""
import filecmp
import json
import os
import sys

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402
from runs import expect, good, refused  # noqa: E402

try:
    import h5py
    import numpy as np
except ImportError:
    print("skipped: needs h5py and numpy")
    sys.exit(77)

ECG = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def corpus(folder):
    with open(f"{folder}/corpus.json", encoding="utf-8") as f:
        return json.load(f)


def columns(folder):
    """All columns of all shards, one after the other."""
    out = {}
    for shard in sorted(f for f in os.listdir(folder) if f.endswith(".h5")):
        with h5py.File(f"{folder}/{shard}") as f:
            f.visititems(lambda n, d: out.setdefault(n, []).append(d[:]) if isinstance(d, h5py.Dataset) else None)
    samples = corpus(folder)["samples"]
    out["signal"] = [s[:, :, :samples] for s in out["signal"]]
    text = [np.char.rstrip(s.astype("S1024"), b"\0") for s in out["statements"]]
    return {k: np.concatenate(text if k == "statements" else v) for k, v in out.items()}


def check_join(root):
    good("data", "synth", f"{root}/e", "--records", "40", "--rate", "100", "--shard-records", "15", "-q")
    good("data", "synth", f"{root}/p", "--ppg", "--records", "30", "--rate", "100", "--seconds", "9.5", "-q")
    for out in "x", "again":
        good("data", "join", f"{root}/{out}", f"ptb-xl={root}/e", f"bidmc={root}/p", "--shard-records", "32", "-q")
    for name in sorted(os.listdir(f"{root}/x")):
        expect(filecmp.cmp(f"{root}/x/{name}", f"{root}/again/{name}", shallow=False), f"{name} has other bytes")
    good("data", "verify", f"{root}/x")
    whole, x, e, p = corpus(f"{root}/x"), columns(f"{root}/x"), columns(f"{root}/e"), columns(f"{root}/p")
    expect(whole["leads"] == ECG + ["PPG"] and whole["modality"] == "ecg+ppg", f"{whole['leads']}, {whole['modality']}")
    expect(len(whole["shards"]) == 3 and whole["samples"] == 1000, "shards or samples")
    expect((x["lead_mask"][:40] == 0xfff).all() and (x["lead_mask"][40:] == 1 << 12).all(), f"{x['lead_mask']}")
    expect((x["signal"][:40, :12] == e["signal"]).all() and (x["signal"][:40, 12] == -32768).all(), "ECG samples")
    expect((x["signal"][40:, 12, :950] == p["signal"][:, 0]).all(), "PPG samples")
    expect((x["signal"][40:, 12, 950:] == -32768).all() and (x["signal"][40:, :12] == -32768).all(), "values from nowhere")
    expect((x["scale"][:40, :12] == e["scale"]).all() and (x["scale"][40:, 12] == p["scale"][:, 0]).all(), "scales")
    for name in "length", "fold", "quality", "statements", "targets/heart_rate", "targets/age", "labels/rhythm":
        both = np.concatenate([e[name], p[name]])
        expect(((x[name] == both) | ((x[name] != x[name]) & (both != both))).all(), f"{name} changed")
    expect((x["labels/morphology"][:40] == e["labels/morphology"]).all() and not x["labels/morphology"][40:].any(),
           "labels of a task that one part has")
    # The two synthetic corpora number their patients alike: here they are other people.
    expect(set(e["patient_id"]) & set(p["patient_id"]), "the parts have no patient number in common")
    ours, theirs = x["patient_id"][:40], x["patient_id"][40:]
    expect(not set(ours) & set(theirs), "patients of two sources are one")
    expect(len(set(zip(ours, e["patient_id"]))) == len(set(ours)) == len(set(e["patient_id"])), "patients mixed up")
    ids = [i.rstrip(b"\0") for i in x["record_id"]]
    expect(len(set(ids)) == 70 and ids[0].startswith(b"ptb-xl:"), f"record ids {ids[:2]}")
    source = {s["name"]: s for s in whole["sources"]}
    for name, part, leads in ("ptb-xl", "e", slice(0, 12)), ("bidmc", "p", slice(12, 13)):
        old = corpus(f"{root}/{part}")["sources"][0]
        for k in "mean", "std":
            expect(list(source[name][k][leads]) == list(old[k]), f"{k} of {name}: {source[name][k]}, not {old[k]}")


def check_refusals(root):
    good("data", "synth", f"{root}/slow", "--ppg", "--records", "4", "--rate", "64", "-q")
    refused(65, ["64 Hz", "100 Hz", "a corpus has one"], "data", "join", f"{root}/no", f"{root}/e", f"b={root}/slow")
    refused(65, ["'synthetic'", "NAME="], "data", "join", f"{root}/no", f"{root}/e", f"{root}/p")
    refused(2, ["of one source"], "data", "join", f"{root}/no", f"name={root}/x", f"b={root}/p")
    refused(2, ["a folder to write to"], "data", "join", f"{root}/no")
    expect(not os.path.exists(f"{root}/no/corpus.json"), "a refused corpus is there")
    expect(good("data", "join", f"{root}/more", f"{root}/x", f"third={root}/p", "-q").stdout.strip(), "joined again")
    expect([s["count"] if "count" in s else s["records"] for s in corpus(f"{root}/more")["sources"]] == [40, 30, 30],
           "sources of a corpus joined again")


def check_training(root):
    """The mixture draws from both sources, absent leads stay out of the loss, the drawing names both units."""
    runs.ENV.update(CORPUS=root, RUNS=root)
    good("recipe", "validate", "mae_vit_ecg_ppg")
    small = ["train.steps=2", "train.batch_size=8", "train.learning_rate.warmup=1", "train.log_every=1",
             "model.encoder.width=16", "model.encoder.depth=1", "model.encoder.heads=2", "objective.decoder.depth=1",
             "data.folds.validation=[]", "data.folds.test=[]", "--quiet", "--device", "cpu"]
    for mixture in "{ptb-xl: 0.5, bidmc: 0.5}", "{bidmc: 1}":
        out = f"{root}/run{len(mixture)}"
        good("pretrain", "mae_vit_ecg_ppg", f"data.corpus={root}/x", f"data.mixture={mixture}", f"output.dir={out}", *small)
        line = runs.metrics(out)[-1]
        expect(line["step"] == 2 and 0.5 < line["loss"] < 2, f"{mixture}: {line}")
    good("reconstruct", out, f"{root}/x", f"{root}/x.svg", "--record", "50")
    with open(f"{root}/x.svg", encoding="utf-8") as f:
        text = f.read()
    expect("10 mm/mV, PPG 10 mm/a.u." in text, "units of the drawing")
    expect(text.count("class=\"original\"") == 1, "a lead that is absent is drawn")
    good("reconstruct", out, f"{root}/x", f"{root}/x.npy", "--record", "50")


def main():
    with runs.scratch() as root:
        check_join(root)
        check_refusals(root)
        check_training(root)
    print(f"{len(runs.failures)} failures")
    return 1 if runs.failures else 0


sys.exit(main())
