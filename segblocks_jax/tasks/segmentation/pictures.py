"""Pictures of labels and block grids, as uint8 arrays (h, w, 3) until they are saved."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's orange and sky blue: told apart with every common color blindness.
HIGH_COLOR = (230, 159, 0)
LOW_COLOR = (86, 180, 233)
_RIGHT_COLOR = (0, 114, 178)  # Their blue.
_TITLE_COLOR = (255, 255, 255)


def colorize(
    label: Integer[np.ndarray, "h w"], colors: Integer[np.ndarray, "k 3"], ignore: int = 255
) -> UInt8[np.ndarray, "h w 3"]:
    """Paints every pixel in the color of its class; `ignore` becomes black.

    Args:
      label: class numbers in [0, k), or `ignore`.
      colors: red, green and blue of every class, 0 to 255.
      ignore: the label of pixels without a class.

    Raises:
      ValueError: a label has no color.
    """
    colors = np.asarray(colors, np.uint8)
    painted = label != ignore
    strange = painted & ((label < 0) | (label >= len(colors)))
    if strange.any():
        raise ValueError(
            f"colorize: label {int(label[strange][0])} has no color, expected 0 to "
            f"{len(colors) - 1} or {ignore}; pass the colors of the label table in use"
        )
    picture = np.zeros((*label.shape, 3), np.uint8)
    picture[painted] = colors[label[painted]]
    return picture


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    label: Integer[np.ndarray, "h w"],
    colors: Integer[np.ndarray, "k 3"],
    alpha: float = 0.5,
    ignore: int = 255,
) -> UInt8[np.ndarray, "h w 3"]:
    """Lays the colors of a label map over an image; ignored pixels show the image alone.

    `round((1 - alpha) * image + alpha * color)`.

    Raises:
      ValueError: image and label differ in size, or `alpha` lies outside [0, 1].
    """
    _check_image("overlay", image)
    if image.shape[:2] != label.shape:
        raise ValueError(
            f"overlay: the image is {image.shape[0]}x{image.shape[1]}, the label map "
            f"{label.shape[0]}x{label.shape[1]}; resize one of them"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"overlay: alpha is {alpha}, expected 0 (image) to 1 (label colors)")
    mixed = image.copy()
    for top in range(0, len(image), 64):  # Strips, as floats of a large image fill memory.
        rows = slice(top, top + 64)
        paint = colorize(label[rows], colors, ignore).astype(np.float64)
        blend = np.rint((1 - alpha) * image[rows] + alpha * paint).astype(np.uint8)
        np.copyto(mixed[rows], blend, where=(label[rows] != ignore)[..., None])
    return mixed


def draw_grid(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "gh gw"],
    probabilities: Float[np.ndarray, "gh gw"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Frames the blocks of an image: high ones thick and orange, low ones thin and blue.

    The two kinds differ in thickness too, so that the picture survives a print in gray.

    Args:
      image: the picture underneath; not changed.
      mask: True where the block runs at high resolution.
      probabilities: a number per block, such as the policy's, written into its corner to two
        digits where the block is large enough to read it.

    Raises:
      ValueError: the image does not divide into the grid, or the two grids differ in shape.
    """
    _check_image("draw_grid", image)
    height, width = _block_size("draw_grid", image, mask.shape)
    if probabilities is not None and probabilities.shape != mask.shape:
        raise ValueError(
            f"draw_grid: probabilities have shape {probabilities.shape}, the mask {mask.shape}; "
            "pass one number per block"
        )
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    thick = max(2, min(height, width) // 24)
    for row, column in np.ndindex(mask.shape):
        high = bool(mask[row, column])
        box = _box(row, column, height, width)
        color = HIGH_COLOR if high else LOW_COLOR
        draw.rectangle(box, outline=color, width=thick if high else max(1, thick // 3))
        if probabilities is not None:
            _write(draw, f"{probabilities[row, column]:.2f}", box, thick, color)
    return np.asarray(picture).copy()


def draw_errors(
    predicted: Integer[np.ndarray, "h w"], label: Integer[np.ndarray, "h w"], ignore: int = 255
) -> UInt8[np.ndarray, "h w 3"]:
    """Paints wrong pixels orange, right ones blue, ignored ones black."""
    wrong = np.where(label == ignore, ignore, predicted != label)
    return colorize(wrong, np.asarray([_RIGHT_COLOR, HIGH_COLOR]), ignore)


def draw_gain(
    image: UInt8[np.ndarray, "h w 3"], gain: Float[np.ndarray, "gh gw"]
) -> UInt8[np.ndarray, "h w 3"]:
    """Tints the blocks of an image in gray by what they gain at high resolution, and writes the numbers.

    Orange for a gain, blue for a loss; the larger, the stronger. NaN has neither tint nor number.

    Raises:
      ValueError: the image does not divide into the grid.
    """
    _check_image("draw_gain", image)
    height, width = _block_size("draw_gain", image, gain.shape)
    known = np.nan_to_num(gain)
    strength = 0.7 * np.abs(known) / max(np.abs(known).max(initial=0), 1e-12)
    tint = np.where(known[..., None] > 0, HIGH_COLOR, LOW_COLOR)
    cell = np.ones((height, width, 1))
    strength, tint = np.kron(strength[..., None], cell), np.kron(tint, cell)
    gray = image.mean(axis=-1, keepdims=True)
    picture = Image.fromarray(np.rint((1 - strength) * gray + strength * tint).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for row, column in np.argwhere(~np.isnan(gain)).tolist():
        _write(draw, f"{gain[row, column]:+.2f}", _box(row, column, height, width), 1, _TITLE_COLOR)
    return np.asarray(picture).copy()


def _block_size(operation: str, image: np.ndarray, grid: tuple[int, ...]) -> tuple[int, int]:
    (h, w), (gh, gw) = image.shape[:2], grid
    if gh < 1 or gw < 1 or h % gh or w % gw:
        raise ValueError(
            f"{operation}: an image of {h}x{w} pixels does not divide into a grid of {gh}x{gw} "
            "blocks; draw the padded image that the grid was made for"
        )
    return h // gh, w // gw


def _box(row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
    left, top = column * width, row * height
    return left, top, left + width - 1, top + height - 1


def _write(
    draw: ImageDraw.ImageDraw, text: str, box: tuple[int, ...], border: int, color: tuple[int, ...]
) -> None:
    """Writes into the corner of a block, inside its border, where there is room."""
    left, top, right, bottom = box
    font = ImageFont.load_default(size=max(10, min(right - left + 1, bottom - top + 1) // 5))
    at = left + border + 2, top + border + 1
    bounds = draw.textbbox(at, text, font=font)
    if bounds[2] < right + 1 - border and bounds[3] < bottom + 1 - border:
        behind = (bounds[0] - 1, bounds[1] - 1, bounds[2] + 1, bounds[3] + 1)
        draw.rectangle(behind, fill=(0, 0, 0))
        draw.text(at, text, fill=color, font=font)


def panels(
    image: UInt8[np.ndarray, "_h _w 3"],
    labels: UInt8[np.ndarray, "h w"],
    colors: Integer[np.ndarray, "k 3"],
    mask: Bool[np.ndarray, "gh gw"] | None = None,
    scores: Float[np.ndarray, "gh gw"] | None = None,
) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
    """What there is to see of a segmented image, by title: the input, the labels and, in blocks, the grid.

    Args:
      image: padded at the bottom and right to whole blocks; the pictures are as large as the labels.
      labels: predicted classes.
      colors: red, green and blue of every class, 0 to 255.
      mask: True where the block ran at high resolution; None without blocks.
      scores: a learned policy's logits, drawn as probabilities.
    """
    h, w = labels.shape
    found = {"input": image[:h, :w], "labels": colorize(labels, colors)}
    if mask is not None:
        probabilities = None if scores is None else np.exp(-np.logaddexp(0, -np.float64(scores)))
        title = f"{mask.mean():.0%} of the blocks high"
        found[title] = draw_grid(image, mask, probabilities)[:h, :w]
    return found


def side_by_side(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]], titles: Sequence[str] | None = None, gap: int = 8
) -> UInt8[np.ndarray, "h w 3"]:
    """Puts pictures of any size in a row on black, tops aligned, each under its title.

    Args:
      images: at least one picture.
      titles: one a picture; a title wider than its picture is cut.
      gap: pixels between two pictures.

    Raises:
      ValueError: there is no picture, or titles and pictures differ in number.
    """
    if not images:
        raise ValueError("side_by_side: got no images, expected at least one; pass a picture")
    for image in images:
        _check_image("side_by_side", image)
    if titles is not None and len(titles) != len(images):
        raise ValueError(
            f"side_by_side: got {len(titles)} titles for {len(images)} images; pass one a picture"
        )
    height = max(image.shape[0] for image in images)
    size = max(12, height // 24)
    header = 0 if titles is None else size + size // 2
    width = sum(image.shape[1] for image in images) + gap * (len(images) - 1)
    canvas = np.zeros((header + height, width, 3), np.uint8)
    left = 0
    for index, image in enumerate(images):
        h, w = image.shape[:2]
        if titles is not None:
            canvas[:header, left : left + w] = _title_bar(titles[index], header, w, size)
        canvas[header : header + h, left : left + w] = image
        left += w + gap
    return canvas


def _title_bar(title: str, height: int, width: int, size: int) -> np.ndarray:
    bar = Image.new("RGB", (width, height))
    font = ImageFont.load_default(size=size)
    fits = font.getlength(title) <= width
    at, anchor = (width // 2 if fits else 0, height // 2), "mm" if fits else "lm"
    ImageDraw.Draw(bar).text(at, title, fill=_TITLE_COLOR, font=font, anchor=anchor)
    return np.asarray(bar)


def _check_image(operation: str, image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"{operation}: got an image of shape {image.shape} and dtype {image.dtype}, expected "
            "(h, w, 3) and uint8; undo the normalization and scale to 0..255 first"
        )
