"""A finished run whose arrays are drawn, not computed: what a page shows of it is known to the pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.manifests.outcomes import FaceOutcome, Outcome, write_outcomes
from s3pot_batch.manifests.plan import Plan, write_plan
from s3pot_batch.manifests.schema import PLAN
from s3pot_batch.pipeline.config import resolve, write_run
from s3pot_batch.stages import store
from s3pot_batch.stages.base import stage_named
from s3pot_batch.stages.models.taxonomy import CELEBM
from s3pot_batch.stages.rle import encode_rle

MATRIX = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
STAGES = ("references", "decoded", "segments")
SIDE, PER_SHARD, MOST_FACES = 64, 8, 2


def draw_run(run: Path, outcomes: Sequence[Outcome], per_shard: int = PER_SHARD, **columns: Sequence[object]) -> Path:
    """A run of photos with these outcomes, in shards of so many, and an answer with these columns.

    Faces are numbered from 0 in ``outcomes``; here they get their Zarr rows. Of every face the left of a square is
    hidden, as much as its ratio says.
    """
    names = [outcome.image_id for outcome in outcomes]
    photos = [{"index": n, "image_id": name, "image": f"/photos/{n}.png", "shard": n // per_shard,
               "row": n * MOST_FACES} for n, name in enumerate(names)]  # fmt: skip
    plan = Plan(pa.Table.from_pylist(photos, PLAN), per_shard, MOST_FACES, "digest")
    write_plan(plan, run)
    config = resolve().with_settings({"faces": {"max_faces": MOST_FACES, "frame": SIDE}})
    write_run(config, run, STAGES)
    for stage in STAGES:
        arrays = stage_named(stage).module.arrays(config.context(stage, run, device="cpu", batch_size=1))
        path = run / stage_named(stage).store
        store.create(path, plan, arrays)
        for shard in range(plan.shards):
            first = shard * per_shard
            own = outcomes[first : first + per_shard]
            values = {face.row: drawn(arrays, face.row, face.occlusion_ratio) for one in own for face in one.faces}
            rows = range(first * MOST_FACES, (first + per_shard) * MOST_FACES)
            sums = store.write_rows(path, arrays, rows, values)
            write_outcomes(run, stage, shard, own, "f", sums)
    write_parquet(
        pa.table({"image_id": names, "image": [f"{n}.png" for n in range(len(names))], **columns,
                  "status": [one.status for one in outcomes], "occlusion": [one.occlusion for one in outcomes]}),
        run / "segments.parquet",
    )  # fmt: skip
    return run


def found(n: int, image_id: str, *ratios: float, sure: float = 0.5) -> Outcome:
    """A photo with a face for each hidden share."""
    faces = tuple(
        FaceOutcome(n * MOST_FACES + slot, (0.0,) * 4, 1.0, (0.0,) * 10, MATRIX, 1.0, ratio, sure)
        for slot, ratio in enumerate(ratios)
    )
    mask = encode_rle(hidden(ratios[0]))
    return Outcome(n, image_id, "ok", height=SIDE, width=SIDE, faces=faces, occlusion=mask, face_region=mask,
                   occlusion_ratio=ratios[0], predicted_iou=sure, seconds=1.0)  # fmt: skip


def hidden(ratio: float) -> np.ndarray:
    """SIDE×SIDE, true on the left, as much as the share says."""
    return np.broadcast_to(np.arange(SIDE) < round(ratio * SIDE), (SIDE, SIDE))


def drawn(arrays, row: int, ratio: float) -> dict[str, np.ndarray]:
    """Values of a face: the photo's grey is its Zarr row, the parse map is all skin, two prompts."""
    values = {name: np.zeros(spec.shape(1)[1:], spec.dtype) for name, spec in arrays.items()}
    for name, value in (
        ("raw", 100 + row),
        ("reference", 200),
        ("region", 1),
        ("parsing", CELEBM.classes.index("face")),
    ):
        if name in values:
            values[name][...] = value
    if "occlusion" in values:
        values["occlusion"][hidden(ratio)] = 0.9
    if "contrast" in values:
        values["contrast"][30, 30] = 0.5
        values["prompts"][10, 10], values["prompts"][50, 50] = 1, 2
    return values
