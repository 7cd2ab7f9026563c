"""A linear layer, for classifiers."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.nn.initial import small_uniform
from segblocks_jax.nn.scope import record, recordable


class Linear(nnx.Module):
    """``x @ kernel + bias`` of flattened features, in the dtype of its input; parameters stay float32.

    Attributes:
        kernel: (in_features, out_features).
        bias: (out_features,).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: nnx.Initializer = small_uniform,
        rngs: nnx.Rngs,
    ) -> None:
        """Draws the kernel from `kernel_init`; biases start at 0."""
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), (in_features, out_features), jnp.float32)
        )
        self.bias = nnx.Param(jnp.zeros(out_features, jnp.float32))

    @recordable
    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n k"]:
        """(n, in_features), or an image of a single position -> (n, out_features)."""
        kernel, bias = (v[...].astype(x.dtype) for v in (self.kernel, self.bias))
        out = x.reshape(x.shape[0], -1) @ kernel + bias[None]
        record(out.size * (kernel.shape[0] + 1))
        return out
