"""What a run folder does again, and what it keeps: other settings, other manifests, damage, photos that changed."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from PIL import Image

from benchmarks.tidy_run import compare
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.fingerprint import fingerprint
from s3pot_batch.manifests.outcomes import items_path, read_checksums, read_outcomes, write_outcomes
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.pipeline.damage import damaged_shards
from s3pot_batch.pipeline.lock import locked
from s3pot_batch.stages.base import stage_named
from s3pot_batch.stages.store import checksum
from tests.pipeline.conftest import answer_of, run, times, working
from tests.portraits import blank

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript


def test_a_run_folder_keeps_to_what_its_references_were_made_with(photos, segmented):
    before = times(segmented)
    done = working("segment", photos, segmented, "--seed", 1)
    assert done.exit_code == 2
    assert "references made with other settings: seed (0 → 1)" in done.stderr
    assert done.stderr.endswith("; use another --run\n")
    assert len(done.stderr.strip().splitlines()) == 1
    assert times(segmented) == before


def settings_file(folder: Path, text: str) -> Path:
    (folder / "settings.toml").write_text(text)
    return folder / "settings.toml"


def test_another_setting_of_stage_two_redoes_stage_two_alone(photos, segmented, tmp_path):
    folder = Path(shutil.copytree(segmented, tmp_path / "run"))
    before, threshold = times(folder), "[segments]\nthreshold = 0.9\n"
    options = ("--config", settings_file(tmp_path, threshold))
    preview = json.loads(working("segment", photos, folder, *options, "--dry-run", "--json").stdout)
    assert preview["shards to do"] == {"references": 0, "decoded": 0, "segments": 3}
    assert times(folder) == before
    done = working("segment", photos, folder, *options)
    assert done.exit_code == 1
    assert "segments was made with other settings (segments.threshold (0.5 → 0.9)); it is done again" in done.stderr
    again = {name for name, when in times(folder).items() if when != before[name]}
    assert again == {f"items/segments/{shard:05d}.parquet" for shard in range(3)}
    assert answer_of(folder)[0]["occlusion_ratio"] < answer_of(segmented)[0]["occlusion_ratio"]
    assert "done again" not in working("segment", photos, folder, *options).stderr


def test_masks_of_an_earlier_version_are_made_again(photos, segmented, tmp_path):
    folder = Path(shutil.copytree(segmented, tmp_path / "run"))
    before, config = times(folder), folder / "config.toml"
    settled = tomllib.loads(config.read_text())
    assert settled["inputs"]["segments"].pop("schema_version") == 3  # as it was without a mask per face
    settled["fingerprints"]["segments"] = fingerprint(settled["inputs"]["segments"])
    config.write_text(tomli_w.dumps(settled))
    done = working("segment", photos, folder)
    assert "Note: segments was made with other settings (schema_version (absent → 3)); it is done again" in done.stderr
    again = {name for name, when in times(folder).items() if when != before[name]}
    assert again == {f"items/segments/{shard:05d}.parquet" for shard in range(3)}
    [face] = answer_of(folder)[0]["faces"]
    assert (face["row"], len(face["landmarks"])) == (0, 10)
    assert face["occlusion"] == answer_of(folder)[0]["occlusion"]


@pytest.mark.parametrize(
    ("setting", "stages"),
    [('edges = "decoder"', {"segments"}), ('target = "occlusion"', {"decoded", "segments"})],
    ids=["edges", "target"],
)
def test_a_setting_costs_what_it_changes(photos, segmented, tmp_path, setting, stages):
    folder = Path(shutil.copytree(segmented, tmp_path / "run"))
    options = ("--config", settings_file(tmp_path, f"[segments]\n{setting}\n"))
    preview = json.loads(working("segment", photos, folder, *options, "--dry-run", "--json").stdout)
    assert {stage for stage, shards in preview["shards to do"].items() if shards} == stages


def test_references_of_another_run_are_taken_over(photos, segmented, tmp_path):
    folder, before = tmp_path / "run", times(segmented)
    rows, options = answer_of(segmented), ("--references", segmented)
    preview = json.loads(working("segment", photos, folder, *options, "--dry-run", "--json").stdout)
    assert preview["shards to do"] == {"references": 0, "decoded": 3, "segments": 3}
    assert not folder.exists()
    assert working("segment", photos, folder, *options).exit_code == 1
    assert [{**row, "run": "run"} for row in answer_of(folder)] == [{**row, "run": "run"} for row in rows]
    face = "references.zarr/raw/c.0.0.0.0"
    assert (folder / face).samefile(segmented / face), "it is a link, and takes no room"
    (folder / face).unlink()  # what is mended in one folder leaves the other alone
    for stage in ("decoded", "segments"):
        shutil.rmtree(folder / "items" / stage)
    assert working("segment", photos, folder, *options).exit_code == 1
    assert not (folder / face).samefile(segmented / face)
    assert times(segmented) == before
    assert working("segment", photos, segmented).exit_code == 1
    assert answer_of(segmented) == rows


@pytest.mark.parametrize(
    ("options", "reason"),
    [((), "no plan there"), (("--seed", 1), "they were made with other settings: seed (0 → 1)")],
    ids=["no run", "another seed"],
)
def test_references_of_other_settings_are_refused(photos, segmented, tmp_path, options, reason):
    lender = segmented if options else tmp_path
    done = working("segment", photos, tmp_path / "run", "--references", lender, *options)
    assert done.exit_code == 2
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_run_grows_shrinks_and_follows_its_manifest(photos, segmented, tmp_path):
    def list_and_work(*names, options=()):
        write_parquet(pa.table({"image": [str(photos / name) for name in names]}), tmp_path / "in.parquet")
        return working("segment", tmp_path, tmp_path / "run", *options)

    assert list_and_work("blank.png", "face.png", options=("--limit", 1)).exit_code == 0
    assert [row["image"] for row in answer_of(tmp_path / "run")] == [str(photos / "blank.png")]
    first = times(tmp_path / "run")
    assert list_and_work("gone.png", "face.png", "blank.png").exit_code == 1
    assert {name: when for name, when in times(tmp_path / "run").items() if name in first} == first
    rows, whole = answer_of(tmp_path / "run"), answer_of(segmented)
    assert [row["status"] for row in rows] == ["failed", "ok", "no_face"]
    assert rows[1]["face_region"] == whole[0]["face_region"]
    before = times(tmp_path / "run")
    assert list_and_work("face.png").exit_code == 0
    assert times(tmp_path / "run") == before
    assert [row["status"] for row in answer_of(tmp_path / "run")] == ["ok"]
    status = json.loads(run("status", "--run", tmp_path / "run", "--json").stdout)
    assert (status["photos"], status["stages"][0]["ok"]) == (1, 1)


def test_what_was_damaged_is_done_again_and_said(photos, segmented, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(segmented, folder)
    before = times(folder)
    (folder / "references.zarr" / "region" / "c.0.0.0").unlink()
    (folder / "items" / "segments" / "00000.parquet").write_bytes(b"PAR1")
    (folder / "items" / "references" / "00001.parquet").write_bytes(b"")
    (folder / "references.zarr" / "parsing" / "zarr.json").write_text("{")
    done = working("segment", photos, folder)
    assert done.exit_code == 1, done.output
    assert answer_of(folder) == answer_of(segmented)
    assert "references, shard 0: what was written is damaged; it is done again" in done.stderr
    assert "references/00001.parquet is damaged" in done.stderr
    untouched = [name for name in before if name.endswith("00002.parquet")]
    assert all(times(folder)[name] == before[name] for name in untouched)


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


def of_another(path):
    table = pq.read_table(path)
    write_parquet(table.set_column(1, "image_id", pa.array(["another"])), path)


DAMAGES = {
    "masks.zarr/occlusion/c.0.0.0": (zeroed, "segments, shard 0: what was written is damaged"),
    "references.zarr/raw/c.0.0.0.0": (Path.unlink, "references, shard 0: what was written is damaged"),
    "decoded.zarr/contrast/c.0.0.0": (flipped, "decoded, shard 0: what was written is damaged"),
    "decoded.zarr/contrast/zarr.json": (flipped, "decoded.zarr: its metadata is damaged"),
    "masks.zarr/zarr.json": (Path.unlink, "masks.zarr: its metadata is damaged"),
    "segments.parquet": (flipped, "segments.parquet is not as it was written"),
    "config.toml": (cut, "config.toml is damaged"),
    "plan.parquet": (cut, "plan.parquet is damaged"),
    "items/segments/00000.parquet": (of_another, "segments, shard 0: what was written is damaged"),
    "items/segments/00001.parquet": (cut, "segments/00001.parquet is damaged"),
    "items/segments/00002.parquet": (
        lambda path: shutil.copy(path.with_stem("00001"), path), "segments/00002.parquet is damaged"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_finished_run_that_was_damaged_is_mended(photos, segmented, tmp_path, name):
    folder, (damage, said) = tmp_path / segmented.name, DAMAGES[name]
    shutil.copytree(segmented, folder)
    damage(folder / name)
    done = working("segment", photos, folder)
    assert said in done.stderr, done.output
    assert answer_of(folder) == answer_of(segmented)
    assert not compare(segmented, folder).arrays
    assert "Note" not in working("segment", photos, folder).stderr


def test_a_run_that_was_copied_without_its_times_is_as_good(photos, segmented, tmp_path):
    folder = tmp_path / segmented.name
    shutil.copytree(segmented, folder, copy_function=shutil.copy)
    (folder / "masks.zarr" / "@eaDir").mkdir()  # a NAS's
    assert "Note" not in working("references", photos, folder).stderr
    done = working("segment", photos, folder)
    assert "damaged" not in done.stderr
    assert answer_of(folder) == answer_of(segmented)
    outcomes = folder / "items" / "segments" / "00000.parquet"
    when = outcomes.stat().st_mtime_ns
    zeroed(outcomes)  # which nobody would notice
    os.utime(outcomes, ns=(when, when))
    (folder / "masks.zarr" / "occlusion" / "c.0.0.0").unlink()
    assert "segments, shard 0: what was written is damaged" in working("segment", photos, folder).stderr
    assert answer_of(folder) == answer_of(segmented)


def test_arrays_of_zeros_have_no_file_and_are_not_read_each_time(segmented, tmp_path):
    folder = Path(shutil.copytree(segmented, tmp_path / "run"))
    store, outcomes = folder / "references.zarr", read_outcomes(folder, "references", 0)
    shape, kind = (json.loads((store / "region" / "zarr.json").read_text())[key] for key in ("shape", "data_type"))
    zeros = {"region": checksum(np.zeros(shape[1:], kind))}
    sums = {row: named | zeros for row, named in read_checksums(folder, "references", 0).items()}
    made = pq.read_schema(items_path(folder, "references", 0)).metadata[b"fingerprint"].decode()
    write_outcomes(folder, "references", 0, outcomes, made, sums)
    (store / "region" / "c.0.0.0").unlink()
    os.utime(store / "raw" / "c.0.0.0.0", (1, 1))
    assert not list(damaged_shards(folder, read_plan(folder), [stage_named("references")]))
    assert (store / "raw" / "c.0.0.0.0").stat().st_mtime == 1, "what was read is as old as its outcomes"


def done_again(folder, before):
    return sorted(name for name, when in times(folder).items() if before[name] != when)


def test_photos_that_changed_or_came_are_done_again_and_no_others(tmp_path):
    for name in ("same", "touched", "changed", "text", "large"):
        Image.fromarray(blank()).save(tmp_path / f"{name}.png")
    (tmp_path / "text.png").write_text("no photo")
    (tmp_path / "large.png").write_bytes(bytes(2000))
    (tmp_path / "folder.png").mkdir()
    names = ["same.png", "touched.png", "changed.png", "gone.png", "text.png", "large.png", "folder.png"]
    write_parquet(pa.table({"image": names}), tmp_path / "in.parquet")
    (tmp_path / "few.toml").write_text("[faces]\nmax_bytes = 1000\n")
    folder, bounded = tmp_path / "run", ("--config", tmp_path / "few.toml")
    assert working("references", tmp_path, folder, *bounded).exit_code == 1
    before = times(folder)
    assert working("references", tmp_path, folder, *bounded).exit_code == 1
    assert times(folder) == before, "nothing has changed"
    os.utime(tmp_path / "touched.png", (1, 1))
    Image.fromarray(blank()[:4]).save(tmp_path / "changed.png")
    for name in ("gone", "large"):
        Image.fromarray(blank()).save(tmp_path / f"{name}.png")
    assert working("references", tmp_path, folder, *bounded).exit_code == 1
    assert done_again(folder, before) == [f"items/references/0000{n}.parquet" for n in (2, 3, 5)]
    before = times(folder)
    assert working("references", tmp_path, folder, *bounded, "--retry-failed").exit_code == 1
    assert done_again(folder, before) == [f"items/references/0000{n}.parquet" for n in (4, 6)]
    (tmp_path / "folder.png").rmdir()
    for name in ("text", "folder"):
        Image.fromarray(blank()).save(tmp_path / f"{name}.png")
    assert working("references", tmp_path, folder, *bounded).exit_code == 0


def test_photos_inside_a_manifest_that_changed_are_done_again(tmp_path):
    def listed(*photos):
        write_parquet(pa.table({"image": [{"bytes": photo} for photo in photos]}), tmp_path / "in.parquet")
        return working("references", tmp_path, tmp_path / "run")

    Image.fromarray(blank()).save(tmp_path / "one.png")
    one = (tmp_path / "one.png").read_bytes()
    assert listed(one, b"no photo").exit_code == 1
    before = times(tmp_path / "run")
    assert listed(one, b"no photo").exit_code == 1
    assert times(tmp_path / "run") == before, "another file of the same photos"
    assert listed(one, one).exit_code == 0
    assert done_again(tmp_path / "run", before) == ["items/references/00001.parquet"]


def test_a_second_command_says_who_holds_the_run(photos, segmented):
    with locked(segmented):
        done = working("segment", photos, segmented)
    assert done.exit_code == 2
    assert f"is in use by process {os.getpid()} on " in done.stderr
    assert working("segment", photos, segmented).exit_code == 1, "it is free again"
