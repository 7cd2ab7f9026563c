"""Networks that run on images and on blocks."""

from segblocks_jax.models.efficientnet_lite import EfficientNetLite as EfficientNetLite
from segblocks_jax.models.factory import is_factory as is_factory
from segblocks_jax.models.mobilenet_v2 import MobileNetV2 as MobileNetV2
from segblocks_jax.models.network import IMAGENET as IMAGENET
from segblocks_jax.models.network import Naming as Naming
from segblocks_jax.models.network import Network as Network
from segblocks_jax.models.network import NetworkEntry as NetworkEntry
from segblocks_jax.models.network import TorchNames as TorchNames
from segblocks_jax.models.plain_network import PlainNetwork as PlainNetwork
from segblocks_jax.models.registry import CLASSIFIERS as CLASSIFIERS
from segblocks_jax.models.registry import MODELS as MODELS
from segblocks_jax.models.registry import PLAIN as PLAIN
from segblocks_jax.models.registry import POSE as POSE
from segblocks_jax.models.registry import create_model as create_model
from segblocks_jax.models.registry import network_entry as network_entry
from segblocks_jax.models.resnet import ResNet as ResNet
from segblocks_jax.models.swiftnet import SwiftNet as SwiftNet
