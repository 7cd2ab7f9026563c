"""All real frames: prepared, read back, compared with the files and with pixels read by hand."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import open_dataset
from segblocks_jax.data.summary import class_frequencies
from segblocks_jax.tasks.segmentation.labels import CAMVID
from segblocks_jax.tasks.segmentation.published_labels import camvid_split

CITYSCAPES_PIXELS = {  # (row, column): train id, looked up in a script that printed the label files' values
    "aachen_000000_000019": {(512, 1024): 9, (768, 1024): 0, (128, 1024): 2, (512, 256): 0},
    "aachen_000001_000019": {(512, 1024): 0, (128, 1024): 2, (512, 256): 13, (640, 1792): 0},
    "aachen_000004_000019": {(128, 1024): 5, (512, 256): 4, (768, 1024): 0},
    "aachen_000005_000019": {(128, 1024): 2, (640, 1792): 1, (512, 1024): 0},
    "frankfurt_000000_000294": {(16, 128): 8, (64, 32): 2, (80, 224): 1, (64, 128): 0},
}


@pytest.fixture(scope="module")
def camvid(shared, tmp_path_factory):
    prepared = tmp_path_factory.mktemp("prepared")
    root = shared / "data/camvid"
    return {split: open_dataset("camvid", root, split, prepared) for split in ("train", "val")}


@pytest.fixture(scope="module")
def cityscapes(shared, tmp_path_factory):
    prepared = tmp_path_factory.mktemp("prepared")
    root = shared / "data/cityscapes_sample"
    return {split: open_dataset("cityscapes", root, split, prepared) for split in ("train", "val")}


@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_camvid_is_read_back_whole(shared, camvid, split, count):
    root, source = shared / "data/camvid", camvid[split]
    assert len(source) == count
    assert source.sizes == [(360, 480)] * count
    assert not source.skipped
    names = sorted(path.stem for path in (root / split).iterdir())
    for name, item in zip(names, source, strict=True):
        assert item["name"] == name
        with Image.open(root / split / f"{name}.jpg") as image:
            np.testing.assert_array_equal(item["image"], np.asarray(image))
        with Image.open(root / f"{split}annot" / f"{name}.png") as label:
            stored = np.asarray(label)
        np.testing.assert_array_equal(item["label"], np.where(stored == 11, 255, stored))


def test_camvid_pixels_read_by_hand(camvid):
    item = camvid["val"][0]
    assert item["name"] == "0016E5_07959"
    for place, name in {
        (20, 240): "sky",
        (180, 240): "bicyclist",
        (300, 240): "road",
        (180, 40): "building",
    }.items():
        assert CAMVID.classes[item["label"][place]] == name


@pytest.mark.parametrize(("split", "column"), [("train", 0), ("val", 1)])
def test_camvid_frequencies_are_those_of_its_description(shared, camvid, split, column):
    got = class_frequencies(camvid[split])
    text = (shared / "data/camvid/README.md").read_text()
    rows = re.findall(
        r"^\| (\d+) \| .* \| ([\d.]+) \| (\d+) \| ([\d.]+) \| (\d+) \|$", text, re.MULTILINE
    )
    assert [int(row[0]) for row in rows] == list(range(12))
    for row, share, images in zip(rows, got.shares, got.images, strict=True):
        assert 100 * share == pytest.approx(float(row[1 + 2 * column]), abs=6e-4)
        assert images == int(row[2 + 2 * column])


def test_the_frames_of_a_split_are_found_by_their_names(shared):
    for split in ("train", "val"):
        names = [path.stem for path in (shared / "data/camvid" / split).iterdir()]
        assert {camvid_split(name) for name in names} == {split}


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("val", 3)])
def test_cityscapes_frames_are_read_back(shared, cityscapes, split, count):
    root, source = shared / "data/cityscapes_sample", cityscapes[split]
    assert len(source) == count
    for item in source:
        city = item["name"].split("_")[0]
        with Image.open(
            root / f"leftImg8bit/{split}/{city}/{item['name']}_leftImg8bit.png"
        ) as image:
            np.testing.assert_array_equal(item["image"], np.asarray(image))
        for place, train_id in CITYSCAPES_PIXELS[item["name"]].items():
            assert item["label"][place] == train_id, place
    assert set(source.sizes) <= {(1024, 2048), (128, 256)}


def test_incomplete_data_sets_say_so(shared, tmp_path, caplog):
    open_dataset("cityscapes", shared / "data/cityscapes_sample", "val", tmp_path)
    assert "val: 3 of 500 images; get leftImg8bit_trainvaltest.zip" in caplog.text
    assert "train" not in caplog.text.partition("val: 3")[0].rpartition("\n")[2]


def mapillary(shared, root, version):
    """The sample's one frame as a validation set with a configuration of 124 labels."""
    sample = shared / "data/cityscapes_sample/mapillary_vistas"
    (root / f"validation/{version}").mkdir(parents=True)
    (root / "validation/images").symlink_to(sample / "images")
    (root / f"validation/{version}/labels").symlink_to(sample / f"{version}/labels")
    path = next((sample / version / "labels").iterdir())
    with Image.open(path) as picture:
        return np.asarray(picture), np.array(picture.getpalette()).reshape(-1, 3)


@pytest.mark.parametrize(
    ("name", "version", "ids"),
    [("mapillary", "v1.2", (17, 44, 45)), ("mapillary_v2", "v2.0", (27, 84, 85))],
)
def test_mapillary_frame_with_both_labels(shared, tmp_path, name, version, ids):
    stored, palette = mapillary(shared, tmp_path / "vistas", version)
    count, void = {"v1.2": (66, {65}), "v2.0": (124, {30, 84, 123})}[version]
    labels = [
        {"readable": f"Label {i}", "color": palette[i].tolist(), "evaluate": i not in void}
        for i in range(count)
    ]
    config = tmp_path / "vistas" / f"config_{version}.json"
    config.write_text(json.dumps({"labels": labels}))
    (item,) = source = open_dataset(name, tmp_path / "vistas", "val", tmp_path / "prepared")
    assert item["image"].shape == (100, 100, 3)
    assert source.table.num_classes == count - len(void)
    train_ids = np.cumsum([i not in void for i in range(count)]) - 1
    for i, pixels in zip(ids, (9157, 731, 112), strict=True):
        assert (stored == i).sum() == pixels
        expected = 255 if i in void else train_ids[i]
        assert (item["label"][stored == i] == expected).all()
    assert stored[10, 10] == ids[1]
    assert stored[50, 50] == ids[0]


def test_mapillary_by_heart_has_the_colors_of_the_files(shared, tmp_path):
    stored, palette = mapillary(shared, tmp_path / "vistas", "v1.2")
    source = open_dataset("mapillary", tmp_path / "vistas", "val", tmp_path / "prepared")
    assert source.table.num_classes == 65
    np.testing.assert_array_equal(source.table.colorize(source[0]["label"]), palette[stored])


def test_mapillary_v2_needs_its_configuration(shared, tmp_path):
    mapillary(shared, tmp_path / "vistas", "v2.0")
    with pytest.raises(FileNotFoundError, match=r"config_v2.0.json: missing"):
        open_dataset("mapillary_v2", tmp_path / "vistas", "val", tmp_path / "prepared")
    with pytest.raises(FileNotFoundError, match=r"v1.2/labels: missing for split 'val'"):
        open_dataset("mapillary", tmp_path / "vistas", "val", tmp_path / "prepared")
