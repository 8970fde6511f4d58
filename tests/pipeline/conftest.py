"""Three photos and their run folder, and commands on them in this process."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.pipeline.cli import app
from tests.portraits import blank, occluded


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def working(command: str, photos: Path, folder: Path, *options: object):
    """A command on photos, one per shard, in this process; ``folder`` is the run's."""
    given = ("--manifest", photos / "in.parquet", "--run", folder, "--device", "cpu", "--workers", 0)
    return run(command, *given, "--shard-size", 1, *options)


def answer_of(folder: Path) -> list[dict]:
    """The answer but for its seconds, which no two runs share."""
    rows = pq.read_table(folder / "segments.parquet").to_pylist()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in (folder / "items").rglob("*.parquet")}


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A face behind a bar, a photo without a face, and one that is not there."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(occluded()).save(folder / "face.png")
    Image.fromarray(blank()).save(folder / "blank.png")
    write_parquet(pa.table({"image": ["face.png", "blank.png", "gone.png"]}), folder / "in.parquet")
    return folder


@pytest.fixture(scope="session")
def segmented_once(photos, tmp_path_factory) -> Path:
    """Their run folder, segmented."""
    folder = tmp_path_factory.mktemp("segmented") / "run"
    done = working("segment", photos, folder)
    assert done.exit_code == 1, done.output
    return folder


@pytest.fixture(scope="module")
def segmented(segmented_once, tmp_path_factory) -> Path:
    """A copy of it for a module's tests, which leave things there."""
    return Path(shutil.copytree(segmented_once, tmp_path_factory.mktemp("copied") / "run"))
