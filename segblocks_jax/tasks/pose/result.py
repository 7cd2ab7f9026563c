"""Poses: what an engine finds in images."""

import dataclasses

import numpy as np
from jaxtyping import Float, Float32

from segblocks_jax.ops import no_type_check


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Poses:
    """The result for n people.

    Attributes:
        joints: (n, 16, 2) as (x, y) in pixels of the images.
        scores: (n, 16) maxima of the heat maps; about 1 where a joint is certain.
        seconds: from images in host memory to results in host memory, compilation included.
        compiled: whether this call compiled a program.
    """

    joints: Float[np.ndarray, "n 16 2"]
    scores: Float32[np.ndarray, "n 16"]
    seconds: float
    compiled: bool
