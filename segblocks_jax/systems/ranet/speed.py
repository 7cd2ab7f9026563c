"""Speed of leaving early beside running all exits, in one interleaved run, next to the ratio of operations."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, UInt8

from segblocks_jax.allocator import keep_freed_memory
from segblocks_jax.data.normalization import normalize
from segblocks_jax.inference.timing import interleaved
from segblocks_jax.systems.ranet.engine import Engine
from segblocks_jax.systems.ranet.fits import fingerprint, fit_all
from segblocks_jax.systems.ranet.network import RANet
from segblocks_jax.systems.ranet.operations import cumulative_macs
from segblocks_jax.systems.ranet.spec import ModelSpec
from segblocks_jax.training.provenance import commit, device_name

QS = (0.5, 1.0, 1.5)
BATCHES = (1, 64)


def measure(
    net: RANet,
    spec: ModelSpec,
    *,
    images: UInt8[np.ndarray, "n h w 3"] | None = None,
    qs: Sequence[float] = QS,
    batches: Sequence[int] = BATCHES,
    rounds: int = 5,
    execution: str | None = None,
) -> dict[str, Any]:
    """Times images in host memory to answers there, at thresholds of each q and with all exits, in turn.

    Args:
        net: the network; random weights will do.
        spec: of it. Its fits, if it has those of all `qs`, decide who leaves; else thresholds are fitted on the
            timed images, so that the share of each exit is that of the q.
        images: that are timed; default: 64 random ones.
        qs: of the budgets.
        batches: numbers of images that are served together.
        rounds: timed passes over all images; medians are reported.
        execution: see `Engine`.

    Returns:
        Plain values for JSON, a row per batch and budget: `time_ratio` is the time of all exits over that of the
        budget, `operation_ratio` the same of operations, `efficiency` the former over the latter.
    """
    keep_freed_memory()
    if images is None:
        images = random_images(64, spec.crop)
    if not set(qs) <= {fit.q for fit in spec.fits}:
        spec = with_fits(net, spec, images, qs)
    modes = ["all", *(f"q={q:g}" for q in qs)]
    runs: dict[Any, Callable[[], Any]] = {}
    spent: dict[Any, float] = {}
    for batch in batches:
        engine = Engine(net, spec, max_count=batch, execution=execution)
        for mode in modes:
            runs[batch, mode] = functools.partial(_serve, engine, images, batch, mode)
            spent[batch, mode] = float(np.mean(runs[batch, mode]()))
    times = interleaved(runs, rounds)
    rows = []
    for batch, mode in runs:
        time_ratio = times[batch, "all"] / times[batch, mode]
        operation_ratio = spent[batch, "all"] / spent[batch, mode]
        rows.append(
            {
                "batch": batch,
                "mode": mode,
                "seconds_per_image": times[batch, mode] / len(images),
                "images_per_second": len(images) / times[batch, mode],
                "mmacs": spent[batch, mode] / 1e6,
                "time_ratio": time_ratio,
                "operation_ratio": operation_ratio,
                "efficiency": time_ratio / operation_ratio,
            }
        )
    return {
        "model": spec.name,
        "size": list(spec.crop),
        "execution": engine.programs.execution,
        "images": len(images),
        "rows": rows,
        "timer": f"images in host memory to answers there; median of {rounds} interleaved passes",
        "device": device_name(),
        "jax": jax.__version__,
        "commit": commit(),
    }


def with_fits(
    net: RANet, spec: ModelSpec, images: UInt8[np.ndarray, "n h w 3"], qs: Sequence[float]
) -> ModelSpec:
    """The spec with thresholds of each q for these images, whose right answers don't matter."""
    given, labels = all_probabilities(net, spec, images), np.zeros(len(images), int)
    fits = fit_all(given, labels, cumulative_macs(net, spec.crop), qs)
    return dataclasses.replace(spec, fits=fits, weights=fingerprint(net))


def _serve(engine: Engine, images: np.ndarray, batch: int, mode: str) -> np.ndarray:
    """Operations of each image."""
    parts = [engine(images[i : i + batch], mode=mode) for i in range(0, len(images), batch)]
    return np.concatenate([part.macs for part in parts])


def random_images(count: int, size: tuple[int, int], seed: int = 0) -> UInt8[np.ndarray, "n h w 3"]:
    """Noise of different contrast, so that a network is surer of some than of others."""
    rng = np.random.default_rng(seed)
    contrast = rng.uniform(0, 1, (count, 1, 1, 1))
    return (127 + contrast * rng.integers(-127, 128, (count, *size, 3))).astype(np.uint8)


def all_probabilities(
    net: RANet, spec: ModelSpec, images: UInt8[np.ndarray, "n h w 3"], batch: int = 64
) -> Float32[np.ndarray, "exits n k"]:
    """Probabilities of every exit, by the network as it is trained."""
    net = nnx.clone(net)
    net.eval()
    graphdef, state = nnx.split(net)

    @jax.jit
    def run(state: nnx.State, images: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, state)(normalize(images, spec.mean, spec.std))
        return jax.nn.softmax(jnp.stack(logits))

    parts = [run(state, images[i : i + batch]) for i in range(0, len(images), batch)]
    return np.concatenate([np.asarray(part) for part in parts], 1)


def format_report(report: dict[str, Any]) -> str:
    """The report as a text table."""
    height, width = report["size"]
    lines = [
        f"{report['model']}, {height} x {width}, {report['execution']}, {report['device']}",
        f"{'batch':>6} {'leaving':8}{'MMACs':>9}{'images/s':>11}{'time':>8}{'operations':>12}{'efficiency':>12}",
    ]
    lines += [
        f"{row['batch']:6} {row['mode']:8}{row['mmacs']:9.1f}{row['images_per_second']:11.1f}"
        f"{row['time_ratio']:8.2f}{row['operation_ratio']:12.2f}{row['efficiency']:12.2f}"
        for row in report["rows"]
    ]
    return "\n".join(lines)
