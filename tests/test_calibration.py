"""A share that is what was asked for: thresholds that are calibrated, prices that are learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import take_steps
import tiny
from flax import nnx
from test_step import mesh

import segblocks_jax as sb
from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.adaptive.estimators import surrogate_loss
from segblocks_jax.data import NORMALIZATION, normalize
from segblocks_jax.systems.segblocks.build import create_system, open_source
from segblocks_jax.systems.segblocks.calibration import (
    RankedBatch,
    calibrate,
    find_threshold,
    rank_images,
)
from segblocks_jax.systems.segblocks.policies import Reward, advantage, create
from segblocks_jax.systems.segblocks.policies.reinforce import PRICE_RATE
from segblocks_jax.systems.segblocks.step import TrainStep
from segblocks_jax.training.state import create_optimizer, create_state

BATCHES, GRID = 6, (2, 3, 4)


def executed(scores, inside, threshold, step):
    """Share of each image that runs high, by what an engine does."""
    wanted = scores > threshold
    count = round_to_bucket(int(wanted.sum()), wanted.size, step)
    ranks = np.argsort(np.argsort(-scores, axis=None, kind="stable")).reshape(scores.shape)
    mask = ranks < count
    assert (mask | ~wanted).all()
    return [m[i].mean() for m, i in zip(mask, inside, strict=True)]


def distributions(rng):
    yield "normal", rng.normal(3, 5, (BATCHES, *GRID))
    yield (
        "saturated",
        np.sign(rng.normal(0.3, 1, (BATCHES, *GRID))) * 1e4 + rng.normal(0, 1, (BATCHES, *GRID)),
    )
    yield "images differ", rng.normal(0, 1, (BATCHES, *GRID)) + rng.normal(0, 9, (BATCHES, 1, 1, 1))
    yield "ties", rng.integers(0, 4, (BATCHES, *GRID))
    yield "one value", np.full((BATCHES, *GRID), 7.0)


@pytest.mark.parametrize("step", [1 / 24, 0.25])
@pytest.mark.parametrize("padded", [False, True])
def test_no_threshold_comes_nearer_to_the_target(rng, step, padded):
    inside = np.ones(GRID, bool)
    inside[:, :, 3:] = not padded
    for name, scores in distributions(rng):
        scores = scores.astype(np.float32)
        ranked = [RankedBatch.of(own, inside, GRID[0]) for own in scores]
        values = np.unique(scores)
        candidates = [values[0] - 1, *values]
        shares = np.array(
            [np.mean([executed(own, inside, t, step) for own in scores]) for t in candidates]
        )
        for target in (0.0, 0.2, 0.43, 1.0):
            threshold, share = find_threshold(ranked, target, step)
            true = np.mean([executed(own, inside, threshold, step) for own in scores])
            assert share == pytest.approx(true, abs=1e-12), name
            nearest = np.abs(shares - target).min()
            assert abs(share - target) <= nearest + 1e-12, (name, target)
            if name in ("normal", "images differ"):
                assert abs(share - target) <= step / BATCHES / 2 / 0.75 + 1e-12


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return open_source(tiny.config(), "train", str(tmp_path_factory.mktemp("scenes")))


def calibrated(source, stored=None, **changes):
    """A system with a policy of random weights, whose bias prefers high blocks; and what was found."""
    config = tiny.config(policy={"bucket_step": 1 / 12, "target": 0.3, **changes})
    system = create_system(config, tiny.CLASSES)
    system.eval()
    system.policy.move_threshold(-2.0)
    return config, system, calibrate(system.policy, config, lambda: source, stored)


def test_the_calibrated_policy_keeps_the_target_also_when_it_is_loaded(source, tmp_path):
    config, system, found = calibrated(source)
    images = np.stack([source[i]["image"] for i in range(len(source))])
    normalized = normalize(images, *source.normalization)
    decision = system.policy(normalized)
    pairs = np.asarray(decision.action).reshape(len(source) // 2, -1)
    counts = [round_to_bucket(int(own.sum()), own.size, 1 / 12) for own in pairs]
    assert found["share"] == pytest.approx(sum(counts) / decision.action.size)
    assert abs(found["share"] - 0.3) < 0.02  # 48 blocks.
    assert found["threshold"] > 1
    sb.save_model(tmp_path, system, tiny.system(config).spec)
    loaded = sb.load_model(tmp_path).policy
    np.testing.assert_array_equal(loaded(normalized).action, decision.action)


def test_what_a_checkpoint_stores_needs_no_data(source):
    config, system, found = calibrated(source)
    again = create_system(config, tiny.CLASSES)
    again.eval()
    again.policy.move_threshold(-2.0)
    assert calibrate(again.policy, config, pytest.fail, found) == found
    image = normalize(source[0]["image"][None], *source.normalization)
    np.testing.assert_array_equal(again.policy(image).scores, system.policy(image).scores)


def test_what_was_stored_for_another_target_is_not_taken(source):
    _, _, stored = calibrated(source)
    _, _, more = calibrated(source, stored, target=0.6)
    assert abs(more["share"] - 0.6) < 0.02


def test_the_published_policy_stays(source):
    _, system, found = calibrated(source, share="published")
    assert found is None
    image = normalize(source[0]["image"][None], *source.normalization)
    assert bool((system.policy(image).action).all())


@pytest.mark.slow
def test_an_evaluation_of_the_training_images_has_the_share_that_was_found(source):
    config, system, found = calibrated(source)
    result = tiny.system(config, source, source).evaluate(system)
    assert result.high_fraction == pytest.approx(found["share"], abs=1e-6)
    ranked = rank_images(system.policy, source, config)
    share = sum(batch.share(0.0, 1 / 12) for batch in ranked) / len(source)
    assert result.high_fraction == pytest.approx(share, abs=1e-6)


def bandit(weight, dual, rng, steps=3000, target=0.3):
    """The mean share of the last half of a training: 48 blocks with logits of their own, gains that never change."""
    worth = jnp.asarray(rng.normal(0, 1, (1, 6, 8)) ** 3, jnp.float32)  # A few gain much.
    reward = Reward(target, weight)
    policy = create("reinforce", block_size=64, target=target)
    policy.start_price()

    graphdef, state = nnx.split(policy)

    @jax.jit
    def step(carry, key):
        logits, state = carry
        policy = nnx.merge(graphdef, state)
        mask = jax.random.uniform(key, logits.shape) < jax.nn.sigmoid(logits)
        # What a block is worth doesn't depend on how it ran, but a bias prefers high blocks.
        ones = jnp.ones_like(mask)
        terms = advantage(worth, ones, mask, reward, price=policy.price[...])
        total = terms.total + jnp.where(mask, 0.5, -0.5)
        logits = logits - 5.0 * jax.grad(surrogate_loss)(logits, mask, total)
        share = mask.mean(dtype=jnp.float32)
        if dual:
            policy.move_price(share)
        return (logits, nnx.state(policy)), share

    carry = jnp.zeros((1, 6, 8)), state
    _, shares = jax.lax.scan(step, carry, jax.random.split(jax.random.key(0), steps))
    return float(shares[steps // 2 :].mean())


@pytest.mark.parametrize("weight", [0.0, 1.0, 10.0])
def test_the_fixed_point_of_dual_ascent_is_the_target(weight, rng):
    assert abs(bandit(weight, True, rng) - 0.3) < 0.02


def test_without_a_price_the_share_depends_on_the_reward(rng):
    assert abs(bandit(1.0, False, rng) - 0.3) > 0.1


@pytest.mark.slow
def test_a_step_moves_the_price_by_the_share_of_all_devices():
    settings = tiny.config(policy={"share": "dual", "target": 0.2, "bucket_step": 1.0})
    policy = create("reinforce", block_size=64, target=0.2)
    policy.start_price()
    system = nnx.Dict(net=take_steps.SmallNet(nnx.Rngs(0)), policy=policy)
    optimizer = create_optimizer(settings.optim, {})
    graphdef, state = create_state(system, optimizer, 0)
    step = TrainStep(graphdef, optimizer, settings, NORMALIZATION["street_scenes"], mesh(2))
    state, first = step(step.place(state), tiny.batch())
    state, second = step(state, tiny.batch())
    assert float(first["price"]) == 0
    assert first["high_fraction"] == 1  # The one bucket.
    moved = PRICE_RATE * (1 - 0.2)
    assert float(second["price"]) == pytest.approx(moved)
    assert float(state.stats["policy"]["price"][...]) == pytest.approx(2 * moved)


def test_a_price_is_there_for_dual_ascent_alone_and_is_not_served(source):
    system = create_system(tiny.config(policy={"share": "dual"}), tiny.CLASSES)
    assert system.policy.price is not None
    assert calibrate(system.policy, tiny.config(policy={"share": "dual"}), pytest.fail) is None
    plain = create_system(tiny.config(), tiny.CLASSES)
    assert nnx.graphdef(system.policy) == nnx.graphdef(plain.policy)
