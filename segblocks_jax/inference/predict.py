"""Prediction on files: label maps, overlays and the policy's grid as PNG.

Files are read ahead, and results written, while the engine computes.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import pathlib
import threading
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.data import pad_to_multiple
from segblocks_jax.errors import InputError
from segblocks_jax.inference.files import Picture, count_pictures, read_pictures
from segblocks_jax.inference.result_files import name_results, save_result
from segblocks_jax.paths import expand
from segblocks_jax.progress import Progress
from segblocks_jax.tasks.segmentation import pictures
from segblocks_jax.tasks.segmentation.labels import LabelTable
from segblocks_jax.tasks.segmentation.result import Segmentation

_READ_AHEAD = 4  # Pictures beyond a batch.
_WRITERS = 2


@runtime_checkable
class Segmenter(Protocol):
    """What segments images: an `Engine` or `ExportedEngine`."""

    multiple: int

    @property
    def learned(self) -> bool:
        """Whether scores are a learned policy's logits."""

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"], /) -> Segmentation:
        """Segments images of one size."""


def predict_files(
    engine: Segmenter,
    table: LabelTable,
    files: list[pathlib.Path],
    output: pathlib.Path,
    *,
    batch_size: int = 1,
    side_by_side: bool = False,
) -> list[tuple[pathlib.Path, str]]:
    """Segments image files and videos of any size.

    Writes ``NAME_labels.png`` (train ids with the data set's palette, of the image's size),
    ``NAME_overlay.png`` and, in blocks, ``NAME_grid.png`` (the blocks with the policy's
    probabilities); of a video or an image of several pages, ``NAME/frame_000000_labels.png`` and so on.
    NAME is the file's without its suffix, longer where two would have one. A file that can't be read or
    segmented doesn't stop the others.

    Args:
        engine: an `Engine` or `ExportedEngine`.
        table: of the classes.
        files: images and videos, see `segblocks_jax.inference.files.find_files`.
        output: folder, made where it is missing.
        batch_size: pictures of one size that follow each other are segmented together, up to so many.
        side_by_side: writes ``NAME_side_by_side.png`` too: input, labels, grid.

    Returns:
        The files that failed, each with the first reason.
    """
    if batch_size < 1:
        raise InputError(f"predict: batch_size is {batch_size}; expected 1 or more")
    output = expand(output)
    names = name_results(files, output)
    failed: dict[pathlib.Path, str] = {}
    promised = {file: count_pictures(file) for file in files}
    done, total = 0, sum(promised.values())
    everything = itertools.chain.from_iterable(map(read_pictures, files))
    with (
        Progress("predict", total, images_per_step=1) as progress,
        _Writers(2 * batch_size + _WRITERS) as writers,
    ):
        for batch in _batches(_read_ahead(everything, batch_size + _READ_AHEAD), batch_size):
            for picture, maps in _segment(engine, batch):
                if maps is None:
                    failed.setdefault(picture.file, picture.error or "")
                else:
                    stem = output / names[picture.file]
                    if picture.frame is not None:
                        stem /= f"frame_{picture.frame:06}"
                    writers.write(picture.file, maps, stem, table, engine.multiple, side_by_side)
            done += len(batch)
            total += sum((p.frame or 0) >= promised[p.file] for p in batch)
            progress.update(done, total=total)
        progress.update(done, total=done)
    for file, reason in writers.failed:
        failed.setdefault(file, reason)
    return list(failed.items())


_Maps = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]
"""A picture's image, its labels, what the policy chose, None without blocks, its logits if it is learned."""


def _segment(engine: Segmenter, batch: list[Picture]) -> Iterator[tuple[Picture, _Maps | None]]:
    """Each picture with its maps, or None and the picture's error."""
    if batch[0].image is None:
        yield batch[0], None
        return
    try:
        results = _results(engine, batch)
    except (ValueError, RuntimeError, MemoryError) as error:
        if len(batch) == 1:
            frame = "" if batch[0].frame is None else f"frame {batch[0].frame}: "
            reason = f"{frame}can't be segmented ({str(error) or type(error).__name__})"
            yield dataclasses.replace(batch[0], image=None, error=reason), None
            return
        for picture in batch:  # So that only those fail that can't be segmented alone.
            yield from _segment(engine, [picture])
        return
    yield from zip(batch, results, strict=True)


def _results(engine: Segmenter, batch: list[Picture]) -> list[_Maps]:
    images = [picture.image for picture in batch if picture.image is not None]
    result = engine(np.stack(images))
    assert result.labels is not None
    logits = result.scores if engine.learned else None
    nothing = [None] * len(batch)
    maps = (nothing if x is None else x for x in (result.mask, logits))
    return list(zip(images, result.labels, *maps, strict=True))


def _read_ahead(items: Iterable[Picture], most: int) -> Iterator[Picture]:
    """The same items, made by a thread that is up to `most` ahead."""
    iterator = iter(items)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending = collections.deque(pool.submit(next, iterator, None) for _ in range(most))
        try:
            while (item := pending.popleft().result()) is not None:
                pending.append(pool.submit(next, iterator, None))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


def _batches(items: Iterable[Picture], most: int) -> Iterator[list[Picture]]:
    """Neighbors of one size together; pictures that couldn't be read each alone."""

    def shape(picture: Picture) -> tuple[int, ...] | None:
        return None if picture.image is None else picture.image.shape

    for size, alike in itertools.groupby(items, shape):
        while batch := list(itertools.islice(alike, most if size else 1)):
            yield batch


class _Writers(concurrent.futures.ThreadPoolExecutor):
    """Threads that write; whoever asks them to waits where too much is pending."""

    def __init__(self, most: int) -> None:
        super().__init__(_WRITERS)
        self.failed: list[tuple[pathlib.Path, str]] = []
        self._room = threading.Semaphore(most)

    def write(self, file: pathlib.Path, *arguments: Any) -> None:
        self._room.acquire()
        future = self.submit(_write, *arguments)
        future.add_done_callback(functools.partial(self._finish, file))

    def _finish(self, file: pathlib.Path, future: concurrent.futures.Future[None]) -> None:
        self._room.release()
        if (error := future.exception()) is not None:
            if not isinstance(error, OSError):
                traceback.print_exception(error)
            self.failed.append(
                (file, f"can't write its results ({str(error) or type(error).__name__})")
            )


def _write(
    maps: _Maps, stem: pathlib.Path, table: LabelTable, multiple: int, side_by_side: bool
) -> None:
    image, labels, mask, scores = maps
    save_result(f"{stem}_labels.png", labels, table.colors)
    save_result(f"{stem}_overlay.png", pictures.overlay(image, labels, table.colors))
    padded = pad_to_multiple(image, multiple, (0, 0, 0))
    shown = pictures.panels(padded, labels, table.colors, mask, scores)
    *_, last = shown.values()
    if mask is not None:
        save_result(f"{stem}_grid.png", last)
    if side_by_side:
        row = pictures.side_by_side(list(shown.values()), list(shown))
        save_result(f"{stem}_side_by_side.png", row)
