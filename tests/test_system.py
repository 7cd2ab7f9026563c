"""A system of another kind, whole in this file, in the training loop: softmax regression on points of a plane."""

import dataclasses
import itertools
import json
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from segblocks_jax.experiments.defaults import config
from segblocks_jax.structured_config import Config as Base
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.registry import SYSTEMS, system_of, system_type
from segblocks_jax.training import loop
from segblocks_jax.training.config import LoopConfig, OptimConfig
from segblocks_jax.training.preemption import Preempted
from segblocks_jax.training.system import System
from segblocks_jax.training.workdir import load_modules, open_checkpoints

OPTIM = OptimConfig(batch_size=16, steps=40, learning_rate=0.1)
LOOP = LoopConfig(eval_every=20, checkpoint_every=10, log_every=10)
CENTERS = np.array([[2.0, 0.0], [-2.0, 1.0], [0.0, -2.0]])


@dataclasses.dataclass(frozen=True)
class Config(Base):
    """Of an experiment."""

    name: str = "points"
    seed: int = 0
    noise: float = 0.5
    optim: OptimConfig = OPTIM
    loop: LoopConfig = LOOP


@dataclasses.dataclass(frozen=True)
class Batch:
    """Points and the numbers of the centers that they lie around."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def sample(cls, config, number, count):
        rng = np.random.default_rng((config.seed, number))
        y = rng.integers(0, len(CENTERS), count)
        x = CENTERS[y] + config.noise * rng.normal(size=(count, 2))
        return cls(x.astype(np.float32), y)

    @property
    def count(self):
        return len(self.y)


class Batches:
    """Endless training batches, each a function of its number."""

    def __init__(self, config):
        self.config, self.number, self.closed = config, 0, False

    def __next__(self):
        self.number += 1
        return Batch.sample(self.config, self.number, self.config.optim.batch_size)

    def get_state(self):
        return {"number": self.number}

    def set_state(self, state):
        self.number = state["number"]

    def close(self):
        self.closed = True


class Step:
    """One program, on one device."""

    def __init__(self, graphdef, optimizer):
        def loss(params, state, x, y):
            logits = nnx.merge(graphdef, params, state.stats)(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        def update(state, x, y):
            value, grads = jax.value_and_grad(loss)(state.params, state, x, y)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            new = dataclasses.replace(
                state, step=state.step + 1, params=params, opt_state=opt_state
            )
            return new, {"loss": value}

        self._update, self.compiled = jax.jit(update), set()

    def place(self, state):
        return state

    def warm_up(self, state):
        pass

    def __call__(self, state, batch):
        self.compiled.add("step")
        with jax.numpy_dtype_promotion("standard"):
            return self._update(state, batch.x, batch.y)


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """The result of an evaluation, and its cost: multiply-adds an example."""

    accuracy: float
    macs: int

    def to_dict(self):
        return dataclasses.asdict(self)

    def __str__(self):
        return f"accuracy {self.accuracy:.1%}"


class Points(System):
    """Which of three centers does a point lie around?"""

    config_type = Config
    main_metric = "accuracy"
    model = "softmax regression"
    eval_size = 200

    def __init__(self, config, *, data_dir=None, eval_split=None):
        self.config, self.shown = config, []

    def build(self):
        return nnx.Linear(2, len(CENTERS), rngs=nnx.Rngs(self.config.seed))

    def multipliers(self):
        return {"bias": 0.5}

    def train_step(self, graphdef, optimizer, report):
        return Step(graphdef, optimizer)

    def train_batches(self, shard):
        return Batches(self.config)

    def evaluate(self, modules, *, on_batch=None):
        right, engine = 0, self.engine(modules)
        for number in range(-2, 0):
            batch = Batch.sample(self.config, 1000 - number, self.eval_size // 2)
            found = engine(batch.x)
            right += int((found == batch.y).sum())
            if on_batch is not None:
                on_batch(batch, found)
        return Accuracy(right / self.eval_size, 2 * len(CENTERS))

    def show(self, log, step):
        return lambda batch, found: self.shown.append((step, batch.count))

    def export(self, modules, folder):
        folder.mkdir(exist_ok=True)
        np.savez(folder / "weights.npz", *jax.tree.leaves(nnx.state(modules)))

    def engine(self, modules, **options):
        return lambda x: np.asarray(jnp.argmax(modules(x), -1))


def final(system, workdir):
    """The parameters of the last checkpoint."""
    modules, step, _ = load_modules(system, workdir)
    assert step == system.config.optim.steps
    return jax.tree.leaves(nnx.state(modules))


def test_it_trains_evaluates_and_is_exported(tmp_path):
    system = Points(Config.from_mapping({"seed": 1}))
    assert isinstance(system, System)
    result = loop.train(system, tmp_path)
    assert result.accuracy > 0.95
    assert system.shown == [(20, 100), (20, 100), (40, 100), (40, 100)]
    written = json.loads((tmp_path / "eval_40.json").read_text())
    assert written["metrics"] == {"accuracy": result.accuracy, "macs": 6}
    assert written["config"]["noise"] == 0.5
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = next(line["values"] for line in lines if line["step"] == 10)
    assert logged["train/learning_rate_bias"] == logged["train/learning_rate"] / 2
    assert logged["train/executables"] == 1
    with np.load(tmp_path / "export" / "weights.npz") as exported:
        for got, expected in zip(exported.values(), final(system, tmp_path), strict=True):
            np.testing.assert_array_equal(got, expected)
    with open_checkpoints(system, tmp_path) as checkpoints:
        assert checkpoints.best_step() in (20, 40)


def test_a_run_that_is_stopped_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    whole, stopped = (Points(Config()) for _ in range(2))
    loop.train(whole, tmp_path / "whole")
    taken, take = itertools.count(1), Step.__call__

    def interrupted(self, state, batch):
        if next(taken) == 13:
            signal.raise_signal(signal.SIGTERM)
        return take(self, state, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", interrupted)
        with pytest.raises(Preempted) as stop:
            loop.train(stopped, tmp_path / "stopped")
    assert stop.value.step == 13
    loop.train(stopped, tmp_path / "stopped")
    for a, b in zip(
        final(whole, tmp_path / "whole"), final(stopped, tmp_path / "stopped"), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_systems_are_found_by_name():
    assert {"segblocks", "lrnnet"} <= set(SYSTEMS)
    for name in SYSTEMS:
        assert issubclass(system_type(name), System)
    with pytest.raises(ConfigError, match=r"system is 'zzz'; expected one of .*segblocks"):
        system_type("zzz")
    lrnnet = {"model": {"name": "lrnnet"}}
    for fields, name in (
        ({}, "segblocks"),
        (lrnnet, "lrnnet"),
        ({"system": "lrnnet"} | lrnnet, "lrnnet"),
    ):
        assert type(system_of(fields)) is system_type(name)
    with pytest.raises(ConfigError, match=r"model.name is 'swiftnet_rn18'; expected 'lrnnet'"):
        system_of(config({"system": "lrnnet"}).to_dict())


def test_the_loop_knows_no_system():
    folder = pathlib.Path(loop.__file__).parent
    for file in folder.glob("*.py"):
        assert "segblocks_jax.systems" not in file.read_text().replace("`segblocks_jax.systems", "")
