"""Reading in order: where a data set lies, which batches a host reads, and threads that read ahead."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Generator, Sequence
from typing import Any

from segblocks_jax.errors import InputError, MissingFileError, extra
from segblocks_jax.paths import expand

DATA_DIR_VARIABLE = "SEGBLOCKS_DATA_DIR"
_THREADS = 4


def find_folder(
    name: str,
    expected: str,
    data_dir: str | os.PathLike | None,
    *,
    origin: str | None = None,
    caller: str,
) -> pathlib.Path:
    """The folder of a data set: the one of its name below `data_dir` or the environment's choice, or that itself.

    Args:
        name: of the data set.
        expected: what the folder holds.
        data_dir: None: the environment's choice.
        origin: where the data set comes from.
        caller: who asks, for messages.

    Raises:
        InputError: nothing says where it is.
        MissingFileError: there is no such folder.
    """
    data_dir = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if data_dir is None:
        source = f" (get {origin})" if origin else ""
        raise InputError(
            f"{caller}({name!r}): where is it? Pass data_dir=... or set {DATA_DIR_VARIABLE} to the folder that holds"
            f" {expected}{source}"
        )
    parent = expand(data_dir)
    if not parent.is_dir():
        raise MissingFileError(f"{parent}: no such folder; it should hold {expected}")
    own = parent / name
    return own if own.is_dir() else parent


def batches_of_host(
    count: int, batch_size: int, shard: tuple[int, int], *, caller: str
) -> list[range]:
    """The items, of `count` in order, of each batch that a host reads; the last batch may have fewer.

    Args:
        count: of all items.
        batch_size: items per batch.
        shard: (host, hosts): every `hosts`-th batch, beginning with the `host`-th.
        caller: who asks, for messages.

    Raises:
        InputError: a batch size below 1, or no such host.
    """
    host, hosts = shard
    if batch_size < 1 or not 0 <= host < hosts:
        raise InputError(
            f"{caller} needs a batch size >= 1 and a host below {hosts}, got {batch_size} and {host}"
        )
    starts = range(0, count, batch_size)[host::hosts]
    return [range(start, min(start + batch_size, count)) for start in starts]


def read_batches(
    load: Callable[[int], Any], groups: Sequence[Sequence[int]], batch_size: int, *, caller: str
) -> Generator[list[Any], None, None]:
    """What `load` gives for the items of each group; threads read ahead until the generator ends or is closed.

    Raises:
        MissingPackageError: the packages of training aren't installed.
    """
    with extra("train", caller):
        import grain

    ahead = max(_THREADS, 2 * batch_size)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=ahead)
    wanted = [i for group in groups for i in group]
    items = grain.MapDataset.source(wanted).map(load).to_iter_dataset(options)
    with contextlib.closing(iter(items)) as reading:
        for group in groups:
            yield [next(reading) for _ in group]
