"""Device times of convolutions in blocks, of the kernels around them, and of whole frames, on a GPU.

    python benchmarks/gpu.py --output=benchmarks/results/gpu_h200.json
    python benchmarks/gpu.py --size=256,256 --rounds=1 --parts=around    # Tries the script, on any machine.

Times are those of the device (benchmarks/device_time.py): the host, uploads and downloads are not in them, and stand
apart under `transfers`. Each part runs in a process of its own, plain and captured (XLA's command buffers), and a
process that fails or takes too long leaves the others alone.

- `layers`: every convolution of SwiftNet-RN18: in blocks (`ours`), cuDNN's of the whole image (`dense`) and of as
  many pixels (`dense_same`), and padded blocks with cuDNN (`pad`);
- `around`: split, combine, index tables, pooling, upsampling, label map;
- `frame`: from the normalized image to labels, in blocks and dense, fused and with XLA's convolutions;
- `transfers`: an image to the device, labels back, by the host's clock.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Several processes share the GPU.

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from device_time import device_seconds, host_seconds
from flax import nnx
from jax import lax

import segblocks_jax as sb
from segblocks_jax.blocks.pad import index_patches
from segblocks_jax.inference.fused import fuse
from segblocks_jax.ops import extension
from segblocks_jax.ops.indexed_conv import indexed_conv
from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.packed_kernel import pack_kernel
from segblocks_jax.ops.upsample2 import indexed_upsample2
from segblocks_jax.ops.upsample_argmax import upsample_argmax
from segblocks_jax.training.provenance import commit, device_name

PARTS = ("layers", "around", "frame", "transfers")

_PARTS = flags.DEFINE_list("parts", list(PARTS), "What is timed.")
_SIZE = flags.DEFINE_list("size", ["1024", "2048"], "Height and width of the images.")
_BATCHES = flags.DEFINE_list("batches", ["1", "8"], "Images at once.")
_SHARES = flags.DEFINE_list("shares", ["1", "0.4", "0.2"], "Shares of high blocks.")
_BLOCK = flags.DEFINE_integer("block_size", 128, "Side of a block, in pixels.")
_INPUTS = flags.DEFINE_integer("inputs", 3, "Inputs that calls take in turn.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed runs of each.")
_CAPTURED = flags.DEFINE_list("captured", ["0", "1"], "Without and with XLA's command buffers.")
_LIMIT = flags.DEFINE_integer("limit", 600, "Seconds that a part may take.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")
_ONE = flags.DEFINE_string("one", None, "Times one part here, into this file; set by the script.")

# Of SwiftNet-RN18: side of a high block of 128 at the input, channels, features, window, stride, how often.
LAYERS = (
    *((128, 3, 64, 7, 2, 1), (32, 64, 64, 3, 1, 4), (32, 64, 128, 3, 2, 1), (32, 64, 128, 1, 2, 1)),
    *(
        (16, 128, 128, 3, 1, 4),
        (16, 128, 256, 3, 2, 1),
        (16, 128, 256, 1, 2, 1),
        (8, 256, 256, 3, 1, 3),
    ),
    *(
        (8, 256, 512, 3, 2, 1),
        (8, 256, 512, 1, 2, 1),
        (4, 512, 512, 3, 1, 3),
        (8, 256, 128, 1, 1, 1),
    ),
    *(
        (16, 128, 128, 1, 1, 1),
        (32, 64, 128, 1, 1, 1),
        (8, 128, 128, 3, 1, 1),
        (32, 128, 128, 3, 1, 1),
    ),
    (32, 128, 19, 1, 1, 1),
)
DTYPE = jnp.bfloat16


def numbers(*shape: int, seed: int = 0, scale: float = 1.0) -> jax.Array:
    """Normal ones, made on the device."""
    return jax.jit(lambda: (scale * jax.random.normal(jax.random.key(seed), shape)).astype(DTYPE))()


def several(*shape: int) -> list[jax.Array]:
    """Inputs that calls take in turn."""
    return [numbers(*shape, seed=seed) for seed in range(_INPUTS.value)]


def grid_of(share: float, batch: int) -> sb.BlockGrid:
    """A share of high blocks, at random places."""
    shape = (batch, *(int(side) // _BLOCK.value for side in _SIZE.value))
    scores = np.random.default_rng(0).random(shape).astype(np.float32)
    return sb.BlockGrid.from_mask(np.zeros(shape, bool), round(share * scores.size), scores)


def time_of(function: Any, constants: Any, inputs: list[jax.Array]) -> dict[str, float] | str:
    """A time, or why there is none."""
    try:
        return device_seconds(function, constants, inputs, rounds=_ROUNDS.value)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:500]}"


def convolve(stride: int, padding: int, kernel: jax.Array, x: jax.Array) -> jax.Array:
    """XLA's convolution, on a GPU that of cuDNN."""
    sides, names = [(padding, padding)] * 2, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=names)


def layers(batch: int) -> Iterator[tuple[str, Any]]:
    """Each convolution, at each share."""
    height, width = map(int, _SIZE.value)
    for side, channels, features, window, stride, occurs in LAYERS:
        side = side * _BLOCK.value // 128
        kernel = numbers(window, window, channels, features, scale=(window**2 * channels) ** -0.5)
        packed, padding = pack_kernel(kernel), window // 2
        shape = (height * side // _BLOCK.value, width * side // _BLOCK.value)
        per_pixel = 2 * window**2 * channels * features / stride**2
        row: dict[str, Any] = {
            "occurs": occurs,
            "gflop_dense": per_pixel * batch * shape[0] * shape[1] / 1e9,
        }
        dense = functools.partial(convolve, stride, padding)
        row["dense"] = time_of(dense, kernel, several(batch, *shape, channels))
        for share in map(float, _SHARES.value):
            grid = grid_of(share, batch)
            pixels = grid.num_pixels(side)
            patches = index_patches(grid, side, padding)
            rows = several(pixels, channels)

            def ours(constants: Any, rows: jax.Array, stride: int = stride) -> Any:
                packed, patches = constants
                return indexed_conv(rows, patches, packed, stride)[0]

            def pad(constants: Any, rows: jax.Array, p: int = padding, s: int = stride) -> Any:
                kernel, grid = constants
                padded = sb.block_pad(sb.DualRes(rows, grid), p)
                return [convolve(s, 0, kernel, x) for x in (padded.high, padded.low) if x.size]

            same = round(pixels / batch / shape[1] / stride) * stride
            row[f"share_{share:g}"] = {
                "gflop": per_pixel * pixels / 1e9,
                "ours": time_of(ours, (packed, patches), rows),
                "dense_same": time_of(dense, kernel, several(batch, same, shape[1], channels)),
                "pad": time_of(pad, (kernel, grid), rows),
            }
        yield f"{window}x{window} s{stride} {channels}-{features}, blocks of {side}", row


def around(batch: int) -> Iterator[tuple[str, Any]]:
    """What runs around the convolutions, at each share."""
    height, width = map(int, _SIZE.value)
    quarter = _BLOCK.value // 4
    for share in map(float, _SHARES.value):
        grid = grid_of(share, batch)
        half = index_patches(grid, _BLOCK.value // 2, 1)
        small = index_patches(grid, quarter // 2, 1)
        logits = several(grid.num_pixels(quarter), 19)
        runs: dict[str, tuple[Any, Any, list[jax.Array]]] = {
            "split": (lambda g, x: sb.split(x, g).pixels, grid, several(batch, height, width, 3)),
            "combine": (lambda g, x: sb.combine(sb.DualRes(x, g)), grid, logits),
            "max_pool": (
                lambda p, x: indexed_max_pool(x, p, 3, 2),
                half,
                several(grid.num_pixels(_BLOCK.value // 2), 64),
            ),
            "upsample": (
                lambda p, x: indexed_upsample2(x, p),
                small,
                several(grid.num_pixels(quarter // 2), 128),
            ),
            "label_map": (
                lambda _, x: upsample_argmax(x),
                (),
                several(batch, height // 4, width // 4, 19),
            ),
            "tables": (
                # The tables hang on the input, which they don't use.
                lambda g, x: index_patches(_after(g, x), quarter, 1),
                grid,
                several(1),
            ),
        }
        yield f"share_{share:g}", {name: time_of(*run) for name, run in runs.items()}


def _after(grid: sb.BlockGrid, x: jax.Array) -> sb.BlockGrid:
    leaves, tree = jax.tree.flatten(grid)
    *leaves, _ = lax.optimization_barrier((*leaves, x))
    return jax.tree.unflatten(tree, leaves)


def frame(batch: int) -> Iterator[tuple[str, Any]]:
    """Whole frames, from the normalized image to labels."""
    net = sb.create_model("swiftnet_rn18", num_classes=19, rngs=nnx.Rngs(0))
    net.eval()
    fused = fuse(net, DTYPE)
    graphdef, state = nnx.split(net)
    images = several(batch, *map(int, _SIZE.value), 3)

    def plain(state: Any, x: Any) -> Any:
        return nnx.merge(graphdef, state)(x)

    def xla(state: Any, image: jax.Array) -> Any:
        with extension.using("xla"):
            logits = plain(state, image)
        return upsample_argmax(logits)

    def in_blocks(net: Any, constants: Any, image: jax.Array) -> Any:
        weights, grid = constants
        return upsample_argmax(sb.combine(net(weights, sb.split(image, grid))))

    yield "dense_xla", time_of(xla, state, images)
    yield "dense_fused", time_of(lambda net, x: upsample_argmax(net(x)), fused, images)
    for share in map(float, _SHARES.value):
        grid = grid_of(share, batch)
        run = functools.partial(in_blocks, lambda net, x: net(x))
        yield f"fused_{share:g}", time_of(run, (fused, grid), images)
        run = functools.partial(in_blocks, plain)
        yield f"plain_{share:g}", time_of(run, (state, grid), images)


def transfers(batch: int) -> Iterator[tuple[str, Any]]:
    """Uploads and downloads."""
    height, width = map(int, _SIZE.value)
    image = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)).astype(np.uint8)
    copy = jax.jit(lambda x: x + 1)
    labels = jnp.zeros((batch, height, width), jnp.uint8)
    both = host_seconds(lambda: np.asarray(copy(labels)))
    yield "upload_us", 1e6 * host_seconds(lambda: jax.device_put(image))
    yield "download_us", 1e6 * max(both - host_seconds(lambda: copy(labels)), 0.0)


def time_part(name: str, batch: int) -> None:
    """Times a part, and writes the file anew after each of its rows."""
    rows: dict[str, Any] = {}
    for key, row in globals()[name](batch):
        rows[key] = row
        print(name, batch, key, json.dumps(row), flush=True)
        pathlib.Path(_ONE.value).write_text(json.dumps(rows))


def run_part(name: str, batch: str, captured: bool, arguments: list[str]) -> dict[str, Any]:
    """Times a part in another process; what it has found until it fails counts."""
    xla_flags = os.environ.get("XLA_FLAGS", "")
    if not captured:
        xla_flags += " --xla_gpu_enable_command_buffer="
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "part.json"
        command = [*arguments, f"--one={path}", f"--parts={name}", f"--batches={batch}"]
        result: dict[str, Any] = {}
        try:
            code = subprocess.run(
                command,
                env=os.environ | {"XLA_FLAGS": xla_flags.strip()},
                timeout=_LIMIT.value,
                check=False,
            ).returncode
            if code:
                result["failed"] = f"exit code {code}"
        except subprocess.TimeoutExpired:
            result["failed"] = f"stopped after {_LIMIT.value} s"
        return (json.loads(path.read_text()) if path.exists() else {}) | result


def main(argv: list[str]) -> None:
    """Times and writes."""
    if _ONE.value:
        time_part(_PARTS.value[0], int(_BATCHES.value[0]))
        return
    report: dict[str, Any] = {
        "device": device_name(),
        "platform": jax.default_backend(),
        "jax": jax.__version__,
        "commit": commit(),
        "compiled_handlers": extension.why_unavailable() or "available",
        "size": list(map(int, _SIZE.value)),
        "dtype": "bfloat16",
        "timer": f"device: slope of loops of dependent calls, median of {_ROUNDS.value}; transfers: host",
    }
    arguments = [sys.executable, *sys.argv]
    for name in _PARTS.value:
        for batch in _BATCHES.value:
            for captured in _CAPTURED.value if name != "transfers" else ["1"]:
                kind = "captured" if captured == "1" else "plain"
                part = run_part(name, batch, captured == "1", arguments)
                report.setdefault(name, {}).setdefault(f"batch_{batch}", {})[kind] = part
                if _OUTPUT.value:
                    pathlib.Path(_OUTPUT.value).write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    sys.exit(app.run(main))
