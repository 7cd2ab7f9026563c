"""Evaluation batches: whole images, padded to a few sizes, in batches that are always full."""

import contextlib
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Generator, Sequence

import numpy as np
from jaxtyping import UInt8

from segblocks_jax.data.pipeline import Source, fill_color
from segblocks_jax.data.reading import read_batches
from segblocks_jax.errors import InputError
from segblocks_jax.tasks.segmentation.labels import IGNORE

Size = tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class EvalBatch:
    """A batch of whole images, padded at the bottom and right to a common size.

    Attributes:
        image: uint8 (n, h, w, 3); padding has the mean color, as have images beyond `count`.
        label: uint8 (n, h, w) train ids; padding and labels beyond `count` are 255.
        names: of the `count` real images.
        sizes: (height, width) of the real images before padding.
    """

    image: UInt8[np.ndarray, "n h w 3"]
    label: UInt8[np.ndarray, "n h w"]
    names: tuple[str, ...]
    sizes: tuple[Size, ...]

    @property
    def count(self) -> int:
        """The number of real images; the rest of the batch only fills it up."""
        return len(self.names)


def padded_sizes(sizes: Sequence[Size], multiple: int, limit: int) -> dict[Size, Size]:
    """Chooses the few sizes that images are padded to.

    Starts with every (height, width) of an image rounded up to multiples of `multiple` pixels and merges, while
    there are more than `limit`, the two whose common size adds the fewest pixels over all images. Gives the
    padded size of every size.
    """
    members: dict[Size, Counter[Size]] = defaultdict(Counter)
    for height, width in sizes:
        members[_round_up((height, width), multiple)][height, width] += 1
    while len(members) > limit:
        counts = {size: own.total() for size, own in members.items()}

        def added(pair: tuple[Size, Size], counts: dict[Size, int] = counts) -> int:
            height, width = _cover(*pair)
            return sum(counts[s] * (height * width - s[0] * s[1]) for s in pair)

        ordered = sorted(members)
        a, b = min(((a, b) for i, a in enumerate(ordered) for b in ordered[:i]), key=added)
        members[_cover(a, b)] = members.pop(a) + members.pop(b) + members[_cover(a, b)]
    return {size: padded for padded, own in members.items() for size in own}


def _round_up(size: Size, multiple: int) -> Size:
    return -(-size[0] // multiple) * multiple, -(-size[1] // multiple) * multiple


def _cover(a: Size, b: Size) -> Size:
    return max(a[0], b[0]), max(a[1], b[1])


def eval_batches(
    source: Source,
    batch_size: int,
    multiple: int,
    max_sizes: int = 8,
    shard: tuple[int, int] = (0, 1),
) -> Generator[EvalBatch, None, None]:
    """All items once, in batches that all have `batch_size` images, of at most `max_sizes` sizes.

    Images of equal padded size share a batch, in order; those of one size alone come in the order of the
    source. The last batch of every size is filled up with ignored images. So a whole data set takes at most
    `max_sizes` shapes, however many sizes its images have. Threads read ahead until the generator ends or is
    closed, so use `contextlib.closing` where a loop over it may fail.

    Args:
        source: items {"image", "label", "name"} with random access.
        batch_size: images per batch.
        multiple: heights and widths are padded up to a multiple of this, in pixels.
        max_sizes: how many padded sizes there may be, see `padded_sizes`.
        shard: (host, hosts): gives every `hosts`-th batch, beginning with the `host`-th, and reads no others.

    Raises:
        ValueError: an argument below 1, or no such host.
    """
    if min(batch_size, multiple, max_sizes) < 1:
        raise InputError(
            "eval_batches needs batch_size, multiple and max_sizes >= 1, got "
            f"{batch_size}, {multiple} and {max_sizes}"
        )
    host, hosts = shard
    if not 0 <= host < hosts:
        raise InputError(f"eval_batches: host {host} of {hosts}; expected hosts counted from 0")
    sizes = getattr(source, "sizes", None)
    if sizes is None:
        sizes = [source[i]["label"].shape for i in range(len(source))]
    groups = _group(sizes, batch_size, padded_sizes(sizes, multiple, max_sizes))
    return _read(source, batch_size, groups[host::hosts])


def _group(
    sizes: Sequence[Size], batch_size: int, padded: dict[Size, Size]
) -> list[tuple[Size, list[int]]]:
    """The padded size and the items of every batch."""
    groups = []
    waiting: dict[Size, list[int]] = defaultdict(list)
    for i, (height, width) in enumerate(sizes):
        size = padded[height, width]
        waiting[size].append(i)
        if len(waiting[size]) == batch_size:
            groups.append((size, waiting.pop(size)))
    return groups + list(waiting.items())


def _read(
    source: Source, batch_size: int, groups: list[tuple[Size, list[int]]]
) -> Generator[EvalBatch, None, None]:
    fill = fill_color(source)
    members = [items for _, items in groups]
    reading = read_batches(source.__getitem__, members, batch_size, caller="eval_batches")
    with contextlib.closing(reading):
        for (size, _), items in zip(groups, reading, strict=True):
            yield _pad_batch(items, batch_size, size, fill)


def _pad_batch(items: list[dict], batch_size: int, size: Size, fill) -> EvalBatch:
    return EvalBatch(
        image=_pad([item["image"] for item in items], batch_size, size, fill),
        label=_pad([item["label"] for item in items], batch_size, size, IGNORE),
        names=tuple(item["name"] for item in items),
        sizes=tuple(item["label"].shape for item in items),
    )


def _pad(parts: list[np.ndarray], count: int, size: Size, fill) -> np.ndarray:
    """`count` arrays of one size: the parts at their upper left corners, and a color or label around."""
    padded = np.full((count, *size, *np.shape(fill)), fill, np.uint8)
    for whole, part in zip(padded, parts, strict=False):
        whole[: part.shape[0], : part.shape[1]] = part
    return padded


def pad_to_multiple(
    image: UInt8[np.ndarray, "h w 3"], multiple: int, fill: tuple[int, int, int]
) -> UInt8[np.ndarray, "ph pw 3"]:
    """Pads an image at the bottom and right with a color, up to multiples of `multiple` pixels."""
    return _pad([image], 1, _round_up(image.shape[:2], multiple), fill)[0]
