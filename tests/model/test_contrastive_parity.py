"""Contrastive losses against PyTorch, each by itself with its gradients into both sets of rows; then
steps of a model: NT-Xent over several positives, momentum keys with a predictor and KoLeo, the same with
batch norm in the projections; loss,
projections, their gradients as the loss program gives them, every gradient, and weights
and EMA after ten steps of AdamW (see oracle.py for the tolerance). The losses are written from their
papers, by log_softmax over a masked matrix, and share nothing with the C code."""

import sys

import numpy as np
import torch
import torch.nn.functional as F

import oracle


def layer(w, x, linear, norm):
    """With a bias; or with a batch norm in training mode, of keys too."""
    if f"{norm}.weight" not in w:
        return F.linear(x, w[f"{linear}.weight"], w[f"{linear}.bias"])
    x = F.linear(x, w[f"{linear}.weight"])
    return F.batch_norm(x, None, None, w[f"{norm}.weight"], w[f"{norm}.bias"], training=True)


def mlp(w, name, x):
    return layer(w, F.gelu(layer(w, x, f"{name}.fc1", f"{name}.norm1")), f"{name}.fc2", f"{name}.norm2")


def tower(w, signal, meta):
    tokens = oracle.encode(w, signal, None, meta["encoder"], meta)
    return mlp(w, "projector", tokens[:, 1:].mean(1))


def cross_entropy(logits, positive):
    """Mean over rows of the mean over a row's positives of -log softmax (SupCon's L_out)."""
    log_p = logits.log_softmax(1)
    count = positive.sum(1)
    each = -(log_p.masked_fill(~positive, 0)).sum(1) / count.clamp(min=1)
    return each.sum() / len(logits)


def koleo(x):
    """As DINOv2 has it: the nearest row by the largest product, chosen without gradient."""
    with torch.no_grad():
        dots = x @ x.T
        dots.fill_diagonal_(-2)
        nearest = dots.argmax(1)
    return -((x - x[nearest]).norm(dim=1) + 1e-8).log().mean()


def batch_loss(z, key, group, meta):
    t = meta["temperature"]
    q = F.normalize(z, dim=1)
    if key is None:
        same = group[:, None] == group[None, :]
        own = torch.eye(len(z), dtype=torch.bool)
        logits = (q @ q.T / t).masked_fill(own, -torch.inf)
        return cross_entropy(logits, same & ~own)
    k = F.normalize(key, dim=1)
    pairs = group[:len(z) // 2]
    same = pairs[:, None] == pairs[None, :]
    loss = sum(cross_entropy(q[i::2] @ k[1 - i::2].T / t, same) for i in range(2)) / 2
    return loss + meta["koleo"] * sum(koleo(q[i::2]) for i in range(2)) / 2


def model(dump, group):
    def in_type(dtype):
        signal, meta = dump.signal(dtype), dump.meta

        def loss(w, ema):
            z, key = tower(w, signal, meta), None
            if ema:
                z = mlp(w, "predictor", z)
                with torch.no_grad():
                    key = tower(ema, signal, meta)
            return batch_loss(z, key, group, meta)
        return loss
    return in_type


def groups(dump, name):
    with open(f"{dump.folder.name}/{name}.i64", "rb") as f:
        return torch.from_numpy(np.frombuffer(f.read(), dtype="<i8").copy())


def one_loss(which, query, key, query_group, key_group):
    q, k = F.normalize(query, dim=1), F.normalize(key, dim=1)
    same = query_group[:, None] == key_group[None, :]
    if which == 0:
        return batch_loss(query, None, query_group, {"temperature": 0.1})
    if which == 1:
        s = q @ k.T / 0.04
        return (cross_entropy(s, same) + cross_entropy(s.T, same.T)) / 2
    if which == 2:
        return 0.4 * cross_entropy(q @ k.T / 0.2, same)
    return koleo(q) + 0.5 * koleo(k)


def compare_losses(isa, judge):
    dump = oracle.Dump(isa, "./test_contrastive", "losses")
    group = groups(dump, "query_group"), groups(dump, "key_group")
    names = "NT-Xent", "InfoNCE both ways", "MoCo v3", "KoLeo"
    for which, name in enumerate(names):
        results = []
        for dtype in torch.float32, torch.float64:
            rows = [torch.from_numpy(dump.raw(f"{x}.f32", len(g), -1).copy()).to(dtype)
                    .requires_grad_(True) for x, g in zip(("query", "key"), group)]
            loss = one_loss(which, *rows, *group)
            loss.backward()
            results.append([loss.item(), *(r.grad for r in rows)])
        single, exact = results
        judge.check("single loss", name, dump.raw(f"loss{which}.f32", 1)[0], single[0], exact[0])
        for i, x in enumerate(("dq", "dk")):
            if exact[1 + i] is not None:
                ours = dump.raw(f"{x}{which}.f32", len(group[i]), -1)
                judge.check("d single loss", f"{name} {x}", ours, single[1 + i], exact[1 + i])


def compare(isa, kind, judge):
    dump = oracle.Dump(isa, "./test_contrastive", kind)
    meta, records = dump.meta, dump.meta["shape"][0]
    group = groups(dump, "group")
    z = dump.raw("projected.f32", records, -1)
    outputs, slopes = [], []
    for dtype in torch.float32, torch.float64:
        w = {k: torch.from_numpy(v.copy()).to(dtype) for k, v in dump.arena("weight.f32").items()}
        key, signal = None, dump.signal(dtype)
        projected = tower(w, signal, meta)
        if kind != "simclr":
            ema = {k: torch.from_numpy(v.copy()).to(dtype)
                   for k, v in dump.arena("ema.f32").items()}
            projected, key = mlp(w, "predictor", projected), tower(ema, signal, meta)
        outputs.append(projected)
        mine = projected.detach().requires_grad_(True)
        batch_loss(mine, key, group, meta).backward()
        slopes.append(mine.grad)
    judge.check("projections", kind, z, *outputs)
    judge.check("d projections", kind, dump.raw("d_projected.f32", records, -1), *slopes)
    # A shift that the predictor's first norm takes away.
    oracle.compare_training(judge, dump, model(dump, group),
                            idle=lambda name: kind == "norm" and name == "projector.norm2.bias")


def main():
    judge = oracle.Judge()
    for isa in oracle.ISAS:
        compare_losses(isa, judge)
        for kind in "simclr", "momentum", "norm":
            compare(isa, kind, judge)
    return judge.finish()


if __name__ == "__main__":
    sys.exit(main())
