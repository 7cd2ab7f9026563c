"""in_blocks: any network of JAX in blocks, unchanged; its program is traced, and each operation runs in blocks."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from segblocks_jax.blocks import DualRes
from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.regions import BlockOptions
from segblocks_jax.nn.scope import is_counting
from segblocks_jax.traced.following import count, probed
from segblocks_jax.traced.names import classes_of, named
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.tracing import report_warnings, traced_plan
from segblocks_jax.traced.values import Geometry


@dataclasses.dataclass(frozen=True)
class _Structure:
    """What a pytree holds besides arrays."""

    tree: Any
    others: tuple[Any, ...]


class InBlocks(nnx.Module):
    """A network of any library, which runs on images as it is and on blocks; see `in_blocks`.

    Attributes:
        net: the network, if it is a module of Flax NNX.
        weights: its arrays, if it is another pytree.
        semantics: how it runs in blocks.
        whole_image: names of parts that run on the whole image.
        strict: whether anything else there is an error.
        num_classes, output_stride: of a network for segmentation.
    """

    def __init__(
        self,
        net: Callable[..., Any],
        options: BlockOptions | None = None,
        *,
        whole_image: Collection[str] | None = None,
        strict: bool = False,
    ) -> None:
        """See `in_blocks`."""
        own = getattr(net, "semantics", None)
        default = own if isinstance(own, BlockOptions) else BlockOptions()
        self.semantics = options or default
        named = getattr(net, "whole_image", ()) if whole_image is None else whole_image
        self.whole_image = tuple(sorted(named))
        self.strict = strict
        self.num_classes = getattr(net, "num_classes", 0)
        self.output_stride = getattr(net, "output_stride", 1)
        module = isinstance(net, nnx.Module)
        self.net: Any = net if module else None
        leaves, tree = jax.tree_util.tree_flatten_with_path(None if module else net)
        arrays = [(path, x) for path, x in leaves if isinstance(x, jax.Array | np.ndarray)]
        self.weights = nnx.List([_variable(path, x) for path, x in arrays])
        others = tuple(None if isinstance(x, jax.Array | np.ndarray) else x for _, x in leaves)
        self.structure = _Structure(tree, others)

    def __call__(self, x: Any) -> Any:
        """An image (n, h, w, c) -> what the network gives; blocks of it -> its maps in blocks.

        Raises:
            InputError: `strict`, and something would run on the whole image.
        """
        if isinstance(x, Probe):
            return probed(self, x)
        return self._run(x, "__call__")

    def heads(self, x: Any) -> Any:
        """As `__call__`, what the method `heads` of a module of Flax NNX gives: a tree of maps."""
        return self._run(x, "heads")

    def _run(self, x: Any, method: str) -> Any:
        function, leaves = self.functional(method)
        if not isinstance(x, DualRes):
            if is_counting():
                count(self, x)
            out, after = function(leaves, x)
            self.update(leaves, after)
            return out
        grid = x.grid
        n, rows, columns = grid.mask.shape
        side = x.block_size
        geometry = Geometry(n, rows, columns, (side, side), grid.low_factor)
        traced = self.plan(geometry, x.pixels.shape[1], x.pixels.dtype, method)
        report_warnings(traced.plan, self.strict)
        runtime = Runtime(grid, self.semantics)
        results = traced.run(runtime, leaves, x.pixels)
        out, after = jax.tree.unflatten(traced.tree, results)
        self.update(leaves, after)
        return out

    def functional(self, method: str = "__call__") -> tuple[Callable[..., Any], list[Any]]:
        """The network as ``function(leaves, image) -> (result, leaves)``, and its arrays; `method` of a module."""
        if self.net is not None:
            graph, state = nnx.split(self.net)
            leaves, tree = jax.tree.flatten(state)
            return functools.partial(_call_module, graph, tree, method), leaves
        given = [x[...] for x in self.weights]
        return functools.partial(_call_pytree, self.structure), given

    def update(self, before: Sequence[Any], after: Sequence[Any]) -> None:
        """Takes over running statistics and whatever else a call changed."""
        if self.net is None or all(a is b for a, b in zip(before, after, strict=True)):
            return
        _, state = nnx.split(self.net)
        nnx.update(self.net, jax.tree.unflatten(jax.tree.structure(state), list(after)))

    def plan(
        self, geometry: Geometry, channels: int, dtype: Any, method: str = "__call__"
    ) -> "Traced":
        """What runs for images of a geometry."""
        function, leaves = self.functional(method)
        shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
        image = jax.ShapeDtypeStruct((geometry.images, *geometry.size, channels), dtype)
        return traced_plan(
            function,
            shapes,
            image,
            geometry,
            self.semantics,
            self.whole_image,
            classes_of(self.net),
        )


def _call_module(graph: Any, tree: Any, method: str, leaves: Sequence[Any], image: Any) -> Any:
    net = nnx.merge(graph, jax.tree.unflatten(tree, list(leaves)))
    with named.within(net):
        out = getattr(net, method)(image)
    return out, jax.tree.leaves(nnx.split(net)[1])


def _call_pytree(structure: _Structure, leaves: Sequence[Any], image: Any) -> Any:
    given = iter([_as_image(x, image) for x in leaves])
    whole = [x if x is not None else next(given, None) for x in structure.others]
    return jax.tree.unflatten(structure.tree, whole)(image), list(leaves)


def _as_image(array: Any, image: Any) -> Any:
    """An array in the dtype of an image of lower precision."""
    lower = jnp.finfo(image.dtype).bits < 32
    return (
        array.astype(image.dtype) if lower and jnp.issubdtype(array.dtype, jnp.floating) else array
    )


def _variable(path: Sequence[Any], array: Any) -> nnx.Variable:
    array = jnp.asarray(array)
    if jax.tree_util.DictKey("batch_stats") in path:  # Linen's running statistics.
        return nnx.BatchStat(array)
    kind = nnx.Param if jnp.issubdtype(array.dtype, jnp.inexact) else nnx.Variable
    return kind(array)


def in_blocks(
    net: Callable[..., Any],
    options: BlockOptions | None = None,
    *,
    whole_image: Collection[str] | None = None,
    strict: bool = False,
) -> InBlocks:
    """Makes a network of any library run in blocks: ``in_blocks(net)(sb.split(image, mask))``.

    The network is traced, and each of its operations runs on the list of pixels or, where it reads neighbors, on
    blocks padded with them. An all-high grid gives what the network gives of the image, an all-low grid what it gives
    of the averaged image. Functions of the whole image, such as attention, run on the combined image; sums and
    maxima over all of it are taken from the blocks.

    Whatever else can't run in blocks, such as crops, does so as well, with a `WholeImageWarning` that names the
    operation and its line in the source. The result goes back into blocks where it meets maps in blocks, or a window
    reads it.

    Args:
        net: any function of an image (n, h, w, c) that JAX can trace, to maps of that layout; inside it may have any.
            A module of Flax NNX keeps its running statistics; the arrays of another pytree, such as an Equinox module
            or a `jax.tree_util.Partial`, become parameters; arrays that a function closes over stay as they are.
        options: see `BlockOptions`; default: the network's attribute `semantics`, if it has one.
        whole_image: names of parts that run on the whole image, without a warning: paths of NNX modules, such as
            "spp", names of `jax.named_scope`, or of jitted functions. Default: the network's attribute `whole_image`.
        strict: such an operation is an error instead.

    Returns:
        A module that takes an image, or blocks of it.
    """
    return InBlocks(net, options, whole_image=whole_image, strict=strict)
