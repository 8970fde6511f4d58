"""Files in the formats in which the paper profile's weights are published, small and with random weights."""

import json
import warnings
from itertools import chain
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    MultiControlNetModel,
    StableDiffusionControlNetInpaintPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

IP_ADAPTER = "ip-adapter_sd15.safetensors"


def write_farl(path: Path) -> None:
    """As in FaRL's release: TorchScript that maps 448 px images to (19 logit maps, something else)."""

    class Farl(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Conv2d(3, 19, 9, stride=4, padding=4)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            small = self.net(images)
            return torch.nn.functional.interpolate(small, (448, 448), mode="bilinear"), small

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and what the published files are
        torch.jit.save(torch.jit.script(Farl()), str(path))


def write_stable_diffusion(folder: Path, *channels: int) -> None:
    """A Stable Diffusion inpainting pipeline with text and an 8-fold VAE.

    Args:
        folder: to be made.
        channels: of the condition of each ControlNet; by default one with three.
    """
    folder.mkdir()
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, **{f"{c}</w>": n + 2 for n, c in enumerate("abcdefgh")}}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=0, eos_token_id=1, projection_dim=16))  # fmt: skip
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4)  # fmt: skip
    shape = {"block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 16, "norm_num_groups": 4,
             "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}  # fmt: skip
    unet = UNet2DConditionModel(
        in_channels=9, out_channels=4, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **shape)  # fmt: skip
    nets = [
        ControlNetModel(
            in_channels=4, conditioning_channels=n, conditioning_embedding_out_channels=(4, 4, 8, 8), **shape
        )
        for n in channels or (3,)
    ]
    for weight in chain.from_iterable(net.parameters() for net in nets):
        if not weight.any():  # the last layers of a new ControlNet are zero, and it would have no say
            torch.nn.init.normal_(weight, std=0.3)
    control = MultiControlNetModel(nets) if len(nets) > 1 else nets[0]
    pipeline = StableDiffusionControlNetInpaintPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, controlnet=control,
        scheduler=DDIMScheduler(clip_sample=False), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)  # fmt: skip
    pipeline.save_pretrained(folder)


def write_ip_adapter(pipeline: Path) -> None:
    """As in ``h94/IP-Adapter``: an image projection and a pair of keys and values for every cross-attention."""
    folder = pipeline / "ip_adapter"
    clip = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=8)  # fmt: skip
    CLIPVisionModelWithProjection(clip).save_pretrained(folder / "image_encoder")
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", low_cpu_mem_usage=False)
    width = unet.config.cross_attention_dim
    state = {
        "image_proj.proj.weight": torch.randn(4 * width, 8), "image_proj.proj.bias": torch.zeros(4 * width),
        "image_proj.norm.weight": torch.ones(width), "image_proj.norm.bias": torch.zeros(width),
    }  # fmt: skip
    crossing = [name.removesuffix(".processor") for name in unet.attn_processors if "attn2" in name]
    for n, name in enumerate(crossing):
        inner = unet.get_submodule(name).to_q.out_features
        for part in "kv":
            state[f"ip_adapter.{2 * n + 1}.to_{part}_ip.weight"] = torch.randn(inner, width)
    save_file(state, folder / IP_ADAPTER)


LORA = "lcm-lora-sdv1-5.safetensors"
ADAPTED = (
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
)  # fmt: skip
"""What latent consistency's LoRAs adapt of a UNet (diffusers' ``train_lcm_distill_lora_sd_wds.py``)."""


def write_lora(pipeline: Path, rank: int = 4, alpha: float = 2.0) -> dict[str, torch.Tensor]:
    """As ``latent-consistency/lcm-lora-sdv1-5``: kohya's names, half precision, and a scale of alpha / rank.

    Returns:
        What it adds to the UNet's weights, by their names.
    """
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet", low_cpu_mem_usage=False)
    state: dict[str, torch.Tensor] = {}
    added: dict[str, torch.Tensor] = {}
    for name, layer in unet.named_modules():
        if not name.endswith(ADAPTED):
            continue
        wide, *kernel = layer.weight.shape[1:]
        down = torch.randn(rank, wide, *kernel).half()
        up = torch.randn(layer.weight.shape[0], rank, *(1 for _ in kernel)).half()
        key = "lora_unet_" + name.replace(".", "_")
        state |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
        product = up.float().flatten(1) @ down.float().flatten(1)
        added[f"{name}.weight"] = alpha / rank * product.view_as(layer.weight)
    (pipeline / "lora").mkdir()
    save_file({name: one.half() for name, one in state.items()}, pipeline / "lora" / LORA)
    return added
