"""ModelSpec: what builds and serves a classifier with masks, stored beside its weights."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import models
from segblocks_jax.ops import extension
from segblocks_jax.systems.classifier.prediction import Prediction
from segblocks_jax.systems.classifier.spec import BaseSpec
from segblocks_jax.systems.dynconv.config import ModelConfig
from segblocks_jax.systems.dynconv.execution import Pass
from segblocks_jax.systems.dynconv.run import Costs, image_shares


@dataclasses.dataclass(frozen=True)
class ModelSpec(BaseSpec):
    """Of a network of `create_model`; `width` and `masked` are its options, see `ModelConfig`."""

    system: ClassVar[str] = "dynconv"

    width: float | None = None
    masked: bool = True

    def build(self, rngs: nnx.Rngs) -> nnx.Dict:
        """Builds ``{"net"}`` with random weights; raises as `create_model`."""
        options = ModelConfig(self.name, self.width, self.masked).options
        net = models.create_model(self.name, self.num_classes, rngs=rngs, **options)
        return nnx.Dict(net=net)

    def forward(self, modules: Any, image: Float[Array, "n h w 3"]) -> Prediction:
        """Logits, computed sparsely where there are compiled handlers, and shares of executed operations.

        Values: `executed_share` of all blocks' operations, and the `block_shares` of each.
        """
        by_index = extension.resolve() == "ffi" and image.dtype in ("float32", "bfloat16")
        forward = Pass(sparse=by_index)
        logits = modules.net(image, forward)
        if not forward.masks:
            return Prediction(logits, (), {"executed_share": jnp.ones(image.shape[0], jnp.float32)})
        shares, share = image_shares(forward.masks, Costs.of(forward.blocks))
        return Prediction(logits, (), {"executed_share": share, "block_shares": shares})
