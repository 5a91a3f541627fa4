"""purkinje launch ends the job on all ranks when one dies, hangs, or is cut off: 50 random kills, 20 stops,
and a network that goes away, each with a limit on the time, one line that names the rank, and no orphan.

The ranks are `test_heartbeat rank`, which computes and exchanges like training. Jobs run side by side."""
import concurrent.futures
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

PROGRAM = os.environ["PURKINJE"]
RANK = os.path.join(os.path.dirname(PROGRAM), "test_heartbeat")
HOST = os.uname().nodename
KILLS, STOPS = 50, 20
# Wide enough that a rank which a busy machine holds up for a second or two is not taken for one that hangs.
WATCHDOG = 3
FAST = {"PURKINJE_HEARTBEAT": "0.5", "PURKINJE_WATCHDOG": str(WATCHDOG), "PURKINJE_SILENCE": "30"}
random.seed(7)
placed = []  # for each kill, whether the message had a step


def environment(**extra):
    keep = {k: v for k, v in os.environ.items() if not re.match(
        r"(RANK|WORLD_SIZE|LOCAL_|MASTER_|PET_|SLURM_|OMPI_|PMI|MPI_|JOB_COMPLETION|PURKINJE_)", k)}
    return {**keep, **extra}


def start(*args, ranks=4, env=None, options=(), program=None):
    p = subprocess.Popen([PROGRAM, "launch", "-n", str(ranks), *options, *(program or [RANK, "rank"]), *map(str, args)],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**(env or {})))
    p.seen = []
    return p


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(c) for c in f.read().split()]


def rank_of(pid):
    with open(f"/proc/{pid}/environ", "rb") as f:
        return int(dict(e.split(b"=", 1) for e in f.read().split(b"\0") if b"=" in e)[b"RANK"])


def until_training(p):
    for line in p.stderr:
        p.seen.append(line)
        if line == "training\n":
            break
    else:
        raise AssertionError(f"never trained: {p.seen}")
    found = {rank_of(c): c for c in children(p.pid)}
    assert sorted(found) == list(range(len(found))), found
    return found


def end(p):
    out, err = p.communicate(timeout=60)
    return out, "".join(p.seen) + err


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:  # gone, before the file was opened or while it was read
        return False


def gone(pids):
    """No process of these is left (a zombie that init has yet to collect is none)."""
    deadline = time.monotonic() + 10
    left = list(pids)
    while left and time.monotonic() < deadline:
        left = [p for p in left if runs(p)]
        time.sleep(0.01)
    return not left


def one_line(err):
    lines = [l for l in err.splitlines() if "error" in l]
    assert len(lines) == 1, err
    return lines[0]


def kill(number):
    victim = number % 4
    p = start(100000, 2, env={"PURKINJE_HEARTBEAT": "0.1"})
    ranks = until_training(p)
    time.sleep(0.05 + random.random() * 0.3)  # a beat after the first step
    begun = time.monotonic()
    os.kill(ranks[victim], signal.SIGKILL)
    _, err = end(p)
    took = time.monotonic() - begun
    assert p.returncode == 71, (p.returncode, err)
    assert gone(ranks.values()), err
    line = one_line(err)
    wanted = rf"error: rank {victim} \({HOST}, process {ranks[victim]}\) was killed by SIGKILL( at step \d+ in (compute|all-reduce))?$"
    match = re.fullmatch(wanted, line)
    assert match, line
    placed.append(match[1] is not None)
    return took


def stop(number):
    victim = number % 4
    p = start(100000, 2, env=FAST)
    ranks = until_training(p)
    time.sleep(random.random() * 0.2)
    begun = time.monotonic()
    os.kill(ranks[victim], signal.SIGSTOP)
    _, err = end(p)
    took = time.monotonic() - begun
    assert p.returncode == 71, (p.returncode, err)
    assert gone(ranks.values()), err
    line = one_line(err)
    assert line.startswith(f"error: rank {victim} ({HOST}, process {ranks[victim]}) stopped answering"), line
    assert "(it is stopped: SIGSTOP) at step " in line, line
    return took


def many(what, count, limit):
    """Most jobs end within the limit that is promised, and on a machine that others keep busy (seen to hold up a job
    for more than a second) all a little later."""
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        times = sorted(pool.map(what, range(count)))
    print(f"{what.__name__}: {count} times, median {times[count // 2]:.2f} s, longest {times[-1]:.2f} s, "
          f"{time.monotonic() - begun:.1f} s in all", flush=True)
    assert times[count * 3 // 4] < limit and times[-1] < limit + 10, times


def test_ends():
    p = start(20, 1)
    out, err = end(p)
    assert p.returncode == 0 and "error" not in err, err
    assert err.startswith(f"launch: 4 ranks on {HOST}"), err
    # hung while the process lives: the one that the others wait for
    p = start(100, 1, "hang=2:5", env=FAST)
    ranks = until_training(p)
    _, err = end(p)
    assert p.returncode == 71 and re.search(r"rank 2 \(.*\) made no progress for (\d+\.\d) s at step 5 in compute", one_line(err)), err
    # the same, and it does not listen to the abort either
    p = start(100, 1, "busy=1:3", env=FAST)
    ranks = until_training(p)
    _, err = end(p)
    assert p.returncode == 71 and "rank 1 (" in one_line(err) and gone(ranks.values()), err
    # an error of its own: its own words, then whose it was
    p = start(100, 1, "fail=3:5", env={"PURKINJE_HEARTBEAT": "0.1"})
    _, err = end(p)
    assert p.returncode == 71, (p.returncode, err)
    assert "rank 3: error: record 7 is damaged\n" in err, err
    assert re.search(r"^error: rank 3 \(.*\) ended with an error \(record 7 is damaged\) at step 5 in compute$", err, re.M), err


def test_signals():
    for s in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        p = start(100000, 2)
        ranks = until_training(p)
        p.send_signal(s)
        _, err = end(p)
        assert p.returncode == 75 and "error" not in err, (s, p.returncode, err)
        assert gone(ranks.values())
    p = start(100000, 2)  # the launcher itself dies
    ranks = until_training(p)
    p.kill()
    end(p)
    assert gone(ranks.values()), "orphans"


def shell(script, ranks=3, **kw):
    p = start(ranks=ranks, program=["sh", "-c", script], **kw)
    out, err = end(p)
    return p.returncode, out, err


def test_programs():
    code, out, err = shell("echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $MASTER_ADDR ${#PURKINJE_TOKEN}")
    assert code == 0 and sorted(out.split("\n")[:3]) == [f"{r} 3 {r} 3 127.0.0.1 32" for r in range(3)], (out, err)
    for exits, wanted in (("exit 65", 65), ("exit 75", 75), ("exit $((RANK == 1 ? 75 : 0))", 75),
                          ("exit $((RANK == 1 ? 5 : 0))", 71), ("exit $((RANK + 1))", 71)):
        code, _, err = shell(exits)
        assert code == wanted, (exits, code, err)
        assert ("ended with exit code" in err) == (wanted == 71), (exits, err)
    code, _, err = shell("echo error: bad >&2; echo fine >&2")
    assert code == 0 and sorted(err.splitlines()[1:]) == ["error: bad", "fine", "fine", "fine",
                                                          "rank 1: error: bad", "rank 2: error: bad"], err
    begun = time.monotonic()  # neither ends by itself nor by SIGTERM, and has a child
    code, out, err = shell("test $RANK = 2 && exit 1; trap '' TERM; sleep 100 & echo $!; wait; sleep 100; wait")
    assert code == 71 and time.monotonic() - begun < 20 and gone(map(int, out.split())), (code, out, err)
    code, out, _ = shell("echo $PURKINJE_THREADS", ranks=1)
    assert out.strip() == str(len(os.sched_getaffinity(0))), out
    code, out, _ = shell("echo $PURKINJE_THREADS", ranks=2, env={"PURKINJE_THREADS": "7"})
    assert out.split() == ["7", "7"], out
    for mode in ("core", "numa"):
        code, out, err = shell("grep Cpus_allowed_list /proc/self/status", ranks=2, options=["--bind", mode])
        assert code == 0 and len(re.findall(r"rank \d \(process \d+\) on cores? [\d, -]+, NUMA node \d", err)) == 2, err
        if mode == "core" and len(os.sched_getaffinity(0)) >= 2:
            assert len(set(out.splitlines())) == 2, out


def run(*args, **env):
    r = subprocess.run([PROGRAM, *args], capture_output=True, text=True, env=environment(**env), timeout=60)
    return r.returncode, r.stdout, r.stderr


def test_command_line():
    code, out, err = run("launch", "-q", "-n", "4", "--check")
    assert code == 0 and "all 4 ranks reach each other" in out and len(re.findall("^rank ", out, re.M)) == 4, (out, err)
    code, out, err = run("launch", "--check")
    assert code == 0 and "a single process" in out, (out, err)
    code, out, err = run("launch", "-n", "2", "doctor", "--device", "cpu")
    assert code == 0 and out.count("cpu cores") == 2, (out, err)
    code, out, err = run("launch", "-n", "2", "doctor", "--nonesuch")
    assert code == 2 and "rank 1: error: unknown option" in err, (out, err)
    for args, text in (((), "how many ranks"), (("-n", "2"), "which command"), (("-n", "0", "true"), "from 1 to"),
                       (("-n", "2", "nonesuch"), "neither a command"), (("-n", "2", "/etc/passwd"), "cannot run"),
                       (("-n", "2", "--bind", "all", "true"), "none, core or numa"), (("-bind", "core", "true"), "unknown option"),
                       (("-n", "2", "--rank", "0", "true"), "go with"), (("--check", "true"), "runs no command")):
        code, _, err = run("launch", *args)
        assert code == 2 and text in err, (args, code, err)
    code, _, err = run("launch", "-n", "2", "true", RANK="1", WORLD_SIZE="2", MASTER_ADDR="a", MASTER_PORT="1")
    assert code == 2 and "already rank 1 of 2" in err, err
    code, _, err = run("launch", "--check", SLURM_JOB_ID="7", SLURM_NTASKS="4")
    assert code == 2 and "none of them" in err and "SLURM_NTASKS=4" in err, err
    code, _, err = run("launch", "--check", "--rank", "1", "--world-size", "2", "--master", "127.0.0.1:9",
                       PURKINJE_TIMEOUT="0.3")
    assert code == 71 and "did not reach rank 0 within 0 s: cannot connect to 127.0.0.1:9" in err, err


def test_mpi():
    """Under the launchers themselves: their variables say who is who, and a file where rank 0 is."""
    allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    found = 0
    for name, programs in (("openmpi", ("mpirun.openmpi",)), ("mpich", ("mpiexec.hydra", "mpiexec.mpich"))):
        mpiexec = next(filter(None, map(shutil.which, programs)), None)
        if not mpiexec:
            assert os.environ.get("CI") != "true", f"tools/setup --test installs {name}"
            print(f"{name}: not installed")
            continue
        with tempfile.TemporaryDirectory() as d:
            line, env = [mpiexec, "-n", "3", PROGRAM, "launch", "--check"], environment(**allow)
            r = subprocess.run(line, capture_output=True, text=True, timeout=60,
                               env={**env, "PURKINJE_RENDEZVOUS": d + "/meet", "PURKINJE_TIMEOUT": "60"})
            assert r.returncode == 0 and "all 3 ranks reach each other" in r.stdout, (r.stdout, r.stderr)
            assert re.search(rf"launched by +{name}$", r.stdout, re.M), r.stdout
            r = subprocess.run(line, capture_output=True, text=True, timeout=60, env=env)
            if name == "openmpi":  # tells the ranks of one host enough
                assert r.returncode == 0 and "all 3 ranks reach each other" in r.stdout, (r.stdout, r.stderr)
            else:
                assert r.returncode == 2 and f"of 3 ({name})" in r.stderr and "PURKINJE_RENDEZVOUS" in r.stderr, r
        found += 1
    print(f"under {found} MPI launchers", flush=True)


def test_two_processes():
    """Without a launcher: ranks that meet through a file; one line is said for all."""
    with tempfile.TemporaryDirectory() as d:
        env = {"PURKINJE_RENDEZVOUS": os.path.join(d, "meet"), "WORLD_SIZE": "3", "PURKINJE_HEARTBEAT": "0.1"}
        ps = [subprocess.Popen([RANK, "rank", "100000", "2"], stderr=subprocess.PIPE, text=True,
                               env=environment(RANK=str(r), **env)) for r in range(3)]
        for line in ps[0].stderr:
            if line == "training\n":
                break
        time.sleep(0.5)  # a beat after the first step
        ps[1].kill()
        errors = [p.communicate(timeout=60)[1] for p in ps]
        assert [p.returncode for p in ps] == [71, -9, 71], errors
        assert re.fullmatch(r"error: rank 1 \(.*\) died( at step \d+ in [a-z-]+)?\n", errors[0]) and not errors[2], errors


NETWORK = """
set -e
ip link set lo up
unshare -n sleep 100 & other=$!
for i in $(seq 200); do [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break; sleep 0.05; done
ip link add va type veth peer name vb
ip link set vb netns $other
ip addr add 10.99.0.1/24 dev va
ip link set va up
nsenter -t $other -n ip addr add 10.99.0.2/24 dev vb
nsenter -t $other -n ip link set vb up
export WORLD_SIZE=2 MASTER_ADDR=10.99.0.1 MASTER_PORT=4711
RANK=1 nsenter -t $other -n "$1" rank 100000 5 2>one & one=$!
RANK=0 "$1" rank 100000 5 2>zero & zero=$!
for i in $(seq 600); do grep -q training zero && break; sleep 0.05; done
grep -q training zero
begun=$(date +%s.%N)
ip link set va down
set +e
wait $zero; echo $? $begun $(date +%s.%N) >zero.end
wait $one; echo $? $begun $(date +%s.%N) >one.end
kill $other
"""


def test_cut():
    """Ranks in two network namespaces; the cable between them is pulled. Default limits."""
    missing = [t for t in ("unshare", "nsenter", "ip") if not shutil.which(t)]
    probe = missing or subprocess.run(["unshare", "-rn", "sh", "-c", "ip link add va type veth peer name vb"],
                                      capture_output=True, text=True)
    if missing or probe.returncode:
        print("cut network: skipped:", ", ".join(missing) + " missing" if missing else probe.stderr.strip())
        return
    with tempfile.TemporaryDirectory() as d:
        r = subprocess.run(["unshare", "-rn", "sh", "-c", NETWORK, "sh", RANK], cwd=d, capture_output=True, text=True,
                           env=environment(), timeout=120)
        assert r.returncode == 0 and os.path.exists(f"{d}/one.end"), (r, os.listdir(d))
        took = []
        for name, other in (("zero", 1), ("one", 0)):
            code, begun, ended = open(f"{d}/{name}.end").read().split()
            err = open(f"{d}/{name}").read()
            assert int(code) == 71, (name, code, err)
            took.append(float(ended) - float(begun))
            assert took[-1] < 15, took
            if name == "zero":  # which listened on the interface that it was told to
                assert "listens on 10.99.0.1 port 4711, interface va" in err, err
            # one host: rank 0 speaks of rank 1, rank 1 of rank 0
            assert re.search(rf"error: rank {other} \(.*\) sent no heartbeat for 1\d\.\d s \(host down", err), (name, err)
        print(f"cut network: found after {took[0]:.1f} s and {took[1]:.1f} s", flush=True)


with concurrent.futures.ThreadPoolExecutor(4) as side:
    others = [side.submit(t) for t in (test_cut, test_ends)]
    for t in (test_programs, test_command_line, test_signals, test_two_processes, test_mpi):
        t()
    many(kill, KILLS, 5)
    # the step is known from the last beat; on a busy machine a rank can die before its first
    assert len(placed) == KILLS and sum(placed) >= 0.8 * KILLS, placed
    many(stop, STOPS, WATCHDOG + 2)
    for o in others:
        o.result()
sys.exit(0)
