"""The benchmark of single models, on a public-domain portrait behind a grey square."""

import cv2
import numpy as np
import pyarrow as pa
import pytest
import skimage.data
from PIL import Image

from benchmarks.parts import measure
from recipes.faces import ANNOTATED
from s3pot_batch.manifests.files import write_parquet

MARKS = [[206, 107], [242, 107], [224, 128], [210, 144], [238, 144]]
SKIN, HAIR = (list(ANNOTATED).index(name) for name in ("skin", "hair"))
"""As CelebAMask-HQ's annotation maps number them."""

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # facer wants TorchScript


@pytest.fixture
def composed(tmp_path):
    """Two composed photos, one with a square over the mouth, and the face that they were made of."""
    photo = skimage.data.astronaut()
    hidden = np.zeros(photo.shape[:2], np.uint8)
    hidden[130:165, 200:245] = 255
    drawn = np.zeros_like(hidden)
    cv2.ellipse(drawn, (224, 100), (75, 85), 0, 0, 360, HAIR, -1)
    cv2.ellipse(drawn, (224, 120), (42, 62), 0, 0, 360, SKIN, -1)
    Image.fromarray(photo).save(tmp_path / "face.png")
    Image.fromarray(drawn).save(tmp_path / "parse.png")
    rows = []
    for kind, mask in (("shapes", hidden), ("none", np.zeros_like(hidden))):
        Image.fromarray(np.where(mask[..., None] > 0, np.uint8(90), photo)).save(tmp_path / f"{kind}.png")
        Image.fromarray(mask).save(tmp_path / f"{kind}-mask.png")
        rows.append({"image": f"{kind}.png", "mask": f"{kind}-mask.png", "image_id": kind, "face_source": "face.png"})
    write_parquet(pa.Table.from_pylist(rows), tmp_path / "composed.parquet")
    face = {"image": "face.png", "landmarks": MARKS, "parse": "parse.png"}
    write_parquet(pa.Table.from_pylist([face]), tmp_path / "faces.parquet")
    return tmp_path


def test_each_model_is_measured_by_itself(composed):
    figures = measure(composed / "composed.parquet", composed / "faces.parquet", "embedded", composed / "sheet.png")
    assert figures["detector"]["found"] >= 0.5
    assert figures["parser"]["region_clean"] > 0.6
    assert set(figures["segmenter"]) == {"iou_thing", "iou_part", "iou_thing_random", "iou_part_random"}
    assert figures["references"]["error_covered"] < figures["references"]["error_covered_before"]
    with Image.open(composed / "sheet.png") as sheet:
        assert sheet.height == 288
