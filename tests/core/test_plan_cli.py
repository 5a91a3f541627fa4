"""purkinje plan and purkinje bench step: published parameter counts, FLOPs by the peers' formula, predicted memory and
checkpoints against what training allocates and writes; all examples of --help run; the A/B script on a stand-in peer."""
import glob
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

PROGRAM = os.environ["PURKINJE"]
SOURCE = os.environ["PK_SOURCE_DIR"]
TINY = ["jepa_demo", "model.encoder.width=32", "model.encoder.depth=1", "model.encoder.heads=2",
        "objective.predictor.width=16", "objective.predictor.depth=1", "objective.predictor.heads=2",
        "data.synthetic.records=64", "train.batch_size=16", "train.threads=2"]


def call(*args, code=0, program=None):
    r = subprocess.run([*(program or [PROGRAM]), *args], capture_output=True, text=True)
    assert r.returncode == code, (args, r.returncode, r.stdout[-500:], r.stderr[-2000:])
    return r


def plan(*args):
    return json.loads(call("plan", *args, "--json", "--no-probe").stdout)


def published_sizes():
    want = {"xs": (3600000, 923328), "s": (14277888, 3689856), "b": (85185024, 21833472)}
    for size, (encoder, predictor) in want.items():
        got = plan(f"jepa_vit_{size}_500hz")["parameters"]
        assert (got["encoder"], got["predictor"], got["total"]) == (encoder, predictor, encoder + predictor), got
    text = call("plan", "jepa_vit_xs_500hz", "--no-probe").stdout
    assert re.search(r"encoder +3600000 ", text) and re.search(r"predictor +923328 ", text), text


def tower(tokens, d, layers):
    """As in the PyTorch baseline: 24 d^2 + 4 T d per token and layer."""
    return layers * tokens * (24 * d * d + 4 * tokens * d)


def work():
    for size, (w, d, pw, pd) in {"xs": (192, 8, 96, 8), "s": (384, 8, 192, 8), "b": (768, 12, 384, 12)}.items():
        got = plan(f"jepa_vit_{size}_500hz")
        keep, tokens, values = got["keep_mean"], 200, 300
        assert (got["keep_min"], keep, got["keep_max"], got["tokens"]) == (30, 40, 50, tokens), got
        target = tower(tokens + 1, w, d) + 2 * tokens * values * w
        context = 3 * (tower(keep + 1, w, d) + 2 * keep * values * w)
        predictor = 3 * (tower(tokens, pw, pd) + 2 * tokens * w * pw)
        assert got["target_flops"] == target and got["context_flops"] == context, (size, got)
        assert got["predictor_flops"] == predictor, (size, got)
        part = got["parts"][0]
        assert part["flops_per_record"] == target + context + predictor
        assert part["flops_per_step"] == part["flops_per_record"] * got["batch"]
        # The program computes attention's scores again in backward, and no gradient of the input.
        assert 0.97 < part["program_flops_per_record"] / part["flops_per_record"] < 1.05, part


def every_recipe():
    names = [os.path.basename(p)[:-5] for p in glob.glob(SOURCE + "/recipes/*.yaml")]
    jepa = [n for n in names if n.startswith("jepa_")]
    assert len(jepa) >= 7, names
    for name in jepa:
        got = plan(name)
        memory = got["memory"]
        assert memory["act_bound"] <= memory["act_per_thread"] <= 1.25 * memory["act_bound"], (name, memory)
        parts = ["in", "param", "grad", "state", "const", "moments", "ema", "best"]
        total = sum(memory[k] for k in parts) + memory["act_per_thread"] * memory["threads"]
        assert memory["total"] == total and memory["grad"] == 8 * memory["param"], (name, memory)
    for name in ("finetune_scratch", "probe_random"):
        got = plan(name)
        assert got["classes"] == 71 and got["train_records"] is None and "CORPUS" in got["data_note"], got
        assert plan(name, "--classes", "5")["classes"] == 5
    frozen, trained = plan("probe_random")["parts"][0], plan("finetune_scratch")["parts"][0]
    assert 2 < trained["flops_per_record"] / frozen["flops_per_record"] < 3.1, (frozen, trained)


def micro_batches():
    """Chosen by constants, never by the machine: the numbers that were measured best, and the ends of the rule."""
    def micro(*args):
        return plan(*args)["micro_batch"]

    assert micro("jepa_vit_tiny_ptbxl_100hz") == 2 and micro("jepa_vit_xs_500hz") == 4 == micro("jepa_vit_b_500hz")
    assert micro("jepa_vit_xs_500hz", "train.batch_size=16") == 2  # 8 shards, so that 8 threads have work
    assert micro("jepa_vit_xs_500hz", "train.batch_size=4") == 1 and micro("finetune_scratch") == 16
    assert micro("jepa_vit_tiny_ptbxl_100hz", "train.micro_batch=32") == 32
    assert "train.micro_batch" in call("plan", "jepa_demo", "train.micro_batch=5", code=2).stderr


def memory_is_what_training_takes():
    for extra in ([], ["train.micro_batch=1"], ["train.threads=3", "train.accumulate=2"]):
        want = plan(*TINY, *extra)
        got = json.loads(call("bench", "step", *TINY, *extra, "--steps", "1", "--json").stdout)
        for key, value in got["memory"].items():
            assert want["memory"][key] == value, (extra, key, want["memory"], got["memory"])
        assert got["micro_batch"] == want["micro_batch"] and got["loss"] > 0


def checkpoint_and_protocol():
    want = plan(*TINY)
    log = call("pretrain", *TINY, "train.steps=2", "train.learning_rate.warmup=1", "output.dir=tiny").stderr
    rows = int(re.search(r"; train (\d+), ", log)[1])
    assert want["train_records"] == rows and want["steps_per_epoch"] == rows / want["batch"], (want, log)
    batch = re.search(r"batch: (\d+) records, micro-batches of (\d+) ", log)
    assert (int(batch[1]), int(batch[2])) == (want["batch"], want["micro_batch"]), log
    files = glob.glob("tiny/checkpoints/step-000000002/*.safetensors")
    size = sum(os.path.getsize(f) for f in files)
    assert want["checkpoint"] <= size <= want["checkpoint"] + 8192 * len(files), (want["checkpoint"], size)
    protocol = ["probe_attentive", "init_from=tiny", "data.task=superdiagnostic"]
    got = plan(*protocol)  # rate, leads and encoder are the file's
    assert got["leads"] == 12 and got["tokens"] == 50 and got["classes"] == 5, got
    assert got["parameters"]["encoder"] == want["parameters"]["encoder"], got
    r = call("plan", "probe_attentive", "init_from=nowhere", code=69)
    assert "the encoder comes from init_from" in r.stderr and "nowhere" in r.stderr, r.stderr
    assert "PRETRAINED" in call("plan", "probe_attentive", code=2).stderr
    r = call("plan", "probe_attentive", "init_from=tiny", "data.task=mine", code=65)
    assert "--classes N" in r.stderr, r.stderr


def listing():
    got = plan(*TINY)
    lines = call("plan", *TINY, "--listing", "--no-probe").stdout.split("  node\n")[1].splitlines()
    part, arena = got["parts"][0], got["memory"]["act_per_thread"]
    assert len(lines) == part["nodes"], (len(lines), part)
    rows = [re.match(r" *(\d+) +([\d.]+) +(?:-|(\d+)-(\d+)) +(-|\d+) +(\d+)  (.*)$", line) for line in lines]
    assert all(rows), [line for line, row in zip(lines, rows) if not row]
    assert [int(r[6]) for r in rows] == list(range(len(rows)))
    mflop = sum(float(r[2]) for r in rows)
    assert abs(mflop * 1e6 / (part["program_flops_per_record"] * got["micro_batch"]) - 1) < 1e-2, mflop
    placed = [r for r in rows if r[5] != "-"]
    assert len(placed) > len(rows) / 2 and all(int(r[3]) <= int(r[4]) and int(r[5]) < arena for r in placed)
    probed = call("plan", *TINY, "--listing").stdout
    assert "time: a model" in probed and re.search(r"; [\d.]+ ms in all at ", probed), probed[:2000]


def bench_step():
    got = json.loads(call("bench", "step", *TINY, "--steps", "2", "--keep", "20", "--profile", "--json").stdout)
    assert got["keep"] == 20 and got["flops_per_record"] == plan(*TINY)["parts"][0]["flops_per_record"], got
    assert 0 < got["ms_min"] <= got["ms"] <= got["ms_max"] and got["gemm_flops_per_s"] > 0, got
    assert abs(got["records_per_s"] * got["ms"] / 1e3 - got["batch"]) < 1e-6 * got["batch"], got
    ops = {p["op"]: p for p in got["profile"]}
    assert {"linear", "linear_dw", "attention", "attention_grad", "l1_loss"} <= set(ops), ops
    assert all(p["calls_per_step"] > 0 and p["ms_per_step"] > 0 for p in ops.values()), ops
    assert sum(p["ms_per_step"] for p in ops.values()) < 1.01 * got["ms_max"], got
    assert "keeps 15 to 25 of 100" in call("bench", "step", *TINY, "--keep", "40", code=2).stderr
    assert "needs a GPU" in call("bench", "step", "jepa_vit_xs_500hz", "train.batch_size=2", code=2).stderr
    assert "pretrain" in call("bench", "step", "finetune_scratch", code=2).stderr
    assert call("bench", "step", code=2) and call("plan", code=2) and call("plan", "no_such_recipe", code=2)


def examples():
    for command in ("plan", "bench step"):
        text = call(*command.split(), "--help").stdout
        found = re.findall(rf"^  purkinje ({command} .*)$", text.split("examples:")[1], re.M)
        assert len(found) >= 2, (command, found)
        for e in found:
            assert call(*shlex.split(e)).stdout, e


PEER = """import json, sys
batch = int(sys.argv[1])
print("warming up {")
print(json.dumps(dict(peer="stand-in", batch=batch, keep=20, ms=50.0, ms_min=45.0, ms_max=60.0,
                      records_per_s=batch / 0.05, tflops=float(sys.argv[2]) * batch / 50e9)))
"""


def against_a_peer():
    with open("peer.py", "w") as f:
        f.write(PEER)
    work = plan(*TINY)["parts"][0]["flops_per_record"]
    ours = shlex.join([PROGRAM, "bench", "step", *TINY, "--keep", "20", "--steps", "1", "--json"])
    script = [sys.executable, SOURCE + "/tools/bench_vs_torch.py"]
    peer = f"{sys.executable} peer.py 16 {work}"
    args = ["--ours", ours, "--rounds", "2", "--peer"]
    got = json.loads(call(*args, peer, "--json", program=script).stdout)
    assert got["ratio_min"] <= got["ratio"] <= got["ratio_max"] and got["peer"]["ms"] == 50, got
    slow, fast = 50 / got["ours"]["ms_max"], 50 / got["ours"]["ms_min"]  # one step a round: its own pair each
    assert abs(got["ratio_min"] / slow - 1) < 1e-9 and abs(got["ratio_max"] / fast - 1) < 1e-9, got
    assert abs(got["ratio"] / ((slow + fast) / 2) - 1) < 1e-9 and got["peer_name"] == "stand-in", got
    assert "OPENBLAS_CORETYPE=COOPERLAKE" in got["peer_command"]
    text = call(*args, peer, program=script).stdout
    assert "| stand-in | 50.00 | 45.00 - 60.00 |" in text and re.search(r"^ratio [\d.]+x", text, re.M), text
    assert "no comparison" in call(*args, f"{sys.executable} peer.py 8 {work}", program=script, code=1).stderr
    # two decimals of the stand-in's rate of 0.003 TFLOP/s tell a factor of 4, and not one of 2
    assert "no comparison" in call(*args, f"{sys.executable} peer.py 16 {4 * work}", program=script, code=1).stderr
    assert "exit code" in call(*args, f"{sys.executable} nothing.py", program=script, code=1).stderr


os.environ.pop("CORPUS", None)  # plans are made without data
os.environ.pop("PRETRAINED", None)
os.environ.setdefault("RUNS", "runs")
with tempfile.TemporaryDirectory() as scratch:
    os.chdir(scratch)
    for test in (published_sizes, work, every_recipe, micro_batches, memory_is_what_training_takes, checkpoint_and_protocol, listing,
                 bench_step, examples, against_a_peer):
        test()
    os.chdir("/")
print("plan and bench step: sizes, work, memory, checkpoints, listing, examples and the A/B script as expected")
