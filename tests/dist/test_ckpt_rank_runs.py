"""Whole runs whose checkpoints are written by 1, 2 or 4 ranks: any number of ranks goes on from any of them,
bit for bit; other programs find whole weights; a damaged shard is found; a disk that hangs does not stop
training; a rank that cannot write, or does not see the folder, is told of."""
import json
import os
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
from rank_jobs import end, ranks, start  # noqa: E402
from runs import JEPA, expect, failures, good, same, scratch, state, steps_on_disk  # noqa: E402
from runs import tensors  # noqa: E402

RUN = [*JEPA, "train.steps=7", "output.checkpoint.keep_last=9"]


def launch(n):
    return ranks(n) if n > 1 else []


def folder(run, step):
    return os.path.join(run, "checkpoints", f"step-{step:09d}")


def files(run, step):
    return sorted(n for n in os.listdir(folder(run, step)) if n.endswith(".safetensors"))


def check_resume(root, reference):
    """Written on n ranks, resumed from step 3 on m."""
    for n in (1, 2, 4):
        full = os.path.join(root, f"by-{n}")
        good(*launch(n), *RUN, f"output.dir={full}", "--quiet")
        same(full, reference, f"{n} ranks")
        shards = [f"moment{k}-{r + 1:05d}-of-{n:05d}.safetensors" for k in (1, 2) for r in range(n)]
        if n == 1:
            shards = ["moment1.safetensors", "moment2.safetensors"]
        for step in (3, 6, 7):
            have = files(full, step)
            expect(have == sorted(["ema.safetensors", "model.safetensors", *shards]), f"{n} ranks write {have}")
        sizes = [os.path.getsize(os.path.join(folder(full, 3), s)) for s in shards[:n]]
        expect(max(sizes) < 2 * sum(sizes) / n, f"{n} ranks share moments as {sizes}")
        for m in (1, 2, 4):
            run = os.path.join(root, f"from-{n}-on-{m}")
            shutil.copytree(full, run)
            for step in (6, 7):
                shutil.rmtree(folder(run, step))
            good(*launch(m), "resume", run, "--quiet")
            same(run, reference, f"written by {n} ranks, resumed on {m}")


def check_zero1(root, reference):
    """Moments shared out over ranks: the same run, and its checkpoints are like any other's."""
    zero1 = "train.zero1=true"
    for n, m, on, then in ((2, 4, zero1, zero1), (4, 2, zero1, "train.zero1=false"), (4, 1, zero1, zero1),
                           (1, 4, zero1, zero1), (2, 2, "train.zero1=false", zero1), (3, 3, zero1, zero1)):
        full = os.path.join(root, f"zero1-{n}-{m}")
        more = [] if n != 3 else ["train.batch_size=12", "train.micro_batch=2"]
        other = reference
        if n == 3:  # equal to a run of as many ranks without
            other = os.path.join(root, "three")
            good(*launch(n), *RUN, *more, f"output.dir={other}", "--quiet")
        good(*launch(n), *RUN, *more, on, f"output.dir={full}", "--quiet")
        same(full, other, f"{n} ranks with {on}")
        expect(files(full, 7) == files(other if n == 3 else os.path.join(root, f"by-{n}"), 7), f"{n} ranks with {on}: "
               f"{files(full, 7)}")
        for step in (6, 7):
            shutil.rmtree(folder(full, step))
        good(*launch(m), "resume", full, then, "--quiet")
        same(full, other, f"{n} ranks with {on}, resumed on {m} with {then}")
    run = os.path.join(root, "zero1-stopped")  # before the first checkpoint: there is nothing to share out
    good(*launch(2), *RUN, zero1, f"output.dir={run}", "--quiet")
    shutil.rmtree(os.path.join(run, "checkpoints"))
    good(*launch(2), "resume", run, "--quiet")
    same(run, reference, "shared moments from the start again")


def check_tools(root, reference):
    """What does not train reads a run of 4 ranks as it reads any other."""
    run = os.path.join(root, "by-4")
    for name in ("model", "ema"):
        a, b = (tensors(os.path.join(folder(r, 7), f"{name}.safetensors")) for r in (run, reference))
        expect(a == b and a, f"{name}.safetensors of 4 ranks is not whole")
    text = good("inspect", run).stdout
    expect(text.count("valid") == 3, f"inspect: {text}")
    exports = []
    for r in (run, reference):
        good("export", r, r + "-export", "--quiet")
        exports.append(tensors(os.path.join(r + "-export", "model.safetensors")))
    expect(exports[0] == exports[1], "the export of a run of 4 ranks is another one")


def check_damage(root, reference):
    run = os.path.join(root, "damage")
    shutil.copytree(os.path.join(root, "by-4"), run)
    path = os.path.join(folder(run, 7), "moment2-00003-of-00004.safetensors")
    with open(path, "r+b") as f:
        f.seek(-5, os.SEEK_END)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 8]))
    r = good(*ranks(2), "resume", run)
    expect("moment2-00003-of-00004.safetensors is damaged" in r.stderr, f"a damaged shard: {r.stderr}")
    expect("going back to the checkpoint of step 6" in r.stderr, f"a damaged shard: {r.stderr}")
    same(run, reference, "a damaged shard, and the checkpoint before it")


def check_unseen(root, reference):
    """Rank 1 is in another folder, and the run's is given as a relative path."""
    dirs = [os.path.join(root, f"host-{r}") for r in range(2)]
    for d in dirs:
        os.mkdir(d)
    codes, said = end(start(2, [*RUN, "output.dir=run"], cwd=lambda r: dirs[r]))
    expect(codes == [0, 0], f"a folder that rank 1 does not see: {codes} {said}")
    expect(said[0].count("rank 1 does not see") == 1 and "rank 0 alone writes" in said[0], f"it is not said: {said}")
    same(os.path.join(dirs[0], "run"), reference, "a folder that rank 1 does not see")
    expect("moment1.safetensors" in files(os.path.join(dirs[0], "run"), 7), "rank 0 does not write everything")
    expect(os.listdir(dirs[1]) == [], f"rank 1 leaves {os.listdir(dirs[1])}")
    codes, said = end(start(2, [*RUN, "output.dir=shared", "train.zero1=true", "--quiet"], cwd=lambda r: dirs[r]))
    expect(codes == [73, 73] and "".join(said).count("train.zero1 needs a folder that all ranks see") == 1,
           f"shared moments in a folder that rank 1 does not see: {codes} {said}")


def check_full(root):
    """Rank 1 may not write files of more than 6 KB: as if its disk were full, at the first checkpoint or after it."""
    for first in (True, False):
        run = os.path.join(root, f"full-{first}")
        command = [*RUN, f"output.dir={run}"]
        if not first:
            good(*ranks(2), *RUN, f"output.dir={run}", "--quiet")
            for step in (6, 7):
                shutil.rmtree(folder(run, step))
            command = ["resume", run]
        jobs = start(2, [*command, "--quiet"],
                     prefix=lambda r: ["sh", "-c", 'trap "" XFSZ; ulimit -f 12; exec "$@"', "sh"] if r else [])
        codes, said = end(jobs)
        expect(codes == [73, 73], f"full disk at rank 1: {codes} {said}")
        said = "".join(said)
        for words in ("rank 1 of 2: cannot write", f"{run}/checkpoints/.tmp-step-", "needs", "are written", "are free"):
            expect(words in said, f"full disk at rank 1: no '{words}' in {said}")
        expect(said.count("cannot write") == 1, f"full disk at rank 1: said more than once: {said}")
        expect(state(run) == "failed" and steps_on_disk(run) == ([] if first else [3]),
               f"full disk at rank 1: {state(run)} {steps_on_disk(run)}")
        left = [n for n in os.listdir(os.path.join(run, "checkpoints")) if n.startswith(".")]
        expect(not left, f"full disk at rank 1: left {left}")


def strace_works():
    try:
        return subprocess.run(["strace", "-f", "-qq", "-o", os.devnull, "-e", "inject=rmdir:error=EIO", "true"],
                              capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def check_stall(root):
    """A disk that takes 30 ms for every sync, at either rank: how much longer is the step at which a checkpoint
    begins, in steps? The least of five checkpoints, since other programs run on this machine, too."""
    steps, every, slow = 240, 40, 0.03
    for rank in range(2):
        run = os.path.join(root, f"stall-{rank}")
        command = [*JEPA, f"train.steps={steps}", f"output.checkpoint.every={every}", f"output.dir={run}", "--quiet",
                   "model.encoder.width=160", "model.encoder.depth=2", "train.log_every=1"]
        # LeakSanitizer cannot run under ptrace.
        trace = ["env", "ASAN_OPTIONS=detect_leaks=0", "strace", "-f", "--seccomp-bpf", "-qq", "-o", os.devnull,
                 "-e", "trace=fsync", "-e", f"inject=fsync:delay_enter={int(slow * 1e6)}"]
        codes, said = end(start(2, command, prefix=lambda r: trace if r == rank else []))
        expect(codes == [0, 0], f"a slow disk at rank {rank}: {codes} {said}")
        with open(os.path.join(run, "metrics.jsonl")) as f:
            at = [json.loads(line)["seconds"] for line in f]
        took = [b - a for a, b in zip(at, at[1:])]  # took[i]: from the end of step i + 1 to that of i + 2
        usual = statistics.median(took)
        # What begins after step `every` is over is in the time of the step after it.
        stalls = [(took[s - 1] - usual) / usual for s in range(every, steps, every)]
        print(f"slow disk at rank {rank}: steps of {usual * 1e3:.1f} ms, stalls of "
              + ", ".join(f"{x:.2f}" for x in stalls) + f" steps, {4 * slow / usual:.0f} steps to write a share")
        expect(min(stalls) <= 1, f"a checkpoint stalls training for {min(stalls):.1f} steps at least")


with scratch() as root:
    reference = os.path.join(root, "reference")
    good(*RUN, f"output.dir={reference}", "--quiet")
    check_resume(root, reference)
    check_zero1(root, reference)
    check_tools(root, reference)
    check_damage(root, reference)
    check_unseen(root, reference)
    check_full(root)
    if strace_works():
        check_stall(root)
sys.exit(1 if failures else 0)
