"""The smallest system that has every part: for tests of training and inference."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from segblocks_jax.data import NORMALIZATION
from segblocks_jax.experiments.plan import Plan, Sweep, make_plan
from segblocks_jax.experiments.sweep import sweep
from segblocks_jax.systems.segblocks.build import create_system
from segblocks_jax.systems.segblocks.config import ExperimentConfig
from segblocks_jax.systems.segblocks.step import TrainStep
from segblocks_jax.systems.segblocks.system import SegBlocks
from segblocks_jax.training.state import create_optimizer, create_state

CLASSES = 19


def config(policy_name="reinforce", **changes):
    """128 x 128 street scenes in four blocks."""
    mapping = {
        "name": "tiny",
        "data": {
            "dataset": "street_scenes",
            "crop": (128, 128),
            "scenes": (8, 3),
            "scene_size": (128, 192),
        },
        "model": {"width": 8, "features": 12},
        "policy": {
            "name": policy_name,
            "reward": "loss",
            "block_size": 64,
            "target": 0.5,
            "bucket_step": 0.25,
        },
        "optim": {"batch_size": 4, "steps": 4, "learning_rate": 1e-3},
        "loop": {
            "eval_every": 4,
            "checkpoint_every": 2,
            "log_every": 1,
            "eval_batch_size": 2,
            "eval_pictures": 2,
        },
    }
    for name, value in changes.items():
        mapping[name] = {**mapping.get(name, {}), **value} if isinstance(value, dict) else value
    return ExperimentConfig.from_mapping(mapping)


def batch(images=4, seed=0):
    """Noise with labels that follow its brightness, some of them ignored."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (images, 8, 8, 3)).astype(np.uint8)
    image = coarse.repeat(16, 1).repeat(16, 2)
    label = (image[..., 0] // 16).astype(np.uint8)
    label[:, :20] = 255
    return {"image": image, "label": label}


def system(settings, *sources):
    """The system of a configuration, with sources to train on and to evaluate on if they are given."""
    return SegBlocks(settings, sources=sources or None)


def trainer(settings, mesh=None):
    """(step, state) of a configuration."""
    optimizer = create_optimizer(settings.optim, system(settings).multipliers())
    graphdef, state = create_state(create_system(settings, CLASSES), optimizer, settings.seed)
    step = TrainStep(graphdef, optimizer, settings, NORMALIZATION["street_scenes"], mesh)
    return step, step.place(state)


@dataclasses.dataclass(frozen=True)
class FinishedSweep:
    """A sweep that was interrupted in its first run, run again, and run once more for nothing.

    Attributes:
        plan: its rows; two of them are one run.
        folder: of the runs.
        steps: numbers of the steps that were begun, in order.
    """

    plan: Plan
    folder: pathlib.Path
    steps: list[int]


def finished_sweep(folder):
    """Runs it, each program compiled once: with one number of high blocks, kept over the interruption."""
    rows = {
        "learned": {},
        "static, half": {"policy.name": "static", "model.input_scale": 0.5},
        "again": {"policy.target": 0.5},
    }
    base = config(policy={"bucket_step": 1.0}).to_dict()
    plan, steps = make_plan("tiny", Sweep("Tiny", rows), base), []
    take_step = TrainStep.__call__

    def counted(self, state, batch):
        steps.append(int(state.step))
        if steps == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return take_step(self, state, batch)

    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(folder / "compilation_cache"))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrainStep, "__call__", counted)
            with pytest.raises(KeyboardInterrupt):
                sweep([plan], folder, str(folder / "data"))
            assert not list(folder.glob("runs/*/run.json"))
            assert sweep([plan], folder, str(folder / "data")) == {}
            taken = len(steps)
            assert sweep([plan], folder, str(folder / "data")) == {}
            assert len(steps) == taken
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    return FinishedSweep(plan, folder, steps)
