"""Networks that run on images and on blocks."""

from segblocks_jax.models.efficientnet_lite import EfficientNetLite
from segblocks_jax.models.registry import MODELS, Network, create_model
from segblocks_jax.models.resnet import ResNet
from segblocks_jax.models.swiftnet import SwiftNet

__all__ = [
    "MODELS",
    "EfficientNetLite",
    "Network",
    "ResNet",
    "SwiftNet",
    "create_model",
]
