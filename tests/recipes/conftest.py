"""A ``faces.parquet`` of two public-domain portraits, as the recipes take it."""

import cv2
import numpy as np
import pyarrow as pa
import pytest

from examples.demo_photos import PORTRAITS, load_portrait
from recipes.faces import is_held_out, load_faces
from s3pot_batch.manifests.files import write_parquet

MARKS = np.array([(-0.42, -0.2), (0.42, -0.2), (0, 0.15), (-0.3, 0.5), (0.3, 0.5)])
"""Eyes, nose tip and mouth corners, in units of the face's half axes."""


@pytest.fixture(scope="package")
def data(tmp_path_factory):
    """Five photos, one of them held out by its name, with drawn annotations."""
    folder = tmp_path_factory.mktemp("faces")
    numbers = range(1000)
    held_out = next(n for n in numbers if is_held_out(f"{n}.png"))
    names = [f"{held_out}.png", *[f"{n}.png" for n in numbers if not is_held_out(f"{n}.png")][:4]]
    rows = []
    for name, portrait in zip(names, ["astronaut", "hopper"] * 3, strict=False):
        photo, (centre, axes) = load_portrait(portrait), PORTRAITS[portrait]
        cv2.imwrite(str(folder / name), photo[..., ::-1])
        annotation = np.zeros(photo.shape[:2], np.uint8)
        cv2.ellipse(annotation, centre, axes, 0, 0, 360, 1, -1)  # 1 is skin
        cv2.imwrite(str(folder / f"parse-{name}"), annotation)
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        oval = np.stack([np.cos(angles), np.sin(angles)], 1) * axes + centre
        rows.append({"image": name, "landmarks": (MARKS * axes + centre).tolist(), "face_oval": oval.tolist(),
                     "parse": f"parse-{name}"})  # fmt: skip
    write_parquet(pa.Table.from_pylist(rows), folder / "faces.parquet")
    return folder


@pytest.fixture(scope="package")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="package")
def faces(data, work):
    return load_faces(data, work)
