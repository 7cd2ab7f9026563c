"""Exported engines: the same answers, in a process without the model's code."""

import json
import shutil
import subprocess
import sys

import jax.export
import numpy as np
import pytest
from test_engine import EXECUTIONS, SPEC, build, engine_of, pictures, served

import segblocks_jax as sb
from segblocks_jax.inference.programs import PLATFORMS
from segblocks_jax.ops import extension

SHAPE = (1, 128, 192)
# What a process has that serves: jax, numpy, and this package without Flax and what needs it.
SERVE = """
import sys
for name in ("flax", "optax", "orbax", "safetensors", "tensorflow_datasets", "grain", "PIL"):
    sys.modules[name] = None
import numpy as np
import segblocks_jax as sb

folder, images, out = sys.argv[1:]
engine = sb.ExportedEngine(folder)
result = engine(np.load(images))
np.savez(out, labels=result.labels, mask=result.mask)
"""


@pytest.fixture(scope="module")
def system():
    return build()


@pytest.mark.family("fused")
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_another_process_gives_the_same(execution, tmp_path):
    engine = engine_of(execution)
    folder = engine.export(tmp_path / "engine", [SHAPE], mode="budget=3", platforms=PLATFORMS)
    manifest = json.loads((folder / "engine.json").read_text())
    assert manifest["platforms"] == list(PLATFORMS)
    called = {
        "fused": {"segblocks_indexed_conv", "segblocks_upsample_argmax", "segblocks_split"},
        "plain": {"segblocks_pad"} if extension.resolve() == "ffi" else set(),
        "xla": set(),
    }[execution]
    assert called <= set(manifest["targets"])
    assert bool(manifest["targets"]) == bool(called)
    images = pictures(1, 100, 190)
    np.save(tmp_path / "images.npy", images)
    names = [folder, tmp_path / "images.npy", tmp_path / "result.npz"]
    ran = subprocess.run(
        [sys.executable, "-c", SERVE, *names], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    expected = served(engine, "budget=3", [SHAPE])(images)
    with np.load(tmp_path / "result.npz") as result:
        np.testing.assert_array_equal(result["mask"], expected.mask)
        assert np.mean(result["labels"] == expected.labels) >= 0.9999


@pytest.mark.slow
def test_exact_mode_has_all_its_programs(system, tmp_path):
    engine = sb.Engine(system, SPEC, execution="xla", shapes=[(1, 64, 128)])
    served = sb.ExportedEngine(engine.export(tmp_path / "engine"))
    served.warm_up()
    assert served.compilations == 1 + 3
    for seed in range(4):
        images = pictures(1, 64, 128, seed)
        given, expected = served(images), engine(images)
        assert not given.compiled
        np.testing.assert_array_equal(given.labels, expected.labels)
        np.testing.assert_array_equal(given.scores, expected.scores)
    with pytest.raises(ValueError, match="has no program for"):
        served(pictures(1, 64, 300))


def test_the_xla_export_calls_nothing_but_jax(tmp_path):
    engine = engine_of("xla")
    folder = engine.export(tmp_path / "engine", [(1, 64, 64)], mode="budget=1", output="logits")
    (file,) = folder.glob("*.jax_export")
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    assert "custom_call @segblocks" not in exported.mlir_module()
    assert exported.platforms == ("cpu", "cuda")


def test_bfloat16_weights_come_back(tmp_path):
    engine = engine_of(dtype="bfloat16")
    shape = (1, 64, 128)
    platforms = ("cpu",)
    folder = engine.export(tmp_path / "engine", [shape], mode="budget=1", platforms=platforms)
    images = pictures(*shape)
    labels = sb.ExportedEngine(folder)(images).labels
    assert np.mean(labels == engine(images, mode="budget=1").labels) >= 0.9999


def test_folders_that_can_not_be_written_or_read(tmp_path, monkeypatch):
    engine = engine_of("xla")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there exists; move it away"):
        engine.export(tmp_path / "there", [SHAPE])
    with pytest.raises(ValueError, match="there are no shapes"):
        engine.export(tmp_path / "new")
    with pytest.raises(ValueError, match="platforms are \\('tpu',\\)"):
        engine.export(tmp_path / "new", [SHAPE], platforms=("tpu",))
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    with pytest.raises(FileNotFoundError, match=r"holds no engine\.json"):
        sb.ExportedEngine(tmp_path / "there")
    for content in ("{}", "nonsense", '{"format": "segblocks_jax engine", "version": "9"}'):
        (tmp_path / "there" / "engine.json").write_text(content)
        with pytest.raises(ValueError, match=r"engine\.json can't be read"):
            sb.ExportedEngine(tmp_path / "there")


def test_a_copy_without_all_its_weights_says_so(tmp_path):
    engine = engine_of("xla")
    folder = engine.export(tmp_path / "engine", [(1, 64, 64)], mode="budget=1", platforms=("cpu",))
    weights = folder / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"weights\.npz can't be read"):
        sb.ExportedEngine(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"weights\.npz can't be read: it is missing"):
        sb.ExportedEngine(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return engine_of("xla").export(
        tmp_path_factory.mktemp("exported") / "engine",
        [(1, 64, 64)],
        mode="budget=1",
        platforms=("cpu",),
    )


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize("pattern", ["*.jax_export", "weights.npz"])
@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[:-1], "SHA-256 differs"),
        (lambda content: content[:900] + bytes([content[900] ^ 1]) + content[901:], "SHA-256"),
        (lambda content: LFS_POINTER, "is a Git LFS pointer"),
    ],
)
def test_damaged_files_are_named_at_loading(exported, tmp_path, pattern, damage, text):
    folder = shutil.copytree(exported, tmp_path / "copy")
    (file,) = folder.glob(pattern)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"{file.name} can't be read: it .*{text}"):
        sb.ExportedEngine(folder)


@pytest.mark.parametrize(
    "name", ["../x.jax_export", "/etc/hostname", "a/b.jax_export", "link", ".."]
)
def test_manifests_name_no_files_elsewhere(exported, tmp_path, name):
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "link").symlink_to(exported / "engine.json")
    manifest = json.loads((folder / "engine.json").read_text())
    ((_, program),) = manifest["programs"].items()
    (folder / "engine.json").write_text(json.dumps({**manifest, "programs": {name: program}}))
    with pytest.raises(ValueError, match="is, or leads to, a file outside of the folder"):
        sb.ExportedEngine(folder)


def test_exports_of_other_versions_name_both(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported, tmp_path / "copy")
    manifest = json.loads((folder / "engine.json").read_text())
    assert manifest["jax"] == jax.__version__
    (folder / "engine.json").write_text(json.dumps({**manifest, "jax": "0.99"}))

    def fail(*_):
        raise ValueError("Failed to deserialize StableHLO")

    monkeypatch.setattr(jax.export, "deserialize", fail)
    both = f"jax_export can't be read .*exported by JAX 0.99, this is JAX {jax.__version__}"
    with pytest.raises(ValueError, match=both):
        sb.ExportedEngine(folder)(pictures(1, 64, 64))


def test_the_first_version_of_the_format_is_read(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "copy")
    manifest = json.loads((folder / "engine.json").read_text())
    settings = manifest["settings"]
    settings["quantise_step"] = settings.pop("bucket_step")
    del settings["strict"], manifest["sha256"], manifest["jax"]
    (folder / "engine.json").write_text(json.dumps({**manifest, "version": "1"}))
    served = sb.ExportedEngine(folder)
    images = pictures(1, 64, 64)
    np.testing.assert_array_equal(served(images).labels, sb.ExportedEngine(exported)(images).labels)


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    engine = engine_of("xla")

    def fail(*_, **__):
        raise RuntimeError("no export today")

    monkeypatch.setattr(jax.export, "export", fail)
    with pytest.raises(RuntimeError, match="no export today"):
        engine.export(tmp_path / "engine", [(1, 64, 64)], mode="budget=1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(extension.resolve() != "ffi", reason="no compiled handlers")
def test_missing_handlers_are_named(tmp_path, monkeypatch):
    engine = engine_of("fused")
    folder = engine.export(tmp_path / "engine", [(1, 64, 64)], mode="budget=1", platforms=("cpu",))
    monkeypatch.setattr(extension, "why_unavailable", lambda: "they were not built")
    with pytest.raises(RuntimeError, match=r"calls segblocks_.*, but they were not built"):
        sb.ExportedEngine(folder)
    manifest = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**manifest, "platforms": ["cuda"]}))
    with pytest.raises(RuntimeError, match="was exported for cuda, JAX runs on cpu"):
        sb.ExportedEngine(folder)
