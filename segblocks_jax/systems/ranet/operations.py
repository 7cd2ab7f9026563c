"""Operations of a RANet up to each exit, by the authors' rule."""

import math
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Int

from segblocks_jax import nn
from segblocks_jax.nn.scope import Call, record_calls
from segblocks_jax.systems.ranet.network import RANet


def cumulative_macs(net: RANet, size: tuple[int, int]) -> Int[np.ndarray, "exits"]:
    """Operations of one image up to each exit, with all that runs before: heads of earlier exits, all base features.

    A convolution counts the products of its kernel at each position, a linear layer its products and its bias, a ReLU
    one per value, pooling the values of its windows. Batch norm and resizing are left out.

    Args:
        net: the network.
        size: (height, width) of the image.
    """
    return _cumulative(net, size, _operations)


def cumulative_parameters(net: RANet, size: tuple[int, int]) -> Int[np.ndarray, "exits"]:
    """Parameters of what `cumulative_macs` counts."""
    return _cumulative(net, size, _parameters)


def _cumulative(
    net: RANet, size: tuple[int, int], count: Callable[[Call], int]
) -> Int[np.ndarray, "exits"]:
    net = nnx.clone(net)
    net.eval()
    graphdef, state = nnx.split(net)
    found = np.zeros(len(net.stages), np.int64)

    def run(state: nnx.State) -> None:
        total = 0
        for call in record_calls(nnx.merge(graphdef, state), (1, *size, 3))[0]:
            total += count(call)
            part = call.part.partition("/")[0]
            if part.startswith("exit"):
                found[int(part.removeprefix("exit"))] = total

    jax.eval_shape(run, state)  # A network without values will do.
    return found


def _operations(call: Call) -> int:
    given, size = call.arguments, call.result.size
    layer = given.get("self")
    if isinstance(layer, nn.Conv):
        return size * math.prod(layer.kernel.shape[:3])
    if isinstance(layer, nn.Linear):
        return size * layer.kernel.shape[0] + layer.kernel.shape[1]
    if call.function in (nn.max_pool, nn.average_pool):
        return size * given["window"] ** 2
    return size if given.get("function") is jax.nn.relu else 0


def _parameters(call: Call) -> int:
    layer = call.arguments.get("self")
    if not isinstance(layer, nnx.Module):
        return 0
    return sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(layer, nnx.Param)))
