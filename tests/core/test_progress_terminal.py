"""Progress on a real pseudo-terminal: the bar, NO_COLOR, a dumb terminal, a pipe, the window's width."""
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

program = os.path.join(os.path.dirname(os.environ["PURKINJE"]), "test_progress")
failures = 0


def check(ok, what):
    global failures
    if not ok:
        failures += 1
        print("failed:", what)


def on_terminal(columns=120, word="demo", **env):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    base = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    p = subprocess.run([program, word], stderr=slave, env={**base, "TERM": "xterm", **env})
    os.close(slave)
    out = b""
    try:
        while chunk := os.read(master, 4096):
            out += chunk
    except OSError:  # the other end is closed: everything was read
        pass
    os.close(master)
    check(p.returncode == 0, "exit code")
    return out.decode().replace("\r\n", "\n")


out = on_terminal()
check(out.count("\r") == 4 and out.count("\x1b[K") == 4 and out.endswith("\n"), f"bar: {out!r}")
check("[####################] 100%  step 4/4" in out and "loss 0.1235" in out, f"bar: {out!r}")
out = on_terminal(columns=30)
check(all(len(line) <= 29 for line in out.replace("\x1b[K", "").strip().split("\r")), f"width: {out!r}")
out = on_terminal(NO_COLOR="1")
check("\x1b" not in out and out.count("\r") == 4, f"NO_COLOR: {out!r}")
out = on_terminal(TERM="dumb")
check("\x1b" not in out and "\r" not in out and out.count("\n") == 4, f"dumb: {out!r}")
check(on_terminal(word="quiet") == "", "quiet")
p = subprocess.run([program, "demo"], capture_output=True, text=True)
check("\x1b" not in p.stderr and "\r" not in p.stderr and p.stderr.count("\n") == 4, f"pipe: {p.stderr!r}")
print(f"{failures} checks failed" if failures else "all checks passed")
sys.exit(1 if failures else 0)
