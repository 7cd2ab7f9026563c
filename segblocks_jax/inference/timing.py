"""Comparable times of functions, taken in one run."""

import statistics
import time
from collections.abc import Callable
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
