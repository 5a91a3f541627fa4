"""Interrupted runs end with the bits of an uninterrupted one: killed at random moments, stopped by
signals, with gradient accumulation, across stages of fine-tuning, and for any number of threads."""
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from runs import (CLASSIFY, ENV, JEPA, PROGRAM, expect, failures, good, metrics, purkinje, same,
                  scratch, state, steps_on_disk, weights)

KILLS = int(os.environ.get("PK_TEST_KILLS", "20"))
random.seed(7)


def start(args):
    return subprocess.Popen(
        [PROGRAM, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENV
    )


def lines(run):
    try:
        with open(os.path.join(run, "metrics.jsonl")) as f:
            return f.read().count("\n")
    except FileNotFoundError:
        return 0


def wait_for(process, condition):
    """Until the condition holds or the process has ended; True in the first case."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.0005)
    return False


def interrupt(process, run, duration, number):
    """Sends the signal after a random time, or after a random number of steps of this process."""
    if random.random() < 0.5:
        until = time.monotonic() + random.uniform(0, duration)
        hit = wait_for(process, lambda: time.monotonic() >= until)
    else:
        enough = lines(run) + random.randrange(1, 12)
        hit = wait_for(process, lambda: lines(run) >= enough)
    if hit:
        process.send_signal(number)
    said = process.communicate()[1]
    return said


def killed_until_done(first, run, duration, kills):
    """Starts, kills, resumes ... up to `kills` times, then lets it end. Returns how often it died."""
    died = 0
    while died < kills:
        begun = os.path.exists(os.path.join(run, "recipe.yaml"))
        p = start(["resume", run] if begun else [*first, f"output.dir={run}", "--overwrite"])
        said = interrupt(p, run, duration, signal.SIGKILL)
        if p.returncode == 0:
            return died
        if not expect(p.returncode == -signal.SIGKILL, f"{run}: exit {p.returncode}: {said}"):
            return died
        died += 1
    if not os.path.exists(os.path.join(run, "recipe.yaml")):
        good(*first, f"output.dir={run}", "--overwrite")
        return died
    r = purkinje("resume", run)
    expect(r.returncode == 0, f"resume {run} after {died} kills: {r.returncode}: {r.stderr}")
    return died


def random_kills(root, name, first, kills):
    reference = os.path.join(root, name)
    begun = time.monotonic()
    good(*first, f"output.dir={reference}")
    duration = time.monotonic() - begun
    total = chains = 0
    while total < kills and chains < 4 * kills:
        run = os.path.join(root, f"{name}-killed")
        shutil.rmtree(run, ignore_errors=True)
        died = killed_until_done(first, run, duration, min(6, kills - total))
        if os.path.exists(run) and steps_on_disk(run):
            same(run, reference, f"{name}, chain {chains} with {died} kills")
        if os.path.exists(os.path.join(run, "result.json")):
            expect(result(run) == result(reference), f"{name}: result.json differs")
        total += died
        chains += 1
        if failures:
            break
    print(f"{name}: {total} kills in {chains} runs, {duration:.2f} s each", flush=True)
    expect(total >= kills or failures, f"{name}: only {total} kills hit")
    return reference


def result(run):
    with open(os.path.join(run, "result.json"), "rb") as f:
        return f.read()


def signals(root, name, first, reference, number, times):
    """Signals in a row: each time a checkpoint at the next step edge, exit 75, state stopped. Runs are short, and
    a busy machine may look away until one is over: then again."""
    run = os.path.join(root, f"{name}-{number.name}")
    for chain in range(20):
        shutil.rmtree(run, ignore_errors=True)
        stopped = stop_again_and_again(run, name, first, number, times)
        if failures:
            return
        same(run, reference, f"{name}, {stopped} times {number.name}")
        if stopped >= times:
            return
    expect(False, f"{name}: only {stopped} of {times} {number.name} arrived in time")


def stop_again_and_again(run, name, first, number, times):
    """Until the run is done. Returns how often it was stopped."""
    stopped = 0
    for attempt in range(times + 1):
        args = ["resume", run] if os.path.exists(run) else [*first, f"output.dir={run}"]
        p = start(args)
        seen = lines(run)
        hit = wait_for(p, lambda: lines(run) > seen)
        if hit and stopped < times:
            p.send_signal(number)
        said = p.communicate()[1]
        if p.returncode == 0:
            break
        if not expect(p.returncode == 75, f"{name}: {number.name}: exit {p.returncode}: {said}"):
            break
        stopped += 1
        newest = steps_on_disk(run)[-1]
        expect(state(run) == "stopped", f"{name}: {number.name}: state {state(run)}")
        expect(metrics(run)[-1]["step"] <= newest, f"{name}: the checkpoint is older than the log")
        expect(f"after step {newest};" in said and f"purkinje resume {run}" in said,
               f"{name}: message of {number.name}: {said}")
    return stopped


def early(root):
    """A signal while data and model are prepared: the first step edge is the first stop."""
    first = [*JEPA, "train.steps=1000000", "data.synthetic.records=4000"]  # not over before the signal
    stopped = 0
    for i in range(10):
        run = os.path.join(root, f"early{i}")
        p = start([*first, f"output.dir={run}"])
        time.sleep(0.01 * 1.6**i)
        p.send_signal(signal.SIGINT if i % 2 else signal.SIGTERM)
        said = p.communicate()[1]
        # Before main() has installed its handlers there is nothing to save.
        before = p.returncode in (-signal.SIGINT, -signal.SIGTERM) and not os.path.exists(run)
        expect(before or p.returncode == 75, f"early signal: exit {p.returncode}: {said}")
        if p.returncode == 75:
            stopped += 1
            steps = steps_on_disk(run)[-1]
            good("resume", run, f"train.steps={steps + 2}", "--quiet")
            expect(state(run) == "done", f"early signal: {state(run)} after resume")
    expect(stopped, "no early signal arrived in time")


def accumulation(root):
    first = [*JEPA, "train.steps=31", "train.accumulate=2", "output.checkpoint.every=2",
             "train.log_every=5"]
    random_kills(root, "accumulate", first, max(4, KILLS // 2))


def halves(root):
    """20 steps are 10, a stop, and 10 more; a run may be made longer; threads do not matter."""
    first = [*JEPA, "train.steps=20", "output.checkpoint.every=10", "output.checkpoint.keep_last=9"]
    whole, half, threads = (os.path.join(root, n) for n in ("whole", "half", "threads"))
    good(*first, f"output.dir={whole}")
    expect(steps_on_disk(whole) == [10, 20], f"checkpoints {steps_on_disk(whole)}")
    shutil.copytree(whole, half)
    shutil.rmtree(os.path.join(half, "checkpoints", "step-000000020"))
    r = good("resume", half)
    same(half, whole, "10 + 10 steps")
    expect(r.stdout == half + "\n", f"stdout of resume: {r.stdout!r}")
    good("resume", half)
    same(half, whole, "resuming a run that is done")
    good("resume", half, "train.steps=24")
    expect(steps_on_disk(half)[-1] == 24 and metrics(half)[-1]["step"] == 24, "made longer")
    good(*first, "train.threads=2", "data.threads=1", f"output.dir={threads}")
    same(threads, whole, "two threads")
    expect(weights(half) != weights(whole), "weights after 24 steps equal those after 20")


def main():
    with scratch() as root:
        halves(root)
        first = [*JEPA, "train.steps=40"]
        reference = random_kills(root, "jepa", first, KILLS)
        signals(root, "jepa", first, reference, signal.SIGTERM, 5)
        signals(root, "jepa", first, reference, signal.SIGUSR2, 2)
        accumulation(root)
        early(root)
        encoder = os.path.join(root, "encoder")
        good(*JEPA, "train.steps=4", f"output.dir={encoder}")
        first = [*CLASSIFY, f"init_from={encoder}"]
        reference = random_kills(root, "finetune", first, KILLS)
        signals(root, "finetune", first, reference, signal.SIGTERM, 3)
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
