"""Modes: how an engine turns a policy's scores into a number of high blocks."""

import dataclasses
import math
from typing import Literal

from segblocks_jax.errors import InputError
from segblocks_jax.exact import count_of

_EXPECTED = "'exact', 'budget=K' (blocks an image), 'share=F' or 'latency=MS' (milliseconds)"


@dataclasses.dataclass(frozen=True)
class Mode:
    """How many blocks run high.

    - exact: those that the policy wants, their number rounded up to the next bucket by the best-scored
      others. The number of blocks, and so the time, differs from image to image.
    - budget: the `value` best-scored blocks of every image, all where it has fewer: constant time.
    - share: like budget, with `value` of the blocks of the padded image, to the nearest whole number (a half
      to the even one).
    - latency: like budget, with the largest number whose measured time (see `Server.latencies`), by the pace
      of the calls before (see `LatencyTracker`), is at most `value` seconds, 0 where none is.

    Attributes:
        kind: one of these.
        value: its parameter.
    """

    kind: Literal["exact", "budget", "share", "latency"]
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Mode":
        """Reads "exact", "budget=16", "share=0.25" or "latency=40ms".

        Raises:
            ValueError: none of these, or a value out of range.

        Example:
            >>> Mode.parse("latency=40ms")
            Mode(kind='latency', value=0.04)
        """
        kind, _, value = str(text).partition("=")
        if text == "exact":
            return cls("exact")
        try:
            number = float(value.removesuffix("ms") if kind == "latency" else value)
        except ValueError:
            number = math.nan
        if kind == "budget" and number >= 0 and number.is_integer():
            return cls("budget", number)
        if kind == "share" and 0 <= number <= 1:
            return cls("share", number)
        if kind == "latency" and 0 < number < math.inf:
            return cls("latency", number / 1000)
        raise InputError(f"mode is {text!r}; expected {_EXPECTED}")

    def count(self, blocks: int) -> int:
        """High blocks per image of `blocks`, of a budget or a share."""
        if self.kind == "share":
            return count_of(self.value, blocks)
        return min(int(self.value), blocks)
