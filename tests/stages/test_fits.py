import copy

import pytest
import torch

from s3pot_batch.manifests.outcomes import Outcome, read_outcomes
from s3pot_batch.stages import store
from s3pot_batch.stages.errors import ShardError
from s3pot_batch.stages.fits import load_fits, save_fits
from tests.stages.conftest import do, with_settings


@pytest.fixture
def context(cached_run):
    return with_settings(cached_run[1], "segments", per_image=True)


def test_a_shard_of_fits_holds_an_adapter_per_face(context):
    report = do("fits", context)
    assert (report.items, report.ok, report.no_face) == (3, 2, 1)
    [(row, state)] = load_fits(context.run, 0).items()  # the other face's region holds no token
    assert row == 0
    shared = context.models.adapter.state_dict()
    assert set(state) == set(shared)
    assert not all(torch.equal(state[name], shared[name]) for name in shared)


def test_outcomes_say_how_each_photo_fared_and_no_more(context):
    do("fits", context)
    outcomes = read_outcomes(context.run, "fits", 0)
    assert [(one.image_id, one.status) for one in outcomes] == [("p0", "ok"), ("p1", "ok"), ("p2", "no_face")]
    for one in outcomes:
        assert one == Outcome(one.index, one.image_id, one.status, seconds=one.seconds)
        assert 0 <= one.seconds < 100


def test_segmenting_with_a_faces_own_fit(context):
    shared = copy.deepcopy(context.models.adapter.state_dict())
    do("fits", context)
    report = do("segments", context)
    assert (report.ok, report.no_face, report.failed) == (2, 1, 0)
    own = store.read_rows(context.run / "masks.zarr", "occlusion", slice(0, 3))
    general_context = with_settings(context, "segments", per_image=False)
    for stage in ("decoded", "segments"):
        (context.run / "items" / stage / "00000.parquet").unlink()
    do("segments", general_context)
    general = store.read_rows(context.run / "masks.zarr", "occlusion", slice(0, 3))
    assert (own[0] != general[0]).any()
    assert not own[1].any()
    assert all(torch.equal(value, shared[name]) for name, value in context.models.adapter.state_dict().items())


def test_missing_fits_are_named(context):
    with pytest.raises(ShardError, match="train --per-image"):
        load_fits(context.run, 0)


def test_a_face_whose_fit_is_missing_is_not_segmented_with_another_adapter(context):
    save_fits(context.run, 0, {})
    with pytest.raises(ShardError, match="own fit is missing"):
        do("segments", context)
    assert not (context.run / "items" / "segments" / "00000.parquet").exists()


def test_an_interrupted_writing_leaves_no_half_file(context):
    do("fits", context)
    assert [path.name for path in (context.run / "fits").iterdir()] == ["00000.safetensors"]
