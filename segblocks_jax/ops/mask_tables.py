"""Convolutions at the active pixels of a mask alone: where they read, and the way back from their rows to the image.

All is built on the device, of arrays as long as the mask has pixels; how many entries count is an array as well, so
that one executable serves every mask.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segblocks_jax.ops import extension, ffi_call, no_type_check
from segblocks_jax.ops.indexed_conv import ACTIVATIONS, Activation
from segblocks_jax.ops.mask_patches import Sites, dilate, pixel_numbers, single_units
from segblocks_jax.ops.patches import IndexPatches, Taps

_PART = 1024  # Pixels that a block of a GPU's threads counts, as in the handler.


class PaddedWindow(NamedTuple):
    """A zero-padded convolution's window, and the padding before and behind each axis."""

    taps: Taps
    padding: tuple[int, int]

    @property
    def is_square(self) -> bool:
        """Whether the compiled handlers have it."""
        (kh, kw), (py, px) = self.taps.size, self.padding
        return kh == kw and py == px and self.taps.dilation == 1

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Of an image's (height, width)."""
        height, width = (
            (side + 2 * p - extent) // self.taps.stride + 1
            for side, p, extent in zip(size, self.padding, self.taps.extent, strict=True)
        )
        return height, width


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class MaskTables:
    """What `mask_tables` makes of a mask (n, h, w).

    Attributes:
        first: patches of the convolution at the dilated mask's active pixels.
        second: those at the mask's, which read the first one's output rows.
        sites: (n h w,), the number of each active pixel, in order; behind the last one, anything.
        mask: the mask itself.
    """

    first: IndexPatches
    second: IndexPatches
    sites: Int[Array, "p"]
    mask: Bool[Array, "n h w"]

    def in_order(self) -> IndexPatches:
        """Each row of the second convolution by itself: for a 1x1 convolution of them."""
        every = jnp.arange(self.sites.size, dtype=jnp.int32)
        return single_units(every[:, None, None], self.second.counts)


@jax.named_scope("mask_tables")
def mask_tables(
    mask: Bool[Array, "n h w"],
    dilation_stride: int,
    size: tuple[int, int],
    first: PaddedWindow,
    second: PaddedWindow,
    *,
    implementation: str | None = None,
) -> MaskTables:
    """Where two convolutions read, of which the second is needed at a mask's active pixels only.

    Args:
        mask: of the second one's output pixels.
        dilation_stride: see `dilate`; the dilated mask is cut to the first one's output.
        size: (height, width) of the images that the first one reads.
        first: the first convolution.
        second: the second one, whose windows must lie within the dilated mask's pixels.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.
    """
    height, width = first.output_size(size)
    if (
        extension.resolve(implementation) != "ffi"
        or not (first.is_square and second.is_square)
        or min(mask.size, height * width) == 0
    ):
        dilated = Sites.of(dilate(mask, dilation_stride)[:, :height, :width])
        own = Sites.of(mask)
        return MaskTables(
            dilated.patches(pixel_numbers((mask.shape[0], *size)), *first),
            own.patches(dilated.rows, *second),
            own.pixels,
            mask,
        )
    every, k, k2 = mask.shape[0] * height * width, first.taps.size[0], second.taps.size[0]
    shapes = (
        (every, k, k),
        (mask.size, k2, k2),
        (mask.size,),
        (mask.shape[0], height, width),
        (2,),
        (2,),
        (-(-every // _PART) - (-mask.size // _PART),),
    )
    one, two, sites, _, dilated_counts, counts, _ = ffi_call.call(
        "segblocks_mask_tables",
        (mask,),
        [(shape, jnp.int32) for shape in shapes],
        height=size[0],
        width=size[1],
        dilation_stride=dilation_stride,
        first_stride=first.taps.stride,
        first_padding=first.padding[0],
        second_stride=second.taps.stride,
        second_padding=second.padding[0],
    )
    return MaskTables(single_units(one, dilated_counts), single_units(two, counts), sites, mask)


@jax.named_scope("mask_add")
def mask_add(
    image: Float[Array, "p c"],
    rows: Float[Array, "p c"],
    tables: MaskTables,
    activation: Activation = "none",
    *,
    rest: bool = True,
    implementation: str | None = None,
) -> Float[Array, "p c"]:
    """Adds a row to each active pixel; ``activation(image + rows)`` there, ``activation(image)`` elsewhere.

    Args:
        image: the pixels of the mask's images.
        rows: one for each active pixel, in order; what is behind them is not read.
        tables: of the mask.
        activation: "none", "relu" or "relu6".
        rest: False: the other pixels stay as they are, for images that have been activated before.
        implementation: "ffi", "xla", or None for the compiled handler where there is one.
    """
    mask = tables.mask.reshape(-1)
    if extension.resolve(implementation) == "ffi":
        (out,) = ffi_call.call(
            "segblocks_mask_add",
            (image, rows, mask, tables.sites, tables.second.counts),
            [(image.shape, image.dtype)],
            in_place={0: 0},
            activation=ACTIVATIONS.index(activation),
            rest=int(rest),
        )
        return out
    number = jnp.cumsum(mask, dtype=jnp.int32) - 1
    active = jnp.broadcast_to(mask[:, None], image.shape)
    functions = {"none": lambda x: x, "relu": jax.nn.relu, "relu6": jax.nn.relu6}
    added = functions[activation](image + rows[jnp.maximum(number, 0)])
    return jnp.where(active, added, functions[activation](image) if rest else image)
