"""Executed instructions of the CUDA kernels of one frame, counted on a CPU; needs nvcc, but no GPU.

    python benchmarks/cuda_instructions.py --noconvolutions --output=benchmarks/results/cuda_instructions.json

A fused frame's calls run on emulated kernels (tests/ptx). What is counted are PTX
instructions of warps: one instruction counts once, however many of a warp's lanes it runs for. It stands in for
time where no GPU is at hand; a 64-bit division (`wide_divisions`) is one instruction here and dozens in machine code.
"""

import collections
import json
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.data.normalization import normalize
from segblocks_jax.data.street_scenes import render
from segblocks_jax.inference.fused import fuse
from segblocks_jax.ops.upsample_argmax import upsample_argmax
from segblocks_jax.training.provenance import commit

_SIZE = flags.DEFINE_list("size", ["1024", "2048"], "Height and width of the image.")
_BATCH = flags.DEFINE_integer("batch", 1, "Images at once.")
_BLOCK = flags.DEFINE_integer("block_size", 128, "Side of a block, in pixels.")
_SHARE = flags.DEFINE_float("share", 0.4, "Share of high blocks.")
_MODEL = flags.DEFINE_string("model", "swiftnet_rn18", "The network.")
_CONVOLUTIONS = flags.DEFINE_bool(
    "convolutions",
    True,
    "Run them, too, for hours; without, the calls around them alone, in a minute.",
)
_CAPABILITY = flags.DEFINE_integer(
    "capability", 90, "The GPU's compute capability; below 90 convolutions have no warp groups."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")

STREETS = "street_scenes_efflite1"
NEW = 2_000_001  # The first val scene of SceneSet(seed=1), as the demo's; every other one is.
TESTS = pathlib.Path(__file__).resolve().parent.parent / "tests"

OPERATIONS = {
    "segblocks_split": "split",
    "segblocks_combine": "combine",
    "segblocks_indexed_max_pool": "max_pool",
    "segblocks_upsample_argmax": "label_map",
    "segblocks_indexed_upsample2": "upsample",
    "segblocks_layer_tables": "tables",
    "segblocks_indexed_conv": "convolutions",
}


def run_frame() -> dict[str, int]:
    """Runs a frame in blocks, from a normalized image to logits, in bfloat16; returns the calls of each handler."""
    height, width = map(int, _SIZE.value)
    rng = np.random.default_rng(0)
    net = sb.create_model(_MODEL.value, num_classes=19, rngs=nnx.Rngs(0))
    net.eval()
    fused = fuse(net, "bfloat16")
    scores = rng.random((_BATCH.value, height // _BLOCK.value, width // _BLOCK.value))
    grid = sb.BlockGrid.from_mask(
        np.zeros(scores.shape, bool), round(_SHARE.value * scores.size), scores.astype(np.float32)
    )
    image = jnp.asarray(rng.standard_normal((_BATCH.value, height, width, 3)), jnp.bfloat16)

    @jax.jit
    def frame(fused: Any, image: jax.Array, grid: sb.BlockGrid) -> jax.Array:
        return sb.combine(fused(sb.split(image, grid)))

    compiled = frame.lower(fused, image, grid).compile()
    jax.block_until_ready(compiled(fused, image, grid))
    calls = collections.Counter(
        re.findall(r'custom_call_target="(segblocks_\w+)', compiled.as_text())
    )
    return dict(calls) | {"segblocks_upsample_argmax": 1}


def label_maps() -> Iterator[tuple[str, jax.Array]]:
    """Logits of a frame: of a network on a street; all labels alike; fields 32 and 8 pixels of logits wide; noise."""
    yield "street scene", street_logits()
    height, width = (int(side) // 4 for side in _SIZE.value)
    rng = np.random.default_rng(0)
    yield "alike", jnp.tile(jnp.arange(1, 20, dtype=jnp.bfloat16), (_BATCH.value, height, width, 1))
    for side in (32, 8):
        few = rng.standard_normal((_BATCH.value, height // side, width // side, 19)) * 4
        fields = jax.image.resize(few, (_BATCH.value, height, width, 19), "bilinear")
        yield f"fields of {side}", fields.astype(jnp.bfloat16)
    noise = rng.standard_normal((_BATCH.value, height, width, 19))
    yield "noise", jnp.asarray(noise, jnp.bfloat16)


def street_logits() -> jax.Array:
    """What the network that ships for street scenes says of new ones, a quarter of their size, in bfloat16."""
    height, width = map(int, _SIZE.value)
    spec = sb.load_spec(STREETS)
    scenes = [render(NEW + 2 * i, height, width).image for i in range(_BATCH.value)]
    images = normalize(np.stack(scenes), spec.mean, spec.std)
    return nnx.jit(lambda net, x: net(x).astype(jnp.bfloat16))(sb.load_model(STREETS).net, images)


def by_operation(counts: dict[tuple[str, str], dict[str, int]]) -> dict[str, dict[str, int]]:
    """The counts of each operation's kernels together."""
    total: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for (operation, _), one in counts.items():
        total[OPERATIONS.get(operation, operation)].update(one)
    return {name: dict(total[name]) for name in sorted(total)}


def short_name(kernel: str) -> str:
    """A kernel's name and template arguments, as PTX spells them, without what differs from run to run."""
    _, _, tail = kernel.partition("_cu_")
    return tail[8:].lstrip("0123456789") or kernel


def main(argv: list[str]) -> None:
    """Counts and writes."""
    del argv
    sys.path.insert(0, str(TESTS))
    from ptx import emulated
    from ptx.build import build

    module = emulated.install(build())
    skip = "" if _CONVOLUTIONS.value else "segblocks_indexed_conv"
    module.configure(skip=skip, capability=_CAPABILITY.value)
    calls = run_frame()
    counts = module.counts()
    by_logits = {}
    for name, logits in label_maps():
        module.reset()
        jax.block_until_ready(upsample_argmax(logits))
        ((key, one),) = module.counts().items()
        counts[key] = one  # At last those of noise, the most.
        by_logits[name] = one["warp_instructions"] / 1e6
    operations = by_operation(counts)
    report = {
        "model": _MODEL.value,
        "size": [int(side) for side in _SIZE.value],
        "batch": _BATCH.value,
        "block_size": _BLOCK.value,
        "share_high": _SHARE.value,
        "convolutions_counted": _CONVOLUTIONS.value,
        "dtype": "bfloat16",
        "architecture": "compute_80; convolutions compute_90 and compute_90a",
        "capability": _CAPABILITY.value,
        "commit": commit(),
        "counted": "PTX instructions of warps, in an emulator on a CPU; not run on a GPU",
        "warp_instructions_millions": {
            name: one["warp_instructions"] / 1e6
            for name, one in operations.items()
            if one["warp_instructions"]  # Convolutions may not have run.
        },
        "label_map_by_logits": by_logits,
        "calls": calls,
        "calls_in_all": sum(calls.values()),
        "launches": sum(one["launches"] for one in operations.values()),
        "operations": operations,
        "kernels": [
            {"operation": OPERATIONS.get(operation, operation), "kernel": short_name(kernel), **one}
            for (operation, kernel), one in sorted(counts.items())
        ],
    }
    for name, one in operations.items():
        print(
            f"{name:14} {one['launches']:4} launches {one['warp_instructions'] / 1e6:9.2f} M warp instructions,"
            f" {one['wide_divisions'] / 1e6:7.2f} M wide divisions, {one['products'] / 1e6:7.2f} M products"
        )
    print("label map:", ", ".join(f"{name} {count:.2f} M" for name, count in by_logits.items()))
    print(f"{report['calls_in_all']} calls, {report['launches']} launches")
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(app.run(main))
