"""core/optim.c against torch.optim.AdamW and torch.nn.utils.clip_grad_norm_, through the test
program test_optim, which takes the same 20 steps from a file of weights and gradients. beta1 differs
from step to step, as under a one-cycle schedule."""
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch
except ImportError:
    print("skipped: torch is not installed")
    sys.exit(77)

STEPS = 20
# count, trained, decay, ema: the table of tests/core/test_optim.c
TABLE = [(100, 1, 1, 1), (17, 1, 1, 1), (70000, 1, 0, 1), (1, 0, 1, 1), (33, 0, 0, 0),
         (65536, 1, 1, 0), (5, 1, 0, 0)]


def torch_steps(weights, grads, clip, dtype):
    """Weights and EMA of each parameter after STEPS steps."""
    params = [torch.nn.Parameter(torch.tensor(w, dtype=dtype), requires_grad=bool(row[1]))
              for w, row in zip(weights, TABLE)]
    ema = [p.detach().clone() for p in params]
    trained = [(p, row) for p, row in zip(params, TABLE) if row[1]]
    groups = [{"params": [p for p, row in trained if bool(row[2]) == decay],
               "weight_decay": 0.05 if decay else 0.0} for decay in (True, False)]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), eps=1e-6)
    for step in range(STEPS):
        for p, g, row in zip(params, grads[step], TABLE):
            p.grad = torch.tensor(g, dtype=dtype) if row[1] else None
        if clip:
            torch.nn.utils.clip_grad_norm_([p for p, _ in trained], clip)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + step)
            group["betas"] = (0.85 + 0.005 * step if step % 2 else 0.9, 0.99)
        optimizer.step()
        with torch.no_grad():
            for p, e, row in zip(params, ema, TABLE):
                if row[3]:
                    e.lerp_(p, 1 - 0.99)
    return np.concatenate([p.detach().numpy() for p in params]), np.concatenate(ema)


def check(program, clip, folder):
    rng = np.random.default_rng(5)
    draw = lambda scale: [(rng.standard_normal(row[0]) * scale).astype(np.float32) for row in TABLE]
    weights = draw(0.1)
    grads = [draw(1e-2 if step % 3 else 1e-5) for step in range(STEPS)]
    path = os.path.join(folder, "steps.f32")
    np.concatenate(weights + [g for step in grads for g in step]).tofile(path)
    text = subprocess.run([program, path, str(clip)], check=True, capture_output=True, text=True)
    ours = np.array(text.stdout.split(), float).reshape(-1, 2).T
    exact = torch_steps(weights, grads, clip, torch.float64)
    single = torch_steps(weights, grads, clip, torch.float32)
    # An EMA that is not asked for is not compared.
    has_ema = np.concatenate([np.full(row[0], bool(row[3])) for row in TABLE])
    good = True
    for name, mine, want, floats, where in zip(("weight", "ema"), ours, exact, single,
                                               (np.ones_like(has_ema), has_ema)):
        off = np.abs(mine - want)[where].max()
        allowed = 2 * np.abs(floats - want)[where].max() + 2.0**-24
        print(f"clip {clip}: {name} off by {off:.3g}; PyTorch in float32 by "
              f"{np.abs(floats - want)[where].max():.3g}")
        good &= bool(off <= allowed)
    return good


def main():
    program = os.path.join(os.path.dirname(os.environ["PURKINJE"]), "test_optim")
    if not os.path.exists(program):
        print("skipped: test_optim is not built")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        return 0 if all([check(program, clip, folder) for clip in (0, 1)]) else 1


if __name__ == "__main__":
    sys.exit(main())
