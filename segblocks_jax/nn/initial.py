"""Initial kernels, drawn in pieces of one size, so that XLA compiles one program instead of one per shape."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

_PIECE = 2**14
Draw = Callable[[Array, Array | int], Float[Array, "piece"]]


@jax.jit
def _normal(key: Array, number: Array | int) -> Float[Array, "piece"]:
    return jax.random.normal(jax.random.fold_in(key, number), (_PIECE,))


@jax.jit
def _uniform(key: Array, number: Array | int) -> Float[Array, "piece"]:
    return jax.random.uniform(jax.random.fold_in(key, number), (_PIECE,), minval=-1.0, maxval=1.0)


def _kernel(draw: Draw, gain: float, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Values of `draw` times sqrt(gain / fan-in), the fan-in being the product of all sizes but the last."""
    scale = math.sqrt(gain / math.prod(shape[:-1]))
    count = math.prod(shape)
    pieces = [draw(key, number) for number in range(-(-count // _PIECE))]
    # Of concrete pieces by NumPy, since JAX would compile for every shape.
    traced = any(isinstance(piece, jax.core.Tracer) for piece in pieces)
    values = (jnp if traced else np).concatenate(pieces)[:count].reshape(shape)
    return jnp.asarray(values * np.float32(scale), dtype)


he_normal = functools.partial(_kernel, _normal, 2.0)
"""Normal with variance 2 / fan-in: ``(key, shape, dtype) -> kernel``. Source: He et al., arXiv 1502.01852."""
small_uniform = functools.partial(_kernel, _uniform, 1.0)
"""Uniform between -1 / sqrt(fan-in) and 1 / sqrt(fan-in): ``(key, shape, dtype) -> kernel``."""


def fan_out_normal(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """Normal with variance 2 / fan-out, the product of all sizes but the last but one; arguments as `he_normal`."""
    return he_normal(key, shape, dtype) * math.sqrt(shape[-2] / shape[-1])


class ManyKeys(nnx.Rngs):
    """A stream `params` of keys that follow from one key of another's.

    Flax counts keys in an array. Where it is traced, as for shapes alone, building a network of hundreds of layers
    takes time that is quadratic in them.
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        """Takes one key."""
        self.key, self.number = rngs.params(), 0

    def params(self) -> Array:
        """The next key."""
        self.number += 1
        return jax.random.fold_in(self.key, self.number)
