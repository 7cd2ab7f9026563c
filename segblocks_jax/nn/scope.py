"""Names for the parts of a network, seen by profilers and by the operation count."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import jax


@dataclasses.dataclass
class Count:
    """Multiply-adds recorded while a network was traced.

    Attributes:
        in_blocks: by part, operations that run in blocks.
        on_full_image: by part, operations of regions that always run on the whole image.
    """

    in_blocks: dict[str, int] = dataclasses.field(default_factory=dict)
    on_full_image: dict[str, int] = dataclasses.field(default_factory=dict)


_part: contextvars.ContextVar[str] = contextvars.ContextVar("part", default="")
_count: contextvars.ContextVar[Count | None] = contextvars.ContextVar("count", default=None)
_whole: contextvars.ContextVar[bool] = contextvars.ContextVar("whole", default=False)


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Names the operations inside; nested names are joined by a slash."""
    outer = _part.get()
    token = _part.set(f"{outer}/{name}" if outer else name)
    try:
        with jax.named_scope(name):
            yield
    finally:
        _part.reset(token)


@contextlib.contextmanager
def full_image_region() -> Iterator[None]:
    """Marks the operations inside as running on the whole image at full resolution."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


@contextlib.contextmanager
def counting() -> Iterator[Count]:
    """Collects the multiply-adds of the layers that are called inside."""
    count = Count()
    token = _count.set(count)
    try:
        yield count
    finally:
        _count.reset(token)


def current_part() -> str:
    """The name that `scope` gives to operations here."""
    return _part.get()


def record(macs: int) -> None:
    """Adds multiply-adds to the current part, where a count is being taken."""
    count = _count.get()
    if count is not None:
        parts = count.on_full_image if _whole.get() else count.in_blocks
        parts[_part.get()] = parts.get(_part.get(), 0) + macs
