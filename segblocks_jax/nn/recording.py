"""Recording: which layers a network calls on what, so that inference can fold them into each other."""

import contextvars
import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from segblocks_jax.nn.scope import current_part

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A layer's call.

    Attributes:
        function: the layer's function, or its `__call__`.
        arguments: of it, the layer itself first if it is a module; arrays stand for features.
        result: what it gave.
        part: of the network, by `scope`.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    result: Any
    part: str

    @property
    def features(self) -> list[Array]:
        """The arrays among the arguments."""
        flat = jax.tree.leaves(list(self.arguments.values()), is_leaf=_is_module)
        return [x for x in flat if isinstance(x, jax.Array)]


_calls: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar("calls", default=None)


def recordable(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function of features, or a layer's `__call__`, known to `record_calls`."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        calls = _calls.get()
        if calls is None:
            return function(*args, **kwargs)
        token = _calls.set(None)  # Of layers inside of layers, the outer one is recorded.
        try:
            result = function(*args, **kwargs)
        finally:
            _calls.reset(token)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        calls.append(Call(call, bound.arguments, result, current_part()))
        return result

    return call


def record_calls(
    net: Callable[[Any], Any], shape: tuple[int, int, int, int]
) -> tuple[list[Call], Array, Any]:
    """Traces a network on an image of `shape`: the calls of its layers in order, the image, the result.

    An array that is no call's result comes from a function that is not recordable.
    """
    calls: list[Call] = []
    ends: list[Any] = []

    def run(image: Array) -> Any:
        ends.extend((image, net(image)))
        return ends[1]

    token = _calls.set(calls)
    try:
        jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.float32))
    finally:
        _calls.reset(token)
    return calls, ends[0], ends[1]


def _is_module(x: Any) -> bool:
    return isinstance(x, nnx.Module)
