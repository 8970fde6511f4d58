"""The faces that no recipe trains on, as a file that ``s3pot-batch compose`` and ``benchmarks.parts`` take.

python -m recipes.held_out --data DIR --out heldout.parquet
"""

from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer

from recipes.faces import is_held_out
from recipes.recipe import Data
from s3pot_batch.manifests.files import write_parquet


def write_held_out(data: Data, out: Annotated[Path, typer.Option(help="The Parquet file to write.")]) -> None:
    """Write the rows of ``data/faces.parquet`` that have landmarks and are held out, with absolute paths."""
    rows = pq.read_table(data / "faces.parquet").to_pylist()
    found = [row for row in rows if row["landmarks"] and is_held_out(row["image"])]
    for row in found:
        row |= {name: str((data / row[name]).resolve()) for name in ("image", "parse") if row[name]}
    write_parquet(pa.Table.from_pylist(found), out)
    print(f"{out}: {len(found)} faces")


if __name__ == "__main__":
    typer.run(write_held_out)
