"""Serving of networks in blocks, the host's part: which program, how many high blocks.

It knows nothing of networks, so that compiled and exported programs are served alike.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.errors import InputError
from segblocks_jax.inference.programs import KeyedCache
from segblocks_jax.inference.server import (
    Shape,
    ShapeServer,
    check_fork,
    check_images,
    checked_seed,
)
from segblocks_jax.inference.timing import LatencyTracker, slowest
from segblocks_jax.systems.segblocks.settings import (
    Mode,
    Output,
    Program,
    Programs,
    Request,
    Settings,
    checked_mask,
    checked_output,
)
from segblocks_jax.tasks.segmentation.result import Segmentation


class Server(ShapeServer):
    """Serves images; several threads may call one at the same time.

    Attributes:
        settings: what it knows of its programs.
        block_size: side of a block in pixels; None without blocks.
        learned: whether scores are a learned policy's logits.
        mode: of calls that name none.
    """

    def __init__(
        self, programs: Programs, settings: Settings, devices: Sequence[jax.Device] = ()
    ) -> None:
        """Checks the shapes of `settings`; calls take `devices` in turn, if there are any."""
        names = ("multiple", "fill", "shapes", "strict")
        options: dict[str, Any] = {name: getattr(settings, name) for name in names}
        super().__init__(devices=devices, **options)
        self.settings, self.block_size = settings, settings.block_size
        self.learned, self.mode = settings.learned, settings.mode
        self._programs, size = programs, programs.max_size
        self._latencies: KeyedCache[tuple[Shape, Output], dict[int, float]] = KeyedCache(size)
        self._paces: KeyedCache[tuple[Shape, Output], LatencyTracker] = KeyedCache(size)

    def __call__(
        self,
        images: Shaped[np.ndarray, "..."],
        *,
        mode: str | None = None,
        output: str = "labels",
        seed: int = 0,
        mask: Shaped[np.ndarray, "..."] | Sequence | None = None,
    ) -> Segmentation:
        """Segments images.

        They are padded at the bottom and right with the mean color, to whole blocks and to the smallest of the
        server's shapes that holds them; more images than it has are served in turn. Shares and budgets count the
        blocks of the padded shape; those without a pixel of an image run high only after all others. A larger shape
        than the image needs changes the pixels near its lower and right border a little: they have other neighbors.

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
        check_fork()
        check_images(images)
        count, height, width, _ = images.shape
        grid = self._grid((height, width))
        chosen = self.mode if mode is None else Mode.parse(mode)
        request = Request(chosen, checked_output(output), checked_seed(seed))
        if mask is not None:
            mask = checked_mask(mask, None if grid is None else (count, *grid))
        shape = self.shape_for((count, height, width))
        parts, compiled = [], False
        with self.device() as device:
            for first in range(0, count, shape[0]):
                some = slice(first, first + shape[0])
                blocks = None if mask is None else mask[some]
                part = dataclasses.replace(request, mask=blocks, device=device)
                served, made = self._serve(images[some], shape, part)
                parts.append(served)
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
            ValueError: no shapes, or more programs than are kept.
        """
        chosen = tuple(self.settings.shapes if shapes is None else shapes)
        if not chosen:
            raise InputError("warm_up: there are no shapes; give some here, or to the engine")
        padded = sorted({self.shape_for(shape) for shape in chosen})
        programs = [p for shape in padded for p in self.settings.programs(shape, self.mode, output)]
        needed = [(program, device) for device in self.devices or (None,) for program in programs]
        if len(needed) > self._programs.max_size:
            raise InputError(
                f"warm_up: {len(padded)} shapes take {len(needed)} programs, and only"
                f" {self._programs.max_size} are kept; give the engine a larger max_programs, or fewer shapes"
            )
        for program, device in needed:
            self._get(program, device)
        if self.mode.kind == "latency" and self.block_size is not None:
            for shape in padded:
                self.latencies(shape, output)

    def latencies(self, shape: Shape, output: Output = "labels") -> dict[int, float]:
        """Seconds of images of `shape` by the number of high blocks per image; measured once.

        The slowest of some runs, so that a target that one fits is met by nearly all images.
        """
        return self._table(shape, output)[0]

    def _table(self, shape: Shape, output: Output) -> tuple[dict[int, float], bool]:
        """The latencies, and whether they were measured for this call."""
        return self._latencies.get((shape, output), lambda: self._measure(shape, output))

    def _measure(self, shape: Shape, output: Output) -> dict[int, float]:
        images, device = np.zeros((*shape, 3), np.uint8), next(iter(self.devices), None)

        def serve(count: int) -> None:
            mode = Mode("budget", float(count))
            self._serve(images, shape, Request(mode, output, np.uint32(0), device=device))

        programs = self.settings.programs(shape, Mode("latency"), output)
        return slowest(serve, [program.num_high for program in programs])

    def _serve(
        self, images: UInt8[np.ndarray, "m h w 3"], shape: Shape, request: Request
    ) -> tuple[tuple[np.ndarray, np.ndarray | None, np.ndarray | None], bool]:
        """Labels or logits, mask and scores of images that fit `shape`; and whether a program was made."""
        count, height, width, _ = images.shape
        padded, valid = self.pad(images, shape), np.asarray(images.shape[:3], np.int32)
        grid = self._grid((height, width))
        if grid is None:
            program = Program("dense", shape, 0, request.output)
            result, made = self._run(program, request, padded)
            served, high, scores = np.asarray(result), None, None
        else:
            decided = request.mask is not None or request.mode.kind == "exact"
            serve = self._run_decided if decided else self._run_fixed
            (served, *blocks), made = serve(padded, valid, request)
            high, scores = (x[:count, : grid[0], : grid[1]] for x in blocks)
        factor = shape[1] // served.shape[1]
        served = served[:count, : -(-height // factor), : -(-width // factor)]
        return (served, high, scores), made

    def _run_decided(
        self, padded: np.ndarray, valid: np.ndarray, request: Request
    ) -> tuple[Sequence[Any], bool]:
        """First the decision, then, for its number of blocks, the network."""
        n, h, w, _ = padded.shape
        images, made_decide = jax.device_put(padded, request.device), False
        if request.mask is None:
            program = Program("decide", (n, h, w))
            (action, scores), made_decide = self._run(program, request, images, valid, request.seed)
            wanted = int(np.count_nonzero(action))
            num_high = round_to_bucket(wanted, action.size, self.settings.bucket_step)
        else:
            action = np.zeros((n, h // self.multiple, w // self.multiple), bool)
            action[tuple(map(slice, request.mask.shape))] = request.mask
            scores, num_high = action.astype(np.float32), int(np.count_nonzero(action))
        program = Program("segment", (n, h, w), num_high, request.output)
        result, made = self._run(program, request, images, action, scores, request.seed)
        return tuple(map(np.asarray, (*result, scores))), made or made_decide

    def _run_fixed(
        self, padded: np.ndarray, valid: np.ndarray, request: Request
    ) -> tuple[Sequence[Any], bool]:
        """The best-scored blocks of every image; in mode "latency" the call's time is watched."""
        n, h, w, _ = padded.shape
        shape, mode = (n, h, w), request.mode

        def run(count: int) -> tuple[Sequence[Any], bool]:
            program = Program("fixed", shape, count, request.output)
            result, made = self._run(program, request, padded, valid, request.seed)
            return tuple(map(np.asarray, result)), made

        if mode.kind != "latency":
            return run(mode.count(self.settings.blocks(shape)))
        key = shape, request.output
        measured = self._table(*key)[1]
        table, (pace, _) = self.latencies(*key), self._paces.get(key, LatencyTracker)
        fits = (count for count, time in table.items() if time * pace.value <= mode.value)
        count = max(fits, default=0)
        start = time.perf_counter()  # To measure, or to wait for it, is not the machine's pace.
        result, made = run(count)
        if not made:
            pace.observe(time.perf_counter() - start, table[count])
        return result, made or measured

    def _run(self, program: Program, request: Request, *arguments: Any) -> tuple[Any, bool]:
        """What a program gives, and whether it was made for this call."""
        run, made = self._get(program, request.device)
        return run(*arguments), made

    def _get(self, program: Program, device: jax.Device | None) -> tuple[Callable[..., Any], bool]:
        if self.strict and program not in self.settings.allowed:
            raise InputError(
                f"{program.num_high} high blocks ({program.kind}) are none of the programs of mode"
                f" {self.mode.kind!r}, and the engine is strict; use the engine's own mode, and masks"
                " whose number of blocks is a bucket's"
            )
        return self._programs.get(program, device)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int] | None:
        side = self.block_size
        return None if side is None else (-(-size[0] // side), -(-size[1] // side))
