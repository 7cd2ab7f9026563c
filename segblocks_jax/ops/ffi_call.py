"""Calls of the compiled handlers, and linear ones with their transposes."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from segblocks_jax.ops import extension

Shape = tuple[int, ...]
Attributes = tuple[tuple[str, int | bool], ...]


def call(
    target: str,
    arrays: Sequence[Shaped[Array, "..."]],
    results: Sequence[tuple[Shape, jax.typing.DTypeLike]],
    attributes: Attributes = (),
) -> tuple[Shaped[Array, "..."], ...]:
    """Runs a handler on arrays; under `jax.vmap` once per element.

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


@dataclasses.dataclass(frozen=True)
class LinearCall:
    """A linear handler, the handler of its transpose, and everything static about a call.

    Calling it runs the handler, on the slots of a grid too, in which it is not differentiated.
    Derivatives of any order (reverse mode), `jax.vmap` (one call an element) and `jax.shard_map`
    work.

    Attributes:
        target: FFI target that takes arrays of `operands`, then the slots; returns `results`.
        transpose: FFI target that takes arrays of `results`, then the slots; returns `operands`.
        operands: shapes.
        results: shapes.
        attributes: names and values of what both handlers get besides arrays.
    """

    target: str
    transpose: str
    operands: tuple[Shape, ...]
    results: tuple[Shape, ...]
    attributes: Attributes

    def __call__(
        self, *arrays: Float[Array, "..."], slots: Int[Array, "n gh gw"]
    ) -> tuple[Float[Array, "..."], ...]:
        """Runs the handler."""
        *operands, slots = vary_alike(*arrays, slots)
        return _apply(tuple(operands), slots, self)

    def transposed(self) -> "LinearCall":
        """Returns the transposed call."""
        return dataclasses.replace(
            self,
            target=self.transpose,
            transpose=self.target,
            operands=self.results,
            results=self.operands,
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _apply(arrays: tuple[Array, ...], slots: Array, linear: LinearCall) -> tuple[Array, ...]:
    results = [(shape, arrays[0].dtype) for shape in linear.results]
    return call(linear.target, (*arrays, slots), results, linear.attributes)


def _apply_forward(
    arrays: tuple[Array, ...], slots: Array, linear: LinearCall
) -> tuple[tuple[Array, ...], Array]:
    return _apply(arrays, slots, linear), slots


def _apply_backward(
    linear: LinearCall, slots: Array, cotangents: tuple[Array, ...]
) -> tuple[tuple[Array, ...], None]:
    return _apply(cotangents, slots, linear.transposed()), None


_apply.defvjp(_apply_forward, _apply_backward)
