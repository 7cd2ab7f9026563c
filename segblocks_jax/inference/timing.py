"""Times of functions, comparable as they are taken in one run, and how much slower calls are than such times."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


def interleaved(runs: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """Median seconds of each function, all called in turn `rounds` times.

    Each timed call follows untimed ones of the same function, for at least 20 ms: what another program
    leaves behind, memory to return and threads asleep or on one core, would be timed otherwise.
    """
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            warm = time.perf_counter() + 0.02
            jax.block_until_ready(run())
            while time.perf_counter() < warm:
                jax.block_until_ready(run())
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


_MISSED = 0.03  # Share of calls that may take longer than expected.
_RATE = 0.05  # A call that does raises the expectation by 5%, 32 others lower it as much.
_BOUNDS = (0.5, 4.0)
_ROUNDS = 7


class LatencyTracker:
    """Tracks the factor on expected times, `value`, that 97% of the calls stay below.

    Where the machine slows down it follows within some calls, 15 if it halves its speed; where it speeds up
    again within hundreds, 450, because only one call in 33 may be late. Several threads may share one.
    """

    def __init__(self) -> None:
        self.value = 1.0
        self._lock = threading.Lock()

    def observe(self, seconds: float, expected: float) -> None:
        """Takes a call's time, and the time that the table expected."""
        with self._lock:
            late = seconds > expected * self.value
            change = 1 + _RATE * (1 - _MISSED) if late else 1 - _RATE * _MISSED
            self.value = min(max(self.value * change, _BOUNDS[0]), _BOUNDS[1])


def slowest(serve: Callable[[int], Any], counts: Sequence[int]) -> dict[int, float]:
    """The longest seconds that `serve` takes with each count, in some interleaved rounds."""
    seconds = dict.fromkeys(counts, 0.0)
    for _ in range(_ROUNDS):
        for count in counts:
            serve(count)  # Untimed: after another program, a first run is slower.
            start = time.perf_counter()
            serve(count)
            seconds[count] = max(seconds[count], time.perf_counter() - start)
    return seconds
