"""The page and the contact sheet, on a run of three photos with drawn arrays."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, write_outcomes
from s3pot_batch.manifests.plan import Plan, write_plan
from s3pot_batch.manifests.schema import PLAN
from s3pot_batch.pipeline.config import resolve, write_run
from s3pot_batch.pipeline.report.page import run_files, write_page
from s3pot_batch.pipeline.report.sheets import CAPTION, GAP, TILE, TITLES, contact_sheet, pictures, segmented_faces
from s3pot_batch.stages import store
from s3pot_batch.stages.base import stage_named
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.taxonomy import CELEBM

MATRIX = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@pytest.fixture
def run(tmp_path):
    """Two faces on the first photo, none on the second, and a third that failed with something to be escaped."""
    run = tmp_path / "a & b"
    names = ("two", "none", "<b>bad</b>")
    photos = [{"index": n, "image_id": name, "image": f"/{n}.png", "shard": n // 2, "row": 2 * n}
              for n, name in enumerate(names)]  # fmt: skip
    plan = Plan(pa.Table.from_pylist(photos, PLAN), 2, 2, "digest")
    write_plan(plan, run)
    config = resolve().with_settings({"faces": {"max_faces": 2, "frame": 64}})
    write_run(config, run, ["references", "decoded", "segments"])
    for stage in ("references", "decoded", "segments"):
        arrays = stage_named(stage).module.arrays(config.context(stage, run, device="cpu", batch_size=1))
        path = run / stage_named(stage).store
        store.create(path, plan, arrays)
        store.write_rows(path, arrays, range(4), {row: drawn(arrays, row) for row in range(2)})
        faces = tuple(FaceOutcome(row, (0.0,) * 4, 1.0, (0.0,) * 10, MATRIX, 1.0, 0.25 * row) for row in range(2))
        first = [Outcome(0, names[0], "ok", height=64, width=64, faces=faces), Outcome(1, names[1], "no_face")]
        write_outcomes(run, stage, 0, first, "f")
        write_outcomes(run, stage, 1, [Outcome(2, names[2], "failed", "NotAnImage", "<i>no</i> & photo")], "f")
    write_parquet(pa.table({"image": names}), run / "segments.parquet")
    return run


def drawn(arrays, row):
    """Values of a face: everything is seen but a square, the parse map is the face's skin."""
    values = {name: np.zeros(spec.shape(1)[1:], spec.dtype) for name, spec in arrays.items()}
    for name, value in (("raw", 100), ("reference", 200), ("region", 1), ("parsing", CELEBM.classes.index("face"))):
        if name in values:
            values[name][...] = value
    if "occlusion" in values:
        values["occlusion"][20:40, 20:40] = 0.9
    if "contrast" in values:
        values["contrast"][30, 30] = 0.5
        values["prompts"][10, 10], values["prompts"][50, 50] = 1, 2
    return values


def test_every_step_of_a_face_is_drawn(run):
    photo, parts, reference, contrast, prompts, occlusion = pictures(run, 1, CELEBM)
    assert (photo == 100).all()
    assert (reference == 200).all()
    assert parts[0, 0].tolist() == list(CELEBM.colours[CELEBM.classes.index("face")])
    assert contrast[30, 30].sum() > contrast[0, 0].sum()
    assert prompts[10, 10].tolist() != prompts[50, 50].tolist() != [50, 50, 50]
    assert prompts[0, 0].tolist() == [50, 50, 50]
    assert (occlusion[:20] == 100).all()
    assert (occlusion[20:40, 20:40] != 100).all()


def test_the_sheet_has_a_line_for_each_face(run, tmp_path):
    assert list(segmented_faces(run)) == [
        (0, "two: 0 % of the face hidden"), (1, "two: 25 % of the face hidden"),
    ]  # fmt: skip
    for limit, lines in ((12, 2), (1, 1)):
        with Image.open(contact_sheet(run, tmp_path / "new" / "sheet.png", limit)) as sheet:
            assert sheet.size == (len(TITLES) * (TILE + GAP) + GAP, CAPTION + lines * (TILE + GAP + CAPTION))


def test_a_run_without_a_segmented_face_has_no_sheet(run, tmp_path):
    (run / "items" / "segments" / "00000.parquet").unlink()
    with pytest.raises(ConfigError, match="no segmented face"):
        contact_sheet(run, tmp_path / "sheet.png")


def test_the_page_says_what_came_of_it_and_escapes_it(run, tmp_path):
    sheet = contact_sheet(run, tmp_path / "sheet.png")
    page = write_page(run, sheet)
    text = page.read_text(encoding="utf-8")
    assert page == run / "report.html"
    assert "<h1>Run a &amp; b</h1>" in text
    assert "<p>3 photos." in text
    assert "<td>&lt;b&gt;bad&lt;/b&gt;</td><td>NotAnImage</td><td>&lt;i&gt;no&lt;/i&gt; &amp; photo</td>" in text
    assert "<b>" not in text
    assert text.count("<td class=n>2/2</td><td class=n>1</td>") == 3
    assert "segments.parquet</code>" in text
    assert "data:image/png;base64,iVBOR" in text
    assert not list(run.glob(".report*"))


def test_a_page_without_failures_says_so(run, tmp_path):
    write_outcomes(run, "segments", 1, [Outcome(2, "<b>bad</b>", "no_face")], "f")
    text = write_page(run, contact_sheet(run, tmp_path / "sheet.png")).read_text(encoding="utf-8")
    assert "<p>None.</p>" in text
    assert "NotAnImage" not in text


def test_no_run_no_page(tmp_path):
    with pytest.raises(ManifestError, match="no plan there"):
        write_page(tmp_path, tmp_path / "sheet.png")


def test_files_are_named_once_they_are_there(run):
    names = ["segments.parquet", "references.zarr", "masks.zarr", "config.toml"]
    assert [path.name for path in run_files(run)] == names
    (run / "masks").mkdir()
    assert [path.name for path in run_files(run)] == [*names[:3], "masks", "config.toml"]
