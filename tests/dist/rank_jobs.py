"""What the tests of whole runs on several ranks share: starting ranks, and seeing them end."""
import itertools
import os
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402


def ranks(n):
    return ["launch", "-n", n]


SOON = 9  # s: less than silence takes (test_launch.py measures what is promised), more than a busy machine loses
ports = itertools.count(64 * os.getpid())


def free_port():
    """Not one of those that the system gives to whoever connects, and of a range of this process's own: nobody else
    takes it before the ranks do."""
    while True:
        with socket.socket() as s:
            port = 10000 + next(ports) % 20000
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def start(n, command, by_rank=lambda r: [], prefix=lambda r: [], cwd=lambda r: None, more={}):
    """Ranks that nobody launches: their environment is set by hand, as torchrun does. by_rank: more words of a
    rank's command; prefix: a program that it runs under; cwd: the folder it runs in."""
    env = {**runs.ENV, "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(free_port()), "PURKINJE_TIMEOUT": "30", **more}
    return [subprocess.Popen([*prefix(r), runs.PROGRAM, *command, *by_rank(r)], stderr=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, cwd=cwd(r),
                             env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(n)]


def end(jobs):
    out = [p.communicate(timeout=300) for p in jobs]
    return [p.returncode for p in jobs], [e for _, e in out]


def kill_second(jobs):
    """Rank 1 of two is killed: the other ends soon, with one line that names it."""
    begun = time.time()
    jobs[1].kill()
    codes, said = end(jobs)
    took = time.time() - begun
    runs.expect(codes == [71, -9] and took < SOON, f"{codes} after {took:.1f} s: {said}")
    runs.expect("rank 1" in said[0] and said[0].count("error:") == 1, f"rank 0 says {said[0]}")


def working(jobs, seconds):
    """Waits until each has computed for so many seconds, or has ended."""
    tick = os.sysconf("SC_CLK_TCK")
    for p in jobs:
        while p.poll() is None:
            with open(f"/proc/{p.pid}/stat") as f:
                if sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13])) >= seconds * tick:
                    break
            time.sleep(0.02)
