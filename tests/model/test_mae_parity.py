"""Masked autoencoders against PyTorch: embeddings, loss, every gradient, and weights after ten steps
of AdamW, for patches of single leads (ST-MEM), of all leads (MTAE) and whole leads (MLAE), with
records that lack leads (see oracle.py for the tolerance). Written from objectives.md section 3 and
models/mae.h; leads are a loop here, not folded, and nothing is gathered before it is embedded."""

import sys

import numpy as np
import torch
import torch.nn.functional as F

import oracle


def table(positions, width, dtype):
    """Rows of the sine-cosine table at these positions."""
    return oracle.positions(max(positions) + 1, width, dtype)[positions]


def tokens(signal, meta):
    """[records, runs, tokens, samples] of the normalised signal [records, leads, samples]."""
    n, leads, samples = signal.shape
    size = meta["token"]
    if meta["variant"] == "patch":
        return signal.reshape(n, leads, samples // size, size)
    if meta["variant"] == "lead":
        return signal[:, None]
    cut = signal.reshape(n, leads, samples // size, size).transpose(1, 2)
    return cut.reshape(n, 1, samples // size, leads * size)


def encode(w, patches, kept, present, meta):
    """Visible tokens of every run, encoded together: list over runs of [records, tokens, width]."""
    width, depth, heads = meta["encoder"]
    runs, count = meta["runs"], meta["run"]
    e = oracle.norm(patches, w["encoder.patch_norm.weight"]) @ w["encoder.patch_embed.weight"].T
    e = oracle.norm(e, w["encoder.embed_norm.weight"])
    sequence = []
    for r in range(runs):
        x = e[:, r]
        if meta["variant"] == "patch":
            there = (present[:, r] > 0)[:, None, None]
            x = torch.where(there, x, w["encoder.absent"].expand_as(x))
            x = x + table(list(range(1, count + 1)), width, x.dtype)
            x = oracle.rows(x, kept[:, r])
            ends = w["encoder.separator"] + table([0, count + 1], width, x.dtype)
            ends = ends.expand(x.shape[0], -1, -1)
            x = torch.cat([ends[:, :1], x, ends[:, 1:]], 1) + w["encoder.lead_embed"][r]
        else:
            x = oracle.rows(x + table(list(range(count)), width, x.dtype), kept[:, r])
        sequence.append(x)
    h = oracle.blocks(w, "encoder.", torch.cat(sequence, 1), depth, heads)
    return h.split(sequence[0].shape[1], 1)


def pool(parts, present, meta):
    if meta["variant"] != "patch":
        return parts[0].mean(1)
    means = torch.stack([p[:, 1:-1].mean(1) for p in parts], 1)
    there = (present > 0).to(means.dtype)[:, :, None]
    return (means * there).sum(1) / there.sum(1)


def reconstruct(w, h, kept, hidden, meta):
    """Hidden patches of one run from its encoded tokens."""
    width, depth, heads = meta["decoder"]
    count, n = meta["run"], h.shape[0]
    x = h @ w["decoder.embed.weight"].T
    mask = w["decoder.mask_token"].expand(n, count, width)
    if meta["variant"] == "patch":
        inner = mask.scatter(1, kept[:, :, None].expand(-1, -1, width), x[:, 1:-1])
        x = torch.cat([x[:, :1], inner, x[:, -1:]], 1) + table(list(range(count + 2)), width, x.dtype)
        x = oracle.blocks(w, "decoder.", x, depth, heads)[:, 1:-1]
    else:
        x = mask.scatter(1, kept[:, :, None].expand(-1, -1, width), x)
        x = oracle.blocks(w, "decoder.", x + table(list(range(count)), width, x.dtype), depth, heads)
    return oracle.rows(x, hidden) @ w["decoder.proj.weight"].T


def standardised(patches):
    mean = patches.mean(-1, keepdim=True)
    var = patches.var(-1, unbiased=False, keepdim=True)
    return (patches - mean) / (var + 1e-6).sqrt()


def loss_of(w, patches, kept, hidden, present, meta):
    parts = encode(w, patches, kept, present, meta)
    wanted, total = standardised(patches), 0
    for r in range(meta["runs"]):
        guess = reconstruct(w, parts[r], kept[:, r], hidden[:, r], meta)
        error = (guess - oracle.rows(wanted[:, r], hidden[:, r])).square().mean(-1)
        if meta["variant"] == "patch":  # the mean over the leads that a record has
            there = (present > 0).to(error.dtype)
            total = total + (error.mean(1) * there[:, r] / there.sum(1)).mean()
        elif meta["variant"] == "lead":
            there = (present > 0).to(error.dtype)
            weight = (there / there.mean(1, keepdim=True)).gather(1, hidden[:, r])
            total = total + (error * weight).mean()
        else:
            total = total + error.mean()
    return total


def compare(isa, variant, judge):
    dump = oracle.Dump(isa, "./test_mae", variant)
    meta = dump.meta
    records, runs, count, keep = meta["shape"][0], meta["runs"], meta["run"], meta["keep"]
    kept = torch.from_numpy(dump.raw("kept.i32", records, runs, keep).astype(np.int64))
    hidden = torch.from_numpy(dump.raw("hidden.i32", records, runs, count - keep).astype(np.int64))
    assert (torch.cat([kept, hidden], 2).sort(2).values == torch.arange(count)).all()
    assert len({tuple(k.tolist()) for k in kept.reshape(-1, keep)}) > 1, "one mask for all"
    gain = dump.raw("gain.f32", *meta["shape"][:2])[:, meta["leads"]]
    present = torch.from_numpy((gain != 0).astype(np.float64))
    assert 0 < present.mean() < 1

    def model(dtype):
        patches = tokens(dump.signal(dtype), meta)

        def loss(w, ema):
            return loss_of(w, patches, kept, hidden, present.to(dtype), meta)
        return loss

    outputs = []
    for dtype in torch.float32, torch.float64:
        w = {k: torch.from_numpy(v.copy()).to(dtype) for k, v in dump.arena("weight.f32").items()}
        parts = encode(w, tokens(dump.signal(dtype), meta), kept, present.to(dtype), meta)
        outputs.append(pool(parts, present.to(dtype), meta))
    judge.check(f"{variant} embedding", "", dump.raw("embedding.f32", records, meta["encoder"][0]),
                *outputs)
    oracle.compare_training(judge, dump, model)


def main():
    judge = oracle.Judge()
    for isa in oracle.ISAS:
        for variant in "patch", "time", "lead":
            compare(isa, variant, judge)
    return judge.finish()


if __name__ == "__main__":
    sys.exit(main())
