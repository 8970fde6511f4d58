"""The recipe of a six-channel ControlNet on Stable Diffusion's latents, at a tiny size."""

from typing import Any

import numpy as np
import pytest
import torch

from recipes import controlnet_sd
from recipes.batches import batches
from recipes.controlnet_sd import ControlNetSdRecipe, Frozen, noise_error, start
from recipes.inpainter import ReferenceSamples
from s3pot_batch.stages.models.inpainters.controlnet import build
from s3pot_batch.stages.models.protocols import Inpainting
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings
from tests.published import write_stable_diffusion

SIDE = 64
QUICK: dict[str, Any] = {"steps": 2, "batch": 2, "measured": 2, "workers": 0}

pytestmark = [  # facer wants TorchScript, which torch is about to drop
    pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Token indices sequence length"),
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sd") / "pipeline"
    write_stable_diffusion(folder)
    return folder


def drawn(faces):
    return next(batches(ReferenceSamples(faces, faces.parsing), size=2, seed=3, workers=0))


def test_an_untrained_controlnet_changes_nothing(pipeline, faces):
    frozen, sample = Frozen.of(pipeline, "cpu"), drawn(faces)
    net = start(frozen.unet)
    assert (net.config.in_channels, net.config.conditioning_channels) == (4, 6)
    assert frozen.unet.config.in_channels == 9

    class Nothing(torch.nn.Module):
        def forward(self, noisy, *args, **options):
            down, middle = net(noisy, *args, **options)
            return [torch.zeros_like(one) for one in down], torch.zeros_like(middle)

    errors = []
    for one in (net, Nothing()):
        torch.manual_seed(1)
        errors.append(noise_error(one, frozen, sample, SIDE))
    torch.testing.assert_close(*errors)


def test_only_the_controlnet_learns_and_it_learns_from_the_photo(pipeline, faces):
    frozen, sample = Frozen.of(pipeline, "cpu"), drawn(faces)
    net = start(frozen.unet)
    steps = []
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(12):
        torch.manual_seed(2)  # the same noise and times every step: what falls is the error itself
        error = noise_error(net, frozen, sample, SIDE).mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        steps.append(error.item())
    assert steps[-1] < steps[0]
    assert all(weight.grad is None for part in (frozen.vae, frozen.unet) for weight in part.parameters())
    changed = sample | {"photo": 255 - sample["photo"]}
    torch.manual_seed(2)
    assert noise_error(net, frozen, changed, SIDE).mean().item() != pytest.approx(steps[-1], rel=1e-6)


def test_what_it_writes_is_a_pipeline_whose_controlnet_sees_parse_map_and_photo(pipeline, data, work, tmp_path, capsys):
    controlnet_sd.train(
        ControlNetSdRecipe(data=data, work=work, out=tmp_path / "out", pipeline=pipeline, side=SIDE, **QUICK)
    )
    assert "error_before" in capsys.readouterr().out
    inpainter = build(tmp_path / "out", "cpu", size=SIDE, condition="parse+photo")
    photo, holes = np.full((1, SIDE, SIDE, 3), 90, np.uint8), np.zeros((1, SIDE, SIDE), bool)
    holes[:, 20:40, 20:40] = True
    asked = Inpainting(photo, np.zeros((1, SIDE, SIDE), np.uint8), holes, hide=False, taxonomy=CELEBM)
    found = inpainter.inpaint(asked, ReferenceSettings(steps=2), [torch.Generator().manual_seed(0)])
    assert np.array_equal(found[~holes], photo[~holes])
