"""Predictor: runs a system's modules on 8-bit images; over all batches of a set, too."""

import contextlib
import functools
import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, UInt8

from segblocks_jax.data import normalize
from segblocks_jax.errors import InputError
from segblocks_jax.systems.classifier.prediction import Prediction
from segblocks_jax.systems.classifier.spec import BaseSpec
from segblocks_jax.training.sharding import AXIS, gather, local_mesh, put_batch


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _forward(
    spec: BaseSpec, dtype: str, graphdef: nnx.GraphDef, mesh: Any, state: Any, image: Array
) -> Prediction:
    """The prediction of 8-bit images, on each device of the mesh its own; logits in float32."""

    def run(state: Any, image: UInt8[Array, "n h w 3"]) -> Prediction:
        modules = nnx.merge(graphdef, state)
        pixels = normalize(image, spec.mean, spec.std).astype(dtype)
        found = spec.forward(modules, pixels)
        logits, exits = jax.tree.map(lambda x: x.astype(jnp.float32), (found.logits, found.exits))
        return Prediction(logits, exits, found.values)

    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=(P(), P(AXIS)), out_specs=P(AXIS), check_vma=False
    )
    return sharded(state, image)


class Predictor:
    """Predicts batches of 8-bit images that have the network's size, on a mesh of devices of this process."""

    def __init__(
        self, modules: nnx.Module, spec: BaseSpec, dtype: str = "float32", mesh: Any = None
    ) -> None:
        """Puts the modules, in evaluation mode, on the devices, by default all of this process."""
        modules = nnx.clone(modules)
        modules.eval()
        self._spec, self._dtype = spec, dtype
        self._mesh = mesh or local_mesh()
        self._graphdef, state = nnx.split(modules)
        self._state = jax.device_put(state, NamedSharding(self._mesh, P()))
        self._sizes: set[int] = set()

    def __call__(self, image: UInt8[np.ndarray, "n h w 3"]) -> Prediction:
        """Arrays in host memory."""
        count = len(image)
        missing = -count % self._mesh.size
        padded = np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0)))
        placed = put_batch({"image": padded}, self._mesh)["image"]
        found = _forward(self._spec, self._dtype, self._graphdef, self._mesh, self._state, placed)
        return jax.tree.map(lambda x: np.asarray(x)[:count], jax.device_get(found))

    def filled(self, image: UInt8[np.ndarray, "n h w 3"]) -> tuple[Prediction, bool]:
        """As `__call__` on a batch filled up to a power of two, so that few programs serve every number of images.

        Also says whether no batch was filled up to as many before, so that a program was compiled.
        """
        count = len(image)
        size = 1 << (count - 1).bit_length()
        found = self(np.pad(image, ((0, size - count), (0, 0), (0, 0), (0, 0))))
        new = size not in self._sizes
        self._sizes.add(size)
        return jax.tree.map(lambda x: x[:count], found), new


def check_images(images: Iterable[np.ndarray]) -> None:
    """Raises InputError for what an engine can't take: an image that isn't 8-bit RGB."""
    for image in images:
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise InputError(
                f"Engine: an image has shape {image.shape} and dtype {image.dtype}; expected (h, w, 3) and uint8"
            )


def predict_batches(
    predictor: Callable[[Any], Prediction],
    batches: Generator[Any, None, None],
    row: Callable[[Prediction, Any], dict[str, Any]],
    on_batch: Callable[[Any, Prediction], None] | None,
) -> tuple[list[dict[str, Any]], float | None]:
    """Predicts this process's batches, with an `image` and a `count` each; all processes get the rows of all.

    Args:
        predictor: of images.
        batches: of this process, in turn with the other processes'; closed at the end.
        row: what is kept of a batch.
        on_batch: called after each batch.

    Returns:
        The rows in the order of the set, and images a second: median over all batches but the first, from images in
        host memory to predictions there; None for one batch.
    """
    own: dict[int, dict[str, Any]] = {}
    seconds: list[float] = []
    with contextlib.closing(batches):
        for number, batch in enumerate(batches):
            began = time.perf_counter()
            found = predictor(batch.image)
            seconds.append((time.perf_counter() - began) / batch.count)
            own[jax.process_index() + number * jax.process_count()] = row(found, batch)
            if on_batch is not None:
                on_batch(batch, found)
    parts = gather((own, seconds[1:]))
    rows = {i: row for rows, _ in parts for i, row in rows.items()}
    times = [second for _, some in parts for second in some]
    rate = float(1 / np.median(times)) if times else None
    return [rows[i] for i in sorted(rows)], rate
