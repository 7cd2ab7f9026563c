"""Label tables against hand-written mappings, and the normalization."""

import json

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import NORMALIZATION, normalize
from segblocks_jax.tasks.segmentation.labels import CAMVID, CITYSCAPES, IGNORE
from segblocks_jax.tasks.segmentation.published_labels import MAPILLARY_V1_2, mapillary_table

# The official list, written the other way round: train id at the position of the label id.
CITYSCAPES_TRAIN_IDS = [
    255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9,
    10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18,
]  # fmt: skip


def test_cityscapes_maps_every_label_id():
    stored = np.append(np.arange(34), 255).astype(np.uint8)
    assert CITYSCAPES.train_ids(stored).tolist() == [*CITYSCAPES_TRAIN_IDS, 255]
    assert CITYSCAPES.num_classes == 19
    assert CITYSCAPES.classes[13] == "car"
    assert CITYSCAPES.colors[13].tolist() == [0, 0, 142]


def test_camvid_keeps_its_classes_and_drops_void():
    assert CAMVID.train_ids(np.arange(12, dtype=np.uint8)).tolist() == [*range(11), 255]
    assert CAMVID.classes[9] == "pedestrian"


def test_mapillary_has_65_classes_and_one_void():
    ids = MAPILLARY_V1_2.train_ids(np.arange(66, dtype=np.uint8))
    assert ids.tolist() == [*range(65), 255]
    named = dict(zip(MAPILLARY_V1_2.classes, MAPILLARY_V1_2.colors.tolist(), strict=True))
    assert named["road"] == [128, 64, 128]
    assert named["sky"] == [70, 130, 180]
    assert named["ego vehicle"] == [120, 10, 10]
    assert len(named) == 65


@pytest.mark.parametrize(
    ("table", "value", "allowed"),
    [(CAMVID, 12, "0..11"), (CITYSCAPES, 200, "0..33, 255"), (MAPILLARY_V1_2, 66, "0..65")],
)
def test_unknown_ids_name_file_value_and_range(table, value, allowed):
    stored = np.full((3, 5), value, np.uint8)
    stored[0] = 1
    with pytest.raises(ValueError, match=rf"some/file.png: holds label {value}, .*{allowed}\."):
        table.train_ids(stored, "some/file.png")


def test_ids_must_be_bytes():
    with pytest.raises(Exception, match=r"uint8|UInt8"):
        CAMVID.train_ids(np.zeros((2, 2), np.int32))


def test_colorize_paints_classes_and_leaves_the_rest_black():
    painted = CAMVID.colorize(np.array([[3, 10], [255, 11]], np.uint8))
    assert painted.tolist() == [[[128, 64, 128], [0, 128, 192]], [[0, 0, 0], [0, 0, 0]]]


def test_tables_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        CITYSCAPES.to_train[0] = 3


def test_mapillary_palette_is_the_one_in_the_files(shared):
    path = next((shared / "data/cityscapes_sample/mapillary_vistas/v1.2/labels").glob("*.png"))
    with Image.open(path) as picture:
        palette = np.array(picture.getpalette()).reshape(-1, 3)
        present = np.unique(np.array(picture))
    known = present[present < 65]
    assert known.size
    np.testing.assert_array_equal(palette[known], MAPILLARY_V1_2.colors[known])


def test_mapillary_table_follows_its_configuration():
    labels = [
        {"readable": "Bird", "color": [1, 2, 3], "evaluate": True},
        {"readable": "Mist", "color": [4, 5, 6], "evaluate": False},
        {"readable": "Road", "color": [7, 8, 9], "evaluate": True},
    ]
    table = mapillary_table(json.dumps({"labels": labels}).encode(), "config_v2.0.json")
    assert table.classes == ("bird", "road")
    assert table.train_ids(np.arange(3, dtype=np.uint8)).tolist() == [0, IGNORE, 1]
    with pytest.raises(ValueError, match="holds label 3"):
        table.train_ids(np.array([3], np.uint8))


@pytest.mark.parametrize("text", ["{", "[]", '{"labels": [{"readable": "x"}]}'])
def test_mapillary_table_refuses_other_files(text):
    with pytest.raises(ValueError, match=r"config.json: not a Mapillary Vistas label config"):
        mapillary_table(text.encode(), "folder/config.json")


def test_normalize_matches_numpy(rng):
    image = rng.integers(0, 256, (2, 3, 5, 3), np.uint8)
    mean, std = NORMALIZATION["camvid"]
    expected = (image / 255 - np.array(mean)) / np.array(std)
    result = normalize(image, mean, std)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_normalization_constants():
    mean, std = NORMALIZATION["cityscapes"]
    np.testing.assert_allclose(255 * np.array(mean), [73.1584, 82.9090, 72.3924])
    np.testing.assert_allclose(255 * np.array(std), [44.9149, 46.1529, 45.3192])
    assert NORMALIZATION["cityscapes"].fill == (73, 83, 72)


def test_camvid_normalization_is_that_of_the_images(shared):
    files = sorted((shared / "data/camvid/train").glob("*.jpg"))[::12]
    pixels = np.concatenate([np.asarray(Image.open(f)).reshape(-1, 3)[::50] for f in files]) / 255
    mean, std = NORMALIZATION["camvid"]
    np.testing.assert_allclose(pixels.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(pixels.std(0), std, atol=0.02)


def test_normalize_refuses_scaled_images():
    with pytest.raises(Exception, match=r"uint8|UInt8"):
        normalize(np.zeros((2, 2, 3), np.float32), *NORMALIZATION["camvid"])
