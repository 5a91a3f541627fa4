"""Masks of `purkinje data masks` against an independent simulation of the specification.

The simulation keeps a list of intervals, draws with NumPy, and shares no code or structure with
core/mask.c, so agreement of the distributions means that both read the specification alike.
Compared over 20,000 samples each: the probability of every position to stay visible, the number of
hidden runs, and the lengths of hidden runs.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np
from scipy import stats

SAMPLES = 20_000


def simulate(rng, tokens, keep, min_block):
    """One mask: True where visible."""
    intervals = [(0, tokens)]
    visible = np.ones(tokens, bool)
    remaining = tokens - keep
    while remaining > 0:
        lengths = np.array([end - begin for begin, end in intervals], float)
        begin, end = intervals.pop(rng.choice(len(intervals), p=lengths / lengths.sum()))
        block = rng.integers(min_block, remaining + 1) if remaining >= min_block else remaining
        if end - begin <= block:
            at, block = begin, end - begin
        elif remaining >= min_block or (begin, end) == (0, tokens):
            at = rng.integers(begin, end - block + 1)
        else:
            ends = ([begin] if begin > 0 else []) + ([end - block] if end < tokens else [])
            at = rng.choice(ends)
        intervals += [(b, e) for b, e in ((begin, at), (at + block, end)) if e > b]
        visible[at : at + block] = False
        remaining -= block
    return visible


def hidden_runs(masks):
    """Per mask the number of hidden runs, and the lengths of all runs."""
    edges = np.diff(np.pad(~masks, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    return (edges == 1).sum(1), ends[:, 1] - starts[:, 1]


def same_distribution(a, b, what):
    """Chi-square of two samples of integers; bins with few members are joined."""
    top = max(a.max(), b.max()) + 1
    counts = np.stack([np.bincount(a, minlength=top), np.bincount(b, minlength=top)])
    bins, open_bin = [], np.zeros(2, int)
    for column in counts.T:
        open_bin = open_bin + column
        if open_bin.sum() >= 50:
            bins.append(open_bin)
            open_bin = np.zeros(2, int)
    bins.append(open_bin)
    table = np.array([b for b in bins if b.sum()]).T
    if table.shape[1] < 2:
        return True
    p = stats.chi2_contingency(table).pvalue
    if p < 1e-5:
        print(f"{what}: distributions differ, p = {p:g}")
    return p >= 1e-5


def check(tokens, keep, min_block, folder):
    path = os.path.join(folder, "masks.npy")
    subprocess.run(
        [os.environ["PURKINJE"], "data", "masks", "--tokens", str(tokens), "--keep", str(keep),
         "--min-block", str(min_block), "--seed", "7", "--count", str(SAMPLES), "--npy", path],
        check=True)
    ours = np.load(path)
    good = ours.shape == (SAMPLES, tokens) and set(np.unique(ours)) <= {0, 1}
    ours = ours.astype(bool)
    rng = np.random.default_rng(tokens * 1000 + keep)
    theirs = np.stack([simulate(rng, tokens, keep, min_block) for _ in range(SAMPLES)])
    name = f"tokens {tokens}, keep {keep}, min_block {min_block}"
    good &= bool((ours.sum(1) == keep).all() and (theirs.sum(1) == keep).all())
    p, q = ours.mean(0), theirs.mean(0)
    mean = (p + q) / 2
    sigma = np.sqrt(2 * mean * (1 - mean) / SAMPLES) + 1e-12
    worst = np.abs(p - q) / sigma
    # 4 sigma per position; over 200 positions that is exceeded by chance in 1.3 % of runs, and
    # both sides are seeded, so that a passing run passes always.
    if not worst.max() < 4:
        print(f"{name}: position {worst.argmax()} visible {p[worst.argmax()]:.4f}, "
              f"expected {q[worst.argmax()]:.4f}")
        good = False
    (our_number, our_length), (number, length) = hidden_runs(ours), hidden_runs(theirs)
    good &= same_distribution(our_number, number, f"{name}: hidden runs")
    good &= same_distribution(our_length, length, f"{name}: lengths of hidden runs")
    print(f"{name}: worst position {worst.max():.2f} sigma, {our_number.mean():.3f} hidden runs "
          f"(simulated {number.mean():.3f}), mean length {our_length.mean():.2f} "
          f"({length.mean():.2f})")
    return good


def main():
    with tempfile.TemporaryDirectory() as folder:
        results = [check(*c, folder) for c in
                   ((200, 40, 10), (200, 30, 10), (200, 50, 10), (50, 12, 10), (40, 33, 10),
                    (64, 32, 1))]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
