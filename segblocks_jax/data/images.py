"""Image files as 8-bit RGB: the one place that asks Pillow for pixels.

Deeper pixels are scaled to 8 bits from the smallest of 8, 10, 12, 14 and 16 bits that holds the largest
value of their image; fractions up to 1 are scaled from 1. What has no such scale is refused, so that no
levels are lost in silence. Transparency is ignored: the colors below it count.
"""

import io
import re
import warnings

import numpy as np
from jaxtyping import Integer, Num, UInt8
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from segblocks_jax.data.dataset import Kind
from segblocks_jax.errors import InputError

MAX_PIXELS = 178_956_970
"""Of an image that commands read, unless they are told another number; Pillow's own limit."""
_TOPS = (255, 1023, 4095, 16383, 65535)
_REMEDY = "save it with 8 bits per channel"
# Of each kind, Pillow's modes, and what to say of another.
_KINDS = {
    "image": (("RGB", "RGBA", "L", "P", "CMYK"), "an image must have 8 bits per channel"),
    "ids": (("L",), "a label must have one 8-bit channel of ids"),
    "palette": (("L", "P"), "a label must have one 8-bit channel of ids or palette indices"),
    "numbers": (
        ("1", "L", "I", "I;16", "I;16B"),
        "a label must have one channel of ids, of at most 16 bits, and no palette",
    ),
    "colors": (("RGB",), "a label must be an RGB picture in the colors of the classes"),
}
_PNG = b"\x89PNG\r\n\x1a\n"
_PLAIN = {"image": b"\x08\x02", "ids": b"\x08\x00"}  # Bit depth and color type in a PNG's header.


def allow_pixels(count: int) -> None:
    """Sets Pillow's limit, which holds in the whole process: images of more pixels are refused."""
    Image.MAX_IMAGE_PIXELS = -(-count // 2)  # Pillow warns above it and raises above twice as many.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def stored_mode(image: ImageFile.ImageFile) -> str:
    """Pillow's mode; with ";16" behind it where Pillow drops the lower half of 16-bit colors."""
    deep = any(";16" in str(tile[3]) for tile in image.tile) and len(image.getbands()) > 1
    return f"{image.mode};16" if deep else image.mode


def read_rgb(image: ImageFile.ImageFile) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the page that an opened image is at, turned as stored.

    Raises InputError for pixels without a scale, and whatever Pillow raises for a broken file.
    """
    mode = stored_mode(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        gray = _scale(np.asarray(image), mode)
        # A TIFF may store black as the largest value; Pillow heeds that in 8 bits only.
        white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0
        return np.stack([255 - gray if white_is_zero else gray] * 3, axis=-1)
    # Pillow warns where a palette loses its transparency on the direct way.
    whole = image.convert("RGBA") if "transparency" in image.info else image
    pixels = np.array(whole.convert("RGB"))
    if mode.endswith(";16") and pixels.max(initial=0) < 64:
        raise InputError(
            f"mode {mode}: of its 16 bits per channel the upper two are empty, so that few levels would "
            f"be left of it; {_REMEDY}"
        )
    return pixels


def _scale(values: Num[np.ndarray, "h w"], mode: str) -> UInt8[np.ndarray, "h w"]:
    low, high = values.min(initial=0), values.max(initial=0)
    tops = (1, *_TOPS) if mode == "F" else _TOPS
    top = next((top for top in tops if low >= 0 and high <= top), None)  # NaN is never at most top.
    if top is None:
        raise InputError(
            f"mode {mode}: pixels go from {low} to {high}, expected finite numbers from 0 to {tops[-1]}, "
            f"none negative; {_REMEDY}"
        )
    return np.rint(values * np.float32(255 / top)).astype(np.uint8)


def orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation in which an image is to be shown, 1 to 8; 1 where it has none."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises many things for broken tags; the pixels may be whole.
        return 1
    return value if value in range(1, 9) else 1


def turn(
    pixels: UInt8[np.ndarray, "_ _ *c"], swap: bool, across: bool, down: bool
) -> UInt8[np.ndarray, "_ _ *c"]:
    """Swaps rows and columns, then mirrors across the width and down the height."""
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(pixels[:: -1 if down else 1, :: -1 if across else 1])


def as_shown(pixels: UInt8[np.ndarray, "_ _ *c"], orientation: int) -> UInt8[np.ndarray, "_ _ *c"]:
    """Turns stored pixels by an EXIF orientation."""
    return turn(pixels, orientation > 4, orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8))


def pages(image: ImageFile.ImageFile) -> tuple[list[int], int]:
    """The pages of an opened image to read, and how many pictures beside them are left out.

    None are smaller copies in a TIFF, and what cameras put behind a JPEG: previews, depth maps.
    """
    if image.format != "TIFF":
        count = getattr(image, "n_frames", 1)
        return ([0], count - 1) if image.format == "MPO" else (list(range(count)), 0)
    found, page, left_out = [], 0, 0
    try:
        while True:
            image.seek(page)
            smaller = image.tag_v2.get(254, 0) & 1  # type: ignore[attr-defined]  # NewSubfileType
            left_out += smaller
            found += [] if smaller else [page]
            page += 1
    except EOFError:
        pass
    except Exception:  # What is wrong with this page is said when it is read.
        found.append(page)
    return found or [0], left_out


def explain(error: Exception) -> str:
    """Why an image can't be read, and what helps."""
    if isinstance(error, InputError) or getattr(error, "errno", None) is not None:
        return str(error)
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        found = re.search(r"\d+", str(error))
        count = int(found.group()) if found else 0
        return (
            f"it has {count:,} pixels, more than are allowed; predict with --max_pixels={count}, or in "
            f"Python set PIL.Image.MAX_IMAGE_PIXELS = {count}, if there is memory for it"
        )
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    if isinstance(error, UnidentifiedImageError):
        return "it holds nothing that Pillow reads; copy it again, or convert it to PNG"
    return f"{str(error) or type(error).__name__}; is the file complete?"


def decode(content: bytes, kind: Kind, where: str) -> Integer[np.ndarray, "h w *c"]:
    """Decodes a whole file with Pillow: uint8 (h, w, 3), or (h, w) for "ids" and "palette", wider for "numbers".

    Raises ValueError, which calls the file `where`, if it is unreadable or of another kind.
    """
    modes, expected = _KINDS[kind]
    try:
        with Image.open(io.BytesIO(content)) as picture:
            mode = stored_mode(picture)
            if mode in modes:
                if mode == "1":  # Pillow's True is any byte but 0.
                    return (np.array(picture.convert("L")) > 0).view(np.uint8)
                return read_rgb(picture) if kind == "image" else np.array(picture)
    except Exception as error:  # Pillow raises many things for broken files.
        raise InputError(f"{where}: can't be read as an image: {explain(error)}") from error
    raise InputError(
        f"{where}: {expected}, got mode {mode}; take the files as published, or save it so."
    )


def decode_checked(content: bytes, kind: Kind, where: str) -> UInt8[np.ndarray, "h w *c"]:
    """`decode` for a file that passed it once: the same pixels, plain PNGs in 0.6 of the time.

    OpenCV filters PNG rows with vector instructions. Everything else takes Pillow: OpenCV would turn
    palettes into colors, and images by their EXIF orientation.
    """
    import cv2

    if content[:8] == _PNG and content[24:26] == _PLAIN.get(kind):
        flags = cv2.IMREAD_GRAYSCALE if kind == "ids" else cv2.IMREAD_COLOR_RGB
        buffer = np.frombuffer(content, np.uint8)
        pixels = cv2.imdecode(buffer, flags | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is not None:
            return pixels
    return decode(content, kind, where)


def encode_ids(ids: UInt8[np.ndarray, "h w"]) -> bytes:
    """A PNG of label ids."""
    file = io.BytesIO()
    Image.fromarray(ids).save(file, "PNG")
    return file.getvalue()


def file_orientation(content: bytes) -> int:
    """The EXIF orientation of a file that passed `decode`, 1 to 8."""
    with Image.open(io.BytesIO(content)) as picture:
        return orientation(picture)


def turn_to_label(
    image: UInt8[np.ndarray, "h w 3"], content: bytes, label: Integer[np.ndarray, "_ _ *c"]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A decoded image as stored, or as its EXIF orientation shows it where only that can fit the label."""
    if image.shape[:2] == label.shape[:2]:
        return image
    turned = as_shown(image, file_orientation(content))
    return turned if turned.shape[:2] == label.shape[:2] else image
