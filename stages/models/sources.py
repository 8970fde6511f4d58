"""Where published weights come from, and on which terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s3pot_batch.stages.models.profiles import PartSpec

SAM, FARL, STABLE, CONTROL, ADAPTER, CONSISTENCY = (
    "Apache-2.0 (Segment Anything)",
    "FaRL: MIT; trained on CelebAMask-HQ, which is for non-commercial research",
    "CreativeML OpenRAIL-M (Stable Diffusion): its use restrictions hold for what you make, too",
    "OpenRAIL (ControlNet)",
    "Apache-2.0 (IP-Adapter)",
    "CreativeML OpenRAIL++-M (LCM-LoRA): its use restrictions hold for what you make, too",
)
"""What is shown before anything is fetched."""


@dataclass(frozen=True)
class Source:
    """One published file: a plain URL, or a file of a repository on the Hugging Face hub."""

    licence: str
    url: str = ""
    repo: str = ""
    file: str = ""
    sha256: str = ""
    """Where its publisher's is known; else what was fetched first is trusted."""

    @property
    def name(self) -> str:
        """Where it is published, for people."""
        return self.url or f"{self.repo}/{self.file} on the Hugging Face hub"


META = "https://dl.fbaipublicfiles.com/segment_anything"
FACER = "https://github.com/FacePerceiver/facer/releases/download/models-v1"
FILES: Mapping[str, Source] = {
    "face_parsing.farl.celebm.main_ema_181500_jit.pt": Source(
        FARL, f"{FACER}/face_parsing.farl.celebm.main_ema_181500_jit.pt"
    ),
    **{name: Source(SAM, f"{META}/{name}") for name in (
        "sam_vit_h_4b8939.pth", "sam_vit_l_0b3195.pth", "sam_vit_b_01ec64.pth",
    )},
}  # fmt: skip
"""Plain files, by file name."""

PIPELINE = "sd15-inpaint-controlnet"
"""The folder that is assembled of Stable Diffusion's parts and of ControlNets."""
STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-inpainting"
CONTROLNETS = {"inpaint": "lllyasviel/control_v11p_sd15_inpaint", "ade": "lllyasviel/control_v11p_sd15_seg"}
"""By the condition that each was trained on."""
IP_ADAPTERS = "h94/IP-Adapter"
LORAS: Mapping[str, Source] = {
    "lcm-lora-sdv1-5.safetensors": Source(
        CONSISTENCY, repo="latent-consistency/lcm-lora-sdv1-5", file="pytorch_lora_weights.safetensors",
        sha256="8f90d840e075ff588a58e22c6586e2ae9a6f7922996ee6649a7f01072333afe4",
    ),
}  # fmt: skip
"""By the name that the option ``lora`` gives them."""
AS_THEY_ARE = (
    "scheduler/scheduler_config.json", "text_encoder/config.json", "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json",
    "vae/config.json",
)  # fmt: skip
HALF = {
    "text_encoder/model.safetensors": "text_encoder/model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors": "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors": "vae/diffusion_pytorch_model.fp16.safetensors",
}
"""The published half-precision files, under the names that diffusers looks for."""
WEIGHTS, HALF_WEIGHTS = "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"


def sources(spec: PartSpec) -> dict[Path, Source]:
    """The files of a part, each where it has to lie and where it is published; empty if nobody publishes them."""
    path = Path(spec.weights).expanduser()
    if path.name in FILES:
        return {path: FILES[path.name]}
    if spec.kind != "controlnet" or path.name != PIPELINE:
        return {}
    options = dict(spec.options)
    found = _pipeline(conditions(spec), str(options.get("ip_adapter", "")))
    lora = str(options.get("lora", ""))
    if lora in LORAS:  # another is somebody's own
        found.append((f"lora/{lora}", LORAS[lora]))
    return {path / name: source for name, source in found}


def conditions(spec: PartSpec) -> tuple[str, ...]:
    """What each ControlNet of an inpainter is shown."""
    named = dict(spec.options).get("condition", "parse")
    if isinstance(named, str):
        return (named,)
    return tuple(str(one) for one in named) if isinstance(named, Sequence) else ()


def _pipeline(shown: Sequence[str], ip_adapter: str) -> list[tuple[str, Source]]:
    named = {name: name for name in AS_THEY_ARE} | HALF
    found = [(name, Source(STABLE, repo=STABLE_DIFFUSION, file=file)) for name, file in named.items()]
    for n, condition in enumerate(shown):
        repo, folder = CONTROLNETS.get(condition), f"controlnet_{n}" if n else "controlnet"
        if repo is None:
            continue  # one that somebody trained: it lies there, or verify says what lacks
        found += [(f"{folder}/config.json", Source(CONTROL, repo=repo, file="config.json")),
                  (f"{folder}/{WEIGHTS}", Source(CONTROL, repo=repo, file=HALF_WEIGHTS))]  # fmt: skip
    if ip_adapter:
        files = {f"ip_adapter/{ip_adapter}": f"models/{ip_adapter}"} | {
            f"ip_adapter/image_encoder/{name}": f"models/image_encoder/{name}"
            for name in ("config.json", "model.safetensors")
        }
        found += [(name, Source(ADAPTER, repo=IP_ADAPTERS, file=file)) for name, file in files.items()]
    return found
