"""The collapse measures of core/stats.c against numpy's singular values, tall, square and wide;
those of pairs against all distances."""
import os
import subprocess
import sys
import tempfile

import numpy as np


def pairs(x):
    """Alignment and uniformity (Wang & Isola 2020) of rows 2i and 2i + 1."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    d = ((x[:, None] - x[None]) ** 2).sum(2)
    i, k = np.triu_indices(len(x), 1)
    pair = (i % 2 == 0) & (k == i + 1)
    return [d[i, k][pair].mean(), np.log(np.exp(-2 * d[i, k][~pair]).mean())]


program = os.path.join(os.path.dirname(os.environ["PURKINJE"]), "test_stats")
rng = np.random.default_rng(3)
bad = 0
with tempfile.TemporaryDirectory() as scratch:
    for rows, width, decay in [(1, 1, 0), (9, 5, 0), (7, 7, 0.5), (5, 90, 0.1), (6, 4, 0), (500, 33, 0.3), (700, 192, 0.05)]:
        x = rng.normal(size=(rows, width)) * np.exp(-decay * np.arange(width))
        x = (x @ np.linalg.qr(rng.normal(size=(width, width)))[0] + rng.normal(size=width)).astype(np.float32)
        path = os.path.join(scratch, "x.npy")
        np.save(path, x)
        p = subprocess.run([program, path], capture_output=True, text=True)
        x = x.astype(np.float64)
        s = np.linalg.svd(x - x.mean(0), compute_uv=False)
        q = s[s > 0] / s.sum() if rows > 1 else np.array([])
        want = [x.std(0).mean(), x.var(0).mean(), np.exp(-(q * np.log(q)).sum()) if rows > 1 else 0]
        names, got = ["mean std", "mean variance", "effective rank"], [np.nan] * 6
        if p.returncode == 0:
            got = [float(v) for v in p.stdout.split()]
            del got[3]  # seconds
        if rows >= 4 and rows % 2 == 0:
            names += ["alignment", "uniformity"]
            want += pairs(x[:1024])
        for name, a, b in zip(names, got, want):
            if not abs(a - b) <= 2e-6 * max(1, abs(b)):
                bad += 1
                print(f"failed: {name} of {rows} x {width}: {a}, numpy {b} {p.stderr}")
print(f"{bad} checks failed" if bad else "all checks passed")
sys.exit(1 if bad else 0)
