"""The steps of a traced network that run by index."""

import dataclasses
from collections.abc import Callable
from typing import Any

from segblocks_jax.ops.indexed_conv import Activation
from segblocks_jax.ops.patches import Border
from segblocks_jax.traced.plan import Node, Where
from segblocks_jax.traced.values import Map, Plain
from segblocks_jax.traced.windows import Windows


@dataclasses.dataclass(eq=False)
class ConvPlan:
    """A convolution and what its epilogue takes.

    Attributes:
        node: the convolution.
        result: what the last taken operation makes.
        affine: (operation, operand, whether the operand comes first) per channel.
        residual: a map that is added.
        activation: after that.
        second: number of the rectified output beside `output`, if there is one.
        keep: whether `output` is used.
    """

    node: Node
    result: Map
    affine: list[tuple[str, Plain, bool]] = dataclasses.field(default_factory=list)
    residual: Map | None = None
    activation: Activation = "none"
    second: int | None = None
    keep: bool = True

    @property
    def output(self) -> int:
        """Number of the output."""
        return self.result.number

    @property
    def where(self) -> Where:
        """Its place."""
        return self.node.where


@dataclasses.dataclass(eq=False)
class PatchPlan:
    """A function of windows by index; see `segblocks_jax.inference.steps.PatchStep`."""

    where: Where
    source: Map
    result: Map
    function: Callable[..., Any]
    arguments: tuple[int, ...]
    padding: int
    border: Border
    size: tuple[int, int]
    residual: Map | None = None

    @property
    def output(self) -> int:
        """Number of the output."""
        return self.result.number


@dataclasses.dataclass(eq=False)
class ImagePlan:
    """A convolution of whole images, NHWC and HWIO, group by group.

    Attributes:
        node: the convolution.
        windows: its windows.
    """

    node: Node
    windows: Windows

    @property
    def where(self) -> Where:
        """Its place."""
        return self.node.where


Step = ConvPlan | PatchPlan | ImagePlan | Node
