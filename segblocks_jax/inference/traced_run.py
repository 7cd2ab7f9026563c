"""Run: one execution of a traced network's plan, on the kernels of fused networks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from segblocks_jax.blocks import DualRes
from segblocks_jax.inference.layout import Layout
from segblocks_jax.inference.state import State
from segblocks_jax.inference.steps import ConvStep, PatchStep
from segblocks_jax.inference.traced_fusion import Fusion
from segblocks_jax.inference.traced_steps import ConvPlan, ImagePlan, PatchPlan
from segblocks_jax.ops.indexed_conv import indexed_conv
from segblocks_jax.ops.packed_kernel import PackedKernel, pack_kernel, pairs_pay, winograd_stride
from segblocks_jax.ops.patches import image_patches
from segblocks_jax.traced.plan import Node
from segblocks_jax.traced.tracing import Traced
from segblocks_jax.traced.values import Map, count
from segblocks_jax.traced.windows import Windows


class Run:
    """One execution of a plan, while it is traced."""

    def __init__(
        self,
        traced: Traced,
        leaves: Sequence[Array],
        prepared: Mapping[str, Any],
        runtime: Any,
        layout: Layout | None,
        dtype: jax.typing.DTypeLike = "float32",
    ) -> None:
        """`prepared`: see `FusedTraced`; `dtype`: of the image and packed kernels."""
        plan = traced.plan
        self.traced, self.plan, self.prepared, self.dtype = traced, plan, prepared, dtype
        self.fusion = Fusion(plan)
        self.runtime, self.layout = runtime, layout
        self.arrays: dict[int, Any] = {i: jnp.asarray(x) for i, x in plan.constants.items()}
        for value, array in zip(plan.arguments[:-1], leaves, strict=True):
            self.arrays[value.number] = array

    def __call__(self, pixels: Array) -> Any:
        """The image's pixels -> what the network gives."""
        assert self.layout is not None
        start = self.plan.arguments[-1]
        assert isinstance(start, Map)
        self.arrays[start.number] = pixels
        self.state = State(pixels, self.layout)
        for step in self.fusion.steps():
            with jax.named_scope(step.where.part or "step"):
                if isinstance(step, ConvPlan):
                    self._convolve(step)
                elif isinstance(step, PatchPlan):
                    self._patch(step)
                elif isinstance(step, ImagePlan):
                    self._images(step)
                else:
                    self._node(step)
        results = []
        for value in self.plan.results:
            array = self.array(value.number)
            if isinstance(value, Map):
                array = self._features(array, value)
            elif value.stored != value.shape:
                array = jnp.broadcast_to(array, value.shape)
            results.append(array)
        return jax.tree.unflatten(self.traced.tree, results)[0]

    def _features(self, pixels: Array, value: Map) -> Any:
        if isinstance(self.layout, Layout) and isinstance(self.layout.units, int):
            return pixels.reshape(value.shape)
        return DualRes(pixels, self.runtime.grid)

    def array(self, number: int) -> Any:
        """An array; of weights it is made when it is first needed."""
        if number not in self.arrays:
            self._node(self.fusion.makers[number])
        return self.arrays[number]

    def _node(self, node: Node) -> None:
        if all(i in self.arrays for i in node.outputs):
            return
        made = node.run(self.runtime, *(self.array(i) for i in node.inputs))
        self.arrays.update(zip(node.outputs, made, strict=True))

    def _rows(self, number: int, value: Map) -> int:
        """Puts a map's list (p, c) into the state."""
        assert self.layout is not None
        pixels = self.array(number)
        sides = value.side if isinstance(self.layout.units, int) else value.side[:1]
        layout = dataclasses.replace(self.layout, sides=sides)
        rows = pixels.reshape(pixels.shape[0], -1).astype(self.dtype)
        self.state.add(number, rows, layout)
        return number

    def _pixels(self, number: int, value: Map) -> Array:
        """A list of the state in the dtype that the network has it in."""
        rows = self.state.pixels[number]
        return rows.reshape(rows.shape[0], *value.rest).astype(value.dtype)

    def _convolve(self, step: ConvPlan) -> None:
        node, windows = step.node, step.node.details
        source, result = node.operands[0], step.result
        assert isinstance(source, Map)
        assert windows.shift is not None
        residual = step.residual
        conv = ConvStep(
            self.kernels(node.operands[1], windows)[0],
            self.scaling(step),
            None if step.second is None else _rectified(count(result.rest)),
            name=node.where.part,
            part=node.where.part,
            input=self._rows(source.number, source),
            residual=None if residual is None else self._rows(residual.number, residual),
            output=step.output,
            second=step.second,
            keep=step.keep,
            stride=windows.stride[0],
            padding=(windows.reach[0] // 2, windows.reach[1] // 2),
            shift=windows.shift,
            dilation=windows.dilation[0],
            activation=step.activation,
        )
        conv.run(self.state)
        for number in (step.output if step.keep else None, step.second):
            if number is not None:
                self.arrays[number] = self._pixels(number, result)

    def _images(self, step: ImagePlan) -> None:
        node, windows = step.node, step.windows
        image, kernels = self.array(node.inputs[0]), self.kernels(node.operands[1], windows)
        n, h, w, channels = image.shape
        vertical, horizontal = windows.reach[0] // 2, windows.reach[1] // 2
        assert windows.shift is not None
        patches = image_patches((n, h, w), (vertical, horizontal)).inset(0, 0, windows.shift)
        rows = jnp.split(image.reshape(-1, channels).astype(self.dtype), len(kernels), 1)
        made: list[Any] = [
            indexed_conv(x, patches, kernel, windows.stride[0], dilation=windows.dilation[0])[0]
            for x, kernel in zip(rows, kernels, strict=True)
        ]
        result = node.results[0]
        whole = jnp.concatenate(made, 1).reshape(result.shape)
        self.arrays[result.number] = whole.astype(result.dtype)

    def _patch(self, step: PatchPlan) -> None:
        source = step.source
        number = self._rows(source.number, source)
        arguments: tuple[Any, ...] = step.arguments
        if step.residual is not None:
            arguments = (self.state.pixels[self._rows(step.residual.number, step.residual)],)
        patch = PatchStep(
            part=step.where.part,
            input=number,
            output=step.output,
            function=step.function,
            arguments=arguments,
            padding=step.padding,
            border=step.border,
            size=step.size,
        )
        patch.run(self.state)
        self.arrays[step.output] = self._pixels(step.output, step.result)

    def kernels(self, value: Any, windows: Windows) -> list[PackedKernel]:
        """The packed kernel of a convolution; one of each group where they have several channels."""
        name = f"{value.key}/{windows.stride}/{windows.dilation}/{windows.groups}"
        if name in self.prepared:
            return self.prepared[name]
        weights = jnp.asarray(self.array(value.number), self.dtype)
        single = weights.shape[2] == 1 and windows.groups > 1
        parts = [weights] if single else jnp.split(weights, windows.groups, 3)
        groups = windows.groups if single else 1
        packed = [self._packed(part, windows, groups) for part in parts]
        if isinstance(self.prepared, dict) and not isinstance(weights, jax.core.Tracer):
            self.prepared[name] = packed
        return packed

    def _packed(self, weights: Array, windows: Windows, groups: int) -> PackedKernel:
        given = (windows.stride[0], groups, windows.dilation[0])
        return pack_kernel(
            weights,
            groups,
            winograd=winograd_stride(weights, *given),
            pairs=pairs_pay(weights, groups),
        )

    def scaling(self, step: ConvPlan) -> tuple[Array | None, Array | None]:
        """Scale and bias of an epilogue."""
        if not step.affine:
            return None, None
        name = "/".join(f"{op} {value.key} {first}" for op, value, first in step.affine)
        if name not in self.prepared:
            made = self._scaling(step)
            if isinstance(made[0], jax.core.Tracer):
                return made
            self.prepared[name] = made  # type: ignore[index]
        return self.prepared[name]

    def _scaling(self, step: ConvPlan) -> tuple[Array, Array]:
        channels = count(step.result.rest)
        scale, bias = jnp.ones(channels, jnp.float32), jnp.zeros(channels, jnp.float32)
        for name, value, first in step.affine:
            own = jnp.asarray(self.array(value.number), jnp.float32).reshape(-1)
            own = jnp.broadcast_to(own, (channels,))
            if name == "add":
                bias = bias + own
            elif name == "sub":
                scale, bias = (-scale, own - bias) if first else (scale, bias - own)
            elif name == "mul":
                scale, bias = scale * own, bias * own
            else:
                scale, bias = scale / own, bias / own
        return scale, bias


def _rectified(channels: int) -> tuple[Array, Array]:
    """Scale and bias of a second output that is only rectified."""
    return jnp.ones(channels, jnp.float32), jnp.zeros(channels, jnp.float32)
