"""State: the values of a fused network as its steps make them, and the halos that one step lends another."""

from collections.abc import Iterable
from typing import Any

import jax
from jaxtyping import Array, Shaped

from segblocks_jax.blocks import BlockGrid, DualRes
from segblocks_jax.inference.layout import Layout
from segblocks_jax.ops import by_index, extension

Pixels = Shaped[Array, "p c"]
"""float32 or bfloat16; in int8 bytes."""


class State:
    """The values of a network so far, by number: pixel lists and their layouts; `latest` is what was made last.

    Number 0 is the network's input, an image or blocks; a part of a network may start from other numbers.
    """

    def __init__(self, pixels: Pixels, layout: Layout, number: int = 0) -> None:
        self.pixels, self.layouts, self.latest = {number: pixels}, {number: layout}, pixels
        # How far those that read a value see beyond their blocks, where what makes it lends them halos; and these.
        self.paddings: dict[int, int] = {}
        self.halos: dict[int, Array] = {}

    def lends(self, number: int, layout: Layout) -> int:
        """The padding for which what makes a value of this layout lends its halos; 0: for none."""
        return self.paddings.get(number, 0) if layout.sides[0] % 2 == 0 else 0

    def lent(self, number: int, padding: int) -> Array | None:
        """The halos of a value, if they were lent for this padding."""
        return self.halos.get(number) if self.paddings.get(number) == padding else None

    def features(self, number: int) -> Any:
        """A value as an image or blocks."""
        pixels, layout = self.pixels[number], self.layouts[number]
        if isinstance(layout.units, BlockGrid):
            return DualRes(pixels, layout.units)
        return pixels.reshape(layout.units, *layout.sides, -1)

    def add(self, number: int, pixels: Pixels, layout: Layout, halos: Array | None = None) -> None:
        """Sets a value, and the halos that were lent."""
        self.pixels[number], self.layouts[number], self.latest = pixels, layout, pixels
        if halos is not None:
            self.halos[number] = halos


def halos_are_lent(x: Any) -> bool:
    """Whether steps on these features lend each other halos: blocks, low ones half as large, on a GPU's handlers."""
    blocks = isinstance(x, DualRes) and x.grid.low_factor == by_index.LENT_FACTOR
    on_gpu = jax.default_backend() == "gpu" and extension.resolve() == "ffi"
    return blocks and on_gpu and by_index.lending()


def lent_paddings(reads: Iterable[tuple[int, Any, tuple[int, Any] | None]]) -> dict[int, int]:
    """For which padding each value's halos are lent: that of the first step that reads them (`Step.reads`)."""
    paddings: dict[int, int] = {}
    for number, _, patches in reads:
        if patches is not None and patches[0]:
            paddings.setdefault(number, patches[0])
    return paddings
