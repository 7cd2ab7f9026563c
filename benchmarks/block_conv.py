"""Speed of the convolution in blocks, layer by layer and over whole networks, beside XLA's.

    python benchmarks/block_conv.py --output=benchmarks/results/block_conv_cpu.json

For every layer shape of the networks and every share f of high blocks, in one run, in turn:

- `ours`: `indexed_conv` with packed weights and ready index patches;
- `xla_dense`: XLA's convolution of one image of as many pixels, zero padding;
- `pad`: `block_pad` and XLA's convolution of the padded blocks;
- `openvino`, where --beside names it: OpenVINO's node of the same convolution as `xla_dense`, by its own clock;
- with --backward, value and gradients (input and kernel) of `block_conv` (`ours`), of `xla_dense`, and
  of `pad`.

Then whole networks by `segblocks_jax.systems.segblocks.speed.measure`: XLA's dense network, ours dense and in
blocks, and what runs around the convolutions. Times are medians over the rounds. What is freed stays
with the process, for all alike (`keep_freed_memory`).
"""

import collections
import dataclasses
import json
import math
import pathlib
import sys
import unittest.mock
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.allocator import keep_freed_memory
from segblocks_jax.blocks.pad import index_patches
from segblocks_jax.inference.timing import interleaved
from segblocks_jax.nn import Conv
from segblocks_jax.ops import extension
from segblocks_jax.ops.indexed_conv import indexed_conv
from segblocks_jax.ops.packed_kernel import pack_kernel, pairs_pay, winograd_stride
from segblocks_jax.systems.segblocks import speed
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.training.provenance import commit, device_name

_MODELS = flags.DEFINE_list(
    "models", ["swiftnet_rn18", "swiftnet_rn50", "swiftnet_efflite1"], "Networks."
)
_SIZE = flags.DEFINE_list("size", ["512", "1024"], "Height and width of the image.")
_BLOCK = flags.DEFINE_integer("block_size", 128, "Side of a block, in image pixels.")
_SHARES = flags.DEFINE_list("shares", ["1", "0.5", "0.25", "0"], "Shares of high blocks.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed runs of each.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the activations.")
_BESIDE = flags.DEFINE_list(
    "beside", ["xla_dense", "pad"], "What layers are compared with: xla_dense, pad, openvino."
)
_BACKWARD = flags.DEFINE_bool("backward", False, "Value and gradients of the layers too.")
_LAYERS = flags.DEFINE_bool("layers", True, "Time the layers.")
_NETWORKS = flags.DEFINE_bool("networks", True, "Time the whole networks.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file; printed in any case.")


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution on blocks whose high ones have `side` pixels a side at its input."""

    side: int
    kernel: tuple[int, int, int, int]
    stride: int
    groups: int

    @property
    def padding(self) -> int:
        """On each side, so that blocks stay whole."""
        return (self.kernel[0] - 1) // 2

    def macs(self, pixels: int) -> int:
        """Multiply-adds for a number of input pixels."""
        kh, kw, channels, features = self.kernel
        return pixels // self.stride**2 * kh * kw * channels * features

    def __str__(self) -> str:
        kh, _, channels, features = self.kernel
        kind = "depthwise " if self.groups > 1 else ""
        return f"{kind}{kh}x{kh} s{self.stride} {channels * self.groups}-{features}, blocks of {self.side}"


def layers_of(model: str, size: tuple[int, int], block: int) -> collections.Counter[Layer]:
    """The layers that run in blocks, and how often each occurs."""
    seen: collections.Counter[Layer] = collections.Counter()
    original = Conv.__call__

    def recording(conv: Conv, x: Any) -> Any:
        if isinstance(x, sb.DualRes):
            seen[Layer(x.block_size, conv.kernel.shape, conv.stride, conv.groups)] += 1
        return original(conv, x)

    net = nnx.eval_shape(lambda: sb.create_model(model, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(net)
    mask = np.ones((1, size[0] // block, size[1] // block), bool)
    with unittest.mock.patch.object(Conv, "__call__", recording):
        jax.eval_shape(
            lambda state, x: nnx.merge(graphdef, state)(sb.split(x, mask)).pixels,
            state,
            jax.ShapeDtypeStruct((1, *size, 3), jnp.float32),
        )
    return seen


def random_grid(size: tuple[int, int], block: int, share: float) -> sb.BlockGrid:
    """A grid with a share of high blocks, at random places."""
    shape = (1, size[0] // block, size[1] // block)
    scores = np.random.default_rng(0).random(shape).astype(np.float32)
    return sb.BlockGrid.from_mask(np.zeros(shape, bool), round(share * scores.size), scores)


def runs_of(layer: Layer, grid: sb.BlockGrid, width: int, dtype: str) -> dict[str, Callable]:
    """What is timed for a layer and a grid; inputs are on the device."""
    rng = np.random.default_rng(0)
    channels = layer.kernel[2] * layer.groups
    pixels = grid.num_pixels(layer.side)
    rows = jnp.asarray(rng.standard_normal((pixels, channels)), dtype)
    kernel = jnp.asarray(rng.standard_normal(layer.kernel) * 0.05, dtype)
    columns = width * layer.stride
    height = max(layer.stride, round(pixels / columns / layer.stride) * layer.stride)
    image = jnp.asarray(rng.standard_normal((1, height, columns, channels)), dtype)
    winograd = winograd_stride(kernel, layer.stride, layer.groups)
    pairs = pairs_pay(kernel, layer.groups)
    packed = pack_kernel(kernel, layer.groups, winograd=winograd, pairs=pairs)
    packed = jax.block_until_ready(packed)
    patches = jax.block_until_ready(index_patches(grid, layer.side, layer.padding))

    @jax.jit
    def ours(rows: jax.Array, kernel: Any, patches: Any) -> Any:
        return indexed_conv(rows, patches, kernel, layer.stride)[0]

    def in_blocks(implementation: str | None) -> Callable:
        def run(rows: jax.Array, kernel: jax.Array, grid: sb.BlockGrid) -> jax.Array:
            blocks = sb.DualRes(rows, grid)
            options = (layer.stride, layer.padding, layer.groups)
            return sb.block_conv(blocks, kernel, *options, implementation=implementation).pixels

        return run

    def dense(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (layer.stride, layer.stride),
            [(layer.padding, layer.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=layer.groups,
        )

    if not _BACKWARD.value:
        dense, pad = jax.jit(dense), jax.jit(in_blocks("xla"))
        runs: dict[str, Callable] = {
            "ours": lambda: ours(rows, packed, patches),
            "xla_dense": lambda: dense(image, kernel),
            "pad": lambda: pad(rows, kernel, grid),
        }
        if "openvino" in _BESIDE.value and layer.groups == 1:
            from openvino_node import ConvolutionNode

            arrays = (np.asarray(a, np.float32) for a in (image, kernel))
            runs["openvino"] = ConvolutionNode(*arrays, layer.stride, layer.padding, dtype)
        return {name: run for name, run in runs.items() if name in ("ours", *_BESIDE.value)}
    by_index, pad, whole = (_with_gradients(f) for f in (in_blocks(None), in_blocks("xla"), dense))
    return {
        "ours": lambda: by_index(rows, kernel, grid),
        "xla_dense": lambda: whole(image, kernel),
        "pad": lambda: pad(rows, kernel, grid),
    }


def _with_gradients(function: Callable) -> Callable:
    @jax.jit
    def run(maps: jax.Array, kernel: jax.Array, *rest: Any) -> Any:
        value, transpose = jax.vjp(lambda m, k: function(m, k, *rest), maps, kernel)
        return value, transpose(value)

    return run


def time_layers(size: tuple[int, int], block: int, shares: list[float]) -> list[dict[str, Any]]:
    """One row per layer shape."""
    counts = {model: layers_of(model, size, block) for model in _MODELS.value}
    rows = []
    for layer in sorted(set().union(*counts.values()), key=lambda x: (-x.side, x.kernel)):
        runs: dict[Any, Callable] = {}
        pixels = {}
        for share in shares:
            grid = random_grid(size, block, share)
            width = size[1] * layer.side // block // layer.stride
            pixels[share] = grid.num_pixels(layer.side)
            for name, run in runs_of(layer, grid, width, _DTYPE.value).items():
                runs[name, share] = run
        seconds = interleaved(runs, _ROUNDS.value)
        for key, run in runs.items():
            if key[0] == "openvino":
                seconds[key] = float(np.median(run.milliseconds)) / 1e3
        row = {
            "layer": str(layer),
            "occurs": {model: count[layer] for model, count in counts.items() if count[layer]},
            "shares": {
                share: {
                    "macs": layer.macs(pixels[share]),
                    **{f"{k}_ms": s * 1e3 for (k, other), s in seconds.items() if other == share},
                    "gmacs_per_second": layer.macs(pixels[share]) / seconds["ours", share] / 1e9,
                    **{
                        f"ours_over_{k}": s / seconds["ours", share]
                        for (k, other), s in seconds.items()
                        if other == share and k in ("xla_dense", "openvino")
                    },
                }
                for share in shares
            },
        }
        rows.append(row)
        cells = " ".join(
            f"{share:g}: {cell['ours_ms']:.2f} ms {cell['gmacs_per_second']:.0f} GMAC/s"
            + "".join(f" x{v:.2f}" for k, v in cell.items() if k.startswith("ours_over"))
            for share, cell in row["shares"].items()
        )
        print(f"{row['layer']:46} {cells}", flush=True)
    return rows


def summarize(rows: list[dict[str, Any]], shares: list[float]) -> dict[str, Any]:
    """A network's layers together, each as often as it occurs."""
    summary: dict[str, Any] = {}
    for model in _MODELS.value:
        own = [row for row in rows if model in row["occurs"]]

        def ratios(share: float, other: str, own: list = own) -> list[float]:
            cells = (row["shares"][share] for row in own)
            return [c[f"ours_over_{other}"] for c in cells if f"ours_over_{other}" in c]

        def total(share: float, key: str, own: list = own, model: str = model) -> float:
            return sum(row["occurs"][model] * row["shares"][share].get(key, 0) for row in own)

        others = [name for name in _BESIDE.value if name != "pad"]
        summary[model] = {
            share: {
                **{
                    f"geometric_mean_over_{name}": math.exp(np.mean(np.log(ratios(share, name))))
                    for name in others
                },
                **{f"lowest_over_{name}": min(ratios(share, name)) for name in others},
                **{f"{name}_ms": total(share, f"{name}_ms") for name in ("ours", *_BESIDE.value)},
                "operation_ratio": total(shares[0], "macs") / total(share, "macs"),
                "time_ratio": total(shares[0], "ours_ms") / total(share, "ours_ms"),
            }
            for share in shares
        }
    return summary


def main(argv: list[str]) -> None:
    """Times, prints, writes."""
    del argv
    keep_freed_memory()
    height, width = map(int, _SIZE.value)
    shares = [float(share) for share in _SHARES.value]
    device = jax.devices()[0]
    report: dict[str, Any] = {
        "device": device_name(),
        "platform": device.platform,
        "jax": jax.__version__,
        "commit": commit(),
        "compiled_handlers": extension.available(),
        "size": [height, width],
        "batch": 1,
        "block_size": _BLOCK.value,
        "dtype": _DTYPE.value,
        "timer": f"host clock until the result is ready, median of {_ROUNDS.value} interleaved rounds"
        + ("; value and both gradients" if _BACKWARD.value else ""),
    }
    if _LAYERS.value:
        rows = time_layers((height, width), _BLOCK.value, shares)
        report["layers"] = rows
        report["layer_summary"] = summarize(rows, shares)
        print(json.dumps(report["layer_summary"], indent=2))
    if _NETWORKS.value:
        report["networks"] = {}
        for model in _MODELS.value:
            config = ExperimentConfig.from_mapping(
                {
                    "precision": _DTYPE.value,
                    "model": {"name": model},
                    "policy": {"block_size": _BLOCK.value},
                }
            )
            options = {"rounds": _ROUNDS.value, "shares": tuple(shares)}
            report["networks"][model] = speed.measure(config, (height, width), **options)
            print(speed.format_report(report["networks"][model]), flush=True)
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(app.run(main))
