"""DynConv's sparse execution against the same network dense: on this package's kernels and on XLA's convolutions.

    python benchmarks/dynconv.py --output=benchmarks/results/dynconv_cpu.json

Networks, and four blocks of each kind in a row. Masks are given, smooth ones as trained masks are, or of single
random pixels; the mask units run all the same. A row has the share of operations that is executed, and `efficiency`:
how many times faster than dense on the same kernels, over how many times fewer operations.
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.allocator import keep_freed_memory
from segblocks_jax.inference.timing import interleaved
from segblocks_jax.ops import extension
from segblocks_jax.systems import dynconv
from segblocks_jax.systems.dynconv.blocks import (
    BasicBlock,
    Bottleneck,
    InvertedResidual,
    MaskedBlock,
)
from segblocks_jax.systems.dynconv.masks import MaskKind
from segblocks_jax.training.provenance import commit, device_name

_DENSITIES = flags.DEFINE_list(
    "densities", ["1", "0.5", "0.25", "0.125"], "Shares of active pixels."
)
_BATCHES = flags.DEFINE_list("batches", ["1", "8"], "Numbers of images.")
_NAMES = flags.DEFINE_list("names", [], "Networks and blocks; all without.")
_LAYOUTS = flags.DEFINE_list("layouts", ["smooth"], "Of masks: smooth, random.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed runs of each; medians are reported.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")

NETWORKS = {
    "hourglass": ("dynconv_hourglass", (256, 256)),
    "resnet50": ("dynconv_resnet50", (224, 224)),
}
IN_A_ROW = 4
Build = Callable[[MaskKind | None], MaskedBlock]
BLOCKS: dict[str, tuple[Build, tuple[int, int, int]]] = {
    "basic block": (lambda m: BasicBlock(64, 64, 1, mask=m, rngs=nnx.Rngs(0)), (56, 56, 64)),
    "bottleneck": (lambda m: Bottleneck(256, 64, 1, mask=m, rngs=nnx.Rngs(0)), (56, 56, 256)),
    "deep bottleneck": (
        lambda m: Bottleneck(1024, 256, 1, mask=m, rngs=nnx.Rngs(0)),
        (14, 14, 1024),
    ),
    "inverted residual": (
        lambda m: InvertedResidual(96, 96, mask=m, rngs=nnx.Rngs(0)),
        (64, 64, 96),
    ),
}


class Row(nnx.Module):
    """Blocks in a row, as networks have them: what one gives the next may overwrite."""

    def __init__(self, build: Build, kind: MaskKind | None) -> None:
        self.blocks = nnx.List([build(kind) for _ in range(IN_A_ROW)])
        for block in self.blocks[1:]:
            block.activated = True

    def __call__(self, x: jax.Array, run: dynconv.Pass) -> jax.Array:
        """(n, h, w, c) -> the same shape."""
        for block in self.blocks:
            x = block(x, run)
        return x


class Given(dynconv.Pass):
    """A pass with masks that are given; the mask units run, and their logits would matter if they were infinite."""

    def __init__(self, masks: list[jax.Array], **options: Any) -> None:
        super().__init__(**options)
        self._given = iter(masks)

    def decide(self, unit: nnx.Module, x: jax.Array, block: nnx.Module) -> jax.Array:
        """The next mask."""
        mask = next(self._given) ^ (super().decide(unit, x, block) & (self.logits[-1] == jnp.inf))
        self.masks[-1] = mask
        return mask


def smooth_masks(shapes: list[tuple[int, ...]], density: float, layout: str) -> list[np.ndarray]:
    """Masks of a share of active pixels: where a smooth random field is largest, or random pixels."""
    rng = np.random.default_rng(0)
    masks = []
    for n, h, w in shapes:
        field = rng.standard_normal((n, h, w))
        if layout == "smooth":
            side = max(1, min(h, w) // 8)
            coarse = jnp.asarray(rng.standard_normal((n, -(-h // side) + 1, -(-w // side) + 1)))
            field = np.asarray(jax.image.resize(coarse, (n, h, w), "cubic"))
            field = field + 1e-6 * rng.standard_normal(field.shape)
        count = round(density * field.size)
        mask = np.zeros(field.size, bool)
        mask[np.argsort(-field.reshape(-1))[:count]] = True
        masks.append(mask.reshape(n, h, w))
    return masks


class Case:
    """A network or blocks in evaluation, masked and unmasked, with the three ways to run them."""

    def __init__(self, name: str, batch: int) -> None:
        if name in NETWORKS:
            model, size = NETWORKS[name]
            self.masked, self.plain = (sb.create_model(model, masked=m) for m in (True, False))
            self.shape = (batch, *size, 3)
        else:
            build, size = BLOCKS[name]
            kind: MaskKind = "pointwise" if name.startswith("inverted") else "squeeze"
            self.masked, self.plain = Row(build, kind), Row(build, None)
            self.shape = (batch, *size)
        for net in (self.masked, self.plain):
            net.eval()
        x = np.random.default_rng(1).standard_normal(self.shape).astype(np.float32)
        self.x = jnp.asarray(x)
        self.cost, self.mask_shapes = dynconv.costs(self.masked, self.shape)
        self.total = self.cost.total(self.mask_shapes)
        self.rest = 0.0
        if name in NETWORKS:
            self.rest = sb.count_macs(self.masked, self.shape).total - self.total

    def sparse(self) -> Callable[[list[np.ndarray]], Any]:
        """The masked one at active pixels."""
        prepared = dynconv.prepare(self.masked, (1, *self.shape[1:]), "sparse")
        graphdef, state = nnx.split(self.masked)

        @jax.jit
        def run(state: Any, prepared: Any, x: jax.Array, masks: list[jax.Array]) -> Any:
            return nnx.merge(graphdef, state)(x, Given(masks, sparse=True, prepared=prepared))

        return functools.partial(run, state, prepared, self.x)

    def dense(self) -> Callable[[], Any]:
        """The unmasked one on this package's kernels."""
        prepared = dynconv.prepare(self.plain, (1, *self.shape[1:]), "dense")
        graphdef, state = nnx.split(self.plain)

        @jax.jit
        def run(state: Any, prepared: Any, x: jax.Array) -> Any:
            return nnx.merge(graphdef, state)(x, dynconv.Pass(by_index=True, prepared=prepared))

        return functools.partial(run, state, prepared, self.x)

    def xla(self) -> Callable[[], Any]:
        """The unmasked one on XLA's convolutions."""
        graphdef, state = nnx.split(self.plain)

        @jax.jit
        def run(state: Any, x: jax.Array) -> Any:
            with extension.using("xla"):
                return nnx.merge(graphdef, state)(x, dynconv.Pass())

        return functools.partial(run, state, self.x)


def rows(name: str, batch: int) -> Iterator[dict[str, Any]]:
    """The times of a network or block, all ways and densities in one interleaved run."""
    case = Case(name, batch)
    runs: dict[Any, Callable[[], Any]] = {"dense": case.dense(), "xla": case.xla()}
    sparse, shares = case.sparse(), {}
    for layout in _LAYOUTS.value:
        for density in map(float, _DENSITIES.value):
            masks = smooth_masks(case.mask_shapes, density, layout)
            executed = sum(case.cost.by_block(masks))
            shares[layout, density] = (
                (executed + case.rest) / (case.total + case.rest),
                executed / case.total,
            )
            runs[layout, density] = functools.partial(sparse, [jnp.asarray(m) for m in masks])
    times = interleaved(runs, _ROUNDS.value)
    for (layout, density), (share, conditional) in shares.items():
        seconds = times[layout, density]
        speedup = times["dense"] / seconds
        yield {
            "name": name,
            "batch": batch,
            "layout": layout,
            "density": density,
            "rounds": _ROUNDS.value,
            "executed_share": share,
            "executed_share_of_blocks": conditional,
            "dense_seconds": times["dense"],
            "xla_seconds": times["xla"],
            "sparse_seconds": seconds,
            "over_dense": speedup,
            "over_xla": times["xla"] / seconds,
            "efficiency": speedup * share,
        }


def main(_: list[str]) -> None:
    """Prints a line for each row, and writes all to a file."""
    keep_freed_memory()
    found = []
    for name in _NAMES.value or [*BLOCKS, *NETWORKS]:
        for batch in map(int, _BATCHES.value):
            for row in rows(name, batch):
                found.append(row)
                print(
                    f"{name:18} n={batch} {row['layout']:6} {row['density']:6.3f} executed"
                    f" {row['executed_share']:.3f} dense {row['dense_seconds'] * 1e3:8.2f} ms, XLA"
                    f" {row['xla_seconds'] * 1e3:8.2f}, sparse {row['sparse_seconds'] * 1e3:8.2f}, efficiency"
                    f" {row['efficiency']:.2f}",
                    flush=True,
                )
    report = {"rows": found, "device": device_name(), "jax": jax.__version__, "commit": commit()}
    report["timer"] = "medians of interleaved rounds, float32, results on the device"
    if _OUTPUT.value:
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
