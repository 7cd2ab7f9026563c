"""Pictures from files: images of any kind, and the frames of videos."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segblocks_jax.errors import InvalidInputError, MissingFileError
from segblocks_jax.ops.checks import no_type_check

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg")


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Picture:
    """An image of a file, or why there is none.

    Attributes:
        file: where it comes from.
        frame: its number in a video, from 0; None for an image file.
        image: (h, w, 3) RGB; None where it couldn't be read.
        error: the reason, or None.
    """

    file: pathlib.Path
    frame: int | None = None
    image: UInt8[np.ndarray, "h w 3"] | None = None
    error: str | None = None


def find_files(path: pathlib.Path, output: pathlib.Path | None = None) -> list[pathlib.Path]:
    """The image or video itself, or all of a folder and its subfolders, sorted.

    Args:
        path: an image, a video or a folder.
        output: folder for the results; what lies there is no input.

    Raises:
        FileNotFoundError: no such path, or a folder without images and videos.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise MissingFileError(f"{path}: no such image, video or folder")
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    results = None if output is None else output.resolve()
    files = sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in suffixes and p.is_file() and results not in p.resolve().parents
    )
    if not files:
        raise MissingFileError(f"{path}: no images or videos ({', '.join(suffixes)}) here")
    return files


def is_video(file: pathlib.Path) -> bool:
    """By its suffix."""
    return file.suffix.lower() in VIDEO_SUFFIXES


def read_image(file: pathlib.Path) -> UInt8[np.ndarray, "h w 3"]:
    """Reads an image as RGB.

    Raises:
        ValueError: not an image, or a broken one.
    """
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except Exception as error:  # Decoders fail in many ways; none may stop the other files.
        raise InvalidInputError(
            f"can't read this image ({error}); is the file complete?"
        ) from error


def count_pictures(file: pathlib.Path) -> int:
    """1 for an image; a video's number of frames, as far as the file tells it."""
    if not is_video(file):
        return 1
    try:
        import av

        with av.open(str(file)) as container:
            return max(container.streams.video[0].frames, 1)
    except Exception:  # What is wrong is said when it is read.
        return 1


def read_pictures(file: pathlib.Path) -> Iterator[Picture]:
    """The picture of an image file, or the frames of a video, one after the other; errors as pictures."""
    if is_video(file):
        yield from _read_video(file)
        return
    try:
        yield Picture(file, image=read_image(file))
    except ValueError as error:
        yield Picture(file, error=str(error))


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
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                yield Picture(file, number, frame.to_ndarray(format="rgb24"))
                number += 1
    except Exception as error:  # Decoders fail in many ways; none may stop the other files.
        reason = f"can't read this video behind frame {number} ({error}); is the file complete?"
        yield Picture(file, number, error=reason)
        return
    if number == 0:
        yield Picture(file, error="this video has no frames")
