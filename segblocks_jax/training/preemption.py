"""Stopping in good order: a signal asks for it, the loop saves, ends, and says how to go on."""

import os
import shlex
import signal
import sys
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_CODE = 143
"""Of a command that stopped after SIGTERM or SIGINT, everything saved: a shell's for SIGTERM."""


class Preempted(Exception):
    """A signal stopped the run at a step, `step`, from which it continues; its state is saved."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(
            f"stopped by a signal after step {step}, which is saved; to continue:\n"
            f"  {shlex.join(sys.orig_argv)}"
        )


class StopRequest:
    """Whether SIGTERM or SIGINT (Ctrl-C) has `asked` this process to stop; a context manager of the main thread.

    A signal that comes again does what it always did. Of several processes all are told at the same step, by `at`,
    whichever of them the signal reached: jax's preemption service agrees on a step that none has passed.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def at(self, step: int) -> bool:
        """Whether to stop after `step`; all processes call it at every step and hear the same."""
        if jax.process_count() == 1:
            return self.asked
        return multihost_utils.reached_preemption_sync_point(step)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            # Of several processes SIGTERM is heard by jax, where a handler here would replace its own.
            heard = SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
            self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._before):
            self._restore(number)

    def _hear(self, number: int, _: FrameType | None) -> None:
        self._restore(signal.Signals(number))
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self.asked = True
        name = signal.Signals(number).name
        print(f"{name}: saving after this step; again to stop at once", file=sys.stderr)

    def _restore(self, number: signal.Signals) -> None:
        signal.signal(number, self._before.pop(number))
