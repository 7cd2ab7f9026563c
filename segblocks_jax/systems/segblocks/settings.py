"""What a server and its programs agree on: the programs there are, and the settings they were made for."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Shaped

from segblocks_jax.adaptive.buckets import buckets
from segblocks_jax.errors import InputError
from segblocks_jax.inference.server import Shape
from segblocks_jax.systems.segblocks.modes import Mode

Output = Literal["labels", "logits"]


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
        bucket_step: in mode "exact" the number of high blocks is rounded up to a multiple of this
            share of all.
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
        blocks = self.blocks(shape)
        if mode.kind == "exact":
            counts = buckets(shape[0] * blocks, self.bucket_step)
            segments = [Program("segment", shape, count, output) for count in counts]
            return [Program("decide", shape), *segments]
        measured = mode.kind == "latency"
        counts = buckets(blocks, self.bucket_step) if measured else (mode.count(blocks),)
        return [Program("fixed", shape, count, output) for count in counts]

    @functools.cached_property
    def allowed(self) -> frozenset[Program]:
        """What a strict server may be asked for: what `mode` needs on images of `shapes`."""
        outputs: tuple[Output, ...] = get_args(Output)
        return frozenset(
            program
            for shape in self.shapes
            for output in outputs
            for program in self.programs(shape, self.mode, output)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Request:
    """What a call asks for.

    Attributes:
        mask: blocks that run high, (m, gh, gw); None: as the mode says.
    """

    mode: Mode
    output: Output
    seed: np.uint32
    mask: Bool[np.ndarray, "m gh gw"] | None = None

    def part(self, some: slice) -> "Request":
        """The result for some of the images."""
        return self if self.mask is None else dataclasses.replace(self, mask=self.mask[some])


def checked_output(output: str) -> Output:
    """The kind of output, or an InputError."""
    for known in get_args(Output):
        if output == known:
            return known
    raise InputError(f"output is {output!r}; expected 'labels' or 'logits'")


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
