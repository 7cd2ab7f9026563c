"""What is found by following a traced network: the blocks that it needs, and its operations."""

import contextlib
import dataclasses
from typing import Any

import numpy as np

from segblocks_jax.nn.block_size import Probe
from segblocks_jax.nn.scope import full_image_region, record, scope
from segblocks_jax.traced.values import Geometry, Map

_SIDE = 1024  # Of the image on which windows are looked for.
_SIDES = (128, 64, 32)  # Of blocks that operations are counted for.


def probed(net: Any, probe: Probe) -> Probe:
    """The probe behind a network, with what its windows move by."""
    side = probe.side
    # In training, batch norm of a pooled image may want two.
    geometry = Geometry(2, 1, 1, (_SIDE, _SIDE), 1)
    for node in net.plan(geometry, 3, np.dtype("float32")).plan.nodes:
        maps = [x for x in (*node.operands[:1], *node.results[:1]) if isinstance(x, Map)]
        if len(maps) < 2:
            continue
        before, after = (x.side[0] for x in maps)
        if node.how == "blocks" or before != after:
            at = dataclasses.replace(probe, side=probe.side * before / _SIDE)
            side = at.through(max(1, before // after), max(1, after // before)).side
    return dataclasses.replace(probe, side=side)


def count(net: Any, image: Any) -> None:
    """Notes the multiply-adds of a network: of its parts, in blocks and on the whole image."""
    n, h, w, channels = image.shape
    side = next((s for s in _SIDES if h % s == 0 and w % s == 0), 0)
    geometry = (
        Geometry(n, h // side, w // side, (side, side), 2) if side else Geometry(n, 1, 1, (h, w), 1)
    )
    for node in net.plan(geometry, channels, image.dtype).plan.nodes:
        for own in node.inner or (node,):
            if own.macs:
                whole = (
                    full_image_region() if own.how == "whole image" else contextlib.nullcontext()
                )
                with scope(own.where.part.split("/")[0] or "network"), whole:
                    record(own.macs)
