"""What is noted of a network while it is traced: parts, for profilers, and what they compute; calls of its layers.

From the calls inference sees how to fold layers into each other. Parts are also what is rematerialized.
"""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from segblocks_jax.ops import within

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass
class Count:
    """Multiply-adds by part, recorded while a network was traced: in blocks, or always on the whole image."""

    in_blocks: dict[str, int] = dataclasses.field(default_factory=dict)
    on_full_image: dict[str, int] = dataclasses.field(default_factory=dict)


_part: contextvars.ContextVar[str] = contextvars.ContextVar("part", default="")
_count: contextvars.ContextVar[Count | None] = contextvars.ContextVar("count", default=None)
_whole: contextvars.ContextVar[bool] = contextvars.ContextVar("whole", default=False)
_active: contextvars.ContextVar[bool] = contextvars.ContextVar("active", default=False)


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Names the operations inside; nested names are joined by a slash."""
    outer = _part.get()
    with within(_part, f"{outer}/{name}" if outer else name), jax.named_scope(name):
        yield


def full_image_region() -> contextlib.AbstractContextManager[None]:
    """Marks the operations inside as running on the whole image at full resolution."""
    return within(_whole, True)


@contextlib.contextmanager
def counting() -> Iterator[Count]:
    """Collects the multiply-adds of the layers that are called inside."""
    count = Count()
    with within(_count, count):
        yield count


def is_counting() -> bool:
    """Whether a count is being taken."""
    return _count.get() is not None


def record(macs: Any) -> None:
    """Adds multiply-adds, symbolic where shapes are, to the current part, where a count is being taken."""
    count = _count.get()
    if count is not None:
        parts = count.on_full_image if _whole.get() else count.in_blocks
        parts[_part.get()] = parts.get(_part.get(), 0) + macs


def rematerialization(active: bool = True) -> contextlib.AbstractContextManager[None]:
    """A context: for stages of networks called inside, the backward pass keeps the inputs and runs them again."""
    return within(_active, active)


def rematerialized(part: Callable[..., Any], *arguments: Any) -> Any:
    """``part(*arguments)``: a part of a network whose insides `rematerialization` need not keep.

    It is a module, or a function whose modules are among the arguments. Running statistics are updated once,
    however often it runs.
    """
    if not _active.get():
        return part(*arguments)
    if isinstance(part, nnx.Module):
        return nnx.remat(lambda module, *features: module(*features))(part, *arguments)
    return nnx.remat(lambda *given: part(*given))(*arguments)  # A partial has no signature.


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
        values = list(self.arguments.values())
        flat = jax.tree.leaves(values, is_leaf=lambda x: isinstance(x, nnx.Module))
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
        with within(_calls, None):  # Of layers inside of layers, the outer one is recorded.
            result = function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        calls.append(Call(call, bound.arguments, result, _part.get()))
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

    with within(_calls, calls):
        jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.float32))
    return calls, ends[0], ends[1]
