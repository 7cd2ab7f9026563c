"""Multiply-adds of traced operations."""

import math
from collections.abc import Sequence
from typing import Any

from segblocks_jax.traced.values import Plain, Value


def multiply_adds(eqn: Any, values: Sequence[Value]) -> int:
    """Of a convolution or a product; those with constants, as interpolation is written, are left out."""
    name, out = eqn.primitive.name, math.prod(eqn.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = values[1].shape
        features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return out * math.prod(kernel) // features // math.prod(eqn.params["lhs_dilation"])
    if name == "dot_general":
        if any(isinstance(v, Plain) and v.origin == "constant" for v in values):
            return 0
        (contract, _), _ = eqn.params["dimension_numbers"]
        return out * math.prod(values[0].shape[a] for a in contract)
    return 0
