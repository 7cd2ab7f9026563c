"""Networks that run on images and on blocks."""

from segblocks_jax.models.efficientnet_lite import EfficientNetLite
from segblocks_jax.models.lrnnet import LRNEncoder, LRNNet
from segblocks_jax.models.policy_net import PolicyNet
from segblocks_jax.models.registry import MODELS, Network, create_model
from segblocks_jax.models.resnet import ResNet
from segblocks_jax.models.swiftnet import SwiftNet

__all__ = [
    "MODELS",
    "EfficientNetLite",
    "LRNEncoder",
    "LRNNet",
    "Network",
    "PolicyNet",
    "ResNet",
    "SwiftNet",
    "create_model",
]
