"""Seconds that a device takes, without the host: from loops of dependent calls in one program."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def looped(function: Callable[..., Any], constants: Any) -> Callable[..., Any]:
    """A program (n, inputs) that calls function(constants, x) n times for each of the inputs, in a row.

    Each call of an input waits for the one before: an element of the input is written anew, to the value that it
    had, out of the result. The input stays where it is, and nothing can be moved out of the loop.
    """

    def call(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(_touch(x, function(constants, x)) for x in inputs)

    def run(n: Any, inputs: tuple[Any, ...]) -> Any:
        return lax.fori_loop(0, n, lambda _, carry: call(carry), inputs)

    return jax.jit(run, donate_argnums=1)


def _touch(x: jax.Array, result: Any) -> jax.Array:
    # No compiler knows that no result is this number.
    of_each = [leaf.ravel()[:1].astype(jnp.float32) for leaf in jax.tree.leaves(result)]
    changed = jnp.concatenate(of_each).max() == -1.2345e30
    first = (0,) * x.ndim
    return x.at[first].set(jnp.where(changed, jnp.zeros((), x.dtype), x[first]))


def device_seconds(
    function: Callable[..., Any],
    constants: Any,
    inputs: Sequence[jax.Array],
    *,
    target: float = 0.05,
    rounds: int = 5,
) -> dict[str, float]:
    """Seconds of a call on the device: the median slope between a short and a long loop, and its spread.

    What a program costs once (dispatch, the copy of its inputs, the wait for its end) is in both loops and falls
    out. `inputs` are taken in turn, so that caches hold what they would hold; the long loop takes about
    `target` seconds.
    """
    run = looped(function, constants)

    def seconds(n: int) -> float:
        fresh = tuple(jnp.array(x) for x in inputs)
        jax.block_until_ready(fresh)
        start = time.perf_counter()
        jax.block_until_ready(run(n, fresh))
        return time.perf_counter() - start

    seconds(1)
    short = 2
    once = max(seconds(short + 1) - seconds(1), 1e-7) / short
    long = short + max(2, min(round(target / once), 2000))
    slopes = []
    for _ in range(rounds):
        slopes.append((seconds(long) - seconds(short)) / (long - short) / len(inputs))
    median = statistics.median(slopes)
    return {
        "us": 1e6 * median,
        "spread": (max(slopes) - min(slopes)) / median if median > 0 else float("inf"),
        "calls": long * len(inputs),
    }


def host_seconds(function: Callable[[], Any], rounds: int = 15) -> float:
    """Median seconds from the call to the end, by the host's clock."""
    jax.block_until_ready(function())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)
