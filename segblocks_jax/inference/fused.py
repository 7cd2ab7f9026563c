"""FusedNet: any network of this library's layers for inference, on packed pixel lists.

The calls of its layers are recorded once, and a convolution takes what follows it into its epilogue:
norm, shortcut and activation; where a layer behind normalizes first, a second output takes that norm,
too. The same program runs blocks and, as one unit per image, the dense network.
"""

import itertools
import os
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx, struct
from jaxtyping import Array

from segblocks_jax.blocks import DualRes
from segblocks_jax.errors import InputError
from segblocks_jax.inference.fusion import Planner
from segblocks_jax.inference.layout import Layout
from segblocks_jax.inference.quantized import Ranges, quantized
from segblocks_jax.inference.state import Pixels, State, halos_are_lent, lent_paddings
from segblocks_jax.inference.steps import ConvStep, Step
from segblocks_jax.inference.traced import FusedTraced, fuse_traced
from segblocks_jax.models import Network
from segblocks_jax.nn.regions import Maps
from segblocks_jax.nn.scope import Call, record_calls
from segblocks_jax.ops import extension, no_type_check
from segblocks_jax.traced import InBlocks

GPU_DEFAULT = "plain"
"""What a GPU runs by default, "fused" or "plain": fused networks where benchmarks/results/cuda_model.json has them
faster than a dense one by a tenth or more, at batch 1 and 40% high blocks. No GPU has measured it."""
ENVIRONMENT_VARIABLE = "SEGBLOCKS_GPU_DEFAULT"

_SIDE = 256  # Of the image that calls are recorded on; its size plays no part in them.


@struct.dataclass(eq=False)
@no_type_check
class FusedNet:
    """A network for inference: its `__call__` in evaluation mode, faster, without gradients.

    Differs from the network by rounding only. Build it with `fuse`; under `jax.jit` it is an argument
    like any other.

    Attributes:
        steps: in order; the last one's output is the network's.
    """

    steps: tuple[Step, ...]

    def __call__(self, x: Maps) -> Maps:
        """Normalized image, or blocks of it -> what the network gives."""
        state = _state(x)
        self._prepare(state)
        if halos_are_lent(x):
            state.paddings = lent_paddings([step.reads() for step in self.steps])
        for step in self.steps:
            step.run(state)
        return state.features(self.steps[-1].output)

    def _prepare(self, state: State) -> None:
        """Makes the index tables of all layers in one call."""
        layouts = dict(state.layouts)
        keys: dict[Any, None] = {}  # As a set in order.
        for step in self.steps:
            number, (numerator, denominator), patches = step.reads()
            layout = layouts[number]
            if patches is not None:
                keys[layout.sides, *patches] = None
            outputs = (step.output, getattr(step, "second", None))
            made = layout.scaled(numerator, denominator)
            layouts |= {number: made for number in outputs if number is not None}
        state.layouts[0].prepare(list(keys))

    def observed(self, x: Maps) -> dict[str, dict[str, Pixels]]:
        """What each convolution, by its path, reads and makes: its "input", "output" and "second" output, if kept."""
        state, seen = _state(x), {}
        for step in self.steps:
            step.run(state)
            if isinstance(step, ConvStep):
                numbers = {"input": step.input, "second": step.second}
                numbers["output"] = step.output if step.keep else None
                found = {k: state.pixels[n] for k, n in numbers.items() if n is not None}
                seen[step.name] = found
        return seen

    def parts(self, x: Maps) -> Iterator[tuple[str, Pixels]]:
        """Names and results, as pixel lists, of the network's parts (`nn.scope`) as they are computed."""
        state = _state(x)
        for part, steps in itertools.groupby(self.steps, lambda step: step.part):
            for step in steps:
                step.run(state)
            yield part, state.latest


def fuse(
    net: nnx.Module | Network,
    dtype: jax.typing.DTypeLike = "float32",
    ranges: Ranges | None = None,
) -> FusedNet | FusedTraced:
    """Prepares a network for inference: folds its running statistics, packs its kernels.

    Args:
        net: built of the layers in `segblocks_jax.nn`, or traced (`segblocks_jax.in_blocks`); it keeps its weights.
        dtype: of kernels and activations, "float32" or "bfloat16"; the input must have it.
        ranges: of the convolutions that run in int8, see `segblocks_jax.inference.quantized`; the input is
            float32 all the same.

    Raises:
        InputError: the network pads blocks otherwise than by BlockPad, or computes features by what is
            no layer; or the ranges are those of another network.
    """
    if isinstance(net, InBlocks):
        if ranges is not None:
            raise InputError("fuse: traced networks don't run in int8; use float32 or bfloat16")
        return fuse_traced(net, dtype)
    steps = Planner(*_record(net), dtype, ranges or ()).steps()
    return FusedNet(tuple(steps if ranges is None else quantized(steps, ranges)))


def pays(net: nnx.Module | Network) -> bool:
    """Whether `fuse` takes the network and should be what serves it here, by compiled handlers.

    On CPUs it is the faster way. On GPUs the environment variable SEGBLOCKS_GPU_DEFAULT decides, "fused" or "plain";
    without it `GPU_DEFAULT`.

    Raises:
        InputError: the environment variable has another value.
    """
    if not _default_is_fused(jax.default_backend()) or extension.resolve() != "ffi":
        return False
    if isinstance(net, InBlocks):
        return net.semantics.padding == "block"
    try:
        Planner(*_record(net))
    except InputError:
        return False
    return True


def _default_is_fused(platform: str) -> bool:
    if platform != "gpu":
        return platform == "cpu"
    name = os.environ.get(ENVIRONMENT_VARIABLE) or GPU_DEFAULT
    if name not in ("fused", "plain"):
        raise InputError(
            f"{ENVIRONMENT_VARIABLE} is {name!r}; expected 'fused', 'plain', or nothing for {GPU_DEFAULT!r}"
        )
    return name == "fused"


def _record(net: nnx.Module | Network) -> tuple[list[Call], Array, Any, dict[int, str]]:
    padding = getattr(getattr(net, "semantics", None), "padding", "block")
    if padding != "block":
        raise InputError(
            f"fuse: semantics.padding is {padding!r}; a fused network finds its neighbors by index and has only"
            " 'block'; serve it with execution='plain'"
        )
    net = nnx.clone(net)
    net.eval()
    names = {id(x): ".".join(map(str, path)) for path, x in nnx.iter_graph(net)}
    return *record_calls(net, (1, _SIDE, _SIDE, 3)), names


def _state(x: Any) -> State:
    if isinstance(x, DualRes):
        return State(x.pixels, Layout(x.grid, (x.block_size,)))
    n, h, w, channels = x.shape
    return State(x.reshape(-1, channels), Layout(n, (h, w)))
