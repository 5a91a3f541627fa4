"""The models again in PyTorch, written from design/objectives.md section 1 and sharing nothing with
the C code, and the comparison of two results under a tolerance derived from rounding.

A quantity x of ours passes when |ours - exact| <= 2 |torch32 - exact| + floor, norms taken over one
tensor, exact being the same model in float64: we may be at most twice as far off as the naive
algorithm in the storage type. The floor, 2e-7 of the tensor's norm (1.7 roundings to float), is for
tensors in which float32 happens to hit the exact value. Ten optimizer steps have a floor of their own,
5e-6 of the change: AdamW divides by the root of the second moment, which magnifies the rounding of small
gradients, and float32 PyTorch itself is off by 1.6e-6 to 9e-6 depending on the BLAS it runs on."""

import json
import math
import os
import subprocess
import tempfile

import numpy as np
import torch
import torch.nn.functional as F

FLOOR = 2e-7
CHANGE_FLOOR = 5e-6


# Sets above what this machine has are ignored by the program, which then runs its best one again.
ISAS = "portable", "avx2", "avx512"


class Dump:
    """What `test_X dump DIR` wrote, with the kernels of one instruction set."""

    def __init__(self, isa, program, *args):
        self.folder = tempfile.TemporaryDirectory()
        subprocess.run([program, "dump", self.folder.name, *args], check=True,
                       env={**os.environ, "PURKINJE_ISA": isa})
        with open(os.path.join(self.folder.name, "meta.json"), encoding="utf-8") as f:
            self.meta = json.load(f)

    def raw(self, name, *shape):
        kind = {"f32": "<f4", "i16": "<i2", "i32": "<i4", "u8": "u1"}[name.split(".")[1]]
        return np.fromfile(os.path.join(self.folder.name, name), dtype=kind).reshape(*shape)

    def arena(self, name):
        """{parameter name: array} of one arena."""
        flat = self.raw(name, -1)
        out = {}
        for p in self.meta["params"]:
            count = math.prod(p["dim"])
            out[p["name"]] = flat[p["offset"]:p["offset"] + count].reshape(p["dim"])
        return out

    def signal(self, dtype):
        """[records, chosen leads, samples of the crop], normalised."""
        m = self.meta
        records, leads, samples = m["shape"]
        raw = self.raw("signal.i16", records, leads, samples)
        gain = torch.from_numpy(self.raw("gain.f32", records, leads)).to(dtype)
        offset = torch.from_numpy(self.raw("offset.f32", records, leads)).to(dtype)
        x = torch.from_numpy(raw.astype(np.float32)).to(dtype)
        x = (x * gain[:, :, None] - offset[:, :, None]).clamp(-m["clip"], m["clip"])
        x[torch.from_numpy(raw == -32768)] = 0
        length = m["tokens"] * m["patch"]
        start = self.raw("start.i32", records)
        return torch.stack([x[i][m["leads"], s:s + length] for i, s in enumerate(start)])


def positions(tokens, width, dtype):
    t = torch.arange(tokens, dtype=torch.float64)[:, None]
    k = torch.arange(width // 2, dtype=torch.float64)[None, :]
    angle = t / 10000.0 ** (2 * k / width)
    return torch.stack([angle.sin(), angle.cos()], -1).reshape(tokens, width).to(dtype)


def norm(x, weight):
    return F.layer_norm(x, x.shape[-1:], weight, None, 1e-6)


def blocks(w, prefix, x, depth, heads):
    for i in range(depth):
        p = f"{prefix}blocks.{i}."
        n, t, c = x.shape
        qkv = norm(x, w[p + "norm1.weight"]) @ w[p + "attn.qkv.weight"].T
        if p + "attn.qkv.bias" in w:
            qkv = qkv + w[p + "attn.qkv.bias"]
        q, k, v = qkv.reshape(n, t, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-1, -2) / math.sqrt(c // heads)).softmax(-1) @ v
        x = x + a.transpose(1, 2).reshape(n, t, c) @ w[p + "attn.proj.weight"].T
        h = F.gelu(norm(x, w[p + "norm2.weight"]) @ w[p + "mlp.fc1.weight"].T)
        x = x + h @ w[p + "mlp.fc2.weight"].T
    return norm(x, w[prefix + "norm.weight"])


def rows(x, index):
    """x [n, t, c] at index [n, k] -> [n, k, c]."""
    return x.gather(1, index[:, :, None].expand(-1, -1, x.shape[-1]))


def encode(w, signal, index, size, meta):
    """All of the register and the patches at index (None: all) through the encoder."""
    width, depth, heads = size
    kernel = w["encoder.patch_embed.weight"].reshape(width, len(meta["leads"]), meta["patch"])
    x = F.conv1d(signal, kernel, stride=meta["patch"]).transpose(1, 2)
    x = x + positions(meta["tokens"], width, x.dtype)
    if index is not None:
        x = rows(x, index)
    x = torch.cat([w["encoder.register"].expand(x.shape[0], 1, -1), x], 1)
    return blocks(w, "encoder.", x, depth, heads)


class Judge:
    """Collects comparisons; the worst ratio of each kind is printed."""

    def __init__(self):
        self.worst, self.bad = {}, 0

    def check(self, kind, name, ours, single, exact, floor=FLOOR):
        ours, single, exact = (np.asarray(x, dtype=np.float64) for x in (ours, single, exact))
        size = np.linalg.norm(exact)
        error, naive = np.linalg.norm(ours - exact), np.linalg.norm(single - exact)
        limit = 2 * naive + floor * size
        if not error <= limit:
            self.bad += 1
            print(f"{kind} {name}: off by {error:.3g} of {size:.3g}, allowed {limit:.3g} "
                  f"(float32 PyTorch {naive:.3g})")
        old = self.worst.get(kind, (0, 0, 0, ""))
        self.worst[kind] = max(old, (error / limit if limit else 0, error / (size or 1),
                                     naive / (size or 1), name))

    def finish(self):
        for kind, (share, error, naive, name) in self.worst.items():
            print(f"{kind:16} worst {share:.2f} of the limit: relative error {error:.2g}, "
                  f"float32 PyTorch {naive:.2g} ({name})")
        return 1 if self.bad else 0


def train(dump, dtype, loss_of):
    """Loss, gradients, and losses, weights and EMA of the steps, in one precision. loss_of(weights,
    ema weights) is the model."""
    meta = dump.meta
    w = {k: torch.from_numpy(v.copy()).to(dtype) for k, v in dump.arena("weight.f32").items()}
    ema = {}
    if any(p["ema"] for p in meta["params"]):
        ema = {k: torch.from_numpy(v.copy()).to(dtype) for k, v in dump.arena("ema.f32").items()}
    trained = {p["name"]: p for p in meta["params"] if p["trained"]}
    for name in trained:
        w[name].requires_grad_(True)
    decayed = [w[n] for n, p in trained.items() if p["decay"]]
    others = [w[n] for n, p in trained.items() if not p["decay"]]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}],
                                  lr=1.0, betas=tuple(meta["beta"]), eps=meta["eps"])
    first, losses = None, []
    for step in meta["steps"]:
        optimizer.zero_grad()
        loss = loss_of(w, ema)
        loss.backward()
        losses.append(loss.item())
        if first is None:
            first = {n: w[n].grad.clone() for n in trained}
        for group in optimizer.param_groups:
            group["lr"] = step["rate"]
        optimizer.param_groups[0]["weight_decay"] = step["decay"]
        optimizer.step()
        with torch.no_grad():
            for p in meta["params"]:
                if p["ema"]:
                    m = step["momentum"]
                    ema[p["name"]] = m * ema[p["name"]] + (1 - m) * w[p["name"]]
    return {"grad": first, "losses": losses, "w": {k: v.detach() for k, v in w.items()},
            "ema": ema}


def determined(name, x):
    """The part of a tensor that the loss depends on: a bias of the keys adds the same to all scores of
    a query, which softmax takes away again. Its gradient is 0; what is computed is the rounding, and
    AdamW divides it by its own size."""
    if not name.endswith("attn.qkv.bias"):
        return x
    third = x.shape[0] // 3
    return x[[*range(third), *range(2 * third, 3 * third)]]


def floors(floor):
    """floor(name), or the same number for all."""
    return floor if callable(floor) else lambda name: floor


def compare_training(judge, dump, loss_of, gradient_floor=FLOOR, idle=lambda name: False,
                     change_floor=CHANGE_FLOOR, runs=None):
    """loss_of(dtype) returns the model's loss function in that precision. idle(name): a parameter that
    the loss does not depend on, whose gradient is rounding and whose steps therefore are noise. The
    floors are numbers, or functions of the parameter's name. runs: what train() gave in float32 and in
    float64, where that is known."""
    meta, gradient_floor, change_floor = dump.meta, floors(gradient_floor), floors(change_floor)
    single, exact = runs or [train(dump, t, loss_of(t)) for t in (torch.float32, torch.float64)]
    grad, after = dump.arena("grad.f32"), dump.arena("weight_after.f32")
    before = dump.arena("weight.f32")
    ours = [s["loss"] for s in meta["steps"]]
    # One number may be right by luck; the steps' losses say how far off such a number is.
    off = max(abs(a - b) for a, b in zip(single["losses"], exact["losses"]))
    judge.check("loss", "first", ours[0], exact["losses"][0] + off, exact["losses"][0])
    judge.check("losses", "all steps", ours, single["losses"], exact["losses"])
    for p in meta["params"]:
        name = p["name"]
        if p["state"]:
            continue  # the model's own test: it may move without a gradient
        if not p["trained"]:
            assert np.array_equal(before[name], after[name]), f"{name} is frozen and changed"
            assert not grad[name].any(), f"{name} is frozen and has a gradient"
            continue
        if idle(name):
            assert exact["grad"][name].abs().max() < 1e-12, f"{name} is not idle"
            assert abs(grad[name]).max() < 1e-6, f"{name} has a gradient"
            continue
        judge.check("gradient", name, *(determined(name, x) for x in (
            grad[name], single["grad"][name], exact["grad"][name])), floor=gradient_floor(name))
        if name.endswith("attn.qkv.bias"):
            keys = np.abs(np.split(grad[name], 3)[1]).max()
            assert keys < 1e-5 * np.abs(grad[name]).max(), f"{name}: keys have a gradient"
        # The change alone, since the weight itself would hide an error of the step. It is ten
        # times smaller or more, and its share of rounding, which the floor has to cover, larger.
        stepped = [determined(name, x) for x in (
            after[name].astype(np.float64), single["w"][name].double().numpy(),
            exact["w"][name].numpy())]
        moved = [x - determined(name, before[name]).astype(np.float64) for x in stepped]
        change, weight = np.linalg.norm(moved[2]), np.linalg.norm(stepped[2])
        assert change > 1e-3, f"{name} hardly moves"
        judge.check("change", name, *moved, floor=change_floor(name))
        judge.check("weight", name, *stepped,
                    floor=FLOOR + change_floor(name) * change / weight)
    if any(p["ema"] for p in meta["params"]):
        ema = dump.arena("ema_after.f32")
        for p in meta["params"]:
            if p["ema"] and not p["state"]:
                judge.check("EMA", p["name"], ema[p["name"]], single["ema"][p["name"]],
                            exact["ema"][p["name"]])


torch.manual_seed(0)
torch.set_num_threads(1)
