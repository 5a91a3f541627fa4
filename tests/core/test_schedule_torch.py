"""PK_SHAPE_ONE_CYCLE of core/schedule.c against torch.optim.lr_scheduler.OneCycleLR: learning rate and
beta1 of every step."""
import os
import subprocess
import sys
import warnings

try:
    import torch
except ImportError:
    print("skipped: torch is not installed")
    sys.exit(77)

# steps, pct_start, max_lr, div_factor, final_div_factor; a top that is not a whole step, that is
# the first one, that is before it; fastai's share and final rate
CASES = [(1000, 0.3, 1e-3, 25.0, 1e4), (997, 0.25, 1e-2, 25.0, 4e3), (10, 0.25, 0.1, 10.0, 100.0),
         (3, 0.3, 1.0, 25.0, 1e4), (20, 0.1, 1.0, 4.0, 2.0), (1, 0.5, 1.0, 25.0, 1e4),
         (50, 0.0, 1.0, 25.0, 1e4)]


def torch_values(steps, rise, peak, div, final_div):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, total_steps=steps, pct_start=rise, div_factor=div,
        final_div_factor=final_div, base_momentum=0.85, max_momentum=0.95)
    values = []
    for step in range(steps):
        values.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        if step + 1 < steps:
            scheduler.step()
    return zip(*values)


def ours(program, *arguments):
    text = subprocess.run([program, *map(repr, arguments)], check=True, capture_output=True,
                          text=True).stdout
    return [float(line) for line in text.split()]


def main():
    program = os.path.join(os.path.dirname(os.environ["PURKINJE"]), "test_schedule")
    if not os.path.exists(program):
        print("skipped: test_schedule is not built")
        return 77
    warnings.simplefilter("ignore")  # no optimizer step is taken
    good = True
    for steps, rise, peak, div, final_div in CASES:
        rates, betas = torch_values(steps, rise, peak, div, final_div)
        start = peak / div
        pairs = [(rates, ours(program, start, peak, start / final_div, rise, steps)),
                 (betas, ours(program, 0.95, 0.85, 0.95, rise, steps))]
        off = max(abs(a - b) / abs(a) for want, got in pairs for a, b in zip(want, got))
        good &= all(len(want) == len(got) == steps for want, got in pairs) and off <= 4e-16
        print(f"{steps} steps, rise {rise}: off by {off:.1e}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
