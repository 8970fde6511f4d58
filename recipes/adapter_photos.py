"""Photos for training the embedded adapter: training faces with drawn things on them, and no masks.

Four commands: python -m recipes.adapter_photos --data DIR --work DIR --out DIR; then s3pot-batch index DIR
--out DIR/in.parquet; then s3pot-batch train --manifest DIR/in.parquet --run DIR/run --config recipes/adapter.toml;
and DIR/run/checkpoint is the adapter.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from recipes.faces import Faces, crop, jitter, load_faces, outside_is_grey, seen
from recipes.occluders import occlude
from recipes.recipe import Data, Seed, Work
from s3pot_batch.stages.method.alignment import moved_landmarks


class AdapterPhotos:
    """Draws a face, turned, moved or mirrored; a sixth of them with nothing in front."""

    def __init__(self, faces: Faces) -> None:
        self.faces = faces
        self.indices = np.flatnonzero(~faces.held_out)

    def __call__(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """S×S×3 RGB."""
        faces, side = self.faces, self.faces.images.shape[1]
        n, donor = rng.choice(self.indices, 2)
        matrix = jitter(rng, side, side)
        image, _ = crop(faces.images[n], faces.parsing[n], matrix, side)
        points = moved_landmarks(faces.landmarks[n], matrix).astype(np.float32)
        inside = seen(rng, faces.valid[n], matrix, side, points)
        if rng.random() < 5 / 6:
            other, _ = crop(faces.images[donor], faces.parsing[donor], matrix, side)
            image = occlude(rng, image, other, points).image
        return outside_is_grey(image, inside)


def main(
    data: Data,
    work: Work,
    out: Annotated[Path, typer.Option(help="Where the photos go.")],
    photos: Annotated[int, typer.Option(help="How many.")] = 96,
    seed: Seed = 6,
) -> None:
    """Write the photos that the adapter is trained on."""
    rng, draw = np.random.default_rng(seed), AdapterPhotos(load_faces(data, work))
    out.mkdir(parents=True, exist_ok=True)
    for number in range(photos):
        Image.fromarray(draw(rng)).save(out / f"{number:04d}.png")


if __name__ == "__main__":
    typer.run(main)
