"""PlainNetwork: what DDRNet and PIDNet have in common besides their layers."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.errors import InputError
from segblocks_jax.models.network import TorchNames

STRIDE = 8
"""Of the logits; the sides of images are multiples of it."""


def torch_names(unused: str) -> TorchNames:
    """Names in PyTorch, where a sequence's parts follow its own name; `unused`: of heads that training alone has."""
    return TorchNames("net.", ((r"\blayers\.", ""),), unused)


def check_image(net: nnx.Module, x: Any) -> None:
    """Raises InputError for what is no image that a network of stride 8 can run on."""
    kind = type(net).__name__
    if not isinstance(x, jax.Array):
        raise InputError(
            f"{kind}: got a {type(x).__name__}, expected an image (n, h, w, 3); the network has none of this"
            " library's layers, so it does not run in blocks by itself"
        )
    if x.ndim != 4 or x.shape[3] != 3 or x.shape[1] % STRIDE or x.shape[2] % STRIDE or not x.size:
        raise InputError(
            f"{kind}: the image is {x.shape}, expected (n, h, w, 3) with h and w multiples of {STRIDE}, such as"
            f" {STRIDE}; pad it"
        )


class PlainNetwork(nnx.Module):
    """A network of stride 8 with heads, of which `main` is the network's own.

    Attributes:
        training_heads: names of the modules that give the other heads, which training alone uses.
    """

    output_stride = STRIDE
    whole_image = ("spp",)  # Its pools are wider than blocks.
    training_heads: tuple[str, ...] = ()

    def __call__(self, x: Any) -> Float[Array, "n oh ow k"]:
        """Normalized image (n, h, w, 3), h and w multiples of 8 -> logits at 1/8.

        Raises:
            InputError: no such image; or one image in training.
        """
        check_image(self, x)
        return self.heads(x)["main"]

    def heads(self, image: Float[Array, "n h w 3"]) -> dict[str, Float[Array, "n oh ow _k"]]:
        """The logits of all heads that the network has, by name."""
        raise NotImplementedError

    def drop_training_heads(self) -> None:
        """Leaves `main` alone."""
        for name in self.training_heads:
            setattr(self, name, None)
