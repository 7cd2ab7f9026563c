"""Names of modules, as scopes of what they compute: Flax NNX gives its operations none."""

import contextlib
import contextvars
import functools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from flax import nnx

from segblocks_jax.ops import within as _within

_paths: contextvars.ContextVar[dict[int, str] | None] = contextvars.ContextVar(
    "paths", default=None
)
_outer: contextvars.ContextVar[str] = contextvars.ContextVar("outer", default="")
_lock = threading.RLock()


class _Named:
    """Contexts in which modules' calls are scopes."""

    @contextlib.contextmanager
    def __call__(self, classes: Sequence[type]) -> Iterator[None]:
        """Wraps the calls of modules' classes while it lasts, in all threads; other calls are as before."""
        with _lock:
            before: dict[Any, Any] = {
                c: c.__dict__["__call__"] for c in classes if "__call__" in c.__dict__
            }
            for kind, call in before.items():
                kind.__call__ = _scoped(call)
            try:
                yield
            finally:
                for kind, call in before.items():
                    kind.__call__ = call

    @contextlib.contextmanager
    def within(self, net: nnx.Module) -> Iterator[None]:
        """Within it, the modules of `net` have their paths as names."""
        paths = {id(m): ".".join(map(str, path)) for path, m in nnx.iter_modules(net)}
        with _within(_paths, paths):
            yield


named = _Named()


def classes_of(net: Any) -> tuple[type, ...]:
    """The classes of a module and of those in it."""
    if not isinstance(net, nnx.Module):
        return ()
    return tuple(dict.fromkeys(type(m) for _, m in nnx.iter_modules(net)))


def _scoped(call: Any) -> Any:
    @functools.wraps(call)
    def scoped(self: Any, *args: Any, **kwargs: Any) -> Any:
        path, outer = (_paths.get() or {}).get(id(self)), _outer.get()
        if not path:
            return call(self, *args, **kwargs)
        name = path.removeprefix(f"{outer}.") if outer else path
        with _within(_outer, path), jax.named_scope(name):
            return call(self, *args, **kwargs)

    return scoped
