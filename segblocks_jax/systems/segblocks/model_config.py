"""The network in the configuration of an experiment."""

import dataclasses

from segblocks_jax.errors import InputError
from segblocks_jax.interop import PRETRAINED, WEIGHT_SUFFIXES
from segblocks_jax.models import MODELS, is_factory, network_entry
from segblocks_jax.models.resnet import STRIDE_IN
from segblocks_jax.nn import scaled_multiple
from segblocks_jax.nn.layers import PADDINGS
from segblocks_jax.ops.extension import IMPLEMENTATIONS
from segblocks_jax.structured_config import (
    SHARE,
    ConfigError,
    Range,
    check,
    check_fields,
    field,
    one_of,
)

_CHANNELS = Range("a positive number of channels", lambda x: x > 0)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network.

    Attributes:
        name: one of `segblocks_jax.models.MODELS`.
        factory: "package.module:function" that creates the network in place of `name`, see docs/own_network.md; the
            other options of networks stay as they are.
        width: channels of the backbone's first stage, of LRNNet's second; 64 as published.
        features: channels of the decoder; None: as published.
        dilations: of LRNNet's third stage, one per block; None: as in docs/lrnnet.md.
        padding: of EfficientNet-Lite and MobileNetV2 backbones, "symmetric" or "same_tf"; see `create_model`.
        stride_in: convolution of a ResNet's blocks that has the stride, "3x3" or "1x1"; see `create_model`.
        pretrained: ImageNet weights of the backbone that training starts from: a name such as "resnet18", see
            docs/training.md, or a .pth, .pt, .safetensors or .npz file; see `load_backbone`. As published,
            `optim.backbone_multiplier` is 0.25 then; it is not changed here. A run that continues from a
            checkpoint doesn't read it.
        init_from: whose network training starts from, in place of `pretrained`: a workdir (its last checkpoint), a
            checkpoint's folder WORKDIR/checkpoints/STEP, the folder of a saved model, the name of a shipped one, or
            @NAME, the workdir NAME beside this run's. The policy starts fresh. A run that continues doesn't read it.
        init_policy: starts from the policy in `init_from`, too.
        implementation: how operations run in training, see docs/blocks.md; None: what is faster on the machine.
        auxiliary: adds the heads that training alone uses, of networks that have some. The task's loss is then their
            authors' sum over all heads, see docs/plain_networks.md.
        dropout: factor on the rates of the network's dropout; 0 for none, which short schedules want.
        input_scale: side of what the network sees over the image's, for policy "static": a baseline of
            fewer operations, trained and evaluated at the labels' full size.
    """

    name: str = field("swiftnet_rn18", one_of(MODELS))
    factory: str | None = field(
        None, Range("None or 'package.module:function'", lambda x: x is None or is_factory(x))
    )
    width: int = field(64, _CHANNELS)
    features: int | None = field(None, _CHANNELS)
    dilations: tuple[int, ...] | None = None
    padding: str = field("symmetric", one_of(PADDINGS))
    stride_in: str = field("3x3", one_of(STRIDE_IN))
    pretrained: str | None = None
    init_from: str | None = None
    init_policy: bool = False
    implementation: str | None = field(None, one_of((None, *IMPLEMENTATIONS)), affects="rounding")
    auxiliary: bool = False
    dropout: float = field(1.0, Range("a factor from 0 to 1", SHARE.holds))
    input_scale: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        options = network_entry(self.name).option_names
        check(
            self.dilations is None
            or ("dilations" in options and min(self.dilations, default=0) > 0),
            f"model.dilations is {self.dilations} for {self.name}; expected None, or positive numbers for"
            " a network that has them, such as lrnnet",
        )
        check(
            not self.auxiliary or ("auxiliary" in options and self.factory is None),
            f"model.auxiliary is set for {self.factory or self.name}; expected a network that has heads for training"
            " alone, such as ddrnet23_slim",
        )
        try:
            scaled_multiple(self.input_scale)
        except InputError as error:
            raise ConfigError(f"model.{error}") from error
        weights = self.pretrained
        check(
            weights is None or weights in PRETRAINED or weights.endswith(WEIGHT_SUFFIXES),
            f"model.pretrained is {weights!r}; expected a file that ends in"
            f" {', '.join(WEIGHT_SUFFIXES)}, or one of {', '.join(PRETRAINED)}",
        )
        check(
            weights is None or self.init_from is None,
            f"model.pretrained is {weights!r} and model.init_from {self.init_from!r}; expected one of them to be"
            " None: training starts from one set of weights",
        )
        check(
            self.init_from is not None or not self.init_policy,
            "model.init_policy is True without model.init_from; say whose policy it is",
        )
        check(
            self.factory is None or weights is None,
            f"model.pretrained is {weights!r} beside model.factory {self.factory!r}; load weights in the factory, or"
            " start from a run or a saved model by model.init_from",
        )
        network = PRETRAINED[weights].network if weights in PRETRAINED else self.name
        check(
            network == self.name,
            f"model.pretrained is {weights!r}, weights of {network}'s backbone; model.name is {self.name!r}",
        )
