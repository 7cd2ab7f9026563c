"""Steps of a fused network: each makes a pixel list, or two, of those that are there."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.blocks import DualRes
from segblocks_jax.inference.layout import BlockLayout, Layout
from segblocks_jax.ops import no_type_check
from segblocks_jax.ops.indexed_conv import Activation, Epilogue, indexed_conv
from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.packed_kernel import PackedKernel
from segblocks_jax.ops.patches import Border, list_patches
from segblocks_jax.ops.upsample2 import indexed_upsample2

Scaling = tuple[Float[Array, "c"], Float[Array, "c"]]
Pixels = Float[Array, "p c"]
T = TypeVar("T")


def static() -> Any:
    """A field that is part of a step's structure."""
    return dataclasses.field(metadata={"static": True})


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(static,))
def registered(cls: type[T]) -> type[T]:
    """A frozen dataclass that is a pytree."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, eq=False)(cls))


class State:
    """The values of a network so far, by number; 0 is its input.

    Attributes:
        pixels, layouts: pixel lists, and where their pixels lie.
        latest: the pixel list that was made last.
    """

    def __init__(self, pixels: Pixels, layout: Layout) -> None:
        """Of an image or blocks."""
        self.pixels, self.layouts, self.latest = {0: pixels}, {0: layout}, pixels

    def features(self, number: int) -> Any:
        """A value as an image or blocks."""
        pixels, layout = self.pixels[number], self.layouts[number]
        if isinstance(layout, BlockLayout):
            return DualRes(pixels, layout.grid)
        return pixels.reshape(*layout.shape, -1)

    def add(self, number: int, pixels: Pixels, layout: Layout) -> None:
        """Sets a value."""
        self.pixels[number], self.layouts[number], self.latest = pixels, layout, pixels


@registered
@no_type_check
class ConvStep:
    """A convolution and its epilogue; with `following`, that norm and ReLU of the output are `second`."""

    kernel: PackedKernel
    scaling: tuple[Array | None, Array | None]
    following: Scaling | None
    part: str = static()
    input: int = static()
    residual: int | None = static()
    output: int = static()
    second: int | None = static()
    keep: bool = static()
    stride: int = static()
    padding: tuple[int, int] = static()
    activation: Activation = static()

    def run(self, state: State) -> None:
        """Adds the output, where it is kept, and the second one."""
        pixels, layout = state.pixels[self.input], state.layouts[self.input]
        if self.kernel.size == (1, 1) and self.stride == 1:
            patches = list_patches(pixels.shape[0])
        else:
            widest = max(self.padding)
            vertical, horizontal = (widest - side for side in self.padding)
            patches = layout.patches(widest).inset(vertical, horizontal)
        residual = None if self.residual is None else state.pixels[self.residual]
        scale, bias = self.scaling
        epilogue = Epilogue(scale, bias, residual, self.following, self.activation, self.keep)
        out, second = indexed_conv(pixels, patches, self.kernel, self.stride, epilogue)
        layout = layout.scaled(1, self.stride)
        if second is not None:
            assert self.second is not None
            state.add(self.second, second, layout)
        if out is not None:
            state.add(self.output, out, layout)


@registered
@no_type_check
class MaxPoolStep:
    """Maxima over windows."""

    part: str = static()
    input: int = static()
    output: int = static()
    window: int = static()
    stride: int = static()
    padding: int = static()

    def run(self, state: State) -> None:
        """Adds the output."""
        layout = state.layouts[self.input]
        patches = layout.patches(self.padding)
        pooled = indexed_max_pool(state.pixels[self.input], patches, self.window, self.stride)
        state.add(self.output, pooled, layout.scaled(1, self.stride))


@registered
@no_type_check
class Upsample2Step:
    """Bilinear upsampling by 2."""

    part: str = static()
    input: int = static()
    output: int = static()
    border: Border = static()

    def run(self, state: State) -> None:
        """Adds the output."""
        layout = state.layouts[self.input]
        patches = layout.patches(1, self.border)
        upsampled = indexed_upsample2(state.pixels[self.input], patches)
        state.add(self.output, upsampled, layout.scaled(2))


@registered
@no_type_check
class PointwiseStep:
    """A function of pixels; with `scaling`, a norm that no convolution takes."""

    scaling: Scaling | None
    part: str = static()
    inputs: tuple[int, ...] = static()
    output: int = static()
    function: Any = static()

    def run(self, state: State) -> None:
        """Adds the output."""
        pixels = [state.pixels[number] for number in self.inputs]
        if self.scaling is None:
            out = self.function(*pixels)
        else:
            scale, bias = (x[None] for x in self.scaling)
            out = (pixels[0].astype(jnp.float32) * scale + bias).astype(pixels[0].dtype)
        state.add(self.output, out, state.layouts[self.inputs[0]])


@registered
@no_type_check
class LayerStep:
    """Any other layer, called as the network calls it, on an image or blocks.

    Attributes:
        modules: the state of the modules among its arguments, `names`.
        inputs: numbers of the features among its arguments, by name.
        size: (numerator, denominator) of the output's sides over the input's.
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

    def run(self, state: State) -> None:
        """Adds the output."""
        modules = zip(self.names, nnx.merge(self.graph, self.modules), strict=True)
        features = {name: state.features(number) for name, number in self.inputs}
        out = self.function(**dict(modules), **features, **dict(self.others))
        pixels = out.pixels if isinstance(out, DualRes) else out.reshape(-1, out.shape[-1])
        layout = state.layouts[self.inputs[0][1]]
        state.add(self.output, pixels, layout.scaled(*self.size))


Step = ConvStep | MaxPoolStep | Upsample2Step | PointwiseStep | LayerStep
"""`part` is its name in the network, `output` the number of what `run` adds."""
