"""Columns, types and versions of every Parquet file that this project reads or writes."""

import pyarrow as pa

SCHEMA_VERSION = 2
"""Of what stage one writes, and of every file that says nothing else."""
ANSWER_VERSION = 3
"""Of what the stage ``segments`` writes, and so of the answer: 3 has the masks of each face."""
STATUSES = ("ok", "no_face", "failed")

RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
"""A mask as compressed COCO run-length encoding; ``size`` is (height, width)."""

FACE_ANSWER = pa.struct(
    [
        ("row", pa.int64()),
        ("bbox", pa.list_(pa.float64())),
        ("landmarks", pa.list_(pa.float64())),
        ("score", pa.float64()),
        ("occlusion_ratio", pa.float64()),
        ("predicted_iou", pa.float64()),
        ("parse_confidence", pa.float64()),
        ("occlusion", RLE),
        ("face_region", RLE),
    ]
)
"""One face of the answer: its Zarr row, x0 y0 x1 y1 box, 5×2 landmarks, and its own masks in the photo's pixels."""
FACE = pa.struct([*FACE_ANSWER, ("matrix", pa.list_(pa.float64()))])
"""One face of an item: also the 2×3 matrix photo → frame pixels."""

ITEM_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("status", pa.string()),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("faces", pa.list_(FACE)),
        ("occlusion", RLE),
        ("face_region", RLE),
        ("occlusion_ratio", pa.float64()),
        ("predicted_iou", pa.float64()),
        ("faces_left_out", pa.int32()),
        ("file_size", pa.int64()),
        ("file_time", pa.int64()),
        ("content", pa.string()),
        ("seconds", pa.float64()),
    ]
)
"""``items/STAGE/00012.parquet``: one row per planned photo of that shard."""

FINISHED = pa.schema(
    [
        ("shard", pa.int32()),
        ("bytes", pa.int64()),
        ("made", pa.int64()),
        *((name, pa.dictionary(pa.int32(), pa.string())) for name in ("fingerprint", "status", "error_type", "error")),
        *(ITEM_SCHEMA.field(name) for name in ("index", "file_size", "file_time")),
    ]
)
"""``items/STAGE.parquet``: what is asked most of all shards' files, and these files' sizes and times (nanoseconds).

Texts are dictionaries: a million photos share a few, and are read in half the time.
"""

SEGMENTS = pa.schema(
    [
        ("status", pa.string()),
        ("error_type", pa.string()),
        ("error", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("faces", pa.list_(FACE_ANSWER)),
        ("occlusion", RLE),
        ("face_region", RLE),
        ("occlusion_ratio", pa.float64()),
        ("predicted_iou", pa.float64()),
        ("faces_left_out", pa.int32()),
        ("run", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int64()),
        ("fingerprint", pa.string()),
        ("seconds", pa.float64()),
    ]
)
"""Columns that ``segments.parquet`` appends to the manifest's own."""

PLAN = pa.schema(
    [
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("image", pa.string()),
        ("bbox", pa.list_(pa.float64())),
        ("landmarks", pa.list_(pa.float64())),
        ("problem", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int64()),
        ("wanted", pa.bool_()),
    ]
)
"""``plan.parquet``: which photo is worked on in which shard, and its first Zarr row."""
