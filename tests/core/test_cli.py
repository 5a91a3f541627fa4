"""What someone who does not know the commands yet types: groups, typos, help, and where an installed
program finds its recipes."""
import json
import os
import shutil
import subprocess
import sys
import tempfile

PROGRAM, SOURCE = os.environ["PURKINJE"], os.environ["PK_SOURCE_DIR"]
ENV = {k: v for k, v in os.environ.items() if k not in ("PURKINJE_RECIPES", "PRETRAINED", "CORPUS", "RUNS")}


def run(*args, program=PROGRAM, cwd=None, **env):
    r = subprocess.run([program, *args], capture_output=True, text=True, cwd=cwd, env={**ENV, **env})
    return r.returncode, r.stdout, r.stderr


# groups of commands have a help of their own; without a command it is an error
for words in (["recipe", "--help"], ["recipe", "-h"], ["help", "recipe"]):
    code, out, err = run(*words)
    assert code == 0 and "recipe keys" in out and "pretrain" not in out and not err, (words, out, err)
code, out, err = run("recipe")
assert code == 2 and not out and "recipe keys" in err, (out, err)
# 'help COMMAND' is 'COMMAND --help'
assert run("help", "recipe", "ls") == run("recipe", "ls", "--help")
assert run("help", "pretrain") == run("pretrain", "--help")
assert run("help") == run("--help")
assert run("help")[0] == 0

# typos: two lines, the second says what was meant
for words, name in ((["pretrian"], "pretrain"), (["pretrian", "jepa_demo"], "pretrain"),
                    (["data", "inf", "x"], "data info"), (["recipe", "list"], None), (["frobnicate", "-x"], None)):
    code, out, err = run(*words)
    assert code == 2 and not out and err.count("\n") == 2 and "error: unknown command '" + words[0] in err, err
    assert "'purkinje --help' lists" in err and (name is None or f"did you mean '{name}'?" in err), err

with tempfile.TemporaryDirectory(prefix="purkinje-cli-") as root:
    # a recipe of the other kind is told so before it is asked for anything
    code, _, err = run("pretrain", "finetune_two_stage", cwd=root)
    assert code == 2 and "this recipe is for 'purkinje finetune'" in err, err
    code, _, err = run("finetune", "jepa_demo", cwd=root)
    assert code == 2 and "this recipe is for 'purkinje pretrain'" in err, err
    # the path of a recipe that is not there from here
    code, _, err = run("pretrain", "recipes/jepa_dem.yaml", cwd=root)
    assert code == 2 and "did you mean 'jepa_demo'?" in err, err
    # ~ in a setting, which no shell replaces
    small = ["train.steps=1", "train.learning_rate.warmup=0", "data.synthetic.records=64", "train.batch_size=16"]
    code, out, err = run("pretrain", "jepa_demo", *small, "output.dir=~/runs/x", "-q", cwd=root, HOME=root + "/home")
    assert code == 0 and out == root + "/home/runs/x\n", (out, err)
    assert os.path.exists(root + "/home/runs/x/run.json") and not os.path.exists(root + "/~")
    # a run that is complete says so
    code, out, err = run("resume", root + "/home/runs/x", cwd=root)
    assert code == 0 and "the run is complete: step 1 of 1" in err, err

    # an installation finds its own recipes, wherever it is
    os.makedirs(root + "/usr/bin")
    shutil.copy(PROGRAM, root + "/usr/bin/purkinje")
    shutil.copytree(SOURCE + "/recipes", root + "/usr/share/purkinje/recipes")
    code, out, err = run("recipe", "ls", "--json", program=root + "/usr/bin/purkinje", cwd="/")
    found = {r["name"]: r["path"] for r in json.loads(out)}
    share = os.path.realpath(root) + "/usr/share/purkinje/recipes/"
    assert code == 0 and found["jepa_demo"] == share + "jepa_demo.yaml", found
    code, out, err = run("recipe", "validate", "jepa_vit_s_500hz", program=root + "/usr/bin/purkinje", cwd="/")
    assert code == 0, err
print("commands, typos, paths")
sys.exit(0)
