"""run: a network's result and masks in evaluation, dense or sparse; what its masks execute."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Shaped

from segblocks_jax.errors import InputError
from segblocks_jax.ops.mask_patches import dilate
from segblocks_jax.systems.dynconv.blocks import MaskedBlock
from segblocks_jax.systems.dynconv.execution import Pass
from segblocks_jax.systems.dynconv.layers import PackedLayer

Execution = Literal["dense", "sparse"]
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)
Masks = list[Bool[Array, "n _h _w"]]


def run(
    net: Any, images: Shaped[Array | np.ndarray, "..."], *, execution: Execution = "dense"
) -> tuple[Any, Masks]:
    """Evaluates a network.

    Args:
        net: of `segblocks_jax.create_model`, "dynconv_...".
        images: normalized.
        execution: "dense" computes all pixels and multiplies by the masks, "sparse" computes active pixels only. The
            results are equal.

    Returns:
        Logits (n, classes), or the list of heat maps, one a stack; and the masks (n, h, w) of the blocks, in order of
        execution.

    Raises:
        InputError: images of another shape, or another execution.
    """
    check_images(images)
    check_execution(execution)
    graphdef, state = nnx.split(net)
    return _run(graphdef, state, jnp.asarray(images, jnp.float32), execution)


@functools.partial(jax.jit, static_argnames=("graphdef", "execution"))
def _run(graphdef: Any, state: Any, images: Array, execution: Execution) -> tuple[Any, Masks]:
    net = nnx.merge(graphdef, state)
    net.eval()
    forward = Pass(sparse=execution == "sparse", by_index=True)
    out = net(images, forward)
    return out, forward.masks


def check_images(images: Shaped[Array | np.ndarray, "..."]) -> None:
    """Raises InputError for images that aren't (n, h, w, 3)."""
    shape = jnp.shape(images)
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise InputError(
            f"dynconv: images have shape {shape}; expected (n, h, w, 3), none of them 0"
        )


def check_execution(execution: str) -> None:
    """Raises InputError for an unknown one."""
    if execution not in EXECUTIONS:
        raise InputError(f"dynconv: execution is {execution!r}; expected one of {EXECUTIONS}")


class Costs(NamedTuple):
    """Multiply-adds of a network's masked blocks, by block in order of execution; see `budget_terms`.

    Attributes:
        macs: at an active pixel of the mask.
        dilated_macs: at one of the dilated mask.
        dilate_strides: by which masks are dilated.
    """

    macs: tuple[int, ...]
    dilated_macs: tuple[int, ...]
    dilate_strides: tuple[int, ...]

    @classmethod
    def of(cls, blocks: Sequence[MaskedBlock]) -> "Costs":
        """Of blocks."""
        found = [(block.macs, block.dilated_macs, block.dilate_stride) for block in blocks]
        columns = zip(*found, strict=True) if found else ((), (), ())
        return cls(*map(tuple, columns))

    def by_block(self, masks: Sequence[Shaped[Array | np.ndarray, "n _h _w"]]) -> list[int]:
        """What each block executes under its mask, summed over the batch."""
        executed = []
        for mask, macs, dilated_macs, stride in zip(masks, *self, strict=True):
            active, dilated = np.count_nonzero(mask), np.count_nonzero(dilate(mask, stride))
            executed.append(int(active) * macs + int(dilated) * dilated_macs)
        return executed

    def total(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """What all blocks execute under masks of these shapes that are active everywhere."""
        each = zip(map(math.prod, shapes), *self, strict=True)
        return sum(size * (macs + stride**2 * dilated) for size, macs, dilated, stride in each)


def image_shares(
    masks: Sequence[Shaped[Array, "n _h _w"]], cost: Costs
) -> tuple[Float[Array, "n blocks"], Float[Array, "n"]]:
    """The share of its operations that each block executes for each image, and that of all blocks together."""
    shares, totals = [], []
    for mask, macs, dilated_macs, stride in zip(masks, *cost, strict=True):
        dilated = dilate(mask, stride)
        parts = macs * mask[0].size, dilated_macs * dilated[0].size
        means = (x.astype(jnp.float32).mean((1, 2)) for x in (mask, dilated))
        own = (part / sum(parts) * mean for part, mean in zip(parts, means, strict=True))
        shares.append(sum(own, jnp.zeros(mask.shape[0], jnp.float32)))
        totals.append(sum(parts))
    each = jnp.stack(shares, 1)
    weights = jnp.asarray([total / sum(totals) for total in totals], jnp.float32)
    return each, jnp.sum(each * weights[None], 1)


def costs(net: Any, shape: tuple[int, ...]) -> tuple[Costs, list[tuple[int, ...]]]:
    """The costs of a network's blocks, and the shapes of their masks, for images of a shape (n, h, w, 3)."""
    probe = nnx.clone(net)
    probe.eval()
    graphdef, state = nnx.split(probe)
    found = []

    def trace(state: Any, x: Array) -> Masks:
        forward = Pass()
        nnx.merge(graphdef, state)(x, forward)
        found.append(Costs.of(forward.blocks))
        return forward.masks

    masks = jax.eval_shape(trace, state, jax.ShapeDtypeStruct(shape, jnp.float32))
    return found[0], [mask.shape for mask in masks]


def prepare(net: Any, shape: tuple[int, ...], execution: Execution = "sparse") -> list[PackedLayer]:
    """Packs a network's layers for evaluation, once for many calls; they are the `prepared` of a `Pass`.

    They hold for images of any size.
    """
    check_execution(execution)
    forward = Pass(sparse=execution == "sparse", by_index=True)
    probe = nnx.clone(net)
    probe.eval()
    jax.eval_shape(lambda x: probe(x, forward), jax.ShapeDtypeStruct(shape, jnp.float32))
    return [pack() for pack in forward.packers]
