"""A run's log, ``log.txt``: when what was done, and the id of every photo that failed, with its reason."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from s3pot_batch.manifests.errors import ManifestError, one_line
from s3pot_batch.manifests.files import read_table
from s3pot_batch.manifests.outcomes import items_path
from s3pot_batch.stages.base import ShardReport

NAME = "log.txt"
LEVELS = ("debug", "info", "warning", "error")
"""From all shards to nothing but what broke."""
COLUMNS = ("image_id", "status", "error_type", "error")
log = logging.getLogger(__name__)


class _LogFile(logging.FileHandler):
    """A log that cannot be written costs its lines, and a note, but not the run."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 — logging's name
        """Say it once; Python's own prints a traceback for every line."""
        del record
        if not self.told:
            self.told = True
            reason = one_line(sys.exception() or OSError())
            sys.stderr.write(f"Note: {self.baseFilename} cannot be written ({reason}); the work goes on without it\n")

    def close(self) -> None:
        """Close it, with or without its last lines."""
        with suppress(OSError):
            super().close()


@contextmanager
def logbook(run: Path, level: str) -> Iterator[None]:
    """Append what this package says of its work to the run's log.

    Args:
        run: a run folder, which is there.
        level: the least that is written down, one of ``LEVELS``.
    """
    package = logging.getLogger("s3pot_batch")
    handler, before = _LogFile(run / NAME, encoding="utf-8"), package.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    package.addHandler(handler)
    package.setLevel(level.upper())
    try:
        log.info("begins: %s", " ".join(sys.argv))
        yield
        log.info("ends")
    except BaseException as error:
        log.error("ends: %s: %s", type(error).__name__, error)  # noqa: TRY400 — who raised it tells it on
        raise
    finally:
        package.removeHandler(handler)
        package.setLevel(before)
        handler.close()


def write_down(run: Path, report: ShardReport, told: set[str]) -> None:
    """Log what came of a shard, and each photo that failed in it.

    Args:
        run: the run folder.
        report: the shard's.
        told: ids of photos that were written down before; a later stage carries earlier failures on.
    """
    counts = f"{report.ok} ok, {report.no_face} without a face, {report.failed} failed"
    log.debug("%s, shard %d: %s; %.1f s", report.stage, report.shard, report.error or counts, report.seconds)
    if report.error:
        log.error("%s, shard %d: %s", report.stage, report.shard, report.error)
    if not report.failed:
        return
    try:
        rows = read_table(items_path(run, report.stage, report.shard), columns=COLUMNS).to_pylist()
    except ManifestError:  # of another machine, or gone: status says so
        return
    for row in rows:
        if row["status"] == "failed" and row["image_id"] not in told:
            told.add(row["image_id"])
            log.warning("%s, photo %s: %s: %s", report.stage, row["image_id"], row["error_type"], row["error"])
