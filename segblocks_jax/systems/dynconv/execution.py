"""How a forward pass runs: its mask decisions, and layers on images or on the active pixels alone.

In evaluation both go through the same convolution by index (`segblocks_jax.ops.indexed_conv`), with the norm in its
epilogue. A pixel's sums don't depend on which other pixels are computed, so dense and sparse results are equal to
the last bit.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from segblocks_jax.adaptive.estimators import gumbel_sigmoid
from segblocks_jax.ops.indexed_conv import Activation, Epilogue, indexed_conv
from segblocks_jax.ops.mask_tables import PaddedWindow, mask_add, mask_tables
from segblocks_jax.ops.patches import IndexPatches, Taps, image_patches, list_patches
from segblocks_jax.systems.dynconv.layers import Layer, PackedLayer
from segblocks_jax.systems.dynconv.masks import MaskUnit

Image = Float[Array, "n _h _w _c"]
Rows = Float[Array, "_p _c"]
Noise = Callable[[int, tuple[int, ...]], tuple[Array, Array]]
"""Uniform numbers u1 and u2 in [0, 1) for the mask unit of a number, of its logits' shape."""


class Pass:
    """One forward pass: how masks are decided and executed, and afterwards what they were.

    Attributes:
        masks: of the blocks in order of execution, (n, h, w): bool in evaluation; in training 0 and 1 in the images'
            dtype, with a gradient.
        blocks: whose masks they are.
        logits: that they were decided from.
        sparse: whether blocks compute at active pixels only.
        by_index: whether other layers run by `indexed_conv`, too, which has no gradient.
    """

    def __init__(
        self,
        *,
        sparse: bool = False,
        by_index: bool = False,
        noise: Noise | None = None,
        temperature: float | Float[Array, ""] = 1.0,
        prepared: Sequence[PackedLayer] | None = None,
    ) -> None:
        """`prepared`: packed layers in order of execution, from `prepare`; default: they are packed as they run."""
        self.sparse, self.by_index = sparse, by_index or sparse
        self.masks: list[Shaped[Array, "n h w"]] = []
        self.logits: list[Float[Array, "n h w"]] = []
        self.blocks: list[Any] = []
        self.packers: list[Callable[[], PackedLayer]] = []
        self._noise, self._temperature = noise, temperature
        self._prepared: Iterator[PackedLayer] | None = None if prepared is None else iter(prepared)

    def decide(self, unit: MaskUnit, x: Image, block: nnx.Module) -> Shaped[Array, "n h w"]:
        """A block's mask."""
        by_index = self.by_index and unit.fc is not None
        logits = self._products_by_index(unit, x) if by_index else unit(x)
        if unit.deterministic:
            mask: Array = logits >= 0
        else:
            u1, u2 = self._noise(len(self.masks), logits.shape) if self._noise else (None, None)
            mask = gumbel_sigmoid(logits, u1, u2, self._temperature)
        self.masks.append(mask)
        self.logits.append(logits)
        self.blocks.append(block)
        return mask

    def packed(self, layer: Layer, x: Array, winograd: bool = False) -> PackedLayer:
        """A layer in evaluation, for pixels x; `winograd` if it may be transformed where it is prepared."""
        self.packers.append(functools.partial(PackedLayer.of, layer, winograd))
        if self._prepared is not None:
            return next(self._prepared)
        return PackedLayer.of(layer, dtype=x.dtype)

    def _products_by_index(self, unit: MaskUnit, x: Image) -> Float[Array, "n h w"]:
        """A mask unit whose products are a 1x1 convolution."""
        self.packers.append(functools.partial(PackedLayer.of_unit, unit))
        packed = (
            next(self._prepared)
            if self._prepared is not None
            else PackedLayer.of_unit(unit, x.dtype)
        )
        rows = x.reshape(-1, x.shape[-1])
        products, _ = indexed_conv(rows, list_patches(rows.shape[0]), packed.kernel)
        assert products is not None
        return unit.logits(products.reshape(*x.shape[:3], -1))


def layer(item: Layer, x: Image, run: Pass) -> Image:
    """A layer of the whole image."""
    return dense((item,), x, run, winograd=True)


def dense(
    layers: Sequence[Layer],
    x: Image,
    run: Pass,
    shortcut: Image | None = None,
    activation: Activation = "none",
    *,
    winograd: bool = False,
) -> Image:
    """A chain of layers of the whole image; behind them `shortcut` is added, and `activation` follows."""
    for i, item in enumerate(layers):
        last = i == len(layers) - 1
        added = shortcut if last else None
        final = activation if last and shortcut is not None else item.activation
        if run.by_index:
            x = _dense_by_index(item, x, run.packed(item, x, winograd), added, final)
            continue
        x = item.conv(x)
        x = x if item.norm is None else item.norm(x)
        x = x if added is None else x + added
        x = _ACTIVATIONS[final](x)
    return x


def sparse(
    layers: Sequence[Layer],
    x: Image,
    mask: Bool[Array, "n ho wo"],
    dilation_stride: int,
    run: Pass,
    shortcut: Image,
    activation: Activation,
    *,
    activated: bool = False,
) -> Float[Array, "n ho wo k"]:
    """A chain of layers at a mask's active pixels, added to `shortcut`; `activation` follows at all pixels.

    The first layer is computed at the dilated mask's pixels, which the second reads; all after the second are 1x1.
    `activated`: the shortcut has been before.
    """
    _n, h, w, channels = x.shape
    first, second, *rest = layers
    tables = mask_tables(mask, dilation_stride, (h, w), first.window, second.window)
    rows = _by_index(x.reshape(-1, channels), tables.first, first, run)
    rows = _by_index(rows, tables.second, second, run)
    for item in rest:
        rows = _by_index(rows, tables.in_order(), item, run)
    pixels = shortcut.reshape(-1, shortcut.shape[-1])
    out = mask_add(pixels, rows, tables, activation, rest=not activated)
    return out.reshape(shortcut.shape)


def _by_index(rows: Rows, patches: IndexPatches, item: Layer, run: Pass) -> Rows:
    packed = run.packed(item, rows)
    out, _ = indexed_conv(
        rows, patches, packed.kernel, epilogue=_epilogue(packed, item.activation, None)
    )
    assert out is not None
    return out


def _dense_by_index(
    item: Layer,
    x: Image,
    packed: PackedLayer,
    shortcut: Image | None,
    activation: Activation,
) -> Image:
    n, h, w, channels = x.shape
    conv = item.conv
    height, width = item.window.output_size((h, w))
    pointwise = item.window == PaddedWindow(Taps((1, 1), 1, 1), (0, 0))
    patches = list_patches(n * h * w) if pointwise else image_patches((n, h, w), conv.padding)
    residual = None if shortcut is None else shortcut.reshape(n * height * width, -1)
    out, _ = indexed_conv(
        x.reshape(-1, channels),
        patches,
        packed.kernel,
        conv.stride,
        _epilogue(packed, activation, residual),
    )
    assert out is not None
    return out.reshape(n, height, width, -1)


def _epilogue(packed: PackedLayer, activation: Activation, residual: Rows | None) -> Epilogue:
    return Epilogue(packed.scale, packed.bias, residual, activation=activation)


_ACTIVATIONS: dict[Activation, Callable[[Image], Image]] = {
    "none": lambda x: x,
    "relu": lambda x: jax.nn.relu(x),
    "relu6": lambda x: jax.nn.relu6(x),
}
