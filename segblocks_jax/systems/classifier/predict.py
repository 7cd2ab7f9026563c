"""Prediction on files: the likeliest classes of each picture, on the screen and as JSON."""

import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.data import images
from segblocks_jax.inference.files import Picture, find_files, read_pictures
from segblocks_jax.inference.result_files import name_results, save_result
from segblocks_jax.paths import check_writable
from segblocks_jax.progress import Progress
from segblocks_jax.tasks.classification.result import Classification
from segblocks_jax.training.logging import write_json

_TOP = 5
PREDICTIONS = "predictions.json"
Draw = Callable[[UInt8[np.ndarray, "h w 3"]], Mapping[str, UInt8[np.ndarray, "_ _ 3"]]]
"""Pictures of what a network does on an image, by name."""
_KINDS = ("masks", "computation", "pose")
Save = Callable[[Picture, Mapping[str, UInt8[np.ndarray, "_ _ 3"]]], None]
"""Writes what was drawn of a picture, by name, one of `_KINDS`."""
Find = Callable[[list[Picture]], list[dict[str, Any]]]
"""Pictures -> a record of each, for JSON."""


@runtime_checkable
class ClassifyImages(Protocol):
    """What classifies images: an `Engine`."""

    def __call__(self, images: Any, /) -> Classification:
        """Classifies images."""


def predict_inputs(
    load: Callable[[], Any],
    engine_of: Callable[[Any], ClassifyImages],
    draw_of: Callable[[Any], Draw | None],
    class_names: tuple[str, ...],
    source: str,
    output: pathlib.Path,
    *,
    batch_size: int = 1,
    max_pixels: int = images.MAX_PIXELS,
) -> int:
    """Classifies an image, a video, or all of a folder; prints a line each and writes `predictions.json`.

    Args:
        load: gives the trained modules; called where there is an input.
        engine_of: gives what classifies by the modules.
        draw_of: gives what draws pictures of an image, if anything does; they are written beside the JSON, as
            FILE_NAME.png under names that overwrite nothing.
        class_names: in the order of the labels.
        source: file or folder.
        output: folder of the results.
        batch_size: pictures that are taken together.
        max_pixels: larger images are refused, here and in the rest of the process.

    Returns:
        The exit code, 1 where a picture could not be read.

    Raises:
        FileNotFoundError: there is no input.
        UnwritableError: `output` can't be written.
    """
    output = check_writable(output)

    def prepare(save: Save) -> Find:
        modules = load()
        engine, draw = engine_of(modules), draw_of(modules)

        def find(pictures: list[Picture]) -> list[dict[str, Any]]:
            records = _classify(engine, class_names, pictures)
            for picture in pictures if draw is not None else ():
                assert draw is not None
                assert picture.image is not None
                save(picture, draw(picture.image))
            return records

        return find

    records, failed = find_in_pictures(
        prepare, source, output, batch_size=batch_size, max_pixels=max_pixels
    )
    for record in records:
        print(_line(record))
    write_json(output / PREDICTIONS, {"pictures": records})
    print(f"{len(records)} pictures classified, {failed} failed; results in {output}")
    return 1 if failed else 0


def find_in_pictures(
    prepare: Callable[[Save], Find],
    source: str,
    output: pathlib.Path,
    *,
    batch_size: int = 1,
    max_pixels: int = images.MAX_PIXELS,
) -> tuple[list[dict[str, Any]], int]:
    """The records of all pictures of an input, and how many could not be read, which are named; makes `output`.

    Args:
        prepare: gives what makes records of pictures, and saves what it draws; called where there is an input.
        source: a picture, a video, or a folder.
        output: folder of the results, none of which is an input.
        batch_size: pictures that are taken together.
        max_pixels: larger images are refused, here and in the rest of the process.

    Raises:
        FileNotFoundError: there is no input.
    """
    images.allow_pixels(max_pixels)
    files = find_files(pathlib.Path(source), output)
    names = name_results(files, output, _KINDS)

    def save(picture: Picture, drawn: Mapping[str, UInt8[np.ndarray, "_ _ 3"]]) -> None:
        frame = "" if picture.frame is None else f"_{picture.frame:06d}"
        for kind, pixels in drawn.items():
            save_result(output / f"{names[picture.file]}{frame}_{kind}.png", pixels)

    find = prepare(save)
    output.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    failed = 0
    with Progress("predict", len(files), images_per_step=1) as progress:
        pictures = (picture for file in files for picture in read_pictures(file))
        for batch in _batches(pictures, batch_size):
            for picture in batch:
                if picture.image is None:
                    failed += 1
                    print(f"error: {picture.file}: {picture.error}", file=sys.stderr)
            good = [picture for picture in batch if picture.image is not None]
            records += find(good) if good else []
            progress.update(min(len(records) + failed, len(files)))
    return records, failed


def _classify(
    engine: ClassifyImages, class_names: tuple[str, ...], pictures: list[Picture]
) -> list[dict[str, Any]]:
    result = engine([picture.image for picture in pictures])
    records = []
    for picture, shares in zip(pictures, result.probabilities, strict=True):
        first = np.argsort(-shares, kind="stable")[:_TOP]
        records.append(
            {
                "file": str(picture.file),
                "frame": picture.frame,
                "classes": [class_names[i] for i in first],
                "probabilities": [float(shares[i]) for i in first],
                "seconds": result.seconds / len(pictures),
            }
        )
    return records


def _line(record: Mapping[str, Any]) -> str:
    frame = "" if record["frame"] is None else f" frame {record['frame']}"
    found = zip(record["classes"], record["probabilities"], strict=True)
    return f"{record['file']}{frame}: " + ", ".join(f"{name} {share:.1%}" for name, share in found)


def _batches(pictures: Iterator[Picture], most: int) -> Iterator[list[Picture]]:
    batch: list[Picture] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == most:
            yield batch
            batch = []
    if batch:
        yield batch
