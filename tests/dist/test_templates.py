"""The templates of tools/cluster, checked as far as that goes without their clusters: fields that the
schedulers require or refuse, names that have to agree, exit codes, files, packages; and what they start
runs here, as all its pods, interrupted and begun again. The sbatch template is run by test_slurm.py."""
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import yaml

PROGRAM, SOURCE = os.environ["PURKINJE"], os.environ["PK_SOURCE_DIR"]
CLUSTER = SOURCE + "/tools/cluster"
ENV = {**os.environ, "PURKINJE": PROGRAM}
MPIRUN = shutil.which("mpirun.openmpi") or shutil.which("mpirun")


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
    # 6 for each of two pods; waits of 10 s, doubled: more than the ten minutes of a run's lock
    assert job["backoffLimit"] == 12
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
    """What a container starts: the program of the image, with a recipe that exists."""
    assert image == f"purkinje:{VERSION}", image
    program, verb, recipe, folder, again = words
    assert program == "purkinje" and verb in ("pretrain", "finetune") and again == "--or-resume", words
    assert folder.startswith("output.dir=") and any(folder[11:].startswith(m + "/") for m in mounts), words
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
    assert service["spec"]["publishNotReadyAddresses"] is True  # ranks wait for each other by name
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 2
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    mounts = policy(spec)
    (c,) = spec["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in c["env"]}
    assert env["MASTER_ADDR"] == f"{name}-0.{service['metadata']['name']}"
    assert env["WORLD_SIZE"] == str(spec["completions"])
    words = command(c["image"], c["command"] + c["args"], mounts)
    return words, [{**env, "JOB_COMPLETION_INDEX": str(i)} for i in range(spec["completions"])]


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
    t, policies = job["spec"]["trainer"], runtime["spec"]["mlPolicy"]
    assert t["numNodes"] == policies["numNodes"] == 2 and policies["torch"] == {"numProcPerNode": 1}
    assert set(t) <= {"image", "command", "args", "env", "numNodes", "resourcesPerNode"}
    (c,) = inner["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in c["env"]}
    assert not any(n.startswith("PET_") for n in env)  # Trainer's own, which refuses a job that sets them
    said = {"PET_NNODES": str(t["numNodes"]), "PET_NPROC_PER_NODE": "1", "PET_MASTER_PORT": "29400",
            "PET_MASTER_ADDR": "purkinje-node-0-0.purkinje"}
    words = command(t["image"], t["command"] + t["args"], mounts)
    return words, [{**env, **said, "PET_NODE_RANK": str(i)} for i in range(t["numNodes"])]


def mpi_job():
    job = yaml.safe_load(text("tools/cluster/mpijob.yaml"))
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    spec, name = job["spec"], job["metadata"]["name"]
    assert set(spec) == {"slotsPerWorker", "sshAuthMountPath", "runPolicy", "mpiReplicaSpecs"}
    assert spec["slotsPerWorker"] == 1 and spec["sshAuthMountPath"] == "/root/.ssh"
    assert spec["runPolicy"] == {"cleanPodPolicy": "Running", "backoffLimit": 30}
    launcher, worker = (spec["mpiReplicaSpecs"][r] for r in ("Launcher", "Worker"))
    for r in (launcher, worker):
        assert set(r) == {"replicas", "restartPolicy", "template"} and r["restartPolicy"] == "Never"
        (c,) = r["template"]["spec"]["containers"]
        assert c["image"] == f"purkinje:{VERSION}-mpi"
    assert launcher["replicas"] == 1 and launcher["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
    pod = worker["template"]["spec"]
    (c,) = pod["containers"]
    assert c["command"] == ["/usr/sbin/sshd", "-De"]
    mounts = [m["mountPath"] for m in c["volumeMounts"]]
    assert [m["name"] for m in c["volumeMounts"]] == [v["name"] for v in pod["volumes"]]
    (c,) = launcher["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in c["env"]}
    assert env["MASTER_ADDR"] == f"{name}-worker-0.{name}"
    shell, minus_c, script = *c["command"], *c["args"]
    assert (shell, minus_c) == ("/bin/sh", "-c")
    line = re.sub(r"\\\n", " ", script).split(" &\n")[0].split()
    assert line[0] == "mpirun" and int(line[line.index("-n") + 1]) == worker["replicas"] == 2
    assert {line[i + 1] for i, w in enumerate(line) if w == "-x"} == set(env)  # the ranks get it all
    start = line.index("purkinje")
    words = command(f"purkinje:{VERSION}", line[start:], mounts)
    return words, script, env


SMALL = ["data.synthetic.records=64", "train.batch_size=16", "train.learning_rate.warmup=1",
         "train.log_every=1", "train.threads=1", "train.steps=150"]
OPEN_MPI = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1"}


def here(env):
    """The environment of a pod, but for the name of the first pod, and a port that is surely free."""
    changed = {"MASTER_ADDR": "127.0.0.1", "PET_MASTER_ADDR": "127.0.0.1", "PURKINJE_TIMEOUT": "60"}
    return {**ENV, **{k: changed.get(k, v) for k, v in env.items()}}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def life(commands, run, signalled):
    """All pods, from start to end; one of them gets a signal after its run has logged a new step."""
    def lines():
        return open(run + "/metrics.jsonl").read().count("\n") if os.path.exists(run + "/metrics.jsonl") else 0

    begun, pods = lines(), []
    for words, env in commands:
        pods.append(subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    while signalled is not None and pods[0].poll() is None and lines() <= begun:
        time.sleep(0.005)
    if signalled is not None:
        pods[signalled].send_signal(signal.SIGTERM)
    said = [p.communicate(timeout=120)[1] for p in pods]
    return [p.returncode for p in pods], "".join(said)


def starts_and_resumes(root, name, pods):
    """What the pods start, three times: stopped with 75, gone on, complete."""
    run = f"{root}/{name}"
    for signalled, code, expected in ((1, 75, "go on with"), (None, 0, "resuming it"), (None, 0, "the run is complete")):
        codes, said = life(pods(run, free_port()), run, signalled if len(pods(run, "1")) > 1 else signalled and 0)
        assert set(codes) == {code} and expected in said, (name, codes, said)
    return run


def run_all(root):
    words, envs = indexed_job()

    def indexed(run, port):
        line = [PROGRAM, *words[1:3], f"output.dir={run}", *words[4:], *SMALL]
        return [(line, {**here(e), "MASTER_PORT": port}) for e in envs]

    words_of_trainer, envs_of_trainer = train_job()
    assert words_of_trainer == words

    def trainer(run, port):
        line = [PROGRAM, *words[1:3], f"output.dir={run}", *words[4:], *SMALL]
        return [(line, {**here(e), "PET_MASTER_PORT": port}) for e in envs_of_trainer]

    words_of_mpi, script, env_of_mpi = mpi_job()
    assert words_of_mpi == words

    def mpi(run, port):
        changed = script.replace(words[3], f"output.dir={run} " + " ".join(SMALL)).replace("mpirun ", MPIRUN + " ", 1)
        changed = changed.replace(" purkinje pretrain", f" {PROGRAM} pretrain")
        return [(["/bin/sh", "-c", changed], {**here({**env_of_mpi, **OPEN_MPI}), "MASTER_PORT": port})]

    starts_and_resumes(root, "indexed", indexed)
    starts_and_resumes(root, "trainer", trainer)
    if MPIRUN:
        starts_and_resumes(root, "mpi", mpi)
    else:
        assert os.environ.get("CI") != "true", "CI installs Open MPI"
        print("no Open MPI: the script of mpijob.yaml does not run")


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
    assert {"openmpi-bin", "openssh-server", "openssh-client"} <= set(stages[1].split())  # for mpijob.yaml
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
        run_all(root)
        scripts()
        dockerfile(root)
        apptainer()
    print("indexed-job.yaml trainjob.yaml mpijob.yaml purkinje.sbatch Dockerfile purkinje.def")
    return 0


sys.exit(main())
