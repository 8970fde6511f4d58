"""Photos for training the embedded adapter: training faces with drawn things on them, and no masks.

Four commands: python -m stages.embedded.adapter_photos --data DIR --work DIR --out DIR; then s3pot-batch index DIR
--out DIR/in.parquet; then s3pot-batch train --manifest DIR/in.parquet --run DIR/run --config
stages/embedded/adapter.toml; and DIR/run/checkpoint is the adapter.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from stages.commandline import run
from stages.embedded.faces import crop, jitter, load_faces
from stages.embedded.occluders import occlude


def main(
    data: Path,
    work: Path,
    out: Path,
    photos: int = 96,
    seed: int = 6,
) -> None:
    """Write the photos; a sixth of them show a face with nothing in front."""
    rng = np.random.default_rng(seed)
    faces = load_faces(data, work)
    side = faces.images.shape[1]
    indices = np.flatnonzero(~faces.held_out)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(photos):
        n, donor = rng.choice(indices, 2)
        matrix = jitter(rng, side, side)
        image, _ = crop(faces.images[n], faces.parsing[n], matrix, side)
        if rng.random() < 5 / 6:
            other, _ = crop(faces.images[donor], faces.parsing[donor], matrix, side)
            points = (faces.landmarks[n] @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
            image = occlude(rng, image, other, points).image
        Image.fromarray(image).save(out / f"{number:04d}.png")


if __name__ == "__main__":
    run(main)
