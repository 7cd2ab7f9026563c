"""Engine: serves a network for poses, from images and the people in them to joints."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import UInt8

from segblocks_jax.errors import InputError
from segblocks_jax.systems.classifier.predictor import Predictor, check_images
from segblocks_jax.systems.dynconv_pose.spec import ModelSpec
from segblocks_jax.tasks.pose.augmentation import PersonCrop
from segblocks_jax.tasks.pose.heatmaps import decode
from segblocks_jax.tasks.pose.person import Person
from segblocks_jax.tasks.pose.result import Poses
from segblocks_jax.training.sharding import AXIS


class Engine:
    """Finds joints: ``engine(images, people)`` gives `Poses`.

    Batches are filled up to powers of two, so that few programs serve every number of people.

    Example:
        engine = Engine(load_model(folder), load_spec(folder))
    """

    def __init__(
        self, model: nnx.Module, spec: ModelSpec, *, dtype: str = "float32", device: Any = None
    ) -> None:
        """`model` is the network, or the modules of the system; `device` JAX's default without another."""
        modules = model if isinstance(model, nnx.Dict) else nnx.Dict(net=model)
        mesh = Mesh(np.array([device or jax.local_devices()[0]]), (AXIS,))
        self.spec = spec
        self._predictor = Predictor(modules, spec, dtype, mesh)
        self._crop = PersonCrop(spec.crop, bgr=spec.bgr)

    def __call__(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], people: Sequence[Person] | None = None
    ) -> Poses:
        """Finds the joints of a person in each image.

        Args:
            images: 8-bit RGB.
            people: in the images, of whom `center` and `scale` count; None: each image shows one, and little else.

        Raises:
            ValueError: no images, another number of people, or an image that isn't 8-bit RGB.
        """
        began = time.perf_counter()
        check_images(images)
        if people is None:
            people = [Person.frame((x.shape[0], x.shape[1]), self.spec.crop) for x in images]
        if not len(images) or len(images) != len(people):
            raise InputError(
                f"Engine: {len(images)} images and {len(people)} people; expected at least one, and one in each image"
            )
        cut = np.stack([self._crop(x, person)[0] for x, person in zip(images, people, strict=True)])
        found, compiled = self._predictor.filled(cut)
        centers, scales = np.stack([p.center for p in people]), np.array([p.scale for p in people])
        joints, scores = decode(np.asarray(found.logits), centers, scales)
        return Poses(joints, scores, time.perf_counter() - began, compiled)
