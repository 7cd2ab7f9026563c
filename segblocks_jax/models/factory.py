"""Networks of one's own, by the place of the function that creates them: "mypackage.net:create"."""

import functools
import importlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from segblocks_jax.errors import InputError
from segblocks_jax.nn import BlockOptions
from segblocks_jax.traced import InBlocks

_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_SIDE = 256  # Of the image that shows the size of the logits.


def is_factory(name: str) -> bool:
    """Whether it is written as the place of a function."""
    return _PLACE.fullmatch(name) is not None


def load_factory(place: str) -> Callable[..., Any]:
    """The function at a place, "package.module:function".

    Raises:
        InputError: there is none.
    """
    if not is_factory(place):
        raise InputError(
            f"factory: {place!r} is no place of a function; expected 'package.module:function'"
        )
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"factory: {place!r} can't be imported: {error}; is its folder on PYTHONPATH?"
        ) from error


def create_from_factory(
    place: str, num_classes: int, *, semantics: BlockOptions, rngs: nnx.Rngs
) -> InBlocks:
    """A network of one's own, which runs in blocks: what ``function(num_classes, rngs=rngs)`` gives.

    That is a network from images (n, h, w, 3) to logits (n, h / s, w / s, num_classes): a module of Flax NNX, another
    pytree that can be called, or what `segblocks_jax.in_blocks` made of one.

    Raises:
        InputError: there is no such function, or it gives another network.
    """
    made = load_factory(place)(num_classes, rngs=rngs)
    if not callable(made):
        raise InputError(
            f"factory: {place!r} gave a {type(made).__name__}; expected a function of images"
        )
    net = made if isinstance(made, InBlocks) else InBlocks(made, semantics)
    net.semantics = semantics
    net.num_classes = num_classes
    net.output_stride = _stride(net, place, num_classes)
    return net


def _stride(net: InBlocks, place: str, num_classes: int) -> int:
    function, leaves = net.functional()
    image = jax.ShapeDtypeStruct((2, _SIDE, _SIDE, 3), jnp.float32)
    out = jax.eval_shape(functools.partial(_first, function), leaves, image)
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) != 4 or shape[3] != num_classes or _SIDE % shape[1]:
        got = jax.tree.map(lambda x: x.shape, out)
        raise InputError(
            f"factory: the network of {place!r} gives {got} of an image of {image.shape}; expected logits"
            f" (n, h / s, w / s, {num_classes})"
        )
    return _SIDE // shape[1]


def _first(function: Callable[..., Any], leaves: Any, image: Any) -> Any:
    return function(leaves, image)[0]
