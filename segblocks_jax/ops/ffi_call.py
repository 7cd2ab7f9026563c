"""Calls of the compiled handlers: what dtypes they take, and linear ones with their transposes."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Shaped

from segblocks_jax.ops import extension

Shape = tuple[int, ...]
DTYPES = ("float32", "bfloat16", "float16")


def check_dtype(
    operation: str, argument: str, array: Shaped[Array | np.ndarray, "..."]
) -> Shaped[Array, "..."]:
    """Returns a JAX array; raises TypeError for a dtype that the block operations don't have."""
    if array.dtype not in DTYPES:
        raise TypeError(
            f"{operation}: {argument} has dtype {array.dtype}; expected one of {', '.join(DTYPES)};"
            f" convert with {argument}.astype('float32')"
        )
    return jnp.asarray(array)


def call(
    target: str,
    arrays: Sequence[Shaped[Array, "..."]],
    results: Sequence[tuple[Shape, jax.typing.DTypeLike]],
    in_place: Mapping[int, int] | None = None,
    **attributes: int | bool | Sequence[int],
) -> tuple[Shaped[Array, "..."], ...]:
    """Runs a handler, one of `extension.TARGETS`, on arrays; under `jax.vmap` once per element.

    `results` has shape and dtype of each result; `in_place` says which array's memory a result has, by their
    numbers {array: result}. Integer attributes arrive as int64, several as an array of them.
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
    values = {
        k: v if isinstance(v, bool) else np.asarray(v, np.int64)[()] for k, v in attributes.items()
    }
    run = jax.ffi.ffi_call(
        target, types, vmap_method="sequential", input_output_aliases=dict(in_place or {})
    )
    return tuple(run(*arrays, **values))


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


def linear_call(
    target: str,
    array: Float[Array, "..."],
    slots: Int[Array, "n gh gw"],
    results: tuple[Shape, ...],
    **attributes: int | bool,
) -> tuple[Float[Array, "..."], ...]:
    """Runs a linear handler of an array and of a grid's slots, in which it is not differentiated.

    The handler of its transpose, `target` with "_backward" behind, takes arrays of the shapes `results`, and
    the slots. Derivatives of any order (reverse mode), `jax.vmap` (one call an element) and `jax.shard_map` work.
    """
    linear = _Linear(
        target, f"{target}_backward", (array.shape,), results, tuple(attributes.items())
    )
    array, slots = vary_alike(array, slots)
    return _apply((array,), slots, linear)


@dataclasses.dataclass(frozen=True)
class _Linear:
    """What is static about a call."""

    target: str
    transpose: str
    operands: tuple[Shape, ...]
    results: tuple[Shape, ...]
    attributes: tuple[tuple[str, int | bool], ...]

    def transposed(self) -> "_Linear":
        return _Linear(self.transpose, self.target, self.results, self.operands, self.attributes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _apply(arrays: tuple[Array, ...], slots: Array, linear: _Linear) -> tuple[Array, ...]:
    results = [(shape, arrays[0].dtype) for shape in linear.results]
    return call(linear.target, (*arrays, slots), results, None, **dict(linear.attributes))


def _apply_forward(
    arrays: tuple[Array, ...], slots: Array, linear: _Linear
) -> tuple[tuple[Array, ...], Array]:
    return _apply(arrays, slots, linear), slots


def _apply_backward(
    linear: _Linear, slots: Array, cotangents: tuple[Array, ...]
) -> tuple[tuple[Array, ...], None]:
    return _apply(cotangents, slots, linear.transposed()), None


_apply.defvjp(_apply_forward, _apply_backward)
