"""Decoding of image and label files: checked when a data set is prepared, fast when it is read."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segblocks_jax.data import images
from segblocks_jax.data.entry import Kind
from segblocks_jax.errors import InputError

_MODES = {
    "image": ("RGB", "RGBA", "L", "P", "CMYK"),
    "ids": ("L",),
    "palette": ("L", "P"),
    "colors": ("RGB",),
}
_EXPECTED = {
    "image": "an image must have 8 bits per channel",
    "ids": "a label must have one 8-bit channel of ids",
    "palette": "a label must have one 8-bit channel of ids or palette indices",
    "colors": "a label must be an RGB picture in the published colors",
}


def decode(content: bytes, kind: Kind, where: str) -> UInt8[np.ndarray, "h w *c"]:
    """Decodes a whole file with Pillow and refuses what isn't of the kind.

    Args:
        content: the file.
        kind: "image" for RGB; "ids" for one 8-bit channel of label ids; "palette" for the same, palette
            indices included; "colors" for labels in colors.
        where: what to call the file in errors.

    Returns:
        (h, w, 3), or (h, w) for "ids" and "palette".

    Raises:
        ValueError: unreadable, or of another kind.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            mode = images.stored_mode(picture)
            if mode in _MODES[kind]:
                return images.read_rgb(picture) if kind == "image" else np.array(picture)
    except Exception as error:  # Pillow raises many things for broken files.
        raise InputError(f"{where}: can't be read as an image: {images.explain(error)}") from error
    raise InputError(
        f"{where}: {_EXPECTED[kind]}, got mode {mode}; take the files as published, or save it so."
    )


def decode_checked(content: bytes, kind: Kind, where: str) -> UInt8[np.ndarray, "h w *c"]:
    """`decode` for a file that passed it once: the same pixels, plain PNGs in 0.6 of the time.

    OpenCV filters PNG rows with vector instructions. Everything else takes Pillow: OpenCV would turn
    palettes into colors, and images by their EXIF orientation.
    """
    import cv2

    plain = _PLAIN_PNG.get((content[:8], content[24:26]))
    if plain == kind:
        flags = cv2.IMREAD_GRAYSCALE if kind == "ids" else cv2.IMREAD_COLOR_RGB
        buffer = np.frombuffer(content, np.uint8)
        pixels = cv2.imdecode(buffer, flags | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is not None:
            return pixels
    return decode(content, kind, where)


def orientation(content: bytes) -> int:
    """The EXIF orientation of a file that passed `decode`, 1 to 8."""
    with Image.open(io.BytesIO(content)) as picture:
        return images.orientation(picture)


def turn_to_label(
    image: UInt8[np.ndarray, "h w 3"], content: bytes, label: UInt8[np.ndarray, "_ _ *c"]
) -> UInt8[np.ndarray, "_ _ 3"]:
    """A decoded image as stored, or as its EXIF orientation shows it where only that can fit the label."""
    if image.shape[:2] == label.shape[:2]:
        return image
    turned = images.as_shown(image, orientation(content))
    return turned if turned.shape[:2] == label.shape[:2] else image


# Signature, then bit depth and color type of the header chunk.
_PLAIN_PNG: dict[tuple[bytes, bytes], Kind] = {
    (b"\x89PNG\r\n\x1a\n", b"\x08\x02"): "image",
    (b"\x89PNG\r\n\x1a\n", b"\x08\x00"): "ids",
}
