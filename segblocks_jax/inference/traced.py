"""FusedTraced: a traced network (`segblocks_jax.in_blocks`) for inference, on the kernels of fused networks.

Convolutions take what follows into their epilogues: whatever multiplies and adds per channel, as folded norms do,
one shortcut, ReLU or ReLU6, and a second, rectified output. What is made of the network's arrays alone, such as
packed kernels and scales, is computed once. It is known by the expression that makes it, so that it serves images of
any size.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct
from jaxtyping import Array

from segblocks_jax.blocks import DualRes
from segblocks_jax.errors import InputError
from segblocks_jax.inference.layout import Layout
from segblocks_jax.inference.traced_run import Run
from segblocks_jax.inference.traced_steps import ConvPlan, ImagePlan
from segblocks_jax.nn.regions import BlockOptions, Maps
from segblocks_jax.ops import no_type_check
from segblocks_jax.traced.names import classes_of
from segblocks_jax.traced.net import InBlocks
from segblocks_jax.traced.runtime import Runtime, dense_runtime
from segblocks_jax.traced.tracing import Traced, report_warnings, traced_plan
from segblocks_jax.traced.values import Geometry

_SIDE = 256  # Of the image that kernels are prepared with.


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """A network without its arrays: ``function(leaves, image)``, how it runs in blocks, and its classes."""

    function: Callable[..., Any]
    options: BlockOptions
    whole_image: tuple[str, ...]
    strict: bool
    classes: tuple[type, ...]

    def traced(self, leaves: Sequence[Array], image: Any, geometry: Geometry) -> Traced:
        """The plan for an image."""
        given = (leaves, image, geometry, self.options, self.whole_image, self.classes)
        return traced_plan(self.function, *given)


@struct.dataclass(eq=False)
@no_type_check
class FusedTraced:
    """A traced network for inference: faster, without gradients, else as the network by rounding only.

    Attributes:
        leaves: the network's arrays.
        prepared: what is made of them once, by the expression that makes it.
        recipe: the network without them.
    """

    leaves: list[Array]
    prepared: dict[str, Any]
    recipe: Recipe = struct.field(pytree_node=False)

    def __call__(self, x: Maps) -> Maps:
        """Normalized image, or blocks of it -> what the network gives."""
        recipe = self.recipe
        if isinstance(x, DualRes):
            n, rows, columns = x.grid.mask.shape
            side = (x.block_size, x.block_size)
            geometry: Geometry = Geometry(n, rows, columns, side, x.grid.low_factor)
            image = jax.ShapeDtypeStruct((n, *geometry.size, x.pixels.shape[1]), x.pixels.dtype)
            runtime, pixels = Runtime(x.grid, recipe.options), x.pixels
            layout = Layout(x.grid, (side[0],))
        else:
            n, h, w, channels = x.shape
            geometry = Geometry(n, 1, 1, (h, w), 1)
            image = jax.ShapeDtypeStruct(x.shape, x.dtype)
            runtime, pixels = dense_runtime(n, recipe.options), x.reshape(-1, channels)
            layout = Layout(n, (h, w))
        traced = recipe.traced(self.leaves, image, geometry)
        if isinstance(x, DualRes):
            report_warnings(traced.plan, recipe.strict)
        run = Run(traced, self.leaves, self.prepared, runtime, layout, pixels.dtype)
        return run(pixels)


def fuse_traced(net: InBlocks, dtype: jax.typing.DTypeLike = "float32") -> FusedTraced:
    """Prepares a traced network for inference.

    Raises:
        InputError: the network pads blocks otherwise than by BlockPad.
    """
    if net.semantics.padding != "block":
        raise InputError(
            f"fuse: semantics.padding is {net.semantics.padding!r}; a fused network finds its neighbors by index and"
            " has only 'block'; serve it with execution='plain'"
        )
    net = nnx.clone(net)
    net.eval()
    function, leaves = net.functional()
    recipe = Recipe(function, net.semantics, net.whole_image, net.strict, classes_of(net.net))
    image = jax.ShapeDtypeStruct((1, _SIDE, _SIDE, 3), dtype)
    traced = recipe.traced(leaves, image, Geometry(1, 1, 1, (_SIDE, _SIDE), 1))
    prepared: dict[str, Any] = {}
    run = Run(traced, leaves, prepared, None, None, dtype)
    for step in run.fusion.steps():
        if isinstance(step, ConvPlan):
            run.kernels(step.node.operands[1], step.node.details)
            run.scaling(step)
        elif isinstance(step, ImagePlan):
            run.kernels(step.node.operands[1], step.windows)
    return FusedTraced([_stored(x) for x in leaves], prepared, recipe)


def _stored(array: Any) -> Any:
    return jnp.asarray(array) if isinstance(array, np.ndarray) else array
