"""The executables of a training step, one per value of a static argument, compiled when needed or ahead."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import jax

_CACHE_HIT = "/jax/compilation_cache/cache_hits"
Report = Callable[[str], None]
K = TypeVar("K")


class Programs(Generic[K]):
    """Executables of a jitted function whose last argument is static.

    Attributes:
        function: the jitted function.
    """

    def __init__(self, function: Any, names: Callable[[K], str], report: Report) -> None:
        """Compiles nothing yet.

        Args:
            function: of `jax.jit`.
            names: what an executable is, in words.
            report: gets a line for each compilation: what, why, how long, and whether the persistent
                cache had it.
        """
        self.function, self._names, self._report = function, names, report
        self._programs: dict[K, jax.stages.Compiled] = {}

    @property
    def compiled(self) -> set[K]:
        """The static values that there is an executable for."""
        return set(self._programs)

    def get(self, static: K, why: str, arguments: tuple) -> jax.stages.Compiled:
        """The executable for a static value.

        Args:
            static: the value.
            why: it is needed, in words, should it not be there yet.
            arguments: of the function, but for the last; `jax.ShapeDtypeStruct` will do.
        """
        if static not in self._programs:
            began = time.monotonic()
            with _cache_hits() as hits:
                self._programs[static] = self.function.lower(*arguments, static).compile()
            source = "read from the compilation cache" if hits else "compiled"
            seconds = time.monotonic() - began
            self._report(f"{source} {self._names(static)} in {seconds:.1f} s: {why}")
        return self._programs[static]


@contextmanager
def _cache_hits() -> Iterator[list[str]]:
    """Collects the hits of the persistent compilation cache."""
    hits: list[str] = []

    def listen(event: str, **_: Any) -> None:
        if event == _CACHE_HIT:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)
