"""Speed of a classifier beside its operations, on XLA's convolutions and this package's, in one interleaved run."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from segblocks_jax.allocator import keep_freed_memory
from segblocks_jax.inference.timing import interleaved
from segblocks_jax.ops import extension
from segblocks_jax.training.provenance import commit, device_name

BATCHES = (1, 8)


def measure(
    modules: nnx.Module,
    forward: Callable[[Any, Any], Any],
    size: tuple[int, int],
    gmacs: float,
    *,
    name: str,
    precision: str = "float32",
    batches: tuple[int, ...] = BATCHES,
    rounds: int = 7,
) -> dict[str, Any]:
    """Times ``forward(modules, image)`` from normalized images on the device to its results there.

    Args:
        modules: in evaluation mode.
        forward: what is timed.
        size: (height, width) of the images.
        gmacs: 10^9 multiply-adds of one.
        name: of the network.
        precision: of the images.
        batches: numbers of images.
        rounds: timed runs of each; medians are reported.

    Returns:
        Plain values for JSON, with a row for every batch and implementation.
    """
    keep_freed_memory()
    graphdef, state = nnx.split(modules)
    runs: dict[Any, Callable[[], Any]] = {}
    for batch in batches:
        image = jax.random.normal(jax.random.key(0), (batch, *size, 3)).astype(jnp.dtype(precision))
        for way in ("xla", "default"):

            def run(state: Any, image: Any, way: str = way) -> Any:
                with extension.using("xla" if way == "xla" else None):
                    return forward(nnx.merge(graphdef, state), image)

            runs[batch, way] = functools.partial(jax.jit(run), state, image)
    times = interleaved(runs, rounds)
    rows = [
        {
            "batch": batch,
            "implementation": way,
            "seconds": times[batch, way],
            "images_per_second": batch / times[batch, way],
            "over_xla": times[batch, "xla"] / times[batch, way],
        }
        for batch, way in runs
    ]
    return {
        "model": name,
        "size": list(size),
        "gmacs": gmacs,
        "precision": precision,
        "rows": rows,
        "timer": f"normalized images on the device to logits; median of {rounds} interleaved runs",
        "device": device_name(),
        "jax": jax.__version__,
        "commit": commit(),
    }


def format_report(report: dict[str, Any]) -> str:
    """The report as a text table."""
    height, width = report["size"]
    lines = [
        f"{report['model']}, {height} x {width}, {report['gmacs']:.3f} GMACs, {report['precision']},"
        f" {report['device']}",
        f"{'batch':>6} {'convolutions':14}{'ms':>9}{'images/s':>11}{'/ XLA':>8}",
    ]
    lines += [
        f"{row['batch']:6} {row['implementation']:14}{row['seconds'] * 1e3:9.2f}"
        f"{row['images_per_second']:11.1f}{row['over_xla']:8.2f}"
        for row in report["rows"]
    ]
    return "\n".join(lines)
