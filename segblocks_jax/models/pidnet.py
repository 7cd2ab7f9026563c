"""PIDNet-S (Xu et al., arXiv 2206.02066) in plain Flax: branches for detail (P), context (I) and boundaries (D)."""

import dataclasses
import functools

import jax
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.models.network import NetworkEntry
from segblocks_jax.models.plain import (
    BasicBlock,
    Bottleneck,
    Head,
    conv_norm,
    layer,
    resize,
    stem,
)
from segblocks_jax.models.plain_network import PlainNetwork, torch_names
from segblocks_jax.models.pyramid import PAPPM
from segblocks_jax.nn import BlockOptions


class PixelAttention(nnx.Module):
    """Pag, pixel-attention-guided fusion: where two maps agree, the second takes over from the first."""

    def __init__(self, features: int, inner: int, *, rngs: nnx.Rngs) -> None:
        """They are compared in `inner` channels."""
        self.f_x = conv_norm(features, inner, 1, rngs=rngs)
        self.f_y = conv_norm(features, inner, 1, rngs=rngs)

    def __call__(
        self, x: Float[Array, "n h w c"], y: Float[Array, "n lh lw c"]
    ) -> Float[Array, "n h w c"]:
        """A map and a smaller one -> a map of the first one's size."""
        products = self.f_x(x) * resize(self.f_y(y), x)
        share = jax.nn.sigmoid(products.sum(-1, keepdims=True))
        return (1 - share) * x + share * resize(y, x)


class BoundaryGuided(nnx.Module):
    """The light Bag, boundary-attention-guided fusion: detail near boundaries, context elsewhere."""

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        """All maps have `features` channels."""
        self.conv_p = conv_norm(features, features, 1, rngs=rngs)
        self.conv_i = conv_norm(features, features, 1, rngs=rngs)

    def __call__(
        self,
        detail: Float[Array, "n h w c"],
        context: Float[Array, "n h w c"],
        boundary: Float[Array, "n h w c"],
    ) -> Float[Array, "n h w c"]:
        """Three maps -> one."""
        edge = jax.nn.sigmoid(boundary)
        return self.conv_p((1 - edge) * context + detail) + self.conv_i(context + edge * detail)


@dataclasses.dataclass(frozen=True)
class PIDNetOptions:
    """Options of PIDNet.

    Attributes:
        auxiliary: adds the heads `p`, of the detail branch, and `d`, of boundaries, that training alone uses.
    """

    auxiliary: bool = False


class PIDNet(PlainNetwork):
    """PIDNet-S: ``net(image)`` gives logits (n, h / 8, w / 8, classes), `heads` those of all heads.

    It has none of this library's layers. In training, a batch has 2 images or more. State dicts of the authors fit by
    name; without `auxiliary`, their auxiliary heads are passed over. Source: github.com/XuJiacong/PIDNet.
    """

    torch_names = torch_names(unused=r"seghead_[pd]\.")
    training_heads = ("seghead_p", "seghead_d")

    def __init__(
        self, num_classes: int, options: PIDNetOptions, *, semantics: BlockOptions, rngs: nnx.Rngs
    ) -> None:
        """With random weights; `semantics` say how `sb.in_blocks` runs it."""
        self.num_classes, self.semantics = num_classes, semantics
        basic = functools.partial(layer, BasicBlock, rngs=rngs)
        bottleneck = functools.partial(layer, Bottleneck, rngs=rngs)
        unit = functools.partial(conv_norm, rngs=rngs)
        self.conv1 = stem(32, rngs=rngs)
        self.layer1 = basic(32, 32, 2)
        self.layer2 = basic(32, 64, 2, 2)
        self.layer3 = basic(64, 128, 3, 2)
        self.layer4 = basic(128, 256, 3, 2)
        self.layer5 = bottleneck(256, 256, 2, 2)
        self.spp = PAPPM(512, 96, 128, rngs=rngs)

        self.layer3_ = basic(64, 64, 2)
        self.layer4_ = basic(64, 64, 2)
        self.layer5_ = bottleneck(64, 64, 1)
        self.compression3 = unit(128, 64, 1)
        self.compression4 = unit(256, 64, 1)
        self.pag3 = PixelAttention(64, 32, rngs=rngs)
        self.pag4 = PixelAttention(64, 32, rngs=rngs)

        self.layer3_d = BasicBlock(64, 32, rngs=rngs)
        self.layer4_d = bottleneck(32, 32, 1)
        self.layer5_d = bottleneck(64, 64, 1)
        self.diff3 = unit(128, 32, 3)
        self.diff4 = unit(256, 64, 3)

        self.dfm = BoundaryGuided(128, rngs=rngs)
        self.final_layer = Head(128, 128, num_classes, rngs=rngs)
        self.seghead_p = Head(64, 128, num_classes, rngs=rngs) if options.auxiliary else None
        self.seghead_d = Head(64, 32, 1, rngs=rngs) if options.auxiliary else None

    def heads(self, image: Float[Array, "n h w 3"]) -> dict[str, Float[Array, "n oh ow _k"]]:
        """As `__call__`, the logits of `main`; with `auxiliary` also of `p`, and of `d`, which has one channel."""
        relu = jax.nn.relu
        x8 = relu(self.layer2(relu(self.layer1(self.conv1(image)))))
        x16 = relu(self.layer3(x8))
        x32 = relu(self.layer4(x16))

        # The auxiliary heads see rectified maps, too: the authors' ReLU works in place.
        detail = relu(self.pag3(self.layer3_(x8), self.compression3(x16)))
        boundary = relu(self.layer3_d(x8) + resize(self.diff3(x16), x8))
        logits = {} if self.seghead_p is None else {"p": self.seghead_p(detail)}
        detail = relu(self.pag4(self.layer4_(detail), self.compression4(x32)))
        boundary = relu(self.layer4_d(boundary) + resize(self.diff4(x32), x8))

        context = resize(self.spp(self.layer5(x32)), x8)
        fused = self.dfm(self.layer5_(detail), context, self.layer5_d(boundary))
        logits["main"] = self.final_layer(fused)
        if self.seghead_d is not None:
            logits["d"] = self.seghead_d(boundary)
        return logits


NETWORKS = {"pidnet_s": NetworkEntry(PIDNetOptions, PIDNet)}
