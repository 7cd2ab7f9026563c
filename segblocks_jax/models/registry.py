"""create_model: networks by name."""

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx

from segblocks_jax.errors import InvalidInputError
from segblocks_jax.models.efficientnet_lite import EfficientNetLite
from segblocks_jax.models.resnet import ResNet, resnet
from segblocks_jax.models.swiftnet import SwiftNet
from segblocks_jax.nn import BlockOptions

_RESNETS = {f"swiftnet_rn{n}": functools.partial(resnet, n) for n in (18, 34, 50, 101)}
_EFFICIENTNETS: dict[str, Callable[..., EfficientNetLite]] = {
    f"swiftnet_efflite{n}": functools.partial(EfficientNetLite, n) for n in range(5)
}
MODELS = (*_RESNETS, *_EFFICIENTNETS, "lrnnet")

Network = Any
"""A network of `create_model`: called with an image or blocks of one, it gives logits."""


def create_model(
    name: str,
    num_classes: int = 19,
    *,
    semantics: BlockOptions | None = None,
    width: int = 64,
    features: int | None = None,
    dilations: tuple[int, ...] | None = None,
    rngs: nnx.Rngs,
) -> Network:
    """Builds a network with random weights.

    Args:
        name: one of `MODELS`.
        num_classes: of the logits.
        semantics: how it runs in blocks; see `BlockOptions`.
        width: inner channels of a ResNet's first stage, channels of LRNNet's second; the published
            networks have 64.
        features: channels of the decoder; by default as published, 128 for ResNets and 48 for
            EfficientNet-Lites, or 64 in LRNNet's attention.
        dilations: of LRNNet's third stage, one a block; None: `DILATIONS`. The largest bounds the size of
            blocks from below: `LRNNet.smallest_block`.
        rngs: the stream `params` initializes the weights.

    Raises:
        ValueError: unknown name, a width for a network that has a fixed one, dilations for one without.

    Example:
        >>> net = create_model("swiftnet_rn18", num_classes=11, rngs=nnx.Rngs(0))
        >>> net.num_classes
        11
    """
    semantics = semantics or BlockOptions()
    if name == "lrnnet":
        from segblocks_jax.systems.lrnnet.network import DILATIONS, LRNNet

        return LRNNet(
            num_classes,
            width=width,
            features=features or 64,
            dilations=DILATIONS if dilations is None else dilations,
            semantics=semantics,
            rngs=rngs,
        )
    if name in MODELS and dilations is not None:
        raise InvalidInputError(
            f"create_model: {name} has no dilations to choose; leave them None (got {dilations})"
        )
    if name in _RESNETS:
        backbone: ResNet | EfficientNetLite = _RESNETS[name](
            width=width, semantics=semantics, rngs=rngs
        )
        return SwiftNet(
            backbone, num_classes, features=features or 128, semantics=semantics, rngs=rngs
        )
    if name not in _EFFICIENTNETS:
        raise InvalidInputError(
            f"create_model: no model {name!r}; expected one of {', '.join(MODELS)}"
        )
    if width != 64:
        raise InvalidInputError(
            f"create_model: {name} has a fixed width; leave width at 64 (got {width})"
        )
    backbone = _EFFICIENTNETS[name](semantics=semantics, rngs=rngs)
    return SwiftNet(backbone, num_classes, features=features or 48, semantics=semantics, rngs=rngs)
