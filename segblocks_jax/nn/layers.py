"""Layers with weights on images and blocks: convolution, and batch norm with joint or per-resolution statistics."""

import contextlib
import contextvars
import dataclasses
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.blocks import DualRes, block_conv
from segblocks_jax.errors import InputError
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.initial import he_normal
from segblocks_jax.nn.regions import BlockOptions, Features
from segblocks_jax.nn.scope import record, recordable
from segblocks_jax.ops import within
from segblocks_jax.ops.image_conv import image_conv, pair

Padding = Literal["symmetric", "same_tf"]
PADDINGS: tuple[Padding, ...] = get_args(Padding)


class Conv(nnx.Module):
    """2-D convolution with zero padding around the image and, in blocks, the neighbors' pixels inside.

    Computes in the dtype of its input; parameters stay float32.

    Attributes:
        kernel: (kh, kw, in_features / groups, out_features).
        bias: (out_features,) or None.
        semantics: `BlockOptions.padding` says what blocks are padded with.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int | tuple[int, int] | Padding = "symmetric",
        groups: int = 1,
        dilation: int = 1,
        use_bias: bool = False,
        kernel_init: nnx.Initializer = he_normal,
        semantics: BlockOptions | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws the kernel from `kernel_init`; biases start at 0. Sizes: of both axes, or (vertical, horizontal).

        Padding by name keeps the size but for the stride. "symmetric" has ``dilation * (k - 1) // 2`` pixels on all
        sides, "same_tf" is TensorFlow's SAME of images whose sides are multiples of the stride: as few pixels as that
        takes, the odd one behind.
        """
        kh, kw = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        shape = (kh, kw, in_features // groups, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32)) if use_bias else None
        self.stride = stride
        reach = dilation * (kh - 1), dilation * (kw - 1)
        self.shift = 0, 0
        if isinstance(padding, str):
            if padding not in PADDINGS:
                raise InputError(
                    f"Conv: padding is {padding!r}; expected pixels, or one of {PADDINGS}"
                )
            if padding == "same_tf":
                vertical, horizontal = (r // 2 - max(r + 1 - stride, 0) // 2 for r in reach)
                self.shift = vertical, horizontal
            padding = reach[0] // 2, reach[1] // 2
        self.padding = pair(padding)
        self.groups = groups
        self.dilation = dilation
        self.semantics = semantics or BlockOptions()

    @recordable
    def __call__(self, features: Features) -> Features:
        """Convolves."""
        if isinstance(features, Probe):
            return features.through(self.stride)
        if isinstance(features, DualRes):
            kernel, bias = self._parameters(features.pixels.dtype)
            return block_conv(
                features,
                kernel,
                self.stride,
                self.padding,
                self.groups,
                bias,
                dilation=self.dilation,
                shift=self.shift,
                padding_mode=self.semantics.padding,
            )
        kernel, bias = self._parameters(features.dtype)
        out = image_conv(
            features,
            kernel,
            self.stride,
            self.padding,
            self.groups,
            dilation=self.dilation,
            shift=self.shift,
        )
        record(out.size * (math.prod(self.kernel.shape[:3]) + (self.bias is not None)))
        return out if bias is None else out + bias[None, None, None]

    def _parameters(self, dtype: jnp.dtype) -> tuple[Array, Array | None]:
        bias = None if self.bias is None else self.bias[...].astype(dtype)
        return self.kernel[...].astype(dtype), bias


Moments = tuple[Array, Array]

_axis: contextvars.ContextVar[str | None] = contextvars.ContextVar("axis", default=None)


def synchronized_batch_norm(axis_name: str | None) -> contextlib.AbstractContextManager[None]:
    """A context: networks that are called inside have joint batch statistics over the devices of a mapped axis.

    `axis_name` is one of `jax.shard_map`; None: each device has its own.
    """
    return within(_axis, axis_name)


class BatchNorm(nnx.Module):
    """Batch normalization over all pixels of a batch; in float32, or the wider type of its input.

    In training, ``running = (1 - momentum) * running + momentum * batch``, with the unbiased variance
    (PyTorch's convention). `BlockOptions.batch_norm` says what "batch" is for blocks,
    `synchronized_batch_norm` over which devices it is taken.

    Attributes:
        scale, bias: parameters, (features,).
        mean, var: running statistics, (features,), `flax.nnx.BatchStat`.
        use_running_average: True in evaluation; set by `flax.nnx.Module.train` and `eval`.
    """

    def __init__(
        self, features: int, *, momentum: float, eps: float = 1e-5, semantics: BlockOptions
    ) -> None:
        """Starts with scale 1, bias 0, mean 0, var 1."""
        self.scale = nnx.Param(jnp.ones(features, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
        self.momentum = momentum
        self.eps = eps
        self.per_resolution = semantics.batch_norm == "per_resolution"
        self.use_running_average = False

    @recordable
    def __call__(self, features: Features) -> Features:
        """Normalizes every channel."""
        if isinstance(features, Probe):
            return features
        if not isinstance(features, DualRes):
            pixels = features.reshape(-1, features.shape[-1])
            return self._normalize_joint(pixels).reshape(features.shape)
        if self.per_resolution and not self.use_running_average:
            pixels = self._normalize_each(features)
        else:
            pixels = self._normalize_joint(features.pixels)
        return dataclasses.replace(features, pixels=pixels)

    def _normalize_joint(self, pixels: Float[Array, "p c"]) -> Float[Array, "p c"]:
        if self.use_running_average:
            return self._apply(pixels, (self.mean[...], self.var[...]))
        moments = self._moments(pixels)
        self._update(moments, pixels.shape[0])
        return self._apply(pixels, moments)

    def _normalize_each(self, blocks: DualRes) -> Float[Array, "p c"]:
        count = blocks.grid.num_high * blocks.block_size**2
        parts = [part for part in (blocks.pixels[:count], blocks.pixels[count:]) if part.shape[0]]
        moments = [self._moments(part) for part in parts]
        shares = [part.shape[0] / blocks.pixels.shape[0] for part in parts]
        zero = jnp.zeros_like(self.mean[...])
        mean = sum((share * moment[0] for share, moment in zip(shares, moments, strict=True)), zero)
        var = sum((share * moment[1] for share, moment in zip(shares, moments, strict=True)), zero)
        self._update((mean, var), blocks.pixels.shape[0])
        return jnp.concatenate([self._apply(x, m) for x, m in zip(parts, moments, strict=True)])

    def _moments(self, pixels: Float[Array, "p c"]) -> Moments:
        wide = _wide(pixels)
        mean = self._over_devices(wide.mean(0))
        return mean, self._over_devices(jnp.square(wide - mean[None]).mean(0))

    def _over_devices(self, value: Float[Array, "c"]) -> Float[Array, "c"]:
        # Every device runs the same number of high blocks, so all have as many pixels.
        axis = _axis.get()
        return value if axis is None else jax.lax.pmean(value, axis)

    def _update(self, moments: Moments, count: int) -> None:
        if (axis := _axis.get()) is not None:
            count *= jax.lax.axis_size(axis)
        mean, var = (jax.lax.stop_gradient(moment) for moment in moments)
        unbiased = var * (count / max(count - 1, 1))
        self.mean[...] = (1 - self.momentum) * self.mean[...] + self.momentum * mean
        self.var[...] = (1 - self.momentum) * self.var[...] + self.momentum * unbiased

    def _apply(self, pixels: Float[Array, "p c"], moments: Moments) -> Float[Array, "p c"]:
        mean, var = moments
        factor = self.scale[...] * jax.lax.rsqrt(var + self.eps)
        # Centered first: folded into one shift, a mean far above the deviation would cancel.
        centered = _wide(pixels) - mean[None]
        return (centered * factor[None] + self.bias[...][None]).astype(pixels.dtype)


def _wide(pixels: Float[Array, "p c"]) -> Float[Array, "p c"]:
    return pixels if pixels.dtype == jnp.float64 else pixels.astype(jnp.float32)
