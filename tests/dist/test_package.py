"""What users install: 'cmake --install', the bundle, the Debian packages. Each works from a folder it
was moved to, in an empty environment, and a program compiles against the installed library."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

SOURCE, BUILD = os.environ["PK_SOURCE_DIR"], os.getcwd()
PROGRAM = os.environ["PURKINJE"]
RUN = ["pretrain", "jepa_demo", "train.steps=2", "train.learning_rate.warmup=0", "data.synthetic.records=64",
       "train.batch_size=16", "-q"]


def sh(*command, code=0, **more):
    r = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **more)
    assert r.returncode == code, f"{' '.join(map(str, command))}: exit {r.returncode}\n{r.stdout}{r.stderr}"
    return r.stdout


def works(tree, folder):
    """A moved installation: recipes, a run, man page, completion, documents."""
    program = tree + "/bin/purkinje"
    listed = json.loads(sh(program, "recipe", "ls", "--json", env={}, cwd=folder))
    ours = os.path.realpath(tree) + "/share/purkinje/recipes/"
    assert len(listed) > 5 and all(r["path"].startswith(ours) for r in listed), listed
    sh(program, *RUN, f"output.dir={folder}/run", "--overwrite", env={}, cwd=folder)
    assert json.load(open(f"{folder}/run/run.json"))["state"] == "done"
    for file in ("share/man/man1/purkinje.1", "share/bash-completion/completions/purkinje",
                 "share/doc/purkinje/LICENSE", "share/doc/purkinje/README.md", "share/doc/purkinje/tour.md",
                 "share/doc/purkinje/examples/load_model.py", "share/purkinje/cluster/purkinje.sbatch"):
        assert os.path.getsize(f"{tree}/{file}") > 0, file
    assert sh(program, "completion", "man", env={}) == open(f"{tree}/share/man/man1/purkinje.1").read()
    page = open(f"{tree}/share/bash-completion/completions/purkinje").read()
    assert sh(program, "completion", "bash", env={}) == page
    return program


def library(tree, root):
    """A program of its own compiles and links through pkg-config, wherever the installation is."""
    env = {**os.environ, "PKG_CONFIG_PATH": tree + "/lib/pkgconfig"}
    flags = sh("pkg-config", "--cflags", "purkinje", env=env).split()
    libs = sh("pkg-config", "--libs", "purkinje", env=env).split()
    include = tree + "/include/purkinje"
    headers = sorted(os.path.relpath(os.path.join(d, f), include)
                     for d, _, files in os.walk(include) for f in files)
    assert "core/base.h" in headers and not any(h.endswith("_internal.h") for h in headers), headers
    source = f"{root}/user.c"
    with open(source, "w") as f:
        f.write('#include "core/schedule.h"\n#include "core/recipe.h"\n#include <stdio.h>\n'
                "int main(void)\n{\n    char folder[PK_PATH_MAX];\n"
                '    puts(pk_recipe_folder(0, folder) ? folder : "none");\n    return 0;\n}\n')
    sh("cc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", *flags, "-o", f"{root}/user", source, *libs)
    assert sh(f"{root}/user", env={"PURKINJE_RECIPES": "/some/where"}) == "/some/where\n"
    return len(headers)


def bundle(root):
    """Unpacked twice, moved once; every library that is not the C library's comes from inside."""
    archive = root + "/bundle.tar.gz"
    said = sh(SOURCE + "/tools/bundle", BUILD, archive)
    os.mkdir(root + "/there")
    sh("tar", "-C", root + "/there", "-xzf", archive)
    (name,) = os.listdir(root + "/there")
    moved = f"{root}/moved to/{name}"
    os.mkdir(root + "/moved to")
    os.rename(f"{root}/there/{name}", moved)
    program = works(moved, root)
    # a module system's libraries do not get in between
    lines = sh("ldd", program, env={"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": root}).splitlines()
    for line in lines:
        if "=>" in line:
            library_name, path = re.match(r"\s*(\S+) => (.+) \(0x", line).groups()
            own = os.path.realpath(path).startswith(os.path.realpath(moved) + "/lib/")
            system = re.match(r"(libc|libm|libdl|librt|libpthread|libresolv)\.so", library_name)
            assert own or system, line
    assert not any(re.match(r"(libc|libm|ld-linux.*)\.so", n) for n in os.listdir(moved + "/lib"))
    assert len(os.listdir(moved + "/licenses")) > 3
    return said.strip().split(": ", 1)[1]


def debian(root):
    """Dependencies as dpkg-shlibdeps finds them; the unpacked package works."""
    out = sh("cpack", "-G", "DEB", "-B", root + "/deb", cwd=BUILD)
    files = {f.split("_")[0]: f"{root}/deb/{f}" for f in os.listdir(root + "/deb") if f.endswith(".deb")}
    assert set(files) == {"purkinje", "libpurkinje-dev"}, out
    needs = sh("dpkg-deb", "-f", files["purkinje"], "Depends")
    assert re.search(r"\blibc6 \(>= 2\.\d+\)", needs), needs
    linked = sh("ldd", PROGRAM)
    for library_name, package in (("libhdf5", "libhdf5-"), ("libyaml", "libyaml-0-2"), ("libdnnl", "libdnnl")):
        assert (library_name in linked) == (package in needs), needs
    sh("dpkg-deb", "-x", files["purkinje"], root + "/unpacked")
    works(root + "/unpacked/usr", root)
    listed = sh("dpkg-deb", "-c", files["libpurkinje-dev"])
    assert "/libpurkinje.a" in listed and "/include/purkinje/core/base.h" in listed and "/pkgconfig/purkinje.pc" in listed
    assert "bin/purkinje" not in listed
    return needs.strip()


def main():
    lost = [p for p in ("patchelf", "pkg-config", "dpkg-shlibdeps", "cpack", "file") if not shutil.which(p)]
    if lost:
        print("not installed:", ", ".join(lost))
        return 1 if os.environ.get("CI") == "true" else 77
    with tempfile.TemporaryDirectory(prefix="purkinje-package-") as root:
        sh("cmake", "--install", BUILD, "--prefix", root + "/prefix")
        os.rename(root + "/prefix", root + "/elsewhere")
        works(root + "/elsewhere", root)
        print("headers:", library(root + "/elsewhere", root))
        print("bundle:", bundle(root))
        print("deb depends:", debian(root))
    return 0


sys.exit(main())
