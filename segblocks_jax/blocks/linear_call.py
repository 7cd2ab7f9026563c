"""Calls of compiled handlers that are linear: each is the derivative of another."""

import dataclasses
import functools

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from segblocks_jax.blocks import extension

Shape = tuple[int, ...]


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
    attributes: tuple[tuple[str, int | bool], ...]

    def __call__(
        self, *arrays: Float[Array, "..."], slots: Int[Array, "n gh gw"]
    ) -> tuple[Float[Array, "..."], ...]:
        """Runs the handler."""
        *operands, slots = _vary_alike(*arrays, slots)
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
def _apply(arrays: tuple[Array, ...], slots: Array, call: LinearCall) -> tuple[Array, ...]:
    extension.available()
    # Under shard_map a result's type names the mesh, and the axes over which the operands vary.
    given = jax.typeof(slots)
    result_type = functools.partial(
        jax.ShapeDtypeStruct,
        dtype=arrays[0].dtype,
        sharding=NamedSharding(given.sharding.mesh, PartitionSpec()),
        manual_axis_type=given.manual_axis_type,
    )
    types = tuple(result_type(shape) for shape in call.results)
    attributes = {
        name: value if isinstance(value, bool) else np.int64(value)
        for name, value in call.attributes
    }
    run = jax.ffi.ffi_call(call.target, types, vmap_method="sequential")
    return tuple(run(*arrays, slots, **attributes))


def _apply_forward(
    arrays: tuple[Array, ...], slots: Array, call: LinearCall
) -> tuple[tuple[Array, ...], Array]:
    return _apply(arrays, slots, call), slots


def _apply_backward(
    call: LinearCall, slots: Array, cotangents: tuple[Array, ...]
) -> tuple[tuple[Array, ...], None]:
    return _apply(cotangents, slots, call.transposed()), None


_apply.defvjp(_apply_forward, _apply_backward)


def _vary_alike(*arrays: Array) -> tuple[Array, ...]:
    # Under shard_map an FFI call takes only operands that vary over the same mesh axes.
    varying = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    union = frozenset().union(*varying)
    return tuple(
        jax.lax.pcast(array, tuple(sorted(union - axes)), to="varying") if union - axes else array
        for array, axes in zip(arrays, varying, strict=True)
    )
