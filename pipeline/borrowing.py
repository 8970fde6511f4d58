"""Taking over another run's references: they cost most, and other settings of stage two need the same."""

import os
import shutil
from pathlib import Path

from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.pipeline.changes import STAGE
from s3pot_batch.pipeline.config import Config, differing_inputs
from s3pot_batch.stages.base import stage_named
from s3pot_batch.stages.errors import ConfigError

UNFINISHED = shutil.ignore_patterns(".*", "*.lock", "*.trying")
"""Files of somebody who is at work there."""


def check_lender(config: Config, lender: Path) -> None:
    """Make sure that a run folder holds references that were made with these settings.

    Raises:
        ConfigError: it does not; the line names every setting that differs.
        ManifestError: it is no run folder.
    """
    read_plan(lender, names=False)
    differing = differing_inputs(config, lender, STAGE)
    if differing is None:
        raise ConfigError(f"--references {lender}: it holds no references")
    if differing:
        raise ConfigError(
            f"--references {lender}: they were made with other settings: {'; '.join(differing)}; give the same ones or "
            "leave it out"
        )


def borrow_references(lender: Path, run: Path) -> None:
    """Make the references of one run folder another's, as hard links where the disk has them, else as copies.

    A shard that is done again in one of them replaces its file there and leaves the other's alone. Items come last, as
    they mark what is finished.
    """
    store = f"{stage_named(STAGE).store}"
    for name in (store, f"items/{STAGE}"):
        if (lender / name).exists():
            shutil.copytree(
                lender / name, run / name, ignore=UNFINISHED, copy_function=_linked, dirs_exist_ok=True
            )  # fmt: skip


def _linked(source: str, target: str) -> None:
    if Path(source).name != "zarr.json":  # which Zarr writes to where it lies
        try:
            os.link(source, target)
        except OSError:
            pass  # another disk, or one without links
        else:
            return
    shutil.copy2(source, target)
