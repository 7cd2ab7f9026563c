"""Data sets of whole images: CIFAR's archives, TFDS's files, folders, shapes; what is missing or damaged."""

import gzip
import io
import json
import logging
import pathlib
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import train_batches
from segblocks_jax.data.classification.batches import class_batches
from segblocks_jax.data.classification.config import ClassDataConfig
from segblocks_jax.data.classification.datasets import CLASS_DATASETS, family
from segblocks_jax.data.classification.shapes import Shapes, draw
from segblocks_jax.data.classification.source import ShapeSet, class_names, open_classes
from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.tasks.classification.augmentation import CenterCrop, PadCropFlip
from segblocks_jax.tasks.classification.labels import CIFAR10, SHAPES

BATCHES = {
    "cifar10": {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]},
    "cifar100": {"train": ["train"], "test": ["test"]},
}
FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}
EACH = 4  # Images of a batch.


def content(name, version, images, labels):
    """A batch file; pixels are channel by channel, row by row."""
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    if version == "python":
        key = b"labels" if name == "cifar10" else b"fine_labels"
        batch = {b"data": pixels, key: labels.tolist(), b"coarse_labels": [0] * len(labels)}
        return pickle.dumps(batch, protocol=2)
    coarse = [] if name == "cifar10" else [np.zeros((len(labels), 1), np.uint8)]
    return np.hstack([*coarse, labels.astype(np.uint8)[:, None], pixels]).tobytes()


def publish(root, name, version, rng, packed=True):
    """A small set in the official layout; gives images and labels by split."""
    truth, files = {}, {}
    for split, batches in BATCHES[name].items():
        images = rng.integers(0, 256, (EACH * len(batches), 32, 32, 3), np.uint8)
        labels = rng.integers(0, 10 if name == "cifar10" else 100, len(images))
        truth[split] = images, labels
        for i, batch in enumerate(batches):
            part = slice(i * EACH, (i + 1) * EACH)
            files[batch + ".bin" * (version == "binary")] = content(
                name, version, images[part], labels[part]
            )
    folder = FOLDERS[name, version]
    if not packed:
        (root / folder).mkdir(parents=True)
        for file, data in files.items():
            (root / folder / file).write_bytes(data)
        return truth
    with tarfile.open(root / f"{name.replace('cifar', 'cifar-')}-{version}.tar.gz", "w:gz") as tar:
        for file, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return truth


def check(source, images, labels):
    assert len(source) == len(labels)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        item = source[i]
        np.testing.assert_array_equal(item["image"], image)
        assert item["label"] == label
        assert item["label"].dtype == np.int32
    np.testing.assert_array_equal(source.items.labels, labels)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("version", ["python", "binary"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_as_published(tmp_path, rng, name, version, packed):
    truth = publish(tmp_path, name, version, rng, packed)
    for split in ("train", "test"):
        source = open_classes(name, tmp_path, split)
        check(source, *truth[split])
        assert source.classes == CLASS_DATASETS[name].classes
        assert source.normalization == CLASS_DATASETS[name].normalization
    both = open_classes(name, tmp_path, "test+train")
    check(both, *(np.concatenate(pair) for pair in zip(truth["test"], truth["train"], strict=True)))


def test_cifar_in_its_own_folder_or_found_by_the_environment(tmp_path, rng, monkeypatch):
    (tmp_path / "cifar10").mkdir()
    truth = publish(tmp_path / "cifar10", "cifar10", "binary", rng, packed=False)
    check(
        open_classes("cifar10", tmp_path / "cifar10/cifar-10-batches-bin", "test"), *truth["test"]
    )
    monkeypatch.setenv("SEGBLOCKS_DATA_DIR", str(tmp_path))
    check(open_classes("cifar10", None, "test"), *truth["test"])


def test_an_incomplete_set_is_told(tmp_path, rng, caplog):
    publish(tmp_path, "cifar10", "python", rng)
    with caplog.at_level(logging.WARNING, "absl"):
        open_classes("cifar10", tmp_path, "test")
    assert "test has 4 of 10000 images; get https://www.cs.toronto.edu/~kriz" in caplog.text


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return print, ("evil",)


def test_damaged_archives(tmp_path, rng, capsys):
    publish(tmp_path, "cifar10", "python", rng)
    archive = tmp_path / "cifar-10-python.tar.gz"
    whole = archive.read_bytes()
    remedy = r"download it again from https://www.cs.toronto.edu"
    for broken in (whole[: len(whole) // 2], whole[:1000] + b"zzzz" + whole[1004:], b"no archive"):
        archive.write_bytes(broken)
        with pytest.raises(InputError, match=rf"cifar-10-python.tar.gz: is damaged .*; {remedy}"):
            open_classes("cifar10", tmp_path, "train")
    plain = gzip.decompress(whole)
    archive.write_bytes(gzip.compress(plain.replace(b"data_batch_3", b"data_batch_x")))
    with pytest.raises((MissingFileError, InputError), match=r"data_batch_3|damaged"):
        open_classes("cifar10", tmp_path, "train")
    archive.unlink()
    with pytest.raises(
        MissingFileError, match=r"holds no cifar10; expected cifar-10-python.tar.gz"
    ):
        open_classes("cifar10", tmp_path, "train")


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (b"nonsense", r"test_batch: is no batch of cifar-10-python.tar.gz"),
        (pickle.dumps(Evil()), r"test_batch: is no batch .*asks for builtins.print"),
        (pickle.dumps({b"data": 3}), r"test_batch: is no batch .*labels"),
        (
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}),
            r"holds data of shape \(2, 3072\) and type uint8 for 1 labels",
        ),
        (
            pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}),
            r"holds labels from 10 to 10, expected 0 to 9",
        ),
    ],
)
def test_damaged_batches(tmp_path, rng, capsys, batch, text):
    publish(tmp_path, "cifar10", "python", rng, packed=False)
    (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(batch)
    with pytest.raises(InputError, match=text):
        open_classes("cifar10", tmp_path, "test")
    assert "evil" not in capsys.readouterr().out


def test_a_cut_or_missing_binary_batch(tmp_path, rng):
    publish(tmp_path, "cifar10", "binary", rng, packed=False)
    file = tmp_path / "cifar-10-batches-bin/data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"data_batch_2.bin: has 12291 bytes, expected a multiple"):
        open_classes("cifar10", tmp_path, "train")
    file.unlink()
    with pytest.raises(
        MissingFileError, match=r"data_batch_2.bin: missing, and others .* are there"
    ):
        open_classes("cifar10", tmp_path, "train")


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def prepare_tfds(root, title, rng, file_format):
    """What TFDS's builder of this name writes; its TFRecord files need TensorFlow, so they are written here."""
    tfds = pytest.importorskip("tensorflow_datasets")
    truth = {}
    for split, count in (("train", 7), ("test", 5)):
        images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
        truth[split] = images, rng.integers(0, 10, count)

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = title
        VERSION = tfds.core.Version("3.0.2")

        def _info(self):
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, manager):
            return {split: self._generate_examples(split) for split in truth}

        def _generate_examples(self, split):
            for i, (image, label) in enumerate(zip(*truth[split], strict=True)):
                yield i, {"id": f"{split}_{i}", "image": png(image), "label": int(label)}

    builder = Prepared(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    folder = root / title / "3.0.2"
    if file_format == "tfrecord":
        as_tfrecord(builder, folder)
    return truth, folder


def as_tfrecord(builder, folder):
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    for file in folder.glob("*.array_record*"):
        records = ArrayRecordDataSource([str(file)])
        with open(str(file).replace("array_record", "tfrecord"), "wb") as out:
            for i in range(len(records)):
                record = records[i]
                out.write(struct.pack("<QI", len(record), 0) + record + bytes(4))
        file.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_files_that_tfds_prepared(tmp_path, rng, file_format):
    truth, folder = prepare_tfds(tmp_path, "cifar10", rng, file_format)
    for place in (tmp_path, tmp_path / "cifar10", folder):
        for split in ("train", "test"):
            check(open_classes("cifar10", place, split), *truth[split])
    file = next(folder.glob("*test*record*"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"; prepare it with TFDS again"):
        open_classes("cifar10", folder, "test")
    file.unlink()
    with pytest.raises(MissingFileError, match=rf"{file.name} missing; copy it completely"):
        open_classes("cifar10", folder, "test")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text()[:50])
    with pytest.raises(InputError, match=r"can't be opened, or has no split 'train'"):
        open_classes("cifar10", folder, "train")


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def folders(root, rng, split="train", classes=CIFAR10, size=(32, 32), each=2):
    truth = []
    for label, name in enumerate(classes):
        for i in range(each):
            image = rng.integers(0, 256, (*size, 3), np.uint8)
            save(root / split / name / f"{i:04}.png", image)
            truth.append((image, label))
    return list(zip(*truth, strict=True))


def test_cifar_as_images_in_folders(tmp_path, rng):
    truth = folders(tmp_path, rng)
    check(open_classes("cifar10", tmp_path, "train"), *truth)
    with pytest.raises(MissingFileError, match=r"images in test/CLASS"):
        open_classes("cifar10", tmp_path, "test")
    odd = tmp_path / "train/cat/0000.png"
    save(odd, np.zeros((32, 31, 3), np.uint8))
    with pytest.raises(InputError, match=r"cat/0000.png: is 32 x 31 pixels, expected 32 x 32"):
        open_classes("cifar10", tmp_path, "train")
    odd.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cat/0000.png: can't be read as an image"):
        open_classes("cifar10", tmp_path, "train")
    (tmp_path / "train/cat").rename(tmp_path / "train/kitten")
    with pytest.raises(MissingFileError, match=r"1 of 10 classes have no folder, such as cat"):
        open_classes("cifar10", tmp_path, "train")
    save(tmp_path / "train/cat/0.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"1 folders are of no class, such as kitten"):
        open_classes("cifar10", tmp_path, "train")


def test_folders_of_your_own(tmp_path, rng):
    truth = folders(tmp_path, rng, "train", ("b", "a", "c"), (20, 30))
    folders(tmp_path, rng, "val", ("a", "b", "c"), (7, 9), each=1)
    assert class_names("class_folders", tmp_path) == ("a", "b", "c")
    source = open_classes("class_folders", tmp_path, "train")
    np.testing.assert_array_equal(source.items.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(source[0]["image"], truth[0][2])  # The first of a.
    assert source[5]["name"] == "c/0001.png"
    assert [open_classes("class_folders", tmp_path, "val")[i]["label"] for i in range(3)] == [
        0,
        1,
        2,
    ]
    (tmp_path / "val/c/0000.png").unlink()
    with pytest.raises(InputError, match=r"val/c: holds no image"):
        open_classes("class_folders", tmp_path, "val")
    save(tmp_path / "val/loose.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"1 images, such as loose.png, lie beside the folders"):
        open_classes("class_folders", tmp_path, "val")
    with pytest.raises(MissingFileError, match=r"test: no such folder"):
        open_classes("class_folders", tmp_path, "test")
    (tmp_path / "train/a/0000.png").write_bytes(b"zzz")
    with pytest.raises(InputError, match=r"train/a/0000.png: can't be read as an image"):
        source[0]
    (tmp_path / "train/a/0000.png").unlink()
    with pytest.raises(InputError, match=r"train/a/0000.png: can't be read .*copy it again"):
        source[0]


def test_imagenet_has_its_thousand_classes_in_words(tmp_path, rng):
    synsets = [f"n{i:08}" for i in range(1000)]
    image = rng.integers(0, 256, (8, 8, 3), np.uint8)
    save(tmp_path / "one.jpg", image)
    stored = (tmp_path / "one.jpg").read_bytes()
    top = tmp_path / "ILSVRC/Data/CLS-LOC"
    for split in ("train", "val"):
        for synset in synsets:
            (top / split / synset).mkdir(parents=True)
            (top / split / synset / f"{synset}_1.JPEG").write_bytes(stored)
    source = open_classes("imagenet", tmp_path, "val")
    assert source.classes == tuple(synsets)
    assert len(source) == 1000
    assert source[999]["label"] == 999
    np.testing.assert_array_equal(source[3]["image"], np.asarray(Image.open(tmp_path / "one.jpg")))
    words = "".join(f"{s} thing {i}, other name\n" for i, s in enumerate(synsets))
    (tmp_path / "LOC_synset_mapping.txt").write_text(words)
    assert class_names("imagenet", tmp_path)[7] == "thing 7"
    (top / "train" / synsets[5] / f"{synsets[5]}_1.JPEG").unlink()
    (top / "train" / synsets[5]).rmdir()
    with pytest.raises(
        InputError, match=r"has folders of 999 classes, expected 1000; .*class_folders"
    ):
        open_classes("imagenet", tmp_path, "val")


def test_what_is_held_out_is_always_the_same_and_never_trained_on(tmp_path):
    shapes = ShapeSet(train=50)
    options = {"holdout": 20, "shapes": shapes}
    train, held = (open_classes("shapes", split=s, **options) for s in ("train", "holdout"))
    names = [{source[i]["name"] for i in range(len(source))} for source in (train, held)]
    assert [len(own) for own in names] == [30, 20]
    whole = open_classes("shapes", shapes=shapes)
    assert names[0] | names[1] == {whole[i]["name"] for i in range(50)}
    again = open_classes("shapes", split="holdout", **options)
    assert [again[i]["name"] for i in range(20)] == [held[i]["name"] for i in range(20)]
    np.testing.assert_array_equal(held.items.labels, [held[i]["label"] for i in range(20)])
    assert len(open_classes("shapes", split="test", **options)) == 500
    with pytest.raises(
        InputError, match=r"data.holdout is 50; expected fewer than the 50 training"
    ):
        open_classes("shapes", holdout=50, shapes=shapes)
    with pytest.raises(InputError, match=r"no split 'holdout'; .* and data.holdout above 0"):
        open_classes("shapes", split="holdout")


def test_shapes_are_the_same_everywhere_and_of_all_classes():
    train, val = (Shapes(split, 20, (24, 40)) for split in ("train", "val"))
    assert train[3]["image"].shape == (24, 40, 3)
    np.testing.assert_array_equal(train[3]["image"], Shapes("train", 5, (24, 40))[3]["image"])
    assert (train[3]["image"] != val[3]["image"]).any()
    np.testing.assert_array_equal(train.labels, [*range(10), *range(10)])
    # Mean brightness of a fixed picture: another number is another drawing, and other results.
    assert [int(train[i]["image"].mean()) for i in range(3)] == MEANS


MEANS = [134, 47, 93]


def test_ten_shapes_of_one_place_and_color_are_ten_pictures():
    pictures = [draw(name, (96, 96), np.random.default_rng(1)).astype(float) for name in SHAPES]
    for i, picture in enumerate(pictures):
        for other in pictures[:i]:
            assert np.abs(picture - other).mean() > 1


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_evaluation_batches_hold_every_image_once(shard):
    source = open_classes("shapes", split="val", shapes=ShapeSet(val=11, size=(20, 24)))
    batches = list(class_batches(source, CenterCrop((16, 16)), 4, shard))
    numbers = [range(0, 4), range(4, 8), range(8, 11)][shard[0] :: shard[1]]
    assert [batch.names for batch in batches] == [
        tuple(f"val_{i:05d}" for i in own) for own in numbers
    ]
    for batch, own in zip(batches, numbers, strict=True):
        assert batch.image.shape == (4, 16, 16, 3)
        assert batch.count == len(own)
        for image, label, i in zip(batch.image, batch.label, own, strict=False):
            np.testing.assert_array_equal(image, source[i]["image"][2:18, 4:20])
            assert label == source[i]["label"]


def test_training_batches_are_functions_of_their_number():
    source = open_classes("shapes", shapes=ShapeSet(train=10))
    through, again = (train_batches(source, PadCropFlip((32, 32)), 4, 0) for _ in range(2))
    again.set_state({**again.get_state(), "next_batch": 2})
    wanted, found = [next(through) for _ in range(3)][-1], next(again)
    assert found["label"].dtype == np.int32
    assert found["label"].shape == (4,)
    for name in ("image", "label"):
        np.testing.assert_array_equal(found[name], wanted[name])
    through.close()
    again.close()


@pytest.mark.parametrize("name", ["shapes", "cifar10", "class_folders"])
def test_sources_go_to_worker_processes(tmp_path, rng, name):
    if name != "shapes":
        folders(tmp_path, rng)
    source = open_classes(name, None if name == "shapes" else tmp_path)
    there = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(there[7]["image"], source[7]["image"])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"dataset": "zzz"}, "data.dataset is 'zzz'; expected one of"),
        (
            {"dataset": "cifar10", "eval_split": "val"},
            "data.eval_split: cifar10 has no split 'val'",
        ),
        ({"eval_split": "holdout"}, "and data.holdout above 0 for 'holdout'"),
        ({"mean": (0.5, 0.5, 0.5)}, "expected both or none of them"),
        ({"augmentation": "zzz"}, "data.augmentation is 'zzz'; expected one of"),
        (
            {"augmentation": "resized_crop", "scale": (0.0, 1.0)},
            "scale must be 0 < low <= high <= 1",
        ),
        ({"crop": (0, 32)}, "data.crop is (0, 32); expected at least 1"),
        ({"flip": 2.0}, "data.flip is 2.0; expected a share from 0 to 1"),
    ],
)
def test_settings_that_cannot_be(fields, text):
    with pytest.raises(ConfigError) as error:
        ClassDataConfig(**fields)
    assert text in str(error.value)


def test_missing_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("SEGBLOCKS_DATA_DIR", raising=False)
    with pytest.raises(InputError, match=r"open_classes\('cifar10'\): where is it\? Pass data_dir"):
        open_classes("cifar10")
    with pytest.raises(MissingFileError, match=r"nowhere: no such folder; it should hold cifar-10"):
        open_classes("cifar10", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"unknown data set 'zzz'; known are shapes, cifar10"):
        open_classes("zzz")
    with pytest.raises(InputError, match=r"shapes= is for 'shapes' only"):
        open_classes("cifar10", tmp_path, shapes=ShapeSet())


def test_entry_points_serve_their_families():
    assert family("cifar") == ("shapes", "cifar10", "cifar100", "class_folders")
    assert family("imagenet") == ("shapes", "imagenet", "class_folders")


@pytest.mark.slow
def test_cifar_as_jpeg(shared, tmp_path):
    archive = shared / "data/cifar10_jpeg.tar.xz"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    counts, total = dict.fromkeys(CIFAR10, 0), 0
    with tarfile.open(archive) as tar:  # Only the beginning: 60,000 files take too long.
        for member in tar:
            total += 1
            split, name, file = (
                pathlib.PurePosixPath(member.name).parts[-3:] if member.isfile() else ("",) * 3
            )
            if split and counts[name] < 1:
                counts[name] += 1
                path = tmp_path / "train" / name / file
                path.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(member)
                path.write_bytes(content.read())
            if min(counts.values()) or total > 61_000:
                break
    source = open_classes("cifar10", tmp_path, "train")
    assert len(source) == 10
    assert json.dumps(source.items.labels.tolist()) == json.dumps(list(range(10)))
