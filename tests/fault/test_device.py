"""--device: what is said where no GPU can be used, and whole runs on the host executor's CUDA backend.

The second program, PURKINJE_CUDA_HOST, is the same command line linked with the CUDA backend and the
executor of tests/cuda_host/; without it only the first half runs."""
import os
import subprocess
import sys

import runs
from runs import CLASSIFY, ENV, JEPA, expect, failures, metrics, refused, same, scratch

HOST = os.environ.get("PURKINJE_CUDA_HOST", "")
FEW = ["train.steps=4", "output.checkpoint.every=2", "output.checkpoint.keep_last=9"]


def host(*args, device="cuda", code=0):
    r = subprocess.run([HOST, *map(str, args)], capture_output=True, text=True, timeout=600,
                       env=dict(ENV, PURKINJE_DEVICE=device))
    if r.returncode != code:
        raise SystemExit(f"{' '.join(map(str, args))} on {device}: exit {r.returncode}\n{r.stderr}")
    return r


def gpu_here():
    return os.path.exists("/dev/nvidia0")


def losses(run):
    return [m["loss"] for m in metrics(run) if "loss" in m]


def close(a, b, share):
    return len(a) == len(b) > 0 and all(abs(x - y) <= share * abs(x) for x, y in zip(a, b))


def without_gpu(tmp):
    out = os.path.join(tmp, "none")
    refused(2, ["--device tpu", "auto, cpu or cuda"], *JEPA, f"output.dir={out}", "--device", "tpu")
    said = subprocess.run([runs.PROGRAM, "doctor"], capture_output=True, text=True, env=ENV)
    expect(said.returncode == 0 and "cuda" in said.stdout and "backend" in said.stdout, "doctor reports")
    if gpu_here():
        return
    refused(69, ["--device cpu"], *JEPA, f"output.dir={out}", "--device", "cuda")
    refused(69, ["--device cpu"], "doctor", "--device", "cuda")
    expect(not os.path.exists(out), "nothing is written where the device is missing")
    runs.good(*JEPA, *FEW, f"output.dir={out}", "--device", "auto")
    expect(os.path.exists(os.path.join(out, "metrics.jsonl")), "auto runs on the CPU")


def pretraining(tmp):
    """The CPU's losses, in fp32 nearly and in bf16 about; residents and files give the same bits."""
    at = {name: os.path.join(tmp, name) for name in ("cpu", "cuda", "files", "low", "moved")}
    one = ["train.precision=fp32", *FEW]
    host(*JEPA, *one, f"output.dir={at['cpu']}", device="cpu")
    host(*JEPA, *one, "data.on_gpu=yes", f"output.dir={at['cuda']}")
    host(*JEPA, *one, "data.on_gpu=no", f"output.dir={at['files']}")
    host(*JEPA, *FEW, "train.precision=bf16", f"output.dir={at['low']}")
    expect(close(losses(at["cpu"]), losses(at["cuda"]), 1e-4), "fp32 losses are the CPU's")
    expect(close(losses(at["cpu"]), losses(at["low"]), 0.03), "bf16 losses are near the CPU's")
    same(at["cuda"], at["files"], "records in GPU memory and from files")
    expect(os.path.exists(os.path.join(at["cuda"], "gemm.json")), "the choices of products are kept")
    # On the other device and back: begun on the GPU, then the CPU, then the GPU again.
    more = [a for a in JEPA if not a.startswith("output.checkpoint")]
    host(*more, "train.precision=auto", "train.steps=6", "output.checkpoint.every=2",
         f"output.dir={at['moved']}", device="cpu")
    whole = losses(at["moved"])
    for newest in (4, 6):
        drop_after(at["moved"], newest - 2)
        host("resume", at["moved"], device="cuda" if newest == 4 else "cpu")
    expect(close(whole, losses(at["moved"]), 0.03), "a run goes on on another device")
    return at["cuda"]


def drop_after(run, step):
    """As if the run had been killed after this step's checkpoint."""
    folder = os.path.join(run, "checkpoints")
    for name in os.listdir(folder):
        if name.startswith("step-") and int(name[5:]) > step:
            subprocess.run(["rm", "-r", os.path.join(folder, name)], check=True)
    latest = os.path.join(folder, "latest")
    if os.path.lexists(latest):
        os.remove(latest)


def resumed(tmp, run):
    """Two steps, and two more after a resume, are four steps: the same bits."""
    copy = os.path.join(tmp, "resumed")
    subprocess.run(["cp", "-r", run, copy], check=True)
    drop_after(copy, 2)
    host("resume", copy)
    same(copy, run, "a resumed run")


def downstream(tmp, run):
    """Fine-tuning, evaluation and embedding of the encoder on both devices."""
    at = {d: os.path.join(tmp, f"fine-{d}") for d in ("cpu", "cuda")}
    for device, out in at.items():
        host(*CLASSIFY, "stages.0.steps=2", "stages.1.steps=2", "stages.1.learning_rate.warmup=1",
             "train.precision=fp32", f"init_from={run}", f"output.dir={out}", device=device)
        host("embed", run, "synthetic:8", os.path.join(tmp, f"{device}.h5"), "--window", "1", device=device)
    a, b = (losses(at[d]) for d in ("cpu", "cuda"))
    expect(close(a, b, 1e-4), f"fine-tuning has the CPU's losses: {a} {b}")
    import h5py
    import numpy

    def embedding(path):
        with h5py.File(path) as f:
            return f["embedding"][:]
    x, y = (embedding(os.path.join(tmp, f"{d}.h5")) for d in ("cpu", "cuda"))
    expect(x.shape == y.shape and numpy.abs(x - y).max() < 1e-5 * numpy.abs(x).max(), "embeddings agree")


with scratch() as folder:
    without_gpu(folder)
    if HOST:
        first = pretraining(folder)
        resumed(folder, first)
        downstream(folder, first)
sys.exit(1 if failures else 0)
