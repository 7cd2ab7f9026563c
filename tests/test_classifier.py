"""The plain classifier in the loop and through the commands, and what other systems that classify images inherit."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from segblocks_jax import load_model, load_spec
from segblocks_jax.data import normalize
from segblocks_jax.data.classification.source import open_classes
from segblocks_jax.errors import InputError
from segblocks_jax.experiments import commands
from segblocks_jax.experiments.defaults import config as full_config
from segblocks_jax.nn import BatchNorm, BlockOptions
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.systems.classifier import predict, predictor
from segblocks_jax.systems.classifier.base import ImageClassifier
from segblocks_jax.systems.classifier.config import BaseConfig, ExperimentConfig
from segblocks_jax.systems.classifier.engine import Engine
from segblocks_jax.systems.classifier.evaluation import Outputs, predict_all, summarize
from segblocks_jax.systems.classifier.prediction import Prediction
from segblocks_jax.systems.classifier.predictor import Predictor
from segblocks_jax.systems.classifier.spec import BaseSpec, ModelSpec
from segblocks_jax.systems.classifier.step import TrainStep
from segblocks_jax.systems.classifier.system import Classifier
from segblocks_jax.systems.registry import system_of
from segblocks_jax.tasks.classification.augmentation import CenterCrop
from segblocks_jax.tasks.classification.losses import cross_entropy
from segblocks_jax.tasks.classification.metrics import Accuracy, ranks
from segblocks_jax.training.config import OptimConfig, StagedOptimConfig
from segblocks_jax.training.sharding import AXIS
from segblocks_jax.training.state import create_optimizer, create_state, learning_rate

FIELDS = {
    "system": "classifier",
    "name": "tiny",
    "data": {"shapes": (40, 10, 11), "holdout": 8},
    "model": {"width": 4},
    "optim": {"batch_size": 8, "steps": 4, "learning_rate": 0.05, "label_smoothing": 0.1},
    "loop": {"eval_every": 2, "checkpoint_every": 2, "log_every": 1, "eval_batch_size": 4},
}


def tiny(**changes):
    mapping = dict(FIELDS)
    for name, value in changes.items():
        mapping[name] = {**mapping.get(name, {}), **value} if isinstance(value, dict) else value
    return system_of(mapping)


@dataclasses.dataclass(frozen=True)
class Spec(BaseSpec):
    """Of the network below, whose first exit sees the mean color and whose second sees all pixels."""

    system = "test"

    def build(self, rngs):
        count = self.crop[0] * self.crop[1] * 3
        exits = [nnx.Linear(size, self.num_classes, rngs=rngs) for size in (3, count)]
        return nnx.Dict(exits=nnx.List(exits))

    def forward(self, modules, image):
        mean, every = image.mean((1, 2)), image.reshape(len(image), -1)
        first, second = modules.exits
        exits = (first(mean), second(every))
        return Prediction(exits[-1], exits, {"brightness": mean.mean(1)})


class TwoExits(ImageClassifier):
    """The least system with exits: what RANet is like."""

    config_type = BaseConfig
    model = "two exits"

    @property
    def spec(self):
        return Spec(**self.spec_fields())

    def loss(self, modules, image, label, keys, progress):
        found = self.spec.forward(modules, image)
        loss = sum(cross_entropy(logits, label).mean() for logits in found.exits)
        return loss, {"progress": progress}

    def gmacs(self, modules, outputs=None):
        return 3e-9


@dataclasses.dataclass(frozen=True)
class NormedSpec(Spec):
    """The same behind a batch norm."""

    def build(self, rngs):
        norm = BatchNorm(3, momentum=0.1, semantics=BlockOptions())
        return nnx.Dict(norm=norm, **super().build(rngs))

    def forward(self, modules, image):
        return super().forward(modules, modules.norm(image))


class Normed(TwoExits):
    @property
    def spec(self):
        return NormedSpec(**self.spec_fields())


def two_exits(kind=TwoExits, **changes):
    fields = {name: value for name, value in FIELDS.items() if name not in ("system", "model")}
    return kind(BaseConfig.from_mapping({**fields, **changes}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classifier")
    assert commands.train(tiny(), workdir) == 0
    return workdir


@pytest.mark.slow
def test_training_writes_scores_with_everything_to_repeat_it(trained):
    result = json.loads((trained / "eval.json").read_text())
    metrics = result["metrics"]
    assert result["step"] == 4
    assert result["split"] == "shapes/test"
    assert metrics["images"] == 11
    assert metrics["gmacs"] > 0
    assert 0 <= metrics["top1"] <= metrics["top5"] <= 1
    assert result["config"]["optim"]["label_smoothing"] == 0.1
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line["values"]]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all({"train/top1", "train/gradient_norm"} <= line["values"].keys() for line in steps)
    rates = [line["values"]["train/learning_rate"] for line in steps]
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.005, 0.0005])


@pytest.mark.slow
def test_evaluation_of_a_checkpoint_repeats_the_trainings(trained, tmp_path):
    assert commands.evaluate(tiny(), trained, "latest", tmp_path) == 0
    found, trainings = (json.loads((f / "eval.json").read_text()) for f in (tmp_path, trained))
    for name in ("top1", "top5", "loss", "gmacs", "images"):
        assert found["metrics"][name] == pytest.approx(trainings["metrics"][name], rel=1e-6)
    other = tiny(data={"eval_split": "holdout"})
    assert commands.evaluate(other, trained, "latest", tmp_path) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["metrics"]["images"] == 8


@pytest.mark.slow
def test_an_exported_model_is_served_as_it_was_trained(trained, tmp_path):
    assert commands.export(tiny(), trained, "latest", tmp_path) == 0
    folder = tmp_path / "export"
    model, spec = load_model(folder), load_spec(folder)
    assert isinstance(spec, ModelSpec)
    assert spec.class_names[0] == "disk"
    source = open_classes("shapes", split="test")
    images = [source[i]["image"] for i in range(3)]
    result = Engine(model, spec)(images)
    logits = model(normalize(np.stack(images), spec.mean, spec.std))
    np.testing.assert_allclose(result.probabilities, jax.nn.softmax(logits), atol=1e-5)
    np.testing.assert_array_equal(result.labels, np.argmax(logits, 1))


@pytest.mark.slow
def test_prediction_writes_the_likeliest_classes(trained, tmp_path, capsys):
    source = open_classes("shapes", split="test")
    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.fromarray(source[i]["image"]).save(tmp_path / f"in/{i}.png")
    output = tmp_path / "out"
    assert (
        commands.predict(tiny(), trained, "latest", str(tmp_path / "in"), output, batch_size=2) == 0
    )
    records = json.loads((output / "predictions.json").read_text())["pictures"]
    assert [pathlib.Path(r["file"]).name for r in records] == ["0.png", "1.png", "2.png"]
    engine = Engine(load_model(trained / "export"), load_spec(trained / "export"))
    for i, record in enumerate(records):
        shares = engine([source[i]["image"]]).probabilities[0]
        assert record["classes"][0] == engine.spec.class_names[int(shares.argmax())]
        np.testing.assert_allclose(record["probabilities"], np.sort(shares)[::-1][:5], atol=1e-5)
    assert "3 pictures classified, 0 failed" in capsys.readouterr().out
    (tmp_path / "in/1.png").write_bytes(b"zzz")
    assert commands.predict(tiny(), trained, "latest", str(tmp_path / "in"), output) == 1
    assert "in/1.png: can't read this image" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"resnet18 has no mode to choose"):
        commands.predict(tiny(), trained, "latest", str(tmp_path / "in"), output, mode="budget=3")


@pytest.mark.slow
def test_speed_is_measured_on_images_of_the_networks_size(tmp_path, capsys):
    assert commands.speed(tiny(), tmp_path) == 0
    report = json.loads((tmp_path / "speed.json").read_text())
    assert report["size"] == [32, 32]
    assert {(row["batch"], row["implementation"]) for row in report["rows"]} == {
        (batch, way) for batch in (1, 8) for way in ("xla", "default")
    }
    assert all(row["seconds"] > 0 for row in report["rows"])
    assert "resnet18, 32 x 32" in capsys.readouterr().out


@pytest.fixture(scope="module")
def exits(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("exits")
    system = two_exits()
    return system, workdir, commands.train(system, workdir)


def test_a_system_with_exits(exits):
    _, workdir, code = exits
    assert code == 0
    metrics = json.loads((workdir / "eval.json").read_text())["metrics"]
    assert metrics["top1"] == metrics["top1_exit2"]
    assert {"top1_exit1", "brightness"} <= metrics.keys()
    assert metrics["gmacs"] == 3e-9
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    progress = [
        v["train/progress"] for v in (line["values"] for line in lines) if "train/loss" in v
    ]
    assert progress == [0, 0.25, 0.5, 0.75]


def test_outputs_of_a_set_are_those_of_each_image(exits):
    system, _, _ = exits
    modules = system.build()
    source = system.eval_source
    found = system.outputs(modules, source, keep_logits=True)
    assert found.logits.shape == (2, 11, 10)
    for i in range(len(source)):
        item = source[i]
        image = normalize(item["image"][None], *system.config.data.normalization)
        expected = system.spec.forward(modules, image)
        for own, logits in zip(found.logits, expected.exits, strict=True):
            np.testing.assert_allclose(own[i], logits[0], atol=1e-4)
        assert found.labels[i] == item["label"]
        np.testing.assert_allclose(found.values["brightness"][i], image.mean(), atol=1e-5)
    for rank, logits in zip(found.exit_ranks, found.logits, strict=True):
        np.testing.assert_array_equal(rank, ranks(logits, found.labels))
    np.testing.assert_array_equal(found.ranks, found.exit_ranks[-1])
    losses = cross_entropy(jnp.asarray(found.logits[-1]), jnp.asarray(found.labels))
    np.testing.assert_allclose(found.losses, losses, rtol=1e-5)
    again = system.outputs(modules, source)
    assert again.logits is None
    np.testing.assert_array_equal(again.ranks, found.ranks)


def test_two_processes_get_the_result_of_one(exits, monkeypatch):
    system, _, _ = exits
    modules = system.build()
    whole = system.evaluate(modules).to_dict()
    parts = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for process in (0, 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        with monkeypatch.context() as patch:
            patch.setattr(predictor, "gather", lambda value: parts.append(value) or [value])
            system.outputs(modules, system.eval_source)
    monkeypatch.setattr(predictor, "gather", lambda value: parts[::-1])
    found = system.evaluate(modules).to_dict()
    for name in ("top1", "top5", "images", "loss", "top1_exit1", "brightness"):
        assert found[name] == pytest.approx(whole[name], rel=1e-6)


def test_summary_has_the_means_and_the_systems_own():
    outputs = Outputs(
        labels=np.array([0, 1, 1, 2]),
        ranks=np.array([0, 0, 1, 0]),
        losses=np.array([0.0, 1.0, 2.0, 3.0]),
        exit_ranks=np.array([[1, 1, 1, 0], [0, 0, 1, 0]]),
        values={"share": np.array([0.0, 0.0, 1.0, 1.0]), "masks": np.zeros((3, 4))},
        logits=None,
        images_per_second=None,
    )
    found = summarize(outputs, 0.5, ("a", "b", "c"), {"budgeted": 0.25})
    assert found.to_dict() == {
        "top1": 0.75,
        "top5": 1.0,
        "images": 4,
        "loss": 1.5,
        "gmacs": 0.5,
        "images_per_second": None,
        "top1_exit1": 0.25,
        "top1_exit2": 0.75,
        "share": 0.5,
        "budgeted": 0.25,
    }
    assert found.accuracy == Accuracy.of(outputs.ranks, outputs.labels, 3)
    assert "exit 1: top-1 25.00%" in str(found)
    assert "b   50.0%" in str(found)


def trainer(system, **options):
    config = system.config
    optimizer = create_optimizer(config.optim, system.multipliers())
    graphdef, state = create_state(system.build(), optimizer, config.seed)
    normalization = config.data.normalization
    step = TrainStep(graphdef, optimizer, config, normalization, system.loss, **options)
    return step, step.place(state)


def batch(count=8, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return {"image": image, "label": rng.integers(0, 10, count).astype(np.int32)}


def test_a_step_is_sgd_with_momentum_by_hand():
    system = two_exits(optim={**FIELDS["optim"], "weight_decay": 0.01, "learning_rate": 0.1})
    step, state = trainer(system)
    graphdef, params = nnx.split(system.build())
    own, velocity = params, jax.tree.map(jnp.zeros_like, params)

    def loss(params, given):
        image = normalize(given["image"], *system.config.data.normalization)
        exits = system.spec.forward(nnx.merge(graphdef, params), image).exits
        return sum(cross_entropy(x, jnp.asarray(given["label"])).mean() for x in exits)

    for number in range(2):
        given = batch(seed=number)
        expected, grads = jax.value_and_grad(loss)(own, given)
        grads = jax.tree.map(lambda g, p: g + 0.01 * p, grads, own)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, grads)
        own = jax.tree.map(lambda p, v: p - 0.1 * v, own, velocity)
        state, metrics = step(state, given)
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(own), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert step.compiled == {None}


def test_devices_take_the_step_of_one():
    """Batch norms are synchronized, so that statistics are those of the whole batch."""
    found = []
    for devices in (1, 4):
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), (AXIS,))
        step, state = trainer(two_exits(kind=Normed), mesh=mesh)
        state, metrics = step(state, batch())
        found.append(jax.device_get((state.params, state.stats, metrics)))
    assert len(jax.tree.leaves(found[0][1])) == 2
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_accumulated_parts_take_the_step_of_the_whole():
    states = []
    for parts in (1, 2):
        step, state = trainer(two_exits(optim={**FIELDS["optim"], "accumulate": parts}))
        states.append(step(state, batch())[0].params)
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_rate_falls_at_milestones_and_warms_up():
    staged = StagedOptimConfig(steps=100, learning_rate=1.0, milestones=(0.5, 0.75), gamma=0.1)
    rate = learning_rate(staged)
    assert [float(rate(i)) for i in (0, 49)] == [1, 1]
    np.testing.assert_allclose([rate(i) for i in (50, 74, 75, 99)], [0.1, 0.1, 0.01, 0.01])
    warm = learning_rate(dataclasses.replace(staged, warmup=10))
    np.testing.assert_allclose([warm(i) for i in (0, 4, 9, 20)], [0.1, 0.5, 1, 1])
    cosine = learning_rate(dataclasses.replace(staged, schedule="cosine"))
    np.testing.assert_allclose([cosine(i) for i in (0, 50, 100)], [1, 0.5, 0], atol=1e-6)
    adam = OptimConfig(steps=100, learning_rate=1.0, final_learning_rate=0.5)
    np.testing.assert_allclose([learning_rate(adam)(i) for i in (0, 100)], [1, 0.5])


def test_adam_in_stages():
    config = StagedOptimConfig(
        optimizer="adam", steps=10, learning_rate=0.1, weight_decay=0.0, milestones=(0.1,)
    )
    optimizer = create_optimizer(config, {})
    params = {"w": jnp.ones(2)}
    state = optimizer.init(params)
    for expected in (-0.1, -0.01):  # Of a constant gradient, Adam's direction is its sign.
        with jax.numpy_dtype_promotion("standard"):  # Adam's bias correction mixes types.
            update, state = optimizer.update({"w": jnp.full(2, 3.0)}, state, params)
        np.testing.assert_allclose(update["w"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"model": {"name": "zzz"}}, "model.name is 'zzz'; expected one of"),
        ({"model": {"name": "mobilenet_v2", "width": 8}}, "mobilenet_v2 has no width to choose"),
        ({"model": {"pretrained": "zzz"}}, "model.pretrained is 'zzz'; expected a file"),
        ({"optim": {"label_smoothing": 1.0}}, "optim.label_smoothing is 1.0; expected a share"),
        (
            {"optim": {"milestones": (0.75, 0.5)}},
            "optim.milestones is (0.75, 0.5); expected shares",
        ),
        ({"optim": {"optimizer": "zzz"}}, "optim.optimizer is 'zzz'; expected one of"),
        ({"policy": {}}, "unknown field policy"),
    ],
)
def test_configurations_that_cannot_run(fields, text):
    with pytest.raises(ConfigError) as error:
        ExperimentConfig.from_mapping(fields)
    assert text in str(error.value)


def test_the_defaults_of_a_configuration_file_are_the_systems():
    config = full_config({"system": "classifier", "data": {"crop": (28, 28)}})
    assert config.optim.milestones == (0.5, 0.75)
    system = system_of(config.to_dict())
    assert type(system) is Classifier
    assert system.config.data.crop == (28, 28)
    with pytest.raises(ConfigError, match=r"shapes has no split 'zzz'"):
        system_of(config.to_dict(), eval_split="zzz")


def test_engines_take_images_of_any_size(exits, rng):
    system, _, _ = exits
    modules = system.build()
    engine = system.engine(modules)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((32, 32), (40, 33), (20, 50))]
    result = engine(images)
    assert result.compiled
    assert not engine(images).compiled
    np.testing.assert_allclose(result.probabilities.sum(1), 1, rtol=1e-5)
    for i, image in enumerate(images):
        alone = engine([image])
        np.testing.assert_allclose(alone.probabilities[0], result.probabilities[i], atol=1e-5)
        assert alone.labels[0] == result.labels[i]


@pytest.mark.usefixtures("unchecked")
def test_engines_refuse_what_is_no_image(exits):
    engine = exits[0].engine(exits[0].build())
    image = np.zeros((32, 32, 3), np.uint8)
    for bad in (image[..., :2], image.astype(np.float32), image[0]):
        with pytest.raises(InputError, match=r"expected \(h, w, 3\) and uint8"):
            engine([bad])
    with pytest.raises(InputError, match="no images"):
        engine([])


def test_a_predictor_takes_batches_that_its_devices_do_not_divide(exits, rng):
    system, _, _ = exits
    predictor = Predictor(system.build(), system.spec)
    images = rng.integers(0, 256, (5, 32, 32, 3), np.uint8)
    found = predictor(images)
    assert found.logits.shape == (5, 10)
    np.testing.assert_allclose(predictor(images[3:]).logits, found.logits[3:], atol=1e-5)


def test_batches_are_told_as_they_come(exits):
    system, _, _ = exits
    seen = []
    predictor = Predictor(system.build(), system.spec)
    predict_all(
        predictor,
        system.eval_source,
        CenterCrop((32, 32)),
        4,
        on_batch=lambda batch, found: seen.append((batch.count, len(found.logits))),
    )
    assert seen == [(4, 4), (4, 4), (3, 4)]


def test_pictures_overwrite_nothing_and_are_no_inputs(tmp_path):
    """Files of one stem, one whose name looks like a result, and results in the folder of the inputs."""
    (tmp_path / "sub").mkdir()
    files = ["a.png", "a.bmp", "sub/a.png", "a_masks.png", "b.png"]
    for i, name in enumerate(files):
        Image.fromarray(np.full((4, 4, 3), 10 * i, np.uint8)).save(tmp_path / name)

    def prepare(save):
        def find(pictures):
            for picture in pictures:
                save(picture, {"masks": picture.image + np.uint8(100)})
            return [{"file": str(picture.file)} for picture in pictures]

        return find

    for _ in range(2):
        records, failed = predict.find_in_pictures(prepare, str(tmp_path), tmp_path, batch_size=2)
        assert (len(records), failed) == (len(files), 0)
        inside = {f: np.asarray(Image.open(f)).max() for f in tmp_path.rglob("*.*")}
        for i, name in enumerate(files):
            assert inside.pop(tmp_path / name) == 10 * i
        assert sorted(inside.values()) == [100 + 10 * i for i in range(len(files))]
