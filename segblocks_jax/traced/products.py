"""Rules of products: of each pixel with an array, of two maps pixel by pixel, and resizing by a matrix."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from segblocks_jax.traced.operations import multiply_adds
from segblocks_jax.traced.resize import matrix_axis, resample
from segblocks_jax.traced.runtime import Runtime
from segblocks_jax.traced.taps import is_resizing
from segblocks_jax.traced.trace import PLAIN_RULES, Tracer, rule
from segblocks_jax.traced.values import (
    Map,
    NotInBlocks,
    Value,
    image_axes,
)


@rule("dot_general")
def dot_general(tracer: Tracer, eqn: Any, values: list[Value]) -> Sequence[Value]:
    """Products of each pixel with an array, or of two maps pixel by pixel."""
    (contract, batch), aval = eqn.params["dimension_numbers"], eqn.outvars[0].aval
    if matrix_axis(values, (contract, batch)) is not None:
        return [resample(tracer, eqn, values)]
    for i, v in enumerate(values):
        if isinstance(v, Map):
            v.unpadded()
            if any(v.axes[a] != "c" for a in contract[i]):
                raise NotInBlocks("it sums over the image")
    left, right = values
    both = isinstance(left, Map) and isinstance(right, Map)
    if both:
        _check_pairs(left, right, batch)  # type: ignore[arg-type]
    elif any(
        isinstance(v, Map) and any(v.axes[a] != "c" for a in b)
        for v, b in zip(values, batch, strict=True)
    ):
        raise NotInBlocks("it multiplies every place by something else")
    value = left if isinstance(left, Map) else right
    assert isinstance(value, Map)
    beside = [v if isinstance(v, Map) else tracer.full(v) for v in values]
    free = [
        [a for a in range(len(v.shape)) if a not in (*c, *b)]
        for v, c, b in zip(values, contract, batch, strict=True)
    ]
    order = [(0, a) for a in batch[0]] + [(i, a) for i in (0, 1) for a in free[i]]
    sides = [v.axes if isinstance(v, Map) else ("c",) * len(v.shape) for v in values]
    labels = [sides[i][a] for i, a in order]
    result = Map(tracer.number(), aval.shape, aval.dtype, tuple(labels), value.side)
    numbers = _pixel_numbers(values, contract, batch, both)
    where = 0 if both else len(numbers[1][0]) + (0 if isinstance(left, Map) else len(free[0]))
    precision, wanted = eqn.params["precision"], eqn.params["preferred_element_type"]

    def run(runtime: Runtime, a: Array, b: Array) -> Array:
        out = lax.dot_general(a, b, numbers, precision, wanted)
        return jnp.moveaxis(out, where, 0)

    macs = multiply_adds(eqn, values)
    return [tracer.mapped("dot_general", run, beside, result, macs=macs, details=numbers)]


def _check_pairs(left: Map, right: Map, batch: Any) -> None:
    pairs = dict(zip(*batch, strict=True))
    for a, label in enumerate(left.axes):
        if label != "c" and (a not in pairs or right.axes[pairs[a]] != label):
            raise NotInBlocks("it multiplies every place by every other")
    if len(image_axes(right.axes)) != len(image_axes(left.axes)):
        raise NotInBlocks("it multiplies every place by every other")


def _pixel_numbers(values: Sequence[Value], contract: Any, batch: Any, both: bool) -> Any:
    """Dimension numbers on pixel lists."""
    new_contract, new_batch = [], []
    for v, c, b in zip(values, contract, batch, strict=True):
        if not isinstance(v, Map):
            new_contract.append(tuple(c))
            new_batch.append(tuple(b))
            continue
        new_contract.append(tuple(v.pixel_axis(a) for a in c))
        rest = tuple(v.pixel_axis(a) for a in b if v.axes[a] == "c")
        new_batch.append((0, *rest) if both else rest)
    return tuple(new_contract), tuple(new_batch)


@rule("dot_general", table=PLAIN_RULES)
def plain_product(tracer: Tracer, eqn: Any, values: list[Any]) -> Sequence[Value]:
    """As it is; notes whether positions stay those of the image."""
    contract, batch = eqn.params["dimension_numbers"]
    local = False
    for i, v in enumerate(values):
        other = values[1 - i]
        if v.origin != "image" or other.origin == "image" or any(batch) or len(contract[i]) != 1:
            continue
        local = contract[i][0] == len(v.shape) - 1
        if other.origin == "constant" and len(other.shape) == 2:
            matrix = np.broadcast_to(tracer.evaluate(other), other.shape)
            local = local or is_resizing(matrix if contract[1 - i][0] == 0 else matrix.T)
    return tracer.bound(eqn, [tracer.full(v) for v in values], local=local)
