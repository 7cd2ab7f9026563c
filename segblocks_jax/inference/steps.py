"""Steps of a fused network: each makes a pixel list, or two, of those that are there."""

from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float

from segblocks_jax.blocks import DualRes
from segblocks_jax.inference.layout import Layout
from segblocks_jax.inference.state import Pixels, State
from segblocks_jax.ops import no_type_check
from segblocks_jax.ops.indexed_conv import (
    Activation,
    Epilogue,
    Halos,
    indexed_conv,
    indexed_conv_of_halos,
)
from segblocks_jax.ops.packed_kernel import PackedKernel
from segblocks_jax.ops.patches import Border, IndexPatches, list_patches
from segblocks_jax.ops.upsample2 import indexed_upsample2, indexed_upsample2_of_halos

Scaling = tuple[Float[Array, "c"], Float[Array, "c"]]
Reads = tuple[int, tuple[int, int], tuple[int, Border] | None]


def static() -> Any:
    """A field that is part of a step's structure."""
    return struct.field(pytree_node=False)


@struct.dataclass(eq=False)
@no_type_check
class ConvStep:
    """A convolution and its epilogue; with `following`, that norm and ReLU of the output are `second`.

    `name` is the path of its layer in the network.
    """

    kernel: PackedKernel
    scaling: tuple[Array | None, Array | None]
    following: Scaling | None
    name: str = static()
    part: str = static()
    input: int = static()
    residual: int | None = static()
    output: int = static()
    second: int | None = static()
    keep: bool = static()
    stride: int = static()
    padding: tuple[int, int] = static()
    shift: tuple[int, int] = static()
    dilation: int = static()
    activation: Activation = static()

    def reads(self) -> Reads:
        """See `Step`."""
        return conv_reads(self)

    def run(self, state: State) -> None:
        """Adds the output, where it is kept, and the second one."""
        pixels, layout = state.pixels[self.input], state.layouts[self.input]
        halos = state.lent(self.input, max(self.padding))
        # See `channels_pay`.
        zeros = ((0, 0), (0, self.kernel.channels - pixels.shape[1]))
        pixels = jnp.pad(pixels, zeros)
        halos = None if halos is None else jnp.pad(halos, zeros)
        lends = self._lends(state, layout.scaled(1, self.stride))
        # A list of pixels has no blocks, and lends nothing.
        in_blocks = _pointwise(self) and any(lends)
        patches = layout.blocks() if in_blocks else conv_patches(self, pixels, layout)
        residual = None if self.residual is None else state.pixels[self.residual]
        scale, bias = self.scaling
        epilogue = Epilogue(scale, bias, residual, self.following, self.activation, self.keep)
        layout = layout.scaled(1, self.stride)
        lent: Halos = (None, None)
        given = (pixels, patches, self.kernel, self.stride, epilogue)
        if halos is None and not any(lends):
            out, second = indexed_conv(*given, dilation=self.dilation)
        else:
            (out, second), lent = indexed_conv_of_halos(
                *given, dilation=self.dilation, halos=halos, lends=lends
            )
        if second is not None:
            assert self.second is not None
            state.add(self.second, second, layout, lent[1])
        if out is not None:
            state.add(self.output, out, layout, lent[0])

    def _lends(self, state: State, layout: Layout) -> tuple[int, int]:
        """The padding for which the first or the second output, of this layout, lends halos."""
        first = state.lends(self.output, layout) if self.keep else 0
        second = 0 if first or self.second is None else state.lends(self.second, layout)
        return first, second


def _pointwise(step: Any) -> bool:
    return step.kernel.size == (1, 1) and step.stride == 1


def conv_reads(step: Any) -> Reads:
    """What `reads` says of a convolution."""
    return step.input, (1, step.stride), None if _pointwise(step) else (max(step.padding), "zero")


def conv_patches(step: Any, pixels: Pixels, layout: Layout) -> IndexPatches:
    """Where the convolution of a step finds its pixels."""
    if _pointwise(step):
        return list_patches(pixels.shape[0])
    widest = max(step.padding)
    vertical, horizontal = (widest - side for side in step.padding)
    return layout.patches(widest).inset(vertical, horizontal, step.shift)


@struct.dataclass(eq=False)
@no_type_check
class PatchStep:
    """A function of windows: maxima, or upsampling by 2; `arguments` are those behind pixels and patches.

    `size` is (numerator, denominator) of the output's sides over the input's.
    """

    part: str = static()
    input: int = static()
    output: int = static()
    function: Any = static()
    arguments: tuple[int, ...] = static()
    padding: int = static()
    border: Border = static()
    size: tuple[int, int] = static()

    def reads(self) -> Reads:
        """See `Step`."""
        return self.input, self.size, (self.padding, self.border)

    def run(self, state: State) -> None:
        """Adds the output."""
        layout = state.layouts[self.input]
        patches = layout.patches(self.padding, self.border)
        pixels, halos = state.pixels[self.input], state.lent(self.input, self.padding)
        layout = layout.scaled(*self.size)
        lends, lent = state.lends(self.output, layout), None
        if halos is None and not lends:
            out = self.function(pixels, patches, *self.arguments)
        elif self.function is indexed_upsample2 and not self.arguments:
            out, lent = indexed_upsample2_of_halos(pixels, patches, halos=halos, lends=lends)
        else:
            out = self.function(pixels, patches, *self.arguments, halos=halos)
        state.add(self.output, out, layout, lent)


@struct.dataclass(eq=False)
@no_type_check
class PointwiseStep:
    """A function of pixels; with `scaling`, a norm that no convolution takes."""

    scaling: Scaling | None
    part: str = static()
    inputs: tuple[int, ...] = static()
    output: int = static()
    function: Any = static()

    def reads(self) -> Reads:
        """See `Step`."""
        return self.inputs[0], (1, 1), None

    def run(self, state: State) -> None:
        """Adds the output."""
        pixels = [state.pixels[number] for number in self.inputs]
        if self.scaling is None:
            out = self.function(*pixels)
        else:
            scale, bias = (x[None] for x in self.scaling)
            out = (pixels[0].astype(jnp.float32) * scale + bias).astype(pixels[0].dtype)
        state.add(self.output, out, state.layouts[self.inputs[0]])


@struct.dataclass(eq=False)
@no_type_check
class LayerStep:
    """Any other layer, called as the network calls it, on an image or blocks.

    Among its arguments are modules, `names`, and features, `inputs` by name; `size` as in `PatchStep`.
    """

    modules: nnx.State
    graph: nnx.GraphDef = static()
    names: tuple[str, ...] = static()
    part: str = static()
    inputs: tuple[tuple[str, int], ...] = static()
    output: int = static()
    function: Any = static()
    others: tuple[tuple[str, Any], ...] = static()
    size: tuple[int, int] = static()

    def reads(self) -> Reads:
        """See `Step`."""
        return self.inputs[0][1], self.size, None

    def run(self, state: State) -> None:
        """Adds the output."""
        modules = zip(self.names, nnx.merge(self.graph, self.modules), strict=True)
        features = {name: state.features(number) for name, number in self.inputs}
        out = self.function(**dict(modules), **features, **dict(self.others))
        pixels = out.pixels if isinstance(out, DualRes) else out.reshape(-1, out.shape[-1])
        layout = state.layouts[self.inputs[0][1]]
        state.add(self.output, pixels, layout.scaled(*self.size))


@runtime_checkable
class Step(Protocol):
    """What a fused network is made of, a pytree.

    Attributes:
        part: its name in the network.
        output: the number of what `run` adds.
    """

    part: str
    output: int

    def reads(self) -> Reads:
        """The input whose layout counts, the output's sides over its, and padding and border of patches, if any."""

    def run(self, state: State) -> None:
        """Adds what it makes."""
