"""purkinje eval linear against scikit-learn and numpy: the same rows, the same folds, the same answer.

Labels, folds and subjects are a synthetic corpus's (edited where a corner needs it); embeddings are
made here, so that their number, their rank and their signal are known."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings

for name in "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS":  # small matrices: threads cost more than they give
    os.environ[name] = "1"
if os.path.isdir("/usr/lib/python3/dist-packages/sklearn"):
    sys.path.insert(0, "/usr/lib/python3/dist-packages")
import numpy as np

try:
    import h5py
    import sklearn.linear_model._logistic as sklearn_logistic
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, roc_auc_score
    from sklearn.model_selection import GridSearchCV, GroupKFold, PredefinedSplit
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError as e:
    print("skipped:", e)
    sys.exit(77)
warnings.filterwarnings("ignore")

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402

PURKINJE = os.environ["PURKINJE"]
RECORDS = 320
GRID = [100.0, 10.0, 1.0, 0.1]
failures = checks = 0
worst = {}


def check(ok, what):
    global failures, checks
    checks += 1
    if not ok:
        failures += 1
        print("failed:", what)


def near(a, b, what, tolerance=1e-6, kind="score"):
    """Largest difference, of coefficients relative to the largest of them; NaN fails."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        check(False, f"{what}: shapes {a.shape} and {b.shape}")
        return
    error = np.abs(a - b).max() / (np.abs(b).max() if "coefficient" in kind else 1)
    worst[kind] = max(worst.get(kind, 0), error)
    check(error <= tolerance, f"{what}: differs by {error:.3g}")


def tight(minimize):
    """sklearn 1.2 leaves scipy's L-BFGS its tolerance of the loss, 2e-9, which ends it long before
    `tol` does, at coefficients good to four digits; this lets `tol` decide."""
    def wrapped(*args, options=None, **rest):
        return minimize(*args, options={**(options or {}), "ftol": 1e-16, "maxls": 100}, **rest)
    return wrapped


class Optimize:  # scipy.optimize as sklearn's logistic regression sees it
    def __getattr__(self, name):
        import scipy.optimize
        found = getattr(scipy.optimize, name)
        return tight(found) if name == "minimize" else found


sklearn_logistic.optimize = Optimize()


class Corpus:
    """Columns of a synthetic corpus, which can be edited."""

    def __init__(self, path, **edits):
        self.path = path
        shutil.rmtree(path, ignore_errors=True)
        made = subprocess.run([PURKINJE, "data", "synth", path, "--records", str(RECORDS), "--rate",
                               "50", "--seconds", "2"], capture_output=True, text=True)
        check(made.returncode == 0, made.stderr)
        shard = [f for f in os.listdir(path) if f.endswith(".h5")]
        check(len(shard) == 1, "one shard")
        with h5py.File(os.path.join(path, shard[0]), "r+") as f:
            for name, value in edits.items():
                f[name.replace("__", "/")][...] = value
        if edits:
            runs.sign(self.path)
        with h5py.File(os.path.join(path, shard[0])) as f:
            self.id = f["record_id"][...]
            self.patient, self.fold = f["patient_id"][...], f["fold"][...]
            self.label = {k: f["labels/" + k][...] for k in f["labels"]}
            self.target = {k: f["targets/" + k][...].astype(float) for k in f["targets"]}

    def write(self, x, path="e.h5", **columns):
        with h5py.File(path, "w") as f:
            f["embedding"] = x.astype(np.float32)
            f["record_id"] = columns.get("id", self.id)
            f["patient_id"] = columns.get("patient", self.patient)
        return path

    def rows(self, folds, keep):
        return np.flatnonzero(np.isin(self.fold, folds) & keep)


def run(*args):
    return subprocess.run([PURKINJE, "eval", "linear", *args], capture_output=True, text=True)


def evaluate(corpus, x, *args, out="out"):
    """Result, and a function that gives the arrays written beside it."""
    shutil.rmtree(out, ignore_errors=True)
    p = run(corpus.write(x), corpus.path, "--json", "--out", out, "--train", "1-7", "--test", "8-10",
            "--bootstrap", "0", "--shuffles", "0", *args)
    check(p.returncode == 0, f"{args}: {p.stderr}")
    check(p.stdout == open(f"{out}/result.json").read(), "result.json is what was printed")
    return json.loads(p.stdout), lambda name: np.load(f"{out}/{name}.npy")


def embeddings(corpus, features, seed=1, signal=1.0):
    """Correlated features of very different scales, some of them about the labels and targets."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(RECORDS, 12)) @ rng.normal(size=(12, features))
    x += rng.normal(size=(RECORDS, features))
    known = np.c_[corpus.label["rhythm"], corpus.label["morphology"],
                  (corpus.target["heart_rate"][:, None] - 75) / 20]
    x += signal * known @ rng.normal(size=(known.shape[1], features))
    return x * np.exp(rng.normal(size=features) * 2) + rng.normal(size=features) * 10


def rows_of(corpus, keep):
    train, test = corpus.rows(range(1, 8), keep), corpus.rows(range(8, 11), keep)
    ids = open("out/train-100.txt").read().split(), open("out/test.txt").read().split()
    check(ids[0] == [i.decode() for i in corpus.id[train]], "the training records")
    check(ids[1] == [i.decode() for i in corpus.id[test]], "the test records")
    return train, test


def check_folds(folds, groups):
    check(all(len(set(folds[groups == g])) == 1 for g in set(groups)), "a subject in two folds")
    sizes = np.bincount(folds)
    check(len(sizes) == 5 and sizes.max() - sizes.min() <= 8, f"folds are uneven: {sizes}")
    theirs = sorted(len(t) for _, t in GroupKFold(5).split(folds, groups=groups))
    check(sorted(sizes) == theirs, f"fold sizes {sorted(sizes)}, GroupKFold's {theirs}")


def macro_auc(model, x, y):
    p = model.predict_proba(x)
    if y.ndim == 1:  # multinomial
        y = np.eye(p.shape[1])[np.searchsorted(model.classes_, y)]
    both = (y.min(0) == 0) & (y.max(0) == 1)
    return np.mean([roc_auc_score(y[:, k], p[:, k]) for k in np.flatnonzero(both)])


def logistic(corpus, features, single, solver, x=None, grid=GRID, tolerance=1e-5):
    what = f"logistic, {features} features, {'single' if single else 'multi'}-label, {solver}"
    x = (embeddings(corpus, features) if x is None else x).astype(np.float32)
    y = corpus.label["rhythm"]
    j, array = evaluate(corpus, x, "--task", "rhythm", "--penalty", ",".join(map(str, grid)),
                        *(["--single-label"] if single else []))
    train, test = rows_of(corpus, y.sum(1) == 1 if single else y.sum(1) > 0)
    folds = array("folds-100")
    check_folds(folds, corpus.patient[train])
    wide = x.astype(np.float64)
    one = LogisticRegression(solver=solver, tol=1e-9, max_iter=20000, multi_class="multinomial" if
                             single else "ovr")
    targets = y.argmax(1) if single else y
    model = make_pipeline(StandardScaler(), one if single else OneVsRestClassifier(one))
    name = "logisticregression__C" if single else "onevsrestclassifier__estimator__C"
    search = GridSearchCV(model, {name: [1 / g for g in grid]}, scoring=macro_auc,
                          cv=PredefinedSplit(folds)).fit(wide[train], targets[train])
    r = j["results"][0]
    near(r["cross_validation_score"], search.cv_results_["mean_test_score"], "search, " + what)
    check(r["penalty"] == grid[search.best_index_], f"penalty {r['penalty']}, {what}")
    best = search.best_estimator_
    scaler, fitted = best[0], best[1]
    near(array("mean-100"), scaler.mean_, "means, " + what, 1e-10 * np.abs(scaler.mean_).max())
    near(array("scale-100"), scaler.scale_, "scales, " + what, 1e-12, "coefficient")
    w = array("weight-100")
    if single:
        seen = np.unique(targets[train])
        near(w[seen], fitted.coef_, "weights, " + what, tolerance, "coefficient")
        b = array("intercept-100")[seen]
        near(b - b.mean(), fitted.intercept_ - fitted.intercept_.mean(), "intercepts, " + what, 1e-5)
        p = np.zeros((len(test), y.shape[1]))
        p[:, seen] = best.predict_proba(wide[test])
    else:
        learned = [hasattr(e, "coef_") for e in fitted.estimators_]
        near(w[learned], np.concatenate([e.coef_ for e in fitted.estimators_ if hasattr(e, "coef_")]),
             "weights, " + what, tolerance, "coefficient")
        near(array("intercept-100")[learned], np.concatenate(
            [e.intercept_ for e in fitted.estimators_ if hasattr(e, "coef_")]), "intercepts", 1e-5)
        check(not w[np.logical_not(learned)].any(), "an output without both labels has weights")
        p = best.predict_proba(wide[test])
    s = array("scores-100")
    columns = slice(None) if single else learned
    near(s[:, columns], p[:, columns], "probabilities, " + what, 1e-6)
    truth = y[test]
    check((array("labels") == truth).all(), "labels of the test rows")
    auc = [roc_auc_score(truth[:, k], p[:, k]) for k in range(y.shape[1])
           if 0 < truth[:, k].sum() < len(test)]
    near(r["test"]["macro_auc"], np.mean(auc), "macro AUC, " + what)
    check(r["gradient_left"] <= 1e-8, f"gradient {r['gradient_left']}, {what}")
    return j


def ridge(corpus, features, target, x=None):
    what = f"ridge, {features} features, {target}"
    x = (embeddings(corpus, features) if x is None else x).astype(np.float32)
    y = corpus.target[target]
    grid = [1e4, 1e3, 1e2, 10, 1, 0.1]
    j, array = evaluate(corpus, x, "--target", target, "--penalty", ",".join(map(str, grid)))
    train, test = rows_of(corpus, np.isfinite(y))
    folds = array("folds-100")
    check_folds(folds, corpus.patient[train])
    wide = x.astype(np.float64)
    search = GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": grid},
                          scoring="neg_mean_squared_error", cv=PredefinedSplit(folds))
    search.fit(wide[train], y[train])
    r = j["results"][0]
    near(np.array(r["cross_validation_score"]) / np.var(y[train]),
         search.cv_results_["mean_test_score"] / np.var(y[train]), "search, " + what)
    check(r["penalty"] == search.best_params_["ridge__alpha"], f"penalty {r['penalty']}, {what}")
    best = search.best_estimator_
    near(array("weight-100")[0], best[1].coef_, "weights, " + what, 1e-10, "ridge coefficient")
    p = best.predict(wide[test])
    near(array("scores-100"), p, "predictions, " + what, 1e-5)
    t, truth = r["test"], y[test]
    near(t["mae"], mean_absolute_error(truth, p), "MAE, " + what)
    near(t["rmse"], mean_squared_error(truth, p) ** 0.5, "RMSE, " + what)
    near(t["r2"], r2_score(truth, p), "R2, " + what)
    near(t["pearson_r"], np.corrcoef(truth, p)[0, 1], "r, " + what)
    mean = r["chance"]["training_mean"]
    near(mean["mae"], np.abs(truth - y[train].mean()).mean(), "MAE of the mean")
    near(mean["r2"], r2_score(truth, np.full(len(test), y[train].mean())), "R2 of the mean")
    check(mean["pearson_r"] is None, "a constant has no correlation")
    check(j["protocol"]["records_without_value"] ==
          int(np.isin(corpus.fold, range(1, 11)).sum() - len(train) - len(test)), "missing targets")


def neighbours(corpus):
    x = embeddings(corpus, 16).astype(np.float32)
    x[5] = 0  # no direction: similarity 0 with everything
    y, wide = corpus.label["rhythm"], x.astype(np.float64)
    unit = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
    for k, temperature in [(1, 0.07), (7, 0.07), (20, 0.5), (100000, 0.01)]:
        j, array = evaluate(corpus, x, "--task", "rhythm", "--probe", "knn", "--k", str(k),
                            "--temperature", str(temperature))
        train, test = rows_of(corpus, y.sum(1) > 0)
        k = min(k, len(train))
        similarity = unit[test] @ unit[train].T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        s = np.take_along_axis(similarity, nearest, 1)
        w = np.exp((s - s.max(1, keepdims=True)) / temperature)
        vote = (w[:, :, None] * y[train][nearest]).sum(1) / w.sum(1)[:, None]
        near(array("scores-100"), vote, f"votes of {k} neighbours")
        auc = np.mean([roc_auc_score(y[test][:, c], vote[:, c]) for c in range(y.shape[1])])
        near(j["results"][0]["test"]["macro_auc"], auc, "AUC of neighbours")

    def weights(distance, t=0.2):
        return np.exp((distance.min(1, keepdims=True) - distance) / t)
    args = ["--probe", "knn", "--k", "9", "--temperature", "0.2"]
    _, array = evaluate(corpus, x, "--task", "rhythm", "--single-label", *args)
    train, test = rows_of(corpus, y.sum(1) == 1)
    model = KNeighborsClassifier(9, weights=weights, metric="cosine", algorithm="brute")
    model.fit(wide[train], y[train].argmax(1))
    near(array("scores-100")[:, model.classes_], model.predict_proba(wide[test]), "KNeighborsClassifier")
    _, array = evaluate(corpus, x, "--target", "heart_rate", *args)
    train, test = rows_of(corpus, corpus.fold > 0)
    model = KNeighborsRegressor(9, weights=weights, metric="cosine", algorithm="brute")
    model.fit(wide[train], corpus.target["heart_rate"][train])
    near(array("scores-100"), model.predict(wide[test]), "KNeighborsRegressor")


def corners(corpus):
    x = embeddings(corpus, 10)
    x[:, 0] = 0.1  # constant
    x[:, 1] = x[:, 2]  # the same twice
    x[:, 3] = 1e6 + x[:, 3] * 1e-3  # float32 rounds this to few levels
    logistic(corpus, 10, False, "lbfgs", x=x)
    ridge(corpus, 10, "age", x=x)
    # Perfectly separable: only the penalty keeps weights finite.
    x = np.c_[corpus.label["rhythm"] * 4.0 - 2, embeddings(corpus, 3, signal=0)]
    j = logistic(corpus, 8, False, "lbfgs", x=x, grid=[1.0, 1e-2, 1e-4])
    near(j["results"][0]["test"]["macro_auc"], 1, "separable classes")
    # Embeddings that say nothing at all.
    flat, _ = evaluate(corpus, np.ones((RECORDS, 4)), "--task", "rhythm")
    near(flat["results"][0]["test"]["macro_auc"], 0.5, "constant embeddings")
    flat, _ = evaluate(corpus, np.ones((RECORDS, 4)), "--target", "heart_rate")
    near(flat["results"][0]["test"]["mae"], flat["results"][0]["chance"]["training_mean"]["mae"],
         "constant embeddings predict the mean")
    check(flat["results"][0]["test"]["pearson_r"] is None, "and correlate with nothing")
    # A class that no training record has; one that all have; one of a single subject, so that some
    # folds of the cross-validation neither see nor test it.
    y = corpus.label["rhythm"].copy()
    y[:, 0] = (corpus.fold > 7) & (np.arange(RECORDS) % 3 == 0)
    y[:, 1] = (corpus.fold < 8) | (np.arange(RECORDS) % 2 == 0)
    y[:, 2] = corpus.patient == corpus.patient[corpus.fold == 1][0]
    y[np.flatnonzero(corpus.fold == 9)[0], 2] = 1
    odd = Corpus("odd", labels__rhythm=y)
    j = logistic(odd, 12, False, "lbfgs")
    per_class = j["results"][0]["test"]["per_class"]
    near([per_class[0]["auc"], per_class[1]["auc"]], [0.5, 0.5], "classes that could not be learned")
    y = np.eye(5, dtype=np.uint8)[np.arange(RECORDS) % 4 + (np.arange(RECORDS) % 4 == 2)]
    y[np.flatnonzero(corpus.fold == 8)[:2]] = np.eye(5)[4]  # tested, and also learned: 0 1 3 are left
    absent = Corpus("absent", labels__rhythm=y)
    logistic(absent, 6, True, "lbfgs")


def subsets(corpus):
    x = embeddings(corpus, 6)
    args = ["--task", "rhythm", "--penalty", "1", "--fractions", "1,10,50,100"]
    j, _ = evaluate(corpus, x, *args)
    ids = {p: open(f"out/train-{p}.txt").read().split() for p in (1, 10, 50, 100)}
    patient = dict(zip([i.decode() for i in corpus.id], corpus.patient))
    label = dict(zip([i.decode() for i in corpus.id], corpus.label["rhythm"]))
    people = {p: {patient[i] for i in ids[p]} for p in ids}
    for small, large in [(1, 10), (10, 50), (50, 100)]:
        check(set(ids[small]) < set(ids[large]), f"{small} % is not within {large} %")
    everything = people[100]
    has = {g: np.max([label[i] for i in ids[100] if patient[i] == g], axis=0) for g in everything}
    count = np.sum(list(has.values()), axis=0)
    stratum = {g: min(np.flatnonzero(h), key=lambda k: (count[k], k)) for g, h in has.items()}
    for r, p in zip(j["results"], ids):
        check(r["percent"] == p and r["train_rows"] == len(ids[p]), "rows of a fraction")
        check(r["train_subjects"] == len(people[p]), "subjects of a fraction")
        check(all(i in ids[p] for i in ids[100] if patient[i] in people[p]), "part of a subject")
        for s in set(stratum.values()):
            members = [g for g in everything if stratum[g] == s]
            want = max(1, int(np.floor(p / 100 * len(members) + 0.5)))
            kept = sum(g in people[p] for g in members)
            check(kept == want, f"{p} %, class {s}: {kept} of {len(members)} subjects, not {want}")
    first = open("out/train-10.txt").read()
    evaluate(corpus, x, *args)
    check(open("out/train-10.txt").read() == first, "the same seed gives another subset")
    evaluate(corpus, x, *args, "--seed", "1")
    check(open("out/train-10.txt").read() != first, "another seed gives the same subset")
    evaluate(corpus, x, "--target", "heart_rate", "--penalty", "1", "--fractions", "10")
    rate = dict(zip([i.decode() for i in corpus.id], corpus.target["heart_rate"]))
    kept = [rate[i] for i in open("out/train-10.txt").read().split()]
    check(min(kept) < np.percentile(list(rate.values()), 25) and
          max(kept) > np.percentile(list(rate.values()), 75), "a tenth of a target is one-sided")


def levels(corpus):
    """Chance levels and intervals."""
    x = embeddings(corpus, 8, signal=0.2)
    args = [corpus.write(x), corpus.path, "--json", "--train", "1-7", "--test", "8-10"]
    p = run(*args, "--task", "rhythm", "--bootstrap", "500", "--shuffles", "20")
    r = json.loads(p.stdout)["results"][0]
    shuffled = r["chance"]["shuffled_labels"]["macro_auc"]
    check(abs(shuffled["mean"] - 0.5) < 0.06 and shuffled["lowest"] < shuffled["highest"],
          f"shuffled labels score {shuffled}")
    near(r["chance"]["training_frequency"]["macro_auc"], 0.5, "frequencies have AUC 1/2", 0)
    low, high = r["test"]["macro_auc_interval_95"]
    check(low < r["test"]["macro_auc"] < high, "the interval holds the macro AUC")
    for threads in "1", "2", "7":
        q = run(*args, "--task", "rhythm", "--bootstrap", "500", "--shuffles", "20", "--threads",
                threads)
        check(q.stdout == p.stdout, f"{threads} threads change the result")
    p = run(*args, "--target", "heart_rate", "--bootstrap", "4000", "--out", "reg")
    j = json.loads(p.stdout)
    y, s = np.load("reg/targets.npy"), np.load("reg/scores-100.npy")
    group = corpus.patient[np.isin([i.decode() for i in corpus.id], open("reg/test.txt").read().split())]
    people, rng = [np.flatnonzero(group == g) for g in np.unique(group)], np.random.default_rng(3)
    check(j["results"][0]["test"]["subjects"] == len(people), "subjects of the test")
    values = {"mae": [], "rmse": [], "r2": [], "pearson_r": []}
    for _ in range(3000):
        i = np.concatenate([people[k] for k in rng.integers(0, len(people), len(people))])
        values["mae"].append(np.abs(y[i] - s[i]).mean())
        values["rmse"].append(np.sqrt(((y[i] - s[i]) ** 2).mean()))
        values["r2"].append(r2_score(y[i], s[i]))
        values["pearson_r"].append(np.corrcoef(y[i], s[i])[0, 1])
    for name, v in values.items():  # about five standard errors of a percentile of 3000 resamples
        got = j["results"][0]["test"]["interval_95"][name]
        near(got, np.percentile(v, [2.5, 97.5]), f"interval of {name}", 0.3 * np.std(v), "interval")
    q = run(*args, "--target", "heart_rate", "--bootstrap", "4000", "--threads", "3")
    check(q.stdout == p.stdout, "threads change a regression")


def refusals(corpus):
    x = embeddings(corpus, 5)
    good = corpus.write(x)
    bad = x.copy()
    bad[17, 3] = np.nan
    corpus.write(bad, "nan.h5")
    corpus.write(x, "others.h5", patient=corpus.patient[::-1])
    with h5py.File("few.h5", "w") as f:
        f["embedding"] = x[:9].astype(np.float32)
        f["record_id"], f["patient_id"] = corpus.id[:9], corpus.patient[:9]
    with h5py.File("ragged.h5", "w") as f:
        f["embedding"] = x.astype(np.float32)
        f["record_id"], f["patient_id"] = corpus.id[:9], corpus.patient
    with h5py.File("none.h5", "w") as f:
        f["embedding"] = np.arange(5)
    corpus.write(x, "twice.h5", id=np.where(np.arange(RECORDS) == 4, corpus.id[3], corpus.id))
    open("text.h5", "w").write("not HDF5 at all")
    fold = corpus.fold.copy()
    fold[0], fold[1:4] = 10, 1  # four records of one patient, on both sides
    leak = Corpus("leak", fold=fold)
    leak.write(x, "leak.h5")
    check(len(set(corpus.patient[:4])) == 1, "the first four records are one patient's")
    nothing = Corpus("nothing", targets__age=np.nan)
    one = "synth-0000017"
    c = corpus.path
    task = ["--task", "rhythm"]
    for args, code, says in [
            ([good], 2, "a model or embeddings, and a corpus"),
            ([good, c], 2, "--task or --target"),
            ([good, c, "--task", "rhythm", "--target", "age"], 2, "--task or --target"),
            ([good, c, "--target", "age", "--single-label"], 2, "for a --task"),
            ([good, c, "--task", "rhythms"], 65, "no task 'rhythms'.*morphology"),
            ([good, c, "--target", "weight"], 65, "no target 'weight'.*heart_rate"),
            ([good, c, *task, "--train", "1-8", "--test", "8-10"], 2, "a fold in common"),
            ([good, c, *task, "--fractions", "0"], 2, "above 0"),
            ([good, c, *task, "--fractions", "1,1"], 2, "twice"),
            ([good, c, *task, "--fractions", "10,101"], 2, "at most 100"),
            ([good, c, *task, "--penalty", "1,-1"], 2, "'-1' is not a number above 0"),
            ([good, c, *task, "--penalty", "1,"], 2, "'' is not a number"),
            ([good, c, *task, "--probe", "svm"], 2, "linear or knn"),
            ([good, c, *task, "--window", "2"], 2, "for a model"),
            ([good, c, *task, "--test", "99"], 65, "test records.*no record is left"),
            (["nan.h5", c, "--target", "heart_rate"], 65, f"record {one} is -?nan in feature 3"),
            (["others.h5", c, *task], 65, "another patient's"),
            (["few.h5", c, *task], 65, "no embedding of record"),
            (["ragged.h5", c, *task], 65, "'record_id' has 9 rows"),
            (["none.h5", c, *task], 65, "'embedding' is not what"),
            (["twice.h5", c, *task], 65, "record synth-0000003 twice"),
            (["text.h5", c, *task], 65, "no HDF5 file"),
            (["missing.h5", c, *task], 74, "missing.h5"),
            (["leak.h5", "leak", "--target", "heart_rate"], 65,
             r"1 test records.*synth-0000000 \(fold 10\) and synth-000000[123] \(fold 1\)"),
            ([good, "nothing", "--target", "age"], 65, "none has a value of target age")]:
        p = run(*args)
        check(p.returncode == code and re.search(says, p.stderr) and not p.stdout,
              f"{args}: exit {p.returncode}, {p.stderr!r}")
    # Records of nobody in particular are subjects of their own.
    nobody = Corpus("nobody", patient_id=0)
    j, _ = evaluate(nobody, x, *task, "--penalty", "1")
    rows = int((corpus.label["rhythm"].sum(1) > 0).sum())
    check(j["protocol"]["records_without_patient"] == rows, "records without a patient")
    check(j["results"][0]["train_subjects"] == j["results"][0]["train_rows"], "each its own subject")


def main():
    corpus = Corpus("corpus")
    for features in 12, 60, 400:  # 400: more features than rows
        for single in False, True:
            logistic(corpus, features, single, "lbfgs")
    logistic(corpus, 60, False, "newton-cholesky", tolerance=1e-7)
    for features in 1, 12, 400:
        ridge(corpus, features, "age")
        ridge(corpus, features, "heart_rate")
    neighbours(corpus)
    corners(corpus)
    subsets(corpus)
    levels(corpus)
    refusals(corpus)


with tempfile.TemporaryDirectory() as scratch:
    os.chdir(scratch)
    main()
    os.chdir("/")
print("largest differences:", ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))
print(f"{failures} of {checks} checks failed" if failures else f"all {checks} checks passed")
sys.exit(1 if failures else 0)
