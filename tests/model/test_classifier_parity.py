"""Classifiers and regressions against PyTorch: three heads, all losses, missing targets, frozen and trained encoder; logits,
embedding, loss, gradients, weights after ten steps (see oracle.py for the tolerance)."""

import math
import sys

import torch
import torch.nn.functional as F

import oracle

ATTENTIVE, REGISTER_LINEAR, MEAN_LINEAR = range(3)
REGRESSION = {"2": F.mse_loss, "1": F.l1_loss, "h": lambda z, y: F.huber_loss(z, y, delta=0.75)}


def attend(w, h, heads):
    """One learnable query, cross-attention over all tokens, no bias."""
    n, t, c = h.shape
    q = (w["head.query"] @ w["head.q.weight"].T).reshape(heads, 1, c // heads)
    k, v = (h @ w["head.kv.weight"].T).reshape(n, t, 2, heads, c // heads).permute(2, 0, 3, 1, 4)
    a = (q @ k.transpose(-1, -2) / math.sqrt(c // heads)).softmax(-1) @ v
    return a.reshape(n, c) @ w["head.proj.weight"].T


def logits(w, signal, meta):
    h = oracle.encode(w, signal, None, meta["encoder"], meta)
    if meta["head"] == ATTENTIVE:
        return attend(w, h, meta["encoder"][2]), h
    x = h[:, 0] if meta["head"] == REGISTER_LINEAR else h[:, 1:].mean(1)
    return x @ w["head.proj.weight"].T + w["head.proj.bias"], h


def model(dump):
    meta = dump.meta
    label = torch.from_numpy(dump.raw("label.u8", meta["shape"][0], meta["classes"]))
    target = torch.from_numpy(dump.raw("target.f32", meta["shape"][0], meta["classes"]))

    def in_type(dtype):
        signal = dump.signal(dtype)

        def loss(w, _):
            z, _ = logits(w, signal, meta)
            if meta["how"] in REGRESSION:
                known = ~target.isnan()
                return REGRESSION[meta["how"]](z[known], target[known].to(dtype))
            if "s" in meta["how"]:
                return F.cross_entropy(z, label.argmax(1))
            return F.binary_cross_entropy_with_logits(z, label.to(dtype))
        return loss
    return in_type


def compare(isa, head, how, judge):
    dump = oracle.Dump(isa, "./test_classifier", str(head), how)
    meta, name, outputs = dump.meta, f"{isa} {head}{how}", []
    for dtype in torch.float32, torch.float64:
        w = {k: torch.from_numpy(v.copy()).to(dtype) for k, v in dump.arena("weight.f32").items()}
        z, h = logits(w, dump.signal(dtype), meta)
        outputs.append((z, h[:, 1:].mean(1)))
    records, width = meta["shape"][0], meta["encoder"][0]
    judge.check("logits", name, dump.raw("logits.f32", records, meta["classes"]), outputs[0][0],
                outputs[1][0])
    judge.check("embedding", name, dump.raw("embedding.f32", records, width), outputs[0][1],
                outputs[1][1])
    oracle.compare_training(judge, dump, model(dump))


def main():
    judge = oracle.Judge()
    for head in ATTENTIVE, REGISTER_LINEAR, MEAN_LINEAR:
        for isa in oracle.ISAS:
            compare(isa, head, "-", judge)
        for how in "s", "f", "sf":
            compare(oracle.ISAS[-1], head, how, judge)
    for how in REGRESSION:
        compare(oracle.ISAS[-1], ATTENTIVE, how, judge)
    return judge.finish()


if __name__ == "__main__":
    sys.exit(main())
