"""The report of ten thousand photos: what it takes to write, its size, and how soon Chromium shows and filters it.

The photos are few, worked on for good and repeated: shards of Zarr arrays are linked, not copied.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from benchmarks.tidy_run import STAGES
from s3pot_batch.manifests.answer import ANSWER
from s3pot_batch.manifests.files import read_table, write_parquet
from s3pot_batch.manifests.outcomes import Outcome, read_checksums, read_outcomes, write_outcomes
from s3pot_batch.manifests.plan import Plan, read_plan, write_plan
from s3pot_batch.pipeline.config import CONFIG
from s3pot_batch.pipeline.report.page import write_page
from s3pot_batch.stages.base import stage_named

ROWS = 10_000
SHARD = 25
"""Photos that are worked on; they are one shard."""
OPENED = """() => new Promise(resolve => requestAnimationFrame(() => setTimeout(() => resolve(performance.now()))))"""
FILTERED = """async ([name, value]) => {
  const control = document.getElementById("filters").elements[name], began = performance.now();
  control.value = value;
  control.dispatchEvent(new Event("input", { bubbles: true }));
  await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - began;
}"""


def reporting() -> None:
    """Work on the demo's photos, repeat them, write the report, and open it."""
    with tempfile.TemporaryDirectory() as folder:
        photos, run = Path(folder) / "photos", Path(folder) / "run"
        _python("-m", "examples.demo_photos", "--out", str(photos))
        work = ["--manifest", str(photos / "manifest.parquet"), "--run", str(run), "--limit", str(SHARD)]
        _python("-m", "s3pot_batch", "segment", *work, "--shard-size", str(SHARD), "--workers", "0")
        measure(repeated(run, Path(folder) / "many", ROWS))


def measure(run: Path) -> None:
    """Write a run's report, and open it if there is a Chromium."""
    started = time.monotonic()
    page = write_page(run)
    print(f"reporting: written in {time.monotonic() - started:.0f} s, {page.stat().st_size / 1e6:.1f} MB", flush=True)
    program = shutil.which("chromium")
    if program:
        browse(page, program)


def browse(page: Path, program: str) -> None:
    """Open a page, sort and filter it, and say what each takes until it is drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.absolute().as_uri())
        print(f"reporting: opened in {tab.evaluate(OPENED) / 1000:.2f} s")
        for name, value in (("sort", "most"), ("status", "ok"), ("q", "7"), ("sort", "unsure")):
            print(f"reporting: {name}={value} in {tab.evaluate(FILTERED, [name, value]) / 1000:.3f} s")
        browser.close()


def repeated(run: Path, out: Path, rows: int) -> Path:
    """A run of many photos, which are those of the first shard of another run again and again.

    Args:
        run: a finished run whose first shard is full.
        out: the folder to write to.
        rows: how many photos; whole shards of them are written.
    """
    plan = read_plan(run)
    per_shard = plan.shard_photos(0)
    copies, width = rows // per_shard, plan.shard_size * plan.max_faces
    first = plan.table.slice(0, per_shard)
    table = pa.concat_tables([_moved(first, copy, per_shard, width) for copy in range(copies)])
    write_plan(Plan(table.combine_chunks(), plan.shard_size, plan.max_faces, "repeated"), out)
    shutil.copy(run / CONFIG, out / CONFIG)
    for stage in STAGES:
        store = stage_named(stage).store or stage
        _link(run / store, out / store, copies, copies * width)
        outcomes, sums = read_outcomes(run, stage, 0), read_checksums(run, stage, 0)
        for copy in range(copies):
            moved = [_outcome(one, copy, per_shard, width) for one in outcomes]
            kept = {row + copy * width: own for row, own in sums.items()}
            write_outcomes(out, stage, copy, moved, "repeated", kept)
    answer = read_table(run / ANSWER).slice(0, per_shard)
    write_parquet(pa.concat_tables([_named(answer, copy) for copy in range(copies)]), out / ANSWER)
    return out


def _moved(first: pa.Table, copy: int, photos: int, width: int) -> pa.Table:
    columns = {
        "index": pa.array([n + copy * photos for n in first["index"].to_pylist()]),
        "shard": pa.array([copy] * photos, pa.int32()),
        "row": pa.array([n + copy * width for n in first["row"].to_pylist()]),
    }
    moved = _named(first, copy)
    for name, column in columns.items():
        moved = moved.set_column(moved.column_names.index(name), first.schema.field(name), column)
    return moved


def _named(table: pa.Table, copy: int) -> pa.Table:
    ids = pa.array([f"{copy:04d}/{name}" for name in table["image_id"].to_pylist()])
    return table.set_column(table.column_names.index("image_id"), table.schema.field("image_id"), ids)


def _outcome(one: Outcome, copy: int, photos: int, width: int) -> Outcome:
    faces = tuple(replace(face, row=face.row + copy * width) for face in one.faces)
    return replace(one, index=one.index + copy * photos, image_id=f"{copy:04d}/{one.image_id}", faces=faces)


def _link(store: Path, out: Path, copies: int, rows: int) -> None:
    """A Zarr store of so many rows whose shards are all the first one of another."""
    shutil.copytree(store, out, ignore=shutil.ignore_patterns("c.*"))
    for array in (path for path in out.iterdir() if path.is_dir()):
        said = json.loads((array / "zarr.json").read_text())
        said["shape"][0] = rows
        (array / "zarr.json").write_text(json.dumps(said))
        for file in (store / array.name).glob("c.0*"):
            for copy in range(copies):
                os.link(file, array / f"c.{copy}{file.name.removeprefix('c.0')}")
    said = json.loads((out / "zarr.json").read_text())
    said.pop("consolidated_metadata", None)
    (out / "zarr.json").write_text(json.dumps(said))


def _python(*words: str) -> None:
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=False)  # noqa: S603 — our own words
