"""Imported first by the process that workers are forked from: what it imports is never searched for garbage.

Libraries are a million objects that stay. Looking through them takes seconds while they are imported, and would take a
worker a copy of every page that they lie on. So the gc module's documentation advises it.
"""

import gc
import os
import sys
from contextlib import suppress
from types import TracebackType

import psutil

gc.disable()
os.register_at_fork(before=gc.freeze, after_in_parent=gc.unfreeze, after_in_child=gc.enable)

_COMMAND = psutil.Process(os.getppid())


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error that nobody caught, unless the command was killed.

    A worker that starts meanwhile finds nothing of what it was to share with the command, and nobody asks why.
    """
    with suppress(psutil.NoSuchProcess):
        if _COMMAND.status() != psutil.STATUS_ZOMBIE:
            sys.__excepthook__(kind, error, trace)


sys.excepthook = _tell
