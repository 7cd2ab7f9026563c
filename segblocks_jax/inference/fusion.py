"""The plan of a fused network: which recorded calls a convolution's epilogue takes, which stand alone."""

import collections
import dataclasses
import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from segblocks_jax.errors import InputError
from segblocks_jax.inference.steps import (
    ConvStep,
    LayerStep,
    PatchStep,
    PointwiseStep,
    Scaling,
    Step,
)
from segblocks_jax.nn import BatchNorm, Conv, max_pool, pointwise, upsample2
from segblocks_jax.nn.scope import Call
from segblocks_jax.ops.indexed_conv import Activation
from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.packed_kernel import channels_pay, pack_kernel, pairs_pay, winograd_stride
from segblocks_jax.ops.upsample2 import indexed_upsample2

_ACTIVATIONS: dict[Any, Activation] = {jax.nn.relu: "relu", jax.nn.relu6: "relu6"}


@dataclasses.dataclass
class _Chain:
    """A convolution and the calls that its epilogue takes, so far."""

    norm: BatchNorm | None = None
    residual: Array | None = None
    activation: Activation = "none"


class Planner:
    """Plans the steps of a network."""

    def __init__(
        self,
        calls: Sequence[Call],
        image: Array,
        result: Any,
        names: Mapping[int, str],
        dtype: jax.typing.DTypeLike = "float32",
        plain: Container[str] = (),
    ) -> None:
        """Takes what `record_calls` gives; InputError if features, or the result, come from what is no layer.

        `names` are the layers' paths by their `id`; the kernels of those in `plain` are not transformed.
        """
        # A call that gives back what it got does nothing.
        self.calls = [call for call in calls if not any(call.result is x for x in call.features)]
        self.dtype, self.names, self.plain = dtype, names, plain
        # Arrays are known by their identity; that of the calls' own arrays lasts as long as they do.
        self.made = {id(image): -1} | {id(call.result): i for i, call in enumerate(self.calls)}
        self.users: dict[int, list[int]] = collections.defaultdict(list)
        for i, call in enumerate(self.calls):
            for x in call.features:
                self._check(x, call.part)
                self.users[id(x)].append(i)
        for x in jax.tree.leaves(result):  # One, or several.
            self._check(x, "the result")
            self.users[id(x)].append(len(self.calls))
        self.taken: set[int] = set()

    def steps(self) -> list[Step]:
        """The steps in order, with folded statistics and packed kernels."""
        steps: list[Step] = []
        # By the last call that a convolution takes: its residual is there then.
        waiting: dict[int, Step] = {}
        for i, call in enumerate(self.calls):
            if i not in self.taken:
                step, last = self._convolution(i) if _by_index(call) else (self._alone(call), i)
                waiting[last] = step
            if i in waiting:
                steps.append(waiting.pop(i))
        return steps

    def _convolution(self, i: int) -> tuple[ConvStep, int]:
        """The step of a convolution, and the last call that it takes."""
        call, chain, last = self.calls[i], _Chain(), i
        while (j := self._only_user(self.calls[last])) is not None and self._takes(
            chain, i, last, j
        ):
            self.taken.add(j)
            last = j
        output = self.calls[last].result
        norm, second = self._following(output)
        keep = norm is None or len(self.users[id(output)]) > 1
        conv: Conv = call.arguments["self"]
        weights = conv.kernel[...].astype(self.dtype)
        name, winograd, pairs = self.names[id(conv)], 0, False
        if name not in self.plain:
            winograd = winograd_stride(weights, conv.stride, conv.groups, conv.dilation)
            pairs = pairs_pay(weights, conv.groups)
            zeros = channels_pay(weights, conv.groups) - weights.shape[2]
            weights = jnp.pad(weights, ((0, 0), (0, 0), (0, zeros), (0, 0)))
        step = ConvStep(
            pack_kernel(weights, conv.groups, winograd=winograd, pairs=pairs),
            _folded(conv, chain.norm),
            None if norm is None else _scaling(norm),
            name=name,
            part=call.part,
            input=self._number(call.features[0]),
            residual=None if chain.residual is None else self._number(chain.residual),
            output=self._number(output),
            second=None if second is None else self._number(second),
            keep=keep,
            stride=conv.stride,
            padding=conv.padding,
            shift=conv.shift,
            dilation=conv.dilation,
            activation=chain.activation,
        )
        return step, last

    def _takes(self, chain: _Chain, i: int, last: int, j: int) -> bool:
        """Whether the epilogue of convolution `i`, which made call `last`, takes call `j`; notes what it takes."""
        call = self.calls[j]
        if chain.activation != "none" or j in self.taken:
            return False
        if (activation := _activation(call)) is not None:
            chain.activation = activation
            return True
        if chain.residual is not None:
            return False
        if (norm := _norm(call)) is not None and chain.norm is None:
            chain.norm = norm
            return True
        if call.function is pointwise and call.arguments["function"] is jnp.add:
            others = [x for x in call.features if x is not self.calls[last].result]
            if len(others) == 1 and self.made[id(others[0])] < i:
                chain.residual = others[0]
                return True
        return False

    def _following(self, output: Array) -> tuple[BatchNorm | None, Array | None]:
        """A norm of `output` with a ReLU behind it, which a second output takes, and the ReLU's result."""
        for j in self.users[id(output)]:
            norm = None if j == len(self.calls) else _norm(self.calls[j])
            k = None if norm is None else self._only_user(self.calls[j])
            if k is not None and _activation(self.calls[k]) == "relu":
                self.taken |= {j, k}
                return norm, self.calls[k].result
        return None, None

    def _only_user(self, call: Call) -> int | None:
        users = self.users[id(call.result)]
        return users[0] if len(users) == 1 and users[0] < len(self.calls) else None

    def _alone(self, call: Call) -> Step:
        inputs = tuple(map(self._number, call.features))
        where: dict[str, Any] = {"part": call.part, "output": self._number(call.result)}
        given = call.arguments
        if (norm := _norm(call)) is not None:
            return PointwiseStep(_scaling(norm), inputs=inputs, function=None, **where)
        if call.function is pointwise:
            return PointwiseStep(None, inputs=inputs, function=given["function"], **where)
        where["input"] = inputs[0]
        if call.function is upsample2:
            halo = given["semantics"].interpolation == "halo"
            where |= {"function": indexed_upsample2, "arguments": (), "size": (2, 1)}
            return PatchStep(padding=1, border="image" if halo else "block", **where)
        if call.function is max_pool:
            where |= {"function": indexed_max_pool, "size": (1, given["stride"])}
            where["arguments"] = (given["window"], given["stride"])
            return PatchStep(padding=given["padding"], border="zero", **where)
        return self._layer(call)

    def _layer(self, call: Call) -> LayerStep:
        named = call.arguments.items()
        modules = {name: value for name, value in named if isinstance(value, nnx.Module)}
        features = {name: value for name, value in named if isinstance(value, jax.Array)}
        graph, state = nnx.split(nnx.List(list(modules.values())))
        before, after = call.features[0].shape[1], call.result.shape[1]
        common = math.gcd(before, after)
        return LayerStep(
            state,
            graph=graph,
            names=tuple(modules),
            part=call.part,
            inputs=tuple((name, self._number(value)) for name, value in features.items()),
            output=self._number(call.result),
            function=call.function,
            others=tuple(x for x in named if x[0] not in modules and x[0] not in features),
            size=(after // common, before // common),
        )

    def _number(self, array: Array) -> int:
        return self.made[id(array)] + 1

    def _check(self, array: Any, where: str) -> None:
        if id(array) not in self.made:
            raise InputError(
                f"fuse: features of {where!r} are computed by what is no layer of segblocks_jax.nn; put it into"
                " nn.pointwise or nn.on_full_image, or serve the network with execution='plain'"
            )


def _by_index(call: Call) -> bool:
    """Whether it is a convolution that `indexed_conv` has."""
    conv = call.arguments.get("self")
    if not isinstance(conv, Conv):
        return False
    return conv.groups == 1 or conv.groups == conv.kernel.shape[3] == call.features[0].shape[3]


def _norm(call: Call) -> BatchNorm | None:
    layer = call.arguments.get("self")
    return layer if isinstance(layer, BatchNorm) else None


def _activation(call: Call) -> Activation | None:
    return _ACTIVATIONS.get(call.arguments["function"]) if call.function is pointwise else None


def _scaling(norm: BatchNorm) -> Scaling:
    scale = norm.scale[...] * jax.lax.rsqrt(norm.var[...] + norm.eps)
    return scale, norm.bias[...] - norm.mean[...] * scale


def _folded(conv: Conv, norm: BatchNorm | None) -> tuple[Array | None, Array | None]:
    """Scale and bias of an epilogue."""
    scale, bias = (None, None) if norm is None else _scaling(norm)
    if conv.bias is not None:
        own = conv.bias[...] if scale is None else conv.bias[...] * scale
        bias = own if bias is None else bias + own
    return scale, bias
