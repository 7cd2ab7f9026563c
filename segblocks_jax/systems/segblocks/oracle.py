"""Grids of a policy that sees the labels, for evaluation."""

import functools

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, UInt8

from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.adaptive.decision import Decision, fill_scores
from segblocks_jax.blocks import BlockGrid
from segblocks_jax.data import Normalization, normalize
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.resolution_gain import resolution_gain


class OracleMasks:
    """The blocks that the policy picks, their number rounded as the engine does."""

    def __init__(
        self, system: nnx.Dict, normalization: Normalization, config: ExperimentConfig
    ) -> None:
        """Takes a copy of the system."""
        system = nnx.clone(system)
        system.eval()
        graphdef, state = nnx.split(system)
        self._config = config
        self._decide = functools.partial(
            _decide, state, graphdef=graphdef, normalization=normalization, config=config
        )

    def __call__(
        self, image: UInt8[np.ndarray, "n h w 3"], label: UInt8[np.ndarray, "n h w"], seed: int
    ) -> Bool[np.ndarray, "n gh gw"]:
        """The blocks of a batch that run high."""
        decision = self._decide(image, label)
        policy, semantics = self._config.policy, self._config.semantics
        count = int(np.count_nonzero(decision.action))
        num_high = round_to_bucket(count, decision.action.size, policy.bucket_step)
        scores = fill_scores(decision, semantics.filling, jax.random.key(seed))
        return np.asarray(BlockGrid.from_mask(decision.action, num_high, scores).mask)


@functools.partial(jax.jit, static_argnames=("graphdef", "normalization", "config"))
def _decide(
    state: nnx.State,
    image: UInt8[Array, "n h w 3"],
    label: UInt8[Array, "n h w"],
    *,
    graphdef: nnx.GraphDef,
    normalization: Normalization,
    config: ExperimentConfig,
) -> Decision:
    """Of the module, not of one evaluation: the next one finds it compiled."""
    system = nnx.merge(graphdef, state)
    image = normalize(image, *normalization)
    return system.policy(image, None, resolution_gain(system, image, label, config))
