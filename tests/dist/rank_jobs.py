"""What the tests of whole runs on several ranks share: starting ranks, and seeing them end."""
import os
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "fault"))
import runs  # noqa: E402


def ranks(n):
    return ["launch", "-n", n]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(n, command, by_rank=lambda r: [], prefix=lambda r: [], cwd=lambda r: None):
    """Ranks that nobody launches: their environment is set by hand, as torchrun does. by_rank: more words of a
    rank's command; prefix: a program that it runs under; cwd: the folder it runs in."""
    env = {**runs.ENV, "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1",
           "MASTER_PORT": str(free_port()), "PURKINJE_TIMEOUT": "30"}
    return [subprocess.Popen([*prefix(r), runs.PROGRAM, *command, *by_rank(r)], stderr=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, cwd=cwd(r),
                             env={**env, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(n)]


def end(jobs):
    out = [p.communicate(timeout=60) for p in jobs]
    return [p.returncode for p in jobs], [e for _, e in out]


def kill_second(jobs):
    """Rank 1 of two is killed: the other ends soon, with one line that names it."""
    begun = time.time()
    jobs[1].kill()
    codes, said = end(jobs)
    runs.expect(codes == [71, -9] and time.time() - begun < 5, f"{codes} after {time.time() - begun:.1f} s: {said}")
    runs.expect("rank 1" in said[0] and said[0].count("error:") == 1, f"rank 0 says {said[0]}")
