"""The optimizer: Adam with L2 decay in the gradient, a cosine schedule and a multiplier a part."""

import jax
import optax
from flax import nnx

from segblocks_jax.training.config import OptimConfig


def create_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Builds the published recipe's optimizer for the parameters of a system.

    ``g += decay * m * p``, then Adam, then ``p -= rate(step) * m * update``, where m is the multiplier
    of the part (backbone, policy, or 1 for the rest).
    """

    def multipliers(tree: nnx.State) -> nnx.State:
        return jax.tree.map_with_path(lambda path, _: _multiplier(path, config), tree)

    def scale(updates: nnx.State) -> nnx.State:
        return jax.tree.map(lambda m, u: m * u, multipliers(updates), updates)

    def decay(updates: nnx.State, params: nnx.State | None) -> nnx.State:
        return jax.tree.map(
            lambda m, u, p: u + config.weight_decay * m * p, multipliers(updates), updates, params
        )

    chain = optax.chain(
        optax.stateless(decay),
        optax.scale_by_adam(config.b1, config.b2),
        optax.stateless(lambda updates, params: scale(updates)),
        optax.scale_by_learning_rate(learning_rate(config)),
    )
    return optax.GradientTransformation(chain.init, jax.named_scope("optimizer")(chain.update))


def learning_rate(config: OptimConfig) -> optax.Schedule:
    """Cosine from `learning_rate` to `final_learning_rate` over all steps."""
    ratio = config.final_learning_rate / config.learning_rate
    return optax.cosine_decay_schedule(config.learning_rate, config.steps, alpha=ratio)


def _multiplier(path: tuple, config: OptimConfig) -> float:
    names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    if names[0] == "policy":
        return config.policy_multiplier
    return config.backbone_multiplier if names[:2] == ["net", "backbone"] else 1.0
