"""Where the images of a split lie: in memory, in files, or in parts of these.

``items[i]`` is {"image": uint8 (h, w, 3), "label": int32, "name": str}. All pickle, for worker processes.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, UInt8

from segblocks_jax.errors import InputError
from segblocks_jax.ops import no_type_check

Item = dict[str, Any]


@runtime_checkable
class Items(Protocol):
    """Random access to the images of a split."""

    @property
    def labels(self) -> Int32[np.ndarray, "n"]:
        """Of all images, known without reading any."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item: ...


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Arrays:
    """Images of one size in memory; `name` begins theirs."""

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int32[np.ndarray, "n"]
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        name = f"{self.name}_{index:05d}"
        return {"image": self.images[index], "label": self.labels[index], "name": name}


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Image files below a folder, read when asked for; turned as stored."""

    root: pathlib.Path
    files: tuple[str, ...]
    labels: Int32[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Item:
        from segblocks_jax.data.images import decode

        file = self.root / self.files[index]
        try:
            content = file.read_bytes()
        except OSError as error:
            raise InputError(f"{file}: can't be read ({error.strerror}); copy it again") from error
        image = decode(content, "image", str(file))
        return {"image": image, "label": self.labels[index], "name": self.files[index]}

    def in_memory(self, size: tuple[int, int], name: str) -> Arrays:
        """All of them, decoded; raises InputError, naming the file, for one that isn't of the size."""

        def read(index: int) -> np.ndarray:
            image = self[index]["image"]
            if image.shape[:2] != size:
                raise InputError(
                    f"{self.root / self.files[index]}: is {image.shape[0]} x {image.shape[1]} pixels, expected"
                    f" {size[0]} x {size[1]}; take the images as published"
                )
            return image

        images = np.empty((len(self), *size, 3), np.uint8)
        with ThreadPoolExecutor() as pool:
            for i, image in enumerate(pool.map(read, range(len(self)), chunksize=256)):
                images[i] = image
        return Arrays(images, self.labels, name)


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Some of the items, in the order of `indices`."""

    items: Items
    indices: Int[np.ndarray, "m"]

    @property
    def labels(self) -> Int32[np.ndarray, "m"]:
        """Of the part."""
        return self.items.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        return self.items[int(self.indices[index])]


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """Several, one after the other."""

    parts: Sequence[Items]

    @property
    def labels(self) -> Int32[np.ndarray, "n"]:
        """Of all parts."""
        return np.concatenate([part.labels for part in self.parts])

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> Item:
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError(index)
