"""report: how a network runs in blocks, operation by operation."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from segblocks_jax.errors import InputError
from segblocks_jax.nn.block_size import UNIT
from segblocks_jax.traced.net import InBlocks
from segblocks_jax.traced.plan import Node
from segblocks_jax.traced.values import Geometry, Map


@dataclasses.dataclass(frozen=True)
class Row:
    """An operation, or several of single pixels in a row.

    Attributes:
        part: of the network, by its modules and scopes.
        operation: JAX's primitive, with the size and stride of windows.
        runs: "on pixels", "in blocks" or "on the whole image".
        macs: multiply-adds of the dense operation.
        halo: pixels around a block that it reads.
        smallest_block: side in pixels of the image, of blocks that it can run in.
        line: of the source.
        why: it runs on the whole image.
    """

    part: str
    operation: str
    runs: str
    macs: int
    halo: int
    smallest_block: int
    line: str
    why: str


@dataclasses.dataclass(frozen=True)
class Report:
    """How a network runs in blocks; as text, a table.

    Attributes:
        rows: in order.
        block_size: side of the blocks.
        warnings: what calls warn of, and `strict` refuses.
    """

    rows: tuple[Row, ...]
    block_size: int
    warnings: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense network."""
        return sum(row.macs for row in self.rows)

    @property
    def smallest_block(self) -> int:
        """The smallest side of blocks for what runs in them here."""
        return max((row.smallest_block for row in self.rows), default=UNIT)

    def __str__(self) -> str:
        """The table."""
        head = ("part", "operation", "runs", "MMACs", "halo", "smallest block", "why")
        lines = [head] + [
            (
                row.part,
                row.operation,
                row.runs,
                f"{row.macs / 1e6:.1f}" if row.macs else "",
                str(row.halo or ""),
                str(row.smallest_block) if row.runs == "in blocks" else "",
                f"{row.why} ({row.line})" if row.why else "",
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        texts = ["  ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)) for line in lines]
        return "\n".join(text.rstrip() for text in texts)


def report(
    net: Callable[..., Any],
    shape: tuple[int, int, int, int],
    *,
    block_size: int = 128,
    low_factor: int = 2,
) -> Report:
    """How each operation of a network runs in blocks: a row each, and what would stop it.

    Args:
        net: a network, or what `segblocks_jax.in_blocks` made of one.
        shape: of the images, (n, h, w, c); h and w are multiples of the block size.
        block_size: side of a block in pixels.
        low_factor: side of a high block over the side of a low one.

    Raises:
        InputError: sides that are no whole blocks.

    Example:
        >>> print(report(lambda x: x[:, ::2, ::2] + 1, (1, 64, 64, 3), block_size=32))
        part  operation  runs       MMACs  halo  smallest block  why
              resize     on pixels
              add        on pixels
    """
    n, h, w, channels = shape
    if h % block_size or w % block_size or block_size % low_factor or not h * w:
        raise InputError(
            f"report: an image of {h} x {w} has no whole blocks of {block_size}; give sides that are multiples of it"
        )
    traced = net if isinstance(net, InBlocks) else InBlocks(net)
    side = (block_size, block_size)
    geometry = Geometry(n, h // block_size, w // block_size, side, low_factor)
    plan = traced.plan(geometry, channels, np.dtype("float32")).plan
    rows = [
        _row(own, geometry)
        for node in plan.nodes
        for own in node.inner or (node,)
        if own.how != "weights"
    ]
    return Report(tuple(rows), block_size, plan.warnings)


_RUNS = {"pixels": "on pixels", "blocks": "in blocks", "whole image": "on the whole image"}


def _row(node: Node, geometry: Geometry) -> Row:
    name, details = node.name, node.details
    halo, smallest = getattr(details, "halo", 0), 0
    halo = max(halo) if isinstance(halo, tuple) else halo
    size = getattr(details, "size", None)
    if size is not None:
        stride = details.stride[0]
        name = f"{name} {size[0]} x {size[1]}" + (f" / {stride}" if stride > 1 else "")
    source = node.operands[0] if node.operands else None
    if node.how == "blocks" and isinstance(source, Map):
        stride = details.stride[0] if size is not None else 1
        smallest = stride * geometry.low_factor * geometry.side[0] // source.side[0]
    where = node.where
    return Row(where.part, name, _RUNS[node.how], node.macs, halo, smallest, where.line, node.why)
