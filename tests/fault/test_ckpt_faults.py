"""Checkpoints under fault injection: killed before every write, fsync, rename, unlink ..., every one
of these calls made to fail, and killed at random. Each time the newest or the previous checkpoint
opens with the right content, and the next start tidies up and goes on.

The writer is tests/fault/test_ckpt.c with arguments; faults are injected by strace. Without strace
(or where ptrace is forbidden) only the random kills and the file size limit run."""
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

DRIVER = os.path.join(os.path.dirname(os.environ["PURKINJE"]), "test_ckpt")
ENV = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")  # LeakSanitizer cannot run under ptrace
CALLS = ["write", "fsync", "rename", "unlink", "mkdir", "rmdir"]
failures = []
runs = 0


def driver(*args, strace=None, **more):
    global runs
    runs += 1
    prefix = ["strace", "-f", "-qq", "-o", os.devnull, *strace] if strace else []
    return subprocess.run(
        [*prefix, DRIVER, *map(str, args)], env=ENV, capture_output=True, text=True, **more
    )


def opened(folder):
    """What opens, as "STEP VARIANT", or "none"; anything broken is an error."""
    r = driver("check", folder)
    return r.stdout.strip() if r.returncode == 0 else f"broken: {r.stdout} {r.stderr}"


def expect(condition, what):
    if not condition:
        failures.append(what)
        print("failed:", what)


def leftovers(folder):
    return [n for n in os.listdir(folder) if n.startswith(".") or n.endswith(".part")]


def count_calls(folder, command, calls=CALLS):
    """How often the command makes each system call, so that every one can be hit in turn."""
    log = folder + ".trace"
    subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=" + ",".join(calls), "-o", log, DRIVER, *command],
        env=ENV, check=True, capture_output=True,
    )
    text = open(log).read()
    os.unlink(log)
    counts = {c: len(re.findall(rf"\b{c}\(", text)) for c in calls}
    return {c: n for c, n in counts.items() if n}


def scenarios(root):
    """name, folder to start from (None is empty), command, what may open before, and after"""
    two = os.path.join(root, "two")
    assert driver("write", two, 1, 2).returncode == 0
    assert opened(two) == "2 0", opened(two)
    return [
        ("first", None, ["write", 1, 1], "none", "1 0"),
        ("third", two, ["write", 3, 3], "2 0", "3 0"),  # also prunes step 1
        ("again", two, ["again", 2], "2 0", "2 1"),  # replaces step 2
        ("async", two, ["async", 3, 3], "2 0", "3 0"),
    ]


def fresh(root, start):
    work = os.path.join(root, "work")
    shutil.rmtree(work, ignore_errors=True)
    if start:
        shutil.copytree(start, work)
    else:
        os.mkdir(work)
    return work


def inject(root, scenario):
    name, start, command, before, after = scenario
    args = [command[0], None, *map(str, command[1:])]

    def at(folder):
        return [folder if a is None else a for a in args]

    counts = count_calls(fresh(root, start), at(os.path.join(root, "work")))
    for call, count in counts.items():
        for n in range(1, count + 1):
            label = f"{name}: {call} {n} of {count}"
            work = fresh(root, start)
            r = driver(*at(work), strace=["-e", f"inject={call}:signal=KILL:when={n}"])
            got = opened(work)
            # strace counts per thread, so the last calls of two threads may not exist in either
            expect(r.returncode != 0 or name == "async", f"{label}: was not killed")
            expect(got in (before, after), f"{label}, killed: {got}")
            r = driver(*at(work))
            expect(r.returncode == 0, f"{label}, killed, then again: {r.stderr}")
            expect(opened(work) == after, f"{label}, killed, then again: {opened(work)}")
            expect(not leftovers(work), f"{label}, killed, then again: {leftovers(work)}")

            error = {"write": "ENOSPC", "fsync": "EIO", "mkdir": "ENOSPC"}.get(call, "EIO")
            work = fresh(root, start)
            r = driver(*at(work), strace=["-e", f"inject={call}:error={error}:when={n}"])
            got = opened(work)
            expect(got in (before, after), f"{label}, {error}: {got}")
            expect(r.returncode in (0, 73, 74), f"{label}, {error}: exit {r.returncode}")
            # Async: the main thread's first write is the message itself.
            said = r.returncode and not (name == "async" and call == "write" and n == 1)
            if said and call == "mkdir":
                expect("cannot create folder" in r.stderr, f"{label}, {error}: {r.stderr!r}")
            elif said:
                expect(work in r.stderr, f"{label}, {error}: no path in {r.stderr!r}")
            if said and call == "write":
                expect(re.search(r"needs \d+ bytes, \d+ are written, \d+ are free", r.stderr),
                       f"{label}: a full disk is not explained in {r.stderr!r}")
            if r.returncode and got == before:
                expect(not [n for n in leftovers(work) if n.startswith(".tmp")],
                       f"{label}, {error}: left {leftovers(work)}")

            if call in ("write", "fsync"):  # an interrupted call is made again
                work = fresh(root, start)
                r = driver(*at(work), strace=["-e", f"inject={call}:error=EINTR:when={n}"])
                expect(r.returncode == 0 and opened(work) == after,
                       f"{label}, EINTR: {r.stderr} {opened(work)}")


def fail_opens(root, scenario):
    """No file descriptor left, at every open; the first ones are the loader's own."""
    name, start, command, before, after = scenario

    def args(folder):
        return [command[0], folder, *map(str, command[1:])]

    count = count_calls(fresh(root, start), args(os.path.join(root, "work")), ["openat"])["openat"]
    failed = 0
    for n in range(1, count + 1):
        work = fresh(root, start)
        r = driver(*args(work), strace=["-e", f"inject=openat:error=EMFILE:when={n}"])
        got = opened(work)
        failed += r.returncode != 0
        expect(got == after or (got == before and r.returncode), f"{name}: open {n}, EMFILE: {got}")
        expect(r.returncode in (0, 65, 73, 74, 127), f"{name}: open {n}, EMFILE: exit {r.returncode}")
    expect(failed >= 5, f"{name}: only {failed} of {count} opens mattered")


def random_kills(root, count, seconds):
    """One folder lives through many kill -9 of a writer that never stops."""
    rng = random.Random(7)
    work = fresh(root, None)
    newest, done, end, longest = 0, 0, time.time() + seconds, 0.04
    for i in range(count):
        if time.time() > end and (newest > 0 or longest > 10):
            break
        if newest == 0:
            longest *= 1.05  # this disk or machine is slow
        p = subprocess.Popen([DRIVER, "async" if i % 2 else "write", work, str(newest + 1), "1000000"],
                             env=ENV, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.002, longest))
        p.send_signal(signal.SIGKILL)
        p.wait()
        got = opened(work)
        step = 0 if got == "none" else int(got.split()[0]) if got[0].isdigit() else -1
        expect(step >= newest and got in ("none", f"{step} 0"), f"random kill {i}: {got} after {newest}")
        newest = max(newest, step)
        done += 1
    expect(newest > 0, "random kills: no checkpoint was ever finished")
    return done, newest


def size_limit(root):
    """A write that is cut short and then refused, as on a full disk."""
    work = fresh(root, os.path.join(root, "two"))

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    r = driver("write", work, 3, 3, preexec_fn=limit, restore_signals=False)
    expect(r.returncode == 73 and "needs 12" in r.stderr and "8192 are written" in r.stderr,
           f"file size limit: exit {r.returncode}, {r.stderr!r}")
    expect(opened(work) == "2 0" and not leftovers(work), "file size limit: damage was done")


def strace_works():
    try:
        r = subprocess.run(["strace", "-f", "-qq", "-o", os.devnull, "-e", "inject=rmdir:error=EIO",
                            "true"], capture_output=True)
    except FileNotFoundError:
        return False
    return r.returncode == 0


def main():
    start = time.time()
    with tempfile.TemporaryDirectory(dir=".") as root:
        plans = scenarios(root)
        size_limit(root)
        kills, newest = random_kills(root, 200, 12)
        if strace_works():
            for plan in plans:
                inject(root, plan)
            fail_opens(root, plans[1])
        else:
            print("strace is missing or may not trace: only random kills were tried")
    print(f"{runs} runs and {kills} random kills (up to step {newest}) in {time.time() - start:.1f} s: "
          f"{len(failures)} failures")
    return 1 if failures else 0


sys.exit(main())
