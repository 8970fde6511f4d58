"""Stage two: what comes of the faces of a shard."""

from dataclasses import replace

import numpy as np
import pytest

from s3pot_batch.manifests.outcomes import Outcome, read_outcomes, write_outcomes
from s3pot_batch.stages import store
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.masks import FaceMask, decode_pairs, draw
from s3pot_batch.stages.method.network import S3POT
from s3pot_batch.stages.models.adapters import attention
from s3pot_batch.stages.models.adapters.attention import AttentionAdapter
from s3pot_batch.stages.models.profiles import PartSpec
from s3pot_batch.stages.references import read_pair
from s3pot_batch.stages.rle import decode_rle
from s3pot_batch.stages.segments import answer
from tests.stages.conftest import do, with_settings


@pytest.fixture
def done(run):
    """The context and the outcomes of the segmented run."""
    report = do("segments", run[1])
    assert (report.items, report.ok, report.no_face, report.failed) == (3, 2, 1, 0)
    return run[1], read_outcomes(run[0], "segments", 0)


def test_the_stage_answers_as_the_method_does(done):
    context, outcomes = done
    network = S3POT(context.models.segmenter, context.models.adapter, context.settings.segments)
    pair = read_pair(context.run, 0)
    [found] = decode_pairs(network, [pair])
    decoded, contrast, prompts = store.read_row(context.run / "decoded.zarr", 0, "occlusion", "contrast", "prompts")
    assert (decoded == found.occlusion).all()
    assert (contrast == found.contrast.astype(np.float16)).all()
    assert (prompts == found.prompts).all()
    mask = draw(pair, found.occlusion, context.settings.segments)
    [occlusion] = store.read_row(context.run / "masks.zarr", 0, "occlusion")
    assert (occlusion == mask.occlusion.astype(np.float16)).all()
    [face] = outcomes[0].faces
    assert face.predicted_iou == found.predicted_iou
    # the photos are aligned as they are: what is in the frame is in the photo
    assert (decode_rle(outcomes[0].occlusion) == (mask.occlusion > context.settings.segments.threshold)).all()
    assert (decode_rle(outcomes[0].face_region) == mask.region).all()
    assert (
        face.occlusion_ratio
        == outcomes[0].occlusion_ratio
        == pytest.approx((mask.occlusion > 0.5).sum() / mask.region.sum())
    )


def test_what_stage_one_knew_of_a_face_stays(done):
    context, outcomes = done
    for before, after in zip(read_outcomes(context.run, "references", 0), outcomes, strict=True):
        own = dict.fromkeys(("occlusion_ratio", "predicted_iou", "occlusion", "face_region"))
        plain = [replace(face, **own) for face in after.faces]
        assert tuple(plain) == before.faces
        assert (after.index, after.image_id, after.status, after.shape) == (
            before.index, before.image_id, before.status, before.shape,
        )  # fmt: skip
        assert after.seconds >= before.seconds


def test_a_face_without_a_region_has_nothing_hidden(done):
    context, outcomes = done
    [face] = outcomes[1].faces
    assert (face.occlusion_ratio, face.predicted_iou, outcomes[1].occlusion_ratio) == (0, 0, 0)
    assert not decode_rle(outcomes[1].face_region).any()
    assert not store.read_row(context.run / "masks.zarr", 1, "occlusion")[0].any()


def test_a_photo_without_a_face_has_empty_masks_and_no_figures(done):
    _, outcomes = done
    assert outcomes[2].faces == ()
    assert decode_rle(outcomes[2].occlusion).shape == (64, 64)
    assert not decode_rle(outcomes[2].occlusion).any()
    assert (outcomes[2].occlusion_ratio, outcomes[2].predicted_iou) == (None, None)


def test_a_photo_that_failed_stays_as_it_is(run):
    folder, context = run
    outcomes = list(read_outcomes(folder, "references", 0))
    outcomes[2] = Outcome(2, "p2", "failed", "NotAnImage", "p2: not a photo", seconds=0.5)
    write_outcomes(folder, "references", 0, outcomes, "references")
    assert do("segments", context).failed == 1
    assert read_outcomes(folder, "segments", 0)[2] == outcomes[2]


def test_faces_of_one_photo_are_united(run, face_pair):
    folder, _ = run
    before = read_outcomes(folder, "references", 0)[0]
    pair = face_pair
    face = replace(before.faces[0], predicted_iou=0.5)
    other = replace(face, row=1, matrix=(1.0, 0.0, -36.0, 0.0, 1.0, 0.0), predicted_iou=0.7)
    hidden = pair.region.astype(np.float32)
    masks = {row: FaceMask((1 - row) * hidden, pair.region) for row in (0, 1)}
    found = answer(replace(before, height=64, width=100, faces=(face, other)), masks, 0.5)
    assert [one.occlusion_ratio for one in found.faces] == [1, 0]
    occlusion, regions = decode_rle(found.occlusion), decode_rle(found.face_region)
    assert occlusion.shape == (64, 100)
    assert occlusion.sum() == pair.region.sum()
    assert pair.region.sum() < regions.sum() < 2 * pair.region.sum()  # they overlap
    assert found.occlusion_ratio == pytest.approx(occlusion.sum() / regions.sum())
    assert found.predicted_iou == pytest.approx(0.6)


def test_every_face_has_its_own_masks(run, face_pair):
    before = read_outcomes(run[0], "references", 0)[0]
    face, moved = before.faces[0], (1.0, 0.0, -36.0, 0.0, 1.0, 0.0)
    region = face_pair.region
    masks = {row: FaceMask(((1 - row) * region).astype(np.float32), region) for row in (0, 1)}
    outcome = replace(before, height=64, width=100, faces=(face, replace(face, row=1, matrix=moved)))
    found = answer(outcome, masks, 0.5)
    first, second = found.faces
    assert (decode_rle(first.face_region)[:, :64] == region).all()
    assert (decode_rle(second.face_region)[:, 36:] == region).all()
    assert first.occlusion == first.face_region == found.occlusion
    assert decode_rle(second.occlusion).shape == (64, 100)
    assert not decode_rle(second.occlusion).any()
    united = decode_rle(first.face_region) | decode_rle(second.face_region)
    assert (decode_rle(found.face_region) == united).all()


def test_the_threshold_decides_what_is_called_hidden(run):
    ratios = []
    for n, threshold in enumerate((0.2, 0.5, 0.8)):
        context = replace(with_settings(run[1], "segments", threshold=threshold), fingerprint=f"{n}")
        do("segments", context)
        ratios.append(read_outcomes(run[0], "segments", 0)[0].occlusion_ratio)
        (run[0] / "items" / "segments" / "00000.parquet").unlink()
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > ratios[-1]


def test_an_adapter_that_does_not_fit_is_a_wrong_configuration(run, tmp_path):
    context = run[1]
    attention.save(tmp_path / "wide", AttentionAdapter(64), {}, "card")
    profile = replace(context.profile, adapter=PartSpec("attention", str(tmp_path / "wide")))
    with pytest.raises(ConfigError, match="the adapter has 64 channels and the segmenter 32; train one"):
        do("segments", replace(context, profile=profile))
    assert list((context.run / "items" / "segments").glob("*.parquet")) == []
