"""A run to be disturbed: photos that are quick to work on, a profile of stand-in models, and the command for it."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import zarr
from PIL import Image
from safetensors.torch import save_file

from benchmarks.standins import DEADLY
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.outcomes import items_path
from s3pot_batch.stages.models.adapters import attention
from s3pot_batch.stages.models.adapters.attention import AttentionAdapter
from s3pot_batch.stages.models.segmenters.sam_vit import build_vit_sam

SHARDS, PHOTOS, SIDE = 24, 3, 64
"""How many shards there are, the photos of each, and a photo's side."""
DEADLY_AT = 40
"""Which photo kills its worker; it is in the middle of its shard."""
STAGES = ("references", "decoded", "segments")
MARKS = [24.0, 24, 40, 24, 32, 34, 26, 44, 38, 44]
TINY = {"embed_dim": 32, "depth": 1, "num_heads": 4, "img_size": SIDE, "patch_size": 8, "out_chans": 32}
ENTRY_POINTS = "".join(
    f"[s3pot_batch.{part}s]\nstandin = benchmarks.standins\n"
    for part in ("detector", "parser", "inpainter", "segmenter")
)


@dataclass(frozen=True)
class TidyRun:
    """Photos and models in a folder, and what a run makes of them."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> "TidyRun":
        """Write photos, manifest, weights, profile, settings, and what tells the package of the stand-ins."""
        (folder / "photos").mkdir(parents=True)
        for n in range(SHARDS * PHOTOS):
            photo = np.full((SIDE, SIDE, 3), 127, np.uint8)
            photo[..., :2] = DEADLY if n == DEADLY_AT else (n % 256, n // 256)
            photo[20:30, 20:30, 2] = 3 * n % 256
            Image.fromarray(photo).save(folder / "photos" / f"{n}.png")
        names = [f"photos/{n}.png" for n in range(SHARDS * PHOTOS)]
        write_parquet(pa.table({"image": names, "landmarks": [MARKS] * len(names)}), folder / "in.parquet")
        torch.manual_seed(0)
        save_file(build_vit_sam(**TINY).state_dict(), folder / "sam.safetensors")  # type: ignore[arg-type]
        attention.save(folder / "adapter", AttentionAdapter(TINY["out_chans"]), {}, "card")
        parts = [f'[{part}]\nkind = "standin"\nweights = ""\noptions = {{part = "{part}"}}\n'
                 for part in ("detector", "parser", "inpainter")]  # fmt: skip
        sizes = ", ".join(f"{name} = {value}" for name, value in TINY.items())
        parts.append(f'[segmenter]\nkind = "standin"\nweights = "{folder}/sam.safetensors"\noptions = {{{sizes}}}\n')
        parts.append(f'[adapter]\nkind = "attention"\nweights = "{folder}/adapter"\n')
        (folder / "standin.toml").write_text("".join(parts))
        settings = f"[faces]\nframe = {SIDE}\nmax_faces = 1\n[segments]\nedges = 'decoder'\n"
        (folder / "run.toml").write_text(f'profile = "{folder}/standin.toml"\n{settings}')
        said = folder / "site" / "standins-1.0.dist-info"
        said.mkdir(parents=True)
        (said / "METADATA").write_text("Metadata-Version: 2.1\nName: standins\nVersion: 1.0\n")
        (said / "entry_points.txt").write_text(ENTRY_POINTS)
        (folder / "chaos").mkdir()
        return cls(folder)

    @property
    def environment(self) -> Mapping[str, str]:
        """For the command and for workers elsewhere."""
        here = str(Path(__file__).parent.parent)
        path = os.pathsep.join([here, str(self.folder / "site"), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path, "CHAOS": str(self.folder / "chaos"), "OMP_NUM_THREADS": "1"}

    def command(self, run: Path, *options: str) -> list[str]:
        """The module of the command line, and its arguments."""
        words = ("segment", "--manifest", str(self.folder / "in.parquet"), "--run", str(run), "--device", "cpu",
                 "--config", str(self.folder / "run.toml"), "--shard-size", str(PHOTOS))  # fmt: skip
        return ["s3pot_batch", *words, *options]

    def logged(self) -> int:
        """Bytes of the log of what was worked on."""
        log = self.folder / "chaos" / "log"
        return log.stat().st_size if log.exists() else 0

    def begun(self) -> Counter[tuple[str, int]]:
        """How often each shard was begun, by stage, since the log was emptied."""
        log = self.folder / "chaos" / "log"
        lines = log.read_text().split("\n")[:-1] if log.exists() else []
        photos = [(stage, int(number)) for stage, number in (line.split() for line in lines)]
        return Counter(
            (stage, number // PHOTOS) for stage, number in photos if number % PHOTOS == 0 and number < PHOTOS * SHARDS
        )

    def done(self, run: Path) -> bool:
        """Whether every shard of a run is finished and the answer is written."""
        files = [items_path(run, stage, shard) for stage in STAGES for shard in range(SHARDS)]
        return all(file.exists() for file in files) and (run / "segments.parquet").exists()


@dataclass(frozen=True)
class Difference:
    """How a run's answer differs from that of a run that nobody disturbed."""

    lost: int
    doubled: int
    rows: tuple[str, ...]
    """Ids of rows that say something else, seconds and the run's name aside."""
    arrays: tuple[str, ...]
    """Zarr arrays with other values."""


def compare(clean: Path, run: Path) -> Difference:
    """Hold a run against a clean one: every row of the answer, every value of every array."""
    ours, theirs = (_rows(folder) for folder in (clean, run))
    ids = [name for name, _ in theirs]
    found = dict(theirs)
    rows = tuple(name for name, row in ours if name in found and found[name] != row)
    arrays = []
    for store in ("references.zarr", "decoded.zarr", "masks.zarr"):
        for name in sorted(path.name for path in (clean / store).iterdir() if path.is_dir()):
            one, other = (np.asarray(zarr.open_array(folder / store / name, mode="r")[:]) for folder in (clean, run))
            if one.shape != other.shape or not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
                arrays.append(f"{store}/{name}")
    lost = len({name for name, _ in ours} - set(ids))
    return Difference(lost, len(ids) - len(set(ids)), rows, tuple(arrays))


def _rows(run: Path) -> list[tuple[str, dict[str, object]]]:
    rows = pq.read_table(run / "segments.parquet").to_pylist()
    return [
        (row["image_id"], {name: value for name, value in row.items() if name not in {"seconds", "run"}})
        for row in rows
    ]
