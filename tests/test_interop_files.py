"""Files of weights in every format: what they hold is loaded, what is broken or could run code is refused."""

import argparse
import collections
import hashlib
import pathlib
import pickle
import sys
import types
import zipfile

import golden
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from flax import nnx

import segblocks_jax as sb
from segblocks_jax.errors import InputError
from segblocks_jax.interop import files, load_torch_state_dict
from segblocks_jax.systems.segblocks.policies.reinforce import PolicyNet


def small_net() -> nnx.Module:
    return golden.network(lambda: PolicyNet(128, features=2, rngs=nnx.Rngs(0)))


def small_swiftnet() -> nnx.Module:
    sizes = {"num_classes": 3, "width": 4, "features": 6}
    return golden.network(lambda: sb.create_model("swiftnet_rn18", **sizes, rngs=nnx.Rngs(0)))


def write(path: pathlib.Path, state: dict[str, np.ndarray]) -> None:
    """Writes a file of the kind that its suffix tells."""
    if path.suffix == ".npz":
        np.savez(path, **state)
    elif path.suffix == ".safetensors":
        safetensors.numpy.save_file(state, path)
    else:
        torch = pytest.importorskip("torch")
        torch.save({k: torch.from_numpy(v.copy()) for k, v in state.items()}, path)


# Files


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth", ".pt"])
def test_every_kind_of_file(tmp_path: pathlib.Path, suffix: str) -> None:
    model = small_net()
    state = {k: np.ascontiguousarray(v + 1) for k, v in golden.variables(model).items()}
    write(tmp_path / f"weights{suffix}", state)
    load_torch_state_dict(model, str(tmp_path / f"weights{suffix}"))
    for name, value in golden.variables(model).items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_a_file_that_does_not_fit_is_named(tmp_path: pathlib.Path, suffix: str) -> None:
    state = {k: np.ascontiguousarray(v) for k, v in golden.variables(small_net()).items()}
    state["extra"], state["layers.0.weight"] = np.zeros(1), np.zeros(2)
    del state["layers.9.bias"]
    file = tmp_path / f"weights{suffix}"
    write(file, state)
    with pytest.raises(ValueError, match=r"PolicyNet doesn't fit .*/weights\.") as error:
        load_torch_state_dict(small_net(), file)
    assert str(error.value).splitlines()[1:] == [
        "missing: layers.9.bias",
        "left over: extra",
        "misshapen: layers.0.weight: got (2,), expected (2, 3, 7, 7)",
    ]


def test_low_precision_in_safetensors(tmp_path: pathlib.Path) -> None:
    model = small_net()
    low = {k: np.asarray(v, jnp.bfloat16, order="C") for k, v in golden.variables(model).items()}
    write(tmp_path / "low.safetensors", low)
    load_torch_state_dict(model, tmp_path / "low.safetensors")
    for name, value in golden.variables(model).items():
        np.testing.assert_array_equal(value, low[name].astype(np.float32), err_msg=name)


class RunsOnUnpickling:
    """An object of a hostile file."""

    def __reduce__(self) -> tuple:
        return pytest.fail, ("an object was unpickled",)


def test_python_objects_in_npz_are_named_and_never_unpickled(tmp_path: pathlib.Path) -> None:
    state: dict = dict(golden.variables(small_net()))
    state["layers.9.bias"] = np.array([None])
    state["layers.1.bias"] = np.array([RunsOnUnpickling()])
    write(tmp_path / "objects.npz", state)
    with pytest.raises(ValueError, match=r"no arrays of numbers: layers\.1\.bias, layers\.9\.bias"):
        load_torch_state_dict(small_net(), tmp_path / "objects.npz")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"no weights here", None])
def test_broken_files(tmp_path: pathlib.Path, suffix: str, content: bytes | None) -> None:
    file = tmp_path / f"broken{suffix}"
    write(file, {k: np.ascontiguousarray(v) for k, v in golden.variables(small_net()).items()})
    file.write_bytes(file.read_bytes()[:-400] if content is None else content)
    with pytest.raises(ValueError, match=r"broken\.\w+: can't be read as"):
        load_torch_state_dict(small_net(), file)


def test_missing_and_unknown_files(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file of weights"):
        load_torch_state_dict(small_net(), tmp_path / "none.npz")
    with pytest.raises(
        ValueError, match=r"end in \.pth, \.pt, \.safetensors, \.npz, not in '\.bin'"
    ):
        load_torch_state_dict(small_net(), tmp_path / "weights.bin")


def test_the_digest_of_a_backbone_file(tmp_path: pathlib.Path) -> None:
    net = small_swiftnet()
    state = {k: np.ascontiguousarray(v + 1) for k, v in golden.variables(net.backbone).items()}
    file = tmp_path / "backbone.npz"
    write(file, state)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    record = sb.load_backbone(net, file)
    assert (record["file"], record["sha256"]) == (str(file), digest)
    for name, value in golden.variables(net.backbone).items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)


# PyTorch


def test_tensors_in_memory() -> None:
    torch = pytest.importorskip("torch")
    model = small_net()
    state = {k: torch.from_numpy(v.copy()) for k, v in golden.variables(model).items()}
    state["layers.0.weight"] = torch.nn.Parameter(state["layers.0.weight"].bfloat16())
    state["layers.1.weight"] = state["layers.1.weight"].half()
    state["layers.1.num_batches_tracked"] = torch.tensor(3)
    load_torch_state_dict(model, state)
    for name, value in golden.variables(model).items():
        expected = state[name].detach().float().numpy()
        np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_authors_checkpoints(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    """They hold settings and progress in EasyDicts, a score from NumPy, and the optimizer's state."""
    torch = pytest.importorskip("torch")

    class EasyDict(dict):
        def __init__(self, values: dict) -> None:
            super().__init__(values)
            self.__dict__.update(values)

    EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"
    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict
    monkeypatch.setitem(sys.modules, "easydict", module)
    net = small_swiftnet()
    weights = {k: torch.from_numpy(v + 1) for k, v in golden.variables(net).items()}
    checkpoint = {
        "state_dict": collections.OrderedDict({f"net.{k}": v for k, v in weights.items()}),
        "optimizer": {
            "state": {0: {"step": 3}},
            "param_groups": [{"lr": 1e-3, "betas": (0.5, 0.9)}],
        },
        "scheduler": None,
        "progress": EasyDict({"epoch": 3, "score": np.nanmean(np.ones(3))}),
        "logger_step": 4,
        "config": EasyDict({"lr": 0.1, "viz": ["a"], "inner": EasyDict({"x": (1, 2)})}),
    }
    file = tmp_path / "checkpoint.pth"
    torch.save(checkpoint, file, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "easydict")
    load_torch_state_dict(net, file)
    for name, value in golden.variables(net).items():
        np.testing.assert_array_equal(value, weights[name].numpy(), err_msg=name)


# Files that PyTorch 2.13 wrote: see `test_pytorch_writes_these_files`.
TORCH_FILES = [pathlib.Path(__file__).with_name(f"torch_{kind}.pth") for kind in ("zip", "legacy")]


def torch_file_content() -> dict[str, np.ndarray]:
    """What lies in them under `state_dict`."""
    whole = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8
    return {
        **{
            f"{dtype.__name__}": np.arange(2, 8).astype(dtype).reshape(2, 3)
            for dtype in (np.float64, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8)
        },
        "bool": np.array([True, False]),
        "bfloat16": np.array([0.5, -3.0], jnp.bfloat16),
        "whole": whole,
        "turned": whole.transpose(2, 0, 1),
        "part": whole[1, 1:, ::2],
        "parameter": np.array([[1.5]], np.float32),
        "scalar": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
    }


def write_torch_file(path: pathlib.Path, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    content = torch_file_content()
    bfloat16 = torch.tensor([0.5, -3.0], dtype=torch.bfloat16)
    state = {k: torch.from_numpy(np.array(v)) for k, v in content.items() if k != "bfloat16"}
    state |= {"turned": state["whole"].permute(2, 0, 1), "part": state["whole"][1, 1:, ::2]}
    state |= {"parameter": torch.nn.Parameter(state["parameter"]), "bfloat16": bfloat16}
    module = torch.nn.Linear(2, 2)
    checkpoint = {
        "state_dict": collections.OrderedDict(state),
        "args": argparse.Namespace(lr=0.1, where=pathlib.PurePosixPath("a")),
        "module": module,
        "score": np.float64(0.5),
        "names": {"a", "b"},
        "optimizer": torch.optim.Adam(module.parameters()).state_dict(),
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)


def assert_is_torch_file_content(path: pathlib.Path) -> None:
    state = files.unwrap(files.read_state(path))
    expected = torch_file_content()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].dtype == value.dtype
        np.testing.assert_array_equal(state[name], value, err_msg=name)


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_writes_these_files(tmp_path: pathlib.Path, zipped: bool) -> None:
    write_torch_file(tmp_path / "a.pth", zipped)
    assert_is_torch_file_content(tmp_path / "a.pth")


@pytest.mark.parametrize("file", TORCH_FILES, ids=["zip", "legacy"])
def test_pytorch_files_are_read_without_pytorch(
    file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert_is_torch_file_content(file)
    content = files.read_state(file)
    assert {type(content[key]).__name__ for key in ("args", "module", "names")} == {
        "Namespace",
        "Linear",
        "set",
    }
    assert all(vars(content[key]) == {} for key in ("args", "module", "names"))


@pytest.mark.parametrize("cut", [1, 100, 1000, 4000])
def test_pytorch_files_that_were_cut(tmp_path: pathlib.Path, cut: int) -> None:
    for file in TORCH_FILES:
        broken = tmp_path / "broken.pth"
        broken.write_bytes(file.read_bytes()[:-cut])
        with pytest.raises(InputError, match=r"broken\.pth: can't be read as a \.pth file"):
            files.read_state(broken)


def test_tensors_that_reach_beyond_their_storage(tmp_path: pathlib.Path) -> None:
    zip_file, legacy = TORCH_FILES
    broken = tmp_path / "broken.pth"
    with zipfile.ZipFile(zip_file) as whole, zipfile.ZipFile(broken, "w") as cut:
        for name in whole.namelist():
            content = whole.read(name)
            cut.writestr(name, content[:-4] if len(content) == 96 else content)
    with pytest.raises(InputError, match="can't be read"):
        files.read_state(broken)
    content, claim = legacy.read_bytes(), pickle.dumps(10**9, 2)[2:-1]  # Elements of a storage.
    count = pickle.dumps(24, 2)[2:-1] + b"N"
    assert count in content
    broken.write_bytes(content.replace(count, claim + b"N"))
    with pytest.raises(InputError, match="it is shorter than its storage"):
        files.read_state(broken)


def legacy_file(content: object) -> bytes:
    """As `torch.save` wrote before PyTorch 1.6, without tensors."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, content, [])
    return b"".join(pickle.dumps(part, 2) for part in parts)


def test_nothing_in_a_pytorch_file_is_run(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "objects.pth"
    file.write_bytes(legacy_file({"layers.0.weight": RunsOnUnpickling()}))
    with pytest.raises(ValueError, match=r"no arrays of numbers: layers\.0\.weight"):
        load_torch_state_dict(small_net(), file, strict=False)
    file.write_bytes(legacy_file(argparse.Namespace(a=1)))
    with pytest.raises(
        ValueError, match=r"holds a Namespace; expected .* torch\.save\(model\.state_"
    ):
        files.read_state(file)
