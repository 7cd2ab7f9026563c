"""Pictures from files: images and their pages, and frames of videos."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import UInt8

from segblocks_jax.errors import extra
from segblocks_jax.paths import expand

with extra("images", "reading image files"):
    from PIL import Image, ImageFile

from segblocks_jax.data import images
from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.inference.result_files import is_result
from segblocks_jax.ops import no_type_check

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg")


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """An image of a file, or why there is none.

    Attributes:
        file: where it comes from.
        frame: its number in a video or among an image's pages, from 0; None for the only one of an image.
        image: (h, w, 3) RGB, turned as it is to be shown; None where it couldn't be read.
        error: the reason, or None.
    """

    file: pathlib.Path
    frame: int | None = None
    image: UInt8[np.ndarray, "h w 3"] | None = None
    error: str | None = None


def find_files(path: pathlib.Path, output: pathlib.Path | None = None) -> list[pathlib.Path]:
    """The image or video itself, or all of a folder and its subfolders, sorted; a warning counts what else is there.

    Where the folder of results, `output`, lies inside `path`, what is in it is no input; else only results of
    earlier predictions in it are none. Raises FileNotFoundError where nothing is found, ValueError where the folder
    can't be read.
    """
    path, output = expand(path), None if output is None else expand(output)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MissingFileError(f"{path}: no such image, video or folder")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"{path}: this folder can't be read; ask for the permission to read it")
    found, left_out = [], collections.Counter[str]()
    for file in sorted(path.rglob("*")):
        if reason := _left_out(file, path, output):
            left_out[reason] += 1
        elif not file.is_dir():
            found.append(file)
    counts = ", ".join(f"{reason}: {count}" for reason, count in sorted(left_out.items()))
    if not found:
        known = ", ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        raise MissingFileError(
            f"{path}: no images or videos ({known}) here" + (f", but {counts}" if counts else "")
        )
    if counts:
        logging.warning("%s: left out %s", path, counts)
    return found


def _left_out(file: pathlib.Path, top: pathlib.Path, output: pathlib.Path | None) -> str | None:
    """Why an entry of a folder is no input; None for inputs and plain folders."""
    if any(part.startswith(".") for part in file.relative_to(top).parts):
        return None if file.is_dir() else "hidden"
    if file.is_symlink() and not file.exists():
        return "broken links"
    if file.is_dir():
        if file.is_symlink():
            return "links to folders"
        return None if os.access(file, os.R_OK | os.X_OK) else "unreadable folders"
    suffix = file.suffix.lower()
    if suffix not in IMAGE_SUFFIXES + VIDEO_SUFFIXES:
        return suffix or "without suffix"
    if not file.is_file():
        return "not files"
    if output is None:
        return None
    inside = output.resolve() in file.resolve().parents
    apart = top.resolve() in output.resolve().parents
    return "results" if inside and (apart or is_result(file)) else None


def is_video(file: pathlib.Path) -> bool:
    """By its suffix."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def read_image(file: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image, the first of several in a file, as RGB, turned as it is to be shown.

    Raises ValueError, which says what helps, where it is broken, no image, or can't become 8-bit RGB.
    """
    picture = next(_read_pages(file))
    if picture.image is None:
        raise InputError(f"{file}: {picture.error}")
    return picture.image


def count_pictures(file: pathlib.Path) -> int:
    """The number of an image's pages or a video's frames, as far as the file tells it; at least 1."""
    try:
        if not is_video(file):
            with Image.open(file) as image:
                return len(images.pages(image)[0])
        import av

        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            seconds = (container.duration or 0) / av.time_base
            return max(stream.frames or round(seconds * (stream.average_rate or 0)), 1)
    except Exception:  # What is wrong is said when it is read.
        return 1


def read_pictures(file: pathlib.Path) -> Iterator[Picture]:
    """The pages of an image file, or the frames of a video, one after the other; errors as pictures."""
    yield from (_read_video if is_video(file) else _read_pages)(file)


def _read_pages(file: pathlib.Path) -> Iterator[Picture]:
    try:
        with Image.open(file) as image:
            pages, others = images.pages(image)
            if others:
                logging.warning("%s: left out %d smaller or hidden pictures in it", file, others)
            for number, page in enumerate(pages):
                yield _read_page(file, image, page, number if len(pages) > 1 else None)
    except Exception as error:  # Decoders fail in many ways; none may stop the other files.
        yield Picture(file, error=f"can't read this image: {images.explain(error)}")


def _read_page(
    file: pathlib.Path, image: ImageFile.ImageFile, page: int, number: int | None
) -> Picture:
    try:
        image.seek(page)
        pixels = images.read_rgb(image)
        return Picture(file, number, images.as_shown(pixels, images.orientation(image)))
    except Exception as error:
        which = "this image" if number is None else f"page {number}"
        return Picture(file, number, error=f"can't read {which}: {images.explain(error)}")


def _read_video(file: pathlib.Path) -> Iterator[Picture]:
    try:
        import av
    except ImportError:
        reason = "videos need PyAV; pip install 'segblocks-jax[video]'"
        yield Picture(file, error=reason)
        return
    number = 0
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                kinds = ", ".join(sorted({stream.type for stream in container.streams}))
                reason = (
                    f"it holds no picture, only {kinds or 'a header'}; give a video or an image"
                )
                yield Picture(file, error=reason)
                return
            if others := len(container.streams.video) - 1:
                logging.warning("%s: left out %d further video streams", file, others)
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24")
                yield Picture(file, number, _as_shown(pixels, frame.side_data.get("DISPLAYMATRIX")))
                number += 1
            promised = container.streams.video[0].frames
    except Exception as error:  # Decoders fail in many ways; none may stop the other files.
        reason = f"can't read this video behind frame {number} ({error}); is the file complete?"
        yield Picture(file, number, error=reason)
        return
    if number == 0:
        yield Picture(file, error="this video has no frames; is the file complete?")
    elif number < promised:
        logging.warning("%s: its header says %d frames, but it has %d", file, promised, number)


def _as_shown(pixels: UInt8[np.ndarray, "_ _ 3"], matrix: Any) -> UInt8[np.ndarray, "_ _ 3"]:
    """Turns a frame by FFmpeg's display matrix: x' = ax + cy, y' = bx + dy."""
    if matrix is None:
        return pixels
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).tolist()
    if a == d == 0 and b and c:
        return images.turn(pixels, swap=True, across=c < 0, down=b < 0)
    return images.turn(pixels, swap=False, across=a < 0, down=d < 0)
