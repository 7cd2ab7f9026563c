"""Speed of a network, dense and in blocks, in one interleaved run, beside its operations."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from segblocks_jax.adaptive.cost import count_macs
from segblocks_jax.allocator import keep_freed_memory
from segblocks_jax.blocks import BlockGrid, DualRes, combine, split
from segblocks_jax.errors import InputError
from segblocks_jax.exact import count_of
from segblocks_jax.inference.fused import FusedNet, fuse, pays
from segblocks_jax.inference.layout import Layout
from segblocks_jax.inference.timing import interleaved
from segblocks_jax.models import Network, ResNet, SwiftNet
from segblocks_jax.nn import Conv
from segblocks_jax.nn.scope import record_calls
from segblocks_jax.ops import extension
from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.patches import Border
from segblocks_jax.systems.segblocks.build import create_system
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.training.provenance import commit, device_name

SHARES = (1.0, 0.5, 0.25, 0.0)


def measure(
    config: ExperimentConfig,
    size: tuple[int, int],
    num_classes: int = 19,
    *,
    rounds: int = 7,
    shares: tuple[float, ...] = SHARES,
) -> dict[str, Any]:
    """Times one image: dense networks, then blocks at each of `shares`, in turn, `rounds` times.

    The timer holds, from a normalized image on the device to the network's logits: split, network,
    combine; for a dense network only the network. The policy is timed apart. Weights and
    grids are random. Two dense baselines are timed: `xla_dense`, the network on XLA's convolutions, and
    `dense`, the network as blocks run it (`FusedNet` where that pays), one unit an image.

    Args:
        config: its model, block size, semantics and precision are measured; a static one whose network
            can't run in blocks of that size, dense alone.
        size: (height, width) of the image, multiples of the block size.
        num_classes: of the logits.
        rounds: timed runs of each; the medians are reported.
        shares: of high blocks.

    Returns:
        Plain values for JSON: times in seconds, operations in 10^9, ratios to both dense networks of the
        same run, and what index patches, split, combine and pooling take of a run, timed alone.

    All run with `keep_freed_memory`, as engines do.
    """
    keep_freed_memory()
    system = _system(config, num_classes)
    if "policy" not in system:
        shares = ()
    system.eval()
    image = jax.random.normal(jax.random.key(0), (1, *size, 3)).astype(config.precision)
    grids = {share: _random_grid(size, config, share) for share in shares}
    xla, own = (_network(system.net, config, in_blocks) for in_blocks in (False, True))
    runs: dict[Any, Callable[[], Any]] = {
        "xla_dense": lambda: xla(image, None),
        "dense": lambda: own(image, None),
    }
    if "policy" in system:
        decide = _compiled(system.policy, lambda policy, x: policy(x, jax.random.key(0)).action)
        runs["policy"] = functools.partial(decide, image)
    for share, grid in grids.items():
        runs[share] = functools.partial(own, image, grid)
        runs["around", share] = _around(system.net, config, image, grid)
    times = interleaved(runs, rounds)
    description = _describe(config, size, rounds, pays(system.net))
    return description | _compared(system.net, size, grids, times)


def _compared(
    net: Any, size: tuple[int, int], grids: dict[float, BlockGrid], times: dict[Any, float]
) -> dict[str, Any]:
    """Times beside operations, and ratios to the dense networks."""
    dense_macs = count_macs(net, (1, *size, 3)).total
    report: dict[str, Any] = {
        name: {"seconds": times[name], "gmacs": dense_macs / 1e9} for name in ("xla_dense", "dense")
    }
    report |= {"policy_seconds": times.get("policy"), "blocks": []}
    for share, grid in grids.items():
        real, seconds = grid.num_high / grid.num_blocks, times[share]
        macs = count_macs(net, (1, *size, 3), real, low_factor=grid.low_factor).total
        row = {"high_fraction": real, "seconds": seconds, "gmacs": macs / 1e9}
        row["operation_ratio"] = dense_macs / macs
        row |= {f"over_{name}": times[name] / seconds for name in ("xla_dense", "dense")}
        row["around_convolutions"] = times["around", share] / seconds
        report["blocks"].append(row)
    return report


def _compiled(module: Any, run: Callable[..., Any]) -> Callable[..., Any]:
    """``run(module, ...)`` as a compiled function of its other arguments."""
    graphdef, state = nnx.split(module)
    jitted = jax.jit(lambda state, *given: run(nnx.merge(graphdef, state), *given))
    return functools.partial(jitted, state)


def _network(net: Network, config: ExperimentConfig, fused: bool) -> Callable[..., Any]:
    """The network as a compiled function of an image and a grid or None."""

    def run(net: Network | FusedNet, image: jax.Array, grid: BlockGrid | None) -> jax.Array:
        with extension.using(None if fused else "xla"):
            if grid is None:
                return net(image)
            return combine(net(split(image, grid)), config.semantics.low_upsampling)

    if fused and pays(net):
        prepared = jax.block_until_ready(fuse(net, config.precision))
        return functools.partial(jax.jit(run), prepared)
    return _compiled(net, run)


def _around(
    net: Network, config: ExperimentConfig, image: jax.Array, grid: BlockGrid
) -> Callable[[], Any]:
    """What a network in blocks does besides convolutions: index patches, split, pooling, combine.

    Of other networks than SwiftNet, split and combine.
    """
    side = config.policy.block_size
    logits = jnp.ones((grid.num_pixels(side // net.output_stride), net.num_classes), image.dtype)
    upsampling = config.semantics.low_upsampling
    backbone = net.backbone if isinstance(net, SwiftNet) else None
    border: Border = "image" if config.semantics.interpolation == "halo" else "block"
    is_resnet = isinstance(backbone, ResNet)
    paddings = [] if backbone is None else _paddings(backbone)
    width = backbone.conv1.kernel.shape[-1] if isinstance(backbone, ResNet) else 1
    stem = jnp.ones((grid.num_pixels(side // 2), width), image.dtype)

    @jax.jit
    def run(image: jax.Array, grid: BlockGrid, stem: jax.Array, logits: jax.Array) -> list[Any]:
        results: list[Any] = [split(image, grid).pixels]
        if backbone is None:
            return [*results, combine(DualRes(logits, grid), upsampling)]
        layout = Layout(grid, (side,))
        results.append(layout.patches(paddings[0]))
        for level in range(1, 6):
            smaller = layout.scaled(1, 2**level)
            results += [smaller.patches(padding) for padding in sorted({*paddings[1:]})]
            if level >= 3:
                results.append(smaller.patches(1, border))
        if is_resnet:
            results.append(indexed_max_pool(stem, layout.scaled(1, 2).patches(1), 3, 2))
        return [*results, combine(DualRes(logits, grid), upsampling)]

    return functools.partial(run, image, grid, stem, logits)


def _paddings(backbone: nnx.Module) -> list[int]:
    """Of a backbone's convolutions that read more than a list, in order."""
    calls, *_ = record_calls(backbone, (1, 64, 64, 3))
    convs = [x for call in calls if isinstance(x := call.arguments.get("self"), Conv)]
    return [max(x.padding) for x in convs if x.kernel.shape[:2] != (1, 1) or x.stride > 1]


def format_report(report: dict[str, Any]) -> str:
    """The report as a text table."""
    height, width = report["size"]
    xla, dense = report["xla_dense"], report["dense"]

    def line(name: str, row: dict[str, Any], *ratios: float) -> str:
        operations, over_xla, over_dense = ratios
        return (
            f"{name:14}{row['seconds'] * 1e3:9.1f}{row['gmacs']:9.2f}"
            f"{operations:12.2f}{over_xla:13.2f}{over_dense:9.2f}"
        )

    lines = [
        f"{report['model']}, {height} x {width}, batch 1, {report['precision']},"
        f" blocks of {report['block_size']} px, {report['device']}, {report['implementation']} block operations",
        f"{'':14}{'ms':>9}{'GMACs':>9}{'operations':>12}{'/ XLA dense':>13}{'/ dense':>9}{'around':>9}",
    ]
    for name, row in (("XLA dense", xla), ("dense", dense)):
        over = (base["seconds"] / row["seconds"] for base in (xla, dense))
        lines.append(line(name, row, 1.0, *over))
    for row in report["blocks"]:
        over = (row[name] for name in ("operation_ratio", "over_xla_dense", "over_dense"))
        name = f"{row['high_fraction']:>5.0%} high"
        lines.append(f"{line(name, row, *over)}{row['around_convolutions']:>9.1%}")
    if report["policy_seconds"] is None:
        return "\n".join([*lines, f"{report['model']} can't run in blocks of that size"])
    lines.append(
        f"policy: {report['policy_seconds'] * 1e3:.1f} ms, not contained above; around: index patches, split,"
        " pooling, combine"
    )
    return "\n".join(lines)


def _system(config: ExperimentConfig, num_classes: int) -> nnx.Dict:
    """The network and a policy; no policy where a static configuration's network can't run in blocks."""
    side = config.policy.block_size  # The input's scale and the crop play no part here.
    model = dataclasses.replace(config.model, input_scale=1.0)
    data = dataclasses.replace(config.data, crop=(side, side))
    dense = dataclasses.replace(config, model=model, data=data)
    policy = dataclasses.replace(config.policy, name="reinforce")
    try:
        return create_system(dataclasses.replace(dense, policy=policy), num_classes)
    except InputError:
        if config.policy.kind is not None:
            raise
        return create_system(dense, num_classes)


def _random_grid(size: tuple[int, int], config: ExperimentConfig, share: float) -> BlockGrid:
    shape = (1, *(length // config.policy.block_size for length in size))
    scores = np.random.default_rng(0).random(shape)
    num_high, scores = count_of(share, scores.size), scores.astype(np.float32)
    return BlockGrid.from_mask(np.zeros(shape, bool), num_high, scores, config.policy.low_factor)


def _describe(
    config: ExperimentConfig, size: tuple[int, int], rounds: int, fused: bool
) -> dict[str, Any]:
    return {
        "model": config.model.name,
        "width": config.model.width,
        "features": config.model.features,
        "size": list(size),
        "batch": 1,
        "precision": config.precision,
        "block_size": config.policy.block_size,
        "implementation": extension.resolve(),
        "fused": fused,
        "timer": "normalized image on the device to logits: split, network, combine;"
        f" median of {rounds} interleaved runs",
        "device": device_name(),
        "jax": jax.__version__,
        "commit": commit(),
    }
