"""The loss of heat maps."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def heatmap_loss(
    heatmaps: Float[Array, "n h w joints"],
    target: Float[Array, "n h w joints"],
    weight: Float[Array, "n joints"],
) -> Float[Array, ""]:
    """``0.5 * mean((weight * heatmaps - weight * target)**2)`` over images, pixels and joints, in float32 or wider.

    Joints of weight 0 count as errors of 0.
    """
    wide = jnp.promote_types(heatmaps.dtype, jnp.float32)
    difference = heatmaps.astype(wide) - target.astype(wide)
    return 0.5 * jnp.mean(jnp.square(weight.astype(wide)[:, None, None] * difference))
