"""Writing trained weights the way they ship: half precision, with the metrics that the recipe measured beside them."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from recipes.parsing_net import ParsingNet
from s3pot_batch.stages.models.checkpoints import EMBEDDED, read_state

SHIPPED = Path("shipped")
"""As a recipe's ``--start``: go on from the package's own weights."""
FILES = {
    "parser": "parser.pt", "sam": "segmenter.safetensors",
    "refiner": "refiner/diffusion_pytorch_model.safetensors",
    **{part: f"inpainter/{part}/diffusion_pytorch_model.safetensors" for part in ("vae", "unet", "controlnet")},
}  # fmt: skip
"""Where the package keeps the weights of each module that a recipe trains."""


def parser_script(net: ParsingNet) -> torch.jit.ScriptModule:
    """TorchScript of the parser, B×3×448×448 in 0..1 → (logits, empty), for facer's ``model_path``."""
    net = net.eval().requires_grad_(requires_grad=False).to(memory_format=torch.contiguous_format)
    return torch.jit.trace(net, torch.zeros(1, 3, 448, 448), check_trace=False)  # type: ignore[no-any-return, no-untyped-call]


def start_from(start: Path, models: nn.ModuleDict) -> None:
    """Load an earlier training's checkpoint into ``models``, or what the package ships (``SHIPPED``)."""
    if start != SHIPPED:
        models.load_state_dict(torch.load(start, weights_only=True))
        return
    for name, model in models.items():
        path = EMBEDDED / FILES[name]
        scripted = path.suffix == ".pt"
        model.load_state_dict(torch.jit.load(str(path)).state_dict() if scripted else read_state(path))  # type: ignore[no-untyped-call]


@torch.no_grad()
def keep_some(models: nn.ModuleDict, start: Path, share: float) -> None:
    """Move trained ``models`` back towards their ``start``, of whose weights the result has ``share``, 0..1.

    What was learnt anew stays for the most part, and what was forgotten comes back (WiSE-FT; Wortsman et al.,
    arXiv 2109.01903).
    """
    trained = {name: value.clone() for name, value in models.state_dict().items()}
    start_from(start, models)
    for name, value in models.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(trained[name], 1 - share)


def half(module: nn.Module) -> dict[str, Tensor]:
    """The module's state with floating-point tensors as float16, contiguous."""
    return {
        name: (value.half() if value.dtype.is_floating_point else value).contiguous()
        for name, value in module.state_dict().items()
    }


def write_weights(
    name: str,
    weights: torch.jit.ScriptModule | Mapping[str, Tensor],
    metrics: Mapping[str, object],
    recipe: Mapping[str, object],
    out: Path,
) -> None:
    """Write NAME.pt (TorchScript) or NAME.safetensors in half precision to the folder ``out``, and its report."""
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(weights, torch.jit.ScriptModule):
        weights.half().save(str(out / f"{name}.pt"))
    else:
        save_file(dict(weights), out / f"{name}.safetensors")
    write_report(name, metrics, recipe, out)


def write_report(name: str, metrics: Mapping[str, object], recipe: Mapping[str, object], out: Path) -> None:
    """Write NAME.json: the recipe's settings and what it measured on held-out faces."""
    report = {"recipe": dict(recipe), "metrics": dict(metrics)}
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report), flush=True)
