"""purkinje data import on several ranks: the corpus of 1, 2, 3, 5 ranks, and of more ranks than records, is
that of one process, every byte of every file, with damaged records among them. A rank that dies, fails or
does not see the folder ends all, leaves no corpus and no process, and the next import gives the same bytes."""
import array
import glob
import hashlib
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from rank_jobs import SOON, end, start  # noqa: E402
import runs  # noqa: E402
from runs import expect, good, purkinje, refused, scratch  # noqa: E402

LEADS = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()
STATEMENTS = (",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
              "NORM,normal ECG,1.0,,,NORM,NORM\n"
              "ABQRS,abnormal QRS,,1.0,,,\nSR,sinus rhythm,,,1.0,,\n")


def make_ptbxl(folder, n, rows_each=1):
    """n records, each in so many rows; of every seven one has a wrong checksum, another a short file."""
    rng = random.Random(1)
    os.makedirs(f"{folder}/records100/00000")
    with open(f"{folder}/scp_statements.csv", "w") as f:
        f.write(STATEMENTS)
    rows = ["ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr,filename_hr"]
    for i in range(1, n + 1):
        name = f"{i:05d}_lr"
        path = f"{folder}/records100/00000/{name}"
        x = array.array("h", [rng.randrange(-3000, 3000) for _ in range(12000)])
        with open(path + ".hea", "w") as f:
            f.write(f"{name} 12 100 1000\n")
            for k, lead in enumerate(LEADS):
                total = sum(x[k::12]) + (i % 7 == 3) & 0xffff
                f.write(f"{name}.dat 16 1000(0)/mV 16 0 {x[k]} {total} 0 {lead}\n")
        with open(path + ".dat", "wb") as f:
            f.write(x.tobytes()[:23998 if i % 7 == 5 else None])
        rows.append(f"{i},{i // 2},{i % 90}.0,{i % 2},\"{{'NORM': 100.0, 'SR': 0.0}}\",{i % 10 + 1},"
                    f"records100/00000/{name},records500/00000/{i:05d}_hr")
    with open(f"{folder}/ptbxl_database.csv", "w") as f:
        f.write(rows[0] + "\n")
        for k in range(rows_each):
            for row in rows[1:]:
                i, rest = row.split(",", 1)
                f.write(f"{int(i) + k * n},{rest}\n")


def make_e4(folder, n):
    """Recordings of different lengths, one without a usable window, one damaged."""
    for i in range(n):
        os.makedirs(f"{folder}/session_{i:02d}")
        values = [f"{math.sin(k / 9 + i) + math.sin(k / 4) / 3:.2f}" for k in range(64 * (7 * i + 15))]
        if i == 2:
            values = ["1.00"] * len(values)
        if i == 4:
            values[100] = "damaged"
        with open(f"{folder}/session_{i:02d}/BVP.csv", "w") as f:
            f.write("1600000000.0\n64.0\n" + "\n".join(values) + "\n")


def contents(folder):
    return {os.path.basename(p): hashlib.sha256(open(p, "rb").read()).hexdigest() for p in glob.glob(f"{folder}/*")}


def same(out, reference, what):
    a, b = contents(out), contents(reference)
    expect(a == b and "corpus.json" in a and "import_report.json" in a, f"{what}: {sorted(a)} {sorted(b)}")


def no_corpus(out, what):
    left = os.listdir(out) if os.path.exists(out) else []
    expect("corpus.json" not in left, f"{what} leaves a corpus")
    return left


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def processes(word):
    return [p.split("/")[2] for p in glob.glob("/proc/[0-9]*/cmdline") if word.encode() in read(p)]


def check_same(root, source, folder, sizes, settings=()):
    one = f"{root}/{source}"
    good("data", "import", source, folder, one, *settings, "--quiet")
    for n in sizes:
        out = f"{one}-{n}"
        r = good("launch", "-n", n, "data", "import", source, folder, out, *settings, "--workers", n % 2 + 1)
        expect(r.stdout.count("imported to") == 1, f"{source}, {n} ranks print {r.stdout!r}")
        same(out, one, f"{source} on {n} ranks")


def free_of(out, what):
    """No process of the import is left, within the time that a killed one needs to disappear."""
    limit = time.time() + 30
    while processes(out) and time.time() < limit:
        time.sleep(0.02)
    expect(not processes(out), f"{what} leaves processes {processes(out)}")


def in_the_middle(out, rank, begin):
    """Starts an import until it is seen while `rank` converts: a busy machine may look away for all of it."""
    for _ in range(20):
        jobs = begin()
        limit = time.time() + 60
        while time.time() < limit and all(p.poll() is None for p in jobs):
            if any(size(p) > 0 for p in glob.glob(f"{out}/import-*-r{rank}.part")):
                return jobs
            time.sleep(0.002)
        codes, said = end(jobs)
        expect(codes == [0] * len(jobs), f"{out}: {codes} {said}")
        shutil.rmtree(out)
    raise AssertionError(f"{out}: no import was seen in the middle")


def size(path):
    return os.path.getsize(path) if os.path.exists(path) else 0


def long_import(root, out):
    return ["data", "import", "ptbxl", f"{root}/long", out, "band=0.67-40", "--shard-records", "500", "--workers", "2",
            "-q"]


def check_death(root):
    """Killed in the middle of their ranges, rank 0 and others."""
    clean = f"{root}/long_clean"
    good(*long_import(root, clean))
    for victim in (0, 1, 2):
        out, what = f"{root}/killed_{victim}", f"rank {victim} killed"
        jobs = in_the_middle(out, 1, lambda: start(3, long_import(root, out)))
        jobs[victim].kill()
        begun = time.time()
        codes, said = end(jobs)
        took = time.time() - begun
        expect(codes == [-9 if r == victim else 71 for r in range(3)], f"{what}: {codes} {said}")
        said = "".join(said)
        expect(said.count(f"rank {victim} (") == 1 and said.count("error:") == 1, f"{what}: {said}")
        expect(took < SOON, f"{what}: {took:.1f} s until all had ended")
        left = no_corpus(out, what)
        # rank 0 takes the parts of the dead away; what a dead rank 0 leaves, the next import does
        expect(victim == 0 or not left, f"{what}: leaves {left}")
        free_of(out, what)
        good("launch", "-n", 2, *long_import(root, out))
        same(out, clean, f"imported again after {what}")


def check_launched_death(root):
    """Under the launcher: one line, and its exit code."""
    out = f"{root}/launched"
    [job] = in_the_middle(out, 2, lambda: [subprocess.Popen(
        [runs.PROGRAM, "launch", "-n", "3", *long_import(root, out)], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=runs.ENV)])
    for p in processes(out):  # the rank is the one whose parent is the launcher, others are its workers
        parent = read(f"/proc/{p}/stat").rsplit(b")", 1)[-1].split()[1:2]
        if b"\0RANK=2\0" in read(f"/proc/{p}/environ") and parent == [b"%d" % job.pid]:
            os.kill(int(p), signal.SIGKILL)
    _, said = job.communicate(timeout=60)
    expect(job.returncode == 71 and "rank 2" in said and "SIGKILL" in said and said.count("error:") == 1,
           f"launched: {job.returncode} {said}")
    expect(not no_corpus(out, "a launched rank killed"), f"a launched rank killed: leaves {os.listdir(out)}")
    free_of(out, "a launched rank killed")


def check_stopped(root):
    """A rank that stands still (its host is gone, say) is noticed by its silence."""
    out = f"{root}/stopped"
    more = {"PURKINJE_SILENCE": "1", "PURKINJE_HEARTBEAT": "0.2"}
    jobs = in_the_middle(out, 1, lambda: start(2, long_import(root, out), more=more))
    jobs[1].send_signal(signal.SIGSTOP)
    said = jobs[0].communicate(timeout=60)[1]
    jobs[1].kill()
    jobs[1].communicate()
    expect(jobs[0].returncode == 71 and "rank 1" in said, f"rank 1 stopped: {jobs[0].returncode} {said}")
    expect(not no_corpus(out, "rank 1 stopped"), f"rank 1 stopped: leaves {os.listdir(out)}")
    free_of(out, "rank 1 stopped")


def check_refused(root):
    """What all ranks, or one of them, cannot do: said once, with the code that it has in one process."""
    for name in "ab":
        os.makedirs(f"{root}/{name}")
    e4 = ["data", "import", "e4", f"{root}/e4s"]
    codes, said = end(start(2, [*e4, "out", "-q"], cwd=lambda r: f"{root}/{'ab'[r]}"))
    expect(codes == [69, 69] and "rank 1 of 2 on host" in said[1] and "does not see the folder out" in said[1] and
           not said[0], f"no common folder: {codes} {said}")
    expect(not no_corpus(f"{root}/a/out", "no common folder") and not os.path.exists(f"{root}/b/out"), "it writes")
    out = f"{root}/other"
    codes, said = end(start(2, [*e4, out, "-q"], lambda r: [f"stride={r + 3}"]))
    expect(codes == [2, 2] and "rank 1 of 2" in said[1] and "other settings" in said[1], f"{codes} {said}")
    expect(not no_corpus(out, "other settings"), f"other settings: {os.listdir(out)}")
    for code, words, command in (
            (2, "takes the folder of the recordings", e4),
            (2, "'speed=1' is not a setting", [*e4, out, "speed=1"]),
            (74, "nothing_here", ["data", "import", "e4", f"{root}/nothing_here", out]),
            (73, "holds a corpus already", [*e4, f"{root}/e4"]),
            (65, "all 2 records were rejected", ["data", "import", "ptbxl", f"{root}/bad", f"{root}/bad_out"])):
        r = refused(code, [words], "launch", "-n", 3, *command, "-q")
        expect(r.stderr.count("error:") == 1, f"said more than once: {r.stderr}")
    no_corpus(f"{root}/bad_out", "nothing but damaged records")
    for command in (["data", "synth", f"{root}/synth"], ["data", "join", f"{root}/joined", f"{root}/e4"],
                    ["export", "run", "out"], ["reconstruct", "run", "corpus", "out.svg"]):
        refused(2, [command[0], "runs in a single process", "of 2"], "launch", "-n", 2, *command)
    expect(not os.path.exists(f"{root}/synth") and not os.path.exists(f"{root}/joined"), "a refused command writes")
    good("launch", "-n", 2, "data", "synth", "--help")


with scratch() as root:
    make_ptbxl(f"{root}/ptb", 23)
    probe = purkinje("data", "import", "ptbxl", f"{root}/ptb", f"{root}/probe", "--quiet")
    if "without HDF5" in probe.stderr:
        print(f"skipped: {probe.stderr.strip()}")
        sys.exit(77)
    make_e4(f"{root}/e4s", 7)
    make_ptbxl(f"{root}/long", 23, 60)
    make_ptbxl(f"{root}/bad", 2)
    for p in glob.glob(f"{root}/bad/*/*/*.dat"):
        os.truncate(p, 0)
    check_same(root, "ptbxl", f"{root}/ptb", (2, 3, 5, 29), ("--shard-records", "8"))
    check_same(root, "e4", f"{root}/e4s", (2, 3, 9), ("stride=3",))
    expect('"rejected": 6' in open(f"{root}/ptbxl/import_report.json").read(), "6 damaged records")
    expect('"rejected": 2' in open(f"{root}/e4/import_report.json").read(), "2 damaged recordings")
    check_death(root)
    check_launched_death(root)
    check_stopped(root)
    check_refused(root)
sys.exit(1 if runs.failures else 0)
