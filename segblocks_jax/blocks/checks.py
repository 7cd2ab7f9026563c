"""Argument checks that the block operations share."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

DTYPES = ("float32", "bfloat16", "float16")


def check_dtype(
    operation: str, argument: str, array: Shaped[Array | np.ndarray, "..."]
) -> Shaped[Array, "..."]:
    """Returns the array as a JAX array.

    Raises:
        TypeError: its dtype is not one that the block operations have.
    """
    if array.dtype not in DTYPES:
        raise TypeError(
            f"{operation}: {argument} has dtype {array.dtype}; expected one of {', '.join(DTYPES)};"
            f" convert with {argument}.astype('float32')"
        )
    return jnp.asarray(array)
