"""One command at a time in a run folder."""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from s3pot_batch.stages.errors import ConfigError

NAME = ".lock"
"""The operating system holds the lock for as long as its process lives, so a dead one's is free at once."""


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder, which has to be there.

    Raises:
        ConfigError: another command holds it; the text says which.
    """
    lock, holder = FileLock(run / NAME), run / f"{NAME}.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(f"{run} is in use by {_told(holder)}; wait for it, or use another --run") from error
    try:
        holder.write_text(json.dumps(facts_of_this_command()), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def facts_of_this_command() -> dict[str, Any]:
    """What others are told of whoever holds a folder, as JSON types."""
    command = " ".join(sys.argv[:6])
    return {"process": os.getpid(), "host": platform.node(), "command": command, "since": time.time()}


def told(facts: Mapping[str, Any]) -> str:
    """The same for a person."""
    try:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts["since"]))
        return f"process {facts['process']} on {facts['host']} since {since} ({facts['command']})"
    except (TypeError, KeyError):
        return "another command"


def _told(holder: Path) -> str:
    try:
        return told(json.loads(holder.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return "another command"
