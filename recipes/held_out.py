"""The faces that no recipe trains on, as a file that ``s3pot-batch compose`` and ``benchmarks.parts`` take.

python -m recipes.held_out --data DIR --out heldout.parquet
"""

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from recipes.faces import GLASSES, is_held_out, read_annotation
from recipes.recipe import Data
from s3pot_batch.manifests.files import write_parquet
from s3pot_batch.stages.models.taxonomy import CELEBM


def write_held_out(data: Data, out: Annotated[Path, typer.Option(help="The Parquet file to write.")]) -> None:
    """Write the rows of ``data/faces.parquet`` that have landmarks and are held out, with absolute paths."""
    rows = [row for row in pq.read_table(data / "faces.parquet").to_pylist() if row["landmarks"]]
    found = [row for row in rows if is_held_out(row["image"]) and not (row["parse"] and wears(data / row["parse"]))]
    for row in found:
        row |= {name: str((data / row[name]).resolve()) for name in ("image", "parse") if row[name]}
    write_parquet(pa.Table.from_pylist(found), out)
    print(f"{out}: {len(found)} faces")


def wears(annotation: Path) -> bool:
    """Whether an annotation shows as much of glasses as no clean face of a training may."""
    worn = CELEBM.where(read_annotation(annotation, (176, 176)), CELEBM.worn)
    return int(worn.sum()) >= GLASSES


if __name__ == "__main__":
    typer.run(write_held_out)
