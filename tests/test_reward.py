"""Rewards of the policy: numpy loops, the policy gradient by enumeration, invariances, devices."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from segblocks_jax.adaptive.estimators import entropy, surrogate_loss
from segblocks_jax.systems.segblocks.loss import mean_and_std
from segblocks_jax.systems.segblocks.policies import Reward, advantage

SHAPE = (2, 1, 2)
ACTIONS = np.array(list(itertools.product([False, True], repeat=4))).reshape(-1, *SHAPE)
LOGITS = np.array([[[0.7, -1.2]], [[0.3, 0.1]]], np.float32)
VARIANTS = [
    Reward(0.4, 0.5, *fields)
    for fields in itertools.product(
        ("loss", "gain"), ("plain", "normalized"), ("batch", "image"), ("batch", "image")
    )
]


def name(reward):
    return "-".join(map(str, dataclasses.astuple(reward)[2:]))


def by_loops(reward, loss, valid, mask, low_loss):
    """The formulas of docs/policies.md, a block at a time, in float64."""
    blocks = list(np.ndindex(mask.shape))
    gain = reward.kind == "gain"
    known = [b for b in blocks if valid[b] and (not gain or (mask[b] and low_loss[b] < np.inf))]
    worth = {b: low_loss[b] - loss[b] if gain else loss[b] for b in known}
    task = np.zeros(mask.shape)
    for b in known:
        others = [worth[o] for o in known if reward.baseline == "batch" or o[0] == b[0]]
        task[b] = worth[b] - np.mean(others)
    if reward.advantage == "normalized" and known:
        task /= max(np.sqrt(np.mean([task[b] ** 2 for b in known])), 1e-6)
    if gain:
        task *= reward.gain_every
    total = np.zeros(mask.shape)
    for b in blocks:
        share = mask[b[0]].mean() if reward.target_per == "image" else mask.mean()
        total[b] = (task[b] + reward.weight * (reward.target - share)) * (1 if mask[b] else -1)
    return total


@pytest.fixture
def losses(rng):
    """Of blocks that run high, that run low, and in a run with all low."""
    return [rng.uniform(0.2, 2, SHAPE).astype(np.float32) for _ in range(3)]


@pytest.mark.parametrize("reward", VARIANTS, ids=name)
def test_every_block_climbs_its_expected_advantage(reward, losses):
    """By enumeration: E[dS/dl_b] = -p_b (1 - p_b) (E[A_b | high] - E[A_b | low]) / blocks, and the entropy's."""
    high, low, all_low = losses
    valid = np.array([[[True, True]], [[True, False]]])
    weight = 0.3

    def surrogate(logits, mask, loss):
        terms = advantage(loss, jnp.asarray(valid), mask, reward, low_loss=jnp.asarray(all_low))
        return surrogate_loss(logits, mask, terms.total) - weight * entropy(logits).mean()

    executed = np.where(ACTIONS, high, low)
    gradients = jax.vmap(jax.grad(surrogate), (None, 0, 0))(LOGITS, ACTIONS, executed)
    p = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    chances = np.where(ACTIONS, p, 1 - p).prod((1, 2, 3))
    totals = np.array(
        [by_loops(reward, x, valid, a, all_low) for x, a in zip(executed, ACTIONS, strict=True)]
    )
    expected = np.zeros(SHAPE)
    for b in np.ndindex(SHAPE):
        chosen = ACTIONS[(slice(None), *b)]
        if_high, if_low = (
            np.average(totals[(which, *b)], weights=chances[which]) for which in (chosen, ~chosen)
        )
        slope = p[b] * (1 - p[b])
        expected[b] = -slope * (if_high - if_low) / 4 + weight * LOGITS[b] * slope / 4
    got = np.einsum("a,aijk->ijk", chances, gradients)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_the_schedule_of_the_gain_keeps_the_mean_gradient(losses):
    loss, _, low_loss = map(jnp.asarray, losses)
    mask, valid = jnp.asarray(ACTIONS[11]), jnp.ones(SHAPE, bool)

    def gradient(reward, low_loss):
        terms = advantage(loss, valid, mask, reward, low_loss=low_loss)
        return jax.grad(surrogate_loss)(LOGITS, mask, terms.total)

    every, third = Reward(0.4, kind="gain"), Reward(0.4, kind="gain", gain_every=3)
    unknown = jnp.full(SHAPE, jnp.inf)
    steps = [gradient(third, x) for x in (low_loss, unknown, unknown)]
    np.testing.assert_allclose(sum(steps) / 3, gradient(every, low_loss), rtol=1e-5, atol=1e-7)
    only_sparsity = advantage(loss, valid, mask, third, low_loss=unknown)
    assert not only_sparsity.task.any()
    assert only_sparsity.total.all()


def run(reward, loss, mask, low_loss=None):
    valid = jnp.ones(mask.shape, bool)
    return advantage(*map(jnp.asarray, (loss, valid, mask)), reward, low_loss=low_loss)


def test_the_normalized_task_term_does_not_depend_on_the_size_of_the_losses(losses):
    loss, mask = losses[0], ACTIONS[5]
    terms = run(Reward(0.4, advantage="normalized"), loss, mask)
    np.testing.assert_allclose(np.square(terms.task).mean(), 1, rtol=1e-5)
    larger = run(Reward(0.4, advantage="normalized"), 10 * loss, mask)
    np.testing.assert_allclose(larger.total, terms.total, rtol=1e-4)
    alike = run(Reward(0.4, advantage="normalized"), np.ones(SHAPE, np.float32), mask)
    assert not alike.task.any()


def test_a_hard_image_gets_no_more_blocks_with_the_baseline_of_images(losses):
    loss, mask = losses[0], ACTIONS[5]
    harder = loss + np.array([0, 5], np.float32)[:, None, None]
    per_image = [run(Reward(0.4, baseline="image"), x, mask).task for x in (loss, harder)]
    np.testing.assert_allclose(*per_image, atol=1e-5)
    of_batch = run(Reward(0.4), harder, mask).task
    assert (of_batch[1] > 0).all()
    assert (of_batch[0] < 0).all()


def test_the_target_of_images_holds_for_each_of_them():
    mask = np.array([[[True, True]], [[False, False]]])
    loss = np.ones(SHAPE, np.float32)
    np.testing.assert_allclose(run(Reward(0.5), loss, mask).sparsity, [0, 0])
    sparsity = run(Reward(0.5, target_per="image"), loss, mask).sparsity
    np.testing.assert_allclose(sparsity, [-0.5, 0.5])


@pytest.mark.parametrize("reward", VARIANTS, ids=name)
def test_many_devices_give_what_one_gives(reward, rng):
    devices = jax.device_count()
    shape = (2 * devices, 2, 3)
    loss, low_loss = (rng.uniform(0, 2, shape).astype(np.float32) for _ in range(2))
    valid, mask = rng.random(shape) < 0.8, rng.random(shape) < 0.4
    arguments = loss, valid, mask, low_loss

    def watch(loss, valid, mask, low_loss, axis_name):
        terms = advantage(loss, valid, mask, reward, low_loss=low_loss, axis_name=axis_name)
        fields = terms.task, terms.sparsity, terms.total
        return fields, mean_and_std("task", terms.task, axis_name)

    results = []
    for count in (1, devices):
        mesh = jax.make_mesh(
            (count,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:count]
        )
        sharded = jax.shard_map(
            functools.partial(watch, axis_name="data"),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=(P("data"), P()),
            check_vma=False,
        )
        results.append(jax.tree.leaves(jax.jit(sharded)(*arguments)))
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-5)
    task = by_loops(reward, loss, valid, mask, low_loss)
    np.testing.assert_allclose(results[0][2], task, rtol=1e-4, atol=1e-5)


def test_entropy_is_that_of_the_decision():
    logits = jnp.array([[[0.0, 1.5, -2.0, 100.0, -100.0]]])
    p = 1 / (1 + np.exp(-np.array([0, 1.5, -2.0])))
    expected = -p * np.log(p) - (1 - p) * np.log(1 - p)
    got = entropy(logits)[0, 0]
    np.testing.assert_allclose(got[:3], expected, rtol=1e-5)
    np.testing.assert_allclose(got[3:], 0, atol=1e-6)
    gradient = jax.grad(lambda x: entropy(x).sum())(logits)[0, 0]
    np.testing.assert_allclose(gradient[:3], -logits[0, 0, :3] * p * (1 - p), rtol=1e-5, atol=1e-7)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"kind": "profit"}, r"Reward: kind is 'profit'; expected one of \('loss', 'gain'\)"),
        ({"advantage": "big"}, "advantage is 'big'; expected one of"),
        ({"baseline": "pixel"}, "baseline is 'pixel'; expected one of"),
        ({"target_per": "block"}, "target_per is 'block'; expected one of"),
        ({"gain_every": 0}, "gain_every is 0; expected 1 step or more"),
    ],
)
def test_unknown_rewards_are_refused(fields, text):
    with pytest.raises(ValueError, match=text):
        Reward(0.4, **fields)


def test_the_gain_needs_the_losses_of_a_low_run(losses):
    with pytest.raises(ValueError, match="needs the losses of a low run; pass low_loss"):
        run(Reward(0.4, kind="gain"), losses[0], ACTIONS[5])
