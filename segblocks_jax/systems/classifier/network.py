"""A backbone, the mean over all pixels, a linear layer: the plain classifier."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import nn
from segblocks_jax.models import EfficientNetLite, MobileNetV2, ResNet
from segblocks_jax.models.network import TorchNames
from segblocks_jax.nn.initial import small_uniform

_BACKBONES: dict[str, Callable[..., Any]] = {
    **{f"resnet{layers}": functools.partial(ResNet, layers) for layers in (18, 34, 50, 101)},
    "mobilenet_v2": MobileNetV2,
    **{f"efficientnet_lite{i}": functools.partial(EfficientNetLite, i) for i in range(5)},
}
BACKBONES = tuple(_BACKBONES)


class Net(nnx.Module):
    """``net(image)`` gives the logits (n, classes) of normalized images (n, h, w, 3)."""

    torch_names = TorchNames("net.")

    def __init__(self, backbone: str, num_classes: int, *, width: int = 64, rngs: nnx.Rngs) -> None:
        """A backbone of `BACKBONES`; `width` is that of ResNets."""
        options = {"width": width} if backbone.startswith("resnet") else {}
        semantics = nn.BlockOptions()
        self.backbone = _BACKBONES[backbone](semantics=semantics, rngs=rngs, **options)
        self.fc = nn.Conv(
            self.backbone.features[-1],
            num_classes,
            1,
            use_bias=True,
            kernel_init=small_uniform,
            semantics=semantics,
            rngs=rngs,
        )

    def __call__(self, image: Float[Array, "n h w 3"]) -> Float[Array, "n k"]:
        """Logits, in the dtype of the image."""
        features = self.backbone(image)[-1]
        with nn.scope("classifier"):
            mean = features.astype(jnp.float32).mean((1, 2), keepdims=True)
            return self.fc(mean.astype(image.dtype))[:, 0, 0]
