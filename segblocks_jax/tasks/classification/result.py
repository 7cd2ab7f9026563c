"""Classification: what an engine says about images."""

import dataclasses

import numpy as np
from jaxtyping import Float32, Int

from segblocks_jax.ops import no_type_check


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """The result for n images.

    Attributes:
        labels: (n,) the best class of each image.
        probabilities: (n, k) of all classes.
        seconds: from images in host memory to results in host memory, compilation included.
        compiled: whether this call compiled a program.
    """

    labels: Int[np.ndarray, "n"]
    probabilities: Float32[np.ndarray, "n k"]
    seconds: float
    compiled: bool
