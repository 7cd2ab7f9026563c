"""Data sets on disk: layouts, preparing, reading, and every way in which they can be broken."""

import dataclasses
import io
import os
import pickle
import shutil
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import DATASETS, NORMALIZATION, SceneSet, label_table, open_dataset
from segblocks_jax.data.config import DataConfig
from segblocks_jax.data.datasets import family
from segblocks_jax.data.store import File
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


def same_bytes(pixels, size):
    """A PNG of `size` bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert len(file.getvalue()) <= size
    return file.getvalue().ljust(size, b"\0")  # Behind the end of a PNG anything may follow.


def correct(root):
    path = root / "trainannot/b.png"
    path.write_bytes(same_bytes(np.full(SIZE, 3, np.uint8), path.stat().st_size))


def correct_with_the_old_time(root):
    before = (root / "trainannot/b.png").stat()
    correct(root)
    os.utime(root / "trainannot/b.png", ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_an_older_file(root):
    path = root / "b.png"
    path.write_bytes(same_bytes(np.full(SIZE, 3, np.uint8), 300))
    os.utime(path, (1e9, 1e9))
    path.replace(root / "trainannot/b.png")


def swap(root):
    a, b, other = (root / f"trainannot/{name}.png" for name in "abx")
    a.rename(other)
    b.rename(a)
    other.rename(b)


def add(root):
    for folder in ("train", "trainannot"):
        shutil.copy(root / folder / "a.png", root / folder / "d.png")


def remove(root):
    for folder in ("train", "trainannot"):
        (root / folder / "c.png").unlink()


def rename(root):
    for folder in ("train", "trainannot"):
        (root / folder / "c.png").rename(root / folder / "d.png")


def read_files(root):
    pairs = [(root / "train" / p.name, p) for p in sorted((root / "trainannot").iterdir())]
    return [[np.asarray(Image.open(path)) for path in pair] for pair in pairs]


@pytest.mark.parametrize(
    "edit",
    [correct, correct_with_the_old_time, replace_by_an_older_file, swap, add, remove, rename],
)
def test_edits_after_preparation_are_seen(camvid, tmp_path, edit, caplog):
    root, prepared = camvid[0], tmp_path / "prepared"
    path = root / "trainannot/b.png"
    path.write_bytes(path.read_bytes().ljust(300, b"\0"))
    open_dataset("camvid", root, "train", prepared)
    edit(root)
    caplog.clear()
    source = open_dataset("camvid", root, "train", prepared)
    files = read_files(root)
    assert [f"{item['name']}.png" for item in source] == sorted(
        path.name for path in (root / "train").iterdir()
    )
    for item, (image, label) in zip(source, files, strict=True):
        np.testing.assert_array_equal(item["image"], image)
        np.testing.assert_array_equal(item["label"], np.where(label == 11, 255, label))
    assert "camvid: its files are not those that" in caplog.text


def test_new_time_stamps_alone_prepare_nothing(camvid, tmp_path, monkeypatch):
    root, prepared = camvid[0], tmp_path / "prepared"
    read = []
    monkeypatch.setattr(
        File, "crc32", lambda self: read.append(self.key) or zlib.crc32(self.read())
    )
    for expected in (10, 0, 1, 0):
        if expected == 1:
            (root / "trainannot/b.png").touch()
        open_dataset("camvid", root, "train", prepared)
        assert len(read) == expected
        assert len([*prepared.iterdir()]) == 1
        read.clear()
    (next(prepared.iterdir()) / "sources.json").write_text("cut [")
    open_dataset("camvid", root, "train", prepared)
    assert len(read) == 10
    assert len([*prepared.iterdir()]) == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A prepared CamVid, the folder of its records, and their files."""
    root, rng = tmp_path_factory.mktemp("whole") / "camvid", np.random.default_rng(0)
    for name in "ab":
        save(root / "val" / f"{name}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        save(root / "valannot" / f"{name}.png", rng.integers(0, 12, SIZE, np.uint8))
    open_dataset("camvid", root, "val", root.parent / "prepared")
    (folder,) = (root.parent / "prepared").iterdir()
    return root, folder


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "a pointer": lambda content: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    ),
    "gone": None,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["index", "dataset_info", "features", "array_record"])
def test_damaged_records_are_named_with_the_remedy(whole, tmp_path, name, damage):
    root, prepared = whole[0], tmp_path / "prepared"
    folder = shutil.copytree(whole[1], prepared / whole[1].name)
    (path,) = (p for p in folder.rglob("*") if p.is_file() and name in p.name)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=f"{path}: .*Remove the folder {folder}: the data set is"):
        open_dataset("camvid", root, "val", prepared)
    shutil.rmtree(folder)
    assert len(open_dataset("camvid", root, "val", prepared)) == 2


def test_records_with_a_flipped_bit_are_refused(whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "prepared" / whole[1].name)
    (path,) = folder.rglob("*.array_record-*")
    content = bytearray(path.read_bytes())
    content[200] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"Remove the folder {folder}"):
        [*open_dataset("camvid", whole[0], "val", folder.parent)]


def test_another_data_set_is_one_more_entry(camvid, tmp_path, monkeypatch):
    mine = dataclasses.replace(DATASETS["camvid"], name="mine", counts={}, family="mine")
    monkeypatch.setitem(DATASETS, "mine", mine)
    camvid[0].rename(tmp_path / "mine")
    source = open_dataset("mine", tmp_path, "train", tmp_path / "prepared")
    assert len(source) == 3
    assert source.normalization == mine.normalization
    assert label_table("mine") is mine.table
    assert family("mine") == ("mine",)
    assert DataConfig(dataset="mine", train_split="val").dataset == "mine"


@pytest.mark.parametrize(("ids", "odd"), [([*range(19), 255], True), ([0, 7, 8, 11, 23], False)])
def test_train_ids_in_files_of_label_ids_are_noticed(tmp_path, rng, caplog, ids, odd):
    root, name = tmp_path / "cityscapes", "val/ulm/ulm_000000_000019"
    save(root / f"leftImg8bit/{name}_leftImg8bit.png", np.zeros((*SIZE, 3), np.uint8))
    save(root / f"gtFine/{name}_gtFine_labelIds.png", rng.choice(ids, SIZE).astype(np.uint8))
    for _ in range(2):
        caplog.clear()
        open_dataset("cityscapes", root, "val", tmp_path / "prepared")
        assert ("Are they train ids?" in caplog.text) == odd


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
