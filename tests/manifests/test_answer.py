from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3pot_batch.manifests import answer as answers
from s3pot_batch.manifests.answer import answer_is_current, assemble_segments
from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.manifest import read_manifest
from s3pot_batch.manifests.outcomes import Outcome, items_path, write_outcomes
from s3pot_batch.manifests.plan import Plan, make_plan
from s3pot_batch.manifests.schema import SEGMENTS
from tests.manifests.tables import FACE, finish, manifest_file, settle_plan


def planned(folder: Path, *, shard_size: int = 2, **columns: list[object]) -> tuple[Path, Plan]:
    path = manifest_file(folder, **columns)
    return path, make_plan(read_manifest(path), shard_size=shard_size, max_faces=3)


@given(
    statuses=st.lists(st.sampled_from(["ok", "no_face", "failed"]), min_size=1, max_size=12),
    lost=st.sets(st.integers(0, 11)),
    shard_size=st.integers(1, 5),
    group=st.integers(1, 12),
)
def test_one_row_out_per_row_in_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, statuses: list[str], lost: set[int], shard_size: int, group: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    numbers: list[object] = list(range(len(statuses)))
    path, plan = planned(folder, shard_size=shard_size, image=[f"{n}.jpg" for n in numbers], number=numbers)
    for k in set(range(plan.shards)) - lost:
        finish(folder, plan, k, [statuses[item.index] for item in plan.shard(k)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "ROW_GROUP", group)  # so that a few rows cross its boundaries
        tally = assemble_segments(read_manifest(path), plan, folder, "f")
    answer = pq.read_table(folder / "segments.parquet")
    items = [item for shard in range(plan.shards) for item in plan.shard(shard)]
    expected = ["failed" if item.shard in lost else statuses[item.index] for item in items]
    assert answer["number"].to_pylist() == numbers
    assert answer["status"].to_pylist() == expected
    assert answer["row"].to_pylist() == [item.row for item in items]
    assert answer["shard"].to_pylist() == [item.shard for item in items]
    assert tally == {status: expected.count(status) for status in ("ok", "no_face", "failed")}


def test_input_columns_come_first_and_the_answer_is_typed(tmp_path: Path) -> None:
    path, plan = planned(tmp_path, image=["a.jpg"], who=["Ada"])
    rle = {"size": [4, 6], "counts": "08"}
    face = replace(FACE, occlusion=rle)
    outcome = Outcome(0, "a", "ok", height=4, width=6, faces=(face,), occlusion=rle, faces_left_out=2)
    write_outcomes(tmp_path, "segments", 0, [outcome], "f")
    assemble_segments(read_manifest(path), plan, tmp_path, "f", tmp_path / "elsewhere.parquet")
    answer = pq.read_table(tmp_path / "elsewhere.parquet")
    assert answer.column_names == ["image", "who", "image_id", *SEGMENTS.names]
    assert [answer.schema.field(name).type for name in SEGMENTS.names] == SEGMENTS.types
    assert answer.schema.metadata[b"schema_version"] == b"3"
    found = answer.to_pylist()[0]
    assert found["faces"] == [
        {"row": 4, "bbox": [0.0, 1.0, 2.0, 3.0], "landmarks": [1.0] * 10, "score": 0.5, "occlusion_ratio": 0.1,
         "predicted_iou": 0.7, "parse_confidence": 0.9, "occlusion": rle, "face_region": None},
    ]  # fmt: skip
    assert (found["occlusion"], found["face_region"]) == (rle, None)
    assert found["faces_left_out"] == 2
    assert (found["run"], found["fingerprint"]) == (tmp_path.name, "f")


def test_a_shard_that_never_ran_says_so(tmp_path: Path) -> None:
    path, plan = planned(tmp_path, image=["a", "b", "c"])
    finish(tmp_path, plan, 0, ["ok", "no_face"])
    assert assemble_segments(read_manifest(path), plan, tmp_path, "f") == {"ok": 1, "no_face": 1, "failed": 1}
    lost = pq.read_table(tmp_path / "segments.parquet").to_pylist()[2]
    assert (lost["error_type"], lost["error"]) == ("ShardError", "shard was not processed; run the command again")
    assert lost["faces"] == []


@pytest.mark.parametrize("wrong", ["settings", "order", "photos", "number"])
def test_items_of_something_else_never_reach_the_answer(tmp_path: Path, wrong: str) -> None:
    path, plan = planned(tmp_path, image=["a", "b"])
    rows = [Outcome(n, name, "ok") for n, name in enumerate(["a", "b"])]
    changed = {
        "order": rows[::-1],
        "photos": [rows[0], replace(rows[1], image_id="x")],
        "number": rows[:1],
    }.get(wrong, rows)
    write_outcomes(tmp_path, "segments", 0, changed, "g" if wrong == "settings" else "f")
    with pytest.raises(ManifestError, match=r"00000\.parquet"):
        assemble_segments(read_manifest(path), plan, tmp_path, "f")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.parquet", "items"]


def test_damaged_items_are_of_no_shard(tmp_path: Path) -> None:
    path, plan = planned(tmp_path, image=["a", "b", "c"])
    for shard in (0, 1):
        finish(tmp_path, plan, shard, ["ok"] * plan.shard_photos(shard))
    items_path(tmp_path, "segments", 0).write_bytes(b"PAR1")
    assert assemble_segments(read_manifest(path), plan, tmp_path, "f") == {"ok": 1, "no_face": 0, "failed": 2}


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 0], [2, 5, 0, 4, 1]])
def test_the_answer_follows_the_manifest_and_not_the_plan(tmp_path: Path, order: list[int]) -> None:
    names = ["a", "b", "c", "d", "e", "f"]
    settle_plan(read_manifest(manifest_file(tmp_path, image=names[:5])), tmp_path, shard_size=2, max_faces=3)
    manifest = read_manifest(manifest_file(tmp_path, image=[names[n] for n in order]))
    plan = settle_plan(manifest, tmp_path, shard_size=2, max_faces=3)
    for shard in range(plan.shards):
        outcomes = [Outcome(one.index, one.image_id, "ok", height=ord(one.image_id)) for one in plan.shard(shard)]
        write_outcomes(tmp_path, "segments", shard, outcomes, "f")
    assemble_segments(manifest, plan, tmp_path, "f")
    rows = pq.read_table(tmp_path / "segments.parquet").to_pylist()
    assert [(row["image_id"], row["height"]) for row in rows] == [(names[n], ord(names[n])) for n in order]


def test_a_plan_of_fewer_photos_loses_no_row_in_silence(tmp_path: Path) -> None:
    path, _ = planned(tmp_path, image=["a", "b", "c"])
    short = make_plan(read_manifest(path, 2), shard_size=2, max_faces=3)
    with pytest.raises(ManifestError, match="not planned for c; run the command again"):
        assemble_segments(read_manifest(path), short, tmp_path, "f")
    assert not (tmp_path / "segments.parquet").exists()


def test_small_shards_share_a_row_group(tmp_path: Path) -> None:
    path, plan = planned(tmp_path, shard_size=1, image=[f"{n}.jpg" for n in range(20)])
    assemble_segments(read_manifest(path), plan, tmp_path, "f")
    assert pq.ParquetFile(tmp_path / "segments.parquet").num_row_groups == 1


def test_pandas_reads_what_pandas_wrote(tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.DataFrame({"image": ["a", "b"], "who": ["Ada", None]}, index=[5, 9])
    frame.to_parquet(tmp_path / "in.parquet")
    manifest = read_manifest(tmp_path / "in.parquet")
    assemble_segments(manifest, make_plan(manifest, shard_size=1, max_faces=1), tmp_path, "f")
    found = pd.read_parquet(tmp_path / "segments.parquet")
    pd.testing.assert_frame_equal(found[["image", "who"]], frame)
    assert list(found["status"]) == ["failed", "failed"]


def redo(folder: Path, plan: Plan) -> None:
    finish(folder, plan, 0, ["no_face", "ok"])


def other_columns(folder: Path, plan: Plan) -> None:
    del plan
    manifest_file(folder, image=["a", "b", "c"], kind=["one", "other", "third"])


def cut(folder: Path, plan: Plan) -> None:
    del plan
    answer = folder / "segments.parquet"
    answer.write_bytes(answer.read_bytes()[:-9])


@pytest.mark.parametrize("change", [redo, other_columns, cut])
def test_an_answer_is_current_until_something_that_it_is_made_of_changes(
    tmp_path: Path, change: Callable[[Path, Plan], None]
) -> None:
    path, plan = planned(tmp_path, image=["a", "b", "c"], kind=["one", "other", "none"])
    assert not answer_is_current(read_manifest(path), plan, tmp_path, "f")
    finish(tmp_path, plan, 0, ["ok", "ok"])
    assemble_segments(read_manifest(path), plan, tmp_path, "f")
    assert answer_is_current(read_manifest(path), plan, tmp_path, "f")
    assert not answer_is_current(read_manifest(path), plan, tmp_path, "g")
    assert not answer_is_current(read_manifest(path, 2), plan, tmp_path, "f")
    change(tmp_path, plan)
    assert not answer_is_current(read_manifest(path), plan, tmp_path, "f")


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("by", ["pyarrow", "pandas"])
def test_a_part_of_an_answer_is_a_manifest_of_the_same_photos(tmp_path: Path, by: str, inside: bool) -> None:
    (tmp_path / "b.jpg").touch()
    images: list[object] = ["a.jpg", "b.jpg"]
    if inside:
        images = [{"bytes": b"one", "path": "a.jpg"}, {"bytes": b"two", "path": "b.jpg"}]
    path, plan = planned(tmp_path, image=images)
    finish(tmp_path / "run", plan, 0, ["ok", "ok"])
    whole = read_manifest(path)
    assemble_segments(whole, plan, tmp_path / "run", "f")
    answer, part = tmp_path / "run" / "segments.parquet", tmp_path / "elsewhere" / "part.parquet"
    part.parent.mkdir()
    if by == "pandas":
        table = pd.read_parquet(answer)
        table[table.image_id == "b"].to_parquet(part)
    else:
        pq.write_table(pq.read_table(answer).slice(1), part)
    assert read_manifest(part).images == whole.images[1:]
    assert read_manifest(part, confine=()).images == (str(part.parent / "b.jpg"),), "others' files may say anything"
    (part.parent / "b.jpg").touch()
    assert inside or read_manifest(part).images == (str(part.parent / "b.jpg"),), "what is there beside it is meant"
    origin = read_manifest(part).origin
    assert origin is not None
    assert origin.manifest == (path if inside else part), "an answer to it says where its photos were found"
