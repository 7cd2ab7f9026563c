"""Calls of the compiled handlers of rows that are found by index, and the halos that these lend each other.

A handler computes the halo means of its rows by a kernel of its own. On a GPU what makes the rows can write them at
no cost worth mentioning, and lend them to all that read the rows.
"""

import contextlib
import contextvars
from collections.abc import Sequence

from jaxtyping import Array, Shaped

from segblocks_jax.ops import ffi_call, within
from segblocks_jax.ops.patches import IndexPatches, ring_size

LENT_FACTOR = 2
"""Sides of high blocks over those of low ones, where halos are lent."""

_lending: contextvars.ContextVar[bool] = contextvars.ContextVar("lending", default=True)


def lending() -> bool:
    """Whether halos may be lent, as programs are traced."""
    return _lending.get()


def without_lending() -> contextlib.AbstractContextManager[None]:
    """Within it no halos are lent: for programs that run on CPUs, too, whose handlers don't lend any."""
    return within(_lending, False)


Operands = tuple[Array, IndexPatches, Sequence[Array], Array | None]


def lent_halos(units: int, side: int, padding: int) -> int:
    """Number of halos that `units` high blocks of `side` pixels lend to low ones, of half as many, padded so far."""
    return units * ring_size(side // LENT_FACTOR, padding) if padding else 0


def call(
    target: str,
    operands: Operands,
    results: Sequence[tuple[int, int]],
    lent: Sequence[tuple[int, int]] = (),
    **attributes: int,
) -> tuple[Shaped[Array, "_ _"], ...]:
    """Runs a handler, and returns its results and then the halos that it lends, all of the rows' dtype.

    `operands` are rows, patches, those behind them, and the rows' halos where they were lent; `results` and `lent`
    are shapes.
    """
    rows, patches, others, halos = operands
    arrays = [rows, patches.means, patches.high, patches.low, patches.counts, *others]
    own = (patches.means.shape[0] if halos is None else 0, rows.shape[1])
    shapes = [*results, own, *lent]
    out = ffi_call.call(
        target,
        arrays if halos is None else [*arrays, halos],
        [(shape, rows.dtype) for shape in shapes],
        None,
        **attributes,
    )
    return (*out[: len(results)], *out[len(results) + 1 :])
