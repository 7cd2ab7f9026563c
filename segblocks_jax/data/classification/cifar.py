"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from their official archives, packed or unpacked.

Both versions are read: "python" (pickles, of which only arrays and plain values are accepted) and "binary".
"""

import dataclasses
import gzip
import io
import pathlib
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy._core.multiarray import _reconstruct  # type: ignore[attr-defined]
from numpy._core.numeric import _frombuffer  # type: ignore[attr-defined]

from segblocks_jax.data.classification.items import Arrays
from segblocks_jax.errors import InputError, MissingFileError

SIZE = (32, 32)
_PIXELS = 3 * 32 * 32
_REMEDY = "download it again from https://www.cs.toronto.edu/~kriz/cifar.html"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a set is published.

    Attributes:
        folders: within the archives, by version.
        archives: their names, by version.
        batches: files of each split; those of the binary version end in .bin.
        key: of the labels in pickles.
        label_bytes: before the pixels of a binary record; the last one is the label.
    """

    folders: Mapping[str, str]
    archives: Mapping[str, str]
    batches: Mapping[str, tuple[str, ...]]
    key: bytes
    label_bytes: int

    @property
    def expected(self) -> str:
        """What a folder must hold, in words."""
        return f"{' or '.join(self.archives.values())}, packed or unpacked"


CIFAR10 = Layout(
    folders={"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"},
    archives={"python": "cifar-10-python.tar.gz", "binary": "cifar-10-binary.tar.gz"},
    batches={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
    key=b"labels",
    label_bytes=1,
)
CIFAR100 = Layout(
    folders={"python": "cifar-100-python", "binary": "cifar-100-binary"},
    archives={"python": "cifar-100-python.tar.gz", "binary": "cifar-100-binary.tar.gz"},
    batches={"train": ("train",), "test": ("test",)},
    key=b"fine_labels",
    label_bytes=2,
)


def read(root: pathlib.Path, layout: Layout, split: str, classes: int) -> Arrays | None:
    """The images of a split; None where the folder holds neither version.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: a file is damaged, or a label is none of the classes.
    """
    for version in layout.folders:
        names = [name + ".bin" * (version == "binary") for name in layout.batches[split]]
        found = _contents(root, layout, version, names)
        if found is not None:
            parse = _parse_pickle if version == "python" else _parse_records
            parts = [parse(content, where, layout) for where, content in found]
            for (where, _), (_, labels) in zip(found, parts, strict=True):
                if labels.size and not 0 <= labels.min() <= labels.max() < classes:
                    raise InputError(
                        f"{where}: holds labels from {labels.min()} to {labels.max()}, expected 0 to {classes - 1};"
                        f" {_REMEDY}"
                    )
            pixels, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
            images = pixels.reshape(-1, 3, *SIZE).transpose(0, 2, 3, 1)
            return Arrays(np.ascontiguousarray(images), labels.astype(np.int32), split)
    return None


def _contents(
    root: pathlib.Path, layout: Layout, version: str, names: list[str]
) -> list[tuple[str, bytes]] | None:
    """Where each batch lies, and what it holds; None where the version isn't there."""
    for folder in (root / layout.folders[version], root):
        if any((folder / name).is_file() for name in names):
            return [_read_file(folder / name) for name in names]
    archive = root / layout.archives[version]
    return _unpack(archive, names) if archive.is_file() else None


def _read_file(file: pathlib.Path) -> tuple[str, bytes]:
    if not file.is_file():
        raise MissingFileError(f"{file}: missing, and others of its set are there; {_REMEDY}")
    try:
        return str(file), file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: can't be read ({error.strerror}); copy it again") from error


def _unpack(archive: pathlib.Path, names: list[str]) -> list[tuple[str, bytes]]:
    found: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as content, tarfile.open(fileobj=content, mode="r:") as tar:
            for member in tar:
                name = member.name.rpartition("/")[2]
                if member.isfile() and name in names:
                    file = tar.extractfile(member)
                    assert file is not None
                    found[name] = file.read()
            while content.read(2**20):  # To the end, where the checksum is.
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise InputError(f"{archive}: is damaged ({error}); {_REMEDY}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise MissingFileError(f"{archive}: holds no {', '.join(missing)}; {_REMEDY}")
    return [(f"{archive}/{name}", found[name]) for name in names]


class _Unpickler(pickle.Unpickler):
    """Of arrays and plain values alone: a pickle may otherwise run any code."""

    allowed: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _frombuffer,
        ("numpy._core.numeric", "_frombuffer"): _frombuffer,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self.allowed[module, name]


def _parse_pickle(content: bytes, where: str, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        batch = {k.encode() if isinstance(k, str) else k: value for k, value in batch.items()}
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[layout.key])
    except Exception as error:  # Unpickling a damaged file raises many things.
        raise InputError(
            f"{where}: is no batch of {layout.archives['python']} ({error}); {_REMEDY}"
        ) from error
    if (
        pixels.dtype != np.uint8
        or pixels.shape != (len(labels), _PIXELS)
        or not np.issubdtype(labels.dtype, np.integer)
    ):
        raise InputError(
            f"{where}: holds data of shape {pixels.shape} and type {pixels.dtype} for {labels.size} labels of type"
            f" {labels.dtype}, expected (n, {_PIXELS}) of uint8 for n integers; {_REMEDY}"
        )
    return pixels, labels


def _parse_records(content: bytes, where: str, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    length = layout.label_bytes + _PIXELS
    if not content or len(content) % length:
        raise InputError(
            f"{where}: has {len(content)} bytes, expected a multiple of {length}; {_REMEDY}"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, length)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1]
