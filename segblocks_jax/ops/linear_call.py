"""Calls of compiled handlers that are linear: each is the derivative of another."""

import dataclasses
import functools

import jax
from jaxtyping import Array, Float, Int

from segblocks_jax.ops import ffi_call
from segblocks_jax.ops.ffi_call import Attributes, Shape


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
        *operands, slots = ffi_call.vary_alike(*arrays, slots)
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
    results = [(shape, arrays[0].dtype) for shape in call.results]
    return ffi_call.call(call.target, (*arrays, slots), results, call.attributes)


def _apply_forward(
    arrays: tuple[Array, ...], slots: Array, call: LinearCall
) -> tuple[tuple[Array, ...], Array]:
    return _apply(arrays, slots, call), slots


def _apply_backward(
    call: LinearCall, slots: Array, cotangents: tuple[Array, ...]
) -> tuple[tuple[Array, ...], None]:
    return _apply(cotangents, slots, call.transposed()), None


_apply.defvjp(_apply_forward, _apply_backward)
