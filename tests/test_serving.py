"""What a server keeps and refuses: programs, shapes, seeds, forks, pickles, devices, other weights."""

import concurrent.futures
import multiprocessing
import pickle
import types

import jax
import numpy as np
import pytest
from test_engine import SPEC, build, engine_of, pictures, served

import segblocks_jax as sb
from segblocks_jax.inference.programs import KeyedCache


@pytest.fixture(scope="module")
def system():
    return build()


def fake(engine, monkeypatch):
    """Programs that compute nothing, so that many are made fast; the ones that are alive."""
    alive = set()

    class Compiled:
        def __init__(self, program):
            self.program = program
            alive.add(program)

        def __call__(self, weights, images, *_):
            n, h, w, _ = images.shape
            grid = np.zeros((n, h // 64, w // 64), bool)
            labels = np.zeros((n, h, w), np.uint8)
            return (labels, grid, grid.astype(np.float32))[
                : 3 if self.program.kind == "fixed" else 2
            ]

        def __del__(self):
            alive.discard(self.program)

    lower = lambda program, device: types.SimpleNamespace(compile=lambda: Compiled(program))  # noqa: E731
    monkeypatch.setattr(engine.model_programs, "lower", lower)
    return alive


def test_two_hundred_sizes_stay_under_the_limit(system, monkeypatch):
    engine = sb.Engine(system, SPEC, mode="budget=1", max_programs=12)
    alive = fake(engine, monkeypatch)
    for i in range(200):
        engine(np.zeros((1, 64 * (1 + i % 20), 64 * (1 + i // 20), 3), np.uint8))
        assert len(alive) <= 12
    assert engine.compilations == 200
    assert not engine(np.zeros((1, 64 * 20, 64 * 10, 3), np.uint8)).compiled


def test_masks_and_batches_of_every_number_stay_under_the_limit(system, monkeypatch):
    engine = sb.Engine(system, SPEC, max_programs=5)
    alive = fake(engine, monkeypatch)
    for count in range(20):
        mask = np.arange(20).reshape(1, 4, 5) < count
        engine(np.zeros((1, 256, 320, 3), np.uint8), mask=mask)
        engine(np.zeros((1 + count, 64, 64, 3), np.uint8), mode="budget=1")
    assert len(alive) <= 5


def test_a_mode_that_needs_more_programs_than_are_kept_is_refused_at_warm_up(system):
    engine = sb.Engine(system, SPEC, max_programs=5, shapes=[(1, 128, 128)])
    with pytest.raises(ValueError, match="1 shapes take 6 programs, and only 5 are kept"):
        engine.warm_up()


def test_strict_engines_make_no_program_that_was_not_foreseen(system, monkeypatch):
    engine = sb.Engine(system, SPEC, strict=True, shapes=[(1, 128, 128)])
    fake(engine, monkeypatch)
    images = np.zeros((1, 128, 128, 3), np.uint8)
    with pytest.raises(
        ValueError, match=r"none of the shapes .* holds them, and the engine is strict"
    ):
        engine(np.zeros((1, 129, 64, 3), np.uint8))
    with pytest.raises(ValueError, match=r"1 high blocks .* the engine is strict"):
        engine(images, mode="budget=1")
    one, half = (np.arange(4).reshape(1, 2, 2) < count for count in (1, 2))
    small = sb.Engine(
        system, sb.ModelSpec(**{**vars(SPEC), "policy": sb.PolicySpec(block_size=64, bucket_step=0.5)}),
        strict=True, shapes=[(1, 128, 128)],
    )  # fmt: skip
    fake(small, monkeypatch)
    assert small(images, mask=half).labels.shape == (1, 128, 128)
    with pytest.raises(ValueError, match=r"masks whose number of blocks is a bucket's"):
        small(images, mask=one)
    with pytest.raises(ValueError, match="strict: there are no shapes"):
        sb.Engine(system, SPEC, strict=True)
    with pytest.raises(ValueError, match="max_programs is 0"):
        sb.Engine(system, SPEC, max_programs=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_bad_seeds(seed):
    with pytest.raises(
        ValueError, match=r"seed is .*; expected a whole number from 0 to 2\*\*32 - 1"
    ):
        engine_of()(pictures(1, 64, 64), seed=seed)


def test_masks_may_be_lists(system, monkeypatch):
    engine = sb.Engine(system, SPEC)
    fake(engine, monkeypatch)
    assert engine(pictures(1, 64, 128), mask=[[[True, False]]]).labels.shape == (1, 64, 128)
    with pytest.raises(
        ValueError, match=r"mask has shape \(2,\) .*; expected \(1, 1, 2\) and bool"
    ):
        engine(pictures(1, 64, 128), mask=[True, False])


def test_other_weights_are_served_without_compiling(system):
    other = build(seed=1)
    images = pictures(1, 64, 128)
    engine = sb.Engine(system, SPEC, mode="budget=1")
    before = engine(images, output="logits")
    engine.replace_weights(other)
    after = engine(images, output="logits")
    assert not after.compiled
    expected = sb.Engine(other, SPEC, mode="budget=1")(images, output="logits")
    np.testing.assert_array_equal(after.logits, expected.logits)
    np.testing.assert_array_equal(after.mask, expected.mask)
    assert np.abs(after.logits - before.logits).max() > 0.1 * before.logits.std()
    target = sb.PolicySpec(block_size=64, bucket_step=0.25, target=0.9)
    other_policy = build(sb.ModelSpec(**{**vars(SPEC), "policy": target}))
    with pytest.raises(ValueError, match="weights of another network or policy"):
        engine.replace_weights(other_policy)
    wider = build(sb.ModelSpec(**{**vars(SPEC), "features": 16}))
    for model in (wider, system.net):
        with pytest.raises(ValueError, match="weights of another network or policy"):
            engine.replace_weights(model)
    np.testing.assert_array_equal(engine(images, output="logits").logits, after.logits)


def test_calls_take_the_devices_in_turn(system):
    devices = jax.local_devices()[:2]
    engine = sb.Engine(system, SPEC, mode="budget=1", devices=devices)
    images = [pictures(1, 64, 128, seed=i) for i in range(6)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(engine, images))
    alone = served(engine_of(), "budget=1")
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result.labels, alone(image).labels)
    assert engine.compilations == 2
    engine.replace_weights(build(seed=1))
    assert not any(engine(image).compiled for image in images)


def _labels_or_error(engine, results):
    try:
        results.put(engine(np.zeros((1, 64, 64, 3), np.uint8)).labels.shape)
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")


def _make_or_error(_, results):
    try:
        sb.Engine(build(), SPEC)
        results.put("made")
    except Exception as error:
        results.put(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize("work", [_labels_or_error, _make_or_error])
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_fork_of_a_process_with_an_engine_says_so(system, work, monkeypatch):
    engine = sb.Engine(system, SPEC)
    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    if work is _make_or_error:  # A network is not built in the fork: that hangs in JAX itself.
        monkeypatch.setattr("test_serving.build", lambda: system)
    process = fork.Process(target=work, args=(engine, results), daemon=True)
    process.start()
    process.join(20)
    hangs = process.is_alive()
    process.kill()
    assert not hangs
    assert "UnavailableError: an engine was made before this process was forked" in results.get()


def test_engines_are_not_pickled():
    with pytest.raises(
        TypeError, match=r"Engine: it holds compiled programs .* load it in the process"
    ):
        pickle.dumps(engine_of())


def test_a_cache_drops_the_least_recently_used():
    cache = KeyedCache(2)
    for key in ("a", "b", "a", "c"):
        cache.get(key, lambda key=key: key.upper())
    assert len(cache) == 2
    assert cache.get("a", lambda: "new") == ("A", False)
    assert cache.get("b", lambda: "new") == ("new", True)
    assert cache.made == 4
    with pytest.raises(ZeroDivisionError):
        cache.get("d", lambda: 1 / 0)
    assert len(cache) == 2
