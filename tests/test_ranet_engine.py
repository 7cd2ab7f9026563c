"""RANet served: images leave at the exits where the simulation has them leave, and nothing compiles after warm-up."""

import dataclasses
import functools
import pathlib
import threading

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_ranet import SMALL

import segblocks_jax as sb
from segblocks_jax.data.normalization import Normalization, normalize
from segblocks_jax.errors import InputError
from segblocks_jax.systems import ranet
from segblocks_jax.systems.ranet.engine import Engine
from segblocks_jax.systems.ranet.exported import ExportedEngine
from segblocks_jax.systems.ranet.fits import Fit, fingerprint, fit_all
from segblocks_jax.systems.ranet.network import RANet
from segblocks_jax.systems.ranet.operations import cumulative_macs
from segblocks_jax.systems.ranet.settings import Mode
from segblocks_jax.systems.ranet.spec import ModelSpec
from segblocks_jax.systems.ranet.thresholds import exits_taken

SIZE = (16, 16)
OPTIONS = {**SMALL, "step_mode": "even"}
NORMALIZATION = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@functools.cache
def net() -> RANet:
    found = golden.network(lambda: sb.create_model("ranet_cifar_lg", 5, **OPTIONS))
    found.eval()
    return found


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Of different contrast, so that confidences differ."""
    rng = np.random.default_rng(seed)
    contrast = rng.uniform(0, 1, (count, 1, 1, 1))
    return (127 + contrast * rng.integers(-127, 128, (count, *SIZE, 3))).astype(np.uint8)


@functools.cache
def simulated(count: int, seed: int) -> np.ndarray:
    """Probabilities of all exits."""
    graphdef, state = nnx.split(net())

    @jax.jit
    def run(state: nnx.State, images: jax.Array) -> jax.Array:
        logits = nnx.merge(graphdef, state)(normalize(images, *NORMALIZATION))
        return jax.nn.softmax(jnp.stack(logits))

    return np.asarray(run(state, jnp.asarray(pictures(count, seed))))


@functools.cache
def spec() -> ModelSpec:
    macs = cumulative_macs(net(), SIZE)
    labels = np.random.default_rng(1).integers(0, 5, 64)
    fits = fit_all(simulated(64, 7), labels, macs, (0.3, 0.6, 1.0, 1.5))
    return ModelSpec(
        "ranet_cifar_lg",
        5,
        *NORMALIZATION,
        crop=SIZE,
        options=OPTIONS,
        fits=fits,
        weights=fingerprint(net()),
    )


@functools.cache
def engine(execution: str | None = None, max_count: int = 8) -> Engine:
    return Engine(net(), spec(), execution=execution, max_count=max_count, bucket_step=0.25)


def apart(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Images whose confidence is nowhere within rounding of a threshold."""
    return (np.abs(probabilities.max(-1) - thresholds[:, None]) > 1e-4).all(0)


@pytest.mark.family("fused-0.6", "xla-0.6")
@pytest.mark.parametrize("q", [0.3, 0.6, 1.5])
@pytest.mark.parametrize("execution", ["fused", "plain", "xla"])
def test_images_leave_where_the_simulation_has_them_leave(
    execution: str, q: float, compiled: None
) -> None:
    images, probabilities = pictures(29, 3), simulated(29, 3)
    (fit,) = (fit for fit in spec().fits if fit.q == q)
    thresholds = np.asarray(fit.thresholds, np.float32)
    sure = apart(probabilities, thresholds)
    assert sure.sum() > 20
    expected = exits_taken(probabilities.max(-1), thresholds)
    answers = engine(execution)(images, mode=f"q={q}")
    np.testing.assert_array_equal(answers.exits[sure], expected[sure])
    assert len(set(expected)) > 1
    own = probabilities[answers.exits, np.arange(29)]
    np.testing.assert_allclose(answers.probabilities, own, atol=1e-5)
    np.testing.assert_array_equal(answers.labels, answers.probabilities.argmax(-1))
    np.testing.assert_array_equal(answers.macs, np.asarray(engine().settings.macs)[answers.exits])
    if sure.all():
        labels = np.zeros(29, int)
        _, macs, _ = ranet.budgeted(probabilities, labels, thresholds, engine().settings.macs)
        assert answers.macs.mean() == pytest.approx(macs)


def test_batches_streams_and_single_images_agree() -> None:
    images, served = pictures(11, 4), engine()
    together = served(images, mode="q=0.6")
    for batch_size in (1, 4):
        found = list(served.stream(iter(images), batch_size=batch_size, mode="q=0.6"))
        np.testing.assert_array_equal(np.concatenate([x.exits for x in found]), together.exits)
        probabilities = np.concatenate([x.probabilities for x in found])
        np.testing.assert_allclose(probabilities, together.probabilities, atol=1e-6)


def test_nothing_compiles_after_warm_up() -> None:
    served = Engine(net(), spec(), max_count=3, bucket_step=0.5, mode="q=0.6")
    served.warm_up()
    made = served.compilations
    assert made == len(served.settings.programs)
    rng = np.random.default_rng(0)
    for _ in range(40):
        count = int(rng.integers(1, 10))
        mode = ("q=0.3", "q=0.6", "q=1.5", "all", "exit=1", "accurate")[rng.integers(6)]
        assert not served(pictures(count, int(rng.integers(10**6))), mode=mode).compiled
    assert served.compilations == made


def test_all_and_single_exits() -> None:
    images, probabilities, served = pictures(6, 5), simulated(6, 5), engine()
    for mode, last in (("all", 2), ("exit=2", 2), ("exit=0", 0), ("exit=1", 1)):
        answers = served(images, mode=mode)
        assert set(answers.exits) == {last}
        np.testing.assert_allclose(answers.probabilities, probabilities[last], atol=1e-5)


def test_a_budget_is_that_of_the_held_out_images() -> None:
    fits = [Fit(0.5, (0.5, -1e8), 60.0, 2e6), Fit(1.0, (0.7, -1e8), 70.0, 3e6)]
    low, high = (dataclasses.replace(fit, thresholds=(*fit.thresholds, -1e8)) for fit in fits)
    served = Engine(net(), dataclasses.replace(spec(), fits=(low, high)))
    assert served._thresholds(Mode.parse("budget=2.5"))[0][0] == np.float32(0.5)
    assert served._thresholds(Mode.parse("budget=3"))[0][0] == np.float32(0.7)
    assert served._thresholds(Mode.parse("accurate"))[0][0] == np.float32(0.7)
    with pytest.raises(InputError, match="a budget of 1: expected at least 2 "):
        served(pictures(1), mode="budget=1")


def test_a_latency_cuts_off_exits() -> None:
    images, served = pictures(8, 6), engine()
    table = served.latencies(8)
    assert list(table) == [0, 1, 2]
    assert set(served(images, mode="latency=0.000001ms").exits) == {0}
    slow = served(images, mode="latency=100000ms")
    np.testing.assert_array_equal(slow.exits, served(images, mode="accurate").exits)


def test_threads_share_an_engine() -> None:
    served, found = engine(), {}
    images = {i: pictures(5, 20 + i) for i in range(4)}

    def serve(i: int) -> None:
        found[i] = served(images[i], mode="q=0.6").probabilities

    threads = [threading.Thread(target=serve, args=(i,)) for i in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, given in images.items():
        np.testing.assert_array_equal(found[i], served(given, mode="q=0.6").probabilities)


def test_a_saved_model_keeps_its_thresholds(tmp_path: pathlib.Path) -> None:
    for dtype in ("float32", "bfloat16"):
        folder = sb.save_model(tmp_path / dtype, net(), spec(), dtype=dtype)
        assert sb.load_spec(folder) == spec()
        sb.load_spec(folder).check_fits(sb.load_model(folder))
    with pytest.raises(InputError, match="of another model: they were fitted with other weights"):
        Engine(sb.create_model("ranet_cifar_lg", 5, **OPTIONS), spec())
    more = dataclasses.replace(spec(), fits=(Fit(1.0, (0.5,) * 8, 50.0, 1e6),))
    with pytest.raises(InputError, match="of 8 exits are of another model: this network has 3"):
        Engine(net(), more)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("fast", "mode is 'fast'; expected 'accurate'"),
        ("exit=3", "the exits are 0 to 2"),
        ("exit=0.5", "mode is 'exit=0.5'"),
        ("q=0.45", "there are thresholds for q of 0.3, 0.6, 1, 1.5"),
        ("budget=0", "mode is 'budget=0'"),
    ],
)
def test_modes_that_are_none(mode: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine()(pictures(1), mode=mode)


def test_what_can_not_be_served(unchecked: None) -> None:
    bare = dataclasses.replace(spec(), fits=())
    with pytest.raises(InputError, match="the model has no thresholds"):
        Engine(net(), bare, mode="accurate")
    with pytest.raises(InputError, match="there are no images"):
        engine()([])
    with pytest.raises(TypeError, match="expected a uint8 array"):
        engine()(np.zeros((1, *SIZE, 3), np.float32))
    with pytest.raises(InputError, match="images are 8 x 8 pixels; expected sides from"):
        Engine(net(), dataclasses.replace(bare, crop=(8, 8)))


@pytest.mark.parametrize("text", ["accurate", "all", "exit=2", "q=0.5", "budget=20", "latency=5ms"])
def test_modes_as_text(text: str) -> None:
    assert str(Mode.parse(text)) == text


def test_images_of_other_sizes_are_cropped() -> None:
    large = np.random.default_rng(0).integers(0, 256, (20, 18, 3), np.uint8)
    small = pictures(1)[0]
    answers = engine()([large, small], mode="all")
    expected = engine()(np.stack([large[2:18, 1:17], small]), mode="all")
    np.testing.assert_array_equal(answers.probabilities, expected.probabilities)


def test_arrays_are_resized_as_lists_are() -> None:
    resized = Engine(net(), dataclasses.replace(spec(), resize=20), max_count=8, bucket_step=0.25)
    images = pictures(2)
    answers = [resized(x, mode="all").probabilities for x in (images, list(images))]
    np.testing.assert_array_equal(*answers)
    assert not np.allclose(answers[0], engine()(images, mode="all").probabilities)


def test_thresholds_of_images_of_another_size() -> None:
    large = dataclasses.replace(spec(), crop=(24, 24))
    with pytest.raises(InputError, match="fit them for this network and size of images"):
        Engine(net(), large)


@pytest.mark.slow
def test_an_exported_engine_gives_the_same(tmp_path: pathlib.Path) -> None:
    served = Engine(net(), spec(), execution="xla", max_count=8, bucket_step=0.25, mode="q=0.6")
    folder = served.export(tmp_path / "exported", platforms=("cpu",))
    names = {file.name for file in folder.iterdir()}
    assert names == {"engine.json"} | {
        f"stage{k}.{end}" for k in range(3) for end in ("npz", "jax_export")
    }
    exported = ExportedEngine(folder)
    images = pictures(13, 9)
    expected = served(images)
    found = exported(images)
    np.testing.assert_array_equal(found.exits, expected.exits)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert exported.settings == served.settings
    (folder / "stage1.npz").write_bytes(b"cut")
    with pytest.raises(
        InputError, match=r"stage1.npz can't be read: it is not the file that was exported"
    ):
        ExportedEngine(folder)
    with pytest.raises(InputError, match="the engine's execution is 'fused'"):
        engine("fused").export(tmp_path / "other")
