"""Server: images of any number and size in, segmentations out, by programs of fixed shapes.

The host's part of serving, in numpy: which program, how much padding, how many high blocks. It knows
nothing of networks, so that compiled and exported programs are served alike.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from segblocks_jax.adaptive.buckets import buckets, round_to_bucket
from segblocks_jax.errors import InvalidInputError
from segblocks_jax.exact import count_of
from segblocks_jax.inference.keyed_cache import KeyedCache
from segblocks_jax.inference.latency_tracker import LatencyTracker
from segblocks_jax.inference.modes import Mode
from segblocks_jax.tasks.segmentation.result import Segmentation

Shape = tuple[int, int, int]
Output = Literal["labels", "logits"]
_TIMED_ROUNDS = 7


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

    def get(self, program: Program) -> tuple[Callable[..., Any], bool]:
        """The program, and whether it was made for this call."""


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
    """

    block_size: int | None
    bucket_step: float
    fill: tuple[int, int, int]
    mode: Mode
    shapes: tuple[Shape, ...] = ()
    image_multiple: int = 32
    learned: bool = False

    @property
    def multiple(self) -> int:
        """What the sides of images are padded to multiples of, in pixels."""
        return self.block_size or self.image_multiple

    def blocks(self, shape: Shape) -> int:
        """Number of blocks of an image of `shape`."""
        return (shape[1] // self.multiple) * (shape[2] // self.multiple)


class Server:
    """Serves images; several threads may call one at the same time."""

    def __init__(self, programs: Programs, settings: Settings) -> None:
        """Checks the shapes of `settings`."""
        for shape in settings.shapes:
            sides = shape[1:]
            if shape[0] < 1 or any(s < 1 or s % settings.multiple for s in sides):
                raise InvalidInputError(
                    f"shapes: {shape} doesn't fit; expected (n, h, w) with n from 1 and sides that are"
                    f" multiples of {settings.multiple}"
                )
        self._programs = programs
        self._settings = settings
        self._latencies: KeyedCache[tuple[Shape, Output], dict[int, float]] = KeyedCache()
        self._paces: dict[tuple[Shape, Output], LatencyTracker] = collections.defaultdict(
            LatencyTracker
        )

    @property
    def block_size(self) -> int | None:
        """Side of a block in pixels; None without blocks."""
        return self._settings.block_size

    @property
    def multiple(self) -> int:
        """What the sides of images are padded to multiples of, in pixels."""
        return self._settings.multiple

    @property
    def learned(self) -> bool:
        """Whether scores are a learned policy's logits."""
        return self._settings.learned

    @property
    def mode(self) -> Mode:
        """What calls use that name no mode."""
        return self._settings.mode

    def __call__(
        self,
        images: Shaped[np.ndarray, "..."],
        *,
        mode: str | None = None,
        output: str = "labels",
        seed: int = 0,
        mask: Shaped[np.ndarray, "..."] | None = None,
    ) -> Segmentation:
        """Segments images.

        They are padded at the bottom and right with the mean color, to whole blocks and to the
        smallest of the server's shapes that holds them; more images than it has are served in turn.
        Shares and budgets count the blocks of the padded shape; those without a pixel of an image run
        high only after all others. A larger shape than the image needs changes the pixels near its lower
        and right border a little, as another neighbor than the image's end.

        Args:
            images: (n, h, w, 3) uint8 RGB, of any size.
            mode: "exact", "budget=K", "share=F" or "latency=MS", see `Mode`; default: the server's.
            output: "labels", or "logits" at a quarter of the size.
            seed: of random policies and random filling.
            mask: (n, gh, gw) bool, gh = ceil(h / block size); runs these blocks high, not the policy's choice.
                It is not rounded, so that every number of blocks is a program of its own.

        Raises:
            TypeError: images that are not uint8.
            ValueError: wrong shape, mode or output.
        """
        start = time.perf_counter()
        _check_images(images)
        kind = _checked_output(output)
        chosen = self._settings.mode if mode is None else Mode.parse(mode)
        count, height, width, _ = images.shape
        shape = self._shape_for((count, height, width))
        grid = self._grid((height, width))
        if mask is not None:
            _check_mask(mask, None if grid is None else (count, *grid))
        parts, compiled = [], False
        for first in range(0, count, shape[0]):
            some = slice(first, first + shape[0])
            given = None if mask is None else mask[some]
            part, made = self._serve(images[some], shape, chosen, kind, np.uint32(seed), given)
            parts.append(part)
            compiled = compiled or made
        result, high, scores = (
            None if part[0] is None else np.concatenate(part) for part in zip(*parts, strict=True)
        )
        return Segmentation(
            labels=result if output == "labels" else None,
            logits=result if output == "logits" else None,
            mask=high,
            scores=scores,
            seconds=time.perf_counter() - start,
            compiled=compiled,
        )

    def warm_up(self, shapes: Iterable[Shape] | None = None, output: Output = "labels") -> None:
        """Makes all programs that the server's mode can ask for, and times them for mode "latency".

        Args:
            shapes: (n, h, w), default: the server's.
            output: what calls will ask for.

        Raises:
            ValueError: no shapes.
        """
        chosen = tuple(self._settings.shapes if shapes is None else shapes)
        if not chosen:
            raise InvalidInputError(
                "warm_up: there are no shapes; give some here, or to the engine"
            )
        for shape in chosen:
            padded = self._shape_for(shape)
            for program in self.programs(padded, self._settings.mode, output):
                self._programs.get(program)
            if self._settings.mode.kind == "latency" and self.block_size is not None:
                self.latencies(padded, output)

    def programs(self, shape: Shape, mode: Mode, output: Output = "labels") -> list[Program]:
        """All programs that a mode can ask for on images of `shape`."""
        settings = self._settings
        if settings.block_size is None:
            return [Program("dense", shape, 0, output)]
        blocks = settings.blocks(shape)
        if mode.kind == "exact":
            counts = buckets(shape[0] * blocks, settings.bucket_step)
            segments = [Program("segment", shape, count, output) for count in counts]
            return [Program("decide", shape), *segments]
        measured = mode.kind == "latency"
        counts = (
            buckets(blocks, settings.bucket_step) if measured else (_fixed_count(mode, blocks),)
        )
        return [Program("fixed", shape, count, output) for count in counts]

    def latencies(self, shape: Shape, output: Output = "labels") -> dict[int, float]:
        """Seconds of images of `shape` by the number of high blocks an image; measured once.

        The slowest of some runs, so that a target that one fits is met by nearly all images.
        """
        return self._table(shape, output)[0]

    def _table(self, shape: Shape, output: Output) -> tuple[dict[int, float], bool]:
        """The latencies, and whether they were measured for this call."""
        return self._latencies.get((shape, output), lambda: self._measure(shape, output))

    def _measure(self, shape: Shape, output: Output) -> dict[int, float]:
        counts = [program.num_high for program in self.programs(shape, Mode("latency"), output)]
        images = np.zeros((*shape, 3), np.uint8)
        seconds = dict.fromkeys(counts, 0.0)

        def serve(count: int) -> float:
            start = time.perf_counter()
            self._serve(images, shape, Mode("budget", float(count)), output, np.uint32(0), None)
            return time.perf_counter() - start

        for _ in range(_TIMED_ROUNDS):
            for count in counts:
                serve(count)  # Untimed: after another program, a first run is slower.
                seconds[count] = max(seconds[count], serve(count))
        return seconds

    def _serve(
        self,
        images: UInt8[np.ndarray, "m h w 3"],
        shape: Shape,
        mode: Mode,
        output: Output,
        seed: np.uint32,
        mask: Bool[np.ndarray, "m gh gw"] | None,
    ) -> tuple[tuple[np.ndarray, np.ndarray | None, np.ndarray | None], bool]:
        measured = False
        if mode.kind == "latency" and mask is None and self.block_size is not None:
            measured = self._table(shape, output)[1]
        start = time.perf_counter()  # To measure, or to wait for it, is not the machine's pace.
        count, height, width, _ = images.shape
        padded = self._pad(images, shape)
        if self.block_size is None:
            program, made = self._programs.get(Program("dense", shape, 0, output))
            served, high, scores = np.asarray(program(padded)), None, None
        elif mask is not None or mode.kind == "exact":
            (served, high, scores), made = self._run_decided(
                padded, images.shape[:3], output, seed, mask
            )
        else:
            fixed = Program("fixed", shape, self._count(mode, shape, output), output)
            (served, high, scores), made = self._run_fixed(padded, images.shape[:3], fixed, seed)
            if mode.kind == "latency" and not made:
                expected = self.latencies(shape, output)[fixed.num_high]
                self._paces[shape, output].observe(time.perf_counter() - start, expected)
        factor = padded.shape[1] // served.shape[1]
        served = served[:count, : -(-height // factor), : -(-width // factor)]
        grid = self._grid((height, width))
        if grid is None:
            return (served, None, None), made or measured
        rows, columns = grid
        high, scores = (x if x is None else x[:count, :rows, :columns] for x in (high, scores))
        return (served, high, scores), made or measured

    def _run_decided(
        self,
        padded: np.ndarray,
        valid: tuple[int, ...],
        output: Output,
        seed: np.uint32,
        mask: Bool[np.ndarray, "m gh gw"] | None,
    ) -> tuple[tuple[np.ndarray, ...], bool]:
        """First the decision, then, for its number of blocks, the network."""
        n, h, w, _ = padded.shape
        shape = (n, h, w)
        images = jax.device_put(padded)
        if mask is None:
            decide, made_decide = self._programs.get(Program("decide", shape))
            action, scores = decide(images, np.asarray(valid, np.int32), seed)
            total = action.size
            num_high = round_to_bucket(
                int(np.count_nonzero(action)), total, self._settings.bucket_step
            )
        else:
            grid = (n, h // self.multiple, w // self.multiple)
            action, made_decide = np.zeros(grid, bool), False
            action[: mask.shape[0], : mask.shape[1], : mask.shape[2]] = mask
            scores, num_high = action.astype(np.float32), int(np.count_nonzero(action))
        segment, made = self._programs.get(Program("segment", shape, num_high, output))
        result, high = segment(images, action, scores, seed)
        return tuple(map(np.asarray, (result, high, scores))), made or made_decide

    def _run_fixed(
        self, padded: np.ndarray, valid: tuple[int, ...], program: Program, seed: np.uint32
    ) -> tuple[tuple[np.ndarray, ...], bool]:
        run, made = self._programs.get(program)
        return tuple(map(np.asarray, run(padded, np.asarray(valid, np.int32), seed))), made

    def _count(self, mode: Mode, shape: Shape, output: Output) -> int:
        """High blocks an image."""
        if mode.kind != "latency":
            return _fixed_count(mode, self._settings.blocks(shape))
        table, pace = self.latencies(shape, output), self._paces[shape, output].value
        return max((count for count, time in table.items() if time * pace <= mode.value), default=0)

    def _shape_for(self, shape: Shape) -> Shape:
        count, height, width = shape
        height, width = (-(-side // self.multiple) * self.multiple for side in (height, width))
        fits = [s for s in self._settings.shapes if s[1] >= height and s[2] >= width]
        if not fits:
            return count, height, width
        area = min(s[1] * s[2] for s in fits)
        fits = [s for s in fits if s[1] * s[2] == area]
        return min((s for s in fits if s[0] >= count), default=max(fits))

    def _grid(self, size: tuple[int, int]) -> tuple[int, int] | None:
        if self.block_size is None:
            return None
        return -(-size[0] // self.block_size), -(-size[1] // self.block_size)

    def _pad(self, images: np.ndarray, shape: Shape) -> UInt8[np.ndarray, "n h w 3"]:
        if images.shape[:3] == shape:
            return np.ascontiguousarray(images)
        padded = np.empty((*shape, 3), np.uint8)
        padded[:] = self._settings.fill
        padded[: images.shape[0], : images.shape[1], : images.shape[2]] = images
        return padded


def _fixed_count(mode: Mode, blocks: int) -> int:
    if mode.kind == "share":
        return count_of(mode.value, blocks)
    return min(int(mode.value), blocks)


def _check_images(images: np.ndarray) -> None:
    if not hasattr(images, "dtype") or images.dtype != np.uint8:
        raise TypeError(
            f"images are {getattr(images, 'dtype', type(images).__name__)}; expected a uint8 array (n, h, w, 3)"
            " in 0..255, not normalized"
        )
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise InvalidInputError(
            f"images have shape {images.shape}; expected (n, h, w, 3), none of them 0; one image is image[None]"
        )


def _checked_output(output: str) -> Output:
    for known in get_args(Output):
        if output == known:
            return known
    raise InvalidInputError(f"output is {output!r}; expected 'labels' or 'logits'")


def _check_mask(mask: np.ndarray, expected: Shape | None) -> None:
    if expected is None:
        raise InvalidInputError("mask: this network runs without blocks; serve one with a policy")
    if mask.shape != expected or mask.dtype != np.bool_:
        raise InvalidInputError(
            f"mask has shape {mask.shape} and dtype {mask.dtype}; expected {expected} and bool"
        )
