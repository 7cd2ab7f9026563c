"""The part of serving that knows no system: images of any number and size, in programs of fixed shapes."""

import contextlib
import os
import queue
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jaxtyping import Shaped, UInt8

from segblocks_jax.errors import InputError, UnavailableError

Shape = tuple[int, int, int]


def parse_shape(text: str) -> Shape:
    """Reads NxHxW, such as 1x1024x2048; raises InputError."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise InputError(f"--shapes has {text!r}; expected NxHxW, such as 1x1024x2048")
    n, h, w = map(int, parts)
    return n, h, w


_processes: set[int] = set()  # That made a server: this one, or those that it was forked from.


class ShapeServer:
    """What servers of images share: padding to shapes, devices in turn, one process; not to be pickled.

    Attributes:
        multiple: what the sides of images are padded to multiples of, in pixels.
        shapes: (n, h, w) that images are padded to, the smallest that holds them.
        strict: whether images that no shape holds are refused; else they are padded to multiples.
        devices: that calls take in turn; empty: JAX's default device, for all calls.
    """

    def __init__(
        self,
        *,
        multiple: int,
        fill: tuple[int, int, int],
        shapes: Sequence[Shape] = (),
        strict: bool = False,
        devices: Sequence[jax.Device] = (),
    ) -> None:
        """Checks the shapes; `fill` is the RGB color of padding.

        Raises ValueError for a shape that isn't a multiple, or strict without shapes; RuntimeError in a process that
        was forked from one that had a server.
        """
        for shape in shapes:
            if shape[0] < 1 or any(s < 1 or s % multiple for s in shape[1:]):
                raise InputError(
                    f"shapes: {shape} doesn't fit; expected (n, h, w) with n from 1 and sides that are"
                    f" multiples of {multiple}"
                )
        if strict and not shapes:
            raise InputError("strict: there are no shapes; give the engine those that it may serve")
        note_process()
        self.multiple, self.shapes, self.strict = multiple, tuple(shapes), strict
        self.devices = tuple(devices)
        self._fill = fill
        self._idle: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
        for device in self.devices:
            self._idle.put(device)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__}: it holds compiled programs and threads and can't be pickled or copied;"
            " pass the model's folder and load it in the process that serves"
        )

    @contextlib.contextmanager
    def device(self) -> Iterator[jax.Device | None]:
        """A device that no other call has meanwhile; None, without waiting, for the default one."""
        if not self.devices:
            yield None
            return
        device = self._idle.get()
        try:
            yield device
        finally:
            self._idle.put(device)

    def shape_for(self, shape: Shape) -> Shape:
        """The shape that a batch (n, h, w) is padded to; larger batches are served in parts.

        If none holds it, it is a ValueError where the server is strict.
        """
        count, height, width = shape
        height, width = (-(-side // self.multiple) * self.multiple for side in (height, width))
        fits = [s for s in self.shapes if s[1] >= height and s[2] >= width]
        if not fits:
            if self.strict:
                raise InputError(
                    f"images of {shape[1]} x {shape[2]} pixels: none of the shapes {self.shapes} holds them,"
                    " and the engine is strict; resize them, or add a shape"
                )
            return count, height, width
        area = min(s[1] * s[2] for s in fits)
        fits = [s for s in fits if s[1] * s[2] == area]
        return min((s for s in fits if s[0] >= count), default=max(fits))

    def gmacs(self, size: tuple[int, int], share: float) -> float | None:
        """10^9 multiply-adds of an image, padded as it is served, its policy included.

        Args:
            size: (h, w) of the image.
            share: of its blocks that run high; without blocks it plays no part.

        Returns:
            None where only programs are known, not the network.
        """

    def pad(self, images: UInt8[np.ndarray, "m h w 3"], shape: Shape) -> UInt8[np.ndarray, "..."]:
        """The images in the top left corner of `shape`, the rest in the padding's color."""
        if images.shape[:3] == shape:
            return np.ascontiguousarray(images)
        padded = np.empty((*shape, 3), np.uint8)
        padded[:] = self._fill
        padded[: images.shape[0], : images.shape[1], : images.shape[2]] = images
        return padded


def note_process() -> None:
    """Notes that this process has a server; RuntimeError as of `check_fork`."""
    check_fork()
    _processes.add(os.getpid())


def check_fork() -> None:
    """Raises RuntimeError in a process that was forked from one that had a server: JAX hangs there."""
    if _processes and os.getpid() not in _processes:
        raise UnavailableError(
            "an engine was made before this process was forked (multiprocessing's fork, gunicorn --preload), and"
            " JAX's threads don't live on in the fork: load the engine in each worker, and import no engine"
            " in the parent, or start workers by 'spawn' or 'forkserver'"
        )


def check_images(images: Shaped[np.ndarray, "..."]) -> None:
    """Raises TypeError or ValueError unless these are images (n, h, w, 3) of uint8."""
    if not hasattr(images, "dtype") or images.dtype != np.uint8:
        raise TypeError(
            f"images are {getattr(images, 'dtype', type(images).__name__)}; expected a uint8 array (n, h, w, 3)"
            " in 0..255, not normalized"
        )
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        raise InputError(
            f"images have shape {images.shape}; expected (n, h, w, 3), none of them 0; one image is image[None]"
        )


def checked_seed(seed: Any) -> np.uint32:
    """The seed as programs take it; ValueError unless it is a whole number from 0 to 2**32 - 1."""
    if isinstance(seed, int | np.integer) and 0 <= seed < 2**32:
        return np.uint32(seed)
    raise InputError(f"seed is {seed!r}; expected a whole number from 0 to 2**32 - 1")
