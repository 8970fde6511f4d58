import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pycocotools import mask as coco

from manifests.files import write_parquet
from manifests.schema import RLE
from pipeline.masks import mask_name, write_masks


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")  # pycocotools
def test_masks_have_the_photos_size_and_255_where_occluded(tmp_path):
    occluded = np.zeros((5, 7), np.uint8)
    occluded[1:3, 2:6] = 1
    encoded = coco.encode(np.asfortranarray(occluded))
    rows = [{"size": [5, 7], "counts": encoded["counts"].decode()}, None]
    write_parquet(pa.table({"occlusion": pa.array(rows, RLE)}), tmp_path / "segments.parquet")
    assert write_masks(tmp_path, ["folder/a", "b"]) == 1
    assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / "folder" / "a.png")), occluded * 255)


@pytest.mark.parametrize("image_id", ["/etc/a", "../a", "a/../../b", "s3://bucket/a"])
def test_no_mask_leaves_its_folder(image_id):
    assert "/" not in mask_name(image_id)
