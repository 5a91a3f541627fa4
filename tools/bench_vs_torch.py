#!/usr/bin/env python3
"""Purkinje's training step against a peer's on this machine: A, B, A, B ..., ratio with median and range.

    tools/bench_vs_torch.py --ours "purkinje bench step jepa_vit_xs_500hz train.precision=fp32 train.batch_size=64
        --keep 40 --steps 5 --json" --peer "python3 PEER.py --size xs --device cpu --dtype fp32 --mode eager
        --batch 64 --keep 40 --steps 5" --rounds 3 [--peer-env NAME=VALUE ...] [--json]
    tools/bench_vs_torch.py --ours "purkinje bench step jepa_vit_s_500hz --device cuda --keep 40 --steps 40 --json"
        --peer "python3 PEER.py --size s --device cuda --dtype bf16 --batch 2048 --keep 40 --steps 40"
        --modes eager,compile,graphs --rounds 3

Both commands are given whole, so the table can be reproduced from them. Each must print JSON with batch, keep, ms,
ms_min, ms_max and records_per_s (the last JSON object counts), and the peer tflops. A comparison of unlike things is
refused: the batch, the kept tokens, the FLOPs per record and, where both tell it, the precision must agree. With
--modes the peer runs once for each mode in every round, as `PEER --mode MODE`; a mode that fails is reported and left
out, and the ratio is against the mode with the best median. Unless --peer-env says otherwise the peer runs with the
environment that makes PyTorch's CPU path fastest here (PEER_ENV below), with --device cuda as it is.
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys

# OpenBLAS 0.3.21 takes Zen 5 for Haswell: half its speed. PyTorch picks its kernels the same way.
PEER_ENV = ["OMP_NUM_THREADS=2", "OPENBLAS_CORETYPE=COOPERLAKE", "ATEN_CPU_CAPABILITY=avx512"]


def last_json(text):
    """The last complete JSON object of the text, pretty-printed or one to a line."""
    decoder, found, at = json.JSONDecoder(), None, text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:
            end = at + 1
        at = text.find("{", end)
    return found


class Failed(Exception):
    pass


def run(command, env):
    r = subprocess.run(shlex.split(command), capture_output=True, text=True, env=env)
    if r.returncode != 0:
        raise Failed(f"exit code {r.returncode} from: {command}\n{r.stderr[-2000:]}")
    result = last_json(r.stdout)
    missing = [k for k in ("batch", "keep", "ms", "ms_min", "ms_max", "records_per_s") if k not in (result or {})]
    if missing:
        raise Failed(f"no {', '.join(missing)} in the output of: {command}\n{r.stdout[-500:]}")
    return result


def flops_per_record(r):
    return r["flops_per_record"] if "flops_per_record" in r else 1e9 * r["tflops"] * r["ms"] / r["batch"]


PRECISION = {"f32": "fp32", "float32": "fp32", "bfloat16": "bf16"}


def check_alike(a, b):
    for key in ("batch", "keep"):
        if a[key] != b[key]:
            raise Failed(f"{key} is {a[key]} here and {b[key]} there; that is no comparison")
    if "precision" in a and "dtype" in b:
        x, y = (PRECISION.get(t, t) for t in (a["precision"], b["dtype"]))
        if x != y:
            raise Failed(f"{x} here and {y} there; that is no comparison")
    x, y = flops_per_record(a), flops_per_record(b)
    rounding = 0.0 if "flops_per_record" in b else 0.005e9 * b["ms"] / b["batch"]  # tflops has two decimals
    if not abs(x - y) < 0.01 * x + rounding:
        raise Failed(f"{x:.5g} FLOP per record here and {y:.5g} there; that is no comparison")


def side(runs):
    return {
        "ms": statistics.median(r["ms"] for r in runs),
        "ms_min": min(r["ms_min"] for r in runs),
        "ms_max": max(r["ms_max"] for r in runs),
        "records_per_s": statistics.median(r["records_per_s"] for r in runs),
        "gflops_per_s": 1e-9 * statistics.median(flops_per_record(r) * r["records_per_s"] for r in runs),
    }


def measure(args, env):
    """The runs of our side, and those of each mode that works; (mode, why) of those that do not."""
    modes = args.modes.split(",") if args.modes else [None]
    ours, peer, left_out = [], {m: [] for m in modes}, []
    for i in range(args.rounds):
        ours.append(run(args.ours, dict(os.environ)))
        said = [f"{ours[-1]['ms']:.2f} ms here"]
        for mode in list(peer):
            try:
                peer[mode].append(run(args.peer + (f" --mode {mode}" if mode else ""), env))
            except Failed as why:
                if not mode:
                    raise
                del peer[mode]
                left_out.append((mode, str(why)))
                print(f"mode {mode} left out: {why}", file=sys.stderr, flush=True)
                continue
            if i == 0:
                check_alike(ours[0], peer[mode][0])
            said.append(f"{peer[mode][-1]['ms']:.2f} ms there" + (f" ({mode})" if mode else ""))
        if not peer:
            raise Failed("no mode of the peer works")
        print(f"round {i + 1}: {', '.join(said)}", file=sys.stderr, flush=True)
    return ours, peer, left_out


def compare(args, extra, ours, peer, left_out):
    best = min(peer, key=lambda m: statistics.median(r["ms"] for r in peer[m]))
    ratio = [b["ms"] / a["ms"] for a, b in zip(ours, peer[best])]
    result = {
        "ours_command": args.ours, "peer_command": " ".join([*extra, args.peer]),
        "rounds": args.rounds, "batch": ours[0]["batch"], "keep": ours[0]["keep"],
        "ours": side(ours), "peer": side(peer[best]), "peer_name": str(peer[best][0].get("peer", "peer")),
        "ratio": statistics.median(ratio), "ratio_min": min(ratio), "ratio_max": max(ratio),
    }
    if args.modes:
        result.update(best_mode=best, modes={m: side(r) for m, r in peer.items()},
                      left_out={m: why for m, why in left_out})
    return result


def print_table(result):
    print(f"A: {result['ours_command']}\nB: {result['peer_command']}\n")
    print(f"| {result['rounds']} rounds A, B; {result['batch']} records, {result['keep']} tokens kept "
          "| ms (median) | range | records/s | GFLOP/s |\n| --- | ---: | ---: | ---: | ---: |")
    rows = {"purkinje": result["ours"]}
    if "modes" in result:
        rows.update({f"{result['peer_name']}, {m}": s for m, s in result["modes"].items()})
    else:
        rows[result["peer_name"]] = result["peer"]
    for name, s in rows.items():
        print(f"| {name} | {s['ms']:.2f} | {s['ms_min']:.2f} - {s['ms_max']:.2f} | {s['records_per_s']:.1f} "
              f"| {s['gflops_per_s']:.1f} |")
    for mode, why in result.get("left_out", {}).items():
        print(f"\nmode {mode} does not run: {why}")
    against = f" against {result['best_mode']}" if "best_mode" in result else ""
    print(f"\nratio {result['ratio']:.2f}x{against} (pairs {result['ratio_min']:.2f} - {result['ratio_max']:.2f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, metavar="COMMAND")
    parser.add_argument("--peer", required=True, metavar="COMMAND")
    parser.add_argument("--modes", metavar="A,B,...", help="modes of the peer, each run in every round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-env", action="append", metavar="NAME=VALUE")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    words = shlex.split(args.peer)
    on_gpu = "--device=cuda" in words or "cuda" in [b for a, b in zip(words, words[1:]) if a == "--device"]
    extra = args.peer_env or ([] if on_gpu else PEER_ENV)
    if any("=" not in e for e in extra):
        parser.error("--peer-env wants NAME=VALUE")
    try:
        result = compare(args, extra, *measure(args, {**os.environ, **dict(e.split("=", 1) for e in extra)}))
    except Failed as why:
        sys.exit(f"error: {why}")
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)


if __name__ == "__main__":
    main()
