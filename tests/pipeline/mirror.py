"""A mirror of what the paper profile pulls, small and with random weights, and a profile that pulls from it."""

import json
import shutil
from pathlib import Path

import torch

from s3pot_batch.stages.models.profiles import Profile, find_profile
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam
from s3pot_batch.stages.models.sources import PIPELINE
from tests.published import write_farl, write_ip_adapter, write_stable_diffusion
from tests.stages.conftest import TINY

FARL, SAM = "face_parsing.farl.celebm.main_ema_181500_jit.pt", "sam_vit_b_01ec64.pth"


def write_mirror(folder: Path) -> Path:
    """Every file where the profile wants it, and nothing that is assembled."""
    folder.mkdir()
    torch.manual_seed(0)
    write_farl(folder / FARL)
    torch.save(build_vit_sam(**TINY).state_dict(), folder / SAM)
    write_stable_diffusion(folder / PIPELINE, 3, 3)
    write_ip_adapter(folder / PIPELINE)
    (folder / PIPELINE / "model_index.json").unlink()
    tokenizer = folder / PIPELINE / "tokenizer"
    shutil.rmtree(tokenizer)
    tokenizer.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (folder / PIPELINE / name).rename(tokenizer / name)
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "<|endoftext|>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(settings))
    (tokenizer / "special_tokens_map.json").write_text(json.dumps({"unk_token": "<|endoftext|>"}))
    return folder


def pulled_profile(cache: Path, condition: str = "'inpaint'", more: str = "") -> Profile:
    """What ``mine.toml`` beside a cache says, written here: the paper's parts in there, as small as the mirror's."""
    sizes = ", ".join(f"{name} = {value}" for name, value in TINY.items())
    path = cache.parent / "mine.toml"
    path.write_text(f"""base = "paper"
[parser]
weights = "{cache / FARL}"
[inpainter]
weights = "{cache / PIPELINE}"
dtype = "float32"
options = {{ size = 64, condition = {condition}{more} }}
[segmenter]
weights = "{cache / SAM}"
options = {{ {sizes}, size = "" }}
""")
    return find_profile(str(path))
