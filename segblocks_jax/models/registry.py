"""create_model: networks by name."""

from flax import nnx

from segblocks_jax.models.resnet import resnet18
from segblocks_jax.models.swiftnet import SwiftNet
from segblocks_jax.nn import Semantics

_BACKBONES = {"swiftnet_rn18": resnet18}
MODELS = tuple(_BACKBONES)


def create_model(
    name: str,
    num_classes: int = 19,
    *,
    semantics: Semantics | None = None,
    width: int = 64,
    features: int = 128,
    rngs: nnx.Rngs,
) -> SwiftNet:
    """Builds a network with random weights.

    Args:
        name: one of `MODELS`.
        num_classes: of the logits.
        semantics: how it runs in blocks; see `Semantics`.
        width: channels of the backbone's first stage; the published networks have 64.
        features: channels of the decoder; the published ResNets have 128.
        rngs: the stream `params` initialises the weights.

    Raises:
        ValueError: unknown name.

    Example:
        >>> net = create_model("swiftnet_rn18", num_classes=11, rngs=nnx.Rngs(0))
        >>> net.num_classes
        11
    """
    if name not in _BACKBONES:
        raise ValueError(f"create_model: no model {name!r}; expected one of {', '.join(MODELS)}")
    semantics = semantics or Semantics()
    backbone = _BACKBONES[name](width=width, semantics=semantics, rngs=rngs)
    return SwiftNet(backbone, num_classes, features=features, semantics=semantics, rngs=rngs)
