"""What the indexed operations mean, in numpy and float64; and how their operands are laid out."""

import dataclasses
import itertools

import numpy as np
import oracles


@dataclasses.dataclass
class Units:
    """Rows, and the patches of indices that units of two sizes read.

    Attributes:
        rows: (r, c).
        means: (g, q), the rows whose mean a halo is; -1: unused.
        patches: of the high and of the low units, (m, h, w).
        counts: live units of each size.
    """

    rows: np.ndarray
    means: np.ndarray
    patches: tuple[np.ndarray, np.ndarray]
    counts: tuple[int, int]

    @classmethod
    def random(
        cls,
        rng: np.random.Generator,
        channels: int,
        sizes: tuple[tuple[int, int, int], tuple[int, int, int]],
        *,
        num_rows: int = 50,
        halos: int = 5,
        counts: tuple[int, int] | None = None,
        dtype: np.dtype | type = np.float32,
    ) -> "Units":
        """Patches of the given sizes of random indices: rows in runs, halos, zeros."""
        rows = rng.standard_normal((num_rows, channels)).astype(dtype)
        means = rng.integers(0, num_rows, (halos, 4)).astype(np.int32)
        means[1:2] = -1
        used = np.array([-1, *range(num_rows), *(num_rows + g for g in range(halos) if g != 1)])
        patches = []
        for size in sizes:
            runs = rng.integers(0, num_rows, size[:2])[:, :, None] + np.arange(size[2])
            patch = np.where(runs < num_rows, runs, -1)
            loose = rng.random(size) < 0.2
            patches.append(np.where(loose, rng.choice(used, size), patch).astype(np.int32))
        high, low = patches
        return cls(rows, means, (high, low), counts or (len(high), len(low)))

    @property
    def operands(self) -> list[np.ndarray]:
        """The operands that all indexed operations begin with."""
        return [self.rows, self.means, *self.patches, np.array(self.counts, np.int32)]

    def halos(self) -> np.ndarray:
        """(g, c), in the rows' precision; zeros where unused."""
        means = self.rows.astype(np.float64)[self.means].mean(1)
        return np.where(self.means[:, :1] < 0, 0, means).astype(self.rows.dtype)

    def gathered(self) -> list[np.ndarray]:
        """The live patches of each size, filled: (m, h, w, c) in float64."""
        zero = np.zeros((1, self.rows.shape[1]), self.rows.dtype)
        table = np.concatenate([self.rows, self.halos(), zero]).astype(np.float64)
        pairs = zip(self.patches, self.counts, strict=True)
        return [table[patch[:count]] for patch, count in pairs]

    def capacity(self, outputs: list[int]) -> int:
        """Capacity of the list of output rows, from the outputs a unit of each size has."""
        return sum(len(patch) * n for patch, n in zip(self.patches, outputs, strict=True))


def packed(kernel: np.ndarray) -> np.ndarray:
    """(kh, kw, c, k) -> (panels, kh * kw * c, 16), filled up with zeros."""
    depth, features = int(np.prod(kernel.shape[:3])), kernel.shape[3]
    panels = -(-features // 16)
    wide = np.zeros((depth, panels * 16), kernel.dtype)
    wide[:, :features] = kernel.reshape(depth, features)
    return np.ascontiguousarray(wide.reshape(depth, panels, 16).transpose(1, 0, 2))


def flat(maps: list[np.ndarray]) -> np.ndarray:
    """Maps (m, h, w, k) of both sizes as one list of output rows."""
    return np.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])


def conv(
    units: Units, kernel: np.ndarray, stride: int, depthwise: bool, dilation: int = 1
) -> np.ndarray:
    """(p, k): the convolution of the live units' patches; kernel (kh, kw, c or 1, k)."""
    kernel = kernel.astype(np.float64)
    kh, kw = kernel.shape[:2]
    maps = []
    for patch in units.gathered():
        if not len(patch):
            maps.append(np.zeros((0, 1, 1, kernel.shape[3])))
            continue
        extent = [dilation * (k - 1) + 1 for k in (kh, kw)]
        windows = np.lib.stride_tricks.sliding_window_view(patch, extent, (1, 2))
        windows = windows[
            :, ::stride, ::stride, :, ::dilation, ::dilation
        ]  # (m, ho, wo, c, kh, kw)
        if depthwise:
            maps.append(np.einsum("mhwcij,ijc->mhwc", windows, kernel[:, :, 0]))
        else:
            maps.append(np.einsum("mhwcij,ijck->mhwk", windows, kernel, optimize=True))
    return flat(maps)


def depthwise_gradient(
    units: Units, cotangents: np.ndarray, size: tuple[int, int], stride: int, dilation: int
) -> np.ndarray:
    """(kh, kw, c): the gradient of a depthwise kernel; cotangents (p, c) of the live units."""
    total = np.zeros((*size, cotangents.shape[1]))
    start = 0
    for patch in units.gathered():
        m, h, w, c = patch.shape
        ho, wo = (
            max((side - dilation * (k - 1) - 1) // stride + 1, 0)
            for side, k in zip((h, w), size, strict=True)
        )
        these = cotangents[start : start + m * ho * wo].reshape(m, ho, wo, c).astype(np.float64)
        for i, j in np.ndindex(size):
            rows = slice(i * dilation, i * dilation + stride * (ho - 1) + 1, stride)
            columns = slice(j * dilation, j * dilation + stride * (wo - 1) + 1, stride)
            total[i, j] += (patch[:, rows, columns] * these).sum((0, 1, 2))
        start += m * ho * wo
    return total


def max_pool(units: Units, window: int, stride: int) -> np.ndarray:
    """(p, c)."""
    return flat([oracles.max_pool(patch, window, stride) for patch in units.gathered()])


def upsample2(units: Units) -> np.ndarray:
    """(p, c): every patch, padded by 1, enlarged without its padding."""
    maps = []
    for patch in units.gathered():
        for axis in (1, 2):
            before, here, after = (
                np.take(patch, range(k, patch.shape[axis] - 2 + k), axis) for k in range(3)
            )
            pairs = [0.75 * here + 0.25 * before, 0.75 * here + 0.25 * after]
            shape = list(here.shape)
            shape[axis] *= 2
            patch = np.stack(pairs, axis + 1).reshape(shape)
        maps.append(patch)
    return flat(maps)


def index_tables(
    packing: oracles.Packing, padding: int, border: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The patches of the high and low blocks, and the rows of the halos, position by position."""
    f, low_side = packing.factor, packing.block // packing.factor
    ring = [
        (y, x)
        for y, x in np.ndindex(low_side, low_side)
        if min(y, x, low_side - 1 - y, low_side - 1 - x) < padding
    ]
    high_cells = packing.cells(True)

    def index(cell: oracles.Cell, i: int, j: int) -> int:
        n, row, column = cell
        side, high = packing.side(cell), packing.mask[cell]
        if border == 2:
            i, j = (min(max(k, 0), side - 1) for k in (i, j))
        y, x = row * side + i, column * side + j
        height, width = (count * side for count in packing.mask.shape[1:])
        if border == 1:
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        if not (0 <= y < height and 0 <= x < width):
            return -1
        near = (n, y // side, x // side)
        y, x = y % side, x % side
        if packing.mask[near] == high:
            return packing.index(near, y, x)
        if high:
            return packing.index(near, y // f, x // f)
        return packing.pixels + high_cells.index(near) * len(ring) + ring.index((y, x))

    def table(high: bool) -> np.ndarray:
        side = packing.block if high else low_side
        positions = range(-padding, side + padding)
        cells = packing.cells(high)
        values = [index(cell, i, j) for cell in cells for i in positions for j in positions]
        return np.array(values, np.int32).reshape(len(cells), len(positions), len(positions))

    means = []
    for n, row, column in high_cells:
        near = packing.mask[n, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        for y, x in ring:
            square = itertools.product(range(y * f, y * f + f), range(x * f, x * f + f))
            rows = [packing.index((n, row, column), *pixel) for pixel in square]
            means.append(rows if not near.all() else [-1] * f**2)
    return table(True), table(False), np.array(means, np.int32).reshape(-1, f**2)
