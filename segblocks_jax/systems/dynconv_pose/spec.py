"""ModelSpec: what builds and serves a network for poses, stored beside its weights."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import models
from segblocks_jax.ops import extension
from segblocks_jax.systems.classifier.prediction import Prediction
from segblocks_jax.systems.classifier.spec import BaseSpec
from segblocks_jax.systems.dynconv.execution import Pass
from segblocks_jax.systems.dynconv.run import Costs, image_shares
from segblocks_jax.tasks.pose.heatmaps import with_mirrored


@dataclasses.dataclass(frozen=True)
class ModelSpec(BaseSpec):
    """Of an hourglass; its classes are joints.

    Attributes:
        width, stacks, masked: of the network, see `ModelConfig`.
        flip_test: whether heat maps are the mean with those of the mirror image.
        shift_flipped: whether these move by a pixel; see `mirror_back`.
        bgr: whether the network sees colors as blue, green, red.
    """

    system: ClassVar[str] = "dynconv_pose"

    width: float = 1.0
    stacks: int = 4
    masked: bool = True
    flip_test: bool = True
    shift_flipped: bool = True
    bgr: bool = False

    def build(self, rngs: nnx.Rngs) -> nnx.Dict:
        """Builds ``{"net"}`` with random weights; raises as `create_model`."""
        options: dict[str, Any] = {
            "width": self.width,
            "stacks": self.stacks,
            "masked": self.masked,
        }
        return nnx.Dict(net=models.create_model(self.name, self.num_classes, rngs=rngs, **options))

    def forward(self, modules: Any, image: Float[Array, "n h w 3"]) -> Prediction:
        """The last stack's heat maps (n, h / 4, w / 4, joints) as logits; values as DynConv's, of the first pass."""
        by_index = extension.resolve() == "ffi" and image.dtype in ("float32", "bfloat16")
        passes: list[Pass] = []

        def network(image: Float[Array, "n h w 3"]) -> Float[Array, "n oh ow joints"]:
            passes.append(Pass(sparse=by_index))
            return modules.net(image, passes[-1])[-1]

        both = functools.partial(with_mirrored, network, shift=self.shift_flipped)
        heatmaps = (both if self.flip_test else network)(image)
        first = passes[0]
        if not first.masks:
            ones = jnp.ones(image.shape[0], jnp.float32)
            return Prediction(heatmaps, (), {"executed_share": ones})
        shares, share = image_shares(first.masks, Costs.of(first.blocks))
        return Prediction(heatmaps, (), {"executed_share": share, "block_shares": shares})
