"""embed, eval and eval linear on 1, 2, 3 and more ranks than records write and print the same bytes: embeddings,
logits, predictions, metrics, fits. Ranks with other words, another model or other records are refused, and a rank
that cannot read a record, or dies, ends all of them by name."""
import os
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from rank_jobs import end, kill_second, ranks, start, working  # noqa: E402
import runs  # noqa: E402
from runs import CLASSIFY, JEPA, expect, good, scratch  # noqa: E402


def read(path):
    with open(path, "rb") as f:
        return f.read()


def check_same(root, model, classifier, regression, corpus):
    cases = {
        "embed": (["embed", model, corpus], "out.h5"),
        "logits": (["embed", classifier, corpus, "--folds", "8-10", "--window", "1", "--stride", "0.5"], "out.h5"),
        "eval": (["eval", classifier, corpus, "--folds", "9", "--bootstrap", "20", "--json"], None),
        "regression": (["eval", regression, corpus, "--folds", "9", "--bootstrap", "20"], None),
        "linear": (["eval", "linear", model, corpus, "--task", "rhythm", "--test", "9,10", "--bootstrap", "20", "--cv", "3",
                    "--shuffles", "1", "--fractions", "50,100"], "--out"),
        "random": (["eval", "linear", model, corpus, "--target", "age", "--test", "9,10", "--bootstrap", "20", "--cv", "3",
                    "--shuffles", "1", "--weights", "random", "--json"], None),
    }
    for name, (command, out) in cases.items():
        seen = {}
        for n in (1, 2, 3, 70 if name == "logits" else 5):
            folder = os.path.join(root, f"{name}-{n}")
            os.mkdir(folder)
            more = {None: [], "--out": ["--out", "out"], "out.h5": ["out.h5"]}[out]
            words = command[:3] + more + command[3:] if out == "out.h5" else command + more
            r = good(*(ranks(n) if n > 1 else []), *words, cwd=folder)
            files = {os.path.join(d, f)[len(folder):]: read(os.path.join(d, f)) for d, _, fs in os.walk(folder) for f in fs}
            expect(len(r.stdout) > 50 and (not out or files), f"{name} on {n} ranks: {r.stdout} {list(files)}")
            seen[n] = (r.stdout, files)
            expect(seen[n] == seen[1], f"{name}: {n} ranks differ from one: {seen[n][0]} {seen[1][0]}")


def both(codes, words, command, **more):
    ended, said = end(start(2, command, **more))
    expect(ended == codes and all(w in "".join(said) for w in words), f"{command}: {ended} {said}")
    expect("".join(said).count("error:") <= 2, f"{command}: {said}")


def check_refused(root, model, corpus):
    out = os.path.join(root, "none.h5")
    both([71, 71], ["command line"], ["embed", model, corpus, out], by_rank=lambda r: ["--folds", f"{r + 1}"])
    other = os.path.join(root, "other")
    good(*JEPA, f"output.dir={other}", "train.steps=3", "train.learning_rate.warmup=1", "--quiet")
    dirs = [os.path.join(root, f"host{r}") for r in range(2)]
    for r, source in enumerate((model, other)):
        os.mkdir(dirs[r])
        os.symlink(source, os.path.join(dirs[r], "model"))
    both([71, 71], ["weights of the model"], ["embed", "model", corpus, out], cwd=lambda r: dirs[r])
    other = os.path.join(root, "corpus2")
    good("data", "synth", other, "--records", "30", "--rate", "100", "--seconds", "3", "--seed", "5", "--quiet")
    for r, source in enumerate((corpus, other)):
        os.symlink(source, os.path.join(dirs[r], "corpus"))
    both([71, 71], ["data"], ["embed", model, "corpus", out], cwd=lambda r: dirs[r])
    os.unlink(os.path.join(dirs[1], "corpus"))
    ended, said = end(start(2, ["embed", model, "corpus", out], cwd=lambda r: dirs[r]))
    expect(ended == [69, 69] and "rank 1" in said[1] and "corpus/corpus.json is not there" in said[1], f"one without the corpus: {ended} {said}")
    expect(not os.path.exists(out), "a refused command wrote its file")


def check_faults(root, model, corpus):
    out = os.path.join(root, "none.h5")
    broken = os.path.join(root, "broken")
    shutil.copytree(corpus, broken)
    shard = max((os.path.join(broken, f) for f in os.listdir(broken) if f.endswith(".h5")), key=os.path.getsize)
    with open(shard, "r+b") as f:  # the last records, which are rank 1's
        f.truncate(os.path.getsize(shard) * 3 // 4)
    ended, said = end(start(2, ["embed", model, broken, out]))
    expect(0 not in ended and "broken" in "".join(said), f"a broken shard: {ended} {said}")
    jobs = start(2, ["embed", model, "synthetic:200000", out])
    working(jobs, 1)
    kill_second(jobs)
    expect(not os.path.exists(out), "a command that failed wrote its file")


def main():
    with scratch() as root:
        model, corpus = f"{root}/jepa", f"{root}/corpus"
        good(*JEPA, f"output.dir={model}", "train.steps=2", "train.learning_rate.warmup=1", "--quiet")
        good(*CLASSIFY, f"init_from={model}", f"output.dir={root}/classify", "--quiet")
        good("finetune", "regress_demo", f"output.dir={root}/regress", "model.encoder.channels=8", "train.threads=1",
             "data.crop=1s", "data.synthetic.records=60", "data.synthetic.seconds=3", "evaluation.window=1s", "evaluation.stride=0.5s",
             "evaluation.bootstrap=20", "train.batch_size=16", "stages.0.steps=2", "stages.0.learning_rate.warmup=1", "--quiet")
        good("data", "synth", corpus, "--records", "60", "--rate", "100", "--seconds", "3", "--seed", "3", "--quiet")
        check_same(root, model, f"{root}/classify", f"{root}/regress", corpus)
        check_refused(root, model, corpus)
        check_faults(root, model, corpus)
    sys.exit(1 if runs.failures else 0)


main()
