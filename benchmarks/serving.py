"""An engine under load: steady latency, latency targets, and thousands of images of any size.

    python benchmarks/serving.py --output=benchmarks/results/serving_cpu.json

- budget: `--images` images in mode ``budget=K``, a quarter of the blocks; median and 99th percentile of the
  time from image to label map. In turn with each image, half as much time of each of two fixed jobs on all cores,
  products in cache and copies through memory, whose percentiles say how steady the machine is itself.
- target: for several targets between the times at 0 and all blocks, the share of images that meet it.
- soak: `--soak` small images of random size and content, in mode exact: compilations and resident memory after
  warm-up, and whether four threads at once get what one gets.
"""

import concurrent.futures
import gc
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

# Read on NumPy's import: products of several threads, each on one core.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import jax
import numpy as np
from absl import app, flags
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.training.provenance import commit, device_name

_IMAGES = flags.DEFINE_integer("images", 500, "Timed images of each mode.")
_SOAK = flags.DEFINE_integer("soak", 10_000, "Images of the soak.")
_SIZE = flags.DEFINE_list("size", ["512", "1024"], "Height and width of the timed images.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the activations.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file; printed in any case.")

_NORMALIZATION = {"mean": (0.287, 0.325, 0.284), "std": (0.176, 0.181, 0.178)}


def build(**options: Any) -> tuple[nnx.Dict, sb.ModelSpec]:
    """A system with random weights."""
    spec = sb.ModelSpec("swiftnet_rn18", 19, **_NORMALIZATION, **options)
    system = spec.build(nnx.Rngs(0))
    system.eval()
    return system, spec


def random_images(n: int, height: int, width: int, seed: int) -> np.ndarray:
    """Patches of colors of several sizes."""
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // 16), -(-width // 16)
    coarse = rng.integers(0, 256, (n, rows, columns, 3)).repeat(16, 1).repeat(16, 2)
    fine = rng.integers(-60, 60, (n, height, width, 3))
    return np.clip((coarse[:, :height, :width] + fine) * rng.random(), 0, 255).astype(np.uint8)


def measure_budget(engine: sb.Engine, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Times at a constant number of blocks, and the machine's own spread."""
    blocks = (shape[1] // 128) * (shape[2] // 128)
    mode = f"budget={blocks // 4}"
    part = float(np.median(_serve(engine, shape, mode, 20))) / 2
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        controls = {
            name: _Control(pool, job, part)
            for name, job in (("product", _product), ("copy", _copy))
        }

        def run_controls() -> None:
            for control in controls.values():
                control.run()

        seconds = _serve(engine, shape, mode, _IMAGES.value, run_controls)
    return {
        "mode": mode,
        "images": len(seconds),
        **_spread(seconds),
        "control": {name: _spread(control.seconds) for name, control in controls.items()},
    }


class _Control:
    """A fixed job, on every core at once, for about `part` seconds."""

    def __init__(
        self,
        pool: concurrent.futures.ThreadPoolExecutor,
        job: Callable[[], Callable[[], Any]],
        part: float,
    ):
        self._pool = pool
        self._jobs = [job() for _ in range(os.cpu_count() or 1)]
        self._times, self.seconds = 20, list[float]()
        for _ in range(10):
            self.run()
        self._times = max(1, round(part / np.median(self.seconds) * self._times))
        self.seconds.clear()

    def run(self) -> None:
        """Adds how long the slowest core took."""
        start = time.perf_counter()
        list(self._pool.map(lambda job: [job() for _ in range(self._times)], self._jobs))
        self.seconds.append(time.perf_counter() - start)


def _product() -> Callable[[], Any]:
    a, out = np.ones((384, 384), np.float32), np.empty((384, 384), np.float32)
    return lambda: np.matmul(a, a, out=out)


def _copy() -> Callable[[], Any]:
    source, target = np.ones(2**21, np.float32), np.empty(2**21, np.float32)
    return lambda: np.copyto(target, source)


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    median, p99 = np.percentile(seconds, [50, 99])
    return {"median_ms": 1e3 * median, "p99_ms": 1e3 * p99, "p99_over_median": p99 / median}


def measure_targets(engine: sb.Engine, shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """How often latency targets are met."""
    table = engine.latencies(shape)
    fastest, slowest = min(table.values()), max(table.values())
    rows = []
    for part in (0.25, 0.5, 0.75):
        target = 1e3 * (fastest + part * (slowest - fastest))
        seconds = _serve(engine, shape, f"latency={target}ms", _IMAGES.value // 2)
        chosen = engine(random_images(*shape, 0), mode=f"latency={target}ms").share
        rows.append(
            {
                "target_ms": target,
                "high_fraction": chosen,
                "images": len(seconds),
                "median_ms": 1e3 * float(np.median(seconds)),
                "met": float(np.mean(1e3 * seconds <= target)),
            }
        )
    return rows


def _serve(
    engine: sb.Engine,
    shape: tuple[int, int, int],
    mode: str,
    count: int,
    between: Callable[[], None] = lambda: None,
) -> np.ndarray:
    pictures = [random_images(*shape, seed) for seed in range(8)]
    for picture in pictures:
        engine(picture, mode=mode)
    seconds = []
    for i in range(count):
        seconds.append(engine(pictures[i % 8], mode=mode).seconds)
        between()
    return np.array(seconds)


def soak() -> dict[str, Any]:
    """Thousands of images of random sizes through one engine."""
    policy = sb.PolicySpec(block_size=64, bucket_step=1 / 16)
    system, spec = build(width=16, features=24, policy=policy)
    engine = sb.Engine(
        system, spec, shapes=[(1, 128, 128), (1, 128, 192), (2, 192, 192)], keep_memory=True
    )
    engine.warm_up()
    rng = np.random.default_rng(0)
    cases = [(*map(int, rng.integers(1, (3, 193, 193))), seed) for seed in range(_SOAK.value)]
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    known, shares, labels = engine.compilations, set(), {}
    resident = []
    start = time.perf_counter()
    for i, case in enumerate(cases):
        result = engine(random_images(*case))
        shares.add(result.share)
        if i % 97 == 0:
            labels[case] = result.labels
        if i % (len(cases) // 10) == len(cases) // 10 - 1:
            gc.collect()
            resident.append(_resident())
    seconds = time.perf_counter() - start
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        again = pool.map(lambda case: engine(random_images(*case)).labels, labels)
        same = all(np.array_equal(a, b) for a, b in zip(labels.values(), again, strict=True))
    return {
        "images": sum(case[0] for case in cases),
        "calls": len(cases),
        "seconds": seconds,
        "programs": known,
        "compilations_after_warm_up": engine.compilations - known + len(compiled),
        "different_shares": len(shares),
        "resident_mib_after_each_tenth": resident,
        "resident_growth_after_the_first_tenth": resident[-1] / resident[0] - 1,
        "four_threads_get_the_same": same,
        "compared": len(labels),
    }


def _resident() -> float:
    """MiB of this process that are in memory."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main(argv: list[str]) -> None:
    """Measures, prints, writes."""
    del argv
    height, width = map(int, _SIZE.value)
    shape = (1, height, width)
    report: dict[str, Any] = {
        "device": device_name(),
        "jax": jax.__version__,
        "commit": commit(),
        "model": f"swiftnet_rn18, random weights, {_DTYPE.value}; soak: a quarter of the width, float32",
        "shape": shape,
        "block_size": 128,
        "timer": "uint8 image in host memory to label map in host memory, policy included",
    }
    system, spec = build(policy=sb.PolicySpec(block_size=128))
    engine = sb.Engine(system, spec, dtype=_DTYPE.value, keep_memory=True)
    report["execution"] = engine.execution
    report["budget"] = measure_budget(engine, shape)
    print(json.dumps(report["budget"], indent=1), flush=True)
    report["targets"] = measure_targets(engine, shape)
    print(json.dumps(report["targets"], indent=1), flush=True)
    if _SOAK.value:
        report["soak"] = soak()
        print(json.dumps(report["soak"], indent=1), flush=True)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(app.run(main))
