"""Fetching what a profile needs from where it is published or from a mirror, and checking what is there."""

import json
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from s3pot_batch.manifests.errors import one_line
from s3pot_batch.manifests.files import replacing
from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.checkpoints import (
    PACKAGE,
    PREFIX,
    file_digest,
    left_out,
    loaded_files,
    weights_digest,
    weights_path,
)
from s3pot_batch.stages.models.profiles import PARTS, PartSpec, Profile
from s3pot_batch.stages.models.sources import Source, conditions, sources

LOCK = "weights.lock.json"
"""Beside the weights: the SHA-256 of every file that was fetched, for those whose hash nobody published."""
INDEX = "model_index.json"
PART = ".part"
CODE = "is TorchScript, which is code that runs when it is loaded"


@dataclass
class Pulled:
    """What came of a pull, a line each."""

    done: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    hub_lost: bool = False
    """The hub could not be reached: it is not asked again, as each question takes half a minute."""


def verify(profile: Profile) -> list[str]:
    """What is wrong with a profile's weights, a line each; empty when all is well.

    Files are held to the hashes that the profile pins and to those of the lock file; and every one has to be of the
    format that its name says.
    """
    problems = []
    for part in PARTS:
        spec = profile.part(part)
        if part == "adapter" and not spec.weights:
            continue  # untrained
        try:
            digest = weights_digest(spec)
        except ConfigError as error:
            problems.append(f"{part}: {error}")
            continue
        if spec.sha256 and spec.sha256 != digest:
            problems.append(f"{part}: {spec.weights} hashes to {digest}, not to the pinned {spec.sha256}")
        elif spec.weights and not spec.weights.startswith(PACKAGE):
            problems += [f"{part}: {line}" for line in _wrong(spec)]
    return problems


def _wrong(spec: PartSpec) -> list[str]:
    """What lacks of a part, what is garbage, and what is not what was fetched."""
    path = weights_path(spec)
    wanted = {} if spec.weights.startswith(PREFIX) else sources(spec)
    there = sorted({*wanted, *([path] if path.is_file() else loaded_files(path, left_out(spec)))})
    locked, wrong = read_lock(path.parent), list[str]()
    for file in there:
        published = wanted[file].sha256 if file in wanted else ""
        pinned = published or locked.get(_key(file, path))
        if not file.exists():
            wrong.append(f"{file}: missing; fetch it with: s3pot-batch models pull")
        elif problem := unreadable(file):
            wrong.append(f"{file}: {problem}")
        elif pinned and pinned != file_digest(file):
            where = "published" if published else f"in {path.parent / LOCK}"
            wrong.append(f"{file}: hashes to {file_digest(file)}, not to {pinned} as {where}")
    return wrong


def unreadable(file: Path, name: str = "") -> str:
    """What is wrong with a file of weights by the format of its (final) name, unloaded; empty if nothing is."""
    from safetensors import SafetensorError, safe_open

    suffix = Path(name or file).suffix
    if suffix == ".safetensors":
        try:
            with safe_open(file, "np"):
                return ""
        except (SafetensorError, OSError) as error:
            return f"not a whole safetensors file ({one_line(error)})"
    if suffix in {".pth", ".pt", ".bin"} and not zipfile.is_zipfile(file):
        return "not a whole checkpoint of torch"
    if suffix == ".json":
        try:
            json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            return f"not JSON ({one_line(error)})"
    return ""


def pull(profile: Profile, *, offline: bool, mirror: str = "") -> Pulled:
    """Fetch the published files that a profile needs and lacks; one that cannot be had does not keep the others.

    Args:
        profile: whose parts are wanted.
        offline: ask no network; a folder as ``mirror`` is none.
        mirror: a folder or a URL with the same layout as the folder of the weights, not the publishers.
    """
    pulled = Pulled()
    for part in PARTS:
        spec = profile.part(part)
        if not spec.weights:
            pulled.done.append(f"{part}: untrained, until s3pot-batch train")
        elif spec.weights.startswith((PREFIX, PACKAGE)):
            weights_path(spec)  # or an error that says what to install
            pulled.done.append(f"{part}: there")
        else:
            _pull_part(part, spec, offline=offline, mirror=mirror, pulled=pulled)
    return pulled


def _pull_part(part: str, spec: PartSpec, *, offline: bool, mirror: str, pulled: Pulled) -> None:
    path, wanted = Path(spec.weights).expanduser(), sources(spec)
    lacking = {file: source for file, source in wanted.items() if not file.exists()}
    if not lacking:
        there = path.exists()
        line = "there" if there else f"{path} has no public source; put the files there yourself"
        (pulled.done if there else pulled.failed).append(f"{part}: {line}")
    remote = not mirror or "://" in mirror
    for file, source in lacking.items():
        key = _key(file, path)
        if offline and remote:
            pulled.failed.append(f"{part}: {file} is missing and --offline forbids fetching {source.name}")
            continue
        if pulled.hub_lost and source.repo and not mirror:
            pulled.failed.append(f"{part}: {key} from {source.name}: not asked for, as the hub cannot be reached")
            continue
        try:
            digest = _fetch(source, file, f"{mirror.rstrip('/')}/{key}" if mirror else "")
            _accept(file, spec.sha256 if file == path else source.sha256, key, digest, path.parent)
        except Exception as error:  # noqa: BLE001 — whatever a network's library throws; the other files go on
            pulled.failed.append(f"{part}: {key} from {mirror or source.name}: {one_line(error)}")
            pulled.hub_lost |= bool(source.repo) and not mirror and _unreached(error)
            continue
        code = f"; it {CODE}" if file.suffix == ".pt" else ""
        pulled.done.append(f"{part}: fetched {key}, SHA-256 {digest}{code}")
    if len(wanted) > 1 and all(file.exists() for file in wanted):
        write_index(path, len(conditions(spec)))


def licences(profile: Profile) -> list[str]:
    """On which terms the files that lack are published, a line for each licence."""
    lacking = [
        source
        for part in PARTS
        if (weights := profile.part(part).weights) and not weights.startswith((PREFIX, PACKAGE))
        for file, source in sources(profile.part(part)).items()
        if not file.exists()
    ]
    return list(dict.fromkeys(source.licence for source in lacking))


def _fetch(source: Source, file: Path, elsewhere: str) -> str:
    """Bring one file to ``file`` + ``PART``, going on where an earlier try stopped; returns its SHA-256."""
    part = file.with_name(file.name + PART)
    part.parent.mkdir(parents=True, exist_ok=True)
    if elsewhere and "://" not in elsewhere:
        shutil.copyfile(Path(elsewhere).expanduser(), part)
    elif elsewhere or source.url:
        download(elsewhere or source.url, part)
    else:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import logging

        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it tells of every try
        staging = file.parent / ".hub"  # hidden, so that no digest covers it; huggingface_hub resumes what is there
        Path(hf_hub_download(source.repo, source.file, local_dir=staging)).replace(part)
        shutil.rmtree(staging)
    return file_digest(part)


def _unreached(error: Exception) -> bool:
    """Whether huggingface_hub got no answer at all."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return isinstance(error, LocalEntryNotFoundError)


def download(url: str, part: Path) -> None:
    """Append what lacks of a URL's file to ``part``; a server that knows no ranges sends all of it again."""
    have = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310 — a profile's or --from
    try:
        with urlopen(request, timeout=60) as answer:  # noqa: S310
            whole = answer.headers.get("Content-Length")
            rest = answer.status == 206
            with part.open("ab" if rest else "wb") as out:
                shutil.copyfileobj(answer, out, 1 << 20)
    except HTTPError as error:
        if error.code == 416 and have:  # nothing lacks; its hash decides
            return
        raise
    if whole is not None and part.stat().st_size != int(whole) + (have if rest else 0):
        raise ConnectionError("the connection ended before the file did; pull again to go on")


def _accept(file: Path, pinned: str, key: str, digest: str, folder: Path) -> None:
    """Put a fetched file into its place if it is the right one: pinned, or as the first time, or the first of all."""
    part, locked = file.with_name(file.name + PART), read_lock(folder)
    expected = pinned or locked.get(key, digest)
    problem = f"hashes to {digest}, not to {expected}" if digest != expected else unreadable(part, file.name)
    if problem:
        part.unlink()
        raise ConfigError(f"{problem}; it was not kept")
    part.replace(file)
    with replacing(folder / LOCK) as temporary:
        temporary.write_text(json.dumps(locked | {key: digest}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_lock(folder: Path) -> dict[str, str]:
    """SHA-256 by the file's place below ``folder``; empty where nothing was fetched.

    Raises:
        ConfigError: the lock file is damaged.
    """
    path = folder / LOCK
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: not a lock file ({one_line(error)}); remove it to trust what is fetched next"
        ) from error


def write_index(folder: Path, controlnets: int) -> None:
    """Name the classes of a pipeline that was assembled of parts, as diffusers does when it saves one."""
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    nothing = (None, None)
    index = {
        "_class_name": "StableDiffusionControlNetInpaintPipeline",
        "controlnet": ("diffusers", "ControlNetModel" if controlnets == 1 else "MultiControlNetModel"),
        "feature_extractor": nothing, "image_encoder": nothing, "safety_checker": nothing,
        "requires_safety_checker": False, "scheduler": ("diffusers", scheduler["_class_name"]),
        "text_encoder": ("transformers", "CLIPTextModel"), "tokenizer": ("transformers", "CLIPTokenizer"),
        "unet": ("diffusers", "UNet2DConditionModel"), "vae": ("diffusers", "AutoencoderKL"),
    }  # fmt: skip
    with replacing(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _key(file: Path, weights: Path) -> str:
    """A file's place below the folder that holds a part's weights."""
    return file.relative_to(weights.parent).as_posix()
