"""The smallest blocks that a network can run on, found by following its layers with a probe."""

import dataclasses
import fractions
import math
from collections.abc import Callable
from typing import Any, final

from segblocks_jax.blocks import DualRes
from segblocks_jax.errors import InputError
from segblocks_jax.nn.scope import rematerialization

UNIT = 32
"""Sides of blocks are multiples of so many image pixels, whatever the network: policies count in them."""


@dataclasses.dataclass(frozen=True)
class _Window:
    """What a layer reads; `side` is that of its input over that of the image."""

    side: fractions.Fraction
    stride: int
    padding: int
    dilation: int

    def pixels(self, low_factor: int) -> fractions.Fraction:
        """How many image pixels along a side one pixel of a low block stands for, here."""
        return low_factor / self.side


@final
@dataclasses.dataclass(frozen=True)
class Probe:
    """Stands for features of which only the side is known, over that of the image; layers note what they read."""

    side: fractions.Fraction = fractions.Fraction(1)
    windows: list[_Window] = dataclasses.field(default_factory=list)

    def through(self, stride: int, padding: int, dilation: int = 1, upsampling: int = 1) -> "Probe":
        """The probe behind a layer that reads windows."""
        self.windows.append(_Window(self.side, stride, padding, dilation))
        return dataclasses.replace(self, side=self.side * upsampling / stride)


def block_multiple(net: Callable[[Any], Any], low_factor: int = 2) -> int:
    """The number of image pixels that sides of a network's blocks must be multiples of.

    At every layer a low block then has whole pixels, and as many as are padded, dilation apart.

    Args:
        net: a network that uses features through the layers and functions of `segblocks_jax.nn` alone.
        low_factor: side of a high block over the side of a low one.
    """
    return _bounds(_windows(net), low_factor)[0]


def smallest_block(net: Callable[[Any], Any], low_factor: int = 2) -> int:
    """The smallest side of a network's blocks, in image pixels: a multiple of `block_multiple`.

    A low block is as wide as every layer pads, dilated ones too. Arguments as there.
    """
    return _bounds(_windows(net), low_factor)[1]


def check_blocks(net: Callable[[Any], Any], blocks: DualRes) -> None:
    """Raises InputError where blocks of an image don't have a size that the network can run on."""
    side, factor = blocks.block_size, blocks.grid.low_factor
    windows = _windows(net)
    multiple, smallest = _bounds(windows, factor)
    if blocks.grid.num_blocks and (side % multiple or side < smallest):
        # Where this fails, a convolution would pad by more pixels than its block has.
        widest = max(windows, key=lambda window: window.padding * window.pixels(factor))
        more = f", and at least {smallest}" if smallest > multiple else ""
        use = max(smallest, -(-side // multiple) * multiple)
        raise InputError(
            f"{type(net).__name__}: blocks of {side} x {side} pixels; the network needs a multiple of"
            f" {multiple}{more}, so that a low block (1/{factor} of the side) has whole pixels at every"
            f" layer, and as many as are padded ({widest.padding} at stride {1 / widest.side}); use"
            f" blocks of {use}, by a coarser mask"
        )


def _windows(net: Callable[[Any], Any]) -> list[_Window]:
    probe = Probe()
    with rematerialization(False):
        net(probe)
    return probe.windows


def _bounds(windows: list[_Window], low_factor: int) -> tuple[int, int]:
    """The multiple of a block's side, and the least of them that fits."""
    pixels = [window.pixels(low_factor) for window in windows]
    whole = math.lcm(
        UNIT, *((p * w.stride).numerator for p, w in zip(pixels, windows, strict=True))
    )
    halos = [(p * w.padding, w.dilation) for p, w in zip(pixels, windows, strict=True)]
    multiple = _round_up(max((halo / dilation for halo, dilation in halos), default=0), whole)
    return multiple, _round_up(max((halo for halo, _ in halos), default=0), multiple)


def _round_up(value: fractions.Fraction | int, multiple: int) -> int:
    return max(1, math.ceil(value / multiple)) * multiple
