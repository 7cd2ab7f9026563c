"""Engine: serves a classifier, from images of any size to classes with their probabilities."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import UInt8

from segblocks_jax.errors import InputError
from segblocks_jax.systems.classifier.prediction import Prediction
from segblocks_jax.systems.classifier.predictor import Predictor, check_images
from segblocks_jax.systems.classifier.spec import BaseSpec
from segblocks_jax.tasks.classification.augmentation import CenterCrop
from segblocks_jax.tasks.classification.result import Classification
from segblocks_jax.training.sharding import AXIS

Images = UInt8[np.ndarray, "n h w 3"] | Sequence[UInt8[np.ndarray, "_ _ 3"]]


class Engine:
    """Classifies images: ``engine(images)`` gives a `Classification`.

    Batches are filled up to powers of two, so that few programs serve every number of images.

    Example:
        engine = Engine(load_model(folder), load_spec(folder))
    """

    def __init__(
        self, model: nnx.Module, spec: BaseSpec, *, dtype: str = "float32", device: Any = None
    ) -> None:
        """`model` is the network, or the modules of a system; `device` JAX's default without another."""
        modules = model if isinstance(model, nnx.Dict) else nnx.Dict(net=model)
        mesh = Mesh(np.array([device or jax.local_devices()[0]]), (AXIS,))
        self.spec = spec
        self._predictor = Predictor(modules, spec, dtype, mesh)
        self._crop = CenterCrop(spec.crop, spec.resize)

    def predict(self, images: Images) -> tuple[Prediction, bool]:
        """What the network says of the images, and whether a program was compiled for it; errors as `__call__`."""
        check_images(images)
        if not len(images):
            raise InputError("Engine: no images; give at least one")
        return self._predictor.filled(np.stack([self._crop(image)[0] for image in images]))

    def __call__(self, images: Images) -> Classification:
        """Classifies images, of one size or a list of several sizes.

        Raises:
            ValueError: none are given, or one isn't 8-bit RGB.
        """
        began = time.perf_counter()
        found, compiled = self.predict(images)
        logits = np.asarray(found.logits, np.float64)
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        probabilities = (exponents / exponents.sum(1, keepdims=True)).astype(np.float32)
        seconds = time.perf_counter() - began
        return Classification(logits.argmax(1), probabilities, seconds, compiled)
