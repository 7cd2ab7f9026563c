"""Rematerialization: activations computed twice in place of being kept for the backward pass."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

_active: contextvars.ContextVar[bool] = contextvars.ContextVar("active", default=False)


@contextlib.contextmanager
def rematerialization(active: bool = True) -> Iterator[None]:
    """A context: for stages of networks called inside, the backward pass keeps the inputs and runs them again."""
    token = _active.set(active)
    try:
        yield
    finally:
        _active.reset(token)


def rematerialized(part: Callable[..., Any], *arguments: Any) -> Any:
    """``part(*arguments)``: a part of a network whose insides `rematerialization` need not keep.

    Running statistics are updated once, however often the part runs.

    Args:
        part: a module, or a function whose modules are among the arguments.
        *arguments: features, and modules.
    """
    if not _active.get():
        return part(*arguments)
    if isinstance(part, nnx.Module):
        return nnx.remat(lambda module, *features: module(*features))(part, *arguments)
    return nnx.remat(lambda *given: part(*given))(*arguments)  # A partial has no signature.
