"""Segmentation: what an engine says about images."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from segblocks_jax.ops import no_type_check


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Segmentation:
    """The result for n images of one size (h, w).

    Attributes:
        labels: (n, h, w) best class of every pixel; None where logits were asked for.
        logits: (n, ceil(h / s), ceil(w / s), k) where asked for, else None; s is 4, for LRNNet 8.
        mask: (n, gh, gw) the blocks that ran at high resolution, gh = ceil(h / block size); None without blocks.
        scores: (n, gh, gw) the policy's scores, the logits of a learned one; None without blocks.
        seconds: from images in host memory to results in host memory, compilation included.
        compiled: whether this call compiled a program.
    """

    labels: UInt8[np.ndarray, "n h w"] | None
    logits: Float32[np.ndarray, "n lh lw k"] | None
    mask: Bool[np.ndarray, "n gh gw"] | None
    scores: Float[np.ndarray, "n gh gw"] | None
    seconds: float
    compiled: bool

    @property
    def share(self) -> float:
        """Share of blocks that ran high; 1 without blocks."""
        return 1.0 if self.mask is None else float(self.mask.mean())
