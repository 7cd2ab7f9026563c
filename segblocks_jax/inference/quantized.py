"""A fused network in int8: which values are kept as bytes.

A value x is kept as the byte ``q = round(x / scale) + zero``, whose scale and zero follow from the range of x that
was measured on calibration images; a range that doesn't reach below 0 has zero 0. A convolution multiplies bytes with
whole-number weights of a scale for each output channel, sums up in 32 bits, and goes to the next value's bytes in
its epilogue: scale, bias, shortcut, activation, second output. What no range is known of stays in float32.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from segblocks_jax.errors import InputError
from segblocks_jax.inference.quantized_steps import (
    DequantizeStep,
    QuantizedConvStep,
    QuantizeStep,
)
from segblocks_jax.inference.steps import ConvStep, PatchStep, Step
from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.quantized_kernel import quantize_kernel

Ranges = Mapping[str, Mapping[str, tuple[float, float]]]
"""For each convolution that runs in int8, by its path in the network: (lowest, highest) of its "input", "output" and
"second" output, those that it has."""


@dataclasses.dataclass(frozen=True)
class Bytes:
    """How a value is kept as bytes: it is ``(byte - zero) * scale``."""

    scale: float
    zero: int

    @classmethod
    def of(cls, lowest: float, highest: float) -> "Bytes":
        """Those that reach from the lowest value, or 0, to the highest, or 0."""
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
        scale = float(np.float32((highest - lowest) / 255)) or 1.0
        return cls(scale, round(-lowest / scale))


def quantized(steps: Sequence[Step], ranges: Ranges) -> list[Step]:
    """The steps of a network in float32, with the convolutions that `ranges` names in int8.

    Raises:
        InputError: ranges of convolutions that the network hasn't, or that lack an output of one.
    """
    known = {step.name for step in steps if isinstance(step, ConvStep)}
    if unknown := sorted(ranges.keys() - known):
        raise InputError(
            f"the network was quantized as another one: it has no convolution {', '.join(unknown)};"
            " quantize it again: spec = sb.quantize(model, spec, images)"
        )
    return _Plan(steps, ranges).run()


class _Plan:
    """Value n as bytes has the number ~n."""

    def __init__(self, steps: Sequence[Step], ranges: Ranges) -> None:
        self.before, self.ranges = steps, ranges
        self.steps: list[Step] = []
        self.bytes: dict[int, Bytes] = {}  # Of the values that are there as bytes.
        self.floats = {0}  # The values that are there in float32.
        self.users: dict[int, list[Step]] = collections.defaultdict(list)
        for step in steps:
            for number in _inputs(step):
                self.users[number].append(step)

    def run(self) -> list[Step]:
        """The new steps."""
        for step in self.before:
            if isinstance(step, ConvStep) and step.name in self.ranges:
                self._convolution(step)
            elif isinstance(step, PatchStep) and self._stays(step):
                self.bytes[step.output] = self.bytes[step.input]
                self._add(dataclasses.replace(step, input=~step.input, output=~step.output))
            else:
                for number in _inputs(step):
                    self._as_float(number, step.part)
                self._add(step)
                self.floats |= set(_outputs(step))
        self._as_float(self.before[-1].output, self.before[-1].part)
        return self.steps

    def _add(self, step: Step) -> None:
        self.steps.append(step)

    def _stays(self, step: PatchStep) -> bool:
        """Whether a function of windows runs on bytes; pixels outside the image are byte 0 to maxima."""
        found = self.bytes.get(step.input)
        return found is not None and (step.function is not indexed_max_pool or found.zero == 0)

    def _wanted(self, number: int) -> bool:
        """Whether a step takes the value as bytes."""
        return any(
            self._wanted(step.output)
            if isinstance(step, PatchStep)
            else isinstance(step, ConvStep) and step.name in self.ranges
            for step in self.users[number]
        )

    def _as_float(self, number: int, part: str) -> None:
        if number in self.floats:
            return
        kept = self.bytes[number]
        scale, zero = np.float32(kept.scale), np.float32(kept.zero)
        self._add(
            DequantizeStep(
                jnp.asarray(scale), jnp.asarray(zero), part=part, input=~number, output=number
            )
        )
        self.floats.add(number)

    def _as_bytes(self, number: int, step: ConvStep) -> Bytes:
        if number not in self.bytes:
            self.bytes[number] = kept = self._range(step, "input")
            scale, zero = jnp.float32(kept.scale), jnp.float32(kept.zero)
            self._add(QuantizeStep(scale, zero, part=step.part, input=number, output=~number))
        return self.bytes[number]

    def _range(self, step: ConvStep, which: str) -> Bytes:
        try:
            return Bytes.of(*self.ranges[step.name][which])
        except KeyError:
            raise InputError(
                f"the network was quantized as another one: there is no range of the {which} of {step.name};"
                " quantize it again: spec = sb.quantize(model, spec, images)"
            ) from None

    def _stored(self, step: ConvStep, which: str, number: int | None) -> tuple[str, Bytes, int]:
        """Dtype, scale and number of an output."""
        assert number is not None
        if self._wanted(number):
            kept = self.bytes[number] = self._range(step, which)
            return "uint8", kept, ~number
        self.floats.add(number)
        return "float32", Bytes(1.0, 0), number

    def _convolution(self, step: ConvStep) -> None:
        given = self._as_bytes(step.input, step)
        kernel, unit, totals = quantize_kernel(
            step.kernel.taps().astype(jnp.float32), step.kernel.size, step.kernel.depthwise
        )
        # In float64, and rounded once.
        scale = np.asarray(unit, np.float64) * given.scale
        bias = np.zeros(scale.shape)
        if step.scaling[0] is not None:
            scale = scale * np.asarray(step.scaling[0], np.float64)
        if step.scaling[1] is not None:
            bias = np.asarray(step.scaling[1], np.float64)
        bias = bias - given.zero * np.asarray(totals, np.float64) * scale
        residual, factor = step.residual, 1.0
        if residual is not None and residual in self.bytes:
            kept = self.bytes[residual]
            residual, factor = ~residual, kept.scale
            bias = bias - kept.zero * kept.scale
        out, store, output = None, Bytes(1.0, 0), step.output
        if step.keep:
            out, store, output = self._stored(step, "output", step.output)
        # From here on in units of what is stored.
        limits = [factor / store.scale, -np.inf, np.inf]
        if step.activation != "none":
            limits[1] = store.zero
        if step.activation == "relu6":
            limits[2] = store.zero + 6 / store.scale
        following, second, stored_second = None, None, None
        if step.following is not None:
            stored_second, kept, second = self._stored(step, "second", step.second)
            scale2, bias2 = (np.asarray(x, np.float64) for x in step.following)
            following = (
                _array(scale2 * store.scale / kept.scale),
                _array((bias2 - store.zero * store.scale * scale2) / kept.scale),
            )
        names = ("name", "part", "stride", "padding", "shift", "dilation")
        same: dict[str, Any] = {name: getattr(step, name) for name in names}
        self._add(
            QuantizedConvStep(
                kernel,
                jnp.full(1, given.zero, jnp.uint8),
                (_array(scale / store.scale), _array(bias / store.scale + store.zero)),
                _array(limits),
                following,
                input=~step.input,
                residual=residual,
                output=output,
                second=second,
                out=out,
                stored_second=stored_second,
                **same,
            )
        )


def _array(values: Any) -> Array:
    return jnp.asarray(np.asarray(values, np.float32))


def _inputs(step: Any) -> list[int]:
    if isinstance(step, ConvStep):
        return [n for n in (step.input, step.residual) if n is not None]
    if isinstance(step, PatchStep):
        return [step.input]
    named = (x if isinstance(x, tuple) else ("", x) for x in step.inputs)
    return [number for _, number in named]


def _outputs(step: Any) -> list[int]:
    if not isinstance(step, ConvStep):
        return [step.output]
    return [n for n in (step.output if step.keep else None, step.second) if n is not None]
