"""Time and memory of a training step at every number of high blocks, beside the dense network's, in one run.

    python benchmarks/training.py --output=benchmarks/results/training_rn18_cpu.json

- `steps`: one update (forward, backward, Adam) for each bucket, on a batch that lies on the device, and `decide`,
  the policy's program before it; runs in turn, median, as ratios to the dense network's update.
- `memory`: temporary bytes of the compiled update, as the compiler says, at shares of high blocks, with and without
  `rematerialize`, as ratios to the dense network's; nothing of this size is run.

Weights, images and grids are random. Executables are kept in --cache, so that a run can be made in pieces.
"""

import functools
import importlib.metadata
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import app, flags

from segblocks_jax.adaptive.buckets import buckets
from segblocks_jax.adaptive.decision import Decision
from segblocks_jax.inference.timing import interleaved
from segblocks_jax.ops import extension
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.system import SegBlocks
from segblocks_jax.training.provenance import commit, device_name
from segblocks_jax.training.sharding import put_batch
from segblocks_jax.training.state import create_optimizer, create_state

_MODEL = flags.DEFINE_string("model", "swiftnet_rn18", "Network.")
_PRECISION = flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "Of activations.")
_BATCH = flags.DEFINE_integer("batch", 8, "Images per step.")
_CROP = flags.DEFINE_integer("crop", 256, "Side of the images of timed steps.")
_BLOCK = flags.DEFINE_integer("block_size", 64, "Side of their blocks.")
_BUCKET_STEP = flags.DEFINE_float("bucket_step", 0.25, "Buckets are multiples of this share.")
_LARGE = flags.DEFINE_integer("memory_crop", 1024, "Side of the images in `memory`.")
_LARGE_BLOCK = flags.DEFINE_integer("memory_block_size", 128, "Side of their blocks.")
_SHARES = flags.DEFINE_list("shares", ["1", "0.4", "0.2"], "Shares of high blocks in `memory`.")
_PARTS = flags.DEFINE_list("parts", ["steps", "memory"], "What to measure.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed runs of each.")
_CACHE = flags.DEFINE_string("cache", None, "Folder of the persistent compilation cache.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file; parts that it has already are kept.")

_CLASSES = 11


class Step:
    """A training step with a state and a batch."""

    def __init__(self, policy: str, crop: int, block_size: int, rematerialize: bool = False):
        """Compiles nothing yet."""
        self.config = ExperimentConfig.from_mapping(
            {
                "precision": _PRECISION.value,
                "rematerialize": rematerialize,
                "data": {"crop": (crop, crop), "dataset": "camvid"},
                "model": {"name": _MODEL.value},
                "policy": {
                    "name": policy,
                    "reward": "loss",
                    "block_size": block_size,
                    "bucket_step": _BUCKET_STEP.value,
                },
                "optim": {"batch_size": _BATCH.value},
            }
        )
        system = SegBlocks(self.config)
        optimizer = create_optimizer(self.config.optim, system.multipliers())
        graphdef, state = create_state(system.build(), optimizer, 0)
        self.step = system.train_step(
            graphdef, optimizer, report=functools.partial(print, flush=True)
        )
        self.state = self.step.place(state)
        self.blocks = _BATCH.value * (crop // block_size) ** 2

    @functools.cached_property
    def batch(self) -> dict[str, jax.Array]:
        """Noise, on the device."""
        rng = np.random.default_rng(0)
        size = (_BATCH.value, *self.config.data.crop)
        noise = {
            "image": rng.integers(0, 256, (*size, 3), np.uint8),
            "label": rng.integers(0, _CLASSES, size, np.uint8),
        }
        return put_batch(noise, self.step.mesh)

    @functools.cached_property
    def decision(self) -> Decision:
        """The policy's; a bucket fills it up or cuts it."""
        return self.decide()[0]

    def temporary(self, num_high: int | None) -> int:
        """Bytes of temporaries of an update."""
        program = self.step.programs.get(num_high, "memory", self.step.arguments(self.state))
        return program.memory_analysis().temp_size_in_bytes

    def decide(self) -> Any:
        """The policy's part of a step."""
        return self.step.decide(self.state, self.batch)

    def update(self, num_high: int | None) -> Any:
        """The rest of a step."""
        decision = None if num_high is None else self.decision
        arguments = (self.state, self.batch, decision)
        program = self.step.programs.get(num_high, "timing", arguments)
        self.state, metrics = program(*arguments)
        return metrics


def measure_steps() -> dict[str, Any]:
    """Seconds of an update for every bucket."""
    runs: dict[Any, Callable[[], Any]] = {}
    dense = Step("static", _CROP.value, _BLOCK.value)
    blocks = Step("reinforce", _CROP.value, _BLOCK.value)
    for step, numbers in ((dense, (None,)), (blocks, buckets(blocks.blocks, _BUCKET_STEP.value))):
        for num_high in numbers:
            runs[num_high] = functools.partial(step.update, num_high)
    seconds = interleaved(runs | {"decide": blocks.decide}, _ROUNDS.value)
    rows = [
        {
            "num_high": num_high,
            "high_fraction": num_high / blocks.blocks,
            "seconds": seconds[num_high],
            "over_dense": seconds[num_high] / seconds[None],
        }
        for num_high in runs
        if num_high is not None
    ]
    return {
        "crop": _CROP.value,
        "block_size": _BLOCK.value,
        "rounds": _ROUNDS.value,
        "dense_seconds": seconds[None],
        "decide_seconds": seconds["decide"],
        "buckets": rows,
    }


def measure_memory() -> dict[str, Any]:
    """Temporary bytes of an update, at shares of high blocks."""
    rows = []
    for rematerialize in (False, True):
        dense = Step("static", _LARGE.value, _LARGE_BLOCK.value, rematerialize).temporary(None)
        step = Step("reinforce", _LARGE.value, _LARGE_BLOCK.value, rematerialize)
        rows.append({"high_fraction": None, "rematerialize": rematerialize, "bytes": dense})
        for share in map(float, _SHARES.value):
            num_high = round(share * step.blocks)
            bytes_ = step.temporary(num_high)
            rows.append({"high_fraction": share, "rematerialize": rematerialize, "bytes": bytes_})
    for row in rows:
        row["over_dense"] = row["bytes"] / rows[0]["bytes"]
    return {"crop": _LARGE.value, "block_size": _LARGE_BLOCK.value, "rows": rows}


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    if _CACHE.value:
        jax.config.update("jax_compilation_cache_dir", _CACHE.value)
    output = pathlib.Path(_OUTPUT.value) if _OUTPUT.value else None
    report = json.loads(output.read_text()) if output and output.exists() else {}
    report |= {
        "device": device_name(),
        "platform": jax.default_backend(),
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")},
        "commit": commit(),
        "compiled_handlers": extension.available(),
        "model": _MODEL.value,
        "precision": _PRECISION.value,
        "batch": _BATCH.value,
    }
    for part, run in {"steps": measure_steps, "memory": measure_memory}.items():
        if part in _PARTS.value:
            report[part] = run()
            print(json.dumps(report[part], indent=2))
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
