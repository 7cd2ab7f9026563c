"""Engine: serves a network with masks, of which it computes active pixels only."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Shaped

from segblocks_jax.systems.dynconv.execution import Pass
from segblocks_jax.systems.dynconv.layers import PackedLayer
from segblocks_jax.systems.dynconv.run import (
    Execution,
    Masks,
    check_execution,
    check_images,
    prepare,
)

_SHAPE = 1, 64, 64, 3  # Of images for which layers are followed; its size plays no part in them.


class Engine:
    """Evaluates batches of normalized images: ``result, masks = engine(images)``, as `run` does, faster.

    Kernels are packed once. How many pixels are active is read while a program runs, so that there is one for each
    shape of images.

    Attributes:
        compilations: number of programs so far.
    """

    def __init__(self, net: Any, *, execution: Execution = "sparse") -> None:
        """Keeps the network's weights as they are now. Raises InputError for an unknown `execution`."""
        check_execution(execution)
        net = nnx.clone(net)
        net.eval()
        self._graphdef, self._state = nnx.split(net)
        self._prepared = prepare(net, _SHAPE, execution)
        self.compilations = 0

        def evaluate(state: Any, prepared: list[PackedLayer], images: Array) -> tuple[Any, Masks]:
            self.compilations += 1
            forward = Pass(sparse=execution == "sparse", by_index=True, prepared=prepared)
            return nnx.merge(self._graphdef, state)(images, forward), forward.masks

        self._evaluate = jax.jit(evaluate)

    def __call__(self, images: Shaped[Array | np.ndarray, "..."]) -> tuple[Any, Masks]:
        """The result and the masks; raises InputError for images that aren't (n, h, w, 3)."""
        check_images(images)
        return self._evaluate(self._state, self._prepared, jnp.asarray(images, jnp.float32))
