"""Your own data: what `dataset.yaml` may say, every way in which it or the files can be wrong, and real folders."""

import contextlib
import json
import re

import numpy as np
import pytest
import tiny
from PIL import Image

from segblocks_jax import load_spec
from segblocks_jax.data import __main__ as command
from segblocks_jax.data import eval_batches, open_dataset, train_batches
from segblocks_jax.predict import __main__ as predict_command
from segblocks_jax.systems.segblocks.system import SegBlocks
from segblocks_jax.tasks.segmentation.augmentation import Augmentation
from segblocks_jax.tasks.segmentation.labels import distinct_colors
from segblocks_jax.training.state import create_optimizer, create_state

SIZE = (6, 10)
MINIMAL = "classes: [background, vessel]"


def save(path, pixels, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette is not None:
        picture.putpalette(palette)
    picture.save(path)


def describe(root, text=MINIMAL, name="dataset.yaml"):
    (root / name).write_text(text)


@pytest.fixture
def folder(tmp_path, rng):
    """Five train and three val images of mixed sizes in the layout by default, and their labels by split and name."""
    root, stored = tmp_path / "mine", {}
    for split, names in (("train", "ecabd"), ("val", "zyx")):
        for i, name in enumerate(names):
            size = SIZE[0] + i, SIZE[1] - i
            label = rng.choice([0, 1, 255], size).astype(np.uint8)
            save(root / split / f"{name}.png", rng.integers(0, 256, (*size, 3), np.uint8))
            save(root / f"{split}annot" / f"{name}.png", label)
            stored[split, name] = label
    describe(root)
    return root, stored


def labels_of(root, split="train"):
    return {item["name"]: item["label"] for item in open_dataset("folders", root, split)}


def test_the_shortest_file_does(folder):
    root, stored = folder
    for split in ("train", "val"):
        found = labels_of(root, split)
        assert list(found) == sorted(name for s, name in stored if s == split)
        for name, label in found.items():
            np.testing.assert_array_equal(label, stored[split, name])
    table = open_dataset("folders", root).table
    assert table.classes == ("background", "vessel")
    assert table.colors.tolist() == [[128, 0, 0], [0, 128, 0]]


def test_ids_are_those_of_the_file_of_8_and_16_bits_and_drawn_in_its_colors(tmp_path):
    describe(
        tmp_path,
        """
        classes: [{name: sea, id: 7}, {name: land, id: 40000, color: [1, 2, 3]}, cloud]
        ignore: [9, 60000]
        """,
    )
    wide = np.array([[7, 40000, 2], [9, 60000, 7]], np.uint16)
    narrow = np.array([[7, 7, 2], [9, 9, 2]], np.uint8)
    for name, label in (("narrow", narrow), ("wide", wide)):
        save(tmp_path / f"train/{name}.png", np.zeros((2, 3, 3), np.uint8))
        save(tmp_path / f"trainannot/{name}.png", label)
    found = labels_of(tmp_path)
    np.testing.assert_array_equal(found["wide"], [[0, 1, 2], [255, 255, 0]])
    np.testing.assert_array_equal(found["narrow"], [[0, 0, 2], [255, 255, 2]])
    table = open_dataset("folders", tmp_path).table
    assert table.classes == ("sea", "land", "cloud")
    assert table.colors.tolist() == [[128, 0, 0], [1, 2, 3], [0, 128, 0]]


def test_masks_of_one_bit(tmp_path):
    describe(tmp_path)
    mask = np.arange(60).reshape(SIZE) % 7 == 0
    save(tmp_path / "train/a.png", np.zeros((*SIZE, 3), np.uint8))
    save(tmp_path / "trainannot/a.png", mask)
    np.testing.assert_array_equal(labels_of(tmp_path)["a"], mask)


def test_palette_indices_are_the_labels_whatever_their_colors(tmp_path, rng):
    describe(tmp_path, "{labels: palette, classes: [a, b, c], ignore: [4]}")
    stored = rng.choice([0, 1, 2, 4], SIZE).astype(np.uint8)
    save(tmp_path / "train/x.png", np.zeros((*SIZE, 3), np.uint8))
    save(tmp_path / "trainannot/x.png", stored, palette=[9, 9, 9] * 5)
    np.testing.assert_array_equal(labels_of(tmp_path)["x"], np.where(stored == 4, 255, stored))


def test_colors_that_swap_their_classes_are_prepared_again(tmp_path, rng):
    stored = rng.integers(0, 3, SIZE)
    colors = np.array([[60, 16, 152], [132, 41, 246], [155, 155, 155]], np.uint8)
    save(tmp_path / "train/x.png", np.zeros((*SIZE, 3), np.uint8))
    save(tmp_path / "trainannot/x.png", colors[stored])
    for order in ((0, 1), (1, 0)):
        classes = [{"name": "ab"[i], "color": colors[i].tolist()} for i in order]
        text = {"labels": "colors", "classes": classes, "ignore": [colors[2].tolist()]}
        describe(tmp_path, json.dumps(text), "dataset.json")
        expected = np.array([*np.argsort(order), 255], np.uint8)[stored]
        np.testing.assert_array_equal(labels_of(tmp_path)["x"], expected)
        table = open_dataset("folders", tmp_path).table
        np.testing.assert_array_equal(table.colors, colors[list(order)])


def test_folders_may_lie_anywhere_and_names_end_as_the_file_says(
    folder, tmp_path, rng, monkeypatch
):
    root = folder[0]
    monkeypatch.setenv("PICTURES", str(tmp_path / "elsewhere"))
    (root / "val").rename(tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").iterdir():
        path.rename(path.with_name(f"{path.stem}_sat.png"))
    text = f"""
    {MINIMAL}
    image_suffixes: [_sat.png, .png]
    splits:
      train: {{}}
      val: {{images: $PICTURES, labels: ../mine/valannot/}}
    """
    describe(root, text)
    assert list(labels_of(root, "val")) == list("xyz")
    assert len(labels_of(root)) == 5
    describe(root, text.replace("$PICTURES", str(tmp_path / "elsewhere")))
    assert list(labels_of(root, "val")) == list("xyz")


LISTS = {
    "pairs": (
        "",
        "train/a.png trainannot/a.png\n\n# and\ntrain/b.png trainannot/b.png\n",
    ),
    "without suffixes": ("", "train/b trainannot/b\ntrain/a\ttrainannot/a\n"),
    "stems": (", images: train, labels: trainannot", "b\na\n"),
}


@pytest.mark.parametrize("kind", LISTS)
def test_a_list_names_the_files_of_a_split(folder, kind):
    root, stored = folder
    keys, lines = LISTS[kind]
    (root / "some.txt").write_text(lines)
    describe(root, f"{MINIMAL}\nsplits: {{train: {{list: some.txt{keys}}}}}")
    first, second = labels_of(root).values()
    np.testing.assert_array_equal(first, stored["train", "a"])
    np.testing.assert_array_equal(second, stored["train", "b"])


def test_pairs_of_a_list_are_those_of_its_lines(folder):
    root, stored = folder
    for name in "ac":
        save(root / f"train/{name}.png", np.full((*SIZE, 3), ord(name), np.uint8))
        stored[name] = np.full(SIZE, "ac".index(name), np.uint8)
        save(root / f"trainannot/{name}.png", stored[name])
    (root / "swapped.txt").write_text(
        "train/a.png trainannot/c.png\ntrain/c.png trainannot/a.png\n"
    )
    describe(root, f"{MINIMAL}\nsplits: {{train: {{list: swapped.txt}}}}")
    for item, image, label in zip(open_dataset("folders", root), "ac", "ca", strict=True):
        assert (item["image"] == ord(image)).all()
        np.testing.assert_array_equal(item["label"], stored[label])


def test_normalization_is_that_of_all_train_pixels_and_kept(folder):
    root, _ = folder
    pixels = np.concatenate(
        [np.asarray(Image.open(p), np.float64).reshape(-1, 3) for p in (root / "train").iterdir()]
    )
    for split in ("train", "val"):
        mean, std = open_dataset("folders", root, split).normalization
        np.testing.assert_allclose(mean, pixels.mean(0) / 255, rtol=1e-12)
        np.testing.assert_allclose(std, pixels.std(0) / 255, rtol=1e-12)
    again = open_dataset("folders", root).normalization
    assert len([*(root / "tfds").iterdir()]) == 1
    describe(root, f"{MINIMAL}\nmean: [0.5, 0.25, 1]\nstd: [0.1, 0.2, 0.3]")
    assert open_dataset("folders", root).normalization == ((0.5, 0.25, 1.0), (0.1, 0.2, 0.3))
    describe(root)
    assert open_dataset("folders", root).normalization == again


def test_a_folder_without_train_images_needs_a_normalization(folder):
    root, _ = folder
    for name in ("train", "trainannot"):
        (root / name).rename(root / f"no_{name}")
    with pytest.raises(
        ValueError, match=r"mine: no split 'train' .* mean and std in .*dataset.yaml"
    ):
        open_dataset("folders", root, "val")
    describe(root, f"{MINIMAL}\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]")
    assert len(open_dataset("folders", root, "val")) == 3


# What the file says, and what the error says of it.
FILES = {
    "nothing": ("", "holds no keys and values; expected at least classes"),
    "no YAML": ("classes: [a", "can't be read"),
    "python objects": ("classes: !!python/name:os.system", "can't be read"),
    "no classes": ("labels: ids", r"classes is missing; expected a list of them, such as \[back"),
    "unknown key": (f"{MINIMAL}\nlabel: ids", "unknown field label; did you mean labels?"),
    "unknown key of a class": (
        "classes: [{name: a, colour: 1}]",
        r"field classes\[0\].colour; did",
    ),
    "unknown split": (
        f"{MINIMAL}\nsplits: {{valid: {{}}}}",
        r"field splits.valid; did you mean splits.val",
    ),
    "no splits": (f"{MINIMAL}\nsplits: {{}}", "splits is empty; expected some of"),
    "no train split": (
        f"{MINIMAL}\nsplits: {{val: {{}}}}",
        "splits.train is missing; it, or mean and",
    ),
    "unknown labels": (f"{MINIMAL}\nlabels: rgb", "labels is 'rgb'; expected one of .*'palette'"),
    "YAML's bool": (
        "classes: [yes, no]",
        r"classes\[0\] is True; expected a name, in quotes where",
    ),
    "no name": ("classes: [{id: 1}]", r"classes\[0\].name is missing"),
    "same names": ("classes: [a, b, a]", "name 'a' is that of two classes, a and a"),
    "same ids": ("classes: [a, {name: b, id: 0}]", "id 0 is that of two classes, a and b"),
    "ignored class": (f"{MINIMAL}\nignore: [1]", "id 1 is that of two classes, vessel and ignore"),
    "same colors": (
        "classes: [{name: a, color: [1, 2, 3]}, {name: b, color: [1, 2, 3]}]",
        r"color \(1, 2, 3\) is that of two classes, a and b",
    ),
    "id too large": (
        "classes: [{name: a, id: 70000}]",
        "id is 70000; expected a number from 0 to 65535",
    ),
    "color too large": (
        "classes: [{name: a, color: [1, 2, 300]}]",
        r"color is \(1, 2, 300\); expected num",
    ),
    "no color": ("{labels: colors, classes: [a]}", "class 'a' has color None and id None"),
    "color with id": (
        "{labels: colors, classes: [{name: a, color: [1, 2, 3], id: 4}]}",
        r"class 'a' has color \(1, 2, 3\) and id 4; where labels are colors, expected a color and no id",
    ),
    "ignored name": (
        f"{MINIMAL}\nignore: [void]",
        r"ignore\[0\].id is 'void', a str; expected int",
    ),
    "mean alone": (f"{MINIMAL}\nmean: [0.1, 0.2, 0.3]", "std None; expected both or none"),
    "mean of bytes": (
        f"{MINIMAL}\nmean: [99, 99, 99]\nstd: [1, 1, 1]",
        "mean is .*; expected a share",
    ),
    "no such folder": (
        f"{MINIMAL}\nsplits: {{train: {{images: pictures}}}}",
        "splits.train.images is 'pictures', but there is no folder .*mine/pictures",
    ),
    "no such list": (f"{MINIMAL}\nsplits: {{train: {{list: a.txt}}}}", "mine/a.txt: no such list"),
}


@pytest.mark.parametrize("kind", FILES)
def test_what_is_wrong_in_the_file_is_named(folder, kind):
    root, (text, message) = folder[0], FILES[kind]
    describe(root, text)
    with pytest.raises(
        (ValueError, FileNotFoundError), match=f"(?s){message}.*Nothing was written"
    ):
        open_dataset("folders", root)
    assert not (root / "tfds").exists() or not any((root / "tfds").iterdir())


def test_one_file_describes_a_folder(folder):
    root = folder[0]
    (root / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match=r"dataset.yaml and .*dataset.json: expected one of them"):
        open_dataset("folders", root)
    for name in ("json", "yaml"):
        (root / f"dataset.{name}").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"mine/dataset.yaml: missing .*what the labels mean"
    ):
        open_dataset("folders", root)


LINES = {
    "three fields": ("a b c\n", "line 1 is 'a b c'; expected an image and its label"),
    "twice": (
        "train/a trainannot/a\n\ntrain/a.png trainannot/b\n",
        "line 3 names 'train/a' again, after line 1",
    ),
    "nothing": ("# none\n", "names no file"),
    "missing": (
        "train/a trainannot/a\ntrain/q trainannot/q\n",
        "2 of the files that it names aren't there: line 2: .*mine/train/q, line 2: .*mine/trainannot/q",
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_what_is_wrong_in_a_list_is_named_with_its_line(folder, kind):
    root, (lines, message) = folder[0], LINES[kind]
    (root / "some.txt").write_text(lines)
    describe(root, f"{MINIMAL}\nsplits: {{train: {{list: some.txt}}}}")
    with pytest.raises((ValueError, FileNotFoundError), match=f"some.txt: {message}"):
        open_dataset("folders", root)


def strange_ids(root):
    label = np.zeros(SIZE, np.uint8)
    label[1, 2:5], label[3, 3] = 7, 9
    save(root / "valannot/z.png", label)
    return (
        r"valannot/z.png: pixel \(2, 1\) has id 7, which is no class of .*dataset.yaml "
        r"\(4 such pixels: 7 in 3, 9 in 1\); expected 0, 1, 255"
    )


def another_size(root):
    save(root / "valannot/z.png", np.zeros((5, 10), np.uint8))
    return r"valannot/z.png: the label is 10x5 but its image .*val/z.png is 10x6"


def a_palette(root):
    save(root / "valannot/z.png", np.zeros(SIZE, np.uint8), palette=[0, 0, 0, 9, 9, 9])
    return r"valannot/z.png: a label must have one channel of ids, .* no palette, got mode P"


def images_without_labels(root):
    for name in "abc":
        (root / f"trainannot/{name}.png").unlink()
    return r"train/a.png: this image has no counterpart in .*trainannot \(3 such: a.png, b.png, c.png\)"


def a_label_without_image(root):
    (root / "val/y.png").unlink()
    return r"valannot/y.png: this label has no counterpart in .*val \(1 such\)"


@pytest.mark.parametrize(
    "break_it",
    [strange_ids, another_size, a_palette, images_without_labels, a_label_without_image],
)
def test_files_that_do_not_fit_stop_preparation(folder, capsys, break_it):
    root = folder[0]
    message = break_it(root)
    assert command.main(["prepare", "folders", f"--data_dir={root}"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not any((root / "tfds").iterdir()) if (root / "tfds").exists() else True


def test_the_command_prepares_all_splits_and_tells_the_normalization(folder, capsys):
    root = folder[0]
    assert command.main(["prepare", "folders", f"--data_dir={root}"]) == 0
    said = capsys.readouterr().out
    mean, std = open_dataset("folders", root).normalization
    assert "folders train: 5 images prepared" in said
    assert "folders val: 3 images prepared" in said
    assert f"mean [{mean[0]:.5f}, " in said
    assert f"std [{std[0]:.5f}, " in said
    with pytest.raises(ValueError, match="no split 'test' with labels here, only train, val"):
        open_dataset("folders", root, "test")


def test_colors_by_default_differ():
    colors = [color for color, _ in zip(distinct_colors(), range(255), strict=False)]
    assert len({*colors, (0, 0, 0)}) == 256
    assert colors[:4] == [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]


def own_system(root):
    config = tiny.config(
        "static",
        data={"dataset": "folders", "crop": (64, 64), "scale": (0.9, 1.1)},
        optim={"batch_size": 4, "steps": 2},
        loop={"eval_every": 2},
    )
    return SegBlocks(config, data_dir=str(root))


def test_a_spec_holds_classes_colors_and_normalization(folder):
    spec = own_system(folder[0]).spec
    assert spec.dataset == "folders"
    assert spec.class_names == ("background", "vessel")
    assert spec.class_colors == ((128, 0, 0), (0, 128, 0))
    table = predict_command.label_table(spec)
    assert table.classes == spec.class_names
    np.testing.assert_array_equal(table.colors, spec.class_colors)
    assert (spec.mean, spec.std) == open_dataset("folders", folder[0], "val").normalization


@pytest.fixture(scope="module")
def vessels(shared, tmp_path_factory):
    """Described by absolute paths."""
    root = tmp_path_factory.mktemp("vessels")
    lines = [
        f"  {split}: {{images: {shared}/data/vessels/{name}, labels: {shared}/data/vessels/{name}annot}}"
        for split, name in (("train", "train"), ("val", "test"))
    ]
    describe(root, "\n".join([MINIMAL, "splits:", *lines]))
    return root


@pytest.fixture(scope="module")
def aerial(shared, tmp_path_factory):
    """Described by relative paths."""
    root = tmp_path_factory.mktemp("aerial")
    (root / "pictures").symlink_to(shared / "data/aerial")
    describe(
        root,
        """
        labels: colors
        classes:
          - {name: building, color: [60, 16, 152]}
          - {name: land, color: [132, 41, 246]}
          - {name: road, color: [110, 193, 228]}
          - {name: vegetation, color: [254, 221, 58]}
          - {name: water, color: [226, 169, 41]}
        ignore: [[155, 155, 155], [0, 0, 0]]
        splits:
          train: {images: pictures/train/images, labels: pictures/train/masks}
          val: {images: pictures/val/images, labels: pictures/val/masks}
        """,
    )
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "size"), [("vessels", 20, (584, 565)), ("aerial", 9, (2061, 1817))]
)
def test_real_folders_are_read_whole(request, name, count, size):
    root = request.getfixturevalue(name)
    source, val = (open_dataset("folders", root, split) for split in ("train", "val"))
    assert (len(source), len(val)) == (count, count)
    assert source.sizes[0] == source[0]["label"].shape == size
    images = np.concatenate([item["image"].reshape(-1, 3) for item in source])
    np.testing.assert_allclose(source.normalization.mean, images.mean(0) / 255, rtol=1e-12)
    with contextlib.closing(train_batches(source, Augmentation((128, 128)), 4, seed=0)) as batches:
        batch = next(batches)
    assert batch["image"].shape == (4, 128, 128, 3)
    classes = {*range(source.table.num_classes), 255}
    assert {*np.unique(batch["label"]).tolist()} <= classes
    with contextlib.closing(eval_batches(val, 1, 64)) as batches:
        first = next(batches)
    assert first.image.shape[1:3] == tuple(-(-side // 64) * 64 for side in first.sizes[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vessels", "aerial"])
def test_two_steps_on_real_folders(request, name):
    system = own_system(request.getfixturevalue(name))
    batches = system.train_batches((0, 1))
    optimizer = create_optimizer(system.config.optim, system.multipliers())
    graphdef, state = create_state(system.build(), optimizer, 0)
    step = system.train_step(graphdef, optimizer, print)
    state, losses = step.place(state), []
    with contextlib.closing(batches):
        for _ in range(2):
            state, metrics = step(state, next(batches))
            losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    # Of random weights: about that of guessing.
    assert 0.3 < losses[0] / np.log(system.table.num_classes) < 3


@pytest.mark.slow
def test_the_vessels_of_a_label_are_those_of_its_file(vessels, shared):
    for item in open_dataset("folders", vessels, "val"):
        stored = np.asarray(Image.open(shared / f"data/vessels/testannot/{item['name']}.png"))
        np.testing.assert_array_equal(item["label"], stored)


@pytest.mark.slow
def test_a_trained_model_keeps_what_its_data_set_said(folder, tmp_path, monkeypatch):
    from segblocks_jax.experiments import commands

    root, workdir = folder[0], tmp_path / "run"
    assert commands.train(own_system(root), workdir) == 0
    spec = load_spec(workdir / "export")
    assert spec == own_system(root).spec
    assert spec.std == open_dataset("folders", root).normalization.std
    assert commands.evaluate(own_system(root), workdir, "latest", tmp_path / "scores") == 0
    scores = json.loads((tmp_path / "scores/eval.json").read_text())
    assert scores["split"] == "folders/val"
    assert commands.export(own_system(root), workdir, "latest", tmp_path) == 0
    source = str(root / "val")
    assert commands.predict(own_system(root), workdir, "latest", source, tmp_path / "out") == 0
    with Image.open(tmp_path / "out/x_labels.png") as picture:
        assert picture.getpalette()[:6] == [128, 0, 0, 0, 128, 0]
