"""Random numbers per image, the same in any batch and on any device; dropout of whole channels by them.

Where a function here takes `key`, that is one key for a batch, or an array with a key per image.
"""

import contextlib
import contextvars
import dataclasses
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from segblocks_jax.blocks import DualRes
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.regions import Features
from segblocks_jax.ops import within


def image_keys(key: Key[Array, "..."], numbers: Int[Array, "n"]) -> Key[Array, "..."]:
    """A key for every image: ``fold_in(key, number)``."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def fold_in(key: Key[Array, "..."], number: int) -> Key[Array, "..."]:
    """`jax.random.fold_in` of one key, or of each."""
    each = jax.vmap(jax.random.fold_in, (0, None)) if _several(key) else jax.random.fold_in
    return each(key, number)


def uniform(key: Key[Array, "..."], shape: tuple[int, ...]) -> Float[Array, "n ..."]:
    """Numbers in [0, 1) of a shape that begins with the images.

    With a key per image, image i gets ``jax.random.uniform(key[i], shape[1:])``.
    """
    if not _several(key):
        return jax.random.uniform(key, shape)
    return jax.vmap(lambda own: jax.random.uniform(own, shape[1:]))(key)


def _several(key: Key[Array, "..."]) -> bool:
    # The keys of jax.random.PRNGKey are arrays of words.
    return key.ndim > (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1)


_keys: contextvars.ContextVar[Iterator[Array] | None] = contextvars.ContextVar("keys", default=None)


def dropout_key(key: Key[Array, "..."]) -> contextlib.AbstractContextManager[None]:
    """A context: networks that are called inside drop channels, each layer by a key of its own."""
    return within(_keys, (fold_in(key, layer) for layer in itertools.count(1)))


class Dropout(nnx.Module):
    """Zeroes whole channels of an image with probability `rate`; the others are divided by ``1 - rate``.

    All blocks of an image lose the same channels, so an all-high grid gives what the image gives.
    Nothing is dropped in evaluation, nor outside of `dropout_key`.

    Attributes:
        deterministic: True in evaluation; set by `flax.nnx.Module.train` and `eval`.

    Source: Tompson et al. (arXiv 1411.4280), "SpatialDropout"; PyTorch's `Dropout2d`.
    """

    def __init__(self, rate: float) -> None:
        """0 <= rate < 1."""
        self.rate = rate
        self.deterministic = False

    def __call__(self, features: Features) -> Features:
        """Drops channels, where there is a key."""
        keys = _keys.get()
        if self.deterministic or not self.rate or keys is None or isinstance(features, Probe):
            return features
        if not isinstance(features, DualRes):
            n, _, _, channels = features.shape
            return features * self._factors(keys, n, channels, features.dtype)[:, None, None]
        grid, pixels = features.grid, features.pixels
        n, gh, gw = grid.mask.shape
        factors = self._factors(keys, n, pixels.shape[1], pixels.dtype)
        parts = [
            (part * factors[cells // (gh * gw)][:, None, None]).reshape(-1, pixels.shape[1])
            for part, cells in ((features.high, grid.high_cells), (features.low, grid.low_cells))
        ]
        return dataclasses.replace(features, pixels=jnp.concatenate(parts))

    def _factors(
        self, keys: Iterator[Array], images: int, channels: int, dtype: jnp.dtype
    ) -> Float[Array, "n c"]:
        kept = uniform(next(keys), (images, channels)) < 1 - self.rate
        return kept.astype(dtype) / jnp.asarray(1 - self.rate, dtype)
