"""Speed and memory of the whole engine, beside dense networks, in one run.

    python benchmarks/engine.py --output=benchmarks/results/engine_rn18_cpu.json
    python benchmarks/engine.py --dtype=float32,int8 --output=benchmarks/results/engine_rn18_int8_cpu.json
    python benchmarks/engine.py --draw=benchmarks/results/engine_rn18_cpu.json --picture=engine.svg

For each network, size, batch and dtype, in one process and in turn:

- `dense_xla`: the dense network on XLA's convolutions (not in int8);
- `dense`: the dense network on the kernels that run blocks, one unit per image (where these run);
- `pytorch`, `openvino`: the dense network compiled by PyTorch (not in int8) and by OpenVINO (on CPUs, where
  `pip install '.[bench]'` installed them), from a normalized image to logits, so without what the others do besides;
- shares f of high blocks: `Engine` in mode `share`, policy, decision and everything included.

The timer holds, but for these two, what a caller waits for: from uint8 images in host memory to label
maps in host memory. With --parts, the time of each part of the network is the difference of two programs that stop
behind it and before it. Weights and images are random; a random policy chooses other blocks, not another time.
"""

import dataclasses
import functools
import importlib.metadata
import importlib.util
import itertools
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.blocks import split
from segblocks_jax.data.normalization import Normalization, normalize
from segblocks_jax.inference.fused import fuse
from segblocks_jax.inference.timing import interleaved
from segblocks_jax.interop.torch import torch_arrays
from segblocks_jax.ops import extension
from segblocks_jax.ops.upsample_argmax import upsample_argmax
from segblocks_jax.training.provenance import commit, device_name

_MODELS = flags.DEFINE_list("models", ["swiftnet_rn18"], "Networks.")
_SIZES = flags.DEFINE_list("sizes", ["512x1024", "1024x2048"], "HxW of the images.")
_BATCH = flags.DEFINE_integer("batch", 1, "Images at once.")
_SHARES = flags.DEFINE_list("shares", ["1", "0.5", "0.25", "0.125", "0"], "Shares of high blocks.")
_BLOCK = flags.DEFINE_integer("block_size", 128, "Side of a block, in pixels.")
_FEATURES = flags.DEFINE_integer("policy_features", 64, "Channels of the policy.")
_DTYPES = flags.DEFINE_list("dtype", ["float32"], "Of the activations: float32, bfloat16, int8.")
_EXECUTIONS = flags.DEFINE_list(
    "executions", [], "How blocks run: fused, plain, xla; default: what an engine takes here."
)
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed runs of each.")
_PARTS = flags.DEFINE_bool("parts", False, "Time the parts of the fused network, too.")
_BESIDE = flags.DEFINE_list(
    "beside",
    ["dense_xla", "pytorch", "openvino"],
    "What is timed, too: dense_xla, and other libraries where they are installed.",
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")
_DRAW = flags.DEFINE_string("draw", None, "Times nothing; draws this JSON file.")
_PICTURE = flags.DEFINE_string("picture", "engine.png", "What --draw writes, .png or .svg.")

OTHERS = {"dense_xla": "XLA's dense", "pytorch": "PyTorch", "openvino": "OpenVINO"}
_CLASSES = 19
_NORMALIZATION = Normalization((0.287, 0.325, 0.284), (0.176, 0.181, 0.178))


@dataclasses.dataclass(frozen=True)
class Case:
    """A network on images of a size."""

    model: str
    shape: tuple[int, int, int]
    dtype: str

    @functools.cached_property
    def spec(self) -> sb.ModelSpec:
        """Of the network and a learned policy."""
        policy = sb.PolicySpec(block_size=_BLOCK.value, features=_FEATURES.value)
        spec = sb.ModelSpec(self.model, _CLASSES, policy=policy, **_NORMALIZATION._asdict())
        return sb.quantize(system(spec), spec, self.images[:1]) if self.dtype == "int8" else spec

    @property
    def system(self) -> nnx.Dict:
        """With random weights, the same in all dtypes."""
        return system(dataclasses.replace(self.spec, quantization=None))

    @functools.cached_property
    def images(self) -> np.ndarray:
        """Random colors."""
        return np.random.default_rng(0).integers(0, 256, (*self.shape, 3)).astype(np.uint8)

    @property
    def in_float(self) -> jax.Array:
        """The images, normalized."""
        dtype = "float32" if self.dtype == "int8" else self.dtype
        return normalize(self.images, *_NORMALIZATION).astype(dtype)

    def macs(self, share: float | None) -> float:
        """Multiply-adds of the batch, policy included."""
        policy = None if share is None else self.system.policy
        size = (1, *self.shape[1:], 3)
        return self.shape[0] * sb.count_macs(self.system.net, size, share, policy=policy).total

    def engine(self, execution: str | None, dense: bool = False) -> sb.Engine:
        """An engine of the network, alone or with its policy."""
        model = self.system.net if dense else self.system
        return sb.Engine(model, self.spec, dtype=self.dtype, execution=execution, keep_memory=True)


@functools.cache
def system(spec: sb.ModelSpec) -> nnx.Dict:
    """The modules of a spec, in evaluation mode."""
    built = spec.build(nnx.Rngs(0))
    built.eval()
    return built


def dense_xla(case: Case) -> Callable[[], Any]:
    """The network on XLA's convolutions; the labels by the engine's own way, which is the faster one."""
    graphdef, state = nnx.split(case.system.net)

    @jax.jit
    def run(state: nnx.State, images: jax.Array) -> jax.Array:
        image = normalize(images, *_NORMALIZATION).astype(case.dtype)
        with extension.using("xla"):
            logits = nnx.merge(graphdef, state)(image)
        return upsample_argmax(logits)

    return lambda: np.asarray(run(state, case.images))


# Of logits, root mean square over their deviation: in float32, and in other precisions over ours from float32.
_LARGEST_DIFFERENCE, _TIMES_OURS = 1e-4, 3


def others(case: Case) -> dict[str, Callable[[], np.ndarray]]:
    """The dense network in other libraries that are installed and have it: checked to give our logits."""
    runs: dict[str, Callable[[], np.ndarray]] = {}
    if jax.default_backend() != "cpu" or importlib.util.find_spec("torch") is None:
        return runs
    import torch_swiftnet

    if case.model not in torch_swiftnet.BACKBONES:
        return runs
    weights = {k.removeprefix("net."): v for k, v in torch_arrays(case.system.net).items()}
    image = np.asarray(normalize(case.images, *_NORMALIZATION))
    if "pytorch" in _BESIDE.value and case.dtype != "int8":
        network = torch_swiftnet.network(case.model, weights, _CLASSES)
        runs["pytorch"] = torch_swiftnet.compiled(network, image, case.dtype)
    installed = all(map(importlib.util.find_spec, ("openvino", "nncf")))
    if "openvino" in _BESIDE.value and installed:
        import openvino_swiftnet

        network = torch_swiftnet.network(case.model, weights, _CLASSES)
        runs["openvino"] = openvino_swiftnet.compiled(network, image, case.dtype)
    exact = dense_logits(dataclasses.replace(case, dtype="float32"))

    def error(logits: np.ndarray) -> float:
        return float(np.sqrt(np.mean((logits - exact) ** 2)) / exact.std())

    ours = error(dense_logits(case))
    for name, run in runs.items():
        theirs = error(run())
        print(
            case.dtype,
            name,
            f"logits are {theirs:.2g} of their standard deviation off, ours {ours:.2g}",
        )
        if theirs > max(_LARGEST_DIFFERENCE, _TIMES_OURS * ours):
            raise ValueError(f"{name}'s logits are {theirs} of their deviation off, ours {ours}")
    return runs


def dense_logits(case: Case) -> np.ndarray:
    """Of the dense network on our kernels."""
    logits = case.engine(None, dense=True)(case.images, output="logits").logits
    assert logits is not None
    return logits


@dataclasses.dataclass
class Runs:
    """What is timed of a case."""

    case: Case
    engines: dict[str, sb.Engine]
    dense: sb.Engine
    runs: dict[Any, Callable[[], Any]]


def runs_of(case: Case, shares: list[float]) -> Runs:
    """All runs of a case."""
    runs: dict[Any, Callable[[], Any]] = {}
    if "dense_xla" in _BESIDE.value and case.dtype != "int8":
        runs["dense_xla"] = dense_xla(case)
    executions: list[str | None] = list(_EXECUTIONS.value) or [None]
    engines = {engine.execution: engine for engine in map(case.engine, executions)}
    dense = case.engine(None, dense=True)
    if "fused" in engines:
        dense = case.engine("fused", dense=True)
        runs["dense"] = lambda: dense(case.images)
    runs |= others(case)
    for name, share in itertools.product(engines, shares):
        mode = f"share={share}"
        runs[name, share] = functools.partial(engines[name], case.images, mode=mode)
    return Runs(case, engines, dense, runs)


def report_of(timed: Runs, seconds: dict[Any, float], shares: list[float]) -> dict[str, Any]:
    """A case's times, memory and ratios."""
    case, engines, dense = timed.case, timed.engines, timed.dense
    base = seconds["dense"] if "dense" in seconds else seconds["dense_xla"]
    report: dict[str, Any] = {
        "model": case.model,
        "shape": case.shape,
        "dtype": case.dtype,
        "gmacs_dense": case.macs(None) / 1e9,
        **{f"{name}_ms": 1e3 * s for name, s in seconds.items() if isinstance(name, str)},
        "dense_memory": dense.memory(case.shape, "exact"),
        "shares": [],
    }
    for name, share in itertools.product(engines, shares):
        result = engines[name](case.images, mode=f"share={share}")
        operations = case.macs(None) / case.macs(result.share)
        row = {
            "execution": name,
            "high_fraction": result.share,
            "ms": 1e3 * seconds[name, share],
            "gmacs": case.macs(result.share) / 1e9,
            "operation_ratio": operations,
            "time_ratio": base / seconds[name, share],
            "of_operation_ratio": base / seconds[name, share] / operations,
            "memory": engines[name].memory(case.shape, f"share={share}"),
        }
        for other in OTHERS.keys() & seconds.keys():
            row[f"over_{other}"] = seconds[other] / seconds[name, share]
        report["shares"].append(row)
        print(format_row(row), flush=True)
    others = {k: v for k, v in report.items() if k.endswith("_ms")}
    others = {"gmacs": report["gmacs_dense"], **others}
    print(
        case.model, case.shape, case.dtype, *(f"{k} {v:.1f}" for k, v in others.items()), flush=True
    )
    return report


def time_cases(cases: list[Case], shares: list[float]) -> list[dict[str, Any]]:
    """Reports of cases that are timed in turn."""
    timed = [runs_of(case, shares) for case in cases]
    together = {(i, k): run for i, one in enumerate(timed) for k, run in one.runs.items()}
    seconds = interleaved(together, _ROUNDS.value)
    reports = []
    for i, one in enumerate(timed):
        own = {k: s for (j, k), s in seconds.items() if i == j}
        reports.append(report_of(one, own, shares))
    return reports


def format_row(row: dict[str, Any]) -> str:
    """A line of the table that is printed."""
    parts = [
        f"{row['execution']:6} {row['high_fraction']:6.1%} high {row['ms']:8.1f} ms",
        f"operations 1/{row['operation_ratio']:.2f}",
        f"time 1/{row['time_ratio']:.2f} ({row['of_operation_ratio']:.2f} of it)",
        f"{row['memory']['temporary'] / 2**20:.0f} MiB temporary",
    ]
    for key, name in OTHERS.items():
        if f"over_{key}" in row:
            parts.append(f"over {name} {row[f'over_{key}']:.2f}")
    return ", ".join(parts)


def time_parts(case: Case, shares: list[float]) -> dict[str, dict[str, float]]:
    """Milliseconds of each part, for the dense network and each share."""
    ranges = case.spec.quantization
    net = fuse(case.system.net, case.in_float.dtype, ranges)
    image = case.in_float
    masks: dict[str, np.ndarray | None] = {"dense": None}
    scores = np.random.default_rng(0).random((case.shape[0], *_grid(case.shape)))
    for share in shares:
        masks[f"{share:g}"] = scores <= np.quantile(scores, share) if share else scores < 0
    runs: dict[Any, Callable[[], Any]] = {}
    names: dict[str, list[str]] = {}
    for label, mask in masks.items():
        grid = None if mask is None else sb.BlockGrid.from_mask(mask)

        @functools.partial(jax.jit, static_argnums=3)
        def prefix(net: Any, image: Any, grid: Any, count: int) -> Any:
            x = image if grid is None else split(image, grid)
            first = x if grid is None else x.pixels
            return [first, *(part for _, part in itertools.islice(net.parts(x), count))][-1]

        traced: list[str] = []
        jax.eval_shape(lambda n, x, t=traced: t.extend(name for name, _ in n.parts(x)), net, image)
        names[label] = ["split", *traced] if mask is not None else traced
        for count in range(mask is None, len(traced) + 1):
            runs[label, count] = functools.partial(prefix, net, image, grid, count)
    seconds = interleaved(runs, _ROUNDS.value)
    report = {}
    for label, parts in names.items():
        times = [1e3 * s for (name, _), s in seconds.items() if name == label]
        report[label] = dict(zip(parts, np.diff([0.0, *times]).tolist(), strict=True))
    return report


def _grid(shape: tuple[int, int, int]) -> tuple[int, int]:
    return shape[1] // _BLOCK.value, shape[2] // _BLOCK.value


def draw(report: dict[str, Any], picture: pathlib.Path) -> None:
    """Speed-up over the dense network against the operation ratio, a line a case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.8), layout="constrained")
    styles = itertools.cycle(
        [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D")]
    )
    furthest = 1.0
    for case, (color, marker) in zip(report["cases"], styles, strict=False):
        for execution, rows in itertools.groupby(case["shares"], lambda row: row["execution"]):
            points = sorted((row["operation_ratio"], row["time_ratio"]) for row in rows)
            furthest = max(furthest, *(max(point) for point in points))
            _, height, width = case["shape"]
            dtype = case.get("dtype", report.get("dtype"))
            label = f"{case['model']}, {height} x {width}, {dtype}, {execution}"
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=label)
    axes.plot([0.9, furthest], [0.9, furthest], "--", color="#777777", label="one to one")
    axes.set_xlabel("operations of the dense network / operations")
    axes.set_ylabel("time of the dense network / time")
    axes.set_title(f"{report['device']}, batch {report['batch']}")
    axes.grid(alpha=0.3)
    axes.legend()
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def main(argv: list[str]) -> None:
    """Times and writes, or draws."""
    del argv
    if _DRAW.value:
        draw(json.loads(pathlib.Path(_DRAW.value).read_text()), pathlib.Path(_PICTURE.value))
        return
    shares = [float(share) for share in _SHARES.value]
    report: dict[str, Any] = {
        "device": device_name(),
        "platform": jax.default_backend(),
        "versions": {
            name: _version(name) for name in ("jax", "jaxlib", "flax", "torch", "openvino")
        },
        "commit": commit(),
        "compiled_handlers": extension.available(),
        "batch": _BATCH.value,
        "block_size": _BLOCK.value,
        "policy_features": _FEATURES.value,
        "timer": "host clock, from uint8 images in host memory to label maps in host memory, policy included"
        f" (pytorch, openvino: normalized image to logits); median of {_ROUNDS.value} interleaved rounds, each"
        " timed call after an untimed one of the same kind",
        "cases": [],
    }
    for model, size in itertools.product(_MODELS.value, _SIZES.value):
        height, width = map(int, size.split("x"))
        cases = [Case(model, (_BATCH.value, height, width), dtype) for dtype in _DTYPES.value]
        rows = time_cases(cases, shares)
        for case, row in zip(cases, rows, strict=True):
            if _PARTS.value:
                row["parts_ms"] = time_parts(case, shares)
                print(json.dumps(row["parts_ms"], indent=1), flush=True)
        report["cases"] += rows
        if _OUTPUT.value:
            pathlib.Path(_OUTPUT.value).write_text(json.dumps(report, indent=1) + "\n")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(app.run(main))
