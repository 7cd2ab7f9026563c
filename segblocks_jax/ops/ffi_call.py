"""Calls of the compiled handlers, as they must be made under jit, vmap and shard_map."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from segblocks_jax.ops import extension

Shape = tuple[int, ...]
Attributes = tuple[tuple[str, int | bool], ...]


def call(
    target: str,
    arrays: Sequence[Shaped[Array, "..."]],
    results: Sequence[tuple[Shape, jax.typing.DTypeLike]],
    attributes: Attributes = (),
) -> tuple[Shaped[Array, "..."], ...]:
    """Runs a handler on arrays; under `jax.vmap` once an element.

    Args:
        target: one of `extension.TARGETS`.
        arrays: its operands.
        results: shape and dtype of each result.
        attributes: names and values; integers arrive as int64.
    """
    extension.available()
    arrays = vary_alike(*arrays)
    # Under shard_map a result's type names the mesh, and the axes over which the operands vary.
    given = jax.typeof(arrays[0])
    result_type = functools.partial(
        jax.ShapeDtypeStruct,
        sharding=NamedSharding(given.sharding.mesh, PartitionSpec()),
        manual_axis_type=given.manual_axis_type,
    )
    types = tuple(result_type(shape, dtype) for shape, dtype in results)
    values = {k: v if isinstance(v, bool) else np.int64(v) for k, v in attributes}
    return tuple(jax.ffi.ffi_call(target, types, vmap_method="sequential")(*arrays, **values))


def vary_alike(*arrays: Shaped[Array, "..."]) -> tuple[Shaped[Array, "..."], ...]:
    """Arrays that all vary over the mesh axes of any; under shard_map a handler takes no others.

    A differentiated function calls it outside of its `jax.custom_vjp`, whose cotangents must vary as
    its arguments do.
    """
    varying = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    union = frozenset().union(*varying)
    return tuple(
        jax.lax.pcast(array, tuple(sorted(union - axes)), to="varying") if union - axes else array
        for array, axes in zip(arrays, varying, strict=True)
    )
