"""Speed of traced networks (`sb.in_blocks`) in blocks, beside their own dense runs, in one process and in turn.

    python benchmarks/in_blocks.py --output=benchmarks/results/in_blocks_cpu.json

For each network: `dense_xla`, the network as it is, jitted; `dense`, the same on the kernels that run blocks; and
shares f of high blocks, at random places. All run from a normalized image in device memory to a label map there,
split and combine included, no policy. `of_operation_ratio` is the time ratio to `dense` over the ratio of
multiply-adds. The seconds from a network to its first labels, tracing and compiling, are of the first call of each.
"""

import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.inference.fused import fuse
from segblocks_jax.inference.timing import interleaved
from segblocks_jax.ops.upsample_argmax import upsample_argmax
from segblocks_jax.training.provenance import commit, device_name

_MODELS = flags.DEFINE_list("models", ["ddrnet23_slim", "pidnet_s"], "Networks.")
_SIZE = flags.DEFINE_string("size", "512x1024", "HxW of the image.")
_SHARES = flags.DEFINE_list("shares", ["1", "0.5", "0.25", "0"], "Shares of high blocks.")
_BLOCK = flags.DEFINE_integer("block_size", 128, "Side of a block, in pixels.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Of the activations: float32 or bfloat16.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed runs of each.")
_XLA = flags.DEFINE_bool("xla", True, "Time the network on XLA's convolutions, too.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")


def network(name: str) -> Any:
    """The network in evaluation mode, traced; with random weights, which don't saturate."""
    net = sb.create_model(name, rngs=nnx.Rngs(0))
    net.eval()
    return sb.in_blocks(net)


def runs_of(net: Any, image: jax.Array) -> tuple[dict[Any, Callable[[], Any]], dict[str, float]]:
    """What is timed, by name or share, and the seconds of the first call of each."""
    n, h, w, _ = image.shape
    stride = net.output_stride
    start = time.perf_counter()
    fused = jax.block_until_ready(fuse(net, _DTYPE.value))
    first = {"fuse": time.perf_counter() - start}

    @jax.jit
    def dense(fused: Any, image: jax.Array) -> jax.Array:
        return upsample_argmax(fused(image), stride)

    @functools.partial(jax.jit, static_argnames="high")
    def blocks(fused: Any, image: jax.Array, scores: jax.Array, high: int) -> jax.Array:
        grid = sb.BlockGrid.from_mask(jnp.zeros(scores.shape, bool), high, scores)
        return upsample_argmax(sb.combine(fused(sb.split(image, grid))), stride)

    runs: dict[Any, Callable[[], Any]] = {"dense": lambda: dense(fused, image)}
    if _XLA.value:
        graph, state = nnx.split(net.net)
        plain = jax.jit(
            lambda state, image: upsample_argmax(nnx.merge(graph, state)(image), stride)
        )
        runs["dense_xla"] = lambda: plain(state, image)
    shape = (n, h // _BLOCK.value, w // _BLOCK.value)
    scores = jnp.asarray(np.random.default_rng(0).random(shape, np.float32))
    for share in map(float, _SHARES.value):
        high = round(share * scores.size)
        runs[share] = functools.partial(blocks, fused, image, scores, high)
    for name, run in runs.items():
        start = time.perf_counter()
        jax.block_until_ready(run())
        first[str(name)] = time.perf_counter() - start
    return runs, first


def measure(name: str) -> dict[str, Any]:
    """A network's report."""
    height, width = map(int, _SIZE.value.split("x"))
    shape = (1, height, width, 3)
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    net = network(name)
    runs, first = runs_of(net, jnp.asarray(image, _DTYPE.value))
    seconds = interleaved(runs, _ROUNDS.value)
    dense = sb.count_macs(net, shape).total
    report: dict[str, Any] = {
        "model": name,
        "gmacs": dense / 1e9,
        "ms": {str(k): 1e3 * v for k, v in seconds.items()},
        "seconds_to_first_result": first,
        "shares": [],
    }
    for share in map(float, _SHARES.value):
        operations = dense / sb.count_macs(net, shape, share).total
        ratio = seconds["dense"] / seconds[share]
        row = {"high_fraction": share, "operation_ratio": operations, "time_ratio": ratio}
        row["of_operation_ratio"] = ratio / operations
        report["shares"].append(row)
    print(json.dumps(report, indent=1), flush=True)
    return report


def main(argv: list[str]) -> None:
    """Measures and writes."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    reports = [measure(name) for name in _MODELS.value]
    if _OUTPUT.value:
        settings = {f: flags.FLAGS[f].value for f in ("size", "block_size", "dtype", "rounds")}
        about = {"device": device_name(), "jax": jax.__version__, "commit": commit(), **settings}
        path = pathlib.Path(_OUTPUT.value)
        path.write_text(json.dumps({**about, "networks": reports}, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
