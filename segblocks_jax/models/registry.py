"""create_model: networks by name."""

import importlib
from typing import Any

from flax import nnx

from segblocks_jax.errors import InputError
from segblocks_jax.models import swiftnet
from segblocks_jax.models.network import Network, NetworkEntry
from segblocks_jax.nn import BlockOptions

# A network of a system is named by where its entry is, since systems lie above.
_NETWORKS: dict[str, NetworkEntry | str] = {
    **swiftnet.NETWORKS,
    "lrnnet": "segblocks_jax.systems.lrnnet.network:NETWORK",
}
MODELS = tuple(_NETWORKS)
"""Names of the networks that give maps, and run in blocks."""
_RESNETS = "resnet8", "resnet14", "resnet20", "resnet26", "resnet32", "resnet50", "resnet101"
_CLASSIFIERS: dict[str, NetworkEntry | str] = {
    **{
        f"dynconv_{name}": f"segblocks_jax.systems.dynconv.resnet:{name.upper()}"
        for name in _RESNETS
    },
    "dynconv_mobilenetv2": "segblocks_jax.systems.dynconv.mobilenet_v2:NETWORK",
}
CLASSIFIERS = tuple(_CLASSIFIERS)
"""Names of the networks of whole images."""
_POSE: dict[str, NetworkEntry | str] = {
    "dynconv_hourglass": "segblocks_jax.systems.dynconv.hourglass:NETWORK",
}
POSE = tuple(_POSE)
"""Names of the networks that give heat maps of joints."""
_NEUTRAL = {"width": 64, "dropout": 1.0, "padding": "symmetric", "stride_in": "3x3"}
"""Defaults of specs and configurations, for networks that have and that lack the option."""


def network_entry(name: str) -> NetworkEntry:
    """The entry of a network.

    Raises:
        InputError: unknown name.
    """
    entry = (_NETWORKS | _CLASSIFIERS | _POSE).get(name)
    if entry is None:
        known = ", ".join((*MODELS, *CLASSIFIERS, *POSE))
        raise InputError(f"create_model: no model {name!r}; expected one of {known}")
    if isinstance(entry, NetworkEntry):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)


def create_model(
    name: str,
    num_classes: int | None = None,
    *,
    semantics: BlockOptions | None = None,
    rngs: nnx.Rngs | None = None,
    **options: Any,
) -> Network:
    """Builds a network with random weights.

    Args:
        name: one of `MODELS`, `CLASSIFIERS` or `POSE`.
        num_classes: of the logits, or joints; default: as published, 19 for `MODELS`.
        semantics: how it runs in blocks; see `BlockOptions`.
        rngs: the stream `params` initializes the weights; default: that of seed 0.
        **options: of the network; None is the default. ResNets have `width`, the inner channels of the first
            stage (64), `features`, the channels of the decoder (128), and `stride_in`, the convolution with the
            stride in blocks of 50 and 101 layers: "3x3" or the first "1x1". EfficientNet-Lites and MobileNetV2 have
            `features` (48) and `padding` of the backbone: "symmetric", or "same_tf" as in TensorFlow. LRNNet has
            `LRNNetOptions`. DynConv's networks have `width`, and `masked`, whether blocks have masks.

    Raises:
        InputError: unknown name, or an option that the network lacks or can't have that way.

    Example:
        >>> net = create_model("swiftnet_rn18", num_classes=11, rngs=nnx.Rngs(0))
        >>> net.num_classes
        11
    """
    entry = network_entry(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given.keys() - set(entry.option_names):
        value = given.pop(option)
        if option not in _NEUTRAL or value != _NEUTRAL[option]:
            raise InputError(
                f"create_model: {name} has no {option} to choose (got {value}); its options are"
                f" {', '.join(entry.option_names)}"
            )
    chosen = entry.options(**given)
    if semantics is not None and name not in MODELS:
        raise InputError(f"create_model: {name} doesn't run in blocks; leave semantics away")
    classes = entry.num_classes if num_classes is None else num_classes
    given = {"semantics": semantics or BlockOptions(), "rngs": rngs or nnx.Rngs(0)}
    return entry.create(classes, chosen, **given)
