"""A run under a real Slurm, interrupted five times in the three ways there are (queued again by hand,
signalled as before a time limit, preempted by a job of higher priority), ends with the bits of a run
that nothing interrupted; so does a run of two ranks on two nodes, interrupted three times. A rank that
is killed ends its job with 71, by name. The job is the template that users submit."""
import importlib.machinery
import importlib.util
import json
import os
import re
import signal
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
    """The template, submitted with one rank on each of some nodes; looked at through Slurm's own commands."""

    def __init__(self, slurm, run, ranks, steps, log):
        self.slurm, self.run, self.log = slurm, run, log
        env = {**ENV, **slurm.env, "PURKINJE": PROGRAM}
        if ranks > 1:  # the names of these nodes do not resolve
            env["PURKINJE_RENDEZVOUS"] = f"{run}.meet"
        r = slurm_here.subprocess.run(
            ["sbatch", "--parsable", f"--nodes={ranks}", "--ntasks-per-node=1", f"--output={log}", BATCH,
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
    """By a job that wants all nodes, so that no free one spares this job."""
    slurm.run("sbatch", "--partition=high", f"--nodes={slurm.nodes}", "--exclusive", "--output=/dev/null",
              "--wrap=true", check=True)


def stopped(run, before):
    """Whether the process of this life wrote its checkpoint and ended. run.json is the last it writes."""
    try:
        state = json.loads(read(run + "/run.json") or "{}")
    except json.JSONDecodeError:
        return False
    return state.get("state") == "stopped" and steps_on_disk(run)[-1:] > [before]


def interrupted(slurm, root, ranks, ways, steps):
    run, log = f"{root}/interrupted-{ranks}-{steps}", f"{root}/job-{ranks}-{steps}.log"
    job, saved, lives = Job(slurm, run, ranks, steps, log), [0], len(ways)
    for life, how in enumerate(ways):
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
    expect(end["Restarts"] == str(lives), f"{end['Restarts']} restarts")
    expect(end["NumNodes"] == str(ranks), f"on {end['NumNodes']} nodes")
    expect(saved == sorted(set(saved)) and saved[-1] < steps, f"interrupted at steps {saved}")
    # After every USR2; after a requeue or preemption too where Slurm lets the script live long enough to say so.
    asked = ways.count(signal_steps)
    expect(asked <= said.count("goes back into the queue") <= lives, f"the script queued itself again:\n{said}")
    expect(said.count("holds this run: resuming it") == lives, f"{lives} lives resumed:\n{said}")
    expect(said.count(f"on each of {ranks} ranks") == (lives + 1 if ranks > 1 else 0), f"{ranks} ranks:\n{said}")
    resumes = json.loads(read(run + "/run.json"))["resumes"]
    expect(resumes == lives, f"run.json counts {resumes} resumes")
    return run, saved[1:]


def rank_process(slurm, rank):
    """The process of a rank: a child of Slurm's step, with the number of its task."""
    for pid in slurm_here.descendants(os.getpid()):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                env = f.read().split(b"\0")
            program = os.readlink(f"/proc/{pid}/exe")
        except OSError:
            continue
        if program == os.path.realpath(PROGRAM) and f"SLURM_PROCID={rank}".encode() in env:
            return pid
    return None


def rank_killed(slurm, root):
    """kill -9 of one rank: the other says who it was, and where; the job fails with 71, and is not queued again."""
    run, log = f"{root}/killed", f"{root}/killed.log"
    job = Job(slurm, run, 2, 1000000, log)
    job.until(lambda: job.steps() > 3, "the run to take steps")
    pid = rank_process(slurm, 1)
    assert pid, f"no process of rank 1\n{read(log)}"
    os.kill(pid, signal.SIGKILL)
    job.until(lambda: job.show()["JobState"] == "FAILED", "the job to fail")
    end, said = job.show(), read(log)
    expect(end["ExitCode"] == "71:0" and end["Restarts"] == "0", f"a killed rank: {end}\n{said}")
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    # the step is that of the last beat; on a busy machine there may have been none
    wanted = rf"error: rank 1 \({os.uname().nodename}, process {pid}\) died( at step \d+ in [a-z -]+)?"
    expect(len(lines) == 1 and re.fullmatch(wanted, lines[0]), f"a killed rank: {lines}\n{said}")
    print(lines and lines[0], flush=True)


def survives(slurm, root, ranks, ways):
    """The run's folder; its twin without interruptions is a single process."""
    begun = time.monotonic()
    for steps in (100, 400, 1600):
        try:
            run, saved = interrupted(slurm, root, ranks, ways, steps)
            break
        except Finished as early:
            print(f"{steps} steps were over while waiting for {early}; again with more", flush=True)
    else:
        raise SystemExit("this machine is too fast for this test: give it more steps")
    reference = f"{root}/reference-{steps}"
    if not os.path.exists(reference):
        good(*RECIPE, f"train.steps={steps}", f"output.dir={reference}")
    same(run, reference, f"{ranks} ranks interrupted at steps {saved} of {steps}")
    print(f"{ranks} ranks interrupted at steps {saved} of {steps}: {time.monotonic() - begun:.1f} s", flush=True)


def main():
    why = slurm_here.missing()
    if why:
        print(f"no Slurm: {why}")
        # CI installs it (tools/setup --test): there, a skipped test would be a lost one
        return 1 if os.environ.get("CI") == "true" else 77
    with scratch() as root, slurm_here.Slurm(nodes=2) as slurm:
        survives(slurm, root, 1, (queue_again, signal_steps, preempt, signal_steps, preempt))
        survives(slurm, root, 2, (signal_steps, preempt, queue_again))
        rank_killed(slurm, root)
        folder, ours = slurm.root, {d.pid for d in slurm.daemons}
        slurm.stop()
        expect(not slurm.alive(ours) and not os.path.exists(folder), "Slurm left something behind")
    return 1 if failures else 0


sys.exit(main())
