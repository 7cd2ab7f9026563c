"""What the operations mean, as numpy loops over single pixels, in float64.

A linear operation is a `Table`: which input pixels every output pixel reads, with what weight. The
same table gives the operation and its transpose, which is its gradient.
"""

import dataclasses
import itertools
import math

import numpy as np

Cell = tuple[int, int, int]


@dataclasses.dataclass
class Table:
    """Reads of a linear operation on lists of pixels.

    Attributes:
        inputs: number of input pixels.
        outputs: number of output pixels.
        reads: (output pixel, input pixel, weight).
    """

    inputs: int
    outputs: int
    reads: list[tuple[int, int, float]]

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """(inputs, c) -> (outputs, c)."""
        target, source, weight = self._columns()
        out = np.zeros((self.outputs, pixels.shape[1]))
        np.add.at(out, target, weight[:, None] * pixels.astype(np.float64)[source])
        return out

    def transpose(self, cotangents: np.ndarray) -> np.ndarray:
        """(outputs, c) -> (inputs, c)."""
        target, source, weight = self._columns()
        out = np.zeros((self.inputs, cotangents.shape[1]))
        np.add.at(out, source, weight[:, None] * cotangents.astype(np.float64)[target])
        return out

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        target, source, weight = np.array(self.reads).reshape(-1, 3).T
        return target.astype(int), source.astype(int), weight


@dataclasses.dataclass
class Packing:
    """Where the pixels of every block lie: high blocks first, in order of (n, gh, gw), then low ones."""

    mask: np.ndarray
    block: int
    factor: int = 2

    def __post_init__(self) -> None:
        self.start: dict[Cell, int] = {}
        self.pixels = 0
        for high in (True, False):
            for cell in self.cells(high):
                self.start[cell] = self.pixels
                self.pixels += self.side(cell) ** 2

    def cells(self, high: bool) -> list[Cell]:
        """Grid cells of one kind, in order."""
        return [cell for cell in np.ndindex(self.mask.shape) if self.mask[cell] == high]

    def side(self, cell: Cell) -> int:
        """Side of a block in its own pixels."""
        return self.block if self.mask[cell] else self.block // self.factor

    def index(self, cell: Cell, y: int, x: int) -> int:
        """Position of a block's pixel in the packed list."""
        return self.start[cell] + y * self.side(cell) + x

    def image_index(self, n: int, y: int, x: int) -> int:
        """Position of an image's pixel in the list of all images' pixels."""
        _, gh, gw = self.mask.shape
        return (n * gh * self.block + y) * gw * self.block + x

    def in_image(self, cell: Cell, y: int, x: int) -> int:
        """Position in the image of the full-resolution pixel (y, x) of a cell."""
        n, row, column = cell
        return self.image_index(n, row * self.block + y, column * self.block + x)


def split(packing: Packing) -> Table:
    """Image to packed pixels: high blocks copied, low ones the means of factor x factor pixels."""
    f, reads = packing.factor, []
    for cell in packing.start:
        for y, x in np.ndindex(packing.side(cell), packing.side(cell)):
            target = packing.index(cell, y, x)
            if packing.mask[cell]:
                reads.append((target, packing.in_image(cell, y, x), 1.0))
                continue
            for i, j in np.ndindex(f, f):
                reads.append((target, packing.in_image(cell, y * f + i, x * f + j), 1 / f**2))
    return Table(packing.mask.size * packing.block**2, packing.pixels, reads)


def combine(packing: Packing, upsampling: str) -> Table:
    """Packed pixels to image: high blocks copied, low ones upsampled, each alone."""
    reads = []
    for cell in packing.start:
        for y, x in np.ndindex(packing.block, packing.block):
            target = packing.in_image(cell, y, x)
            if packing.mask[cell]:
                reads.append((target, packing.index(cell, y, x), 1.0))
            elif upsampling == "nearest":
                source = packing.index(cell, y // packing.factor, x // packing.factor)
                reads.append((target, source, 1.0))
            else:
                side = packing.side(cell)
                rows = bilinear_reads(y, side, packing.block)
                columns = bilinear_reads(x, side, packing.block)
                for (i, wy), (j, wx) in itertools.product(rows, columns):
                    reads.append((target, packing.index(cell, i, j), wy * wx))
    return Table(packing.pixels, packing.mask.size * packing.block**2, reads)


def bilinear_reads(i: int, size: int, new_size: int) -> list[tuple[int, float]]:
    """Input positions and weights of output i: half-pixel centers, clamped at the border."""
    position = min(max((i + 0.5) * size / new_size - 0.5, 0.0), size - 1.0)
    first = math.floor(position)
    weight = position - first
    return [(first, 1 - weight), (min(first + 1, size - 1), weight)]


def pad(packing: Packing, high: bool, padding: tuple[int, int]) -> Table:
    """Packed pixels to the padded blocks of one kind.

    A padding pixel belongs to the cell in which it lies. Same kind: read as it is; high from low: the
    pixel at position // factor; low from high: the mean of factor x factor; outside the image: zero.
    """
    (py, px), f, reads, target = padding, packing.factor, [], 0
    _, gh, gw = packing.mask.shape
    for n, row, column in packing.cells(high):
        side = packing.side((n, row, column))
        for y, x in itertools.product(range(-py, side + py), range(-px, side + px)):
            near = (n, row + y // side, column + x // side)
            yy, xx = y % side, x % side
            if 0 <= near[1] < gh and 0 <= near[2] < gw:
                if packing.mask[near] == high:
                    reads.append((target, packing.index(near, yy, xx), 1.0))
                elif high:
                    reads.append((target, packing.index(near, yy // f, xx // f), 1.0))
                else:
                    for i, j in np.ndindex(f, f):
                        source = packing.index(near, yy * f + i, xx * f + j)
                        reads.append((target, source, 1 / f**2))
            target += 1
    return Table(packing.pixels, target, reads)


def grid(
    mask: np.ndarray, num_high: int | None = None, scores: np.ndarray | None = None
) -> tuple[np.ndarray, list[int], list[int]]:
    """The mask that runs, and the flat positions of its high and low blocks.

    Blocks turn one at a time: the best-scored low one up, or the worst-scored high one down; NaN is
    the worst score; of equal scores the first counts as the better.
    """
    flat = mask.reshape(-1).copy()
    rank = np.zeros(flat.size) if scores is None else scores.reshape(-1).astype(np.float64)
    rank = np.where(np.isnan(rank), -np.inf, rank)
    nan_last = np.zeros(flat.size) if scores is None else ~np.isnan(scores.reshape(-1))
    num_high = int(flat.sum()) if num_high is None else num_high

    def goodness(cell: int) -> tuple[float, float, int]:
        return rank[cell], nan_last[cell], -cell

    while flat.sum() < num_high:
        flat[max((c for c in range(flat.size) if not flat[c]), key=goodness)] = True
    while flat.sum() > num_high:
        flat[min((c for c in range(flat.size) if flat[c]), key=goodness)] = False
    high = [c for c in range(flat.size) if flat[c]]
    low = [c for c in range(flat.size) if not flat[c]]
    return flat.reshape(mask.shape), high, low


def convolve(
    maps: np.ndarray, kernel: np.ndarray, stride: int, groups: int, dilation: int = 1
) -> np.ndarray:
    """Convolution without padding of (m, h, w, c) by (kh, kw, c / groups, k)."""
    m, h, w, _ = maps.shape
    kh, kw = (dilation * (k - 1) + 1 for k in kernel.shape[:2])
    depth, features = kernel.shape[2:]
    out = np.zeros((m, (h - kh) // stride + 1, (w - kw) // stride + 1, features))
    for i, y, x, k in np.ndindex(out.shape):
        group = k // (features // groups)
        rows, columns = (slice(p * stride, p * stride + k, dilation) for p, k in ((y, kh), (x, kw)))
        window = maps[i, rows, columns]
        out[i, y, x, k] = (window[..., group * depth : (group + 1) * depth] * kernel[..., k]).sum()
    return out


def max_pool(maps: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Maximum over windows of (m, h, w, c), without padding."""
    m, h, w, channels = maps.shape
    out = np.zeros((m, (h - window) // stride + 1, (w - window) // stride + 1, channels))
    for i, y, x in np.ndindex(out.shape[:3]):
        rows, columns = (slice(k * stride, k * stride + window) for k in (y, x))
        out[i, y, x] = maps[i, rows, columns].max((0, 1))
    return out


def resize_bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resize of (n, h, w, c): half-pixel centers, clamped, no antialiasing."""
    out = np.zeros((image.shape[0], *size, image.shape[3]))
    for y, x in np.ndindex(size):
        rows = bilinear_reads(y, image.shape[1], size[0])
        columns = bilinear_reads(x, image.shape[2], size[1])
        for (i, wy), (j, wx) in itertools.product(rows, columns):
            out[:, y, x] += wy * wx * image[:, i, j]
    return out


def adaptive_average_pool(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Means of windows floor(i h / oh) .. ceil((i + 1) h / oh) of (n, h, w, c)."""
    out = np.zeros((image.shape[0], *size, image.shape[3]))
    for y, x in np.ndindex(size):
        bounds = [
            slice(math.floor(i * length / count), math.ceil((i + 1) * length / count))
            for i, length, count in ((y, image.shape[1], size[0]), (x, image.shape[2], size[1]))
        ]
        out[:, y, x] = image[:, bounds[0], bounds[1]].mean((1, 2))
    return out


def enlarged(logits: np.ndarray, factor: int) -> np.ndarray:
    """Bilinear, by its formula, in float64."""
    for axis in (1, 2):
        side = logits.shape[axis]
        place = np.clip((np.arange(side * factor) + 0.5) / factor - 0.5, 0, side - 1)
        first = np.minimum(place.astype(int), max(side - 2, 0))
        weight = np.expand_dims(place - first, [a for a in range(4) if a != axis])
        near = np.take(logits, first, axis).astype(np.float64)
        far = np.take(logits, np.minimum(first + 1, side - 1), axis)
        logits = near * (1 - weight) + far * weight
    return logits
