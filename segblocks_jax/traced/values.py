"""What an array of a traced function is while it runs in blocks: maps on a pixel list, or a plain array."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

Origin = Literal["constant", "weights", "image"]
"""What an array depends on: nothing, the network's arrays, or the image."""
ORIGINS: tuple[Origin, ...] = ("constant", "weights", "image")
Margins = tuple[tuple[int, int], tuple[int, int]]
NO_MARGINS: Margins = ((0, 0), (0, 0))


class NotInBlocks(Exception):
    """Why an operation can't run in blocks; it then runs on the whole image."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The images and blocks that a function is traced for.

    Attributes:
        images: number of images n.
        rows, columns: of the grid of blocks.
        side: of a high block in pixels of the image, (vertical, horizontal).
        low_factor: side of a high block over the side of a low one.
    """

    images: int
    rows: int
    columns: int
    side: tuple[int, int]
    low_factor: int

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the images."""
        return self.rows * self.side[0], self.columns * self.side[1]

    def block(self, height: int, width: int) -> tuple[int, int] | None:
        """Sides of a high block in maps of a size, where every low block has whole pixels."""
        factor = self.low_factor
        if not height or height % (self.rows * factor) or width % (self.columns * factor):
            return None
        return height // self.rows, width // self.columns


@dataclasses.dataclass(frozen=True, eq=False)
class Plain:
    """An array that is kept as it is.

    Attributes:
        number: of the array.
        shape, dtype: as the traced function has it.
        stored: shape of the array that is kept; 1 where it is repeated along an axis.
        origin: what it depends on.
        key: the expression that makes it of constants and weights; None of the image's.
        local: of the image's: whether positions in it are still those of the image.
        region: the named region of the whole image that made it, if any.
    """

    number: int
    shape: tuple[int, ...]
    dtype: Any
    stored: tuple[int, ...]
    origin: Origin
    key: str | None = None
    local: bool = False
    region: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Map:
    """Maps in blocks: a list of pixels, each with what remains of the array's axes.

    Attributes:
        number: of the array (p, ...).
        shape, dtype: as the traced function has it, margins included.
        axes: for each axis what lies along it: "n" images, "h" rows, "w" columns, "hw" and "nhw" some of these
            in one, "c" anything else.
        side: of a high block, (vertical, horizontal).
        margins: zeros (or `outside`) around the image that are not in the list yet.
    """

    number: int
    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[str, ...]
    side: tuple[int, int]
    margins: Margins = NO_MARGINS
    outside: float = 0.0

    @property
    def rest(self) -> tuple[int, ...]:
        """Sizes of the axes of each pixel."""
        return tuple(s for s, a in zip(self.shape, self.axes, strict=True) if a == "c")

    def pixel_axis(self, axis: SupportsIndex) -> int:
        """The axis of the pixel list that holds axis `axis`, which is none of the image's."""
        return 1 + sum(a == "c" for a in self.axes[: int(axis)])

    def unpadded(self) -> "Map":
        """Itself; NotInBlocks where it has margins."""
        if self.margins != NO_MARGINS:
            raise NotInBlocks("padding of the image is read by what is no window operation")
        return self


Value = Plain | Map


def same_places(maps: Sequence[Map]) -> tuple[str, ...]:
    """The axes of maps whose images' axes are at the same places; NotInBlocks otherwise."""
    axes = [
        next((a for a in along if a != "c"), "c")
        for along in zip(*(m.axes for m in maps), strict=True)
    ]
    for m in maps:
        for axis, (own, common) in enumerate(zip(m.axes, axes, strict=True)):
            if own != common and not (own == "c" and m.shape[axis] == 1 and common == "n"):
                raise NotInBlocks("it mixes different axes of the image")
        if m.side != maps[0].side:
            raise NotInBlocks("it mixes maps of different sizes")
    return tuple(axes)


def image_axes(axes: Sequence[str]) -> list[int]:
    """The axes along which positions and images lie."""
    return [i for i, a in enumerate(axes) if a != "c"]


def is_spread(value: Plain, axes: Sequence[str]) -> bool:
    """Whether an array differs from place to place."""
    return any(value.stored[i] > 1 for i, a in enumerate(axes) if a not in ("n", "c"))


def broadcast_stored(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The stored shape of what is computed element by element from arrays of these."""
    rank = max(map(len, shapes))
    wide = [(1,) * (rank - len(s)) + s for s in shapes]
    return tuple(max(along) for along in zip(*wide, strict=True)) if wide else ()


def count(shape: Sequence[int]) -> int:
    """Number of elements."""
    return math.prod(shape)


def check_halo(geometry: Geometry, side: tuple[int, int], padding: Sequence[int]) -> None:
    """NotInBlocks where what lies beyond the image would be looked for in more than the next block."""
    low = min(side) // geometry.low_factor
    if max(padding) > low and (geometry.rows, geometry.columns) != (1, 1):
        raise NotInBlocks(f"it reads {max(padding)} pixels beyond low blocks of {low}")
