"""Traces of training steps for TensorBoard's profiler."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from segblocks_jax.errors import InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Profile:
    """A trace of `count` training steps, the first of them number `first`, counted from 1.

    Written to `plugins/profile/` in the run's folder, where TensorBoard's profiler and xprof look. Operations
    carry the names of the parts of the network and of the block operations that they belong to.
    """

    first: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Profile":
        """Reads "FIRST:COUNT"; anything else is a ValueError.

        Example:
            >>> Profile.parse("100:5")
            Profile(first=100, count=5)
        """
        parts = text.split(":")
        if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise InputError(
                f"--profile is {text!r}; expected FIRST:COUNT, such as 100:5 for steps 100 to 104"
            )
        return cls(*map(int, parts))

    def of_run(self, first: int, last: int, say: Callable[[str], None]) -> "Profile | None":
        """The profile of a run from step `first` on, None if past; ValueError if the run lacks some of its steps."""
        if first >= self.first:
            say(f"--profile: step {self.first} is past; nothing is traced")
            return None
        end = self.first + self.count - 1
        if end > last:
            raise InputError(
                f"--profile asks for steps {self.first} to {end}; this run has {first + 1} to {last}"
            )
        return self


class Profiler:
    """Takes the training steps of a run, and traces those of a profile; a context manager."""

    def __init__(self, folder: pathlib.Path, profile: Profile | None) -> None:
        self._folder, self._profile = folder, profile
        self._running = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def step(self, number: int, take: Callable[..., T], *arguments: Any) -> T:
        """``take(*arguments)``; waits for the result of the last traced step."""
        profile = self._profile
        if profile is not None and number == profile.first:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Python calls would be most of the trace.
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            result = take(*arguments)
        if profile is not None and number == profile.first + profile.count - 1:
            jax.block_until_ready(result)
            self._stop()
        return result

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
