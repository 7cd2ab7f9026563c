"""What a network says of images, while it is traced and after."""

from typing import Any, NamedTuple

from jaxtyping import Array, Float


class Prediction(NamedTuple):
    """The outputs for n images.

    Attributes:
        logits: (n, k), what the answer is taken from.
        exits: (n, k) each, of all exits in the order of execution, the last one's among them; empty without exits.
        values: by name, (n,) numbers of each image, such as operations that it took; their means are metrics.
    """

    logits: Float[Array, "n k"]
    exits: tuple[Float[Array, "n k"], ...] = ()
    values: dict[str, Any] = {}  # noqa: RUF012
