"""A subject on both sides of a split is found by data verify and refused by training."""

import json
import os
import sys

from ppg_case import check, main, run

import test_ptbxl


def leaks(tmp):
    """PTB-XL-like tables can be made to have a subject in two folds."""
    folder = f"{tmp}/leaky"
    test_ptbxl.make_folder(folder, 12)  # pairs of neighbours are one patient, in different folds
    code, _, err = run("data", "import", "ptbxl", folder, f"{tmp}/leaky_out", "-q")
    check(code == 0, err)
    code, _, err = run("data", "verify", f"{tmp}/leaky_out", "-q")
    check(code == 65 and "5 subjects are in more than one fold, e.g. that of records" in err, f"leak: {code} {err}")
    code, text, _ = run("data", "verify", f"{tmp}/leaky_out", "-q", "--json")
    check(code == 65 and json.loads(text)["subjects_in_several_folds"] == 5, f"leak: {text}")
    # Training refuses it as well, before anything is written.
    code, _, err = run("pretrain", "jepa_vit_tiny_ptbxl_100hz", f"data.corpus={tmp}/leaky_out", "train.batch_size=2",
                       "data.crop=5s", "data.folds.train=[1,3,5]", "data.folds.validation=[2,4]", "data.folds.test=[6]",
                       f"output.dir={tmp}/leaky_run", "-q")
    check(code == 65 and "are of one participant, but the first is trained on and the second is held out" in err and
          not os.path.exists(f"{tmp}/leaky_run"), f"leak in training: {code} {err}")


if __name__ == "__main__":
    sys.exit(main(leaks))
