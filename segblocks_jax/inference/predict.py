"""Prediction on files: label maps, overlays and the policy's grid as PNG, and a record of each file.

Files are read ahead, and results written, while the engine computes.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from absl import logging
from jaxtyping import UInt8

from segblocks_jax.data import images
from segblocks_jax.errors import InputError, MissingFileError, UserError
from segblocks_jax.inference.files import Picture, count_pictures, find_files, read_pictures
from segblocks_jax.inference.result_files import Job, make_jobs
from segblocks_jax.inference.result_writer import WRITERS, FileWriter, Segmented, Style, Writers
from segblocks_jax.paths import check_writable, expand
from segblocks_jax.progress import Progress
from segblocks_jax.tasks.segmentation.labels import LabelTable
from segblocks_jax.tasks.segmentation.result import Segmentation

_READ_AHEAD = 4  # Pictures beyond a batch.

Failures = list[tuple[pathlib.Path, str]]
"""Files, each with the first reason why something of it is missing."""


@runtime_checkable
class Segmenter(Protocol):
    """What segments images: an `Engine` or `ExportedEngine`."""

    multiple: int

    @property
    def learned(self) -> bool:
        """Whether scores are a learned policy's logits."""

    def __call__(self, images: UInt8[np.ndarray, "n h w 3"], /) -> Segmentation:
        """Segments images of one size."""

    def gmacs(self, size: tuple[int, int], share: float) -> float | None:
        """10^9 multiply-adds of an image (h, w) at a share of high blocks; None where it is unknown."""


def predict_inputs(
    make_engine: Callable[[], Segmenter],
    table: LabelTable,
    inputs: Sequence[str],
    output: pathlib.Path,
    *,
    settings: Mapping[str, Any],
    shard: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    max_pixels: int = images.MAX_PIXELS,
    **options: Any,
) -> int:
    """The commands' prediction: prints a line per file, and what failed; gives the exit code, 1 where a file failed.

    Args:
        make_engine: called where there is something to do.
        table: of the classes.
        inputs: images, videos, and folders of both. One that isn't there counts as failed, if another one is.
        output: folder of the results, see `predict_files`.
        settings: plain values that the results depend on, beside the files and `options`.
        shard: (i, n), from (1, n) to (n, n): takes only every n-th file, from the i-th on.
        overwrite: takes files, too, whose results by these settings are there.
        max_pixels: larger images are refused, here and in the rest of the process.
        options: of `predict_files`.

    Raises:
        FileNotFoundError: there is no input at all.
        UnwritableError: `output` can't be written.
    """
    images.allow_pixels(max_pixels)
    output = check_writable(output)
    found, failed = _find_all(inputs, output)
    jobs = make_jobs(found, output, {**settings, **options})[shard[0] - 1 :: shard[1]]
    todo = [job for job in jobs if overwrite or not job.is_done()]
    total = len(jobs) + len(failed)
    if todo:
        # The progress bar takes over what is printed, which is right where both go to a terminal.
        stream = None if sys.stdout.isatty() else sys.stdout
        report = functools.partial(print, file=stream, flush=True)
        failed += predict_files(make_engine(), table, todo, report=report, **options)
    before = f" ({len(jobs) - len(todo)} of them before)" if len(todo) < len(jobs) else ""
    failures = f", {len(failed)} failed" if failed else ""
    print(
        f"{total - len(failed)} of {total} files segmented{before}{failures}; results in {output}"
    )
    for file, reason in failed:
        logging.error("%s: %s", file, reason)
    return 1 if failed else 0


def _find_all(inputs: Sequence[str], output: pathlib.Path) -> tuple[list[pathlib.Path], Failures]:
    """The files, each once, and the inputs that hold none."""
    found: dict[pathlib.Path, None] = {}
    failed: Failures = []
    for name in inputs:
        try:
            found |= dict.fromkeys(find_files(pathlib.Path(name), output))
        except UserError as error:
            failed.append((expand(name), str(error).removeprefix(f"{expand(name)}: ")))
    if not found:
        raise MissingFileError("; ".join(f"{file}: {reason}" for file, reason in failed))
    return list(found), failed


def predict_files(
    engine: Segmenter,
    table: LabelTable,
    jobs: Sequence[Job],
    *,
    batch_size: int = 1,
    side_by_side: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Failures:
    """Segments image files and videos of any size.

    Writes ``NAME_labels.png`` (train ids with the data set's palette, of the image's size),
    ``NAME_overlay.png`` and, in blocks, ``NAME_grid.png`` (the blocks with the policy's
    probabilities); of a video or an image of several pages, ``NAME/frame_000000_labels.png`` and so on.
    ``NAME_result.json`` comes last, where nothing is missing. A file that can't be read or segmented doesn't stop
    the others.

    Args:
        engine: an `Engine` or `ExportedEngine`.
        table: of the classes.
        jobs: images and videos, see `segblocks_jax.inference.result_files.make_jobs`.
        batch_size: pictures of one size that follow each other are segmented together, up to so many.
        side_by_side: writes ``NAME_side_by_side.png`` too: input, labels, grid.
        report: called with a line about each file that is done: its time and operations.

    Returns:
        The files that failed.
    """
    if batch_size < 1:
        raise InputError(f"predict: batch_size is {batch_size}; expected 1 or more")
    style = Style(table, engine.multiple, side_by_side)
    promised = {job.file: count_pictures(job.file) for job in jobs}
    done, total = 0, sum(promised.values())
    everything = itertools.chain.from_iterable(read_pictures(job.file) for job in jobs)
    with (
        Progress("predict", total, images_per_step=1) as progress,
        Writers(2 * batch_size + WRITERS) as pool,
    ):
        writers = [FileWriter(pool, job, style, report) for job in jobs]
        waiting = iter(writers)
        writer = next(waiting, None)
        for batch in _batches(_read_ahead(everything, batch_size + _READ_AHEAD), batch_size):
            for picture, found in _segment(engine, batch):
                while writer is not None and writer.job.file != picture.file:
                    writer.finish()
                    writer = next(waiting, None)
                assert writer is not None
                if found is None:
                    writer.fail(picture.error or "")
                else:
                    writer.add(picture.frame, found)
            done += len(batch)
            total += sum((p.frame or 0) >= promised[p.file] for p in batch)
            progress.update(done, total=total)
        if writer is not None:
            writer.finish()
        progress.update(done, total=done)
    return [(writer.job.file, writer.error) for writer in writers if writer.error is not None]


def _segment(engine: Segmenter, batch: list[Picture]) -> Iterator[tuple[Picture, Segmented | None]]:
    """Each picture with what was found, or None and the picture's error."""
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


def _results(engine: Segmenter, batch: list[Picture]) -> list[Segmented]:
    pixels = [picture.image for picture in batch if picture.image is not None]
    result = engine(np.stack(pixels))
    assert result.labels is not None
    found = []
    for i, image in enumerate(pixels):
        mask = None if result.mask is None else result.mask[i]
        learned = engine.learned and result.scores is not None
        scores = result.scores[i] if learned and result.scores is not None else None
        share = 1.0 if mask is None else float(mask.mean())
        gmacs = engine.gmacs(image.shape[:2], share)
        seconds = result.seconds / len(pixels)
        labels = result.labels[i]
        found.append(Segmented(image, labels, mask, scores, gmacs, seconds, result.compiled))
    return found


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
