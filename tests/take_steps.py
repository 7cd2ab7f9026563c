"""Takes training steps on given batches and grids, on any number of devices and processes.

A program of its own, for numbers of devices and processes that the tests' process doesn't have:
``python take_steps.py FILE [COORDINATOR PROCESSES PROCESS]``.
"""

import sys

import jax
import numpy as np
import tiny

from segblocks_jax.policies import Decision
from segblocks_jax.training.distributed import data_mesh, is_first, on_one_device, put_batch, start

IMAGES, STEPS = 8, 20


def settings(**changes):
    """The learned policy: its advantage, too, has to be joint."""
    return tiny.config(
        "reinforce", optim={"batch_size": IMAGES, "learning_rate": 4e-4, "steps": STEPS}, **changes
    )


def own(batch):
    """This process's part of a batch."""
    return {k: np.split(v, jax.process_count())[jax.process_index()] for k, v in batch.items()}


def take(mesh, steps=STEPS, **changes):
    """Losses of all steps, and the state after them by name."""
    step, state = tiny.trainer(settings(**changes), mesh)
    rng, losses = np.random.default_rng(5), []
    for number in range(steps):
        # Two of an image's four blocks: so every device has as many, and fills up none.
        action = rng.permuted(np.tile([True, True, False, False], (IMAGES, 1)), axis=1)
        grids = {"action": action.reshape(IMAGES, 2, 2)}
        grids["scores"] = grids["action"].astype(np.float32)
        decision = Decision(**put_batch(own(grids), mesh))
        count = 2 * IMAGES // mesh.size // changes.get("optim", {}).get("accumulate", 1)
        step._decide = lambda *_, decided=(decision, count): decided
        state, metrics = step(state, own(tiny.batch(IMAGES, seed=number)))
        losses.append({name: float(value) for name, value in metrics.items()})
    found = {
        f"{part}/{jax.tree_util.keystr(path, simple=True, separator='/')}": np.asarray(leaf)
        for part in ("params", "stats")
        for path, leaf in jax.tree.leaves_with_path(on_one_device(getattr(state, part)))
    }
    return found | {name: np.array([row[name] for row in losses]) for name in losses[0]}


if __name__ == "__main__":
    file, *others = sys.argv[1:]
    if others:
        start(others[0], int(others[1]), int(others[2]))
    result = take(data_mesh())
    if is_first():
        np.savez(file, **result)
