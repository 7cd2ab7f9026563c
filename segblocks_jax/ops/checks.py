"""Argument checks that the block operations share."""

from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

T = TypeVar("T")
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


def no_type_check(cls: type[T]) -> type[T]:
    """Keeps jaxtyping's import hook, which tests use, away from a class; it goes by this name.

    JAX rebuilds pytrees around placeholders, which no array annotation fits; and a class that checks
    its own fields tells more than the hook does.
    """
    return cls
