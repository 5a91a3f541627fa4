"""JEPA against PyTorch: masks, target statistics, loss, every gradient, and weights and EMA after
ten steps of AdamW with decay and schedules (see oracle.py for the tolerance)."""

import sys

import numpy as np
import torch
import torch.nn.functional as F

import oracle


def predict(w, context, kept, hidden, meta):
    width, depth, heads = meta["predictor"]
    table = oracle.positions(meta["tokens"], width, context.dtype)
    x = context @ w["predictor.embed.weight"].T + table[kept]
    tokens = w["predictor.mask_token"] + table[hidden]
    x = oracle.blocks(w, "predictor.", torch.cat([x, tokens], 1), depth, heads)
    return x[:, kept.shape[1]:] @ w["predictor.proj.weight"].T


def target(ema, signal, meta):
    with torch.no_grad():
        return oracle.encode(ema, signal, None, meta["encoder"], meta)[:, 1:]


def model(dump, kept, hidden):
    def in_type(dtype):
        signal, meta = dump.signal(dtype), dump.meta

        def loss(w, ema):
            context = oracle.encode(w, signal, kept, meta["encoder"], meta)[:, 1:]
            wanted = oracle.rows(target(ema, signal, meta), hidden)
            return F.l1_loss(predict(w, context, kept, hidden, meta), wanted)
        return loss
    return in_type


def compare(isa, judge):
    dump = oracle.Dump(isa, "./test_jepa")
    meta = dump.meta
    records, tokens, keep = meta["shape"][0], meta["tokens"], meta["keep"]
    kept = torch.from_numpy(dump.raw("kept.i32", records, keep).astype(np.int64))
    hidden = torch.from_numpy(dump.raw("hidden.i32", records, tokens - keep).astype(np.int64))
    assert (torch.cat([kept, hidden], 1).sort(1).values == torch.arange(tokens)).all()
    assert len({tuple(k.tolist()) for k in kept}) > 1, "records share one mask"
    outputs = []
    for dtype in torch.float32, torch.float64:
        ema = {k: torch.from_numpy(v.copy()).to(dtype) for k, v in dump.arena("ema.f32").items()}
        t = target(ema, dump.signal(dtype), meta)
        h = oracle.rows(t, hidden).reshape(-1, t.shape[-1])
        outputs.append((torch.stack([h.mean(0), h.var(0, unbiased=False)]), t.mean(1)))
    width = meta["encoder"][0]
    judge.check("target moments", "", dump.raw("moments.f32", 2, width), outputs[0][0],
                outputs[1][0])
    judge.check("embedding", "", dump.raw("embedding.f32", records, width), outputs[0][1],
                outputs[1][1])
    oracle.compare_training(judge, dump, model(dump, kept, hidden))


def main():
    judge = oracle.Judge()
    for isa in oracle.ISAS:
        compare(isa, judge)
    return judge.finish()


if __name__ == "__main__":
    sys.exit(main())
