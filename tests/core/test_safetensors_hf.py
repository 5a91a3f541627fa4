"""Files of Purkinje read by huggingface's safetensors, and the reverse. Skips without the package."""
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import safetensors
    import torch
    from safetensors.numpy import load_file
    from safetensors.torch import save_file
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

program = os.path.join(os.path.dirname(os.environ["PURKINJE"]), "test_safetensors")


def run(*args):
    subprocess.run([program, *args], check=True)


with tempfile.TemporaryDirectory() as folder:
    ours = os.path.join(folder, "ours.safetensors")
    run("write", ours)
    got = load_file(ours)
    assert sorted(got) == ["a.empty", "b.weight", "flag", "half", "step"], sorted(got)
    want = np.array([[1.5, -2.25, 0], [3e-7, 4e8, -0.0]], np.float32)
    assert got["b.weight"].dtype == np.float32 and got["b.weight"].tobytes() == want.tobytes()
    assert got["a.empty"].shape == (0, 7) and got["step"].shape == ()
    assert int(got["step"]) == 123456789012
    assert got["flag"].tolist() == [1, 2, 3, 254, 255]
    assert got["half"].tolist() == [1.0, -2.0, float("inf")]
    with safetensors.safe_open(ours, "np") as f:
        assert f.metadata() == {"format": "pt", "a": 'quote " and \\ and \n'}, f.metadata()
    raw = open(ours, "rb").read()
    length = int.from_bytes(raw[:8], "little")
    assert length % 8 == 0 and raw[8 : 9] == b"{" and raw[8 + length - 1 : 8 + length] in b" }"

    theirs = os.path.join(folder, "theirs.safetensors")
    save_file(
        {
            "x": torch.arange(12, dtype=torch.float32).reshape(3, 4) * 0.5,
            "sub.y": torch.tensor([-7, 2000000000], dtype=torch.int32),
            "bf": torch.zeros(2, 3, 4, dtype=torch.bfloat16),
            "flags": torch.tensor([True, False]),
            "d": torch.tensor(1.25, dtype=torch.float64),
        },
        theirs,
        metadata={"who": "python"},
    )
    run("check", theirs)

    # Written from one text by both: the same bytes after the same header order is not promised by
    # the format, but reading ours and writing it again must keep every tensor.
    again = os.path.join(folder, "again.safetensors")
    save_file({k: torch.from_numpy(v.copy()) for k, v in got.items()}, again)
    assert all(np.array_equal(load_file(again)[k], v) for k, v in got.items())
print("safetensors", safetensors.__version__, "agrees both ways")
