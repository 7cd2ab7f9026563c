"""Serving of networks in blocks, the host's part: which program, how many high blocks.

It knows nothing of networks, so that compiled and exported programs are served alike.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.errors import InputError
from segblocks_jax.inference.programs import KeyedCache
from segblocks_jax.inference.server import Shape, ShapeServer, check_images, checked_seed
from segblocks_jax.inference.timing import LatencyTracker, slowest
from segblocks_jax.systems.segblocks.modes import Mode
from segblocks_jax.systems.segblocks.settings import (
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
    """

    def __init__(
        self, programs: Programs, settings: Settings, devices: Sequence[jax.Device] = ()
    ) -> None:
        """Checks the shapes of `settings`; calls take `devices` in turn, if there are any."""
        super().__init__(
            multiple=settings.multiple,
            fill=settings.fill,
            shapes=settings.shapes,
            strict=settings.strict,
            devices=devices,
        )
        self.settings = settings
        self._programs = programs
        size = programs.max_size
        self._latencies: KeyedCache[tuple[Shape, Output], dict[int, float]] = KeyedCache(size)
        self._paces: KeyedCache[tuple[Shape, Output], LatencyTracker] = KeyedCache(size)

    @property
    def block_size(self) -> int | None:
        """Side of a block in pixels; None without blocks."""
        return self.settings.block_size

    @property
    def learned(self) -> bool:
        """Whether scores are a learned policy's logits."""
        return self.settings.learned

    @property
    def mode(self) -> Mode:
        """The mode of calls that name none."""
        return self.settings.mode

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
        self.check_process()
        check_images(images)
        count, height, width, _ = images.shape
        grid = self._grid((height, width))
        request = Request(
            self.settings.mode if mode is None else Mode.parse(mode),
            checked_output(output),
            checked_seed(seed),
            None if mask is None else checked_mask(mask, None if grid is None else (count, *grid)),
        )
        shape = self.shape_for((count, height, width))
        parts, compiled = [], False
        with self.device() as device:
            for first in range(0, count, shape[0]):
                some = slice(first, first + shape[0])
                part, made = self._serve(images[some], shape, request.part(some), device)
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
            ValueError: no shapes, or more programs than are kept.
        """
        chosen = tuple(self.settings.shapes if shapes is None else shapes)
        if not chosen:
            raise InputError("warm_up: there are no shapes; give some here, or to the engine")
        padded = sorted({self.shape_for(shape) for shape in chosen})
        programs = [
            p for s in padded for p in self.settings.programs(s, self.settings.mode, output)
        ]
        devices = self.devices or (None,)
        if len(programs) * len(devices) > self._programs.max_size:
            raise InputError(
                f"warm_up: {len(padded)} shapes take {len(programs) * len(devices)} programs, and only"
                f" {self._programs.max_size} are kept; give the engine a larger max_programs, or fewer shapes"
            )
        for device in devices:
            for program in programs:
                self._get(program, device)
        if self.settings.mode.kind == "latency" and self.block_size is not None:
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
        device = self.devices[0] if self.devices else None
        images = np.zeros((*shape, 3), np.uint8)

        def serve(count: int) -> None:
            request = Request(Mode("budget", float(count)), output, np.uint32(0))
            self._serve(images, shape, request, device)

        programs = self.settings.programs(shape, Mode("latency"), output)
        return slowest(serve, [program.num_high for program in programs])

    def _serve(
        self,
        images: UInt8[np.ndarray, "m h w 3"],
        shape: Shape,
        request: Request,
        device: jax.Device | None,
    ) -> tuple[tuple[np.ndarray, np.ndarray | None, np.ndarray | None], bool]:
        """Labels or logits, mask and scores of images that fit `shape`; and whether a program was made."""
        count, height, width, _ = images.shape
        padded, valid = self.pad(images, shape), np.asarray(images.shape[:3], np.int32)
        grid = self._grid((height, width))
        if grid is None:
            program, made = self._get(Program("dense", shape, 0, request.output), device)
            served, high, scores = np.asarray(program(padded)), None, None
        elif request.mask is not None or request.mode.kind == "exact":
            (served, high, scores), made = self._run_decided(padded, valid, request, device)
        else:
            (served, high, scores), made = self._run_fixed(padded, valid, request, device)
        factor = shape[1] // served.shape[1]
        served = served[:count, : -(-height // factor), : -(-width // factor)]
        if grid is not None:
            rows, columns = grid
            high, scores = (x if x is None else x[:count, :rows, :columns] for x in (high, scores))
        return (served, high, scores), made

    def _run_decided(
        self, padded: np.ndarray, valid: np.ndarray, request: Request, device: jax.Device | None
    ) -> tuple[tuple[np.ndarray, ...], bool]:
        """First the decision, then, for its number of blocks, the network."""
        n, h, w, _ = padded.shape
        images = jax.device_put(padded, device)
        if request.mask is None:
            decide, made_decide = self._get(Program("decide", (n, h, w)), device)
            action, scores = decide(images, valid, request.seed)
            wanted = int(np.count_nonzero(action))
            num_high = round_to_bucket(wanted, action.size, self.settings.bucket_step)
        else:
            mask = request.mask
            grid = (n, h // self.multiple, w // self.multiple)
            action, made_decide = np.zeros(grid, bool), False
            action[: mask.shape[0], : mask.shape[1], : mask.shape[2]] = mask
            scores, num_high = action.astype(np.float32), int(np.count_nonzero(action))
        segment, made = self._get(Program("segment", (n, h, w), num_high, request.output), device)
        result, high = segment(images, action, scores, request.seed)
        return tuple(map(np.asarray, (result, high, scores))), made or made_decide

    def _run_fixed(
        self, padded: np.ndarray, valid: np.ndarray, request: Request, device: jax.Device | None
    ) -> tuple[tuple[np.ndarray, ...], bool]:
        """The best-scored blocks of every image; in mode "latency" the call's time is watched."""
        n, h, w, _ = padded.shape
        key, mode = ((n, h, w), request.output), request.mode
        if mode.kind != "latency":
            count = mode.count(self.settings.blocks(key[0]))
            run, made = self._get(Program("fixed", key[0], count, request.output), device)
            return tuple(map(np.asarray, run(padded, valid, request.seed))), made
        measured = self._table(*key)[1]
        table, (pace, _) = self.latencies(*key), self._paces.get(key, LatencyTracker)
        fits = (count for count, time in table.items() if time * pace.value <= mode.value)
        count = max(fits, default=0)
        start = time.perf_counter()  # To measure, or to wait for it, is not the machine's pace.
        run, made = self._get(Program("fixed", key[0], count, request.output), device)
        result = tuple(map(np.asarray, run(padded, valid, request.seed)))
        if not made:
            pace.observe(time.perf_counter() - start, table[count])
        return result, made or measured

    def _get(self, program: Program, device: jax.Device | None) -> tuple[Callable[..., Any], bool]:
        if self.strict and program not in self.settings.allowed:
            raise InputError(
                f"{program.num_high} high blocks ({program.kind}) are none of the programs of mode"
                f" {self.settings.mode.kind!r}, and the engine is strict; use the engine's own mode, and masks"
                " whose number of blocks is a bucket's"
            )
        return self._programs.get(program, device)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int] | None:
        if self.block_size is None:
            return None
        return -(-size[0] // self.block_size), -(-size[1] // self.block_size)
