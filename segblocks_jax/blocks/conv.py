"""block_conv and image_conv: check their arguments and pick an execution."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segblocks_jax.blocks.dual_res import DualRes
from segblocks_jax.blocks.grid import BlockGrid
from segblocks_jax.blocks.pad import PaddedBlocks, block_pad
from segblocks_jax.blocks.patches import index_patches
from segblocks_jax.ops import extension, ffi_call
from segblocks_jax.ops.indexed_conv.api import indexed_conv
from segblocks_jax.ops.indexed_conv.packed import pack_kernel
from segblocks_jax.ops.patches import IndexPatches, image_patches, list_patches
from segblocks_jax.ops.valid_conv import valid_convolution

CONV_IMPLEMENTATIONS = ("ffi", "xla", "pad")


@jax.named_scope("block_conv")
def block_conv(
    blocks: DualRes,
    kernel: Float[Array, "kh kw _ k"],
    stride: int = 1,
    padding: int | tuple[int, int] = 1,
    groups: int = 1,
    bias: Float[Array, "k"] | None = None,
    *,
    dilation: int = 1,
    padding_mode: str = "block",
    implementation: str | None = None,
) -> DualRes:
    """Convolves blocks with the pixels around them: the convolution of `block_pad(blocks, padding)`.

    On an all-high grid this is the convolution of the zero-padded image, on an all-low grid that of the
    averaged image.

    Args:
        blocks: blocks of c channels.
        kernel: HWIO, of the blocks' dtype.
        stride: divides the side of every block.
        padding: pixels on each side, or (vertical, horizontal); dilation (k - 1) / 2 for a kernel of
            side k keeps whole blocks.
        groups: number of channel groups.
        bias: added to every output pixel.
        dilation: distance of neighboring taps of the kernel, at each block's own resolution.
        padding_mode: of `block_pad`.
        implementation: "ffi", the compiled `indexed_conv`; "xla", its definition; "pad", `block_pad`
            and XLA's convolution. None: "ffi" on the CPU where it is compiled and has the case, else
            "pad". Gradients take the way of "pad", which gathers, so they are deterministic.

    Raises:
        TypeError: kernel or bias of another dtype than the blocks.
        ValueError: channels, stride, padding or dilation that don't fit; "ffi" or "xla" for float16,
            dilated kernels, groups that are neither one nor one a channel, or another padding mode.
    """
    if padding_mode != "block":
        implementation = _only_padded(implementation, padding_mode)
    window = _Window(
        stride,
        padding if isinstance(padding, tuple) else (padding, padding),
        groups,
        dilation,
        _resolve("block_conv", implementation, blocks.pixels, kernel, groups, dilation),
        padding_mode,
    )
    _check(blocks, kernel, window, bias)
    pixels = _convolve(blocks.pixels, kernel, blocks.grid, window)
    return dataclasses.replace(blocks, pixels=pixels if bias is None else pixels + bias[None])


@jax.named_scope("image_conv")
def image_conv(
    image: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw _ k"],
    stride: int = 1,
    padding: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    dilation: int = 1,
    implementation: str | None = None,
) -> Float[Array, "n ho wo k"]:
    """Convolves zero-padded images, by the executions that `block_conv` has; arguments as there."""
    window = _Window(
        stride,
        padding if isinstance(padding, tuple) else (padding, padding),
        groups,
        dilation,
        _resolve("image_conv", implementation, image, kernel, groups, dilation),
    )
    return _convolve(image, kernel, None, window)


@dataclasses.dataclass(frozen=True)
class _Window:
    stride: int
    padding: tuple[int, int]
    groups: int
    dilation: int
    implementation: str
    padding_mode: str = "block"

    @property
    def pointwise(self) -> bool:
        """Whether a 1 x 1 kernel makes it a function of single pixels."""
        return self.stride == 1 and self.padding == (0, 0)


def _only_padded(implementation: str | None, padding_mode: str) -> str:
    if implementation not in (None, "pad"):
        raise ValueError(
            f"block_conv: implementation {implementation!r} finds the neighbors' pixels by index, so it has"
            f" no padding_mode {padding_mode!r}; use implementation='pad'"
        )
    return "pad"


def _resolve(
    name: str, implementation: str | None, maps: Array, kernel: Array, groups: int, dilation: int
) -> str:
    if dilation < 1:
        raise ValueError(f"{name}: dilation is {dilation}; expected at least 1")
    by_index = (
        maps.dtype in ("float32", "bfloat16")
        and (groups == 1 or groups == kernel.shape[3] == maps.shape[-1])
        and (dilation == 1 or kernel.shape[:2] == (1, 1))
    )
    if implementation is None:
        compiled = extension.resolve() == "ffi" and jax.default_backend() == "cpu"
        return "ffi" if compiled and by_index else "pad"
    if implementation not in CONV_IMPLEMENTATIONS:
        raise ValueError(
            f"{name}: implementation is {implementation!r}; expected one of {CONV_IMPLEMENTATIONS} or None"
        )
    if implementation == "pad":
        return "pad"
    if not by_index:
        raise ValueError(
            f"{name}: {groups} groups of {maps.dtype}, dilation {dilation}, can't run by index, which takes"
            " one group, or one a channel, of float32 or bfloat16, and dilation 1; use implementation='pad'"
        )
    return extension.resolve(implementation)


def _convolve(maps: Array, kernel: Array, grid: BlockGrid | None, window: _Window) -> Array:
    if window.implementation == "pad":
        return _padded(maps, kernel, grid, window)
    # Outside of the derivative: there a cotangent varies over the mesh as its argument does.
    slots = () if grid is None else (grid.slots,)
    maps, kernel, *_ = ffi_call.vary_alike(maps, kernel, *slots)
    return _by_index(maps, kernel, grid, window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _by_index(maps: Array, kernel: Array, grid: BlockGrid | None, window: _Window) -> Array:
    rows = maps.reshape(-1, maps.shape[-1])
    out, _ = indexed_conv(
        rows,
        _patches(maps, kernel, grid, window),
        pack_kernel(kernel, window.groups),
        window.stride,
        implementation=window.implementation,
    )
    assert out is not None
    if grid is not None:
        return out
    size = [
        (side + 2 * p - k) // window.stride + 1
        for side, p, k in zip(maps.shape[1:3], window.padding, kernel.shape, strict=False)
    ]
    return out.reshape(maps.shape[0], *size, kernel.shape[3])


def _by_index_forward(
    maps: Array, kernel: Array, grid: BlockGrid | None, window: _Window
) -> tuple[Array, tuple[Array, Array, BlockGrid | None]]:
    return _by_index(maps, kernel, grid, window), (maps, kernel, grid)


def _by_index_backward(
    window: _Window, saved: tuple[Array, Array, BlockGrid | None], cotangent: Array
) -> tuple[Array, Array, None]:
    maps, kernel, grid = saved
    _, transpose = jax.vjp(lambda m, k: _padded(m, k, grid, window), maps, kernel)
    return *transpose(cotangent), None


_by_index.defvjp(_by_index_forward, _by_index_backward)


def _patches(maps: Array, kernel: Array, grid: BlockGrid | None, window: _Window) -> IndexPatches:
    py, px = window.padding
    if kernel.shape[:2] == (1, 1) and window.pointwise:
        return list_patches(maps.size // maps.shape[-1])
    if grid is None:
        n, h, w, _ = maps.shape
        return image_patches((n, h, w), (py, px))
    padding = max(py, px)
    side = DualRes(maps, grid).block_size
    implementation = window.implementation
    patches = index_patches(grid, side, padding, implementation=implementation)
    return patches.inset(padding - py, padding - px)


def _padded(maps: Array, kernel: Array, grid: BlockGrid | None, window: _Window) -> Array:
    """By XLA's convolution of padded maps."""
    py, px = window.padding
    if grid is None:
        padded = jnp.pad(maps, ((0, 0), (py, py), (px, px), (0, 0))) if py or px else maps
        return valid_convolution(padded, kernel, window.stride, window.groups, window.dilation)
    if kernel.shape[:2] == (1, 1) and window.pointwise and window.groups == 1:
        return maps @ kernel[0, 0]
    blocks = DualRes(maps, grid)
    parts = PaddedBlocks(blocks.high, blocks.low)
    if py or px:
        parts = block_pad(blocks, (py, px), mode=window.padding_mode)
    outputs = [
        valid_convolution(part, kernel, window.stride, window.groups, window.dilation)
        for part in (parts.high, parts.low)
    ]
    return jnp.concatenate([x.reshape(-1, kernel.shape[3]) for x in outputs])


def _check(
    blocks: DualRes,
    kernel: Array,
    window: _Window,
    bias: Array | None,
) -> None:
    stride, padding, groups = window.stride, window.padding, window.groups
    if kernel.ndim != 4:
        raise ValueError(
            f"block_conv: the kernel has shape {kernel.shape}; expected (kh, kw, c / groups, k)"
        )
    for name, array in (("kernel", kernel), ("bias", bias)):
        if array is not None and array.dtype != blocks.pixels.dtype:
            raise TypeError(
                f"block_conv: {name} is {array.dtype}, the blocks are {blocks.pixels.dtype}; cast one of them"
            )
    channels = blocks.pixels.shape[1]
    if kernel.shape[2] * groups != channels or kernel.shape[3] % groups:
        raise ValueError(
            f"block_conv: kernel {kernel.shape} with {groups} groups doesn't fit {channels} channels;"
            f" expected (kh, kw, {channels // groups}, a multiple of {groups})"
        )
    size = blocks.low_size if blocks.grid.num_low else blocks.block_size
    if size % stride:
        raise ValueError(
            f"block_conv: stride {stride} doesn't divide the block side {size} at this layer; use a larger block size"
        )
    reach = [window.dilation * (k - 1) for k in kernel.shape[:2]]
    if blocks.grid.num_blocks and not all(
        0 <= r - 2 * p < stride for r, p in zip(reach, padding, strict=True)
    ):
        raise ValueError(
            f"block_conv: padding {padding} doesn't keep whole blocks under a {kernel.shape[0]} x {kernel.shape[1]}"
            f" kernel of stride {stride} and dilation {window.dilation}; use {(reach[0] // 2, reach[1] // 2)}"
        )
