"""Loads a folder that `purkinje export` wrote. Needs torch, safetensors and numpy, nothing of purkinje.

    model = Model("exported")
    model.logits(x)      # x: [records, leads, samples] in mV at the model's rate, NaN where missing
"""
import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file


class Model:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.config = json.load(f)
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
