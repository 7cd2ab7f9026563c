"""Compiled operations that know no blocks: on packed pixel lists and on images."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


@contextlib.contextmanager
def within(variable: contextvars.ContextVar[T], value: T) -> Iterator[None]:
    """A context in which the variable has the value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def no_type_check(cls: type[T]) -> type[T]:
    """Keeps jaxtyping's import hook, which tests use, away from a class; it goes by this name.

    JAX rebuilds pytrees around placeholders, which no array annotation fits; and a class that checks
    its own fields tells more than the hook does.
    """
    return cls
