"""purkinje completion: bash completes with it, and the man page is clean roff that names every command."""
import os
import re
import shutil
import subprocess
import sys

PROGRAM = os.environ["PURKINJE"]


def out(*args):
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True, check=True).stdout


def complete(*words):
    """What bash offers for the last of these words."""
    script = (
        f"source <('{PROGRAM}' completion bash)\n"
        f"COMP_WORDS=(purkinje {' '.join(repr(w) for w in words)}); COMP_CWORD={len(words)}\n"
        "_purkinje; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    r = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert r.returncode == 0 and not r.stderr, (words, r.stderr)
    return r.stdout.split()


overview = out("--help")
names = re.findall(r"^  (\S+(?: \S+)?)  ", overview.split("commands:")[1], re.M)
assert {"inspect", "completion"} <= set(names), names

assert complete("insp") == ["inspect"]
assert set(complete("")) >= {n.split()[0] for n in names}
assert complete("inspect", "--j") == ["--json"]
assert {"--json", "--no-stats", "--help", "--quiet"} <= set(complete("inspect", "--"))
assert complete("inspect", "fi") == []  # left to bash's own file names
for name in names:
    if " " in name:
        first, second = name.split()
        assert second in complete(first, ""), name
    help_text = out(*name.split(), "--help").split("options:")[1].split("examples:")[0]
    options = set(re.findall(r"^  (--[a-z0-9-]+)", help_text, re.M))
    assert options <= set(complete(*name.split(), "--")), (name, options)

page = out("completion", "man")
for name in names:
    assert f'.SS "purkinje {name}"' in page, name
if shutil.which("groff"):
    r = subprocess.run(["groff", "-man", "-ww", "-Tascii", "-P-cbou"], input=page, capture_output=True, text=True)
    assert r.returncode == 0 and not r.stderr, r.stderr
    assert "EXIT STATUS" in r.stdout

for example in re.findall(r"^  purkinje (.*)$", out("completion", "--help").split("examples:")[1], re.M):
    assert out(*example.split()), example
r = subprocess.run([PROGRAM, "completion", "tcsh"], capture_output=True, text=True)
assert r.returncode == 2 and "bash, man" in r.stderr
print(f"completion of {len(names)} commands")
sys.exit(0)
