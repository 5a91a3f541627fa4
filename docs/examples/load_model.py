"""Loads a folder that `purkinje export` wrote. Needs torch, safetensors and numpy, nothing of purkinje; for
convolutional encoders also conv_encoders.py, which lies beside this file.

    model = Model("exported")
    model.logits(x)      # x: [records, leads, samples] in mV at the model's rate, NaN where missing
    model.of_record(model.logits, x)    # of longer records, over their windows

    python load_model.py exported                # what the model wants and gives
    python load_model.py exported signals.npy    # scores (or embeddings) of [records, leads, samples], one line each
"""
import json
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class Model:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
        with open(os.path.join(folder, "preprocessor_config.json"), encoding="utf-8") as f:
            self.windows = json.load(f)
        self.weight = load_file(os.path.join(folder, "model.safetensors"))
        e = self.config["encoder"]
        self.patch, self.convolution = e["patch_samples"], None
        if e["kind"] != "vit":
            from conv_encoders import of_config
            self.kind, self.convolution = "sample", of_config(self.config)
            self.heads = e["width"] // 64 if e["width"] % 64 == 0 else 1  # of an attentive head
            self.convolution.load_state_dict({k: v for k, v in self.weight.items() if not k.startswith("head.")})
            return
        self.heads, self.eps = e["heads"], e["layer_norm_eps"]
        self.kind = e.get("tokenisation", "register")  # what a token is

    def preprocess(self, mv):
        c = self.config["input"]
        x = torch.as_tensor(np.asarray(mv), dtype=torch.float32)
        x = (x - torch.tensor(c["mean"])[:, None]) / torch.tensor(c["std"])[:, None]
        return torch.nan_to_num(x.clamp(-c["clip"], c["clip"]), nan=0.0)  # missing: zero, the mean

    def attend(self, q, k, v):  # [B, tokens, width] each
        q, k, v = (a.unflatten(2, (self.heads, -1)).transpose(1, 2) for a in (q, k, v))
        a = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3) @ v
        return a.transpose(1, 2).flatten(2)

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.weight[name + ".weight"], eps=self.eps)

    def positions(self, count, width):
        angle = torch.arange(count)[:, None] * torch.exp(
            -np.log(10000.0) * torch.arange(0, width, 2, dtype=torch.float64) / width)
        return torch.stack([angle.sin(), angle.cos()], 2).flatten(1).float()

    def with_register(self, x):  # patches of all leads, the register first
        w = self.weight
        x = F.conv1d(x, w["patch_embed.weight"], stride=self.patch).transpose(1, 2)
        x = x + self.positions(x.shape[1], x.shape[2])
        return torch.cat([w["register"].expand(len(x), 1, -1), x], 1)

    def of_patches(self, x, present):  # tokens of masked autoencoders
        w = self.weight
        if self.kind == "lead":  # a whole lead
            x = x[:, :, None]
        else:
            x = x.unflatten(2, (-1, self.patch))  # [B, leads, patches, samples]
        if self.kind == "time":  # a patch of all leads
            x = x.transpose(1, 2).flatten(2)[:, :, None]
        x = self.norm(x, "patch_norm") @ w["patch_embed.weight"].flatten(1).T
        x = self.norm(x, "embed_norm")
        if self.kind != "patch":
            return x[:, :, 0] + self.positions(x.shape[1], x.shape[3])
        x = torch.where(present[:, :, None, None], x, w["absent"])
        ends = w["separator"].expand(*x.shape[:2], 1, -1)  # around each lead's patches
        x = torch.cat([ends, x, ends], 2)
        x = x + self.positions(x.shape[2], x.shape[3]) + w["lead_embed"][:, None]
        return x.flatten(1, 2)

    def tokens(self, mv):  # -> [B, tokens, width]
        w, x, n = self.weight, self.preprocess(mv), self.norm
        if self.convolution:
            return self.convolution(x).transpose(1, 2)
        x = self.with_register(x) if self.kind == "register" else self.of_patches(x, self.present(mv))
        for i in range(self.config["encoder"]["depth"]):
            b = f"blocks.{i}."
            qkv = n(x, b + "norm1") @ w[b + "attn.qkv.weight"].T + w.get(b + "attn.qkv.bias", 0)
            x = x + self.attend(*qkv.chunk(3, 2)) @ w[b + "attn.proj.weight"].T
            x = x + F.gelu(n(x, b + "norm2") @ w[b + "mlp.fc1.weight"].T) @ w[b + "mlp.fc2.weight"].T
        return n(x, "norm")

    def present(self, mv):  # [B, leads]: a lead without any sample is absent
        return ~torch.as_tensor(np.asarray(mv)).isnan().all(2)

    def mean(self, x, mv):  # over the tokens that are signal
        if self.kind == "register":
            return x[:, 1:].mean(1)
        if self.kind != "patch":
            return x.mean(1)
        present = self.present(mv).float()[:, :, None]
        x = x.unflatten(1, (present.shape[1], -1))[:, :, 1:-1].mean(2)
        return (x * present).sum(1) / present.sum(1)

    def concat_pool(self, x):  # numbers as in fastai's head: norm, linear, ReLU, norm, linear
        w = self.weight
        x = x[:, 1:] if self.kind == "register" else x
        x = self.batch_norm(torch.cat([x.amax(1), x.mean(1)], 1), "head.2")
        if self.config["head"]["hidden"]:
            x = self.batch_norm(F.relu(F.linear(x, w["head.4.weight"], w["head.4.bias"])), "head.6")
        last = "head.8" if self.config["head"]["hidden"] else "head.4"
        return F.linear(x, w[last + ".weight"], w[last + ".bias"])

    def batch_norm(self, x, name):
        return F.batch_norm(x, *(self.weight[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))

    def embedding(self, mv):  # -> [B, width]
        return self.mean(self.tokens(mv), mv)

    def logits(self, mv):  # -> [B, classes]; of one window, see preprocessor_config.json
        w, x = self.weight, self.tokens(mv)
        if self.config["head"]["kind"] == "attentive":
            q = (w["head.query"] @ w["head.q.weight"].T).expand(len(x), 1, -1)
            return self.attend(q, *(x @ w["head.kv.weight"].T).chunk(2, 2))[:, 0] @ w["head.proj.weight"].T
        if self.config["head"]["kind"] == "concat_pool":
            return self.concat_pool(x)
        x = x[:, 0] if self.config["head"]["kind"] == "register_linear" else self.mean(x, mv)
        return x @ w["head.proj.weight"].T + w["head.proj.bias"]

    def targets(self, mv):  # -> [B, targets] in their own units, of a regression
        head = self.config["head"]
        return self.logits(mv) * torch.tensor(head["target_std"]) + torch.tensor(head["target_mean"])

    def of_record(self, function, mv):  # function (embedding, logits, targets) over windows: mean, or maximum of the sigmoids
        size = self.windows["window_samples"]
        step = round(self.windows["stride_s"] * self.windows["rate_hz"])
        if mv.shape[2] < size:
            raise ValueError(f"records of {mv.shape[2]} samples are shorter than the window of {size}")
        parts = [function(mv[:, :, a:a + size]) for a in range(0, mv.shape[2] - size + 1, step)]
        largest = function == self.logits and self.config["head"]["aggregation"] == "max_sigmoid"
        return torch.stack(parts).amax(0) if largest else torch.stack(parts).mean(0)


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__.strip())
    model = Model(sys.argv[1])
    c, head = model.config["input"], model.config.get("head")
    if len(sys.argv) == 2:
        print(f"input   [records, {len(c['leads'])}, samples] in {c['units']} at {c['rate_hz']} Hz:", *c["leads"])
        print(f"window  {model.windows['window_samples']} samples, every {model.windows['stride_s']} s")
        print("output ", *(head["classes"] if head else [f"embedding of {model.config['encoder']['width']}"]))
        return
    x = np.load(sys.argv[2])
    if x.ndim != 3 or x.shape[1] != len(c["leads"]):
        sys.exit(f"{sys.argv[2]} has the shape {x.shape}; [records, {len(c['leads'])}, samples] was expected")
    with torch.no_grad():
        y = model.of_record(model.logits if head else model.embedding, x)
    if head:
        y = y.softmax(1) if head["single_label"] else y.sigmoid()
        print(*head["classes"], sep="\t")
    for row in y.tolist():
        print(*(f"{v:.4f}" for v in row), sep="\t")


if __name__ == "__main__":
    main()
