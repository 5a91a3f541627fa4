"""Loads a folder that `purkinje export` wrote. Needs torch, safetensors and numpy, nothing of purkinje.

    model = Model("exported")
    model.logits(x)      # x: [records, leads, samples] in mV at the model's rate, NaN where missing
    model.of_record(model.logits, x)    # of longer records: the mean over their windows

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
        self.heads, self.eps = self.config["encoder"]["heads"], self.config["encoder"]["layer_norm_eps"]

    def preprocess(self, mv):
        c = self.config["input"]
        x = torch.as_tensor(np.asarray(mv), dtype=torch.float32)
        x = (x - torch.tensor(c["mean"])[:, None]) / torch.tensor(c["std"])[:, None]
        return torch.nan_to_num(x.clamp(-c["clip"], c["clip"]), nan=0.0)  # missing: zero, the mean

    def attend(self, q, k, v):  # [B, tokens, width] each
        q, k, v = (a.unflatten(2, (self.heads, -1)).transpose(1, 2) for a in (q, k, v))
        a = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3) @ v
        return a.transpose(1, 2).flatten(2)

    def tokens(self, mv):  # -> [B, 1 + patches, width], the register first
        w = self.weight
        norm = lambda x, name: F.layer_norm(x, x.shape[2:], w[name + ".weight"], eps=self.eps)
        x = F.conv1d(self.preprocess(mv), w["patch_embed.weight"],
                     stride=self.config["encoder"]["patch_samples"]).transpose(1, 2)
        angle = torch.arange(x.shape[1])[:, None] * torch.exp(
            -np.log(10000.0) * torch.arange(0, x.shape[2], 2, dtype=torch.float64) / x.shape[2])
        x = x + torch.stack([angle.sin(), angle.cos()], 2).flatten(1).float()
        x = torch.cat([w["register"].expand(len(x), 1, -1), x], 1)
        for i in range(self.config["encoder"]["depth"]):
            b = f"blocks.{i}."
            a = self.attend(*(norm(x, b + "norm1") @ w[b + "attn.qkv.weight"].T).chunk(3, 2))
            x = x + a @ w[b + "attn.proj.weight"].T
            x = x + F.gelu(norm(x, b + "norm2") @ w[b + "mlp.fc1.weight"].T) @ w[b + "mlp.fc2.weight"].T
        return norm(x, "norm")

    def embedding(self, mv):  # -> [B, width]
        return self.tokens(mv)[:, 1:].mean(1)

    def logits(self, mv):  # -> [B, classes]; of one window, see preprocessor_config.json
        w, x = self.weight, self.tokens(mv)
        if self.config["head"]["kind"] == "attentive":
            q = (w["head.query"] @ w["head.q.weight"].T).expand(len(x), 1, -1)
            return self.attend(q, *(x @ w["head.kv.weight"].T).chunk(2, 2))[:, 0] @ w["head.proj.weight"].T
        x = x[:, 0] if self.config["head"]["kind"] == "register_linear" else x[:, 1:].mean(1)
        return x @ w["head.proj.weight"].T + w["head.proj.bias"]

    def of_record(self, function, mv):  # mean over windows of function (embedding, logits)
        size = self.windows["window_samples"]
        step = round(self.windows["stride_s"] * self.windows["rate_hz"])
        if mv.shape[2] < size:
            raise ValueError(f"records of {mv.shape[2]} samples are shorter than the window of {size}")
        parts = [function(mv[:, :, a:a + size]) for a in range(0, mv.shape[2] - size + 1, step)]
        return torch.stack(parts).mean(0)


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
