"""Random numbers per image: the same in any batch and on any device.

Where a function here takes `key`, that is one key for a batch, or an array with a key per image.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


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
