"""What of a traced network's plan a convolution's epilogue takes, and which steps its nodes become."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from segblocks_jax.inference.traced_indexed import DTYPES, by_index, of_images
from segblocks_jax.inference.traced_steps import ConvPlan, ImagePlan, PatchPlan, Step
from segblocks_jax.ops.max_pool import indexed_max_pool
from segblocks_jax.ops.patches import Border
from segblocks_jax.ops.upsample2 import indexed_upsample2
from segblocks_jax.traced.plan import Node, Plan
from segblocks_jax.traced.resize import Resizing
from segblocks_jax.traced.taps import bilinear
from segblocks_jax.traced.values import Map, Plain, count
from segblocks_jax.traced.windows import Windows

_AFFINE = ("add", "sub", "mul", "div")


class Fusion:
    """The steps of a plan.

    Attributes:
        makers: the node that makes each array.
    """

    def __init__(self, plan: Plan) -> None:
        """Looks at operations inside of others, too: derivatives play no part."""
        self.plan = plan
        self.nodes = list(_flat(plan.nodes))
        self.makers = {i: node for node in self.nodes for i in node.outputs}
        self.users: dict[int, list[int]] = collections.defaultdict(list)
        for place, node in enumerate(self.nodes):
            for i in node.inputs:
                self.users[i].append(place)
        for value in plan.results:
            self.users[value.number].append(len(self.nodes))
        self.taken: set[int] = set()
        self.rectified: set[int] = set()

    def steps(self) -> Iterator[Step]:
        """In order; what is made of weights alone is left out."""
        waiting: dict[int, Step] = {}
        self.taken = set()
        for place, node in enumerate(self.nodes):
            if place not in self.taken:
                step, last = self._step(place, node)
                if step is not None:
                    waiting[last] = step
            if place in waiting:
                yield waiting.pop(place)

    def _step(self, place: int, node: Node) -> tuple[Step | None, int]:
        if node.how == "weights":
            return None, place
        if node.how == "whole image" and (windows := of_images(node)) is not None:
            return ImagePlan(node, windows), place
        if isinstance(node.details, Windows):
            if node.details.kernel is not None and by_index(node):
                return self._convolution(place, node)
            if (pool := self._pool(node)) is not None:
                return pool, place
        if isinstance(node.details, Resizing) and (step := self._upsampling(node)) is not None:
            return self._with_sum(step, place)
        if _zero_first(node, self):
            self.rectified.update(node.outputs)
        return node, place

    def _convolution(self, place: int, node: Node) -> tuple[ConvPlan, int]:
        result = node.results[0]
        assert isinstance(result, Map)
        plan, last, found = ConvPlan(node, result), place, [place]
        best = dataclasses.replace(plan), last, 1
        while (user := self._only_user(plan.result.number)) is not None:
            if user in self.taken or not self._takes(plan, self.nodes[user]):
                break
            last = user
            found.append(user)
            if plan.result.dtype == result.dtype:
                best = dataclasses.replace(plan, affine=list(plan.affine)), last, len(found)
        plan, last, length = best
        self.taken |= set(found[:length])
        self._second(plan)
        if plan.activation != "none":
            self.rectified.add(plan.output)
        return plan, last

    def _takes(self, plan: ConvPlan, node: Node) -> bool:
        """Whether the epilogue takes an operation; notes it."""
        operands, before = node.operands, plan.result
        if len(node.results) != 1 or not isinstance(node.results[0], Map):
            return False
        after = node.results[0]
        if after.rest != before.rest or after.side != before.side:
            return False
        if node.name in ("convert_element_type", "stop_gradient", "copy"):
            if not jnp.issubdtype(after.dtype, jnp.floating):
                return False
        elif plan.activation == "relu" and node.name == "min" and self._is(node, before, 6.0):
            plan.activation = "relu6"
        elif plan.activation != "none":
            return False
        elif node.name == "max" and self._is(node, before, 0.0):
            plan.activation = "relu"
        elif node.name == "clamp" and self._between(node):
            plan.activation = "relu6"
        elif plan.residual is not None or node.name not in _AFFINE or len(operands) != 2:
            return False
        else:
            first = operands[1].number == before.number
            if operands[0].number == operands[1].number:
                return False
            other = operands[0] if first else operands[1]
            if isinstance(other, Plain):
                if not _per_channel(other, after) or (node.name == "div" and first):
                    return False
                plan.affine.append((node.name, other, first))
            elif node.name == "add" and other.rest == after.rest and other.dtype == after.dtype:
                plan.residual = other
            else:
                return False
        plan.result = after
        return True

    def _second(self, plan: ConvPlan) -> None:
        """A ReLU of the output beside other uses of it becomes a second output."""
        if plan.activation != "none":
            return
        users = self.users[plan.output]
        for user in users if len(users) > 1 else ():
            if user < len(self.nodes) and self._is_relu(self.nodes[user], plan.result):
                self.taken.add(user)
                plan.second = self.nodes[user].outputs[0]
                self.rectified.add(plan.second)
                return

    def _is_relu(self, node: Node, value: Map) -> bool:
        return node.name == "max" and self._is(node, value, 0.0)

    def _is(self, node: Node, value: Map, number: float) -> bool:
        """Whether the other operand is a number."""
        others = [x for x in node.operands if x.number != value.number]
        return len(others) == 1 and self._known(others[0]) == number

    def _between(self, node: Node) -> bool:
        low, _, high = node.operands
        return (self._known(low), self._known(high)) == (0.0, 6.0)

    def _known(self, value: Any) -> float | None:
        """A constant that is the same everywhere."""
        if not isinstance(value, Plain) or value.origin != "constant":
            return None
        number = value.number
        while number not in self.plan.constants:
            node = self.makers.get(number)
            if node is None or node.name not in ("reshape", "broadcast", "convert_element_type"):
                return None
            number = node.inputs[0]
        array = np.asarray(self.plan.constants[number])
        return float(array.reshape(-1)[0]) if array.size == 1 else None

    def _only_user(self, number: int) -> int | None:
        users = self.users[number]
        return users[0] if len(users) == 1 and users[0] < len(self.nodes) else None

    def _pool(self, node: Node) -> PatchPlan | None:
        """Maxima by index, which takes pixels outside for 0, where none is below."""
        windows, source, result = node.details, node.operands[0], node.results[0]
        square = len({*windows.size}) == len({*windows.stride}) == len({*windows.before}) == 1
        fits = square and windows.dilation == (1, 1) and windows.halo == windows.before
        if node.name != "reduce_window_max" or not fits or source.number not in self.rectified:
            return None
        if windows.size[0] > 8 or source.dtype not in DTYPES:
            return None
        assert isinstance(source, Map)
        assert isinstance(result, Map)
        self.rectified.add(result.number)
        stride = windows.stride[0]
        arguments = (windows.size[0], stride)
        padding = windows.before[0]
        return PatchPlan(
            node.where, source, result, indexed_max_pool, arguments, padding, "zero", (1, stride)
        )

    def _upsampling(self, node: Node) -> PatchPlan | None:
        """Doubling by index."""
        source, result = node.operands[0], node.results[0]
        assert isinstance(source, Map)
        assert isinstance(result, Map)
        if node.details.taps != (bilinear(2), bilinear(2)) or source.dtype not in DTYPES:
            return None
        border: Border = "block" if node.details.alone else "image"
        return PatchPlan(node.where, source, result, indexed_upsample2, (), 1, border, (2, 1))

    def _with_sum(self, step: PatchPlan, place: int) -> tuple[PatchPlan, int]:
        """With a sum that follows."""
        user = self._only_user(step.output)
        if user is None or user in self.taken:
            return step, place
        node = self.nodes[user]
        others = [x for x in node.operands if x.number != step.output]
        if node.name != "add" or len(others) != 1 or not isinstance(others[0], Map):
            return step, place
        result = node.results[0]
        assert isinstance(result, Map)
        if others[0].rest != result.rest or result.rest != step.result.rest:
            return step, place
        self.taken.add(user)
        return dataclasses.replace(step, residual=others[0], result=result), user


def _flat(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        if node.inner:
            yield from _flat(node.inner)
        else:
            yield node


def _per_channel(value: Plain, result: Map) -> bool:
    """Whether it is one number, or one for each channel."""
    if value.origin == "image":
        return False
    size = count(value.stored)
    return size == 1 or (
        size == count(result.rest) and value.stored[-len(result.rest) :] == result.rest
    )


def _zero_first(node: Node, fusion: Fusion) -> bool:
    """Whether its result is at least 0."""
    if node.name != "max" or len(node.operands) != 2:
        return False
    return any(fusion._known(x) == 0.0 for x in node.operands)
