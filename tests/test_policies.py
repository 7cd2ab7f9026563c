"""Policies: the reference's numbers, the REINFORCE estimate by enumeration, and every rule's properties."""

import itertools
import pathlib

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.adaptive.buckets import round_to_bucket
from segblocks_jax.adaptive.decision import Decision, fill_scores, top_fraction
from segblocks_jax.adaptive.estimators import surrogate_loss
from segblocks_jax.systems.segblocks.build import create_system, model_spec
from segblocks_jax.systems.segblocks.policies import POLICIES, Reward, advantage
from segblocks_jax.systems.segblocks.policies.reinforce import PolicyNet
from segblocks_jax.tasks.segmentation.losses import block_mean

BLOCK = 128


@pytest.fixture(scope="module")
def recorded(shared: pathlib.Path) -> dict[str, np.ndarray]:
    return golden.load(shared, "policy")


@pytest.fixture(scope="module")
def image(recorded: dict[str, np.ndarray]) -> jax.Array:
    return golden.nhwc(golden.random_input(recorded["input_seed"], recorded["input_shape"]))


@pytest.fixture
def net() -> PolicyNet:
    return golden.network(lambda: PolicyNet(BLOCK, rngs=nnx.Rngs(0)))


# The reference's numbers


def test_golden_logits(net: PolicyNet, image: jax.Array, recorded: dict) -> None:
    net.eval()
    np.testing.assert_allclose(net(image), recorded["eval/logits"][:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("run", ["r0", "r1"])
def test_golden_step(net: PolicyNet, image: jax.Array, recorded: dict, run: str) -> None:
    z = {k.removeprefix(f"{run}/"): v for k, v in recorded.items() if k.startswith(f"{run}/")}
    n, _, h, w = recorded["input_shape"]
    loss_map = jnp.abs(golden.random_input(recorded["loss_map_seed"], (n, h, w)))
    mask = jnp.asarray(recorded["grid"])
    means, valid = block_mean(loss_map, jnp.ones_like(loss_map, bool), mask.shape[1:])
    weight = float(z["sparsity_weight"])
    terms = advantage(means, valid, mask, Reward(float(z["percent_target"]), weight))
    # Differences of losses near 0.8 in float32.
    np.testing.assert_allclose(terms.task, z["advantage_task"], rtol=1e-5, atol=5e-6)
    np.testing.assert_allclose(terms.sparsity, z["reward_sparsity"], rtol=1e-5)
    np.testing.assert_allclose(terms.total, z["advantage"], rtol=1e-5, atol=5e-6)
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)

    def objective(params: nnx.State) -> tuple[jax.Array, tuple[jax.Array, nnx.State]]:
        net = nnx.merge(graphdef, params, rest, copy=True)
        logits = net(image)
        loss = surrogate_loss(logits, mask, terms.total)
        return loss, (logits, nnx.state(net, nnx.BatchStat))

    gradient = jax.jit(jax.value_and_grad(objective, has_aux=True))
    (loss, (logits, stats)), grads = gradient(params)
    np.testing.assert_allclose(loss, z["loss"], rtol=1e-5)
    probability = jax.nn.sigmoid(logits)
    np.testing.assert_allclose(probability, z["probs"], rtol=1e-5, atol=1e-6)
    log_probability = jnp.log(jnp.where(mask, probability, 1 - probability))
    np.testing.assert_allclose(log_probability, z["log_probs"], rtol=1e-5, atol=1e-5)
    check_states(z, net, grads, stats)


def check_states(
    z: dict[str, np.ndarray], net: nnx.Module, grads: nnx.State, stats: nnx.State
) -> None:
    by_name = {f"grad/{name}": value for name, value in golden.variables(net, grads).items()}
    by_name |= {f"after/{name}": value for name, value in golden.variables(net, stats).items()}
    norms = dict(zip(z["param_names"].tolist(), z["grad_norm"], strict=True))
    assert {f"grad/{name}" for name in norms} == {k for k in by_name if k.startswith("grad/")}
    for name, norm in norms.items():
        np.testing.assert_allclose(np.linalg.norm(by_name[f"grad/{name}"]), norm, rtol=1e-4)
    keys = [key for key in z if key.startswith(("grad/", "after/"))]
    assert len(keys) == 15
    for key in keys:
        scale = float(np.abs(z[key]).max())
        np.testing.assert_allclose(by_name[key], z[key], rtol=1e-5, atol=1e-5 * scale, err_msg=key)


@pytest.mark.parametrize("kind", ["noise", "ramp"])
def test_golden_heuristic(recorded: dict, image: jax.Array, kind: str) -> None:
    h, w = image.shape[1:3]
    rows, columns = (np.arange(1, size + 1) / size for size in (h, w))
    if kind == "ramp":
        ramp = np.asarray(image, np.float64) * rows[:, None, None] * columns[:, None]
        image = jnp.asarray(ramp, jnp.float32)
    threshold = float(recorded[f"heuristic_{kind}/threshold"])
    policy = sb.policies.create("heuristic", block_size=BLOCK, threshold=threshold)
    decision = policy(image)
    scores = recorded[f"heuristic_{kind}/scores"]
    np.testing.assert_allclose(decision.scores, scores, rtol=1e-5)
    np.testing.assert_array_equal(decision.action, recorded[f"heuristic_{kind}/grid"])


def test_golden_oracle(recorded: dict, image: jax.Array) -> None:
    n, _, h, w = recorded["input_shape"].tolist()
    maps = [golden.random_input(recorded[f"oracle/{k}_seed"], (n, h, w)) for k in ("low", "high")]
    means = [
        block_mean(jnp.asarray(x), jnp.ones((n, h, w), bool), (h // BLOCK, w // BLOCK))[0]
        for x in maps
    ]
    policy = sb.policies.create("oracle", threshold=float(recorded["oracle/threshold"]))
    decision = policy(image, gain=means[0] - means[1])
    np.testing.assert_array_equal(decision.action, recorded["oracle/grid"])


@pytest.mark.parametrize("target", [0.2, 0.4, 0.5, 0.75])
def test_golden_middle(recorded: dict, target: float) -> None:
    policy = sb.policies.create("middle", block_size=4, target=target)
    decision = policy(jnp.zeros((1, 32, 8, 3)))
    np.testing.assert_array_equal(decision.action, recorded[f"middle/gh8_gw2_target{target}"])


def test_golden_round_to_bucket(recorded: dict) -> None:
    rows = recorded["quantize_rows_total_q_before_after"]
    got = [round_to_bucket(int(before), int(total), q) for total, q, before, _ in rows]
    assert got == rows[:, 3].astype(int).tolist()


# REINFORCE

LOGITS = jnp.array([[[0.7, -1.2, 0.3]]])
ACTIONS = [np.array(a).reshape(1, 1, 3) for a in itertools.product([False, True], repeat=3)]


def probability(logits: jax.Array, action: np.ndarray) -> jax.Array:
    p = jax.nn.sigmoid(logits)
    return jnp.where(jnp.asarray(action), p, 1 - p).prod()


def test_surrogate_gradient_by_hand() -> None:
    """-(a - p) A / B for every block."""
    action = np.array([[[True, False, True]]])
    total = jnp.array([[[2.0, -1.0, 0.5]]])
    got = jax.grad(surrogate_loss)(LOGITS, jnp.asarray(action), total)
    p = 1 / (1 + np.exp(-np.asarray(LOGITS, np.float64)))
    expected = -(action - p) * np.asarray(total) / 3
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    value = -np.mean(np.log(np.where(action, p, 1 - p)) * np.asarray(total))
    np.testing.assert_allclose(surrogate_loss(LOGITS, jnp.asarray(action), total), value, rtol=1e-5)


def test_no_gradient_through_the_advantage() -> None:
    action = jnp.array([[[True, False, True]]])
    gradient = jax.grad(lambda a: surrogate_loss(LOGITS, action, a))(jnp.ones((1, 1, 3)))
    assert not gradient.any()


def test_the_surrogate_is_unbiased(rng: np.random.Generator) -> None:
    """Its expected gradient, over all actions, is that of minus the expected reward, over the blocks."""
    rewards = rng.standard_normal(len(ACTIONS)).astype(np.float32)

    def expected_reward(logits: jax.Array) -> jax.Array:
        return sum(probability(logits, a) * r for a, r in zip(ACTIONS, rewards, strict=True))

    expected_gradient = sum(
        probability(LOGITS, a)
        * jax.grad(surrogate_loss)(LOGITS, jnp.asarray(a), jnp.full((1, 1, 3), r))
        for a, r in zip(ACTIONS, rewards, strict=True)
    )
    np.testing.assert_allclose(
        expected_gradient, -jax.grad(expected_reward)(LOGITS) / 3, rtol=1e-4, atol=1e-6
    )


def test_every_block_climbs_its_own_advantage(rng: np.random.Generator) -> None:
    """With losses that depend on all actions, block b's gradient is that of its expected advantage."""
    losses = [jnp.asarray(rng.random((1, 1, 3)), jnp.float32) for _ in ACTIONS]
    valid = jnp.ones((1, 1, 3), bool)
    totals = [
        advantage(loss, valid, jnp.asarray(a), Reward(0.4, 2.0)).total
        for a, loss in zip(ACTIONS, losses, strict=True)
    ]

    def expected_advantage(logits: jax.Array) -> jax.Array:
        return sum(
            probability(logits, a) * t for a, t in zip(ACTIONS, totals, strict=True)
        ).reshape(-1)

    per_block = jax.jacobian(expected_advantage)(LOGITS).reshape(3, 3)
    got = sum(
        probability(LOGITS, a) * jax.grad(surrogate_loss)(LOGITS, jnp.asarray(a), t)
        for a, t in zip(ACTIONS, totals, strict=True)
    )
    np.testing.assert_allclose(got.reshape(-1), -jnp.diag(per_block) / 3, rtol=1e-4, atol=1e-6)


def test_forced_blocks_carry_no_gradient() -> None:
    action = jnp.array([[[True, False, True]]])
    total = jnp.array([[[2.0, -1.0, 0.5]]])
    forced = jnp.array([[[True, False, False]]])
    free = jax.grad(surrogate_loss)(LOGITS, action, total)
    got = jax.grad(surrogate_loss)(LOGITS, action, total, forced)
    np.testing.assert_array_equal(got, np.where(forced, 0, free))
    assert free.all()


def test_extreme_logits_stay_finite() -> None:
    logits = jnp.array([[[200.0, -200.0]]])
    action = jnp.array([[[False, True]]])
    value, gradient = jax.value_and_grad(surrogate_loss)(logits, action, jnp.ones((1, 1, 2)))
    assert value == 200
    np.testing.assert_allclose(gradient, [[[0.5, -0.5]]])


def test_advantage_leaves_blocks_without_labels_out() -> None:
    loss = jnp.array([[[1.0, 3.0, 0.0]]])
    valid = jnp.array([[[True, True, False]]])
    mask = jnp.array([[[True, False, True]]])
    terms = advantage(loss, valid, mask, Reward(0.5, 3.0))
    # Differences of losses near 0.8 in float32.
    np.testing.assert_allclose(terms.task, [[[-1, 1, 0]]])
    np.testing.assert_allclose(terms.sparsity, 0.5 - 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(terms.total, [[[-1.5, -0.5, -0.5]]], rtol=1e-6)
    nothing = advantage(loss, jnp.zeros_like(valid), mask, Reward(0.5))
    assert not nothing.task.any()


# Policies and their decisions


def test_reinforce_samples_in_training_and_thresholds_in_evaluation() -> None:
    policy = golden.network(lambda: sb.policies.create("reinforce", block_size=32))
    image = jax.random.normal(jax.random.key(1), (2, 64, 96, 3))
    policy.eval()
    decision = policy(image)
    np.testing.assert_array_equal(decision.action, decision.scores > 0)
    policy.train()
    first, second = policy(image, jax.random.key(2)), policy(image, jax.random.key(2))
    np.testing.assert_array_equal(first.action, second.action)
    with pytest.raises(ValueError, match=r"needs a PRNG key; pass key, or call eval\(\)"):
        policy(image)


def test_reinforce_samples_with_its_probabilities() -> None:
    policy = golden.network(lambda: sb.policies.create("reinforce", block_size=32))
    policy.net.eval()
    image = jnp.zeros((1, 64, 64, 3))
    graphdef, state = nnx.split(policy)
    keys = jax.random.split(jax.random.key(0), 4000)
    sample = jax.vmap(lambda key: nnx.merge(graphdef, state)(image, key))
    decisions = jax.jit(sample)(keys)
    share = decisions.action.mean(0)
    np.testing.assert_allclose(share, jax.nn.sigmoid(decisions.scores[0]), atol=0.04)


@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_policy_net_sees_one_logit_a_block(block_size: int) -> None:
    net = golden.network(lambda: PolicyNet(block_size, features=8, rngs=nnx.Rngs(0)))
    net.eval()
    image = jax.random.normal(jax.random.key(1), (2, 2 * block_size, 3 * block_size, 3))
    assert net(image).shape == (2, 2, 3)
    step = block_size // 32
    repeated = image[:, ::step, ::step].repeat(step, 1).repeat(step, 2)
    np.testing.assert_allclose(net(repeated), net(image), atol=1e-5)


@pytest.mark.family
@pytest.mark.parametrize("name", ["random", "heuristic", "oracle"])
@pytest.mark.parametrize("target", [0.0, 0.3, 0.5, 1.0])
def test_rules_keep_the_target_in_every_image(name: str, target: float) -> None:
    policy = sb.policies.create(name, block_size=8, target=target)
    image = jax.random.normal(jax.random.key(1), (3, 16, 40, 3))
    gain = jax.random.normal(jax.random.key(2), (3, 2, 5))
    decision = policy(image, jax.random.key(3), gain)
    high, scores = np.asarray(decision.action), np.asarray(decision.scores)
    assert high.sum((1, 2)).tolist() == [round(10 * target)] * 3
    for chosen, score in zip(high, scores, strict=True):
        assert chosen.all() or not chosen.any() or score[chosen].min() >= score[~chosen].max()


def test_random_policy_depends_on_its_key_alone() -> None:
    policy = sb.policies.create("random", block_size=4, target=0.5)
    image = jnp.zeros((1, 32, 32, 3))
    a, b, c = (policy(image, jax.random.key(seed)).action for seed in (0, 0, 1))
    assert (a == b).all()
    assert (a != c).any()
    with pytest.raises(ValueError, match="random policy needs a PRNG key"):
        policy(image)


@pytest.mark.parametrize(("name", "high"), [("all_high", True), ("all_low", False)])
def test_constant_policies(name: str, high: bool) -> None:
    decision = sb.policies.create(name, block_size=8, target=0.4)(jnp.zeros((2, 16, 24, 3)))
    np.testing.assert_array_equal(decision.action, np.full((2, 2, 3), high))


def test_middle_prefers_rows_near_the_middle() -> None:
    decision = sb.policies.create("middle", block_size=4, target=0.5)(jnp.zeros((2, 16, 8, 3)))
    assert decision.action[:, :, 0].tolist() == [[False, True, True, False]] * 2
    assert (decision.scores[:, 1:3].min() > decision.scores[:, ::3].max()).item()


def test_heuristic_is_zero_on_flat_and_grows_with_detail() -> None:
    image = np.zeros((1, 8, 16, 3), np.float32)
    image[:, :, 8:] = np.indices((8, 8)).sum(0)[None, :, :, None] % 2
    scores = sb.policies.create("heuristic", block_size=8)(jnp.asarray(image)).scores
    np.testing.assert_allclose(scores, [[[0, 1.5]]])


def test_oracle_needs_gain() -> None:
    policy = sb.policies.create("oracle", block_size=8)
    assert policy.needs_labels
    with pytest.raises(ValueError, match="oracle policy needs the loss that a block gains"):
        policy(jnp.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("best", {}, "no policy 'best'; expected one of reinforce, random"),
        ("random", {"target": 1.5}, r"target is 1\.5; expected a share from 0 to 1"),
        ("random", {"target": -0.1}, "target is -0.1"),
        ("middle", {"threshold": 0.5}, "middle has no threshold; it is for heuristic and oracle"),
        ("oracle", {"features": 32}, "oracle has no features; it is for reinforce"),
        ("reinforce", {"features": 0}, "features is 0; expected a positive number"),
        (
            "reinforce",
            {"block_size": 48},
            "block size 48 is not a multiple of 32; use e.g. 32 or 128",
        ),
        ("reinforce", {"block_size": 0}, "block size 0 is not a multiple of 32"),
    ],
)
def test_create_errors(name: str, options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sb.policies.create(name, **options)


def test_every_policy_can_be_created() -> None:
    for name in POLICIES:
        assert sb.policies.create(name, block_size=64).block_size == 64


def test_fewer_features_cost_less_and_are_kept_in_the_spec() -> None:
    config = tiny.config(policy={"features": 16})
    policy = create_system(config, 3).policy
    assert [conv.kernel.shape[-1] for conv in policy.net.convs] == [16, 16, 16, 1]
    spec = model_spec(config, 3)
    assert sb.ModelSpec.from_mapping(spec.to_dict()).policy.features == 16
    macs = sb.count_macs(policy, (1, 64, 64, 3)).total
    assert macs < sb.count_macs(create_system(tiny.config(), 3).policy, (1, 64, 64, 3)).total / 4
    assert create_system(tiny.config(policy={"name": "oracle", "features": 16}), 3).policy


def test_policies_say_what_they_are() -> None:
    def those(fact: str) -> set[str]:
        return {name for name in POLICIES if getattr(sb.policies.policy_type(name), fact)}

    assert those("learned") == {"reinforce"}
    assert those("needs_labels") == {"oracle"}
    options = {name: sb.policies.policy_type(name).options for name in those("options")}
    threshold = dict.fromkeys(("heuristic", "oracle"), ("threshold",))
    assert options == {**threshold, "reinforce": ("features",)}
    assert set(POLICIES) - those("ranks_blocks") == {"all_high", "all_low"}
    assert sb.policies.policy_type("static") is None
    with pytest.raises(ValueError, match="no policy 'best'; expected one of static, reinforce"):
        sb.policies.policy_type("best")


def test_round_to_bucket_properties() -> None:
    for total in (1, 2, 5, 10, 15, 16, 17, 126, 128):
        multiple = max(1, total // 16)
        for count in range(total + 1):
            rounded = round_to_bucket(count, total)
            assert count <= rounded <= total
            assert rounded % multiple == 0 or rounded == total
            assert rounded - count < multiple
        assert len({round_to_bucket(count, total) for count in range(total + 1)}) <= 24


def test_top_fraction_takes_ties_in_grid_order() -> None:
    scores = jnp.array([[[1.0, 1.0], [2.0, 1.0]], [[0.0, jnp.nan], [0.0, 0.0]]])
    chosen = top_fraction(scores, 0.5)
    assert chosen.tolist() == [[[True, False], [True, False]], [[True, False], [True, False]]]


def test_fill_scores() -> None:
    decision = Decision(jnp.zeros((1, 2, 3), bool), jnp.arange(6.0).reshape(1, 2, 3))
    assert fill_scores(decision, "best", None) is decision.scores
    random = fill_scores(decision, "random", jax.random.key(0))
    assert random.shape == (1, 2, 3)
    assert len(np.unique(random)) == 6
    with pytest.raises(ValueError, match="filling is 'random', which needs a PRNG key"):
        fill_scores(decision, "random", None)
