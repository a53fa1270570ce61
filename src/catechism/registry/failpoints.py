"""A seam for crash tests: places where a process can be made to die.

``CATECHISM_FAILPOINT=before_commit:kill`` kills the process there with SIGKILL, ``:raise`` raises `Failpoint`. The
names are in `NAMES`. Without the variable nothing happens.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "CATECHISM_FAILPOINT"
NAMES = ("after_tmp_write", "after_rename", "in_transaction", "before_commit", "after_commit")


class Failpoint(BaseException):
    """Raised at a failpoint. No `except Exception` catches it, as nothing catches a kill."""


def failpoint(name: str) -> None:
    """Die here if the environment says so."""
    wanted, _, how = os.environ.get(VARIABLE, "").partition(":")
    if wanted != name:
        return
    if how == "raise":
        raise Failpoint(name)
    os.kill(os.getpid(), signal.SIGKILL)
