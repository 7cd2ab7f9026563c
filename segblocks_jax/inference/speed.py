"""Speed of a network, dense and in blocks, in one interleaved run, beside its operations."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from segblocks_jax.analysis.macs import count_macs
from segblocks_jax.blocks import BlockGrid, combine, extension, split
from segblocks_jax.training.config import ExperimentConfig
from segblocks_jax.training.logging import commit
from segblocks_jax.training.state import create_system

SHARES = (1.0, 0.5, 0.25, 0.0)


def measure(
    config: ExperimentConfig,
    size: tuple[int, int],
    *,
    num_classes: int = 19,
    rounds: int = 7,
) -> dict[str, Any]:
    """Times one image: the dense network, then blocks at each of `SHARES`, in turn, `rounds` times.

    The timer holds, from a normalised image on the device to logits at a quarter of its size: split,
    network, combine; for the dense network only the network. The policy is timed apart. Weights and
    grids are random.

    Args:
        config: its model, block size, semantics and precision are measured.
        size: (height, width) of the image, multiples of the block size.
        num_classes: of the logits.
        rounds: timed runs of each; the medians are reported.

    Returns:
        Plain values for JSON: `dense` and `blocks`, times in seconds, operations in 10^9, ratios to
        dense of the same run, the share of time in split, combine and pad.
    """
    system = create_system(_in_blocks(config), num_classes)
    system.eval()
    image = jax.random.normal(jax.random.key(0), (1, *size, 3)).astype(config.precision)
    graphdef, state = nnx.split(system.net)

    @jax.jit
    def dense(state: nnx.State, image: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(image)

    @jax.jit
    def blocks(state: nnx.State, image: jax.Array, grid: BlockGrid) -> jax.Array:
        logits = nnx.merge(graphdef, state)(split(image, grid))
        return combine(logits, config.semantics.low_upsampling)

    side = config.policy.block_size
    grids = {share: _random_grid(size, side, share, config.policy.low_factor) for share in SHARES}
    policy_def, policy_state = nnx.split(system.policy)

    @jax.jit
    def policy(state: nnx.State, image: jax.Array) -> jax.Array:
        return nnx.merge(policy_def, state)(image, jax.random.key(0)).action

    runs: dict[Any, Callable[[], Any]] = {
        "dense": lambda: dense(state, image),
        "policy": lambda: policy(policy_state, image),
    }
    for share, grid in grids.items():
        runs[share] = functools.partial(blocks, state, image, grid)
    times = interleaved(runs, rounds)
    dense_macs = count_macs(system.net, (1, *size, 3)).total
    report = _describe(config, size, rounds)
    report["dense"] = {"seconds": times["dense"], "gmacs": dense_macs / 1e9}
    report["policy_seconds"] = times["policy"]
    report["blocks"] = []
    for share, grid in grids.items():
        macs = count_macs(
            system.net, (1, *size, 3), share, low_factor=config.policy.low_factor
        ).total
        moving = _block_operation_seconds(lambda g: blocks(state, image, g), grid, rounds)
        report["blocks"].append(
            {
                "share_high": grid.num_high / grid.num_blocks,
                "seconds": times[share],
                "gmacs": macs / 1e9,
                "operation_ratio": dense_macs / macs,
                "speedup": times["dense"] / times[share],
                "block_operations_share": None if moving is None else moving / times[share],
            }
        )
    return report


def interleaved(runs: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """Median seconds of each function, all called in turn `rounds` times after a warm-up each."""
    for run in runs.values():
        jax.block_until_ready(run())
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def format_report(report: dict[str, Any]) -> str:
    """The report as a text table."""
    height, width = report["size"]
    dense = report["dense"]
    lines = [
        f"{report['model']}, {height} x {width}, batch 1, {report['precision']},"
        f" blocks of {report['block_size']} px, {report['device']}, {report['implementation']} block operations",
        f"{'':14}{'ms':>9}{'GMACs':>9}{'dense/x: operations':>21}{'time':>7}{'in split, combine, pad':>24}",
        f"{'dense':14}{dense['seconds'] * 1e3:9.1f}{dense['gmacs']:9.2f}{1:21.2f}{1:7.2f}",
    ]
    for row in report["blocks"]:
        share = row["block_operations_share"]
        lines.append(
            f"{row['share_high']:>5.0%} high    {row['seconds'] * 1e3:9.1f}{row['gmacs']:9.2f}"
            f"{row['operation_ratio']:21.2f}{row['speedup']:7.2f}"
            f"{'not measured' if share is None else f'{share:.1%}':>24}"
        )
    lines.append(f"policy: {report['policy_seconds'] * 1e3:.1f} ms, not contained above")
    return "\n".join(lines)


def _in_blocks(config: ExperimentConfig) -> ExperimentConfig:
    return dataclasses.replace(config, policy=dataclasses.replace(config.policy, name="reinforce"))


def _random_grid(size: tuple[int, int], side: int, share: float, low_factor: int) -> BlockGrid:
    shape = (1, size[0] // side, size[1] // side)
    scores = np.random.default_rng(0).random(shape)
    return BlockGrid.from_mask(
        np.zeros(shape, bool), round(share * scores.size), scores.astype(np.float32), low_factor
    )


def _describe(config: ExperimentConfig, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    return {
        "model": config.model.name,
        "width": config.model.width,
        "features": config.model.features,
        "size": list(size),
        "batch": 1,
        "precision": config.precision,
        "block_size": config.policy.block_size,
        "implementation": extension.resolve(),
        "timer": "normalised image on the device to logits at 1/4: split, network, combine;"
        f" median of {rounds} interleaved runs",
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "commit": commit(),
    }


def _block_operation_seconds(
    program: Callable[[BlockGrid], Any], grid: BlockGrid, rounds: int
) -> float | None:
    """Seconds of all split, combine and pad calls of a program, alone; None for references."""
    calls = list(_ffi_calls(jax.make_jaxpr(program)(grid).jaxpr))
    if not calls:
        return None
    operands = [[_operand(var.aval, grid) for var in call.invars] for call in calls]

    @jax.jit
    def run(operands: list[list[jax.Array]]) -> list[Any]:
        return [
            call.primitive.bind(*arrays, **call.params)
            for call, arrays in zip(calls, operands, strict=True)
        ]

    return interleaved({"run": lambda: run(operands)}, rounds)["run"]


def _operand(kind: Any, grid: BlockGrid) -> jax.Array:
    return grid.slots if kind.shape == grid.slots.shape else jnp.ones(kind.shape, kind.dtype)


def _ffi_calls(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    for eqn in jaxpr.eqns:
        if eqn.params.get("target_name") in extension.TARGETS:
            yield eqn
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: isinstance(v, (Jaxpr, ClosedJaxpr))
        ):
            if isinstance(value, ClosedJaxpr):
                yield from _ffi_calls(value.jaxpr)
            elif isinstance(value, Jaxpr):
                yield from _ffi_calls(value)
