"""The refiner: what it is shown, and that its answer does not depend on who else is asked with it."""

import numpy as np
import pytest
import torch

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.profiles import EMBEDDED, PartSpec
from s3pot_batch.stages.models.protocols import Decision
from s3pot_batch.stages.models.refiners.unet import CHANNELS, UNetRefiner, as_input, cut_out, logits, untrained
from s3pot_batch.stages.models.registry import REFINERS


def decision(side=256, seed=0):
    """A grey face with a dark bar in front, which a decoder saw twice as thick."""
    rng = np.random.default_rng(seed)
    reference = rng.normal(150, 3, (side, side, 3)).clip(0, 255).astype(np.uint8)
    photo, occlusion = reference.copy(), np.zeros((side, side), np.float32)
    photo[9 * side // 20 : 11 * side // 20] = 20
    occlusion[4 * side // 10 : 6 * side // 10] = 0.9
    region = np.zeros((side, side), bool)
    region[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = True
    return Decision(photo, reference, region, occlusion * region)


@pytest.fixture(scope="module")
def shipped():
    return REFINERS.load(EMBEDDED.refiner, "cpu")


def test_it_sees_the_pictures_their_contrast_the_decoders_answer_and_the_region():
    one = decision()
    seen = as_input(one)
    assert seen.shape == (CHANNELS, 256, 256)
    for n, picture in ((0, one.photo), (3, one.reference)):
        np.testing.assert_allclose(seen[n : n + 3].transpose(1, 2, 0) * 127.5 + 127.5, picture, atol=0.01)
    assert seen[6, 128, 128] > 0.5
    assert seen[6, 60, 128] < 0.1
    np.testing.assert_allclose(seen[7], 2 * one.occlusion - 1, rtol=1e-6)
    np.testing.assert_allclose(seen[8], 2.0 * one.region - 1, rtol=1e-6)


def test_the_shipped_one_cuts_a_mask_back_to_what_differs(shipped):
    one = decision()
    hidden = (shipped.refine([one])[0] > 0.5) & one.region
    truth = (one.photo[..., 0] < 50) & one.region
    assert (hidden & truth).sum() / (hidden | truth).sum() > 0.89
    assert ((one.occlusion > 0.5) & truth).sum() / ((one.occlusion > 0.5) | truth).sum() < 0.6


def test_a_batch_is_as_its_faces_by_themselves(shipped):
    faces = [decision(seed=n) for n in range(2)]
    for found, one in zip(shipped.refine(faces), faces, strict=True):
        np.testing.assert_allclose(found, shipped.refine([one])[0], rtol=1e-6, atol=1e-4)
        assert found.dtype == np.float32


@pytest.mark.parametrize("side", [128, 512])
def test_other_frames_are_answered_at_their_own_size(shipped, side):
    one, found = decision(side), shipped.refine([decision(side)])
    assert found.shape == (1, side, side)
    truth, hidden = (one.photo[..., 0] < 50) & one.region, (found[0] > 0.5) & one.region
    assert (hidden & truth).sum() / (hidden | truth).sum() > 0.8


def test_its_folder_brings_it_back(tmp_path):
    torch.manual_seed(0)
    net = untrained().eval()
    net.save_pretrained(tmp_path / "r")
    seen = torch.from_numpy(as_input(cut_out(decision(), slice(56, 200), slice(56, 200))))[None]
    expected = logits(net, seen).sigmoid()[0].detach().numpy()
    found = REFINERS.load(PartSpec("unet", str(tmp_path / "r")), "cpu")
    assert isinstance(found, UNetRefiner)
    answer = found.refine([decision()])[0]
    assert answer[56:200, 56:200] == pytest.approx(expected, abs=1e-5)  # M, a margin of 8, and what makes it 9 · 16


@pytest.mark.parametrize("content", ["", "{", '{"_class_name": "UNet2DModel"}'])
def test_what_is_no_refiner_is_one_line(tmp_path, content):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="not a refiner") as caught:
        REFINERS.load(PartSpec("unet", str(tmp_path)), "cpu")
    assert "\n" not in str(caught.value)
