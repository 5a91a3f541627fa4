"""The include scan passes on this tree, and finds each kind of violation in a tree made to fail."""
import os
import subprocess
import sys
import tempfile

CHECK = os.path.join(os.environ["PK_SOURCE_DIR"], "tools", "check_includes")

# path, text, violations as "line: part of the message"
CASES = [
    ("core/ok.c", '#include "core/base.h"\n#include <pthread.h>\n/* strcpy( exit( */ char *s = "atoi(";\n', []),
    ("core/a.c", '#include "core/b.h"\n#include "datasets/corpus.h"\n', ['2: core must not include "datasets/corpus.h"']),
    ("core/b.h", '#include "base.h"\n', ["1: paths start at the repository's root"]),
    ("core/c.c", "#include <hdf5.h>\n#include <cuda_runtime.h>\n", ["1: <hdf5.h> belongs in", "2: <cuda_runtime.h>"]),
    ("core/d.c", "int f(void)\n{\n    exit (1);\n    abort();\n}\n", ["3: exit()", "4: abort()"]),
    ("core/e.c", "void f(char *a) { strcpy(a, a); sprintf(a, a); assert(a); }\n",
     ["1: strcpy()", "1: sprintf()", "1: assert()"]),
    ("core/k.c", "void f(struct a *x) { x->ops->abort(x); x->ops.exit(1); }\n", []),
    ("core/f.c", "void pk_exit(int); void g(void) { pk_exit(1); } _Static_assert(1, \"\"); int exit_code;\n", []),
    ("core/g.c", '#include <glib.h>\n#include "tools/cli.h"\n', ["1: neither libc", "2: core must not"]),
    ("core/h.c", "// TO" + "DO later\n", ["1: finish it"]),
    ("core/i.c", "int x;\n  #  include <yaml.h>\n", ["2: <yaml.h>"]),
    ("core/recipe_yaml.c", "#include <yaml.h>\n", []),
    ("core/cpu/gemm_onednn.c", "#include <dnnl.h>\n#include <omp.h>\n", []),
    ("core/cpu/gelu.c", "#include <immintrin.h>\n#include <omp.h>\n", ["2: <omp.h>"]),
    ("datasets/shard_hdf5.c", "#include <hdf5.h>\n#include \"core/json.h\"\n", []),
    ("datasets/wfdb.c", '#include "core/data.h"\n#include "models/vit.h"\n', ["2: datasets must not"]),
    ("models/vit.c", '#include "core/ops.h"\n#include "core/exec.h"\n', ["2: models must not"]),
    ("cuda/gelu.cu", '#include <cuda_bf16.h>\n#include "datasets/corpus.h"\n', ["2: cuda must not"]),
    ("tools/main.c", '#include "datasets/corpus.h"\nint f(void) { exit(1); system("ls"); }\n', ["2: system()"]),
    ("tests/op/t.c", '#include "tests/test.h"\nvoid f(void) { abort(); }\n', []),
    ("tests/op/u.c", '/* a comment\n over lines */ #include "nowhere.h"\nint n = atoi("1");\n',
     ["2: paths start", "3: atoi()"]),
]

r = subprocess.run([sys.executable, CHECK, os.environ["PK_SOURCE_DIR"]], capture_output=True, text=True)
print(r.stdout, end="")
assert r.returncode == 0, "this tree breaks the rules, see above"

with tempfile.TemporaryDirectory() as root:
    for path, text, _ in CASES:
        os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
        with open(os.path.join(root, path), "w") as f:
            f.write(text)
    r = subprocess.run([sys.executable, CHECK, root], capture_output=True, text=True)
    assert r.returncode == 1, r
    lines = r.stdout.splitlines()
    for path, _, wanted in CASES:
        found = [l for l in lines if l.startswith(path + ":")]
        assert len(found) == len(wanted), (path, found)
        for want in wanted:
            number, message = want.split(": ", 1)
            assert any(l.startswith(f"{path}:{number}:") and message in l for l in found), (want, found)

with tempfile.TemporaryDirectory() as empty:  # a scan of nothing is no success
    assert subprocess.run([sys.executable, CHECK, empty], capture_output=True).returncode == 1
print(f"{len(CASES)} cases")
sys.exit(0)
