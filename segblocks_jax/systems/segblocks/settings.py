"""What a server and its programs agree on: the programs there are, and the settings they were made for."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax

from segblocks_jax.adaptive.buckets import buckets
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
