"""A run under a real Slurm, interrupted five times in the three ways there are (queued again by hand,
signalled as before a time limit, preempted by a job of higher priority), ends with the bits of a run
that nothing interrupted; so does one of two ranks on two nodes, interrupted in each way once. A rank that
is killed ends its job with one line that names it. The job is the template that users submit."""
import importlib.machinery
import importlib.util
import json
import os
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
    """The template, submitted; looked at through Slurm's own commands."""

    def __init__(self, slurm, run, ranks, steps, log):
        self.slurm, self.run, self.log = slurm, run, log
        # The nodes' names are made up, so that ranks cannot find each other by them.
        env = {**ENV, **slurm.env, "PURKINJE": PROGRAM, "PURKINJE_RENDEZVOUS": f"{run}.meet"}
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
    slurm.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true", check=True)


def stopped(run, before):
    """Whether the process of this life wrote its checkpoint and ended. run.json is the last it writes."""
    try:
        state = json.loads(read(run + "/run.json") or "{}")
    except json.JSONDecodeError:
        return False
    return state.get("state") == "stopped" and steps_on_disk(run)[-1:] > [before]


def interrupted(slurm, root, ranks, steps, ways):
    run, log = f"{root}/interrupted-{ranks}-{steps}", f"{root}/job-{ranks}-{steps}.log"
    job, saved = Job(slurm, run, ranks, steps, log), [0]
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
    expect(end["Restarts"] == str(len(ways)), f"{end['Restarts']} restarts")
    expect(saved == sorted(set(saved)) and saved[-1] < steps, f"interrupted at steps {saved}")
    # After each USR2; after a requeue or preemption too where Slurm lets the script live long enough to say so.
    expect(ways.count(signal_steps) <= said.count("goes back into the queue") <= len(ways),
           f"the script queued itself again after each signal:\n{said}")
    resumes = json.loads(read(run + "/run.json"))["resumes"]
    expect(resumes == len(ways), f"run.json counts {resumes} resumes")
    expect(ranks == 1 or "of 2 stopped after step" in said, f"two ranks stopped:\n{said}")
    return run, saved[1:]


def survived(slurm, root, ranks, ways):
    """The bits of a run that nothing interrupted, however long this machine makes it necessary to be."""
    begun = time.monotonic()
    for steps in (100, 400, 1600):
        try:
            run, saved = interrupted(slurm, root, ranks, steps, ways)
            break
        except Finished as early:
            print(f"{steps} steps were over while waiting for {early}; again with more", flush=True)
    else:
        raise SystemExit("this machine is too fast for this test: give it more steps")
    print(f"{ranks} ranks, {len(ways)} interruptions: {time.monotonic() - begun:.1f} s", flush=True)
    reference = f"{root}/reference-{steps}"
    if not os.path.exists(reference):
        good(*RECIPE, f"train.steps={steps}", f"output.dir={reference}")
    same(run, reference, f"{ranks} ranks, interrupted at steps {saved} of {steps}")


def process_of(run, rank):
    """The process of a rank of this run, by its environment; None before it has begun."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as c, open(f"/proc/{pid}/environ", "rb") as e:
                if PROGRAM.encode() in c.read().split(b"\0")[0] and \
                        {f"SLURM_PROCID={rank}".encode(), f"PURKINJE_RENDEZVOUS={run}.meet".encode()} <= \
                        set(e.read().split(b"\0")):
                    return int(pid)
        except OSError:
            pass
    return None


def killed(slurm, root):
    """kill -9 of one rank inside srun: the job ends with 71, and one line says which."""
    run, log = f"{root}/killed", f"{root}/killed.log"
    job = Job(slurm, run, 2, 1000000, log)
    job.until(lambda: job.steps() > 2, "steps on two ranks")
    time.sleep(2)  # where it stands, a rank tells every second
    victim = process_of(run, 1)
    os.kill(victim, signal.SIGKILL)
    job.until(lambda: job.show()["JobState"] == "FAILED", "the job's end")
    end, said = job.show(), read(log)
    lines = [line for line in said.splitlines() if line.startswith("error:")]
    expect(end["ExitCode"] == "71:0" and "task 0: Exited with exit code 71" in said, f"{end}\n{said}")
    expect(len(lines) == 1 and "rank 1 (" in lines[0] and f"process {victim})" in lines[0] and "at step" in lines[0],
           f"one line names the rank:\n{said}")
    expect(process_of(run, 0) is None, "rank 0 lives on")


def main():
    why = slurm_here.missing()
    if why:
        print(f"no Slurm: {why}")
        # CI installs it (tools/setup --test): there, a skipped test would be a lost one
        return 1 if os.environ.get("CI") == "true" else 77
    begun = time.monotonic()
    with scratch() as root, slurm_here.Slurm(nodes=2) as slurm:
        survived(slurm, root, 1, [queue_again, signal_steps, preempt, signal_steps, preempt])
        survived(slurm, root, 2, [signal_steps, queue_again, preempt])
        killed(slurm, root)
        folder, ours = slurm.root, {d.pid for d in slurm.daemons}
        slurm.stop()
        expect(not slurm.alive(ours) and not os.path.exists(folder), "Slurm left something behind")
    print(f"{time.monotonic() - begun:.1f} s")
    return 1 if failures else 0


sys.exit(main())
