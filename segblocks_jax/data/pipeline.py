"""The input pipeline, on Grain: shuffled augmented crops for training, padded batches for scoring.

Every training batch is a function of (seed, step): Grain derives the order of an epoch from the
seed and the epoch, and each crop's generator from the seed and its position.
"""

import dataclasses
import weakref
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from absl import flags
from jaxtyping import UInt8

from segblocks_jax.data.augment import Augmentation
from segblocks_jax.data.labels import IGNORE
from segblocks_jax.data.normalisation import NORMALISATION

# Batches made side by side: enough to hide a slow one, few enough for batches of full-size images.
# Grain wants at least as many buffered items as threads.
_THREADS = 4


@runtime_checkable
class Source(Protocol):
    """Random access to items {"image", "label", "name"}: a list, or what `open_dataset` returns.

    A `normalisation` attribute, if there is one, gives the colour of padding.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


class TrainBatches(Iterator):
    """Endless training batches {"image": uint8 (n, h, w, 3), "label": uint8 (n, h, w)}.

    `get_state` returns a small dict of plain values (store it with the checkpoint); after
    `set_state` with it, on an iterator made with the same arguments, the same batches follow.
    `close` stops reading ahead (threads, processes); dropping the iterator does the same.
    """

    def __init__(self, dataset, workers: int):
        import grain

        options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_THREADS)
        batches = dataset.to_iter_dataset(options)
        if workers:
            # Grain's worker processes read absl flags, which a program without absl.app never
            # parses; their defaults are what is wanted then.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
        self._shared = workers > 0
        self._iterator = [iter(batches)]
        # Runs at exit too, while the modules that Grain's own clean-up needs still exist.
        self.close = weakref.finalize(self, _close, self._iterator)

    def __next__(self) -> dict[str, UInt8[np.ndarray, "n ..."]]:
        batch = next(self._running())
        # Batches of workers lie in shared memory that is freed with the iterator: copy.
        return {k: np.array(v) for k, v in batch.items()} if self._shared else batch

    def get_state(self) -> dict:
        """Where the iterator stands: what the next batch will be."""
        return self._running().get_state()

    def set_state(self, state: dict) -> None:
        """Continues where `state` was taken."""
        self._running().set_state(state)

    def _running(self):
        if not self._iterator:
            raise ValueError("these training batches were closed; make new ones")
        return self._iterator[0]


def _close(iterator: list) -> None:
    # Dropped as well as closed: its destructor must run now and not during interpreter exit.
    iterator.pop().close()


@dataclasses.dataclass(frozen=True)
class _Augment:
    """Augments an item of a source; a class and not a closure so that it pickles."""

    augmentation: Augmentation
    fill: tuple[int, int, int]

    def __call__(self, item: dict, rng: np.random.Generator) -> dict:
        image, label = self.augmentation(item["image"], item["label"], rng, self.fill)
        return {"image": image, "label": label}


def train_batches(
    source: Source,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    *,
    workers: int = 0,
) -> TrainBatches:
    """Endless shuffled, augmented batches.

    Every epoch visits every item once, in an order of its own; a batch may span two epochs.

    Args:
        source: items {"image", "label", ...} with random access, as `open_dataset` returns.
        augmentation: what happens to each item; its `crop` is the batches' size.
        batch_size: items a batch, n; may exceed the number of items.
        seed: with the step it determines every batch.
        workers: processes that read and augment; 0 for threads in this process. Not part of the
            batches' content, but of the state: resume with the same number.

    Raises:
        ValueError: no items, or a batch size below 1.
    """
    import grain

    if len(source) == 0 or batch_size < 1:
        raise ValueError(
            f"train_batches needs items and a batch size >= 1, got {len(source)} items and batch "
            f"size {batch_size}"
        )
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(_Augment(augmentation, _fill(source))).batch(batch_size)
    return TrainBatches(dataset, workers)


@dataclasses.dataclass(frozen=True, eq=False)
class EvalBatch:
    """A batch of whole images, padded at the bottom and right to a common size.

    Attributes:
        image: uint8 (n, h, w, 3); padding has the mean colour, as have images beyond `count`.
        label: uint8 (n, h, w) train ids; padding and labels beyond `count` are 255.
        names: of the `count` real images.
        sizes: (height, width) of the real images before padding.
    """

    image: UInt8[np.ndarray, "n h w 3"]
    label: UInt8[np.ndarray, "n h w"]
    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """The number of real images; the rest of the batch only fills it up."""
        return len(self.names)


def eval_batches(source: Source, batch_size: int, multiple: int) -> Iterator[EvalBatch]:
    """All items once, in order, in batches that all have `batch_size` images.

    Consecutive images of equal padded size share a batch. A batch that the next image doesn't fit,
    and the last one, is filled up with ignored images, so that a set of images of one size needs
    one compiled program.

    Args:
        source: items {"image", "label", "name"} with random access.
        batch_size: images a batch.
        multiple: heights and widths are padded up to a multiple of this, in pixels.

    Raises:
        ValueError: `batch_size` or `multiple` below 1.
    """
    if batch_size < 1 or multiple < 1:
        raise ValueError(
            f"eval_batches needs batch_size and multiple >= 1, got {batch_size} and {multiple}"
        )
    return _group(source, batch_size, multiple)


def _group(source, batch_size: int, multiple: int) -> Iterator[EvalBatch]:
    import grain

    fill = _fill(source)
    ahead = max(_THREADS, 2 * batch_size)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=ahead)
    waiting: list[dict] = []
    for item in grain.MapDataset.source(source).to_iter_dataset(options):
        fits = not waiting or _padded(item, multiple) == _padded(waiting[0], multiple)
        if not fits or len(waiting) == batch_size:
            yield _pad_batch(waiting, batch_size, _padded(waiting[0], multiple), fill)
            waiting = []
        waiting.append(item)
    if waiting:
        yield _pad_batch(waiting, batch_size, _padded(waiting[0], multiple), fill)


def _padded(item: dict, multiple: int) -> tuple[int, int]:
    height, width = (-(-side // multiple) * multiple for side in item["label"].shape)
    return height, width


def _pad_batch(items: list[dict], batch_size: int, size: tuple[int, int], fill) -> EvalBatch:
    image = np.empty((batch_size, *size, 3), np.uint8)
    image[:] = fill
    label = np.full((batch_size, *size), IGNORE, np.uint8)
    for i, item in enumerate(items):
        height, width = item["label"].shape
        image[i, :height, :width] = item["image"]
        label[i, :height, :width] = item["label"]
    return EvalBatch(
        image,
        label,
        names=tuple(item["name"] for item in items),
        sizes=tuple(item["label"].shape for item in items),
    )


def pad_to_multiple(
    image: UInt8[np.ndarray, "h w 3"], multiple: int, fill: tuple[int, int, int]
) -> UInt8[np.ndarray, "ph pw 3"]:
    """Pads an image at the bottom and right with a colour, up to multiples of `multiple` pixels."""
    height, width = image.shape[:2]
    padded = np.empty(
        (-(-height // multiple) * multiple, -(-width // multiple) * multiple, 3), np.uint8
    )
    padded[:] = fill
    padded[:height, :width] = image
    return padded


def _fill(source) -> tuple[int, int, int]:
    """The colour of padding: the source's mean, Cityscapes' for sources that don't name one."""
    return getattr(source, "normalisation", NORMALISATION["cityscapes"]).fill
