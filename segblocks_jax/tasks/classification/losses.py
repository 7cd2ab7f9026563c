"""Cross-entropy of whole images."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer


def cross_entropy(
    logits: Float[Array, "n k"], labels: Integer[Array, "n"], smoothing: float = 0.0
) -> Float[Array, "n"]:
    """The cross-entropy of every image, in nats, in float32 or wider.

    With smoothing s, the target is ``(1 - s) * one_hot(label) + s / k`` (Szegedy et al., arXiv 1512.00567), as
    PyTorch's `label_smoothing`.
    """
    wide = logits if logits.dtype == jnp.float64 else logits.astype(jnp.float32)
    log_probabilities = jax.nn.log_softmax(wide)
    right = jnp.take_along_axis(log_probabilities, labels[:, None], 1)[:, 0]
    return -((1 - smoothing) * right + smoothing * log_probabilities.mean(1))
