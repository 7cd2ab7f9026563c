"""Several processes, on one machine or many, that train together: start, shares, sums."""

import pickle
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from segblocks_jax.errors import InputError

AXIS = "data"
T = TypeVar("T")


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes; comes before the first use of a device.

    This is number `process_id`, from 0, of `num_processes`; `coordinator` is host:port of the first. Without
    arguments jax finds them itself where it knows the cluster: Slurm, Open MPI, Kubernetes, Cloud TPU. Raises
    ValueError for some arguments but not all, or none and no known cluster.
    """
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise InputError(
            f"--distributed: {', '.join(missing)} missing; give {', '.join(given)}, or none of them"
            " under Slurm"
        )
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except ValueError as error:
        raise InputError(
            f"--distributed: no cluster found ({error}); run under Slurm (srun), or give"
            f" {', '.join(given)}"
        ) from error


def is_first() -> bool:
    """Whether this process writes logs, results and exports: one of all does."""
    return jax.process_index() == 0


def data_mesh() -> Mesh:
    """A mesh of all devices of all processes along the batch, in the processes' order."""
    return Mesh(np.array(jax.devices()), (AXIS,))


def local_mesh() -> Mesh:
    """A mesh of this process's devices along the batch."""
    return Mesh(np.array(jax.local_devices()), (AXIS,))


def put_batch(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.Array]:
    """Spreads a batch over a mesh; `batch` is this process's part, the parts in the processes' order."""
    sharding = NamedSharding(mesh, P(AXIS))
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(part))
        for name, part in batch.items()
    }


def put_on_all(tree: T, mesh: Mesh) -> T:
    """Arrays that all processes have alike, on every device of a mesh."""
    # Not device_put, which takes no PRNG keys to devices of other processes.
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))(tree)


def on_one_device(tree: Any) -> Any:
    """Arrays that all devices hold alike, as arrays on one device of this process."""
    return jax.tree.map(lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x, tree)


def gather(value: T) -> list[T]:
    """Every process's value, in their order, in all of them; anything that pickles, but small."""
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    padded = np.pad(data, (0, int(sizes.max()) - data.size))
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
