"""Per-image fitting: an adapter of its own for every face, by the same objectives."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from s3pot_batch.manifests.files import replacing, sync
from s3pot_batch.manifests.outcomes import Outcome, read_outcomes
from s3pot_batch.manifests.plan import PlannedItem
from s3pot_batch.stages.base import ShardResult, StageContext
from s3pot_batch.stages.errors import DamagedData, ShardError
from s3pot_batch.stages.method.learning import fit_face
from s3pot_batch.stages.method.network import S3POT
from s3pot_batch.stages.tokens import CachedPairs


def work(items: Sequence[PlannedItem], context: StageContext) -> ShardResult:
    """Fit the profile's adapter to every face of a shard, whose tokens must be there."""
    shard = items[0].shard
    network = S3POT(context.models.segmenter, context.models.adapter, context.settings.segments)
    fits: dict[int, nn.Module] = {}
    outcomes: list[Outcome] = []
    for outcome in read_outcomes(context.run, "references", shard):
        started = time.perf_counter()
        pairs = CachedPairs(context.run, [face.row for face in outcome.faces], context.device)
        for row, pair in zip(pairs.rows, pairs, strict=True):
            fits[row] = fit_face(network, pair, context.settings.training).adapter
        outcomes.append(outcome.status_alone(time.perf_counter() - started))
        context.headway.add(1)
    save_fits(context.run, shard, fits)
    return ShardResult(outcomes)


def save_fits(run: Path, shard: int, fits: Mapping[int, nn.Module]) -> None:
    """Write a shard's fitted adapters: ``fits/00012.safetensors``, keys ``ROW/PARAMETER``."""
    tensors = {
        f"{row}/{name}": value.contiguous().cpu()
        for row, adapter in fits.items() for name, value in adapter.state_dict().items()
    }  # fmt: skip
    with replacing(_path(run, shard)) as temporary:
        save_file(tensors, temporary)
        sync(temporary)


def load_fits(run: Path, shard: int) -> dict[int, dict[str, Tensor]]:
    """A shard's fitted adapters as state dicts, by Zarr row.

    Raises:
        ShardError: they are not there.
    """
    path = _path(run, shard)
    if not path.exists():
        raise ShardError(f"{path} is missing; run: s3pot-batch train --per-image")
    states: dict[int, dict[str, Tensor]] = {}
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise DamagedData("fits", shard, f"{path}: cannot be read ({error})") from error
    for key, value in found.items():
        row, name = key.split("/")
        states.setdefault(int(row), {})[name] = value
    return states


def _path(run: Path, shard: int) -> Path:
    return run / "fits" / f"{shard:05d}.safetensors"
