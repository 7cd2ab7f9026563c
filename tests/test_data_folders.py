"""Data sets on disk: layouts, preparing, reading, and every way in which they can be broken."""

import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import NORMALIZATION, SceneSet, open_dataset
from segblocks_jax.tasks.segmentation.labels import CITYSCAPES

SIZE = (6, 10)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def camvid(tmp_path, rng):
    """A CamVid of 3 train and 2 val images: folder, and what was stored by (split, name)."""
    root, stored = tmp_path / "camvid", {}
    for split, names in (("train", "bca"), ("val", "yx")):
        for name in names:
            image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            label = rng.integers(0, 12, SIZE, np.uint8)
            save(root / split / f"{name}.png", image)
            save(root / f"{split}annot" / f"{name}.png", label)
            stored[split, name] = image, label
    return root, stored


def files_below(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


def test_camvid_items_are_the_stored_ones_in_order(camvid, tmp_path):
    root, stored = camvid
    source = open_dataset("camvid", root, "train", tmp_path / "prepared")
    assert [item["name"] for item in source] == ["a", "b", "c"]
    for item in source:
        image, label = stored["train", item["name"]]
        np.testing.assert_array_equal(item["image"], image)
        np.testing.assert_array_equal(item["label"], np.where(label == 11, 255, label))
        assert item["label"].dtype == np.uint8
    assert source[-1]["name"] == "c"
    assert source.normalization == NORMALIZATION["camvid"]
    with pytest.raises(IndexError, match="item 3 of 3"):
        source[3]


def test_sources_pickle(camvid, tmp_path):
    source = open_dataset("camvid", camvid[0], "val", tmp_path / "prepared")
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[1]["image"], source[1]["image"])


def test_tensorflow_is_never_imported(camvid, tmp_path):
    open_dataset("camvid", camvid[0], "val", tmp_path / "prepared")[0]
    assert "tensorflow" not in sys.modules


def test_prepared_files_are_reused_until_the_source_changes(camvid, tmp_path):
    root, prepared = camvid[0], tmp_path / "prepared"
    open_dataset("camvid", root, "train", prepared)
    (first,) = prepared.iterdir()
    times = {p: p.stat().st_mtime_ns for p in first.rglob("*") if p.is_file()}
    open_dataset("camvid", root, "val", prepared)
    assert [*prepared.iterdir()] == [first]
    assert times == {p: p.stat().st_mtime_ns for p in first.rglob("*") if p.is_file()}
    save(root / "train" / "d.png", np.zeros((*SIZE, 3), np.uint8))
    save(root / "trainannot" / "d.png", np.zeros(SIZE, np.uint8))
    assert len(open_dataset("camvid", root, "train", prepared)) == 4
    assert len([*prepared.iterdir()]) == 2


def test_places_by_default(camvid, tmp_path, monkeypatch):
    root = camvid[0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SEGBLOCKS_DATA_DIR", str(tmp_path))
    assert len(open_dataset("camvid", split="val")) == 2
    assert (root / "tfds").is_dir()
    shutil.rmtree(root / "tfds")
    root.chmod(0o555)
    try:
        assert len(open_dataset("camvid", root, "val")) == 2
        assert not (root / "tfds").exists()
    finally:
        root.chmod(0o755)
    assert any((tmp_path / "cache/segblocks_jax/tfds").iterdir())


def broken_missing_folder(root):
    shutil.rmtree(root / "valannot")
    return r"valannot: missing for split 'val'.*Nothing was written"


def broken_without_label(root):
    (root / "trainannot" / "b.png").unlink()
    return r"train/b.png: this image has no counterpart in .*trainannot \(1 such\).*Nothing was"


def broken_without_image(root):
    (root / "val" / "x.png").unlink()
    return r"valannot/x.png: this label has no counterpart in .*val \(1 such\)"


def broken_twice(root):
    shutil.copy(root / "train" / "b.png", root / "train" / "b.jpg")
    return r"b\.\w+ and .*b\.\w+ have the same name; remove one"


def broken_empty(root):
    for path in (root / "val").iterdir():
        path.unlink()
    return r"val: holds no file"


def broken_truncated(root):
    path = root / "val" / "y.png"
    path.write_bytes(path.read_bytes()[:-60])
    return r"val/y.png: can't be read as an image"


def broken_garbage(root):
    (root / "valannot" / "y.png").write_bytes(b"no image")
    return r"valannot/y.png: can't be read as an image"


def broken_size(root):
    save(root / "valannot" / "y.png", np.zeros((5, 10), np.uint8))
    return r"valannot/y.png: the label is 10x5 but its image .*val/y.png is 10x6"


def broken_value(root):
    save(root / "valannot" / "y.png", np.full(SIZE, 12, np.uint8))
    return r"valannot/y.png: holds label 12, which CamVid doesn't define; allowed are 0..11"


def broken_colors(root):
    save(root / "valannot" / "y.png", np.zeros((*SIZE, 3), np.uint8))
    return r"valannot/y.png: a label must have one 8-bit channel of ids, got mode RGB"


def broken_all(root):
    for path in root.iterdir():
        shutil.rmtree(path)
    return r"camvid: holds none of the splits .*<split>annot"


@pytest.mark.parametrize(
    "break_it", [f for name, f in sorted(globals().items()) if name.startswith("broken_")]
)
def test_broken_data_sets_are_refused_whole(camvid, tmp_path, break_it):
    root, prepared = camvid[0], tmp_path / "prepared"
    message = break_it(root)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_dataset("camvid", root, "train", prepared)
    assert not prepared.exists() or not any(prepared.iterdir())


def test_arguments_are_checked(camvid, tmp_path, monkeypatch):
    monkeypatch.delenv("SEGBLOCKS_DATA_DIR", raising=False)
    with pytest.raises(
        ValueError, match=r"unknown data set 'kitti'; known are cityscapes, .*camvid"
    ):
        open_dataset("kitti", tmp_path)
    with pytest.raises(ValueError, match=r"Pass data_dir=\.\.\. or set SEGBLOCKS_DATA_DIR"):
        open_dataset("camvid")
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        open_dataset("camvid", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no split 'test' with labels here, only train, val"):
        open_dataset("camvid", camvid[0], "test")
    with pytest.raises(ValueError, match="scenes= is for 'street_scenes' only"):
        open_dataset("camvid", camvid[0], scenes=SceneSet())


def test_hidden_and_foreign_files_are_no_data(camvid, tmp_path):
    root = camvid[0]
    (root / "train" / "._a.png").write_bytes(b"resource fork")
    (root / "train" / "Thumbs.db").write_bytes(b"")
    assert len(open_dataset("camvid", root, "train", tmp_path / "prepared")) == 3


def test_street_scenes_are_written_on_first_use(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SEGBLOCKS_DATA_DIR", raising=False)
    scenes = SceneSet(train=2, val=1, height=32, width=48)
    source = open_dataset("street_scenes", split="train", scenes=scenes)
    assert len(source) == 2
    assert source[0]["image"].shape == (32, 48, 3)
    assert source.table is CITYSCAPES
    before = files_below(tmp_path)
    folder = tmp_path / "segblocks_jax/street_scenes" / scenes.folder_name
    again = open_dataset("street_scenes", folder, "val")
    assert len(again) == 1
    assert files_below(tmp_path) == before
    with pytest.raises(ValueError, match="wanted SceneSet"):
        open_dataset("street_scenes", folder, "val", scenes=SceneSet(train=3))
