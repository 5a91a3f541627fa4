"""purkinje plan --ranks: bytes by the formula, no more than linear scaling, a faster link is never slower, one rank
takes what 'bench step --profile' measured, and what cannot be modelled is refused."""
import json
import os
import subprocess
import tempfile

PROGRAM = os.environ["PURKINJE"]
TINY = ["jepa_demo", "model.encoder.width=32", "model.encoder.depth=1", "model.encoder.heads=2",
        "objective.predictor.width=16", "objective.predictor.depth=1", "objective.predictor.heads=2",
        "data.synthetic.records=64", "train.batch_size=16", "train.threads=2"]
RATES = ["--tflops", "790", "--tbps", "4.3"]


def call(*args, code=0):
    r = subprocess.run([PROGRAM, *args], capture_output=True, text=True)
    assert r.returncode == code, (args, r.returncode, r.stdout[-500:], r.stderr[-2000:])
    return r


def scaling(*args):
    got = json.loads(call("plan", *args, "--json").stdout)
    assert got["kind"] == "model"
    return got


def rows(got):
    return {(r["ranks"], r["batch_is"], r["reduce"]): r for r in got["rows"]}


def a_published_size():
    recipe = "jepa_vit_xs_500hz"
    params = json.loads(call("plan", recipe, "--json", "--no-probe").stdout)["parameters"]["total"]
    got = scaling(recipe, "--ranks", "512", *RATES)
    table = rows(got)
    assert len(table) == 1 + 2 * 3 * 4, sorted(table)
    alone = table[1, "each", "none"]
    assert alone["efficiency"] == 1 and alone["exposed_s"] < 1e-12 and alone["comm_s"] == 0, alone
    for (n, batch, way), r in table.items():
        assert r["records_per_rank"] == got["batch"] // (n if batch == "shared" else 1)
        assert abs(r["records_per_s"] * r["step_s"] / (n * r["records_per_rank"]) - 1) < 1e-9
        if not way.startswith("zero1"):  # which also shares the optimizer's work
            assert r["efficiency"] <= 1 + 1e-9, r
        if n == 1:
            continue
        assert r["exposed_s"] > 0 and r["comm_s"] >= 30e-6
        size = {"fp32": 8, "bf16": 4, "zero1 fp32": 4 + 4, "zero1 bf16": 2 + 4}[way] * params  # fp32 weights
        slack = 8 if way.startswith("zero1") else 0  # the norm
        assert abs(r["bytes_inside_node"] - 7 / 8 * (size + slack)) < 1, (r, size)
        m = n // 8
        assert abs(r["bytes_between_nodes"] - (m - 1) / m * (size + slack) / 8) < 1, r
    slow = rows(scaling(recipe, "--ranks", "512", *RATES, "--link", "30,50", "--net", "10,5"))
    for key, r in table.items():
        assert slow[key]["step_s"] >= r["step_s"] - 1e-12, key
    # performance.md's link: one bucket that is ready last costs 30 us + bytes / 205 GB/s, without slow-down
    one = rows(scaling(recipe, "--ranks", "8", *RATES, "--buckets", "1", "--slowdown", "1"))
    want = 30e-6 + 4 * params / 205e9
    assert abs(one[8, "each", "fp32"]["exposed_s"] - want) < 1e-4 * want, (one[8, "each", "fp32"], want)


def measured_times():
    with tempfile.TemporaryDirectory() as d:
        path = f"{d}/step.json"
        text = call("bench", "step", *TINY, "--steps", "3", "--profile", "--json").stdout
        with open(path, "w") as f:
            f.write(text)
        ms = json.loads(text)["ms"]
        got = scaling(*TINY, "--ranks", "8", *RATES, "--times", path)
        alone = rows(got)[1, "each", "none"]
        assert abs(1e3 * alone["step_s"] / ms - 1) < 1e-6, (alone, ms)
        assert got["times"] == path
        r = call("plan", *TINY[:-2], "train.batch_size=32", "train.threads=2", "--ranks", "8", *RATES, "--times",
                 path, code=2)
        assert "measured with a batch of 16" in r.stderr, r.stderr
        # the form of 'bench ops' on a device: seconds of one node and how many there are; it brings the rates
        step = json.loads(text)
        runs = step["batch"] // step["micro_batch"]
        ops = {"batch": 16, "micro_batch": step["micro_batch"], "gemm_flops_per_s": 5e14, "copy_bytes_per_s": 4e12,
               "rows": [{"op": r["op"], "count": 2, "seconds_median": 1e-3 * r["ms_per_step"]}
                        for r in step["profile"]]}
        with open(path, "w") as f:
            json.dump(ops, f)
        got = scaling(*TINY, "--ranks", "8", "--times", path)
        params = json.loads(call("plan", *TINY, "--json", "--no-probe").stdout)["parameters"]["total"]
        want = runs * 2e-3 * sum(r["ms_per_step"] for r in step["profile"]) + 44 * params / 4e12
        assert abs(rows(got)[1, "each", "none"]["step_s"] / want - 1) < 1e-9, (got, want)
        broken = step
        broken["profile"] = broken["profile"][1:]
        with open(path, "w") as f:
            json.dump(broken, f)
        r = call("plan", *TINY, "--ranks", "8", *RATES, "--times", path, code=2)
        assert "has no times of" in r.stderr, r.stderr


def refused():
    for args, text in ((["--ranks", "8"], "rates of one GPU"), (["--ranks", "12", *RATES], "does not fill nodes"),
                       (["--ranks", "8", *RATES, "--link", "fast"], "--link fast"),
                       (["--ranks", "8", *RATES, "--link", "30,0"], "--link 30,0")):
        r = call("plan", *TINY, *args, code=2)
        assert text in r.stderr, (args, r.stderr)
    r = call("plan", "simclr_demo", "--ranks", "8", *RATES, "--times", __file__, code=2)
    assert "couples the batch has three" in r.stderr, r.stderr


def coupled():
    """A contrastive step: rows of all ranks are gathered, and the loss over all of them is shared out."""
    recipe = ["moco_v3_vit_tiny_ptbxl_100hz", "objective.projection.width=256"]
    got = scaling(*recipe, "--ranks", "64", *RATES)
    table = rows(got)
    params = json.loads(call("plan", *recipe, "--json", "--no-probe").stdout)["parameters"]["total"]
    for batch, times in ("shared", 1), ("each", 64):
        gathered = times * 2 * 4 * 256 * got["batch"]  # queries and keys of 256 numbers
        gathered += times * 16 * got["batch"]  # and what is told of the queries of both views
        assert abs(table[64, batch, "fp32"]["bytes_inside_node"] - 7 / 8 * (8 * params + gathered)) < 1, table
    # with the batch of every rank the logits grow by the square, of which each rank has an n-th: n times its own
    assert .5 < table[64, "each", "fp32"]["efficiency"] < table[8, "each", "fp32"]["efficiency"] < 1, table
    assert table[64, "shared", "fp32"]["exposed_s"] > 30e-6, table
    # fine-tuning has no train.zero1, so it is not offered
    ways = {way for _, _, way in rows(scaling("supervised_xresnet1d101_ptbxl_100hz", "--ranks", "8", *RATES))}
    assert ways == {"none", "fp32", "bf16"}, ways


a_published_size()
measured_times()
coupled()
refused()
text = call("plan", *TINY, "--ranks", "16", *RATES).stdout
assert "a model and no measurement" in text and "zero1 bf16" in text, text
print("plan --ranks: bytes, links, measured times and refusals as expected")
