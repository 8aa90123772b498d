"""Becomes another user, then runs a worker script: as_user.py UID[:GID,GID] PYTHON SCRIPT …

What that needs is imported first: the interpreter may lie where the other user cannot read.
"""

import ctypes
import importlib
import os
import runpy
import sys

PR_SET_DUMPABLE = 4
NEEDED = (
    "pkgutil",
    "numpy.random",
    "onnxruntime.capi._pybind_state",
    "tests.raw",
    "weightd.backends.attaching",
    "weightd.backends.attachment",
    "weightd.backends.onnxruntime",
    "weightd.backends.reference",
    "weightd.client",
)


def become(who: str) -> None:
    """who: UID[:GID,GID]."""
    for name in NEEDED:
        importlib.import_module(name)
    user, _, groups = who.partition(":")
    uid = int(user)
    os.setgroups([int(gid) for gid in groups.split(",") if gid])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # As a program that this user started would be: else its own /proc/self/fd is closed to it.
    assert ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0


if __name__ == "__main__":
    become(sys.argv[1])
    sys.argv = sys.argv[3:]
    runpy.run_path(sys.argv[0], run_name="__main__")
