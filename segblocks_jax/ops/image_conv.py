"""image_conv: a differentiable convolution of images, and how the same convolution runs on blocks."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from segblocks_jax.ops import extension, ffi_call
from segblocks_jax.ops.gradients import depthwise_gradient, input_gradient
from segblocks_jax.ops.indexed_conv import indexed_conv
from segblocks_jax.ops.packed_kernel import pack_kernel
from segblocks_jax.ops.patches import IndexPatches, Taps, image_patches, list_patches
from segblocks_jax.ops.valid_conv import valid_convolution


@jax.named_scope("image_conv")
def image_conv(
    image: Float[Array, "n h w c"],
    kernel: Float[Array, "kh kw _ k"],
    stride: int = 1,
    padding: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    dilation: int = 1,
    shift: int | tuple[int, int] = 0,
    implementation: str | None = None,
) -> Float[Array, "n ho wo k"]:
    """Convolves zero-padded images, by the implementations of `segblocks_jax.block_conv`; arguments as there."""
    implementation = resolve("image_conv", implementation, image, kernel, groups, dilation)
    window = Window(stride, pair(padding), groups, dilation, implementation, pair(shift))
    return convolve(image, kernel, None, window)


@dataclasses.dataclass(frozen=True)
class Window:
    """A convolution of images; its subclass in `segblocks_jax.blocks.conv` is that of blocks.

    Attributes:
        stride, padding, groups, dilation: of the kernel; padding is (vertical, horizontal).
        implementation: "ffi", "xla" or "reference".
        shift: rows and columns of the padded maps before the first window.
    """

    stride: int
    padding: tuple[int, int]
    groups: int
    dilation: int
    implementation: str
    shift: tuple[int, int] = (0, 0)

    def pointwise(self, kernel: Float[Array, "kh kw _ k"]) -> bool:
        """Whether it is a function of single pixels."""
        return kernel.shape[:2] == (1, 1) and self.stride == 1 and self.padding == (0, 0)

    def patches(self, maps: Float[Array, "..."], grid: Any) -> IndexPatches:
        """Where `indexed_conv` finds the pixels."""
        n, h, w, _ = maps.shape
        return image_patches((n, h, w), self.padding).inset(0, 0, self.shift)

    def shape(self, maps: Float[Array, "..."], kernel: Float[Array, "..."]) -> tuple[int, ...]:
        """Of the output."""
        sides = zip(maps.shape[1:3], self.padding, self.shift, kernel.shape, strict=False)
        h, w = (
            (side + 2 * p - s - self.dilation * (k - 1) - 1) // self.stride + 1
            for side, p, s, k in sides
        )
        return maps.shape[0], h, w, kernel.shape[3]

    def padded(
        self, maps: Float[Array, "..."], kernel: Float[Array, "..."], grid: Any
    ) -> Float[Array, "..."]:
        """The output by XLA's convolution of padded maps."""
        py, px = self.padding
        padded = jnp.pad(maps, ((0, 0), (py, py), (px, px), (0, 0))) if py or px else maps
        return self.valid(padded, kernel)

    def maps_gradient(
        self, cotangents: Float[Array, "..."], maps: Float[Array, "..."], kernel: Any, grid: Any
    ) -> Float[Array, "..."]:
        """The gradient of the maps, by index."""
        before = self.padding[0] - self.shift[0], self.padding[1] - self.shift[1]
        _, h, w, _ = maps.shape
        return input_gradient(cotangents, kernel, (h, w), self.taps(kernel), before)

    def taps(self, kernel: Float[Array, "kh kw _ k"]) -> Taps:
        """Of the kernel."""
        return Taps((kernel.shape[0], kernel.shape[1]), self.stride, self.dilation)

    def valid(
        self, padded: Float[Array, "m h w c"], kernel: Float[Array, "kh kw _ k"]
    ) -> Float[Array, "m ho wo k"]:
        """XLA's convolution of padded maps."""
        if any(self.shift):
            padded = padded[:, self.shift[0] :, self.shift[1] :]
        return valid_convolution(padded, kernel, self.stride, self.groups, self.dilation)


def pair(pixels: int | tuple[int, int]) -> tuple[int, int]:
    """(vertical, horizontal) numbers of pixels."""
    return pixels if isinstance(pixels, tuple) else (pixels, pixels)


def resolve(
    name: str,
    implementation: str | None,
    maps: Float[Array, "..."],
    kernel: Float[Array, "..."],
    groups: int,
    dilation: int,
) -> str:
    """The implementation to run; one that isn't asked for by name gives way where it hasn't the case.

    Raises:
        ValueError: an unknown name, a dilation below 1, or "ffi" or "reference" for what can't run by index.
    """
    if dilation < 1:
        raise ValueError(f"{name}: dilation is {dilation}; expected at least 1")
    by_index = maps.dtype in ("float32", "bfloat16") and (
        groups == 1 or groups == kernel.shape[3] == maps.shape[-1]
    )
    chosen = extension.resolve(implementation)
    if chosen == "xla" or (by_index and implementation is not None):
        return chosen
    if implementation is not None:
        raise ValueError(
            f"{name}: {groups} groups of {maps.dtype} can't run by index, which takes one group, or one per"
            " channel, of float32 or bfloat16; use implementation='xla'"
        )
    # On GPUs XLA's own convolution is the faster one.
    slower = chosen == "ffi" and jax.default_backend() != "cpu"
    return chosen if by_index and not slower else "xla"


def convolve(
    maps: Float[Array, "..."],
    kernel: Float[Array, "..."],
    grid: Any,
    window: Window,
    beside: tuple[Array, ...] = (),
) -> Float[Array, "..."]:
    """Runs a window; `beside` are arrays over whose mesh axes the output varies, too."""
    if window.implementation == "xla":
        return window.padded(maps, kernel, grid)
    # Outside of the derivative: there a cotangent varies over the mesh as its argument does.
    maps, kernel, *_ = ffi_call.vary_alike(maps, kernel, *beside)
    return _by_index(maps, kernel, grid, window)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _by_index(maps: Array, kernel: Array, grid: Any, window: Window) -> Array:
    pixels = maps.size // maps.shape[-1]
    pointwise = window.pointwise(kernel)
    out, _ = indexed_conv(
        maps.reshape(-1, maps.shape[-1]),
        list_patches(pixels) if pointwise else window.patches(maps, grid),
        pack_kernel(kernel, window.groups),
        window.stride,
        dilation=window.dilation,
        implementation=window.implementation,
    )
    assert out is not None
    return out.reshape(window.shape(maps, kernel))


def _forward(
    maps: Array, kernel: Array, grid: Any, window: Window
) -> tuple[Array, tuple[Array, Array, Any]]:
    return _by_index(maps, kernel, grid, window), (maps, kernel, grid)


def _backward(
    window: Window, saved: tuple[Array, Array, Any], cotangent: Array
) -> tuple[Array, Array, None]:
    return *_gradients(*saved, cotangent, window), None


_by_index.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _gradients(
    maps: Array, kernel: Array, grid: Any, cotangent: Array, window: Window
) -> tuple[Array, Array]:
    depthwise = window.groups == kernel.shape[3] > 1
    compiled = window.implementation == "ffi" and jax.default_backend() == "cpu"
    if not (depthwise and compiled and maps.dtype == "float32"):
        return _xla_gradients(maps, kernel, grid, cotangent, window)
    channels = maps.shape[-1]
    kernel_gradient = depthwise_gradient(
        maps.reshape(-1, channels),
        window.patches(maps, grid),
        cotangent.reshape(-1, channels),
        window.taps(kernel),
    )
    return window.maps_gradient(cotangent, maps, kernel, grid), kernel_gradient


def _xla_gradients(
    maps: Array, kernel: Array, grid: Any, cotangent: Array, window: Window
) -> tuple[Array, Array]:
    _, transpose = jax.vjp(lambda m, k: window.padded(m, k, grid), maps, kernel)
    return transpose(cotangent)


def _gradients_forward(*arguments: Any) -> tuple[tuple[Array, Array], tuple[Any, ...]]:
    return _gradients(*arguments), arguments[:-1]


def _gradients_backward(
    window: Window, saved: tuple[Any, ...], cotangents: tuple[Array, Array]
) -> tuple[Array, Array, None, Array]:
    maps, kernel, grid, cotangent = saved
    _, transpose = jax.vjp(
        lambda m, k, c: _xla_gradients(m, k, grid, c, window), maps, kernel, cotangent
    )
    to_maps, to_kernel, to_cotangent = transpose(cotangents)
    return to_maps, to_kernel, None, to_cotangent


_gradients.defvjp(_gradients_forward, _gradients_backward)
