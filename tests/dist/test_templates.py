"""The templates of tools/cluster, checked as far as that goes without their clusters: fields that the
schedulers require or refuse, names that have to agree, exit codes, files, packages; and the scripts
in them run. The sbatch template is run by test_slurm.py."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from rank_jobs import free_port  # noqa: E402

PROGRAM, SOURCE = os.environ["PURKINJE"], os.environ["PK_SOURCE_DIR"]
CLUSTER = SOURCE + "/tools/cluster"
ENV = {**os.environ, "PURKINJE": PROGRAM}


def text(path):
    with open(os.path.join(SOURCE, path)) as f:
        return f.read()


VERSION = re.search(r"project\(purkinje VERSION ([0-9.]+)", text("CMakeLists.txt")).group(1)
CODES = {int(c) for c in re.findall(r"X\(\w+, *(\d+), *\"", text("core/base.h"))}
RETRY_IS_USELESS = {2, 65, 70, 76}
assert RETRY_IS_USELESS | {75} <= CODES, CODES


def policy(job):
    """What a Job does with exit codes: 75 starts again uncounted, what repeats itself fails at once."""
    pod = job["template"]["spec"]
    names = [c["name"] for c in pod["containers"]]
    assert pod["restartPolicy"] == "Never"  # else Kubernetes refuses the policy
    assert pod["terminationGracePeriodSeconds"] >= 60  # time for the checkpoint
    assert job["backoffLimit"] == 12  # 6 tries of 2 pods, waits of 10 s, doubled: longer than a lost node's lock
    said = {}
    for rule in job["podFailurePolicy"]["rules"]:
        assert len(set(rule) & {"onExitCodes", "onPodConditions"}) == 1, rule  # exactly one of them
        assert rule["action"] in ("Ignore", "FailJob", "FailIndex", "Count")
        if "onExitCodes" in rule:
            codes = rule["onExitCodes"]
            assert codes["containerName"] in names and codes["operator"] == "In" and 0 not in codes["values"]
            assert codes["values"] == sorted(set(codes["values"]))
            said.update({c: rule["action"] for c in codes["values"]})
        else:
            assert rule["onPodConditions"] == [{"type": "DisruptionTarget"}] and rule["action"] == "Ignore"
            said["disrupted"] = "Ignore"
    assert said == {75: "Ignore", "disrupted": "Ignore", **{c: "FailJob" for c in RETRY_IS_USELESS}}, said
    volumes = {v["name"] for v in pod["volumes"]}
    mounts = {m["name"]: m["mountPath"] for c in pod["containers"] for m in c["volumeMounts"]}
    assert set(mounts) == volumes
    return list(mounts.values())


def command(image, words, mounts):
    """What a container starts: the program, with a recipe that exists, in a folder that outlives it."""
    assert image == f"purkinje:{VERSION}", image
    program, verb, recipe, out, how = words
    assert program == "purkinje" and verb in ("pretrain", "finetune") and how == "--or-resume", words
    assert out.startswith("output.dir=") and any(out[11:].startswith(m + "/") for m in mounts), words
    assert os.path.exists(f"{SOURCE}/recipes/{recipe}.yaml"), recipe
    return words


def indexed_job():
    service, job = yaml.safe_load_all(text("tools/cluster/indexed-job.yaml"))
    name = job["metadata"]["name"]
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert service["spec"]["clusterIP"] == "None"  # headless, and a string
    assert service["spec"]["selector"] == {"job-name": name}
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 2
    domain = spec["template"]["spec"]["subdomain"]
    assert domain == service["metadata"]["name"]
    mounts = policy(spec)
    (c,) = spec["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in c["env"]}
    assert env["WORLD_SIZE"] == str(spec["completions"]) and env["MASTER_ADDR"] == f"{name}-0.{domain}"
    return command(c["image"], c["command"] + c["args"], mounts), env


def train_job():
    runtime, job = yaml.safe_load_all(text("tools/cluster/trainjob.yaml"))
    assert runtime["apiVersion"] == job["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert (runtime["kind"], job["kind"]) == ("TrainingRuntime", "TrainJob")
    assert job["spec"]["runtimeRef"] == {
        "apiGroup": "trainer.kubeflow.org", "kind": runtime["kind"], "name": runtime["metadata"]["name"]}
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    labels = replicated["template"]["metadata"]["labels"]
    assert labels == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}  # how Trainer finds it
    inner = replicated["template"]["spec"]
    assert replicated["name"] == inner["template"]["spec"]["containers"][0]["name"] == "node"
    mounts = policy(inner)
    t = job["spec"]["trainer"]
    policies = runtime["spec"]["mlPolicy"]
    assert t["numNodes"] == policies["numNodes"] == 2 and policies["torch"] == {"numProcPerNode": 1}
    assert set(t) <= {"image", "command", "args", "env", "numNodes", "resourcesPerNode"}
    return command(t["image"], t["command"] + t["args"], mounts)


def mpi_job():
    job = yaml.safe_load(text("tools/cluster/mpijob.yaml"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    spec, name = job["spec"], job["metadata"]["name"]
    assert set(spec) <= {"mpiImplementation", "slotsPerWorker", "launcherCreationPolicy", "runPolicy", "mpiReplicaSpecs"}
    launcher, worker = (spec["mpiReplicaSpecs"][k] for k in ("Launcher", "Worker"))
    pod, other = launcher["template"]["spec"], worker["template"]["spec"]
    (c,), (w,) = pod["containers"], other["containers"]
    args = c["args"]
    assert spec["slotsPerWorker"] == 1 and launcher["replicas"] == 1
    assert args[args.index("-n") + 1] == str(worker["replicas"])
    assert f"MASTER_ADDR={name}-worker-0.{name}" in args  # as the operator names its pods
    assert pod["terminationGracePeriodSeconds"] >= 60 and "kill -USR2 1" in c["lifecycle"]["preStop"]["exec"]["command"][2]
    assert {v["name"] for v in other["volumes"]} == {m["name"] for m in w["volumeMounts"]}
    assert w["image"] == c["image"] == f"purkinje:{VERSION}-mpi" and c["command"] == ["mpirun"]
    assert f"-t {w['image']}" in text("tools/cluster/Dockerfile")
    at = args.index("purkinje")
    return args[:at], command(f"purkinje:{VERSION}", args[at:], [m["mountPath"] for m in w["volumeMounts"]])


SMALL = ["data.synthetic.records=64", "train.batch_size=16", "train.learning_rate.warmup=1", "train.log_every=1",
         "train.threads=1", "train.steps=40"]


def here(words, run):
    """A container's command on this machine: the program that was built, a folder of the test's, a small run."""
    return [PROGRAM, *[f"output.dir={run}" if w.startswith("output.dir=") else w for w in words[1:]], *SMALL]


def in_order(lives, run, signal_to):
    """Three lives of a run: stopped with 75, gone on, complete. lives() starts its processes."""
    first = lives()
    while all(p.poll() is None for p in first) and not os.path.exists(run + "/metrics.jsonl"):
        time.sleep(0.01)
    signal_to(first)
    said = [p.communicate(timeout=300)[1] for p in first]
    assert [p.returncode for p in first] == [75] * len(first), ([p.returncode for p in first], said)
    for expected in ("", "the run is complete"):
        again = lives()
        said = [p.communicate(timeout=300)[1] for p in again]
        assert [p.returncode for p in again] == [0] * len(again) and expected in "".join(said), said
    with open(run + "/run.json") as f:
        assert yaml.safe_load(f)["resumes"] == 2


def popen(words, env):
    return subprocess.Popen(words, env={**ENV, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def pods(words, env, root):
    """The pods of the Indexed Job: each decides by itself when it starts, rank 0 alone whether there is a run."""
    run, jitter = root + "/pods", iter((0, 0.3, 0.3, 0, 0.1, 0))

    def lives():
        there = {**env, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        started = []
        for index in range(int(env["WORLD_SIZE"])):
            time.sleep(next(jitter))
            started.append(popen(here(words, run), {**there, "JOB_COMPLETION_INDEX": str(index)}))
        return started
    in_order(lives, run, lambda p: p[1].send_signal(signal.SIGTERM))  # one of them is evicted


def mpirun(launcher, words, root):
    """The launcher of the MPIJob; its hook's signal reaches the ranks."""
    run = root + "/mpi"

    def lives():
        there = ["MASTER_ADDR=127.0.0.1" if w.startswith("MASTER_ADDR=") else
                 f"MASTER_PORT={free_port()}" if w.startswith("MASTER_PORT=") else w for w in launcher]
        return [popen(["mpirun", "--oversubscribe", *there, *here(words, run)], {})]
    in_order(lives, run, lambda p: p[0].send_signal(signal.SIGUSR2))


def alone(words, root):
    """The same command as a single process; and what it does not go on with."""
    run = root + "/alone"
    in_order(lambda: [popen(here(words, run), {})], run, lambda p: p[0].send_signal(signal.SIGTERM))

    def refused(code, says, *more):
        r = subprocess.run([*here(words, run), *more], env=ENV, capture_output=True, text=True, timeout=60)
        assert r.returncode == code and says in r.stderr, (r.returncode, r.stderr)
    refused(2, "holds a run of another recipe: 'batch_size: 16' there, 'batch_size: 32' here", "train.batch_size=32")
    refused(2, "give one", "--overwrite")
    r = subprocess.run([*here(words, run), "train.steps=42"], env=ENV, capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr  # longer is the same run
    for name in ("recipe.yaml", "metrics.jsonl"):  # ended before its first step: there is nothing to go on with
        os.remove(f"{run}/{name}")
    shutil.rmtree(run + "/checkpoints")
    r = subprocess.run(here(words, run), env=ENV, capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and os.path.exists(run + "/recipe.yaml"), r.stderr


def scripts():
    for name in ("tools/cluster/purkinje.sbatch", "tools/bundle", "tools/setup"):
        shell = text(name).split("\n", 1)[0]
        check = ["bash" if "bash" in shell else "sh", "-n"]
        subprocess.run([*check, SOURCE + "/" + name], check=True)
        if shutil.which("shellcheck"):
            r = subprocess.run(["shellcheck", SOURCE + "/" + name], capture_output=True, text=True)
            assert r.returncode == 0, r.stdout
    batch = re.findall(r"^#SBATCH (--\S+)$", text("tools/cluster/purkinje.sbatch"), re.M)
    # to the steps, not to the shell (B:), whose output is kept when the job runs again
    assert {"--signal=USR2@120", "--requeue", "--open-mode=append"} <= set(batch), batch
    r = subprocess.run(["bash", CLUSTER + "/purkinje.sbatch"], env=ENV, capture_output=True, text=True)
    assert r.returncode == 2 and "needs RUN" in r.stderr, r.stderr


def dockerfile(root):
    """What it copies is enough to configure and to package; what it installs is what tools/setup does."""
    said = text("tools/cluster/Dockerfile").replace("\\\n", " ")
    stages = re.split(r"^FROM ", said, flags=re.M)[1:]
    assert len(stages) == 2 and " AS build" in stages[0]
    build = re.search(r"^BUILD=\(([^)]*)\)", text("tools/setup"), re.M).group(1).split()
    installed = re.search(r"--no-install-recommends +([a-z0-9 .-]+?) +&&", stages[0]).group(1).split()
    assert set(installed) == {*build, "file"}, installed  # cpack asks 'file' what to look at
    tree = root + "/src"
    os.mkdir(tree)
    for words in re.findall(r"^COPY (?!--from)(.+)$", stages[0], re.M):
        *sources, target = words.split()
        assert target.startswith("/src"), words
        for s in sources:
            target_path = tree + target[4:]
            if os.path.isdir(f"{SOURCE}/{s}"):
                shutil.copytree(f"{SOURCE}/{s}", target_path, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(f"{SOURCE}/{s}", target_path)
    line = re.search(r"RUN (cmake -S /src -B /build[^&]*)", stages[0]).group(1)
    words = line.replace("/src", tree).replace("/build", root + "/build").split()
    r = subprocess.run([*words, "-DPK_WITH_CUDA=OFF"], capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    r = subprocess.run(["ninja", "-C", root + "/build", "-n"], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout
    assert 'ENTRYPOINT ["purkinje"]' in stages[1] and "COPY --from=build /deb" in stages[1]


def apptainer():
    said = text("tools/cluster/purkinje.def")
    sections = re.findall(r"^%(\w+)", said, re.M)
    assert sections == ["arguments", "files", "post", "runscript", "test"] and said.count("Bootstrap: docker") == 1
    default = re.search(r"%arguments\n +BUNDLE=(\S+)", said).group(1)
    assert f"tools/bundle build/release {default}" in said and "{{ BUNDLE }} /opt/purkinje.tar.gz" in said
    assert "/opt/purkinje/bin/purkinje /usr/local/bin/purkinje" in said


def main():
    with tempfile.TemporaryDirectory(prefix="purkinje-templates-") as root:
        words, env = indexed_job()
        launcher, again = mpi_job()
        assert train_job() == words == again
        alone(words, root)
        pods(words, env, root)
        mpirun(launcher, words, root)
        scripts()
        dockerfile(root)
        apptainer()
    print("indexed-job.yaml trainjob.yaml mpijob.yaml purkinje.sbatch Dockerfile purkinje.def")
    return 0


sys.exit(main())
