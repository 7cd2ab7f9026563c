"""What cuda_model.py assumes of a GPU and of cuDNN; SwiftNet RN18's layers; the tiles of our convolutions."""

import dataclasses
import math

BLOCKS, SIDE = 128, 128  # Of 1024 x 2048.


@dataclasses.dataclass(frozen=True)
class Machine:
    """An H200, and how much of it kernels sustain; figures without a source are guesses.

    Attributes:
        processors, clock: multiprocessors; Hz under load.
        tensor: multiply-adds a clock and multiprocessor by mma.sync, 62% of the peak that wgmma reaches.
        groups: the same by wgmma: what `Library.rate` is, 86% of the peak.
        shared, cache, memory: bytes a clock and multiprocessor; bytes a second of L2 and of memory, 90% of its peak.
        issue, issue_around: instructions a clock and multiprocessor, of 4, in convolutions and around them.
        machine_code: instructions of machine code for one of PTX.
        launch: seconds from one kernel of a captured graph to the next, its ramp up and down included.
        misses: share of the row reads of a window that the L1 cache doesn't have.
        exchange: bytes a clock and multiprocessor from the shared memory of another one in the cluster.
        meeting: clocks that the barriers of a cluster take, for each tile.
    """

    processors: int = 132
    clock: float = 1.7e9
    tensor: float = 0.62 * 2048
    groups: float = 395e12 / 132 / 1.7e9
    shared: float = 128
    cache: float = 5.5e12
    memory: float = 4.3e12
    issue: float = 3.2
    issue_around: float = 2.0
    machine_code: float = 1.15
    launch: float = 3.0e-6
    misses: float = 0.6
    exchange: float = 32
    meeting: float = 800


@dataclasses.dataclass(frozen=True)
class Library:
    """Convolutions of cuDNN and what a dense frame has around them.

    Attributes:
        rate: multiply-adds a second at the best tile.
        efficiency: share of it, by the rows and columns of a tile.
        around, around_each: seconds a frame outside of convolutions; for each further image of a batch.
    """

    rate: float = 395e12
    efficiency: tuple[tuple[int, int, float], ...] = (
        (64, 64, 0.50),
        (128, 64, 0.65),
        (64, 128, 0.65),
        (128, 128, 0.85),
        (256, 64, 0.75),
        (256, 128, 0.95),
        (128, 256, 0.95),
    )
    around: float = 60e-6
    around_each: float = 25e-6


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution: the side of a high block of its input, and how often it occurs."""

    channels: int
    features: int
    window: int
    stride: int
    side: int
    times: int = 1
    residual: bool = False

    @property
    def terms(self) -> int:
        """Of each sum."""
        return self.channels * self.window**2

    def rows(self, high: float, low: float) -> float:
        """Outputs of so many high and low blocks, with low sides half as long."""
        return (high + low / 4) * (self.side // self.stride) ** 2


LAYERS = (
    Layer(4, 64, 7, 2, 128),  # The image's three channels, filled up.
    Layer(64, 64, 3, 1, 32, 4, residual=True),
    Layer(64, 128, 3, 2, 32),
    Layer(64, 128, 1, 2, 32),
    Layer(128, 128, 3, 1, 16, 3, residual=True),
    Layer(128, 256, 3, 2, 16),
    Layer(128, 256, 1, 2, 16),
    Layer(256, 256, 3, 1, 8, 3, residual=True),
    Layer(256, 512, 3, 2, 8),
    Layer(256, 512, 1, 2, 8),
    Layer(512, 512, 3, 1, 4, 3, residual=True),
    Layer(256, 128, 1, 1, 8, residual=True),
    Layer(128, 128, 3, 1, 8),
    Layer(128, 128, 1, 1, 16, residual=True),
    Layer(128, 128, 3, 1, 16),
    Layer(64, 128, 1, 1, 32, residual=True),
    Layer(128, 128, 3, 1, 32),
    Layer(128, 19, 1, 1, 32),
)


@dataclasses.dataclass(frozen=True)
class Tile:
    """`rows` by `columns`, in stages of `depth` terms, a warp for 64 x 64 of them.

    Machine instructions of a warp: a stage (counted; of four channels at once: `stage_of_4`), all else (a guess).
    """

    rows: int
    columns: int
    depth: int
    stage: float
    rest: float
    stage_of_4: float = math.inf
    latency: float = 360  # Clocks of a stage that nothing else covers.

    @property
    def warps(self) -> int:
        """Each with 64 x 64 sums."""
        return self.rows * self.columns // 64**2

    @property
    def resident(self) -> int:
        """Tiles at once on a multiprocessor."""
        return 8 // self.warps


TILES = (
    Tile(256, 128, 64, 308, 2400),
    Tile(256, 64, 32, 218, 2400, 251),
)


@dataclasses.dataclass(frozen=True)
class GroupTile(Tile):
    """One of products of warp groups: `places` rows that its windows cover, at most, lie in shared memory."""

    places: int = 0
    latency: float = 180

    def covered(self, layer: Layer, side: int) -> int:
        """Rows that the windows of a tile cover, in blocks of such a side of the layer's input."""
        if layer.window == 1:
            return self.rows
        width = side + layer.window - 1
        down = math.ceil(self.rows * layer.stride**2 / side)
        if down <= side:
            return (down + layer.window - 1) * width
        return down // side * width**2


GROUP_TILES = (
    GroupTile(256, 128, 32, 138, 2400, places=1440),
    GroupTile(256, 64, 32, 167, 2400, places=640),
)
PARTS = (1, 2, 4, 8)  # Blocks of threads that share the terms of a tile.
