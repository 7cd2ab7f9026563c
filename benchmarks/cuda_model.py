"""Time of a frame on an H200, modeled from counted instructions, bytes and tiles. Not measured on a GPU.

    python benchmarks/cuda_model.py --output=benchmarks/results/cuda_model.json

SwiftNet RN18 at 1024 x 2048 in bfloat16: the fused network in blocks against a dense network on cuDNN. Instructions
are those of benchmarks/results/cuda_instructions.json; cuda_machine.py says what is assumed. Ratios depend most
on `Machine.groups`, `launch`, `memory`, `issue_around`, and `Library.efficiency`.
"""

import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Iterator

from absl import app, flags
from cuda_machine import (
    BLOCKS,
    GROUP_TILES,
    LAYERS,
    PARTS,
    TILES,
    GroupTile,
    Layer,
    Library,
    Machine,
    Tile,
)

_COUNTS = flags.DEFINE_string(
    "counts", "benchmarks/results/cuda_instructions.json", "What cuda_instructions.py wrote."
)
_GROUPS = flags.DEFINE_bool("groups", True, "With products of warp groups.")
_LABELS = flags.DEFINE_string(
    "labels", "street scene", "The label map's logits, of the counts' label_map_by_logits."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")
# Launches of a frame for halos of convolutions that nothing lends: of the image and of the pooled rows.
OWN_HALOS = 2


def shared_tile(
    layer: Layer, high: float, low: float, tile: Tile, parts: int, machine: Machine
) -> float:
    """Seconds of a convolution in blocks, in such tiles."""
    rows, columns, depth = tile.rows, tile.columns, tile.depth
    row_tiles = math.ceil(layer.rows(high, 0) / rows) + math.ceil(layer.rows(0, low) / rows)
    blocks = row_tiles * math.ceil(layer.features / columns) * parts
    stages = math.ceil(math.ceil(layer.terms / depth) / parts)
    cache = machine.cache / machine.processors / machine.clock
    read = rows * depth * 2 * (machine.misses if layer.window > 1 else 1) + columns * depth * 2
    # Each warp reads its own 64 rows and 64 columns.
    copied = (rows + columns + tile.warps * (64 + 64)) * depth * 2
    products = rows * columns * depth / machine.tensor
    instructions = (tile.stage if layer.channels % 8 == 0 else tile.stage_of_4) * tile.warps
    stage = max(products, copied / machine.shared, read / cache, instructions / machine.issue)
    written = rows * columns * 2 * (2 if layer.residual else 1) / cache
    rest = max(tile.rest * tile.warps / machine.issue, written) / parts
    if parts > 1:
        rest += rows * columns * 4 / machine.exchange + machine.meeting
    alone = max(stage, products + tile.latency) * stages + rest + 1500
    waves = math.ceil(blocks / machine.processors)
    busy = stages * stage + rest
    many = waves > tile.resident
    clocks = busy * (blocks / machine.processors + 0.3 if many else waves)
    return max(clocks, alone) / machine.clock + machine.launch


def group_tile(
    layer: Layer, high: float, low: float, tile: GroupTile, parts: int, machine: Machine
) -> float:
    """Seconds of a convolution in blocks, in such tiles."""
    rows, columns, depth = tile.rows, tile.columns, tile.depth
    cache = machine.cache / machine.processors / machine.clock
    slices = math.ceil(layer.channels / depth)
    stages = math.ceil(slices / parts) * layer.window**2
    products = rows * columns * depth / machine.groups
    written = rows * columns * 2 * (2 if layer.residual else 1) / cache
    meeting = rows * columns * 4 / machine.exchange + machine.meeting if parts > 1 else 0
    tiles, busy, alone = 0, 0.0, 0.0
    for count, side in (
        (math.ceil(layer.rows(high, 0) / rows), layer.side),
        (math.ceil(layer.rows(0, low) / rows), layer.side // 2),
    ):
        places = tile.covered(layer, side)
        if places > tile.places:
            return math.inf
        if count == 0:
            continue
        # Of a stage; a slice of the rows is copied once for all taps.
        copied = (columns + places / layer.window**2) * depth * 2
        # Rows through registers, half as fast where every second one is read; weights by each
        # product of 64 rows.
        read = rows * depth * 2 * layer.stride + rows / 64 * columns * depth * 2
        instructions = tile.stage * tile.warps
        stage = max(
            products,
            (copied + read) / machine.shared,
            copied / cache,
            instructions / machine.issue,
        )
        rest = max(tile.rest * tile.warps / machine.issue, written) / parts + meeting
        alone = max(alone, max(stage, products + tile.latency) * stages + rest + 1500)
        busy += count * parts * (stages * stage + rest)
        tiles += count * parts
    across = math.ceil(layer.features / columns)
    waves = math.ceil(tiles * across / machine.processors)
    turns = tiles * across / machine.processors + 0.3 if waves > tile.resident else waves
    return max(busy / tiles * turns, alone) / machine.clock + machine.launch


def convolution(layer: Layer, high: float, low: float, machine: Machine) -> float:
    """Seconds of a convolution in blocks; the best tile, as xla_ffi/cuda/indexed_conv_plan.h chooses it."""
    parts = PARTS if layer.channels % 8 == 0 else (1,)
    groups = (
        group_tile(layer, high, low, tile, part, machine)
        for tile in GROUP_TILES
        for part in parts
        if layer.channels % 8 == 0 and part <= math.ceil(layer.channels / tile.depth)
    )
    return min(
        min(groups, default=math.inf) if _GROUPS.value else math.inf,
        mma_tile(layer, high, low, parts, machine),
    )


def mma_tile(
    layer: Layer, high: float, low: float, parts: tuple[int, ...], machine: Machine
) -> float:
    """The best of those by mma.sync."""
    return min(
        shared_tile(layer, high, low, tile, part, machine)
        for tile in (TILES if layer.channels % 8 == 0 else TILES[1:])
        for part in parts
        if part == 1 or layer.terms >= 4 * 64 * part
    )


def library(layer: Layer, images: int, machine: Machine, cudnn: Library) -> float:
    """Seconds of a dense convolution of cuDNN: the best of its tiles and splits."""
    channels = 3 if layer.channels == 4 else layer.channels
    terms = max(channels * layer.window**2, 192 if channels == 3 else 0)
    rows = layer.rows(BLOCKS * images, 0)
    read = BLOCKS * images * layer.side**2 * channels
    if layer.window < layer.stride:
        read /= layer.stride**2
    moved = 2 * (read + rows * layer.features * (2 if layer.residual else 1))
    best = math.inf
    for down, across, efficiency in cudnn.efficiency:
        if across > max(64, layer.features):
            continue
        tiles = math.ceil(rows / down) * math.ceil(layer.features / across)
        for parts in (1, 2, 4, 8):
            depth = math.ceil(terms / parts / 64) * 64
            if parts > 1 and depth < 256:
                continue
            rate = cudnn.rate * efficiency / machine.processors
            products = math.ceil(tiles * parts / machine.processors) * down * across * depth / rate
            reads = tiles * (down + across) * terms * 2 / machine.cache
            once = max(products, reads, moved / machine.memory) + (1e-6 if parts > 1 else 0)
            best = min(best, once)
    return best + machine.launch


def around(
    counts: dict, share: float, images: int, machine: Machine
) -> Iterator[tuple[str, float]]:
    """Name and seconds of what a frame in blocks has besides convolutions."""
    pixels = (share + (1 - share) / 4) / (counts["share_high"] + (1 - counts["share_high"]) / 4)
    # What doesn't shrink with the blocks.
    fixed = {"split": 0.6, "combine": 0.5, "label_map": 1.0}
    issue = machine.issue_around * machine.processors * machine.clock / machine.machine_code
    frame = 1024 * 2048 * images
    moved = {"split": frame * 6 * 1.55, "combine": frame / 16 * 38 * 1.55, "label_map": frame * 3.4}
    for name, one in counts["operations"].items():
        if name == "convolutions":
            continue
        part = fixed.get(name, 0)
        counted = one["warp_instructions"]
        if name == "label_map":
            counted = counts["label_map_by_logits"][_LABELS.value] * 1e6
        instructions = counted * (part + (1 - part) * pixels) * images
        seconds = max(instructions / issue, moved.get(name, 0) / machine.memory)
        yield name, seconds + one["launches"] * machine.launch
    yield "halos of convolutions", OWN_HALOS * machine.launch
    # Spatial pyramid, padding of channels, sorting of the grid and policy, as XLA runs them: launches above all.
    yield "spatial pyramid", 14 * 2.5e-6
    yield "channels of the image", frame * 0.55 * 14 / machine.memory + machine.launch
    yield "grid", 10 * 2.5e-6
    yield "policy network", 32e-6 * images**0.5


def report(counts: dict, machine: Machine, cudnn: Library) -> Iterator[dict]:
    """One entry a batch size and share of high blocks."""
    for images in (1, 8):
        dense = sum(layer.times * library(layer, images, machine, cudnn) for layer in LAYERS)
        dense += cudnn.around + cudnn.around_each * (images - 1)
        for share in (1.0, 0.4, 0.2):
            high = round(BLOCKS * share) * images
            low = BLOCKS * images - high
            convolutions = sum(
                layer.times * convolution(layer, high, low, machine) for layer in LAYERS
            )
            parts = dict(around(counts, share, images, machine))
            total = convolutions + sum(parts.values())
            yield {
                "batch": images,
                "share_high": share,
                "ratio_to_dense": dense / total,
                "dense_us": dense * 1e6,
                "blocks_us": total * 1e6,
                "convolutions_us": convolutions * 1e6,
                "around_us": {name: seconds * 1e6 for name, seconds in parts.items()},
            }


def main(argv: list[str]) -> None:
    """Prints the table and writes it."""
    del argv
    counts = json.loads(pathlib.Path(_COUNTS.value).read_text())
    if (counts["model"], counts["size"], counts["batch"]) != ("swiftnet_rn18", [1024, 2048], 1):
        raise app.UsageError("--counts: expected those of one image of 1024 x 2048, swiftnet_rn18")
    if _LABELS.value not in counts["label_map_by_logits"]:
        known = ", ".join(counts["label_map_by_logits"])
        raise app.UsageError(f"--labels is {_LABELS.value!r}; expected one of {known}")
    machine, cudnn = Machine(), Library()
    rows = list(report(counts, machine, cudnn))
    for row in rows:
        print(
            f"batch {row['batch']}, {row['share_high']:.0%} high: dense {row['dense_us']:6.0f} us, blocks"
            f" {row['blocks_us']:6.0f} us ({row['convolutions_us']:.0f} convolutions), {row['ratio_to_dense']:.2f} x"
        )
    if _OUTPUT.value:
        assumed = {"machine": dataclasses.asdict(machine), "library": dataclasses.asdict(cudnn)}
        assumed["tiles"] = [dataclasses.asdict(tile) for tile in (*TILES, *GROUP_TILES)]
        text = {
            "modeled": "not measured on a GPU",
            "labels": _LABELS.value,
            "warp_groups": _GROUPS.value,
            "assumed": assumed,
            "rows": rows,
        }
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(app.run(main))
