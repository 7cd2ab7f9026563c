"""Files that TensorFlow Datasets has prepared, TFRecord or ArrayRecord, read without TensorFlow."""

import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from segblocks_jax.data.classification.items import Arrays
from segblocks_jax.data.images import decode_checked
from segblocks_jax.errors import InputError, MissingFileError, extra

_INFO = "dataset_info.json"


def read(
    root: pathlib.Path, name: str, split: str, size: tuple[int, int], classes: int
) -> Arrays | None:
    """The images of a split of the set that TFDS calls `name`; None where it isn't in the folder.

    It lies there as `NAME/VERSION/`, of which the newest is taken, or is the folder itself.

    Raises:
        FileNotFoundError: a file of the split is missing.
        ValueError: one is damaged, or holds something else than images of `size` with labels of the classes.
    """
    folder = _find(root, name)
    if folder is None:
        return None
    with extra("train", "a data set"):
        import tensorflow_datasets as tfds
    try:
        builder = tfds.builder_from_directory(folder)
        info = builder.info.splits[split]
        files = [pathlib.Path(file) for file in info.filepaths]
    except Exception as error:  # Of TFDS, protobuf, or a split that isn't there.
        raise _damaged(folder, f"can't be opened, or has no split {split!r} ({error})") from error
    if missing := [file.name for file in files if not file.is_file()]:
        raise MissingFileError(f"{folder}: {', '.join(missing)} missing; copy it completely")
    undecoded: dict[str, Any] = {"image": tfds.decode.SkipDecoding()}
    images = np.empty((info.num_examples, *size, 3), np.uint8)
    labels = np.empty(info.num_examples, np.int32)
    count = 0
    for file in files:
        try:
            for record in _records(file):
                example = builder.info.features.deserialize_example_np(record, decoders=undecoded)
                where = f"{file}, record {count}"
                images[count] = decode_checked(example["image"], "image", where)
                labels[count] = example["label"]
                count += 1
        except Exception as error:  # As above, of readers, and where the images have another size.
            raise _damaged(file, f"record {count} can't be read ({error})") from error
    if count != info.num_examples:
        raise _damaged(folder, f"has {count} of {info.num_examples} images of {split!r}")
    if not 0 <= labels.min(initial=0) <= labels.max(initial=0) < classes:
        raise _damaged(folder, f"has labels from {labels.min()} to {labels.max()}")
    return Arrays(images, labels, split)


def _find(root: pathlib.Path, name: str) -> pathlib.Path | None:
    versions = (place / name for place in (root, root.parent))
    places = [root, *(found.parent for top in versions for found in top.glob(f"*/{_INFO}"))]
    named = [p for p in places if p.parent.name == name and (p / _INFO).is_file()]
    return max(named, key=_version, default=None)


def _version(folder: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in folder.name.split("."))


def _records(file: pathlib.Path) -> Iterator[bytes]:
    if "tfrecord" in file.name:
        yield from _tfrecords(file)
        return
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    with ArrayRecordDataSource([str(file)]) as source:
        for i in range(len(source)):
            yield source[i]


def _tfrecords(file: pathlib.Path) -> Iterator[bytes]:
    """A record is its length, the length's checksum, the content and its checksum."""
    with file.open("rb") as stream:
        while head := stream.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else -1
            content = stream.read(length + 4) if 0 <= length <= file.stat().st_size else b""
            if len(content) != length + 4:
                raise ValueError("it ends within a record")
            yield content[:-4]


def _damaged(path: pathlib.Path, reason: str) -> InputError:
    return InputError(f"{path}: {reason}; prepare it with TFDS again")
