"""A folder for Hugging Face's ``datasets``: Parquet with the photos and their masks inside."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from s3pot_batch.manifests.errors import one_line
from s3pot_batch.manifests.files import replacing
from s3pot_batch.manifests.schema import FACE_ANSWER
from s3pot_batch.pipeline.config import CONFIG, resolve
from s3pot_batch.pipeline.export import Written
from s3pot_batch.pipeline.export._photos import FILTERS, AnsweredPhoto, answered_photos
from s3pot_batch.pipeline.options import ExportOptions
from s3pot_batch.stages.errors import ItemError
from s3pot_batch.stages.images import read_photo
from s3pot_batch.stages.settings import FaceSettings

FOLDER = "hf"
CHOICES = FILTERS
FILE = Path("data", "train-00000-of-00001.parquet")
ROWS = 16
"""Photos of a row group: they are in memory at once."""
PICTURES = ("image", "occlusion", "face_region")
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {name: {"_type": "Image"} for name in PICTURES}
SCHEMA = pa.schema(
    [
        *((name, PICTURE) for name in PICTURES),
        ("image_id", pa.string()),
        ("status", pa.string()),
        ("occlusion_ratio", pa.float64()),
        ("predicted_iou", pa.float64()),
        ("faces", pa.list_(FACE_ANSWER)),
    ]
)


def write(run: Path, out: Path, options: ExportOptions) -> Iterator[Written]:
    """Write one Parquet file: upright photos and masks as PNG, and the answer's figures."""
    bounds = resolve(file=run / CONFIG).settings.faces
    (out / FILE).parent.mkdir(parents=True, exist_ok=True)
    features = {field.name: FEATURES.get(field.name) or _feature(field.type) for field in SCHEMA}
    schema = SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with replacing(out / FILE) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        for photo in answered_photos(run, options):
            try:
                rows.append(_row(photo, bounds))
                yield Written(photo.item.image_id)
            except (OSError, ItemError) as error:
                yield Written(photo.item.image_id, one_line(error))
            if len(rows) == ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))


def _feature(kind: pa.DataType) -> Any:  # noqa: ANN401
    """An Arrow type as ``datasets`` writes it."""
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}


def _row(photo: AnsweredPhoto, bounds: FaceSettings) -> dict[str, Any]:
    occlusion, region = photo.masks()
    pictures = dict(zip(PICTURES, (read_photo(photo.item.image, bounds), occlusion, region), strict=True))
    row = {name: photo.row[name] for name in SCHEMA.names if name not in {*PICTURES, "image_id"}}
    encoded = {name: {"bytes": _png(values), "path": f"{photo.name}.png"} for name, values in pictures.items()}
    return {**row, **encoded, "image_id": photo.item.image_id}


def _png(values: NDArray[np.generic]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8) * 255 if values.dtype == bool else values).save(stream, "PNG")
    return stream.getvalue()
