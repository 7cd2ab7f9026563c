"""What a server and its programs agree on: modes, programs, settings, results."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from segblocks_jax.adaptive.buckets import buckets
from segblocks_jax.errors import InputError
from segblocks_jax.ops import no_type_check
from segblocks_jax.systems.ranet.fits import Fit
from segblocks_jax.tasks.classification.result import Classification

_MODES = "'accurate', 'all', 'exit=K', 'q=Q', 'budget=M' (10^6 operations an image) or 'latency=MS'"


@dataclasses.dataclass(frozen=True)
class Program:
    """A program.

    Attributes:
        stage: that it runs, or that it picks images for.
        count: of images.
        before: the number of images that it picks `count` of; 0: it runs the stage.
    """

    stage: int
    count: int
    before: int = 0


@runtime_checkable
class Programs(Protocol):
    """Where programs come from; see `segblocks_jax.systems.ranet.programs.StagePrograms`."""

    def get(self, program: Program) -> tuple[Callable[..., Any], bool]:
        """The program, and whether it was compiled for this call."""

    @property
    def compilations(self) -> int:
        """How many programs were compiled."""


@dataclasses.dataclass(frozen=True)
class Mode:
    """Where images leave.

    - accurate: at the thresholds of the fit that was most accurate on the held-out images.
    - all: at the last exit.
    - exit: at exit `value`, counted from 0.
    - q: at the thresholds of the fit with this q.
    - budget: at the thresholds of the most accurate fit that took at most `value` operations an image, on average.
    - latency: at the last exit that a batch reaches within `value` seconds, by measured times and by the pace of the
      calls before (see `LatencyTracker`); at the first if none is. Before it, at the thresholds of "accurate"
      if there are fits.

    Attributes:
        kind: one of these.
        value: its parameter.
    """

    kind: Literal["accurate", "all", "exit", "q", "budget", "latency"]
    value: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Mode":
        """Reads "accurate", "all", "exit=2", "q=0.5", "budget=20" or "latency=5ms".

        Raises:
            InputError: none of these, or a value out of range.

        Example:
            >>> Mode.parse("budget=20")
            Mode(kind='budget', value=20000000.0)
        """
        kind, _, value = str(text).partition("=")
        if text == "accurate":
            return cls("accurate")
        if text == "all":
            return cls("all")
        try:
            number = float(value.removesuffix("ms") if kind == "latency" else value)
        except ValueError:
            number = math.nan
        if kind == "exit" and number >= 0 and number.is_integer():
            return cls("exit", number)
        if 0 < number < math.inf:
            if kind == "q":
                return cls("q", number)
            if kind == "budget":
                return cls("budget", number * 1e6)
            if kind == "latency":
                return cls("latency", number / 1000)
        raise InputError(f"mode is {text!r}; expected {_MODES}")

    def __str__(self) -> str:
        """The text that `parse` reads."""
        scale, unit = {"budget": (1e-6, ""), "latency": (1000, "ms")}.get(self.kind, (1, ""))
        shown = self.kind in ("accurate", "all")
        return self.kind if shown else f"{self.kind}={self.value * scale:g}{unit}"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a server must know of its programs.

    Attributes:
        crop: (height, width) that the network sees.
        resize: pixels of the shorter side before the central crop; None keeps the size.
        macs: operations of an image up to each exit.
        fits: thresholds.
        mode: of calls that name none.
        max_count: images that run together; larger batches are served in parts.
        bucket_step: the number of images is rounded up to a multiple of this share of `max_count`.
    """

    crop: tuple[int, int]
    resize: int | None
    macs: tuple[int, ...]
    fits: tuple[Fit, ...]
    mode: Mode
    max_count: int = 64
    bucket_step: float = 1 / 16

    def __post_init__(self) -> None:
        if self.max_count < 1:
            raise InputError(f"max_count is {self.max_count}; expected 1 or more")
        for fit in self.fits:
            low, high = self.macs[0] * (1 - 1e-6), self.macs[-1] * (1 + 1e-6)
            if len(fit.thresholds) != len(self.macs) or not low <= fit.macs <= high:
                raise InputError(
                    f"thresholds of {len(fit.thresholds)} exits that take {fit.macs:g} operations an image, for exits"
                    f" that take {', '.join(map(str, self.macs))}; fit them for this network and size of images"
                )
        if not 0 < self.bucket_step <= 1:
            raise InputError(
                f"bucket_step is {self.bucket_step}; expected a share above 0, up to 1"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of images that there are programs for, ascending."""
        return tuple(n for n in buckets(self.max_count, self.bucket_step) if n)

    @property
    def programs(self) -> list[Program]:
        """All programs that calls can ask for."""
        exits, counts = range(len(self.macs)), self.counts
        run = [Program(k, n) for k in exits for n in counts]
        pick = [Program(k, n, m) for k in exits[1:] for m in counts for n in counts if n < m]
        return run + pick


@no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Answers(Classification):
    """The result for n images, as each left.

    Attributes:
        exits: (n,) where, from 0.
        macs: (n,) operations up to there.
    """

    exits: Int[np.ndarray, "n"]
    macs: Int[np.ndarray, "n"]
