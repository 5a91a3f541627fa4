"""A run under a real Slurm, interrupted five times in the three ways there are (queued again by hand,
signalled as before a time limit, preempted by a job of higher priority), ends with the bits of a run
that nothing interrupted. The job is the template that users submit."""
import importlib.machinery
import importlib.util
import json
import os
import sys
import time

SOURCE = os.environ["PK_SOURCE_DIR"]
sys.path.insert(0, os.path.join(SOURCE, "tests", "fault"))
from runs import ENV, PROGRAM, TINY, expect, failures, good, same, scratch, steps_on_disk  # noqa: E402

loader = importlib.machinery.SourceFileLoader("slurm_here", SOURCE + "/tools/cluster/slurm_here")
slurm_here = importlib.util.module_from_spec(importlib.util.spec_from_loader("slurm_here", loader))
loader.exec_module(slurm_here)
BATCH = SOURCE + "/tools/cluster/purkinje.sbatch"
# No checkpoint but those that the signals ask for, and the last.
RECIPE = [
    "pretrain", "jepa_demo", *TINY, "model.encoder.width=64", "data.synthetic.records=64",
    "data.synthetic.seconds=10", "data.crop=5s", "train.batch_size=32",
    "train.learning_rate.warmup=10", "output.checkpoint.every=1000000",
]


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ""


class Finished(Exception):
    """The job ended while it was waited for something else: the machine is fast, the run too short."""


class Job:
    """The template, submitted; looked at through Slurm's own commands."""

    def __init__(self, slurm, run, ranks, steps, log):
        self.slurm, self.run, self.log = slurm, run, log
        env = {**ENV, **slurm.env, "PURKINJE": PROGRAM}
        r = slurm_here.subprocess.run(
            ["sbatch", "--parsable", "--nodes=1", f"--ntasks-per-node={ranks}", f"--output={log}", BATCH,
             run, *RECIPE, f"train.steps={steps}"], env=env, capture_output=True, text=True, timeout=30)
        assert r.returncode == 0, r.stderr
        self.id = r.stdout.strip()

    def show(self):
        said = self.slurm.run("scontrol", "show", "job", self.id, "-o").stdout
        return dict(w.split("=", 1) for w in said.split() if "=" in w)

    def steps(self):
        return read(self.run + "/metrics.jsonl").count("\n")

    def until(self, condition, what, seconds=100):
        end = time.monotonic() + seconds
        while not condition():
            if self.show()["JobState"] == "COMPLETED":
                raise Finished(what)
            assert time.monotonic() < end, (
                f"not in {seconds} s: {what}\n{self.show()}\n{read(self.log)}\n{self.slurm.logs()}")
            time.sleep(0.02)


def queue_again(slurm, job):
    slurm.run("scontrol", "requeue", job.id, check=True)


def signal_steps(slurm, job):
    """What Slurm sends before a time limit, to whom it sends it; the script then queues itself."""
    slurm.run("scancel", "--signal=USR2", job.id, check=True)


def preempt(slurm, job):
    slurm.run("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=true", check=True)


def stopped(run, before):
    """Whether the process of this life wrote its checkpoint and ended. run.json is the last it writes."""
    try:
        state = json.loads(read(run + "/run.json") or "{}")
    except json.JSONDecodeError:
        return False
    return state.get("state") == "stopped" and steps_on_disk(run)[-1:] > [before]


def interrupted(slurm, root, ranks, steps):
    run, log = f"{root}/interrupted-{ranks}-{steps}", f"{root}/job-{ranks}-{steps}.log"
    job, saved = Job(slurm, run, ranks, steps, log), [0]
    for life, how in enumerate((queue_again, signal_steps, preempt, signal_steps, preempt)):
        # some steps of its own, from where the checkpoint was
        job.until(lambda: job.show()["JobState"] == "RUNNING" and not stopped(run, -1)
                  and job.steps() > saved[-1] + 1, f"life {life} to take steps")
        how(slurm, job)
        job.until(lambda: stopped(run, saved[-1]), f"a checkpoint after {how.__name__}")
        saved.append(steps_on_disk(run)[-1])
        job.until(lambda: int(job.show()["Restarts"]) == life + 1, f"a restart after {how.__name__}")
    try:
        job.until(lambda: job.show()["JobState"] in ("FAILED", "CANCELLED"), "the job's end")
    except Finished:
        pass
    end, said = job.show(), read(log)
    expect(end["JobState"] == "COMPLETED" and end["ExitCode"] == "0:0", f"job ended: {end}\n{said}")
    expect(end["Restarts"] == "5", f"{end['Restarts']} restarts")
    expect(saved == sorted(set(saved)) and saved[-1] < steps, f"interrupted at steps {saved}")
    # Twice after USR2; after a requeue or preemption too where Slurm lets the script live long enough to say so.
    expect(2 <= said.count("goes back into the queue") <= 5, f"the script queued itself again twice or more:\n{said}")
    expect(said.count(": resume ") == 5, f"five lives resumed:\n{said}")
    resumes = json.loads(read(run + "/run.json"))["resumes"]
    expect(resumes == 5, f"run.json counts {resumes} resumes")
    return run, saved[1:]


def main():
    why = slurm_here.missing()
    if why:
        print(f"no Slurm: {why}")
        # CI installs it (tools/setup --test): there, a skipped test would be a lost one
        return 1 if os.environ.get("CI") == "true" else 77
    begun = time.monotonic()
    with scratch() as root, slurm_here.Slurm(nodes=1) as slurm:
        for steps in (100, 400, 1600):
            try:
                run, saved = interrupted(slurm, root, ranks=1, steps=steps)
                break
            except Finished as early:
                print(f"{steps} steps were over while waiting for {early}; again with more", flush=True)
        else:
            raise SystemExit("this machine is too fast for this test: give it more steps")
        print(f"five interruptions: {time.monotonic() - begun:.1f} s", flush=True)
        reference = f"{root}/reference"
        good(*RECIPE, f"train.steps={steps}", f"output.dir={reference}")
        same(run, reference, f"interrupted at steps {saved} of {steps}")
        folder, ours = slurm.root, {d.pid for d in slurm.daemons}
        slurm.stop()
        expect(not slurm.alive(ours) and not os.path.exists(folder), "Slurm left something behind")
    print(f"interrupted at steps {saved} of {steps}; {time.monotonic() - begun:.1f} s")
    return 1 if failures else 0


sys.exit(main())
