"""create_model: networks by name."""

import importlib
from collections.abc import Sequence
from typing import Any

from flax import nnx

from segblocks_jax.errors import InputError
from segblocks_jax.models import ddrnet, pidnet, swiftnet
from segblocks_jax.models.factory import create_from_factory, is_factory
from segblocks_jax.models.network import Network, NetworkEntry
from segblocks_jax.nn import BlockOptions

# A network of a system is named by where its entry is, since systems lie above.
_PLAIN = {**ddrnet.NETWORKS, **pidnet.NETWORKS}
_NETWORKS: dict[str, NetworkEntry | str] = {
    **swiftnet.NETWORKS,
    "lrnnet": "segblocks_jax.systems.lrnnet.network:NETWORK",
    **_PLAIN,
}
MODELS = tuple(_NETWORKS)
PLAIN = tuple(_PLAIN)
"""Those of `MODELS` that have none of this library's layers, but Flax's alone."""
_NEUTRAL = {"width": 64, "dropout": 1.0, "padding": "symmetric", "stride_in": "3x3"}
"""Defaults of specs and configurations, for networks that have and that lack the option."""


def network_entry(name: str) -> NetworkEntry:
    """The entry of a network.

    Raises:
        InputError: unknown name.
    """
    if name not in _NETWORKS:
        raise InputError(f"create_model: no model {name!r}; expected one of {', '.join(MODELS)}")
    entry = _NETWORKS[name]
    if isinstance(entry, NetworkEntry):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)


def create_model(
    name: str,
    num_classes: int = 19,
    *,
    semantics: BlockOptions | None = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> Network:
    """Builds a network with random weights.

    Args:
        name: one of `MODELS`; or "package.module:function", see `segblocks_jax.models.factory`.
        num_classes: of the logits.
        semantics: how it runs in blocks; see `BlockOptions`.
        rngs: the stream `params` initializes the weights.
        **options: of the network; None is the default. ResNets have `width`, the inner channels of the first
            stage (64), `features`, the channels of the decoder (128), and `stride_in`, the convolution with the
            stride in blocks of 50 and 101 layers: "3x3" or the first "1x1". EfficientNet-Lites and MobileNetV2 have
            `features` (48) and `padding` of the backbone: "symmetric", or "same_tf" as in TensorFlow. LRNNet has
            `LRNNetOptions`. DDRNet and PIDNet have `auxiliary`, the heads that training alone uses (False).

    Raises:
        InputError: unknown name, or an option that the network lacks or can't have that way.

    Example:
        >>> net = create_model("swiftnet_rn18", num_classes=11, rngs=nnx.Rngs(0))
        >>> net.num_classes
        11
    """
    if is_factory(name):
        _check_neutral(name, {k: v for k, v in options.items() if v is not None})
        chosen = semantics or BlockOptions()
        return create_from_factory(name, num_classes, semantics=chosen, rngs=rngs)
    entry = network_entry(name)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given.keys() - set(entry.option_names):
        _check_neutral(name, {option: given.pop(option)}, entry.option_names)
    chosen = entry.options(**given)
    return entry.create(num_classes, chosen, semantics=semantics or BlockOptions(), rngs=rngs)


def _check_neutral(name: str, options: dict[str, Any], known: Sequence[str] = ()) -> None:
    """Raises InputError for options that a network lacks, unless they are the defaults of all."""
    for option, value in options.items():
        if option not in _NEUTRAL or value != _NEUTRAL[option]:
            raise InputError(
                f"create_model: {name} has no {option} to choose (got {value}); its options are"
                f" {', '.join(known) or 'those of its factory'}"
            )
