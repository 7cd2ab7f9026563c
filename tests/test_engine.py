"""The engine: against the plain network, in all modes, at all sizes, from several threads, without recompiling."""

import concurrent.futures
import dataclasses
import functools
import gc
import resource
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.adaptive.buckets import buckets, round_to_bucket
from segblocks_jax.blocks import BlockGrid, combine, split
from segblocks_jax.data import normalize
from segblocks_jax.inference.programs import KeyedCache
from segblocks_jax.inference.timing import LatencyTracker
from segblocks_jax.nn import resize_bilinear
from segblocks_jax.ops import extension
from segblocks_jax.systems.segblocks.serving import Server
from segblocks_jax.systems.segblocks.settings import Mode, Program

SIDE = 64
SPEC = sb.ModelSpec(
    "swiftnet_rn18",
    7,
    width=8,
    features=12,
    policy=sb.PolicySpec(block_size=SIDE, bucket_step=0.25),
    mean=(0.3, 0.4, 0.5),
    std=(0.2, 0.25, 0.3),
)
EXECUTIONS = ["plain", "xla"] + ["fused"] * (extension.resolve() == "ffi")


# What one process compiles serves all tests of engines.
@functools.cache
def build(spec=SPEC, seed=0):
    """A system with statistics that are not the initial ones, whose policy wants half of a picture's blocks."""
    system = spec.build(nnx.Rngs(seed))
    keys = iter(jax.random.split(jax.random.key(seed), 500))
    for _, variable in nnx.iter_graph(nnx.state(system, nnx.BatchStat)):
        if isinstance(variable, nnx.BatchStat):
            noise = jax.random.uniform(next(keys), variable[...].shape, minval=0.5, maxval=1.5)
            variable[...] = variable[...] + noise * 0.2
    system.eval()
    if system.policy.learned:
        for conv in system.policy.net.convs:
            conv.kernel[...] = 4 * conv.kernel[...]
        image = normalize(jnp.asarray(pictures(4, 128, 128)), spec.mean, spec.std)
        bias = system.policy.net.convs[-1].bias
        bias[...] = bias[...] - jnp.median(system.policy(image).scores)
    return system


def engine_of(execution=EXECUTIONS[-1], dtype="float32"):
    """An engine for all tests; the last execution is the one that engines choose."""
    return _engine(None if execution == EXECUTIONS[-1] else execution, dtype)


@functools.cache
def _engine(execution, dtype):
    return sb.Engine(build(), SPEC, execution=execution, dtype=dtype)


def served(engine, mode="exact", shapes=(), strict=False):
    """The engine's programs, compiled once for all tests, in another mode or for other shapes."""
    settings = dataclasses.replace(
        engine.settings, mode=Mode.parse(mode), shapes=tuple(shapes), strict=strict
    )
    return Server(engine.model_programs, settings)


@pytest.fixture(scope="module")
def system():
    return build()


@pytest.fixture(scope="module")
def engine():
    return engine_of()


def pictures(n, h, w, seed=0):
    """Random colors in patches of several sizes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, -(-h // 16), -(-w // 16), 3)).repeat(16, 1).repeat(16, 2)
    fine = rng.integers(-40, 40, (n, h, w, 3))
    return np.clip(coarse[:, :h, :w] + fine, 0, 255).astype(np.uint8)


def plain(system, images):
    """The network as it is trained, by hand: (labels, logits, mask) of images of whole blocks."""
    image = normalize(images, SPEC.mean, SPEC.std)
    decision = nnx.jit(lambda policy, image: policy(image))(system.policy, image)
    num_high = round_to_bucket(int(decision.action.sum()), decision.action.size, 0.25)
    grid = BlockGrid.from_mask(decision.action, num_high, decision.scores)

    @nnx.jit
    def run(net, image, grid):
        return combine(net(split(image, grid)), SPEC.semantics.low_upsampling)

    logits = run(system.net, image, grid)
    return best(logits), np.asarray(logits), np.asarray(grid.mask)


def best(logits):
    _, h, w, _ = logits.shape
    return np.asarray(resize_bilinear(logits, (4 * h, 4 * w)).argmax(-1), np.uint8)


@pytest.mark.family("fused")
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_equals_plain_network(system, execution):
    engine = engine_of(execution)
    assert engine.execution == execution
    images = pictures(2, 128, 192)
    labels, logits, mask = plain(system, images)
    result = engine(images)
    np.testing.assert_array_equal(result.mask, mask)
    assert 0 < result.share < 1
    assert np.mean(result.labels == labels) >= 0.9999
    given = engine(images, output="logits")
    assert given.labels is None
    np.testing.assert_allclose(given.logits, logits, atol=1e-4 * logits.std())


@pytest.mark.family("fused")
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_network_without_policy(system, execution):
    engine = sb.Engine(system.net, SPEC, execution=execution)
    images = pictures(1, 96, 160)
    image = normalize(images, SPEC.mean, SPEC.std)
    logits = nnx.jit(lambda net, image: net(image))(system.net, image)
    result = engine(images)
    assert np.mean(result.labels == best(logits)) >= 0.9999
    assert result.mask is None
    assert result.scores is None
    assert result.share == 1


def test_bfloat16_differs_little():
    images = pictures(1, 128, 192)
    exact, rounded = (
        engine_of(dtype=dtype)(images, mode="budget=3", output="logits").logits
        for dtype in ("float32", "bfloat16")
    )
    difference = np.abs(exact - rounded).max() / exact.std()
    assert 1e-5 < difference < 0.2


@pytest.mark.skipif("fused" not in EXECUTIONS, reason="no compiled handlers")
def test_description_says_what_multiplies_bfloat16():
    loops, *_ = extension.cpu_loops()
    assert engine_of().describe().splitlines() == [
        "network    swiftnet_rn18, 7 classes",
        f"blocks     {SIDE} pixels a side, policy reinforce",
        "execution  fused",
        "dtype      float32",
        "mode       exact",
        f"processor  cpu, {loops} loops",
    ]
    assert engine_of("xla").describe().endswith("processor  cpu, XLA's code")
    engine = engine_of(dtype="bfloat16")
    for name, products in {
        "base": "bfloat16 widened to float32",
        "avx512_bf16_standin": "AVX-512 dot products of bfloat16 (stand-in)",
        "amx_standin": "AMX tile products of bfloat16 (stand-in)",
    }.items():
        with extension.using_cpu_loops(name):
            assert engine.describe().endswith(f"cpu, {name} loops, {products}")


@pytest.mark.parametrize("text", ["exact", "budget=16", "share=0.25", "latency=40ms"])
def test_modes_are_read_as_they_are_written(text):
    assert str(Mode.parse(text)) == text


def test_modes_choose_blocks(engine):
    images = pictures(2, 128, 192)
    scores = engine(images).scores
    result = engine(images, mode="budget=2")
    assert result.mask.sum((1, 2)).tolist() == [2, 2]
    for mask, score in zip(result.mask, scores, strict=True):
        assert score[mask].min() >= score[~mask].max()
    assert engine(images, mode="budget=99").mask.all()
    assert engine(images, mode="share=0.5").mask.sum((1, 2)).tolist() == [3, 3]
    assert not engine(images, mode="share=0").mask.any()
    budget = served(engine, "budget=2")(images)
    np.testing.assert_array_equal(budget.labels, result.labels)


def test_budget_of_an_image_is_independent_of_its_batch(engine):
    engine = served(engine, "budget=3")
    images = pictures(3, 128, 128)
    together = engine(images)
    for i in range(3):
        alone = engine(images[i : i + 1])
        np.testing.assert_array_equal(alone.mask[0], together.mask[i])
        np.testing.assert_array_equal(alone.labels[0], together.labels[i])


def test_latency_takes_the_most_blocks_that_are_fast_enough(engine, monkeypatch):
    engine = served(engine, "latency=30ms")
    table = {0: 0.010, 1: 0.020, 2: 0.031, 3: 0.029, 4: 0.050}
    monkeypatch.setattr(engine, "latencies", lambda shape, output: table)
    images = pictures(1, 128, 128)
    assert engine(images).mask.sum() == 3
    assert engine(images, mode="latency=1ms").mask.sum() == 0
    assert engine(images, mode="latency=1000ms").mask.all()


def test_latency_table_is_measured_once(system):
    engine = sb.Engine(system, SPEC, mode="latency=1000ms", shapes=[(1, 128, 64)])
    assert engine(pictures(1, 128, 64)).compiled  # It was not measured before.
    assert not engine(pictures(1, 128, 64)).compiled
    table = engine.latencies((1, 128, 64))
    assert list(table) == [0, 1, 2]
    assert all(0 < seconds < 60 for seconds in table.values())
    count = engine.compilations
    assert engine(pictures(1, 128, 64)).mask.all()
    assert engine.compilations == count
    assert engine.latencies((1, 128, 64)) is table


def test_a_pace_keeps_nearly_all_times_below_it_when_the_machine_changes_its_speed():
    pace, late = LatencyTracker(), []
    times = np.random.default_rng(0).lognormal(0, 0.05, (3, 1000))
    for seconds in (times * np.array([[1.0], [1.6], [0.9]])).ravel():
        late.append(seconds > pace.value)
        pace.observe(seconds, 1.0)
    shares = np.reshape(late, (3, 1000)).mean(1)
    assert (shares < 0.05).all()
    assert pace.value < 1.2  # It comes down again.


def test_calls_that_take_longer_than_the_table_says_get_fewer_blocks(engine, monkeypatch):
    engine = served(engine, "latency=1000ms")
    engine.warm_up([(1, 128, 128)])
    monkeypatch.setattr(engine, "latencies", lambda shape, output: dict.fromkeys(range(5), 1e-9))
    counts = [
        int(engine(pictures(1, 128, 128), mode="latency=3e-6ms").mask.sum()) for _ in range(50)
    ]
    assert counts[0] == 4
    assert counts[-1] == 0


@pytest.mark.family("size2")
@pytest.mark.parametrize("size", [(1, 1), (64, 65), (100, 130), (127, 63)])
def test_any_size_is_padded_and_cropped(engine, size):
    h, w = size
    images = pictures(2, h, w)
    padded = np.empty((2, -(-h // SIDE) * SIDE, -(-w // SIDE) * SIDE, 3), np.uint8)
    padded[:] = [round(255 * m) for m in SPEC.mean]
    padded[:, :h, :w] = images
    whole, result = engine(padded, mode="budget=1"), engine(images, mode="budget=1")
    assert result.labels.shape == (2, h, w)
    np.testing.assert_array_equal(result.labels, whole.labels[:, :h, :w])
    np.testing.assert_array_equal(result.mask, whole.mask)
    assert engine(images, output="logits").logits.shape == (2, -(-h // 4), -(-w // 4), 7)


def test_images_take_the_smallest_shape_that_holds_them(engine):
    engine = served(engine, shapes=[(1, 128, 128), (2, 128, 192), (1, 192, 256)])
    shapes = {
        (1, 100, 128): (1, 128, 128),
        (1, 128, 129): (2, 128, 192),
        (2, 64, 64): (1, 128, 128),
        (1, 129, 1): (1, 192, 256),
        (1, 200, 64): (1, 256, 64),
    }
    for given, expected in shapes.items():
        assert engine.shape_for(given) == expected


def test_padding_to_a_shape_runs_low_and_batches_are_cut(system):
    engine = sb.Engine(system, SPEC, shapes=[(2, 192, 256)])
    images = pictures(5, 100, 130)
    result = engine(images, mode="budget=4")
    assert engine.compilations == 1
    assert result.mask.shape == (5, 2, 3)
    assert result.mask.sum((1, 2)).tolist() == [4] * 5
    assert result.labels.shape == (5, 100, 130)
    assert np.isfinite(result.scores).all()
    exact = engine(images)
    assert exact.mask.shape == (5, 2, 3)
    alone = engine(images[4:], mode="budget=4")
    np.testing.assert_array_equal(alone.labels[0], result.labels[4])


def test_random_filling_takes_blocks_of_the_image_before_those_of_padding(system):
    spec = dataclasses.replace(SPEC, semantics=sb.BlockOptions(filling="random"))
    engine = sb.Engine(system, spec, shapes=[(1, 256, 256)])
    for seed in range(3):
        action = np.zeros((1, 4, 4), bool)
        scores = np.full(action.shape, -np.inf, np.float32)
        scores[:, :2, :3] = 0
        run, _ = engine._programs.get(Program("segment", (1, 256, 256), 4))
        _, mask = run(jnp.zeros((1, 256, 256, 3), jnp.uint8), action, scores, np.uint32(seed))
        assert mask[:, :2, :3].sum() == mask.sum() == 4


def test_given_mask_runs(engine):
    images = pictures(1, 100, 130)
    mask = np.array([[[True, False, False], [False, True, True]]])
    result = engine(images, mask=mask)
    np.testing.assert_array_equal(result.mask, mask)
    with pytest.raises(ValueError, match=r"mask has shape \(1, 2, 2\) .*; expected \(1, 2, 3\)"):
        engine(images, mask=mask[..., :2])


def test_random_policy_follows_its_seed():
    spec = dataclasses.replace(SPEC, policy=sb.PolicySpec("random", SIDE, target=0.5))
    engine = sb.Engine(build(spec), spec)
    images = pictures(1, 256, 256)
    first, again, other = (engine(images, seed=seed).mask for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.mean() == 0.5


def test_warm_up_compiles_all_and_serving_nothing(system):
    engine = sb.Engine(system, SPEC, shapes=[(1, 128, 128), (2, 128, 128)])
    engine.warm_up()
    assert engine.compilations == sum(1 + len(buckets(n * 4, 0.25)) for n in (1, 2))
    rng = np.random.default_rng(0)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    try:
        before = engine.compilations
        shares = set()
        for i in range(300):
            size = rng.integers(1, 129, 2)
            images = pictures(rng.integers(1, 3), *size, seed=i)
            images = (images * rng.random()).astype(np.uint8)
            result = engine(images)
            assert not result.compiled
            shares.add(result.share)
            if i == 100:
                gc.collect()
                resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finally:
        jax.monitoring.clear_event_listeners()
    assert engine.compilations == before
    assert compiled == []
    assert len(shares) >= 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1.02 * resident


@pytest.mark.slow
def test_threads_get_what_one_gets(system):
    spec = dataclasses.replace(SPEC, policy=sb.PolicySpec(block_size=SIDE, bucket_step=0.5))
    engine = sb.Engine(system, spec)
    images = [pictures(1, 128, 64 * (1 + i % 3), seed=i) for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(engine, images))
    assert engine.compilations <= 3 * (1 + 3)
    for image, result in zip(images, parallel, strict=True):
        alone = engine(image)
        assert not alone.compiled
        np.testing.assert_array_equal(alone.labels, result.labels)
        np.testing.assert_array_equal(alone.mask, result.mask)


def test_once_makes_a_value_once():
    once, made, gate = KeyedCache(), [], threading.Barrier(4)

    def make():
        made.append(1)
        return object()

    def get(_):
        gate.wait()
        return once.get("key", make)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        values = list(pool.map(get, range(4)))
    assert len(made) == 1
    assert len({id(value) for value, _ in values}) == 1
    assert sum(new for _, new in values) == 1


def test_once_tries_again_after_a_failure():
    once = KeyedCache()
    with pytest.raises(ZeroDivisionError):
        once.get(1, lambda: 1 / 0)
    assert once.get(1, lambda: "made") == ("made", True)
    assert once.get(1, lambda: "again") == ("made", False)


@pytest.mark.slow
def test_memory_falls_with_the_share():
    spec = dataclasses.replace(SPEC, width=64, features=128)
    engine = sb.Engine(build(spec), spec)
    shape = (1, 256, 256)
    high, low = (engine.memory(shape, f"share={share}") for share in (1, 0))
    # Tests compile without optimization, so that images in float, alike in both, weigh more than they do.
    assert 0 < low["temporary"] < 0.5 * high["temporary"]
    assert low["output"] >= 256 * 256


def test_engine_keeps_its_weights(system):
    changed = nnx.clone(system)
    engine = sb.Engine(changed, SPEC)
    images = pictures(1, 64, 64)
    before = engine(images).labels
    for _, value in nnx.iter_graph(nnx.state(changed)):
        if isinstance(value, nnx.Variable):
            value[...] = jnp.zeros_like(value[...])
    np.testing.assert_array_equal(engine(images).labels, before)


@pytest.mark.parametrize(
    "text",
    ["", "exactly", "budget", "budget=-1", "budget=1.5", "share=1.1", "share=nan", "latency=0ms",
     "latency=infms", "exact=1"],
)  # fmt: skip
def test_bad_modes(text):
    with pytest.raises(ValueError, match=r"mode is .*; expected 'exact', 'budget=K'"):
        Mode.parse(text)


def test_buckets_are_all_values_of_round_to_bucket():
    for total in (1, 2, 7, 16, 32, 126):
        for step in (1 / 16, 0.25, 1.0):
            values = buckets(total, step)
            assert values[0] == 0
            assert values[-1] == total
            assert {round_to_bucket(count, total, step) for count in range(total + 1)} == set(
                values
            )


@pytest.mark.parametrize(
    ("images", "error", "text"),
    [
        (np.zeros((1, 64, 64, 3), np.float32), TypeError, "images are float32; expected a uint8"),
        (np.zeros((64, 64, 3), np.uint8), ValueError, r"one image is image\[None\]"),
        (np.zeros((1, 64, 64, 4), np.uint8), ValueError, r"expected \(n, h, w, 3\)"),
        (np.zeros((0, 64, 64, 3), np.uint8), ValueError, r"expected \(n, h, w, 3\)"),
        (np.zeros((1, 0, 64, 3), np.uint8), ValueError, r"expected \(n, h, w, 3\)"),
    ],
)
def test_bad_images(engine, images, error, text):
    with pytest.raises(error, match=text):
        engine(images)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dtype": "float64"}, "dtype is 'float64'; expected one of"),
        ({"mode": "fast"}, "mode is 'fast'"),
        ({"shapes": [(1, 100, 128)]}, r"shapes: \(1, 100, 128\) doesn't fit.*multiples of 64"),
        ({"execution": "cuda"}, "execution is 'cuda'; expected one of"),
    ],
)
def test_bad_options(system, options, text):
    with pytest.raises(ValueError, match=text):
        sb.Engine(system, SPEC, **options)


def test_specs_that_do_not_fit(system):
    changes = {
        "has no mean and std": {"mean": None},
        "the spec has none": {"policy": None},
        "blocks of 64 pixels, the spec of 128": {"policy": sb.PolicySpec(block_size=128)},
    }
    for text, change in changes.items():
        with pytest.raises(ValueError, match=text):
            sb.Engine(system, dataclasses.replace(SPEC, **change))


def test_shapes_are_needed_to_warm_up(engine):
    with pytest.raises(ValueError, match="there are no shapes"):
        engine.warm_up()
    with pytest.raises(ValueError, match="output is 'probabilities'"):
        engine(pictures(1, 64, 64), output="probabilities")
