"""Batch norm over ranks against PyTorch's over the whole batch: what torch.nn.SyncBatchNorm stands for. Logits,
every gradient, and weights and running statistics after ten steps of 2 and 4 ranks (modules and tolerances are
those of tests/model/test_conv_parity.py)."""
import os
import sys

sys.path.insert(0, os.path.join(os.environ["PK_SOURCE_DIR"], "tests", "model"))
import oracle  # noqa: E402
from test_conv_parity import compare  # noqa: E402


def main():
    judge, known = oracle.Judge(), {}
    for kind in "wang", "xresnet":
        for ranks in "2", "4":
            for isa in oracle.ISAS if ranks == "2" else oracle.ISAS[-1:]:
                compare(isa, kind, True, judge, known, "./test_sync_norm", ranks)
    return judge.finish()


if __name__ == "__main__":
    sys.exit(main())
