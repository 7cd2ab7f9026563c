"""Models in folders: what is saved comes back with equal logits; what doesn't fit is refused at once."""

import dataclasses
import json
import os
import pathlib

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.interop import folder as folder_module

SPEC = sb.ModelSpec(
    name="swiftnet_rn18",
    num_classes=3,
    width=4,
    features=6,
    semantics=sb.BlockOptions.authors(),
    policy=sb.PolicySpec(block_size=64, target=0.25, bucket_step=0.125),
    mean=(0.1, 0.2, 1 / 3),
    std=(0.5, 0.6, 0.7),
    dataset="camvid",
    class_names=("sky", "road", "car"),
)


def small_system(spec: sb.ModelSpec = SPEC) -> nnx.Dict:
    return golden.network(lambda: spec.build(nnx.Rngs(0)))


def test_round_trip_gives_the_same_logits(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    system = small_system()
    system.eval()
    folder = sb.save_model(tmp_path / "new" / "model", system, SPEC)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weights.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    loaded = sb.load_model(folder)
    image = jnp.asarray(rng.standard_normal((1, 128, 128, 3)), jnp.float32)
    mask = np.array([[[True, False], [False, True]]])

    @nnx.jit
    def run(system: nnx.Dict, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        return system.net(sb.split(image, mask)).pixels, system.policy(image).scores

    for got, expected in zip(run(loaded, image), run(system, image), strict=True):
        assert np.ptp(expected) > 0
        np.testing.assert_array_equal(got, expected)
    assert sb.load_spec(folder) == SPEC
    assert (loaded.policy.target, loaded.policy.block_size) == (0.25, 64)


def test_files_in_a_folder_are_pytorchs(tmp_path: pathlib.Path) -> None:
    system = small_system()
    sb.save_model(tmp_path / "model", system, SPEC)
    state = safetensors.numpy.load_file(tmp_path / "model" / "weights.safetensors")
    assert {"net.backbone.layer1.0.bn1.running_var", "policy.policy_net.layers.9.bias"} < set(state)
    assert state["net.backbone.conv1.weight"].shape == (4, 3, 7, 7)
    for name, value in golden.variables(system).items():
        np.testing.assert_array_equal(state[name], value, err_msg=name)
    sb.load_torch_state_dict(system.net.backbone, tmp_path / "model" / "weights.safetensors")


@pytest.mark.parametrize("policy", [None, sb.PolicySpec("heuristic", 64, threshold=0.5)])
def test_networks_without_learned_policies(
    tmp_path: pathlib.Path, policy: sb.PolicySpec | None
) -> None:
    spec = dataclasses.replace(SPEC, policy=policy)
    net = small_system(spec).net
    sb.save_model(tmp_path / "model", net, spec)
    loaded = sb.load_model(tmp_path / "model")
    if policy is not None:
        assert loaded.policy.threshold == 0.5
        loaded = loaded.net
    expected = golden.variables(net)
    for name, value in golden.variables(loaded).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert loaded.backbone.bn1.use_running_average


def test_saving_replaces_whole_folders_and_only_saved_models(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, folder = small_system(), tmp_path / "model"
    sb.save_model(folder, system, SPEC)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    system.net.logits.conv.bias[...] += 1
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_text", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sb.save_model(folder, system, SPEC)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    sb.save_model(folder, system, SPEC)
    assert (folder / "weights.safetensors").read_bytes() != before["weights.safetensors"]
    (folder / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="model exists and is no saved model"):
        sb.save_model(folder, system, SPEC)
    assert (folder / "notes.txt").exists()


def test_saving_into_links_and_the_current_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, weights = small_system(), "weights.safetensors"
    folder = sb.save_model(tmp_path / "run7", system, SPEC)
    folder.chmod(0o750)
    (tmp_path / "latest").symlink_to("run7")
    system.net.logits.conv.bias[...] = np.arange(3.0, dtype=np.float32)
    sb.save_model(tmp_path / "latest", system, SPEC)
    saved = safetensors.numpy.load_file(folder / weights)
    np.testing.assert_array_equal(saved["net.logits.conv.bias"], np.arange(3))
    monkeypatch.chdir(folder)
    (folder / weights).unlink()
    sb.save_model(".", system, SPEC)
    assert (folder / weights).is_file()
    assert folder.stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "latest").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "run7"]


def test_a_save_that_stops_half_way_is_found(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = small_system()
    folder = sb.save_model(tmp_path / "model", system, SPEC)
    new = dataclasses.replace(SPEC, dataset="another")
    for stop, found in ((1, SPEC), (2, new)):
        moves = iter(range(1, 9))

        def move(*paths: str, stop: int = stop, moves=moves, function=os.rename) -> None:
            if next(moves) == stop:
                raise KeyboardInterrupt
            function(*paths)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", move)
            patch.setattr(os, "replace", move)
            with pytest.raises(KeyboardInterrupt):
                sb.save_model(folder, system, new)
        assert sb.load_spec(folder) == found
    sb.load_model(folder)
    sb.save_model(folder, system, SPEC)
    assert len(list(folder.iterdir())) == 2


def test_targets_that_can_not_be_saved_to(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "loop"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is no saved model"):
            sb.interop.check_target(tmp_path / name)
    with pytest.raises(OSError, match=r"file/model: can't write here .*Not a directory"):
        sb.interop.check_target(tmp_path / "file" / "model")


def test_a_spec_of_another_model_is_not_saved(tmp_path: pathlib.Path) -> None:
    system = small_system()
    with pytest.raises(ValueError, match=r"save_model: the spec .* builds another model") as error:
        sb.save_model(
            tmp_path / "model", system.net, dataclasses.replace(SPEC, num_classes=3, features=9)
        )
    kinds = [line.partition(":")[0] for line in str(error.value).splitlines()[1:]]
    assert kinds == ["only in the spec's", "of another shape", "All of them"]
    assert "net.logits.conv.weight: (3, 6, 1, 1), the spec's (3, 9, 1, 1)" in str(error.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="3 class_names for num_classes 4"):
        dataclasses.replace(SPEC, num_classes=4)


def test_blocks_that_do_not_fit_the_network() -> None:
    for side, factor in ((32, 2), (96, 2), (0, 2), (64, 4)):
        policy = dataclasses.replace(SPEC.policy, block_size=side, low_factor=factor)
        with pytest.raises(
            ValueError, match=f"policy.block_size is {side}, but swiftnet_rn18 needs"
        ):
            nnx.eval_shape(lambda p=policy: dataclasses.replace(SPEC, policy=p).build(nnx.Rngs(0)))


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> pathlib.Path:
    return sb.save_model(tmp_path / "model", small_system(), SPEC)


def test_missing_files(saved: pathlib.Path) -> None:
    (saved / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model holds no weights\.safetensors; expected"):
        sb.load_model(saved)
    with pytest.raises(FileNotFoundError, match=r"no config\.json and no weights\.safetensors"):
        sb.load_model(saved / "nowhere")


def test_other_versions(saved: pathlib.Path) -> None:
    config, weights = saved / "config.json", saved / "weights.safetensors"
    with safetensors.safe_open(weights, framework="np") as file:
        assert file.metadata() == {"format": "segblocks_jax", "version": "1"}
    state, content = safetensors.numpy.load_file(weights), json.loads(config.read_text())
    safetensors.numpy.save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"weights\.safetensors is of format 'pt', version None;"):
        sb.load_model(saved)
    config.write_text(json.dumps(content | {"version": "2"}))
    with pytest.raises(
        ValueError, match=r"config\.json is of format 'segblocks_jax', version '2';"
    ):
        sb.load_model(saved)


def test_a_saved_model_says_its_system(saved: pathlib.Path) -> None:
    config = saved / "config.json"
    content = json.loads(config.read_text())
    assert content.pop("system") == "segblocks"
    config.write_text(json.dumps(content))  # As written before there were others.
    assert sb.load_spec(saved) == SPEC
    for name in ("dynconv2", "../segblocks", ""):
        config.write_text(json.dumps(content | {"system": name}))
        with pytest.raises(ValueError, match=rf"of the system '{name}', which this version hasn't"):
            sb.load_model(saved)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"color": 1}', '{"name": "swiftnet_rn18"}'])
def test_broken_configurations(saved: pathlib.Path, content: str) -> None:
    file = saved / "config.json"
    if content.startswith('{"'):
        content = json.dumps(json.loads(file.read_text()) | {"model": json.loads(content)})
    file.write_text(content)
    with pytest.raises(
        ValueError, match=r"load_model: .*config\.json (can't be read|is of format)"
    ):
        sb.load_model(saved)


def test_weights_that_do_not_fit_are_listed_at_once(saved: pathlib.Path) -> None:
    file = saved / "weights.safetensors"
    state = safetensors.numpy.load_file(file)
    del state["net.logits.conv.bias"]
    state["net.extra"] = state["policy.policy_net.layers.9.bias"] = np.zeros(2, np.float32)
    metadata = {"format": "segblocks_jax", "version": "1"}
    safetensors.numpy.save_file(state, file, metadata=metadata)
    with pytest.raises(ValueError, match=r"load_model: .* doesn't fit config.json") as error:
        sb.load_model(saved)
    assert str(error.value).splitlines()[1:] == [
        "missing: net.logits.conv.bias",
        "left over: net.extra",
        "misshapen: policy.policy_net.layers.9.bias: got (2,), expected (1,)",
    ]


def test_bfloat16_halves_the_file_and_loads_as_float32(tmp_path: pathlib.Path) -> None:
    system = small_system()
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        folder = sb.save_model(tmp_path / dtype, system, SPEC, dtype=dtype)
        sizes[dtype] = (folder / "weights.safetensors").stat().st_size
        assert len((folder / "weights.safetensors").read_bytes()) == sizes[dtype]
    count = sum(value.size for value in golden.variables(system).values())
    assert sizes["float32"] - sizes["bfloat16"] == pytest.approx(2 * count, abs=2000)
    loaded = golden.variables(sb.load_model(tmp_path / "bfloat16"))
    for name, value in golden.variables(system).items():
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], value.astype(jnp.bfloat16).astype(np.float32))
    with pytest.raises(ValueError, match=r"dtype is 'int8'; expected one of \('float32', 'bfloat"):
        sb.save_model(tmp_path / "model", system, SPEC, dtype="int8")


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_all_may_read_a_saved_model_whom_the_umask_lets(tmp_path: pathlib.Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        folder = sb.save_model(tmp_path / "model", small_system(), SPEC)
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert modes == {"weights.safetensors": 0o666 & ~umask, "config.json": 0o666 & ~umask}


def test_models_that_come_with_the_package_load_by_their_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"tiny holds no .* or the name .* \(there are none\)"
    ):
        sb.load_model("tiny")
    system, about = small_system(), {"summary": "a few weights", "metrics": {"miou": 0.1}}
    sb.save_model(tmp_path / "shipped" / "tiny", system, SPEC, about=about)
    (tmp_path / "shipped" / "notes").mkdir()
    assert sb.shipped_models() == {"tiny": about}
    assert sb.load_spec("tiny") == SPEC
    assert jax.tree.leaves(nnx.state(sb.load_model("tiny")))[0].dtype == np.float32
    for unknown in ("tinier", "./tiny", tmp_path / "tiny"):
        with pytest.raises(FileNotFoundError, match=r"holds no .* or the name of a .* \(tiny\)"):
            sb.load_spec(unknown)
    other = dataclasses.replace(SPEC, dataset="cityscapes")
    sb.save_model("tiny", system, other)
    assert sb.load_spec("tiny") == other  # An existing folder goes first.
    assert folder_module.load_about("tiny") == {}


def test_what_ships_is_small_complete_and_loads() -> None:
    for name, about in sb.shipped_models().items():
        assert about.keys() >= {"summary", "metrics", "command", "license"}, name
        weights = folder_module.SHIPPED / name / "weights.safetensors"
        assert weights.stat().st_size <= 9_000_000, name
        assert sb.load_spec(name).mean is not None, name
        sb.load_model(name)
