"""What a server and its programs agree on: modes, the programs there are, the settings they are made for."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Shaped

from segblocks_jax.adaptive.buckets import buckets
from segblocks_jax.errors import InputError
from segblocks_jax.exact import count_of
from segblocks_jax.inference.server import Shape

Output = Literal["labels", "logits"]
_MODES = "'exact', 'budget=K' (blocks an image), 'share=F' or 'latency=MS' (milliseconds)"


@dataclasses.dataclass(frozen=True)
class Mode:
    """How many blocks run high.

    - exact: those that the policy wants, their number rounded up to the next bucket by the best-scored
      others. The time differs from image to image.
    - budget: the `value` best-scored blocks of every image, all where it has fewer: constant time.
    - share: like budget, with `value` of the blocks of the padded image, to the nearest whole number (a half
      to the even one).
    - latency: like budget, with the largest number whose measured time (see `Server.latencies`), by the pace
      of the calls before (see `LatencyTracker`), is at most `value` seconds, 0 where none is.

    Attributes:
        kind: one of these.
        value: its parameter.
    """

    kind: Literal["exact", "budget", "share", "latency"]
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Mode":
        """Reads "exact", "budget=16", "share=0.25" or "latency=40ms".

        Raises:
            ValueError: none of these, or a value out of range.

        Example:
            >>> Mode.parse("latency=40ms")
            Mode(kind='latency', value=0.04)
        """
        kind, _, value = str(text).partition("=")
        if text == "exact":
            return cls("exact")
        try:
            number = float(value.removesuffix("ms") if kind == "latency" else value)
        except ValueError:
            number = math.nan
        if kind == "budget" and number >= 0 and number.is_integer():
            return cls("budget", number)
        if kind == "share" and 0 <= number <= 1:
            return cls("share", number)
        if kind == "latency" and 0 < number < math.inf:
            return cls("latency", number / 1000)
        raise InputError(f"mode is {text!r}; expected {_MODES}")

    def __str__(self) -> str:
        """The text that `parse` reads."""
        if self.kind == "exact":
            return self.kind
        latency = self.kind == "latency"
        return f"{self.kind}={1000 * self.value if latency else self.value:g}" + "ms" * latency

    def count(self, blocks: int) -> int:
        """High blocks per image of `blocks`, of a budget or a share."""
        if self.kind == "share":
            return count_of(self.value, blocks)
        return min(int(self.value), blocks)


@dataclasses.dataclass(frozen=True)
class Program:
    """What a program does, on uint8 images of `shape`.

    - dense(images) -> output
    - decide(images, valid, seed) -> action, scores
    - segment(images, action, scores, seed) -> output, mask
    - fixed(images, valid, seed) -> output, mask, scores

    Attributes:
        kind: one of these; `decide` and `segment` in turn give what the policy wants, `fixed` the
            `num_high` best-scored blocks of every image.
        shape: (n, h, w), h and w multiples of the block size.
        num_high: segment: high blocks in the batch; fixed: in every image.
        output: "labels" of every pixel, or "logits" at a quarter of the size.
    """

    kind: Literal["dense", "decide", "segment", "fixed"]
    shape: Shape
    num_high: int = 0
    output: Output = "labels"


@runtime_checkable
class Programs(Protocol):
    """Where programs come from."""

    max_size: int
    """How many programs are kept at the same time."""

    def get(
        self, program: Program, device: jax.Device | None = None
    ) -> tuple[Callable[..., Any], bool]:
        """The program for a device, and whether it was made for this call."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a server must know of its programs.

    Attributes:
        block_size: side of a block in pixels; None for a network without blocks.
        bucket_step: in mode "exact" the number of high blocks is rounded up to a multiple of this share of all.
        fill: RGB color of padding.
        mode: see `Mode`; what calls use that don't name one.
        shapes: (n, h, w) that images are padded to: the smallest that holds them.
        image_multiple: without blocks, what sides are padded to multiples of, in pixels.
        learned: whether scores are a learned policy's logits.
        strict: refuses images that no shape holds, and programs that `mode` doesn't ask for.
    """

    block_size: int | None
    bucket_step: float
    fill: tuple[int, int, int]
    mode: Mode
    shapes: tuple[Shape, ...] = ()
    image_multiple: int = 32
    learned: bool = False
    strict: bool = False

    @property
    def multiple(self) -> int:
        """What the sides of images are padded to multiples of, in pixels."""
        return self.block_size or self.image_multiple

    def blocks(self, shape: Shape) -> int:
        """Number of blocks of an image of `shape`."""
        return (shape[1] // self.multiple) * (shape[2] // self.multiple)

    def programs(self, shape: Shape, mode: Mode, output: Output = "labels") -> list[Program]:
        """All programs that a mode can ask for on images of `shape`."""
        if self.block_size is None:
            return [Program("dense", shape, 0, output)]
        blocks, step = self.blocks(shape), self.bucket_step
        if mode.kind == "exact":
            counts = buckets(shape[0] * blocks, step)
            segments = [Program("segment", shape, count, output) for count in counts]
            return [Program("decide", shape), *segments]
        counts = buckets(blocks, step) if mode.kind == "latency" else (mode.count(blocks),)
        return [Program("fixed", shape, count, output) for count in counts]

    @functools.cached_property
    def allowed(self) -> frozenset[Program]:
        """What a strict server may be asked for: what `mode` needs on images of `shapes`."""
        wanted = itertools.product(self.shapes, (self.mode,), get_args(Output))
        return frozenset(itertools.chain(*itertools.starmap(self.programs, wanted)))


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What a call asks for.

    Attributes:
        mask: blocks that run high, (m, gh, gw); None: as the mode says.
        device: that it runs on; None: JAX's default.
    """

    mode: Mode
    output: Output
    seed: np.uint32
    mask: Bool[np.ndarray, "m gh gw"] | None = None
    device: jax.Device | None = None


def checked_output(output: str) -> Output:
    """The kind of output, or an InputError."""
    if output not in get_args(Output):
        raise InputError(f"output is {output!r}; expected 'labels' or 'logits'")
    return cast(Output, output)


def checked_mask(
    mask: Shaped[np.ndarray, "..."] | Sequence, expected: Shape | None
) -> Bool[np.ndarray, "n gh gw"]:
    """The mask as an array, or an InputError; `expected` is None without blocks."""
    if expected is None:
        raise InputError("mask: this network runs without blocks; serve one with a policy")
    try:
        mask = np.asarray(mask)
    except ValueError as error:  # A ragged list.
        raise InputError(f"mask: {error}; expected {expected} and bool") from error
    if mask.shape != expected or mask.dtype != np.bool_:
        raise InputError(
            f"mask has shape {mask.shape} and dtype {mask.dtype}; expected {expected} and bool"
        )
    return mask
