"""What the ControlNets of the published kinds are shown, and what keeps the visible face."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.method.seeds import generator
from s3pot_batch.stages.models.inpainters.controlnet import SCHEDULERS, build
from s3pot_batch.stages.models.profiles import PAPER_LCM, PartSpec
from s3pot_batch.stages.models.protocols import GREY, Inpainting
from s3pot_batch.stages.models.registry import INPAINTERS
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.settings import ReferenceSettings
from tests.published import ADAPTED, IP_ADAPTER, LORA, write_ip_adapter, write_lora, write_stable_diffusion

SIDE = 64
TWO_STEPS = ReferenceSettings(steps=2)
FACE = slice(20, 44)
"""Rows and columns of the hole, which is all that is parsed as face."""


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    torch.manual_seed(0)
    for name, channels in (("one", (3,)), ("two", (3, 3)), ("six", (6,))):
        write_stable_diffusion(folder / name, *channels)
    write_ip_adapter(folder / "one")
    return folder


def asked(count=1, *, hide=False):
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    holes, parsing = np.zeros((count, SIDE, SIDE), bool), np.zeros((count, SIDE, SIDE), np.uint8)
    holes[:, FACE, FACE] = True
    parsing[holes] = CELEBM.ids(("face",))[0]
    return Inpainting(photos, parsing, holes, hide, CELEBM)


def spied(inpainter, wanted, settings=TWO_STEPS):
    """What each ControlNet got as its condition in the first step, and the answer."""
    seen = []

    def note(net, args, kwargs):
        seen.append(kwargs["controlnet_cond"] if "controlnet_cond" in kwargs else args[3])

    nets = getattr(inpainter.pipeline.controlnet, "nets", [inpainter.pipeline.controlnet])
    hooks = [net.register_forward_pre_hook(note, with_kwargs=True) for net in nets]
    found = inpainter.inpaint(wanted, settings, [generator(n) for n in range(len(wanted.photos))])
    for hook in hooks:
        hook.remove()
    return [one.numpy() for one in seen[: len(nets)]], found


def test_an_inpainting_controlnet_sees_the_photo_with_minus_one_in_the_hole(pipelines):
    wanted = asked()
    [seen], _ = spied(build(pipelines / "one", "cpu", size=SIDE, condition="inpaint"), wanted)
    expected = wanted.photos.transpose(0, 3, 1, 2) / np.float32(255)
    expected[..., FACE, FACE] = -1
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_a_segmentation_controlnet_sees_a_person_in_ade20ks_colours(pipelines):
    [seen], _ = spied(build(pipelines / "one", "cpu", size=32, condition="ade"), asked())
    colours = (seen[0] * 255).round().astype(int).transpose(1, 2, 0)
    assert {tuple(colour) for colour in colours.reshape(-1, 3).tolist()} == {(120, 120, 120), (150, 5, 61)}
    assert tuple(colours[16, 16]) == (150, 5, 61)


def test_our_six_channels_are_parse_map_and_photo(pipelines):
    wanted = asked(hide=True)
    [seen], _ = spied(build(pipelines / "six", "cpu", size=SIDE, condition="parse+photo"), wanted)
    assert seen.shape == (1, 6, SIDE, SIDE)
    np.testing.assert_allclose(seen[0, :3].transpose(1, 2, 0) * 255, CELEBM.colourise(wanted.parsing)[0], atol=1e-3)
    assert np.allclose(seen[0, 3:, FACE, FACE] * 255, GREY)


def test_two_controlnets_see_each_its_own(pipelines):
    inpainter = build(pipelines / "two", "cpu", size=SIDE, condition=("inpaint", "ade"))
    [photo, person], _ = spied(inpainter, asked(2), ReferenceSettings(steps=2, guidance_scale=3.0))
    assert photo.shape == (4, 3, SIDE, SIDE)  # guidance asks twice
    assert photo.min() == -1
    assert person.min() >= 0


@pytest.mark.parametrize(
    ("folder", "condition", "words"),
    [
        ("one", "canny", "no condition canny"), ("one", ("inpaint", "ade"), "1 ControlNets"),
        ("two", "inpaint", "2 ControlNets"), ("one", "parse+photo", "3 channels"), ("six", "inpaint", "6 channels"),
    ],
)  # fmt: skip
def test_a_condition_that_does_not_fit_is_refused(pipelines, folder, condition, words):
    spec = PartSpec("controlnet", str(pipelines / folder), options=(("size", SIDE), ("condition", condition)))
    with pytest.raises(ConfigError, match=words):
        INPAINTERS.load(spec, "cpu")


def test_the_scheduler_is_the_settings(pipelines):
    inpainter = build(pipelines / "one", "cpu", size=SIDE, condition="inpaint")
    kinds, pictures = [], []
    for name in ("own", *SCHEDULERS, "own"):
        settings = ReferenceSettings.model_validate({"steps": 2, "scheduler": name})
        pictures.append(spied(inpainter, asked(), settings)[1])
        kinds.append(type(inpainter.pipeline.scheduler))
    assert kinds[0] is kinds[-1] is DDIMScheduler
    assert issubclass(kinds[4], LCMScheduler)
    assert len(set(kinds)) == 4
    assert np.array_equal(pictures[0], pictures[-1])
    assert not np.array_equal(pictures[0], pictures[4])


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_few_steps_are_diffusers_own(pipelines, strength, monkeypatch):
    inpainter = build(pipelines / "one", "cpu", size=SIDE, condition="inpaint")
    few = ReferenceSettings(steps=4, scheduler="lcm", strength=strength)
    found = spied(inpainter, asked(2), few)[1]
    assert inpainter.pipeline.scheduler.timesteps.device.type == "cpu"
    monkeypatch.setattr("s3pot_batch.stages.models.inpainters.controlnet.on_host", lambda kind: kind)
    assert np.array_equal(spied(inpainter, asked(2), few)[1], found)
    assert type(inpainter.pipeline.scheduler) is LCMScheduler


def test_two_shards_of_one_worker_share_a_pipeline(pipelines):
    inpainter = build(pipelines / "one", "cpu", size=SIDE, condition="inpaint")
    many = ReferenceSettings.model_validate({"steps": 6, "scheduler": "unipc"})

    def drawn(number):
        return inpainter.inpaint(asked(), many, [generator(number)])

    alone = [drawn(number) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(drawn, range(4)))
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))


def test_what_makes_it_quicker_on_a_card_draws_the_same(pipelines, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # put back afterwards
    inpainter = build(pipelines / "one", "cpu", size=SIDE, condition="inpaint")
    plain = spied(inpainter, asked(2), ReferenceSettings(steps=2, guidance_scale=3.0))[1]
    inpainter._settle_on_a_card()
    assert "FusedAttnProcessor2_0" in {type(one).__name__ for one in inpainter.pipeline.unet.attn_processors.values()}
    embedded = []
    inpainter.pipeline._embedding.register_forward_pre_hook(lambda _, args: embedded.append(len(args[0])))
    fused = spied(inpainter, asked(2), ReferenceSettings(steps=2, guidance_scale=3.0))[1]
    assert embedded == [4]  # once for both steps; guidance asks twice
    assert np.abs(fused.astype(int) - plain).max() <= 1


def test_a_negative_prompt_counts_where_there_is_guidance(pipelines):
    inpainter = build(pipelines / "one", "cpu", size=SIDE, condition="inpaint")

    def drawn(guidance, negative):
        settings = ReferenceSettings(steps=2, guidance_scale=guidance, negative_prompt=negative)
        return spied(inpainter, asked(), settings)[1]

    assert np.array_equal(drawn(1.0, ""), drawn(1.0, "a b c"))
    assert not np.array_equal(drawn(5.0, ""), drawn(5.0, "a b c"))


def test_partial_strength_starts_from_the_photo(pipelines):
    inpainter = build(pipelines / "one", "cpu", size=SIDE, condition="inpaint")
    photo, started = asked(), []
    pixels = torch.from_numpy(photo.photos).permute(0, 3, 1, 2) / 127.5 - 1
    inpainter.pipeline.unet.register_forward_pre_hook(lambda _, args: started.append(args[0][:, :4]))
    with torch.no_grad():
        own = inpainter.pipeline.vae.encode(pixels).latent_dist.mean

    def likeness(strength):
        started.clear()
        spied(inpainter, photo, ReferenceSettings(steps=20, strength=strength))
        return float(torch.corrcoef(torch.stack([started[0].flatten(), own.flatten()]))[0, 1])

    weak, full = likeness(0.1), likeness(1.0)
    assert len(started) == 20
    assert weak > abs(full) + 0.1
    with pytest.raises(ConfigError, match="less than one step"):
        spied(inpainter, photo, ReferenceSettings(steps=2, strength=0.3))


def test_a_soft_edge_blends_into_the_photo(pipelines):
    inpainter = build(pipelines / "one", "cpu", size=SIDE, condition="inpaint")
    wanted = asked()
    hard, soft = (
        spied(inpainter, wanted, ReferenceSettings(steps=2, softness=softness))[1][0].astype(int)
        for softness in (0.0, 0.1)
    )
    photo = wanted.photos[0].astype(int)
    assert np.array_equal(soft[32, 32], hard[32, 32])
    edge = soft[20, 20:44] - photo[20, 20:44], hard[20, 20:44] - photo[20, 20:44]
    assert 0 < np.abs(edge[0]).mean() < 0.3 * np.abs(edge[1]).mean()


@pytest.fixture
def with_adapter(pipelines):
    """An inpainter with an IP-Adapter, and the pictures that its image encoder has seen."""
    inpainter, shown = build(pipelines / "one", "cpu", size=SIDE, condition="inpaint", ip_adapter=IP_ADAPTER), []
    inpainter.pipeline.image_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: shown.append(args[0] if args else kwargs["pixel_values"]), with_kwargs=True
    )
    return inpainter, shown


def test_an_ip_adapter_sees_each_face_by_itself(pipelines, with_adapter):
    (inpainter, shown), plain = with_adapter, build(pipelines / "one", "cpu", size=SIDE, condition="inpaint")
    wanted, known = asked(2), ReferenceSettings(steps=2, identity=0.6)
    _, found = spied(inpainter, wanted, known)
    assert len(shown) == 2
    assert not torch.equal(*shown)
    _, without = spied(inpainter, wanted)
    assert not np.array_equal(found, without)
    np.testing.assert_allclose(without.astype(int), spied(plain, wanted)[1], atol=1)  # weight 0: as without
    with pytest.raises(ConfigError, match="IP-Adapter"):
        spied(plain, wanted, known)


def test_what_is_known_to_hide_the_face_is_not_shown_to_the_ip_adapter(with_adapter):
    inpainter, shown = with_adapter
    for hide in (False, True):
        spied(inpainter, asked(hide=hide), ReferenceSettings(steps=2, identity=0.6))
    inside = [one[0, :, 13:19, 13:19] for one in shown]  # 32 pixels for the photo's 64
    assert inside[0].std((1, 2)).min() > 0.1
    assert inside[1].std((1, 2)).max() < 0.01


def test_a_lora_is_added_to_the_unets_weights_as_its_file_says(pipelines, tmp_path):
    folder = shutil.copytree(pipelines / "two", tmp_path / "lcm")
    added = write_lora(folder)
    plain, few = (build(folder, "cpu", size=SIDE, condition=("inpaint", "ade"), lora=lora) for lora in ("", LORA))
    was, now = plain.pipeline.unet.state_dict(), few.pipeline.unet.state_dict()
    assert list(was) == list(now), "something of the LoRA is left beside the sums"
    assert {end for end in ADAPTED if any(name.endswith(f"{end}.weight") for name in added)} == set(ADAPTED)
    for name, weight in was.items():
        torch.testing.assert_close(now[name], weight + added.get(name, 0), atol=1e-5, rtol=1e-5)
    batches = []
    few.pipeline.unet.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    spied(few, asked(2), PAPER_LCM.settings.references)
    assert batches == [2] * 4  # four steps, each asked once: no guidance
    assert isinstance(few.pipeline.scheduler, LCMScheduler)


def test_a_lora_that_is_not_there_is_to_be_pulled(pipelines):
    spec = PartSpec("controlnet", str(pipelines / "one"), options=(("condition", "inpaint"), ("lora", LORA)))
    with pytest.raises(ConfigError, match=f"{LORA}: no LoRA there; fetch it with: s3pot-batch models pull"):
        INPAINTERS.load(spec, "cpu")
    assert dict(PAPER_LCM.inpainter.options)["lora"] == LORA


def test_guidance_without_a_text_encoder(pipelines, tmp_path):
    shutil.copytree(pipelines / "six", tmp_path / "textless")
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(tmp_path / "textless" / part)
    inpainter = build(tmp_path / "textless", "cpu", size=SIDE, condition="parse+photo")
    photo = asked()
    found = spied(inpainter, photo, ReferenceSettings(steps=2, guidance_scale=2.0))[1]
    assert not np.array_equal(found, photo.photos)
