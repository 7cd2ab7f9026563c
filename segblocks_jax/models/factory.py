"""Networks of one's own, by the place of the function that creates them: "mypackage.net:create"."""

import functools
import importlib
import inspect
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


def load_factory(place: str) -> Any:
    """What is at a place, "package.module:function".

    Raises:
        InputError: there is nothing.
    """
    if not is_factory(place):
        raise InputError(
            f"factory: {place!r} is no place of a function; expected 'package.module:function'"
        )
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, SyntaxError) as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(
            f"{error.name}."
        )
        hint = "; is its folder on PYTHONPATH?" if missing else ""
        raise InputError(f"factory: {place!r} can't be imported: {error}{hint}") from error


def create_from_factory(
    place: str, num_classes: int, *, semantics: BlockOptions, rngs: nnx.Rngs
) -> InBlocks:
    """A network of one's own, which runs in blocks: what ``function(num_classes, rngs=rngs)`` gives.

    That is a network from images (n, h, w, 3) to logits (n, h / s, w / s, num_classes): a module of Flax NNX, another
    pytree that can be called, or what `segblocks_jax.in_blocks` made of one.

    Raises:
        InputError: there is no such function, or it gives another network.
    """
    create = load_factory(place)
    try:
        inspect.signature(create).bind(num_classes, rngs=rngs)
    except TypeError as error:
        raise InputError(
            f"factory: {place!r} can't be called as create(num_classes, rngs=rngs): {error}"
        ) from error
    made = create(num_classes, rngs=rngs)
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
    try:
        out = jax.eval_shape(functools.partial(_first, function), leaves, image)
    except Exception as error:
        raise InputError(
            f"factory: the network of {place!r} fails on images of {image.shape}, where it must take any size:"
            f" {type(error).__name__}: {error}"
        ) from error
    shape: tuple[int, ...] = getattr(out, "shape", ())
    side = shape[1] if len(shape) == 4 else 0
    fits = side and _SIDE % side == 0 and shape == (2, side, side, num_classes)
    if not fits or not jnp.issubdtype(out.dtype, jnp.floating):
        got = jax.tree.map(lambda x: x.shape, out)
        raise InputError(
            f"factory: the network of {place!r} gives {got} of images of {image.shape}; expected logits"
            f" (n, h / s, w / s, {num_classes}) in a float dtype"
        )
    return _SIDE // side


def _first(function: Callable[..., Any], leaves: Any, image: Any) -> Any:
    return function(leaves, image)[0]
