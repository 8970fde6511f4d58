"""What the package ships is what the recipes' networks take, and what they go on from."""

from collections.abc import Callable

import cv2
import pytest
import torch

from examples.demo_photos import load_portrait
from recipes import inpainter
from recipes.parsing_net import ParsingNet
from recipes.shipping import FILES, SHIPPED, keep_some, start_from
from s3pot_batch.stages.models.checkpoints import EMBEDDED
from s3pot_batch.stages.models.refiners.unet import untrained
from s3pot_batch.stages.models.segmenters.sam_small import build_small_sam
from s3pot_batch.stages.models.taxonomy import CELEBM

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript

BUILDERS: dict[str, Callable[[], torch.nn.Module]] = {
    "parser": ParsingNet, "sam": build_small_sam, "vae": inpainter.build_vae,
    "unet": inpainter.build_unet, "controlnet": inpainter.build_controlnet, "refiner": untrained,
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_recipes_module_takes_the_shipped_weights(name):
    models = torch.nn.ModuleDict({name: BUILDERS[name]()})
    before = {key: value.clone() for key, value in models.state_dict().items()}
    start_from(SHIPPED, models)
    assert any(not torch.equal(value, before[key]) for key, value in models.state_dict().items())


def test_a_trained_model_keeps_a_share_of_what_it_started_from(tmp_path):
    start, models = (torch.nn.ModuleDict({"net": torch.nn.Linear(3, 2)}) for _ in range(2))
    torch.save(start.state_dict(), tmp_path / "start.pt")
    trained = {name: value.clone() for name, value in models.state_dict().items()}
    keep_some(models, tmp_path / "start.pt", 0.25)
    for name, value in models.state_dict().items():
        torch.testing.assert_close(value, 0.25 * start.state_dict()[name] + 0.75 * trained[name])


def test_the_shipped_parser_finds_a_mirrored_faces_parts_on_the_other_side():
    parser = torch.jit.load(str(EMBEDDED / "parser.pt")).float()
    photo = torch.from_numpy(cv2.resize(load_portrait("astronaut"), (448, 448))).permute(2, 0, 1)[None] / 255
    logits, mirrored = parser(photo)[0], parser(photo.flip(-1))[0]
    assert torch.allclose(mirrored, logits.flip(-1)[:, list(CELEBM.mirrored)], atol=1e-2)
    assert not torch.allclose(logits, logits.flip(-1), atol=1e-2)
