"""The gain of running high, block by block, and the grids of a policy that knows it."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, UInt8

from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.adaptive.decision import Decision, fill_scores
from segblocks_jax.blocks import BlockGrid, combine, split
from segblocks_jax.data import Normalization, SegmentationSource, eval_batches, normalize
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.subset import Some
from segblocks_jax.tasks.segmentation.labels import IGNORE
from segblocks_jax.tasks.segmentation.losses import block_mean, cross_entropy_map


def block_grid(image: Float[Array, "n h w 3"], config: ExperimentConfig) -> tuple[int, int, int]:
    """(n, gh, gw) of an image batch."""
    n, h, w, _ = image.shape
    return n, h // config.policy.block_size, w // config.policy.block_size


def uniform_block_loss(
    system: nnx.Dict,
    image: Float[Array, "n h w 3"],
    label: Array,
    config: ExperimentConfig,
    *,
    high: bool,
) -> Float[Array, "n gh gw"]:
    """The mean loss of every block when all blocks run high, or all low."""
    mask = jnp.full(block_grid(image, config), high)
    blocks = split(
        image.astype(config.precision),
        mask,
        num_high=mask.size * high,
        low_factor=config.policy.low_factor,
    )
    logits = combine(system.net(blocks), config.semantics.low_upsampling)
    loss_map, valid = cross_entropy_map(logits, label)
    _, gh, gw = mask.shape
    return block_mean(loss_map, valid, (gh, gw), ignored=config.semantics.ignored)[0]


def resolution_gain(
    system: nnx.Dict, image: Float[Array, "n h w 3"], label: Array, config: ExperimentConfig
) -> Float[Array, "n gh gw"]:
    """How much a block's mean loss falls when all blocks run high instead of low."""
    low, high = (
        uniform_block_loss(system, image, label, config, high=high) for high in (False, True)
    )
    return low - high


def mean_gain(
    system: nnx.Dict, source: SegmentationSource, config: ExperimentConfig
) -> dict[str, float]:
    """Whether resolution matters to a network, on the labeled blocks of ``config.loop.gain_images`` images.

    Returns:
        `resolution_gain`, the mean gain of a block in nats, and `resolution_gain_share`, the share of blocks whose
        gain is above 0.
    """
    loop, normalization = config.loop, source.normalization
    multiple = math.lcm(config.policy.block_size, system.net.output_stride)
    batches = eval_batches(Some(source, loop.gain_images), 1, multiple, loop.eval_sizes)
    graphdef, state = _evaluated(system)
    gains = []
    for batch in batches:
        gain = np.asarray(
            _gain(
                state,
                batch.image,
                batch.label,
                graphdef=graphdef,
                normalization=normalization,
                config=config,
            )
        )
        n, gh, gw = gain.shape
        labeled = (batch.label != IGNORE).reshape(n, gh, -1, gw, config.policy.block_size)
        gains.append(gain[labeled.any((2, 4))])
    every = np.concatenate(gains)
    return {
        "resolution_gain": float(every.mean(dtype=np.float64)),
        "resolution_gain_share": float((every > 0).mean()),
    }


class OracleMasks:
    """The blocks that the policy picks, their number rounded as the engine does."""

    def __init__(
        self, system: nnx.Dict, normalization: Normalization, config: ExperimentConfig
    ) -> None:
        """Takes a copy of the system."""
        graphdef, state = _evaluated(system)
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


def _evaluated(system: nnx.Dict) -> tuple[nnx.GraphDef, nnx.State]:
    """A copy in evaluation mode."""
    system = nnx.clone(system)
    system.eval()
    return nnx.split(system)


@functools.partial(jax.jit, static_argnames=("graphdef", "normalization", "config"))
def _gain(
    state: nnx.State,
    image: UInt8[Array, "n h w 3"],
    label: UInt8[Array, "n h w"],
    *,
    graphdef: nnx.GraphDef,
    normalization: Normalization,
    config: ExperimentConfig,
) -> Float[Array, "n gh gw"]:
    """Of the module, as `_decide`."""
    system = nnx.merge(graphdef, state)
    return resolution_gain(system, normalize(image, *normalization), label, config)


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
