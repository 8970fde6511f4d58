"""The trained adapter as files: ``model.safetensors``, ``config.json`` and a model card."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stages.errors import ConfigError
from stages.segmentation.selection import PromptSelector


def save_adapter(folder: Path, selector: PromptSelector, facts: Mapping[str, object], card: str) -> None:
    """Write the adapter; the weights come last, so that a folder with weights is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"embed_dim": selector.embed_dim, "heads": selector.heads, **facts}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").write_text(card)
    temporary = folder / f".model.{uuid.uuid4().hex}"
    save_file({name: value.contiguous().cpu() for name, value in selector.state_dict().items()}, temporary)
    temporary.chmod(0o644)
    temporary.replace(folder / "model.safetensors")


def load_adapter(folder: Path) -> PromptSelector:
    """Read an adapter, in evaluation mode.

    Raises:
        ConfigError: the folder does not hold one.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        selector = PromptSelector(config["embed_dim"], config["heads"])
        selector.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ConfigError(f"{folder}: not an adapter ({error}); make one with: s3pot-batch train") from error
    return selector.eval()
