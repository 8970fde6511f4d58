"""Outcomes come back from their files as they went in, and their file marks a shard as finished."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3pot_batch.manifests.errors import ManifestError
from s3pot_batch.manifests.outcomes import (
    FaceOutcome,
    Outcome,
    items_path,
    read_outcomes,
    shard_is_done,
    write_outcomes,
)
from s3pot_batch.manifests.schema import FACE as FACE_TYPE
from s3pot_batch.manifests.schema import ITEM_SCHEMA, STATUSES
from tests.manifests.tables import FACE

ITEM = Outcome(0, "a", "ok")
RLE = {"size": [480, 640], "counts": "abc"}
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
FACES = st.builds(
    FaceOutcome, row=st.integers(0, 2**40), bbox=st.tuples(*[NUMBERS] * 4), score=NUMBERS,
    landmarks=st.tuples(*[NUMBERS] * 10), matrix=st.tuples(*[NUMBERS] * 6), parse_confidence=NUMBERS,
    occlusion_ratio=st.none() | NUMBERS, predicted_iou=st.none() | NUMBERS,
)  # fmt: skip
WORDS = st.text(st.characters(codec="utf-8"), max_size=9)
OUTCOMES = st.builds(
    Outcome, index=st.integers(0, 2**40), image_id=WORDS, status=st.sampled_from(STATUSES),
    error_type=st.none() | WORDS, error=st.none() | WORDS, height=st.none() | st.integers(1, 2**30),
    width=st.none() | st.integers(1, 2**30), faces=st.lists(FACES, max_size=3).map(tuple),
    occlusion=st.none() | st.just(RLE), face_region=st.none() | st.just(RLE), occlusion_ratio=st.none() | NUMBERS,
    predicted_iou=st.none() | NUMBERS, seconds=NUMBERS,
)  # fmt: skip


def test_done_means_same_fingerprint(tmp_path: Path) -> None:
    assert not shard_is_done(tmp_path, "segments", 0, "f")
    write_outcomes(tmp_path, "segments", 0, [ITEM], "f")
    assert shard_is_done(tmp_path, "segments", 0, "f")
    with pytest.raises(ManifestError, match=r"00000\.parquet was made with other settings"):
        shard_is_done(tmp_path, "segments", 0, "g")


def test_faces_and_masks_come_back_whole(tmp_path: Path) -> None:
    written = replace(ITEM, faces=(FACE,), occlusion=RLE, seconds=0.25)
    write_outcomes(tmp_path, "segments", 3, [written], "f")
    [found] = read_outcomes(tmp_path, "segments", 3)
    assert found == written
    assert found.face_region is None
    [row] = pq.read_table(items_path(tmp_path, "segments", 3)).to_pylist()  # as others read the file
    assert row["faces"] == [
        {"row": 4, "bbox": [0.0, 1.0, 2.0, 3.0], "score": 0.5, "landmarks": [1.0] * 10,
         "matrix": [1.0, 0.0, 0.5, 0.0, 1.0, 0.25], "parse_confidence": 0.9, "occlusion_ratio": 0.1,
         "predicted_iou": 0.7, "occlusion": None, "face_region": None},
    ]  # fmt: skip
    assert (row["index"], row["image_id"], row["status"], row["occlusion"]) == (0, "a", "ok", RLE)
    metadata = pq.read_schema(items_path(tmp_path, "segments", 3)).metadata
    assert {key: metadata[key] for key in (b"fingerprint", b"stage", b"schema_version")} == {
        b"fingerprint": b"f", b"stage": b"segments", b"schema_version": b"2",
    }  # fmt: skip


@settings(max_examples=40)
@given(written=st.lists(OUTCOMES, min_size=1, max_size=4))
def test_any_outcome_survives_the_round_trip(tmp_path_factory: pytest.TempPathFactory, written: list[Outcome]) -> None:
    run = tmp_path_factory.mktemp("run")
    write_outcomes(run, "tokens", 7, written, "f")
    assert read_outcomes(run, "tokens", 7) == tuple(written)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        (Outcome, dict(zip(ITEM_SCHEMA.names, ITEM_SCHEMA.types, strict=True))),
        (FaceOutcome, {field.name: field.type for field in FACE_TYPE}),
    ],
)
def test_a_column_per_field_so_that_nothing_is_dropped_in_silence(kind: type, columns: Mapping[str, object]) -> None:
    assert {field.name for field in fields(kind)} == set(columns)


@pytest.mark.parametrize("status", ["fine", "", None])
def test_unknown_statuses_are_refused(tmp_path: Path, status: str) -> None:
    with pytest.raises(ValueError, match="shard 0, photo a: unknown"):
        write_outcomes(tmp_path, "segments", 0, [ITEM, replace(ITEM, status=status)], "f")
    assert not shard_is_done(tmp_path, "segments", 0, "f")


def test_unknown_columns_are_refused() -> None:
    with pytest.raises(TypeError, match="widht"):
        Outcome(0, "a", "ok", widht=3)  # type: ignore[call-arg]


def test_damaged_and_missing_outcomes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="shard 0 of segments is not finished"):
        read_outcomes(tmp_path, "segments", 0)
    write_outcomes(tmp_path, "segments", 0, [ITEM], "f")
    items_path(tmp_path, "segments", 0).write_bytes(b"PAR1")
    assert not shard_is_done(tmp_path, "segments", 0, "f")
    with pytest.raises(ManifestError, match=r"00000\.parquet.*delete it"):
        read_outcomes(tmp_path, "segments", 0)


def test_a_stage_that_adds_nothing_passes_on_how_the_photo_fared() -> None:
    failed = Outcome(3, "c", "failed", "NotAnImage", "c: not a photo", seconds=9.0)
    assert failed.status_alone(0.5) == replace(failed, seconds=0.5)
    whole = replace(ITEM, height=4, width=6, faces=(FACE,), occlusion=RLE, occlusion_ratio=0.1, seconds=2.0)
    assert whole.status_alone(0.5) == Outcome(0, "a", "ok", seconds=0.5)
    assert whole.shape == (4, 6)
