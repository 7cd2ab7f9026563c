"""Time and memory of the parts of a network in blocks, each compiled and timed alone."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from segblocks_jax.blocks import BlockGrid, combine, split
from segblocks_jax.inference.timing import interleaved
from segblocks_jax.models import SwiftNet
from segblocks_jax.nn import on_full_image
from segblocks_jax.ops.upsample_argmax import upsample_argmax


def measure_parts(
    system: nnx.Dict,
    image: Float[Array | np.ndarray, "n h w 3"],
    mask: Bool[Array | np.ndarray, "n gh gw"],
    *,
    low_factor: int = 2,
    rounds: int = 5,
) -> dict[str, dict[str, float]]:
    """Seconds and temporary bytes of every part, from the policy to the label map.

    Each part is a program of its own, run on what the parts before it gave, so that the sum lies above the time of
    the whole, where the compiler joins parts. The networks' own layers run, not `FusedNet`.

    Args:
        system: ``{"net", "policy"}``, in evaluation mode.
        image: normalized.
        mask: which blocks are high.
        low_factor: of the grid.
        rounds: timed runs, interleaved; the medians are given.

    Returns:
        By part, in order: "seconds", and "megabytes" of temporary memory that its program takes.
    """
    grid = BlockGrid.from_mask(mask, low_factor=low_factor)
    runs: dict[Any, Callable[[], Any]] = {}
    memory: dict[str, int] = {}

    def add(name: str, function: Callable[[Any], Any], argument: Any) -> Any:
        compiled = jax.jit(function).lower(argument).compile()
        analysis = compiled.memory_analysis()
        memory[name] = 0 if analysis is None else analysis.temp_size_in_bytes
        runs[name] = functools.partial(compiled, argument)
        return compiled(argument)

    _add_parts(system, jnp.asarray(image), grid, add)
    seconds = interleaved(runs, rounds)
    return {name: {"seconds": seconds[name], "megabytes": memory[name] / 1e6} for name in runs}


def _add_parts(
    system: nnx.Dict, image: Array, grid: BlockGrid, add: Callable[[str, Any, Any], Any]
) -> None:
    """Calls `add` with name, function and argument of each part; it returns what the part gives."""
    net = system.net
    upsampling, stride = net.semantics.low_upsampling, net.output_stride
    add("policy", lambda x: system.policy(x, jax.random.key(0)).scores, image)
    blocks = add("split", lambda x: split(x, grid), image)
    if isinstance(net, SwiftNet):
        stages = add("backbone", net.backbone, blocks)
        x = add("pyramid", lambda x: on_full_image(net.spp, x, net.semantics), stages[-1])
        for i, (step, skip) in enumerate(zip(net.upsample, reversed(stages[:-1]), strict=True)):
            x = add(f"decoder {i + 1}", lambda pair, step=step: step(*pair), (x, skip))
        logits = add("logits", net.logits, x)
    else:
        logits = add("network", net, blocks)
    combined = add("combine", lambda x: combine(x, upsampling), logits)
    add("label map", lambda x: upsample_argmax(x.astype(jnp.float32), stride), combined)
