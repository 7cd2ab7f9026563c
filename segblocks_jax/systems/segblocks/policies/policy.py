"""Policy: what every policy says of itself."""

from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.adaptive.decision import Decision


class Policy(nnx.Module):
    """Decides which blocks run high. Called as ``policy(image, key=None, gain=None) -> Decision``.

    Built as ``cls(block_size, target)``: a learned one with `rngs`, others with their `options`.

    Attributes:
        learned: whether it has parameters, which training rewards; its scores are logits then.
        needs_labels: whether a call needs `gain`, the loss that each block saves at high resolution.
        ranks_blocks: whether its scores say which blocks to prefer; else all blocks are alike to it.
        options: what `policies.create` takes for it beside block size and target.
        block_size: side of a block in image pixels.
        target: share of blocks to run high.
    """

    learned: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = False
    ranks_blocks: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, block_size: int, target: float, **options: Any) -> None:
        """Keeps both."""
        self.block_size = block_size
        self.target = target

    def __call__(
        self,
        image: Float[Array, "n h w 3"],
        key: Array | None = None,
        gain: Float[Array, "n gh gw"] | None = None,
    ) -> Decision:
        """Decides on normalized images; `key` is for sampling, one for the batch or one per image."""
        raise NotImplementedError
