"""RANet (arXiv 2003.07326): sub-networks from low to high resolution, with exits from which easy images leave.

The first sub-network sees the smallest maps; each next one fuses, block for block, what the one before it made.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from segblocks_jax import nn
from segblocks_jax.blocks import DualRes
from segblocks_jax.errors import InputError
from segblocks_jax.models import NetworkEntry, TorchNames
from segblocks_jax.nn.initial import ManyKeys, small_uniform
from segblocks_jax.systems.ranet import options as sizes
from segblocks_jax.systems.ranet.layers import Block, BlockSize, ConvNorm, Exit, Image, Kept
from segblocks_jax.systems.ranet.options import RANetOptions

_EXIT_WIDTH = 128  # Of CIFAR's exits; those of ImageNet keep their channels.


class ImageNetStem(ConvNorm):
    """7x7 of stride 2, batch norm, ReLU, 3x3 maxima of stride 2: a quarter of the size."""

    torch_names = TorchNames("net.FirstLayer.layers.0.", ((r"^conv\.", "0."), (r"^bn\.", "1.")))

    def __init__(self, after: int, *, rngs: nnx.Rngs) -> None:
        """From RGB to `after` channels."""
        super().__init__(3, after, 7, stride=2, use_bias=True, kernel_init=small_uniform, rngs=rngs)

    def __call__(self, x: Image) -> Image:
        """(n, h, w, 3) -> (n, ceil(h / 4), ceil(w / 4), after)."""
        return nn.max_pool(super().__call__(x), window=3, stride=2, padding=1)


class Progress(NamedTuple):
    """What the stages to come need of those that ran; the first axis of all arrays is the images'.

    Attributes:
        bases: what each sub-network starts from that hasn't begun.
        kept: of the blocks of the sub-network that runs, for the next one.
        x: behind the last block; None where its sub-network is complete.
    """

    bases: tuple[Image, ...]
    kept: tuple[Kept, ...]
    x: Image | None


class Stage(NamedTuple):
    """What runs between two exits: blocks `first` to before `stop` of a sub-network, and exit `number` behind them.

    It `completes` its sub-network, or not.
    """

    number: int
    flow: int
    first: int
    stop: int
    completes: bool


def run_base(base: Iterable[ConvNorm], images: Image) -> Progress:
    """See `RANet.start`; of its modules, `base` alone is needed."""
    bases = []
    with nn.scope("base"):
        for conv in base:
            images = conv(images)
            bases.append(images)
    return Progress(tuple(reversed(bases)), (), None)


def run_stage(
    stage: Stage, blocks: Sequence[Block], head: Exit, progress: Progress
) -> tuple[Float[Array, "n k"], Progress]:
    """See `RANet.stage`; of its modules, `blocks` and `head` alone are needed."""
    bases, kept, x = progress
    below: tuple[Kept, ...] = ()
    if x is None:
        x, bases, below, kept = bases[0], bases[1:], kept, ()
    for i, block in enumerate(blocks, stage.first):
        with nn.scope(f"flow{stage.flow}/block{i}"):
            x, own = nn.rematerialized(block, x, below[i] if i < len(below) else ())
        kept = (*kept, own)
    with nn.scope(f"exit{stage.number}"):
        logits = head(x)
    # Of the last sub-network, no other needs what is kept.
    return logits, Progress(bases, kept if bases else (), None if stage.completes else x)


class RANet(nnx.Module):
    """A classifier with exits: ``net(images)`` gives the list of all exits' logits, cheapest first.

    It runs in stages, each up to the next exit; the images that leave there need not run the next::

        logits, progress = net.stage(0, net.start(images))
        logits, progress = net.stage(1, progress)

    Attributes:
        sizes: the options that it was built with.
        stages: what runs up to each exit.
        num_classes: of the logits.
    """

    torch_names = TorchNames(
        "net.",
        (
            (r"^base\.(\d+)\.", r"FirstLayer.layers.\1.net."),
            (r"^flows\.", "scale_flows."),
            (r"^exits\.(\d+)\.convs\.", r"classifier.\1.m."),
            (r"^exits\.", "classifier."),
            (r"^(classifier\.\d+\.m\.\d+)\.", r"\1.net."),
            (r"\.own\.", ".conv_normal.net."),
            (r"\.lower\.", ".conv_up.net."),
            (r"\.last\.", ".conv_last.net."),
            (r"\.transition\.", ".trans.net."),
            (r"\.conv1?\.(?=\w+$)", ".0."),
            (r"\.bn1?\.(?=\w+$)", ".1."),
            (r"\.conv2\.(?=\w+$)", ".3."),
            (r"\.bn2\.(?=\w+$)", ".4."),
        ),
    )
    output_stride = 0  # Its logits have no positions.

    def __init__(
        self,
        num_classes: int,
        options: RANetOptions,
        *,
        semantics: nn.BlockOptions,
        rngs: nnx.Rngs,
    ) -> None:
        """With random weights; `semantics` plays no part, since it doesn't run in blocks."""
        self.sizes, self.semantics, self.num_classes = options, semantics, num_classes
        rngs = ManyKeys(rngs)
        widths = [options.channels * factor for factor in options.growth_factors]
        self.base = nnx.List(_base(options, widths, rngs))
        self.flows: Any = nnx.List([])
        below: list[BlockSize] = []
        for i, width in enumerate(widths):
            blocks, below = _flow(options, i, width, below, rngs)
            self.flows.append(nnx.List(blocks))
        self.stages = _stages(options)
        self.exits: Any = nnx.List([])
        for stage in self.stages:
            features = self.flows[stage.flow][stage.stop - 1].features
            inner = _EXIT_WIDTH if options.stem == "cifar" else features
            self.exits.append(Exit(features, inner, num_classes, rngs=rngs))

    def __call__(self, images: Image) -> list[Float[Array, "n k"]]:
        """Normalized images (n, h, w, 3) -> logits (n, classes) of every exit.

        Raises:
            InputError: images of a size that the exits can't take; blocks.
        """
        progress, found = self.start(images), []
        for number in range(len(self.stages)):
            logits, progress = self.stage(number, progress)
            found.append(logits)
        return found

    def start(self, images: Image) -> Progress:
        """The features that each sub-network starts from; arguments and errors as of a call."""
        self.check(images)
        return run_base(self.base, images)

    def stage(self, number: int, progress: Progress) -> tuple[Float[Array, "n k"], Progress]:
        """Runs up to the next exit: its logits, and what the next stage needs."""
        stage = self.stages[number]
        return run_stage(stage, self.blocks(stage), self.exits[number], progress)

    def blocks(self, stage: Stage) -> list[Block]:
        """The blocks that a stage runs."""
        return [self.flows[stage.flow][i] for i in range(stage.first, stage.stop)]

    def check(self, images: Any) -> None:
        """Raises InputError for images that the exits can't take; their `shape` alone matters."""
        if isinstance(images, DualRes):
            raise InputError("RANet: it got blocks, and runs on whole images only")
        self.sizes.check_size(images.shape[1:3])


def _base(options: RANetOptions, widths: list[int], rngs: nnx.Rngs) -> list[ConvNorm]:
    """The stem, then a convolution to each lower sub-network, which has the size of the one before or half of it."""
    stem = (
        ImageNetStem(widths[-1], rngs=rngs)
        if options.stem == "imagenet"
        else ConvNorm(3, widths[-1], 3, kernel_init=small_uniform, rngs=rngs)
    )
    convs = [stem]
    for i in reversed(range(len(widths) - 1)):
        stride = options.scales[i + 1] - options.scales[i] + 1
        convs.append(
            ConvNorm(
                widths[i + 1], widths[i], 3, stride=stride, kernel_init=small_uniform, rngs=rngs
            )
        )
    return convs


def _flow(
    options: RANetOptions, i: int, width: int, below: list[BlockSize], rngs: nnx.Rngs
) -> tuple[list[Block], list[BlockSize]]:
    """Sub-network i on features of `width` channels, which fuses the blocks `below`."""
    blocks: list[Block] = []
    found: list[BlockSize] = []
    for number in range(options.blocks_of[i]):
        size = BlockSize(
            before=width,
            growth=options.growth * options.growth_factors[i],
            layers=options.layers(number),
            bottleneck=options.bottleneck_factors[i],
            compress=options.compress,
            reduction=options.reduction if number in options.transitions(i) else None,
            down=number in options.downs(i),
        )
        blocks.append(Block(size, below[number] if number < len(below) else None, rngs=rngs))
        found.append(size)
        width = blocks[-1].features
    return blocks, found


def _stages(options: RANetOptions) -> tuple[Stage, ...]:
    """An exit follows each block that fuses none."""
    found: list[Stage] = []
    for i, (count, exits) in enumerate(zip(options.blocks_of, options.exits_of, strict=True)):
        first = 0
        for stop in range(count - exits + 1, count + 1):
            found.append(Stage(len(found), i, first, stop, stop == count))
            first = stop
    return tuple(found)


CIFAR_EVEN = NetworkEntry(RANetOptions, RANet, 10)
CIFAR_LG = NetworkEntry(sizes.CifarLgOptions, RANet, 10)
IMAGENET_MAIN = NetworkEntry(sizes.ImageNetOptions, RANet, 1000)
IMAGENET_README = NetworkEntry(sizes.ImageNetReadmeOptions, RANet, 1000)
IMAGENET_TRAIN_SH = NetworkEntry(sizes.ImageNetScriptOptions, RANet, 1000)
