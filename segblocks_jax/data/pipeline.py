"""The training pipeline, on Grain: shuffled, augmented crops in batches that repeat to the bit.

A batch is a function of the seed and its number alone. Grain shuffles each epoch's indices by the seed
and the epoch; an item's generator is seeded by (seed, epoch, index). Threads, worker processes, hosts
and restarts change who makes a batch and when, never what is in it.
"""

import functools
import signal
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from absl import flags
from jaxtyping import Shaped

from segblocks_jax.data.datasets import NORMALIZATION
from segblocks_jax.errors import InputError, extra

# Batches made side by side without worker processes: enough to hide a slow one, few enough for batches
# of full-size images. A worker makes one at a time, and one more ahead.
_THREADS = 4
_AHEAD = 2


@runtime_checkable
class Source(Protocol):
    """Random access to items {"image", "label", "name"}: a list, or what `open_dataset` returns.

    A `normalization` attribute, if there is one, gives the color of padding; `sizes` spares
    evaluation from looking at every image.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


Augment = Callable[..., tuple[Any, Any]]
"""``image, label = augment(image, label, rng, fill)``: what happens to each item, such as an `Augmentation`."""


def fill_color(source: Source) -> tuple[int, int, int]:
    """The color of padding: the source's mean, Cityscapes' for sources that don't name one."""
    return getattr(source, "normalization", NORMALIZATION["cityscapes"]).fill


class TrainBatches(Iterator):
    """Endless training batches {"image": uint8 (n, h, w, 3), "label": (n, ...)}, as the augmentation gives them.

    Labels are uint8 of pixels, int32 of images, float32 of joints.

    `get_state` returns a small dict of plain values (store it with the checkpoint); after
    `set_state` with it the same batches follow, whatever the number of workers is then. `close` stops
    reading ahead (threads, processes); dropping the iterator does the same.
    """

    def __init__(self, dataset: Any, workers: int, identity: dict[str, int]):
        """`dataset` is a Grain MapDataset of batches; `identity` is what determines them."""
        self._dataset, self._workers, self._identity = dataset, workers, identity
        self._next = 0
        self._running: list = []
        # Runs at exit too, while the modules that Grain's own clean-up needs still exist.
        self._stop = weakref.finalize(self, _close, self._running)

    def __next__(self) -> dict[str, Shaped[np.ndarray, "n ..."]]:
        if not self._stop.alive:
            raise InputError("these training batches were closed; make new ones")
        if not self._running:
            self._running.append(self._start())
        batch = next(self._running[0])
        self._next += 1
        # Batches of workers lie in shared memory that is freed with the iterator: copy.
        return {k: np.array(v) for k, v in batch.items()} if self._workers else batch

    def get_state(self) -> dict[str, int]:
        """Where the iterator stands: the next batch, and what determines all of them."""
        return {"next_batch": self._next, **self._identity}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues where `state` was taken; raises ValueError where that was of other batches."""
        if {k: v for k, v in state.items() if k != "next_batch"} != self._identity:
            raise InputError(
                f"these batches can't continue from {state}: they are determined by {self._identity}; "
                "use the seed, batch size and data set of the interrupted run"
            )
        _close(self._running)
        self._next = state["next_batch"]

    def close(self) -> None:
        """Stops reading ahead; there is no next batch any more."""
        self._stop()

    def _start(self) -> Iterator:
        import grain

        threads, ahead = (1, _AHEAD) if self._workers else (_THREADS, _THREADS)
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        batches = self._dataset[self._next :].to_iter_dataset(options)
        if self._workers:
            # Grain's worker processes read absl flags, which a program without absl.app never
            # parses; their defaults are what is wanted then.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            multiprocessing = grain.MultiprocessingOptions(num_workers=self._workers)
            batches = batches.mp_prefetch(multiprocessing, worker_init_fn=_leave_signals)
        return iter(batches)


def _leave_signals(*_: int) -> None:
    """A signal to the process group is the main process's, which needs its batches until it has saved."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _close(running: list) -> None:
    # Dropped as well as closed: its destructor must run now and not during interpreter exit.
    while running:
        running.pop().close()


def _example(source: Source, augmentation: Augment, seed: int, position: int, index: int) -> dict:
    """Reads and augments an item; `position` counts those of all epochs."""
    rng = np.random.default_rng((seed, position // len(source), index))
    item = source[index]
    image, label = augmentation(item["image"], item["label"], rng, fill_color(source))
    return {"image": image, "label": label}


def train_batches(
    source: Source,
    augmentation: Augment,
    batch_size: int,
    seed: int,
    *,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> TrainBatches:
    """Endless shuffled, augmented batches.

    Every epoch visits every item once, in an order of its own; a batch may span two epochs.

    Args:
        source: items {"image", "label", ...} with random access, as `open_dataset` returns.
        augmentation: what happens to each item; it gives images of one size.
        batch_size: items a batch over all hosts, n; may exceed the number of items.
        seed: with the number of a batch it determines the batch; not negative.
        workers: processes that read and augment; 0 for threads in this process.
        shard: (host, hosts): which of the hosts this is. It makes the `host`-th of `hosts` equal parts of each batch.

    Raises:
        ValueError: no items, a negative seed or number of workers, a batch size below 1 or no multiple
            of the hosts, or no such host.
    """
    with extra("train", "train_batches"):
        import grain

    host, hosts = shard
    if len(source) == 0 or batch_size < 1 or seed < 0 or workers < 0:
        raise InputError(
            "train_batches needs items, a batch size >= 1, a seed >= 0 and workers >= 0, got "
            f"{len(source)} items, batch size {batch_size}, seed {seed}, {workers} workers"
        )
    if not 0 <= host < hosts or batch_size % hosts:
        raise InputError(
            f"train_batches: batch size {batch_size} on host {host} of {hosts}; expected hosts counted "
            "from 0 and a batch size that is a multiple of their number"
        )
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    items = order.map_with_index(functools.partial(_example, source, augmentation, seed))
    # There is no remainder; without this Grain divides the endless length in floats, which overflows.
    parts = items.batch(batch_size // hosts, drop_remainder=True)[host::hosts]
    # The hosts are no part of it: a run may continue on another number of them.
    identity = {"seed": seed, "batch_size": batch_size, "items": len(source)}
    return TrainBatches(parts, workers, identity)
