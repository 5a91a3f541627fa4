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
    assert job["backoffLimit"] == 6  # waits of 10 s, doubled: more than the ten minutes of a run's lock
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


def command(image, words, args, mounts):
    """What the container starts: a script that the package installs, with a recipe that exists."""
    assert image == f"purkinje:{VERSION}", image
    assert words == ["/usr/share/purkinje/cluster/start_or_resume"], words
    run, verb, recipe = args[:3]
    assert any(run.startswith(m + "/") for m in mounts) and verb in ("pretrain", "finetune"), args
    assert os.path.exists(f"{SOURCE}/recipes/{recipe}.yaml"), recipe
    return [f"{CLUSTER}/start_or_resume", *args]


def indexed_job():
    service, job = yaml.safe_load_all(text("tools/cluster/indexed-job.yaml"))
    name = job["metadata"]["name"]
    assert (service["apiVersion"], service["kind"]) == ("v1", "Service")
    assert service["spec"]["clusterIP"] == "None"  # headless, and a string
    assert service["spec"]["selector"] == {"job-name": name}
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"] == 1
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    mounts = policy(spec)
    (c,) = spec["template"]["spec"]["containers"]
    return command(c["image"], c["command"], c["args"], mounts)


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
    assert t["numNodes"] == runtime["spec"]["mlPolicy"]["numNodes"] == 1
    assert set(t) <= {"image", "command", "args", "env", "numNodes", "resourcesPerNode"}
    return command(t["image"], t["command"], t["args"], mounts)


def starts_and_resumes(words, root):
    """The container's command, three times: stopped with 75, gone on, complete."""
    run = root + "/run"
    small = ["data.synthetic.records=64", "train.batch_size=16", "train.learning_rate.warmup=1", "train.log_every=1"]
    line = [words[0], run, *words[2:], *small, "train.steps=40"]
    p = subprocess.Popen(line, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while p.poll() is None and not os.path.exists(run + "/metrics.jsonl"):
        time.sleep(0.01)
    p.send_signal(signal.SIGTERM)
    said = p.communicate(timeout=120)[1]
    assert p.returncode == 75, (p.returncode, said)
    for expected in ("", "the run is complete"):
        r = subprocess.run(line, env=ENV, capture_output=True, text=True, timeout=120)
        assert r.returncode == 0 and expected in r.stderr, r.stderr
    r = subprocess.run(words[:2], env=ENV, capture_output=True, text=True)
    assert r.returncode == 2 and "start_or_resume RUN pretrain" in r.stderr, r.stderr


def scripts():
    for name in ("tools/cluster/start_or_resume", "tools/cluster/purkinje.sbatch", "tools/bundle", "tools/setup"):
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
        words = indexed_job()
        assert train_job() == words
        starts_and_resumes(words, root)
        scripts()
        dockerfile(root)
        apptainer()
    print("indexed-job.yaml trainjob.yaml start_or_resume purkinje.sbatch Dockerfile purkinje.def")
    return 0


sys.exit(main())
