"""Dropout of whole channels, of images and of blocks."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from segblocks_jax.blocks import DualRes
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.random import fold_in, uniform
from segblocks_jax.nn.regions import Features


@dataclasses.dataclass
class _Keys:
    key: Array
    used: int = 0

    def draw(self) -> Array:
        self.used += 1
        return fold_in(self.key, self.used)


_keys: contextvars.ContextVar[_Keys | None] = contextvars.ContextVar("keys", default=None)


@contextlib.contextmanager
def dropout_key(key: Key[Array, "..."]) -> Iterator[None]:
    """A context: networks that are called inside drop channels, each layer by a key of its own.

    `key` is one for a batch, or an array with a key per image.
    """
    token = _keys.set(_Keys(key))
    try:
        yield
    finally:
        _keys.reset(token)


class Dropout(nnx.Module):
    """Zeroes whole channels of an image with probability `rate`; the others are divided by ``1 - rate``.

    All blocks of an image lose the same channels, so an all-high grid gives what the image gives.
    Nothing is dropped in evaluation, nor outside of `dropout_key`.

    Attributes:
        rate: probability.
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
        self, keys: _Keys, images: int, channels: int, dtype: jnp.dtype
    ) -> Float[Array, "n c"]:
        kept = uniform(keys.draw(), (images, channels)) < 1 - self.rate
        return kept.astype(dtype) / jnp.asarray(1 - self.rate, dtype)
