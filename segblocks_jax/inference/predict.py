"""Prediction on files: label maps, overlays and the policy's grid as PNG.

Files are read ahead, and results written, while the engine computes.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from segblocks_jax.data import pad_to_multiple
from segblocks_jax.errors import InvalidInputError
from segblocks_jax.inference.files import Picture, count_pictures, is_video, read_pictures
from segblocks_jax.inference.server import Server
from segblocks_jax.ops.checks import no_type_check
from segblocks_jax.progress import Progress
from segblocks_jax.tasks.segmentation import pictures
from segblocks_jax.tasks.segmentation.labels import LabelTable

_READ_AHEAD = 4  # Pictures beyond a batch.
_WRITERS = 2


def predict_files(
    engine: Server,
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
    probabilities); of a video, ``NAME/frame_000000_labels.png`` and so on. A file that can't be read
    or segmented doesn't stop the others.

    Args:
        engine: an `Engine` or `ExportedEngine`.
        table: of the classes.
        files: images and videos, see `segblocks_jax.inference.files.find_files`.
        output: folder, made where it is missing.
        batch_size: pictures of one size that follow each other are segmented together, up to so many.
        side_by_side: writes ``NAME_side_by_side.png`` too: input, labels, grid.

    Returns:
        The files that failed, with the reason.
    """
    if batch_size < 1:
        raise InvalidInputError(f"predict: batch_size is {batch_size}; expected 1 or more")
    names = _names(files)
    failed: list[tuple[pathlib.Path, str]] = []
    done, total = 0, sum(map(count_pictures, files))
    everything = itertools.chain.from_iterable(map(read_pictures, files))
    with (
        Progress("predict", total, images_per_step=1) as progress,
        _Writers(_WRITERS, most=2 * batch_size + _WRITERS) as writers,
    ):
        for batch in _batches(_read_ahead(everything, batch_size + _READ_AHEAD), batch_size):
            try:
                for result in _segment(engine, batch):
                    stem = output / _stem(result.picture, names)
                    arguments = stem, result, table, engine.multiple, side_by_side
                    writers.submit(result.picture.file, _write, *arguments)
            except (ValueError, RuntimeError, MemoryError) as error:
                failed += [(file, str(error)) for file in {p.file for p in batch}]
            done += len(batch)
            progress.update(done)
    return list(dict(failed + writers.failed).items())


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class _Result:
    """A picture, its labels, what the policy chose, None without blocks, and its logits if it is learned."""

    picture: Picture
    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "gh gw"] | None
    scores: Float[np.ndarray, "gh gw"] | None


def _segment(engine: Server, batch: list[Picture]) -> Iterator[_Result]:
    """Raises ValueError where the picture couldn't be read."""
    if batch[0].error is not None:
        raise InvalidInputError(batch[0].error)
    images = np.stack([p.image for p in batch if p.image is not None])
    result = engine(images)
    assert result.labels is not None
    for i, picture in enumerate(batch):
        logits = result.scores if engine.learned else None
        mask, scores = (None if x is None else x[i] for x in (result.mask, logits))
        yield _Result(picture, images[i], result.labels[i], mask, scores)


def _names(files: list[pathlib.Path]) -> dict[pathlib.Path, str]:
    """Equal stems keep their folders and suffixes, so that no result overwrites another."""
    stems = collections.Counter(file.stem for file in files)
    root = os.path.commonpath([file.parent for file in files])
    return {
        file: file.stem if stems[file.stem] == 1 else "_".join(file.relative_to(root).parts)
        for file in files
    }


def _stem(picture: Picture, names: dict[pathlib.Path, str]) -> str:
    name = names[picture.file]
    return f"{name}/frame_{picture.frame:06}" if is_video(picture.file) else name


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
    batch: list[Picture] = []
    for picture in items:
        fits = (
            batch
            and picture.image is not None
            and batch[0].image is not None
            and batch[0].image.shape == picture.image.shape
        )
        if batch and not (fits and len(batch) < most):
            yield batch
            batch = []
        batch.append(picture)
    if batch:
        yield batch


class _Writers:
    """Threads that write; whoever submits waits where too much is pending."""

    def __init__(self, threads: int, most: int) -> None:
        self.failed: list[tuple[pathlib.Path, str]] = []
        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._room = threading.Semaphore(most)
        self._pending: list[tuple[pathlib.Path, concurrent.futures.Future[None]]] = []

    def __enter__(self) -> "_Writers":
        return self

    def submit(self, file: pathlib.Path, write: Callable[..., None], *arguments: object) -> None:
        self._room.acquire()
        future = self._pool.submit(write, *arguments)
        future.add_done_callback(lambda _: self._room.release())
        self._pending = [entry for entry in self._pending if not self._collect(*entry)]
        self._pending.append((file, future))

    def _collect(self, file: pathlib.Path, future: concurrent.futures.Future[None]) -> bool:
        if future.done() and (error := future.exception()) is not None:
            self.failed.append((file, f"can't write its results ({error})"))
        return future.done()

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for entry in self._pending:
            self._collect(*entry)


def _write(
    stem: pathlib.Path, result: _Result, table: LabelTable, multiple: int, side_by_side: bool
) -> None:
    image, labels = result.image, result.labels
    stem.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels, "L")
    picture.putpalette(table.colors.tobytes())
    picture.save(f"{stem}_labels.png")
    pictures.save_png(f"{stem}_overlay.png", pictures.overlay(image, labels, table.colors))
    padded = pad_to_multiple(image, multiple, (0, 0, 0))
    shown = pictures.panels(padded, labels, table.colors, result.mask, result.scores)
    *_, last = shown.values()
    if result.mask is not None:
        pictures.save_png(f"{stem}_grid.png", last)
    if side_by_side:
        row = pictures.side_by_side(list(shown.values()), list(shown))
        pictures.save_png(f"{stem}_side_by_side.png", row)
