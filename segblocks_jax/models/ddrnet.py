"""DDRNet-23-slim (Hong et al., arXiv 2101.06085) in plain Flax: branches at 1/8 and down to 1/64 that meet twice."""

import dataclasses
import functools

import jax
from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax.models.network import NetworkEntry
from segblocks_jax.models.plain import (
    BasicBlock,
    BatchNorm,
    Bottleneck,
    Head,
    conv,
    conv_norm,
    layer,
    resize,
    stem,
)
from segblocks_jax.models.plain_network import PlainNetwork, torch_names
from segblocks_jax.models.pyramid import DAPPM
from segblocks_jax.nn import BlockOptions


@dataclasses.dataclass(frozen=True)
class DDRNetOptions:
    """Options of DDRNet.

    Attributes:
        auxiliary: adds the head `extra`, of the detailed branch's middle, that training alone uses.
    """

    auxiliary: bool = False


class DDRNet(PlainNetwork):
    """DDRNet-23-slim: ``net(image)`` gives logits (n, h / 8, w / 8, classes), `heads` those of all heads.

    It has none of this library's layers. In training, a batch has 2 images or more. State dicts of the authors fit by
    name; without `auxiliary`, their auxiliary head is passed over. Source: github.com/ydhongHIT/DDRNet.
    """

    torch_names = torch_names(unused=r"seghead_extra\.")
    training_heads = ("seghead_extra",)

    def __init__(
        self, num_classes: int, options: DDRNetOptions, *, semantics: BlockOptions, rngs: nnx.Rngs
    ) -> None:
        """With random weights; `semantics` say how `sb.in_blocks` runs it."""
        self.num_classes, self.semantics = num_classes, semantics
        basic = functools.partial(layer, BasicBlock, rngs=rngs)
        bottleneck = functools.partial(layer, Bottleneck, rngs=rngs)
        unit = functools.partial(conv_norm, rngs=rngs)
        self.conv1 = stem(32, rngs=rngs)
        self.layer1 = basic(32, 32, 2)
        self.layer2 = basic(32, 64, 2, 2)
        self.layer3 = basic(64, 128, 2, 2)
        self.layer3_ = basic(64, 64, 2)
        self.compression3 = unit(128, 64, 1)
        self.down3 = unit(64, 128, 3, 2)
        self.layer4 = basic(128, 256, 2, 2)
        self.layer4_ = basic(64, 64, 2)
        self.compression4 = unit(256, 64, 1)
        self.down4 = nnx.Sequential(
            conv(64, 128, 3, 2, rngs=rngs),
            BatchNorm(128, rngs=rngs),
            jax.nn.relu,
            conv(128, 256, 3, 2, rngs=rngs),
            BatchNorm(256, rngs=rngs),
        )
        self.layer5_ = bottleneck(64, 64, 1)
        self.layer5 = bottleneck(256, 256, 1, 2)
        self.spp = DAPPM(512, 128, 128, rngs=rngs)
        self.final_layer = Head(128, 64, num_classes, rngs=rngs)
        self.seghead_extra = Head(64, 64, num_classes, rngs=rngs) if options.auxiliary else None

    def heads(self, image: Float[Array, "n h w 3"]) -> dict[str, Float[Array, "n oh ow k"]]:
        """As `__call__`, the logits of `main` and, with `auxiliary`, of `extra`."""
        relu = jax.nn.relu
        x8 = self.layer2(relu(self.layer1(self.conv1(image))))
        x16 = self.layer3(relu(x8))
        detail = self.layer3_(relu(x8))
        low = x16 + self.down3(relu(detail))
        detail = middle = detail + resize(self.compression3(relu(x16)), x8)

        x32 = self.layer4(relu(low))
        detail = self.layer4_(relu(detail))
        low = x32 + self.down4(relu(detail))
        detail = detail + resize(self.compression4(relu(x32)), x8)

        detail = self.layer5_(relu(detail))
        low = resize(self.spp(self.layer5(relu(low))), x8)
        logits = {"main": self.final_layer(low + detail)}
        if self.seghead_extra is not None:
            logits["extra"] = self.seghead_extra(middle)
        return logits


NETWORKS = {"ddrnet23_slim": NetworkEntry(DDRNetOptions, DDRNet)}
