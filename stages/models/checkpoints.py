"""Where weights are, what they hash to, and how state dictionaries are read."""

import hashlib
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.profiles import PartSpec

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED = Path(__file__).parent / "weights"
PREFIX, PACKAGE = "embedded:", "package:"
UNREAD, PICKLED = {".md", ".part", ".lock"}, {".bin", ".pth", ".pt", ".ckpt", ".msgpack"}
"""Suffixes of what lies in a folder of weights and is not loaded; and of what is not, where safetensors are."""
OPTIONAL = frozenset({"ip_adapter", "lora"})
"""Folders in a folder of weights that are loaded only where the option of the same name says what of them."""


def weights_path(spec: PartSpec) -> Path:
    """The file or folder of a part's weights.

    Raises:
        ConfigError: it is not there.
    """
    name = spec.weights
    if name.startswith(PACKAGE):
        return _in_package(name.removeprefix(PACKAGE), spec.sha256)
    path = EMBEDDED / name.removeprefix(PREFIX) if name.startswith(PREFIX) else Path(name).expanduser()
    if not path.exists():
        raise ConfigError(f"{path}: no weights there for {spec.kind}; fetch them with: s3pot-batch models pull")
    return path


def _in_package(module: str, sha256: str) -> Path:
    """The file of a module that carries weights, without running it or its package; it has to be the pinned one."""
    package, *below = module.split(".")
    found = find_spec(package)
    for name in below:  # find_spec() would import the package: a fifth of a second in each command
        within = found.submodule_search_locations if found else None
        found = PathFinder.find_spec(name, within) if within is not None else None
    if found is None or found.origin is None:
        raise ConfigError(f"{module}: no such module; install the package that carries these weights")
    path = Path(found.origin)
    if sha256 and _digest(path) != sha256:
        raise ConfigError(f"{module}: these are other weights than the profile pins; install the version it names")
    return path


def weights_digest(spec: PartSpec) -> str:
    """SHA-256 of a part's weights; of a folder, that of its files' names and contents. Empty: no weights.

    A folder's files are those that are loaded: no hidden ones (caches), no cards, no pickle beside safetensors, and
    nothing that another profile over the same folder has asked for.
    """
    return _digest(weights_path(spec), left_out(spec)) if spec.weights else ""


def left_out(spec: PartSpec) -> frozenset[str]:
    """Those of the ``OPTIONAL`` folders that a part does not ask for."""
    return OPTIONAL - {name for name, value in spec.options if value}


@cache
def _digest(path: Path, without: frozenset[str] = frozenset()) -> str:
    if path.is_file():
        return file_digest(path)
    whole = hashlib.sha256()
    for file in loaded_files(path, without):
        whole.update(f"{file.relative_to(path).as_posix()} {file_digest(file)}\n".encode())
    return whole.hexdigest()


def loaded_files(folder: Path, without: frozenset[str] = frozenset()) -> list[Path]:
    """The files of a folder of weights that decide what is loaded, in order; none of some folders in there."""
    every = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    files = [file for file in every if file.relative_to(folder).parts[0] not in without]
    safe = {file.parent for file in files if file.suffix == ".safetensors"}
    return [
        file
        for file in files
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.suffix not in UNREAD
        and not (file.suffix in PICKLED and file.parent in safe)
    ]


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_state(path: Path) -> "dict[str, Tensor]":
    """A state dictionary in float32: safetensors, or a public ``.pth`` read with ``weights_only=True``."""
    import torch
    from safetensors.torch import load_file

    state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
