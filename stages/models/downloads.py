"""Fetching what a profile needs from where it is published, and checking what is there."""

from pathlib import Path

from s3pot_batch.stages.errors import ConfigError
from s3pot_batch.stages.models.checkpoints import PACKAGE, PREFIX, weights_digest, weights_path
from s3pot_batch.stages.models.profiles import PARTS, Profile

FACER = "https://github.com/FacePerceiver/facer/releases/download/models-v1"
SAM = "https://dl.fbaipublicfiles.com/segment_anything"
SOURCES = {
    "face_parsing.farl.celebm.main_ema_181500_jit.pt": f"{FACER}/face_parsing.farl.celebm.main_ema_181500_jit.pt",
    "sam_vit_h_4b8939.pth": f"{SAM}/sam_vit_h_4b8939.pth",
    "sam_vit_l_0b3195.pth": f"{SAM}/sam_vit_l_0b3195.pth",
    "sam_vit_b_01ec64.pth": f"{SAM}/sam_vit_b_01ec64.pth",
}
"""Public files, by file name."""


def verify(profile: Profile) -> list[str]:
    """What is wrong with a profile's weights, a line each; empty when all is well."""
    problems = []
    for part in PARTS:
        spec = profile.part(part)
        try:
            digest = weights_digest(spec)
        except ConfigError as error:
            problems.append(f"{part}: {error}")
            continue
        if spec.sha256 and spec.sha256 != digest:
            problems.append(f"{part}: {spec.weights} hashes to {digest}, not to the pinned {spec.sha256}")
    return problems


def pull(profile: Profile, *, offline: bool) -> list[str]:
    """Fetch the public files that a profile names and that are not there; returns what was done, a line each.

    Raises:
        ConfigError: offline, and a file is missing.
    """
    from torch.hub import download_url_to_file

    done = []
    for part in PARTS:
        spec = profile.part(part)
        path = Path(spec.weights).expanduser()
        if spec.weights.startswith((PREFIX, PACKAGE)):
            weights_path(spec)  # or an error that says what to install
            done.append(f"{part}: there")
        elif path.exists():
            done.append(f"{part}: there")
        elif path.name not in SOURCES:
            done.append(f"{part}: {path} has no public source; put the files there yourself")
        elif offline:
            raise ConfigError(f"{part}: {path} is missing and --offline forbids fetching {SOURCES[path.name]}")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(SOURCES[path.name], str(path), hash_prefix=spec.sha256 or None, progress=False)
            done.append(f"{part}: fetched {path.name}")
    return done
