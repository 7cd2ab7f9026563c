"""Street scenes: determinism, classes, geometry, files on disk."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import open_dataset
from segblocks_jax.data.street_scenes import SceneSet, render, write
from segblocks_jax.data.street_scenes.canvas import Canvas, View, ground, quad
from segblocks_jax.tasks.segmentation.labels import CITYSCAPES

SMALL = SceneSet(train=2, val=1, height=24, width=40, seed=3)


@pytest.fixture(scope="module")
def scenes():
    return [render(seed, 96, 192) for seed in range(24)]


def test_same_seed_same_pixels_other_seed_other_scene():
    a, b, c = render(5, 40, 72), render(5, 40, 72), render(6, 40, 72)
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.label_ids, b.label_ids)
    assert (a.label_ids != c.label_ids).mean() > 0.1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (37, 61), (101, 53), (64, 512)])
def test_any_size(height, width):
    scene = render(1, height, width)
    assert scene.image.shape == (height, width, 3)
    assert scene.label_ids.shape == (height, width)
    assert scene.image.dtype == scene.label_ids.dtype == np.uint8


@pytest.mark.parametrize("seed", range(4))
def test_size_changes_the_resolution_only(seed):
    large, small = render(seed, 192, 384), render(seed, 96, 192)
    assert (large.label_ids[::2, ::2] == small.label_ids).mean() > 0.93
    halved = large.image.reshape(96, 2, 192, 2, 3).mean((1, 3))
    assert np.abs(halved - small.image).mean() < 12


def test_all_classes_occur_and_only_known_ids(scenes):
    ids = np.unique(np.stack([scene.label_ids for scene in scenes]))
    assert set(CITYSCAPES.train_ids(ids).tolist()) - {255} == set(range(19))
    assert set(ids.tolist()) - set(np.flatnonzero(CITYSCAPES.to_train != 255).tolist()) <= {1}


def test_scenes_are_laid_out_like_streets(scenes):
    labels = np.stack([CITYSCAPES.train_ids(scene.label_ids) for scene in scenes])
    share = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert 0.2 < share[0] < 0.6  # road
    assert share[10] > 0.05  # sky
    assert (labels[:, 60:] == 10).sum() == 0  # no sky in the lower third
    assert (labels[:, :20] == 0).sum() == 0  # no road in the upper fifth


def test_detail_gathers_around_the_horizon(scenes):
    """Class borders a row: a policy has easy and hard blocks to tell apart."""
    labels = np.stack([scene.label_ids for scene in scenes])
    borders = (labels[:, :, 1:] != labels[:, :, :-1]).mean((0, 2))
    assert borders[36:52].mean() > 4 * borders[72:].mean()
    assert borders[36:52].mean() > 2 * borders[:16].mean()


def test_images_vary_and_use_the_range(scenes):
    means = [scene.image.mean() for scene in scenes]
    assert np.ptp(means) > 20
    assert all(scene.image.std() > 25 for scene in scenes)


def test_perspective_matches_the_pinhole_formula():
    view = View(1.0, 0.4, 0.1, (1.5, 1.5), (200, 200, 200), 1e9)
    canvas = Canvas(view, 100, 200)
    column, row = canvas.project([(3.5, 0.0, 10.0)])
    assert column == pytest.approx(100 + 0.1 * 100 + 100 * (3.5 - 1.5) / 10)
    assert row == pytest.approx(40 + 100 * 1.5 / 10)
    column, row = canvas.project([(-8.0, 0.0, 1e6)])
    assert (column, row) == pytest.approx((110, 40), abs=0.01)


def test_later_paint_covers_earlier_paint_and_haze_grows():
    view = View(1.0, 0.5, 0.0, (0.0, 1.5), (255, 255, 255), 50.0)
    canvas = Canvas(view, 60, 60)
    canvas.polygon(ground(-50, 50, 0, 100), (0, 0, 0), 7)
    canvas.polygon(quad(-1, 1, 0, 3, 10, 10), (0, 0, 0), 26)
    canvas.polygon(quad(-0.5, 0.5, 0.5, 1, 5, 5), (0, 0, 0))
    image, label = canvas.finished()
    assert label[58, 5] == 7
    assert label[30, 30] == 26
    assert label[38, 30] == 26  # unlabeled paint leaves the ids alone
    assert image[38, 30, 0] == int(255 * (1 - np.exp(-0.1)))
    assert image[30, 30, 0] == int(255 * (1 - np.exp(-0.2)))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match=r"seed >= 0 and sizes >= 1, got seed 0, 0x4"):
        render(0, 0, 4)
    with pytest.raises(ValueError, match="counts and sizes must be >= 1"):
        SceneSet(train=0)


def test_files_have_the_official_layout_and_the_rendered_pixels(tmp_path):
    root = write(tmp_path / "set", SMALL)
    names = sorted(str(p.relative_to(root)) for p in root.rglob("*.png"))
    stems = [("train", "streets_000000"), ("train", "streets_000001"), ("val", "streets_000000")]
    assert names == sorted(
        f"{top}/{split}/streets/{stem}_000019_{ending}.png"
        for split, stem in stems
        for top, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds"))
    )
    train = open_dataset("cityscapes", root, "train", tmp_path / "prepared")
    ids = np.asarray(Image.open(root / names[0]))
    np.testing.assert_array_equal(train[0]["label"], CITYSCAPES.train_ids(ids))
    scene = render(3 * 2_000_000 + 2, 24, 40)
    np.testing.assert_array_equal(train[1]["image"], scene.image)
    np.testing.assert_array_equal(train[1]["label"], CITYSCAPES.train_ids(scene.label_ids))
    val = open_dataset("cityscapes", root, "val", tmp_path / "prepared")
    assert all(not np.array_equal(val[0]["image"], item["image"]) for item in train)


def test_finished_sets_are_reused_and_others_refused(tmp_path):
    root = write(tmp_path / "set", SMALL)
    times = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert write(root, SMALL) == root
    assert times == {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    with pytest.raises(ValueError, match=r"holds SceneSet\(train=2.*wanted SceneSet\(train=9"):
        write(root, SceneSet(train=9, height=24, width=40))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no finished set"):
        write(tmp_path / "other", SMALL)
    assert (tmp_path / "other/file").read_text() == "mine"


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("segblocks_jax.data.street_scenes.files.render", fail)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", SMALL)
    assert not any(tmp_path.iterdir())


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "segblocks_jax.data.street_scenes", "--out", tmp_path / "set"]
    sizes = ["--train", "1", "--val", "1", "--height", "16", "--width", "24"]
    result = subprocess.run([*command, *sizes], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert SceneSet.stored_in(tmp_path / "set") == SceneSet(1, 1, 16, 24, 0)
    result = subprocess.run([*command, "--train", "7"], capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "holds SceneSet(train=1" in result.stderr


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"edition": 1, "trains": 2}'])
def test_a_damaged_marker_is_named(tmp_path, content):
    (tmp_path / "street_scenes.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"street_scenes.json: can't be read .*; remove its folder"
    ):
        SceneSet.stored_in(tmp_path)
