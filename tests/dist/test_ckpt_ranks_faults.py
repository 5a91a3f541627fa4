"""A checkpoint that two ranks write, killed on either rank before every write, fsync, rename, unlink ...,
and with every one of these calls made to fail. Each time the newest or the previous checkpoint opens with
the right content, and the next start tidies up and goes on.

The ranks are tests/dist/test_ckpt_ranks.c with arguments; faults are injected by strace. Without strace
(or where ptrace is forbidden) only random kills run."""
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

DRIVER = os.path.join(os.path.dirname(os.environ["PURKINJE"]), "test_ckpt_ranks")
ENV = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")  # LeakSanitizer cannot run under ptrace
CALLS = ["write", "fsync", "rename", "unlink", "mkdir", "rmdir"]
failures = []
worlds = 0


def expect(condition, what):
    if not condition:
        failures.append(what)
        print("failed:", what)


def start(folder, first, last, strace=((), ())):
    """Both ranks, joined by a pair of sockets."""
    global worlds
    worlds += 1
    ends = socket.socketpair()
    jobs = []
    for rank, end in enumerate(ends):
        prefix = ["strace", "-f", "-qq", "-o", os.devnull, *strace[rank]] if strace[rank] else []
        command = [*prefix, DRIVER, "write", str(rank), str(end.fileno()), folder, str(first), str(last)]
        jobs.append(subprocess.Popen(command, env=ENV, pass_fds=[end.fileno()], text=True,
                                     stderr=subprocess.PIPE))
    for end in ends:
        end.close()
    return jobs


def end(jobs):
    said = [p.communicate(timeout=300)[1] for p in jobs]
    return [p.returncode for p in jobs], said


def opened(folder):
    r = subprocess.run([DRIVER, "check", folder], env=ENV, capture_output=True, text=True)
    return r.stdout.strip() if r.returncode == 0 else f"broken: {r.stdout} {r.stderr}"


def leftovers(folder):
    return [n for n in os.listdir(folder) if n.startswith(".") or n.endswith(".part")]


def fresh(root):
    work = os.path.join(root, "work")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(os.path.join(root, "two"), work)
    return work


def only(rank, options):
    return tuple(options if r == rank else () for r in range(2))


def count_calls(root, rank):
    """How often a rank makes each system call in each of its threads, so that every one is hit."""
    work, log = fresh(root), os.path.join(root, "trace")
    codes, said = end(start(work, 3, 3, only(rank, ["-e", "trace=" + ",".join(CALLS), "-o", log])))
    assert codes == [0, 0], said
    text = open(log).read()
    return {c: n for c in CALLS if (n := len(re.findall(rf"\b{c}\(", text)))}


def recovers(root, work, label):
    codes, said = end(start(work, 3, 3))
    expect(codes == [0, 0], f"{label}, then again: {codes} {said}")
    expect(opened(work) == "3", f"{label}, then again: {opened(work)}")
    expect(not leftovers(work), f"{label}, then again: {leftovers(work)}")


def kill(root, rank, call, n, label):
    work = fresh(root)
    codes, said = end(start(work, 3, 3, only(rank, ["-e", f"inject={call}:signal=KILL:when={n}"])))
    got = opened(work)
    expect(got in ("2", "3"), f"{label}, killed: {got}")
    expect(codes[1 - rank] in (0, 71), f"{label}, killed: the other ends with {codes} {said}")
    recovers(root, work, f"{label}, killed")
    return codes[rank] != 0


def fail(root, rank, call, n, label):
    error = {"write": "ENOSPC", "mkdir": "ENOSPC"}.get(call, "EIO")
    work = fresh(root)
    codes, said = end(start(work, 3, 3, only(rank, ["-e", f"inject={call}:error={error}:when={n}"])))
    label = f"{label}, {error}"
    got = opened(work)
    expect(got in ("2", "3"), f"{label}: {got}")
    expect(codes in ([0, 0], [73, 73], [74, 74]), f"{label}: exit {codes} {said}")
    if codes == [73, 73] and got == "2":
        # The first write of a rank's training thread is the message itself.
        words = [s for r, s in enumerate(said) if r != rank or call != "write" or n > 1]
        where = "cannot create folder" if call == "mkdir" else work
        expect(all(f"rank {rank} of 2: " in s and where in s for s in words), f"{label}: {said}")
        expect(not [f for f in leftovers(work) if f.startswith(".tmp")], f"{label}: left {leftovers(work)}")
        if call == "write":
            expect(all(re.search(r"needs \d+ bytes, \d+ are written, \d+ are free", s) for s in words),
                   f"{label}: a full disk is not explained in {said}")
    recovers(root, work, label)
    return codes == [73, 73]


def inject(root, rank):
    hit = refused = tried = 0
    for call, count in count_calls(root, rank).items():
        for n in range(1, count + 1):
            label = f"rank {rank}: {call} {n} of {count}"
            tried += 1
            hit += kill(root, rank, call, n, label)
            refused += fail(root, rank, call, n, label)
    print(f"rank {rank}: {tried} places, {hit} killed there, {refused} where both ranks report the failure")
    expect(hit > tried / 2 and refused >= 5, f"rank {rank}: of {tried} places {hit} and {refused} mattered")


def random_kills(root, count, seconds):
    rng = random.Random(3)
    work = fresh(root)
    newest, done, stop, longest = 2, 0, time.time() + seconds, 0.05
    for i in range(count):
        if time.time() > stop and newest > 2:
            break
        if newest == 2:
            longest *= 1.1  # this disk or machine is slow
        jobs = start(work, newest + 1, 1000000)
        time.sleep(rng.uniform(0.005, longest))
        jobs[i % 2].kill()
        codes, said = end(jobs)
        expect(codes[i % 2] == -9 and codes[1 - i % 2] == 71, f"random kill {i}: {codes} {said}")
        got = opened(work)
        step = int(got) if got.isdigit() else -1
        expect(step >= newest, f"random kill {i}: {got} after {newest}")
        newest = max(newest, step)
        done += 1
    expect(newest > 2, "random kills: no checkpoint was ever finished")
    return done, newest


def strace_works():
    try:
        r = subprocess.run(["strace", "-f", "-qq", "-o", os.devnull, "-e", "inject=rmdir:error=EIO", "true"],
                           capture_output=True)
    except FileNotFoundError:
        return False
    return r.returncode == 0


def main():
    begun = time.time()
    with tempfile.TemporaryDirectory(dir=".") as root:
        codes, said = end(start(os.path.join(root, "two"), 1, 2))
        assert codes == [0, 0] and opened(os.path.join(root, "two")) == "2", said
        kills, newest = random_kills(root, 60, 6)
        if strace_works():
            for rank in range(2):
                inject(root, rank)
        else:
            print("strace is missing or may not trace: only random kills were tried")
    print(f"{worlds} worlds and {kills} random kills (up to step {newest}) in {time.time() - begun:.1f} s: "
          f"{len(failures)} failures")
    return 1 if failures else 0


sys.exit(main())
