"""The executables of a training step: one a number of high blocks, compiled when first needed or ahead."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

_CACHE_HIT = "/jax/compilation_cache/cache_hits"
Report = Callable[[str], None]


class Programs:
    """Executables of a jitted function whose last argument, `num_high`, is static.

    Attributes:
        function: the jitted function.
    """

    def __init__(self, function: Any, names: Callable[[int | None], str], report: Report) -> None:
        """Compiles nothing yet.

        Args:
            function: of `jax.jit`.
            names: what an executable is, in words.
            report: gets a line for each compilation: what, why, how long, and whether the persistent
                cache had it.
        """
        self.function, self._names, self._report = function, names, report
        self._programs: dict[int | None, jax.stages.Compiled] = {}

    @property
    def compiled(self) -> set[int | None]:
        """The numbers of high blocks that there is an executable for."""
        return set(self._programs)

    def get(self, num_high: int | None, why: str, arguments: tuple) -> jax.stages.Compiled:
        """The executable for a number of high blocks.

        Args:
            num_high: its number of high blocks; None for a network without blocks.
            why: it is needed, in words, should it not be there yet.
            arguments: of the function, but for `num_high`; `jax.ShapeDtypeStruct` will do.
        """
        if num_high not in self._programs:
            began = time.monotonic()
            with _cache_hits() as hits:
                lowered = self.function.lower(*arguments, num_high=num_high)
                self._programs[num_high] = lowered.compile()
            source = "read from the compilation cache" if hits else "compiled"
            seconds = time.monotonic() - began
            self._report(f"{source} {self._names(num_high)} in {seconds:.1f} s: {why}")
        return self._programs[num_high]


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
