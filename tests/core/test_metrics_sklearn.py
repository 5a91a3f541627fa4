"""purkinje eval scores against sklearn, numpy, the published PTB-XL predictions, and itself."""
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

# Debian's numpy, scipy and sklearn are built for one another; a newer numpy that pip put into
# /usr/local would shadow the first alone and break the others.
if os.path.isdir("/usr/lib/python3/dist-packages/sklearn"):
    sys.path.insert(0, "/usr/lib/python3/dist-packages")
import numpy as np

try:
    from sklearn.metrics import average_precision_score, roc_auc_score
except ImportError:
    print("skipped: sklearn is not installed")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests"))
import shared_data  # noqa: E402

PURKINJE = os.environ["PURKINJE"]
failures = 0


def check(ok, what):
    global failures
    if not ok:
        failures += 1
        print("failed:", what)


def near(a, b, what, tolerance=1e-12):
    check(a is not None and abs(a - b) <= tolerance, f"{what}: {a!r}, expected {b!r}")


def run(*args):
    return subprocess.run([PURKINJE, "eval", "scores", *args], capture_output=True, text=True)


def run_json(labels, scores, *args):
    np.save("l.npy", labels)
    np.save("s.npy", scores)
    p = run("l.npy", "s.npy", "--json", *args)
    check(p.returncode == 0, f"eval scores failed: {p.stderr}")
    return json.loads(p.stdout)


def fmax(y, s):
    best = 0.0
    with_label = y.sum(1) > 0
    for k in range(101):
        predicted = s >= k / 100
        right, n = (predicted & (y == 1)).sum(1), predicted.sum(1)
        p = (right[n > 0] / n[n > 0]).mean() if (n > 0).any() else 0
        r = (right[with_label] / y.sum(1)[with_label]).mean()
        best = max(best, 2 * p * r / (p + r) if p + r else 0)
    return best


def against_sklearn():
    rng = np.random.default_rng(5)
    for rows, classes, levels in [(7, 3, 2), (50, 5, 4), (400, 9, 10), (1000, 4, 1000000), (300, 6, 1)]:
        y = (rng.random((rows, classes)) < rng.random(classes) * 0.6 + 0.05).astype(np.uint8)
        y[0], y[1] = 1, 0  # every class has both
        s = np.floor(rng.random((rows, classes)) * levels + 0.3 * y) / (levels + 1)
        j = run_json(y, s, "--bootstrap", "0", "--min-positives", str(int(np.median(y.sum(0)))))
        what = f"{rows} x {classes}, {levels} levels"
        for c, k in enumerate(j["per_class"]):
            near(k["auc"], roc_auc_score(y[:, c], s[:, c]), f"AUC of class {c}, {what}")
            near(k["average_precision"], average_precision_score(y[:, c], s[:, c]), f"AP, {what}")
            check(k["positives"] == int(y[:, c].sum()), "positives")
        near(j["macro_auc"]["value"], roc_auc_score(y, s, average="macro"), "macro AUC " + what)
        near(j["macro_average_precision"]["value"], average_precision_score(y, s), "AUPRC " + what)
        near(j["fmax"]["value"], fmax(y, s), "Fmax " + what)
        frequent = y.sum(0) >= np.median(y.sum(0))
        near(j["macro_auc_frequent"]["value"], roc_auc_score(y[:, frequent], s[:, frequent]), what)
        check(j["macro_auc_frequent"]["classes"] == frequent.sum(), "classes that are frequent")


def types():
    rng = np.random.default_rng(6)
    y = (rng.random((60, 4)) < 0.4).astype(np.uint8)
    s = np.round(rng.normal(size=(60, 4)) * 3).astype(np.float64)
    want = roc_auc_score(y, s)
    for lt in "bool uint8 int8 int16 int32 int64 float16 float32 float64".split():
        j = run_json(y.astype(lt), s, "--bootstrap", "0")
        near(j["macro_auc"]["value"], want, "labels of type " + lt)
    for st in "int8 int16 int32 int64 float16 float32 float64".split():
        j = run_json(y, s.astype(st), "--bootstrap", "0")
        near(j["macro_auc"]["value"], want, "scores of type " + st)
        check(j["fmax"]["scores_taken_as"] == "logits", "logits are recognised")
        near(j["fmax"]["value"], fmax(y, 1 / (1 + np.exp(-s))), "Fmax of logits")
    one = np.arange(60) % 4
    j = run_json(np.eye(4, dtype=np.uint8)[one], s, "--bootstrap", "0")
    near(j["accuracy"]["value"], (s.argmax(1) == one).mean(), "accuracy")
    near(run_json(y[:, 0], s[:, 0])["macro_auc"]["value"], roc_auc_score(y[:, 0], s[:, 0]), "1-D")


def bootstrap():
    rng = np.random.default_rng(7)
    y = (rng.random((200, 5)) < 0.03).astype(np.uint8)  # rare: draws are rejected
    y[:2] = 1
    y[:, 4] = 0  # no positive: no AUC, and it must not block the others
    s = rng.random((200, 5)) + 0.3 * y
    a = run_json(y, s, "--bootstrap", "300", "--seed", "3", "--threads", "1")
    for threads in "2", "5":
        b = run_json(y, s, "--bootstrap", "300", "--seed", "3", "--threads", threads)
        check(a == b, f"the bootstrap depends on the threads ({threads})")
    b = run_json(y, s, "--bootstrap", "300", "--seed", "4")
    check(a["macro_auc"]["interval"] != b["macro_auc"]["interval"], "the seed has no effect")
    check(a["bootstrap"]["rejected_draws"] > 0, "no draw was rejected")
    check(a["per_class"][4]["auc"] is None and a["macro_auc"]["over_all_classes"] is False, "flags")
    check(a["macro_auc"]["classes"] == 4, "classes with an AUC")

    # The distribution: an independent bootstrap in numpy, many more resamples; tolerances are about
    # five standard errors of a 2.5 % percentile of n resamples (sqrt(.025 * .975 / n) / density).
    y = (rng.random((300, 3)) < 0.3).astype(np.uint8)
    s = rng.normal(size=(300, 3)) + y
    j = run_json(y, s, "--bootstrap", "4000")
    values = []
    for _ in range(1500):
        i = rng.integers(0, 300, 300)
        values.append(roc_auc_score(y[i], s[i]))
    spread = np.std(values)
    for name, want, tolerance in [("low", np.percentile(values, 2.5), 0.4 * spread),
                                  ("high", np.percentile(values, 97.5), 0.4 * spread),
                                  ("mean", np.mean(values), 0.15 * spread)]:
        near(j["macro_auc"]["interval"][name], want, "interval " + name, tolerance)
    check((j["bootstrap"]["low_percentile"], j["bootstrap"]["high_percentile"]) == (2.5, 97.5), "95 %")


def golden():
    folder = shared_data.folder("golden")
    if not folder:
        return
    p = run(f"{folder}/ptbxl_val_labels.npy", f"{folder}/ptbxl_val_scores.npy", "--json")
    check(p.returncode == 0, p.stderr)
    j = json.loads(p.stdout)
    want = np.loadtxt(f"{folder}/ptbxl_val_class_auc.csv")
    got = np.array([k["auc"] for k in j["per_class"]])
    check(len(want) == 71 and np.abs(got - want).max() <= 1e-12, "the 71 published class AUCs")
    near(j["macro_auc"]["value"], want.mean(), "golden macro AUC")
    # Published by helme/ecg_ptbxl_benchmarking for these predictions (val_results.csv).
    near(j["macro_auc"]["value"], 0.9280807631416982, "published macro AUC")
    near(j["fmax"]["value"], 0.7644493782264965, "published Fmax")
    print(f"golden: macro AUC {j['macro_auc']['value']:.16f}, largest class difference "
          f"{np.abs(got - want).max():.1e}, Fmax {j['fmax']['value']:.16f}")


def refusals():
    y, s = np.array([[0, 1], [1, 0]], np.uint8), np.array([[0.1, 0.9], [0.3, np.nan]])
    np.save("l.npy", y)
    np.save("s.npy", s)
    np.save("t.npy", s[:, :1])
    np.save("two.npy", y * 2)
    np.save("fortran.npy", np.asfortranarray(np.ones((3, 2))))
    np.save("big.npy", np.ones((2, 2), ">f4"))
    open("names.txt", "w").write("one\n")
    for args, code, says in [(("l.npy", "s.npy"), 65, "row 1, class 1 is nan"),
                             (("l.npy", "t.npy"), 65, "2 x 2.*2 x 1"),
                             (("two.npy", "t.npy"), 65, "must both be"),
                             (("two.npy", "s.npy"), 65, "row 0, class 1 is 2"),
                             (("l.npy", "fortran.npy"), 65, "Fortran"),
                             (("l.npy", "big.npy"), 65, "big-endian"),
                             (("l.npy", "missing.npy"), 74, "missing.npy"),
                             (("l.npy",), 2, "1 words given"),
                             (("l.npy", "l.npy", "--classes", "names.txt"), 65, "names 1 classes"),
                             (("l.npy", "l.npy", "--bootstrap", "-1"), 2, "--bootstrap -1")]:
        p = run(*args)
        check(p.returncode == code and re.search(says, p.stderr) and not p.stdout,
              f"{args}: exit {p.returncode}, {p.stderr!r}")


def documented_examples():
    rng = np.random.default_rng(8)
    y = (rng.random((80, 3)) < 0.4).astype(np.uint8)
    np.save("labels.npy", y)
    np.save("scores.npy", (0.7 * rng.random((80, 3)) + 0.3 * y).astype(np.float32))
    open("classes.txt", "w").write("NORM\nAFIB\nSTEMI, anterior\n")
    examples = re.findall(r"^  purkinje (eval scores .*)$", run("--help").stdout, re.M)
    check(len(examples) >= 2, "fewer than two examples")
    for e in examples:
        p = subprocess.run([PURKINJE, *shlex.split(e)], capture_output=True, text=True)
        check(p.returncode == 0 and p.stdout and not p.stderr, f"example '{e}': {p.stderr}")
        check("--per-class" not in e or "STEMI, anterior" in p.stdout, "class names are shown")


with tempfile.TemporaryDirectory() as scratch:
    os.chdir(scratch)
    against_sklearn()
    types()
    bootstrap()
    golden()
    refusals()
    documented_examples()
    os.chdir("/")
print(f"{failures} checks failed" if failures else "all checks passed")
sys.exit(1 if failures else 0)
