"""Multiply-adds of any function, from its jaxpr: for networks that this library's layers don't count."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from segblocks_jax.errors import InputError


def jaxpr_macs(
    jaxpr: Jaxpr | ClosedJaxpr, live: Sequence[bool] | None = None, part: str = ""
) -> Mapping[str, int]:
    """Multiply-adds of the convolutions and matrix products, by `jax.named_scope`.

    A product with a matrix of constants, as interpolation is written, is left out; additions of biases are, too.

    Args:
        jaxpr: of the function.
        live: which inputs are no constants; default: all.
        part: the scope that it is in.

    Raises:
        InputError: a loop of unknown length has such operations.
    """
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    varies = dict(zip(jaxpr.invars, live or [True] * len(jaxpr.invars), strict=True))
    macs: collections.Counter[str] = collections.Counter()
    for equation in jaxpr.eqns:
        inputs = [not isinstance(x, Literal) and varies.get(x, False) for x in equation.invars]
        varies |= dict.fromkeys(equation.outvars, any(inputs))
        scope = str(equation.source_info.name_stack)
        scope = "/".join(filter(None, (part, scope)))
        macs.update(_of_equation(equation, inputs, scope))
    return macs


def _of_equation(equation: Any, live: list[bool], part: str) -> Mapping[str, int]:
    name, params = equation.primitive.name, equation.params
    if name == "conv_general_dilated":
        return {part: _convolution(equation)}
    if name == "dot_general":
        return {part: _product(equation)} if all(live) else {}
    if name == "cond":
        branches = [jaxpr_macs(branch, live[1:], part) for branch in params["branches"]]
        return max(branches, key=lambda macs: sum(macs.values()))
    counts = [
        jaxpr_macs(inner, live if len(live) == len(_inputs(inner)) else None, part)
        for value in params.values()
        for inner in (value if isinstance(value, tuple) else (value,))
        if isinstance(inner, Jaxpr | ClosedJaxpr)
    ]
    total = sum(map(collections.Counter, counts), collections.Counter())
    if name == "while" and total:
        raise InputError(
            "count_macs: convolutions or matrix products in a loop of unknown length can't be counted; use"
            " jax.lax.scan"
        )
    times = params["length"] if name == "scan" else 1
    return {scope: times * macs for scope, macs in total.items()}


def _inputs(jaxpr: Jaxpr | ClosedJaxpr) -> Sequence[Any]:
    return jaxpr.jaxpr.invars if isinstance(jaxpr, ClosedJaxpr) else jaxpr.invars


def _convolution(equation: Any) -> int:
    kernel, params = equation.invars[1].aval.shape, equation.params
    per_output = math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
    # Zeros that a transposed convolution puts between pixels are not multiplied.
    spread = math.prod(params["lhs_dilation"])
    return math.prod(equation.outvars[0].aval.shape) * per_output // spread


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
