"""The computation budget: how far a batch's masks are from the share of operations that they may execute."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from segblocks_jax.errors import InputError
from segblocks_jax.ops import no_type_check
from segblocks_jax.ops.mask_patches import dilate

_ANNEALED = 0.33  # Share of the training after which blocks have no bounds of their own.
Scalar = Float[Array, ""]
Masks = Sequence[Shaped[Array | np.ndarray, "..."]]
Numbers = Sequence[int] | Int[np.ndarray, "blocks"]


@jax.tree_util.register_dataclass
@no_type_check
@dataclasses.dataclass(frozen=True)
class Budget:
    """What `budget_terms` finds.

    Attributes:
        network: square of the distance of `share` from the target.
        block: mean over the blocks of the squares by which their shares leave the bounds.
        share: executed operations of all blocks over all of theirs.
        shares: the same of each block, (blocks,).
        bounds: (lower, upper) of the blocks' shares.
    """

    network: Float[Array, ""]
    block: Float[Array, ""]
    share: Float[Array, ""]
    shares: Float[Array, "blocks"]
    bounds: tuple[Float[Array, ""], Float[Array, ""]]

    @property
    def loss(self) -> Scalar:
        """The sum of both terms."""
        return self.network + self.block


def check_target(target: float | int) -> None:
    """Raises InputError for a budget outside (0, 1]."""
    if not 0 < target <= 1:
        raise InputError(
            f"budget: target is {target}; expected a share of the operations above 0, up to 1"
        )


def bounds(target: float | int, progress: float | int | Scalar) -> tuple[Scalar, Scalar]:
    """(lower, upper) bound of a block's share of executed operations.

    With ``p = cos(min(progress / 0.33, 1) * pi / 2) ** 2`` they are ``p * target`` and ``1 - p * (1 - target)``: the
    target at the start, 0 and 1 after a third of the training.
    """
    p = _annealing(progress)
    return p * target, 1 - p * (1 - target)


def _annealing(progress: float | int | Scalar) -> Scalar:
    angle = jnp.clip(jnp.asarray(progress, jnp.result_type(float)) / _ANNEALED, 0, 1) * (jnp.pi / 2)
    return jnp.square(jnp.cos(angle))


def budget_loss(
    masks: Masks,
    macs_per_position: Numbers,
    dilated_macs_per_position: Numbers,
    dilate_strides: Numbers,
    target: float | int,
    progress: float | int | Scalar,
) -> Scalar:
    """The sum of the network's and the blocks' terms, over a whole batch; see `budget_terms`."""
    given = masks, macs_per_position, dilated_macs_per_position, dilate_strides
    return budget_terms(*given, target, progress).loss


@jax.named_scope("budget_loss")
def budget_terms(
    masks: Masks,
    macs_per_position: Numbers,
    dilated_macs_per_position: Numbers,
    dilate_strides: Numbers,
    target: float | int,
    progress: float | int | Scalar,
    *,
    axis_name: str | None = None,
) -> Budget:
    """Compares the operations that masks execute with a target share.

    Block b executes ``c = dilated_macs * sum(dilate(mask)) + macs * sum(mask)`` of t operations, those of a mask that
    is active everywhere. With r = c / t of a block, R = sum(c) / sum(t) and the bounds of `bounds`::

        network = (R - target)**2
        block   = mean over blocks of max(0, r - upper)**2 + max(0, lower - r)**2

    Args:
        masks: of every block, over the batch: bool, or 0 and 1 with a gradient. Dilated masks have none.
        macs_per_position: by block, multiply-adds at an active pixel of the mask.
        dilated_macs_per_position: the same at one of the dilated mask.
        dilate_strides: see `dilate`.
        target: share of operations, above 0, up to 1.
        progress: epochs done over all epochs; may be traced.
        axis_name: mapped axis over whose devices the batch is spread evenly.

    Raises:
        InputError: a target outside (0, 1], lists of different lengths, masks that aren't (n, h, w), or multiply-adds
            that are negative or all 0.

    Source: Verelst and Tuytelaars (arXiv 1912.03203), section 3.3, with costs as in the published code.
    """
    check_target(target)
    given = macs_per_position, dilated_macs_per_position, dilate_strides
    lengths = [len(x) for x in (masks, *given)]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise InputError(
            f"budget: {lengths[0]} masks, and {', '.join(map(str, lengths[1:]))} values of macs_per_position,"
            " dilated_macs_per_position and dilate_strides; expected one of each for every block"
        )
    excesses, totals = [], []
    for i, (mask, macs, dilated_macs, stride) in enumerate(zip(masks, *given, strict=True)):
        if mask.ndim != 3 or not mask.size:
            raise InputError(f"budget: mask {i} has shape {mask.shape}; expected (n, h, w)")
        mask = jnp.asarray(mask)
        number = mask if mask.dtype == jnp.float64 else mask.astype(jnp.float32)
        dilated = dilate(jax.lax.stop_gradient(number), stride).astype(number.dtype)
        total = int(macs) * number.size + int(dilated_macs) * dilated.size
        if min(macs, dilated_macs) < 0 or not total:
            raise InputError(
                f"budget: block {i} has {macs} and {dilated_macs} multiply-adds at a pixel; expected 0 or more,"
                " not both 0"
            )
        parts = (int(macs) / total, number), (int(dilated_macs) / total, dilated)
        excesses.append(sum(weight * _above(x, target) for weight, x in parts))
        totals.append(total)
    excess = jnp.stack(excesses)
    if axis_name is not None:
        excess = jax.lax.pmean(excess, axis_name)
    weights = jnp.asarray([total / sum(totals) for total in totals], excess.dtype)
    whole = jnp.sum(excess * weights)
    p = _annealing(progress).astype(excess.dtype)
    over = jax.nn.relu(excess - (1 - p) * (1 - target))
    under = jax.nn.relu(-excess - (1 - p) * target)
    block = jnp.mean(jnp.square(over) + jnp.square(under))
    lower, upper = bounds(target, progress)
    return Budget(jnp.square(whole), block, whole + target, excess + target, (lower, upper))


def _above(mask: Float[Array, "n h w"], target: float) -> Scalar:
    """How many more pixels are active than the target share: exact up to one rounding, where shares would cancel."""
    wanted = target * mask.size
    return (mask.sum() - math.floor(wanted)) - (wanted - math.floor(wanted))
