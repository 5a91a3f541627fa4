"""Where real recordings lie for the tests that use them: PK_SHARED_DATA, or ../shared/data beside the sources."""

import os
import sys

ROOT = os.environ.get("PK_SHARED_DATA") or os.path.join(os.environ.get("PK_SOURCE_DIR", "."), "..", "shared", "data")


def folder(name):
    """The folder, None where there are no recordings. CI has all of them or none."""
    path = os.path.join(ROOT, name)
    if os.path.isdir(path):
        return path
    if os.environ.get("CI") == "true" and os.path.isdir(ROOT):
        sys.exit(f"failed: {ROOT} is here but has no {name}")
    print(f"real recordings not checked: no {path}")
    return None
