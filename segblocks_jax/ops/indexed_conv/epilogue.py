"""Epilogue: what happens to a convolution's result before it is stored."""

import dataclasses
from typing import Literal, get_args

import jax
from jaxtyping import Array, Float

from segblocks_jax.ops.checks import no_type_check

Activation = Literal["none", "relu", "relu6"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Epilogue:
    """What follows a convolution before its result is stored, in float32.

    ``y = activation(conv * scale + bias + residual)``, and for a layer that normalizes first,
    ``relu(y * following[0] + following[1])``.

    Attributes:
        scale, bias: (k,), e.g. a folded batch norm; None: 1 and 0.
        residual: (p, k), like the output; None: 0.
        following: (scale, bias) of the second output; None: there is none.
        activation: "none", "relu" or "relu6".
        keep: whether y itself is stored.
    """

    scale: Float[Array, "k"] | None = None
    bias: Float[Array, "k"] | None = None
    residual: Float[Array, "p k"] | None = None
    following: tuple[Float[Array, "k"], Float[Array, "k"]] | None = None
    activation: Activation = dataclasses.field(default="none", metadata={"static": True})
    keep: bool = dataclasses.field(default=True, metadata={"static": True})
