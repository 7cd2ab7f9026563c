"""Serving with early exits, the host's part: who leaves, who goes on, in programs of a few batch sizes.

It knows nothing of networks, so that compiled and exported programs are served alike.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.errors import InputError
from segblocks_jax.inference.programs import KeyedCache
from segblocks_jax.inference.server import check_fork, check_images, note_process
from segblocks_jax.inference.timing import LatencyTracker, slowest
from segblocks_jax.systems.ranet.fits import within_budget
from segblocks_jax.systems.ranet.settings import Answers, Mode, Program, Programs, Settings
from segblocks_jax.systems.ranet.thresholds import NEVER
from segblocks_jax.tasks.classification.augmentation import CenterCrop

Images = UInt8[np.ndarray, "n h w 3"] | Sequence[UInt8[np.ndarray, "_ _ 3"]]


class Server:
    """Serves images; several threads may call one at the same time.

    Attributes:
        settings: what it knows of its programs.
    """

    def __init__(self, programs: Programs, settings: Settings) -> None:
        """Checks the mode."""
        note_process()
        self.settings, self._programs = settings, programs
        self._latencies: KeyedCache[int, dict[int, float]] = KeyedCache()
        self._pace = LatencyTracker()
        if settings.mode.kind != "latency":
            self._thresholds(settings.mode)

    @property
    def compilations(self) -> int:
        """How many programs were compiled so far."""
        return self._programs.compilations

    def __call__(self, images: Images, *, mode: str | None = None) -> Answers:
        """Classifies images; each leaves at the first exit whose threshold its largest probability reaches.

        Args:
            images: (n, h, w, 3) uint8 RGB, or a list of them of several sizes; they are resized and cropped as the
                settings say.
            mode: see `Mode`; default: the server's.

        Raises:
            TypeError: images that are not uint8.
            InputError: no images, another shape, an unknown mode, or one that the model has no thresholds for.
        """
        start = time.perf_counter()
        check_fork()
        images = self._cut(images)
        chosen = self.settings.mode if mode is None else Mode.parse(mode)
        parts, compiled = [], False
        for first in range(0, len(images), self.settings.max_count):
            part = images[first : first + self.settings.max_count]
            found, made = self._serve_by(chosen, part)
            parts.append(found)
            compiled = compiled or made
        probabilities, exits = (np.concatenate(column) for column in zip(*parts, strict=True))
        return Answers(
            labels=probabilities.argmax(-1),
            probabilities=probabilities,
            exits=exits,
            macs=np.asarray(self.settings.macs)[exits],
            seconds=time.perf_counter() - start,
            compiled=compiled,
        )

    def stream(
        self,
        images: Iterable[UInt8[np.ndarray, "_ _ 3"]],
        *,
        batch_size: int = 1,
        mode: str | None = None,
    ) -> Iterator[Answers]:
        """Classifies images as they come, `batch_size` together; an `Answers` of one image each, in order.

        Raises:
            InputError: a batch size below 1; or as for calls.
        """
        if batch_size < 1:
            raise InputError(f"stream: batch_size is {batch_size}; expected 1 or more")
        coming = iter(images)
        while batch := list(itertools.islice(coming, batch_size)):
            answers = self(batch, mode=mode)
            for i in range(len(batch)):
                own = {
                    name: getattr(answers, name)[i : i + 1]
                    for name in ("labels", "probabilities", "exits", "macs")
                }
                yield dataclasses.replace(answers, **own)

    def warm_up(self) -> None:
        """Compiles all programs, so that no call does, and times them for mode "latency"."""
        for program in self.settings.programs:
            self._programs.get(program)
        if self.settings.mode.kind == "latency":
            for count in self.settings.counts:
                self.latencies(count)

    def latencies(self, count: int) -> dict[int, float]:
        """Seconds of a bucket of images up to each exit, if all get there; measured once.

        The slowest of some runs, so that a target that one fits is met by nearly all calls.
        """
        return self._table(count)[0]

    def _table(self, count: int) -> tuple[dict[int, float], bool]:
        images = np.zeros((count, *self.settings.crop, 3), np.uint8)

        def measure() -> dict[int, float]:
            exits = range(len(self.settings.macs))
            never = np.full(len(exits), NEVER)
            return slowest(lambda last: self._serve(images, never, last), exits)

        return self._latencies.get(count, measure)

    def _cut(self, images: Any) -> UInt8[np.ndarray, "n h w 3"]:
        """The images as the network sees them."""
        if not len(images):
            raise InputError("there are no images; give at least one")
        if isinstance(images, np.ndarray):
            check_images(images)
            as_seen = images.shape[1:3] == self.settings.crop
            if as_seen and self.settings.resize in (None, min(self.settings.crop)):
                return images
        else:
            for image in images:
                check_images(np.asarray(image)[None])
        crop = CenterCrop(self.settings.crop, self.settings.resize)
        return np.stack([crop(image)[0] for image in images])

    def _thresholds(self, mode: Mode) -> tuple[Float[np.ndarray, "exits"], int]:
        """A threshold per exit, and the last exit."""
        fits, exits = self.settings.fits, len(self.settings.macs)
        never = np.full(exits, NEVER)
        if mode.kind == "all" or (mode.kind == "latency" and not fits):
            return never, exits - 1
        if mode.kind == "exit":
            if mode.value >= exits:
                raise InputError(f"mode {mode}: the exits are 0 to {exits - 1}")
            return never, int(mode.value)
        if mode.kind == "budget":
            fit = within_budget(fits, mode.value)
        elif not fits:
            raise InputError(
                f"mode {mode}: the model has no thresholds; fit them on held-out images, or use mode 'all'"
            )
        elif mode.kind == "q":
            fit = min(fits, key=lambda fit: abs(fit.q - mode.value))
            if abs(fit.q - mode.value) > 1e-6:
                known = ", ".join(f"{fit.q:g}" for fit in fits)
                raise InputError(f"mode {mode}: there are thresholds for q of {known}")
        else:
            fit = within_budget(fits, np.inf)
        return np.asarray(fit.thresholds, np.float32), exits - 1

    def _serve_by(self, mode: Mode, images: UInt8[np.ndarray, "m h w 3"]) -> tuple[Any, bool]:
        thresholds, last = self._thresholds(mode)
        if mode.kind != "latency":
            return self._serve(images, thresholds, last)
        bucket = self._bucket(len(images))
        table, measured = self._table(bucket)
        pace = self._pace.value
        last = max((k for k, s in table.items() if s * pace <= mode.value), default=0)
        start = time.perf_counter()
        (found, exits), made = self._serve(images, thresholds, last)
        if not made and exits.max() == last:  # Else less ran than what was timed.
            self._pace.observe(time.perf_counter() - start, table[last])
        return (found, exits), made or measured

    def _bucket(self, count: int) -> int:
        return round_to_bucket(count, self.settings.max_count, self.settings.bucket_step)

    def _serve(
        self,
        images: UInt8[np.ndarray, "m h w 3"],
        thresholds: Float[np.ndarray, "exits"],
        last: int,
    ) -> tuple[tuple[np.ndarray, np.ndarray], bool]:
        """Probabilities and exits of at most `max_count` images; and whether a program was compiled."""
        count, found = len(images), None
        exits = np.full(count, last)
        size = self._bucket(count)
        carried: Any = (images if size == count else _filled(images, size),)
        left = rows = np.arange(count)  # Images that are left, and where in the batch they are.
        compiled = False
        for k in range(last + 1):
            run, made = self._programs.get(Program(k, size))
            compiled |= made
            probabilities, carried = run(carried)
            own = np.asarray(probabilities)[rows]
            if found is None:
                found = np.empty((count, own.shape[1]), np.float32)
            leaves = (own.max(-1) >= thresholds[k]) | (k == last)
            found[left[leaves]], exits[left[leaves]] = own[leaves], k
            left, rows = left[~leaves], rows[~leaves]
            if not left.size:
                break
            fewer = self._bucket(left.size)
            if fewer < size:
                pick, made = self._programs.get(Program(k + 1, fewer, size))
                compiled |= made
                carried = pick(carried, _filled(rows.astype(np.int32), fewer))
                size, rows = fewer, np.arange(left.size)
        assert found is not None
        return (found, exits), compiled


def _filled(rows: np.ndarray, size: int) -> np.ndarray:
    """The rows, and the last one again and again."""
    return np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), 0)])
