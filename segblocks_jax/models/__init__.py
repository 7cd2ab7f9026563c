"""Networks that run on images and on blocks."""

from segblocks_jax.models.efficientnet_lite import EfficientNetLite
from segblocks_jax.models.network import Network, NetworkEntry, TorchNames
from segblocks_jax.models.registry import MODELS, create_model, network_entry
from segblocks_jax.models.resnet import ResNet
from segblocks_jax.models.swiftnet import SwiftNet

__all__ = [
    "MODELS",
    "EfficientNetLite",
    "Network",
    "NetworkEntry",
    "ResNet",
    "SwiftNet",
    "TorchNames",
    "create_model",
    "network_entry",
]
