"""The command that segments anybody's pictures: what is done and skipped, parts, bad files, models."""

import dataclasses
import json
import os
import re

import golden
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from test_predict import FakeEngine, save_image, save_video

import segblocks_jax as sb
from segblocks_jax.inference import predict, result_files
from segblocks_jax.inference.result_writer import describe
from segblocks_jax.interop import folder as folder_module
from segblocks_jax.predict import __main__ as command
from segblocks_jax.tasks.segmentation.labels import CAMVID, CITYSCAPES, IGNORE, table_of_names

SETTINGS = {"model": "a"}


def run(inputs, output, engine=None, **options):
    """(exit code, shapes that were segmented)."""
    engine = FakeEngine() if engine is None else engine
    options = {"settings": SETTINGS, **options}
    inputs = [str(path) for path in inputs]
    code = predict.predict_inputs(lambda: engine, CITYSCAPES, inputs, output, **options)
    return code, engine.batches


@pytest.fixture
def folder(tmp_path, rng, unchecked):
    for name in ("a", "b", "c"):
        save_image(tmp_path / "in" / f"{name}.png", (64, 64), rng)
    return tmp_path / "in"


def test_a_second_run_does_what_is_not_done(folder, tmp_path, rng, capsys):
    output = tmp_path / "out"
    assert run([folder], output) == (0, [(1, 64, 64, 3)] * 3)
    assert run([folder], output) == (0, [])
    assert "3 of 3 files segmented (3 of them before)" in capsys.readouterr().out
    save_image(folder / "d.png", (64, 96), rng)
    (output / "a_overlay.png").unlink()
    save_image(folder / "b.png", (64, 128), rng)
    assert run([folder], output)[1] == [(1, 64, 64, 3), (1, 64, 128, 3), (1, 64, 96, 3)]
    assert run([folder], output)[1] == []
    assert len(run([folder], output, overwrite=True)[1]) == 4
    for other in ({"settings": {"model": "b"}}, {"side_by_side": True}):
        assert len(run([folder], output, **other)[1]) == 4


def test_what_was_cut_short_is_not_done(folder, tmp_path, monkeypatch):
    """Killed anywhere between two writes, a file is done again; no result is ever half there."""
    output, save = tmp_path / "out", result_files.Image.Image.save
    run([folder / "a.png"], output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def killed(image, file, *arguments, **options):
        save(image, file, *arguments, **options)
        if "overlay" not in cut and len(list(output.glob(".*.png"))) == 1:
            cut.append("overlay")
            os.truncate(file, 20)
            raise OSError("killed")

    cut = []
    monkeypatch.setattr(result_files.Image.Image, "save", killed)
    assert run([folder / "a.png"], output, settings={"model": "b"})[0] == 1
    assert {path.name for path in output.iterdir()} == before.keys() - {"a_result.json"}
    assert (output / "a_labels.png").read_bytes() == before["a_labels.png"]
    assert len(run([folder / "a.png"], output)[1]) == 1  # By the first settings, too.
    assert {path.name: path.read_bytes() for path in output.glob("*.png")} == {
        name: content for name, content in before.items() if name.endswith(".png")
    }


def test_parts_are_all_files_once_with_the_names_of_one_run(tmp_path, rng, unchecked):
    for i in range(5):
        save_image(tmp_path / "in" / "x" / f"{i}.png", (64, 64), rng)
    save_image(tmp_path / "in" / "y" / "3.png", (64, 64), rng)
    run([tmp_path / "in"], tmp_path / "whole")
    counts = []
    for i in (1, 2, 3, 4):
        code, batches = run([tmp_path / "in"], tmp_path / "parts", shard=(i, 4))
        assert code == 0
        counts.append(len(batches))
    assert counts == [2, 2, 1, 1]
    names = [sorted(p.name for p in (tmp_path / which).iterdir()) for which in ("whole", "parts")]
    assert names[0] == names[1]
    assert run([tmp_path / "in"], tmp_path / "whole", shard=(7, 7)) == (0, [])


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "1", "a/b", "-1/4", "1/4/2", ""])
def test_parts_that_are_none(text):
    with pytest.raises(ValueError, match="expected I/N with I from 1 to N"):
        result_files.parse_shard(text)


def test_shards_are_counted_from_one():
    assert [result_files.parse_shard(f"{i}/2") for i in (1, 2)] == [(1, 2), (2, 2)]


def test_the_records_and_lines_say_time_and_operations(folder, tmp_path, rng, capsys):
    save_video(folder / "clip.mp4", [np.full((48, 64, 3), shade, np.uint8) for shade in (0, 90)])
    assert run([folder / "a.png", folder / "clip.mp4"], tmp_path / "out")[0] == 0
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines[0] == f"{folder}/a.png: 64x64, 0.0 ms, 2.00 GMACs, 100% of the blocks high"
    assert lines[1].startswith(
        f"{folder}/clip.mp4: 2 pictures, 64x48, 0.0 ms each, 2.00 GMACs each"
    )
    record = json.loads((tmp_path / "out" / "clip_result.json").read_text())
    assert record["origin"]["file"] == str(folder / "clip.mp4")
    for i, picture in enumerate(record["pictures"]):
        assert (picture["frame"], picture["width"], picture["gmacs"]) == (i, 64, 2.0)
        assert all((tmp_path / "out" / name).is_file() for name in picture["files"])


def test_times_leave_compilations_out_where_they_can():
    fact = {"width": 4, "height": 3, "gmacs": None, "high_fraction": None}
    slow, fast = (
        fact | {"milliseconds": 900.0, "compiled": True},
        fact
        | {
            "milliseconds": 5.0,
            "compiled": False,
        },
    )
    assert describe([slow]) == "4x3, 900.0 ms (with compilation)"
    assert describe([slow, fast, fast]) == "3 pictures, 4x3, 5.0 ms each"


def test_bad_inputs_leave_the_others_and_are_counted(folder, tmp_path, capsys, caplog):
    (folder / "b.png").write_bytes(b"")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:900])
    (tmp_path / "empty").mkdir()
    inputs = [folder, tmp_path / "nowhere.jpg", tmp_path / "empty", folder / "a.png"]
    code, batches = run(inputs, tmp_path / "out")
    assert (code, len(batches)) == (1, 1)
    assert "1 of 5 files segmented, 4 failed" in capsys.readouterr().out
    reasons = {record.args[0].name: record.args[1] for record in caplog.records}
    assert reasons.keys() == {"b.png", "c.png", "nowhere.jpg", "empty"}
    assert reasons["nowhere.jpg"] == "no such image, video or folder"
    assert "holds nothing that Pillow reads" in reasons["b.png"]
    assert run(inputs, tmp_path / "out") == (1, [])  # Bad ones are tried again, good ones are done.
    with pytest.raises(FileNotFoundError, match=r"empty: no images or videos .*; .*no such image"):
        run([tmp_path / "empty", tmp_path / "nowhere.jpg"], tmp_path / "out")


def test_a_folder_that_can_not_be_read_is_no_empty_folder(folder, tmp_path, monkeypatch, caplog):
    save_image(tmp_path / "z.png", (64, 64), np.random.default_rng(0))
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, how: path != folder and access(path, how)
    )  # root may read everything
    assert run([folder, tmp_path / "z.png"], tmp_path / "out")[0] == 1
    assert "this folder can't be read" in caplog.text


def test_images_of_any_kind(tmp_path, rng, unchecked):
    """16-bit, gray, alpha, CMYK, turned, animated: each of the size that is shown."""
    folder = tmp_path / "in"
    rgb = Image.fromarray(save_image(folder / "rgb.png", (40, 70), rng))
    tags = Image.Exif()
    tags[0x0112] = 6
    rgb.save(folder / "turned.jpg", exif=tags)
    for mode, name in (("CMYK", "cmyk.jpg"), ("L", "gray.png"), ("RGBA", "alpha.png")):
        rgb.convert(mode).save(folder / name)
    deep = (np.asarray(rgb.convert("L")).astype(np.uint16)) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    rgb.save(folder / "moves.gif", save_all=True, append_images=[rgb.rotate(180), rgb.rotate(90)])
    assert run([folder], tmp_path / "out")[0] == 0
    sizes = {}
    for file in (tmp_path / "out").rglob("*_labels.png"):
        with Image.open(file) as written:
            sizes[file.relative_to(tmp_path / "out").as_posix()] = written.size
    turned = sizes.pop("turned_labels.png")
    assert turned == (40, 70)
    frames = {f"moves/frame_00000{i}_labels.png" for i in range(3)}
    assert sizes.keys() == frames | {
        f"{name}_labels.png" for name in ("rgb", "cmyk", "gray", "alpha", "deep")
    }
    assert set(sizes.values()) == {(70, 40)}


SPEC = sb.ModelSpec(
    "swiftnet_rn18",
    num_classes=3,
    width=4,
    features=6,
    policy=sb.PolicySpec("middle", 64),
    mean=(0.1, 0.2, 0.3),
    std=(0.5, 0.6, 0.7),
    dataset="my own",
    class_names=("sky", "road", "car"),
)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "SHIPPED", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "shipped"


def test_the_command_takes_the_first_that_ships(
    shipped, tmp_path, rng, monkeypatch, capsys, unchecked
):
    save_image(tmp_path / "photo.jpg", (60, 120), rng)
    assert command.main(["photo.jpg"]) == 2
    assert "error: no model comes with this version" in capsys.readouterr().err
    system = golden.network(lambda: SPEC.build(nnx.Rngs(0)))
    for name in ("b", "a"):
        sb.save_model(shipped / name, system, SPEC, about={"summary": f"the {name}"})
    loaded = []

    def load(*arguments, **options):
        loaded.append((*arguments, options["mode"], options["shapes"]))
        return FakeEngine(classes=3)

    monkeypatch.setattr(command.Engine, "load", load)
    flags = ["photo.jpg", "--mode=share=0.5", "--shapes=1x64x128,2x128x128"]
    for _ in range(2):  # The second run needs no engine.
        assert command.main(flags) == 0
        assert capsys.readouterr().out.startswith("model: a (the a)\n")
        assert loaded == [(shipped / "a", "share=0.5", [(1, 64, 128), (2, 128, 128)])]
    assert command.main([*flags, "--model=b"]) == 0
    sb.save_model(shipped / "a", system, dataclasses.replace(SPEC, std=(0.5, 0.5, 0.5)))
    for flag in ("--model=a", "--mode=exact", "--shapes=1x64x128", "--overwrite"):
        assert command.main([*flags, flag]) == 0
    assert len(loaded) == 6


@pytest.mark.slow
def test_the_command_serves_a_model_in_bfloat16(shipped, tmp_path, rng, capsys):
    save_image(tmp_path / "photo.jpg", (60, 120), rng)
    system = golden.network(lambda: SPEC.build(nnx.Rngs(0)))
    sb.save_model(shipped / "tiny", system, SPEC, dtype="bfloat16")
    assert command.main(["photo.jpg", "--mode=share=0.5"]) == 0
    told = capsys.readouterr().out
    gmacs = sb.count_macs(system.net, (1, 64, 128, 3), 0.5).total / 1e9
    assert re.search(
        rf"photo\.jpg: 120x60, .* ms .*{gmacs:.2f} GMACs, 50% of the blocks high", told
    )
    record = json.loads((tmp_path / "predictions" / "photo_result.json").read_text())
    assert record["pictures"][0]["gmacs"] == pytest.approx(gmacs)
    assert len(record["pictures"][0]["files"]) == 3


def test_the_command_refuses_what_it_can_not_do(shipped, tmp_path, rng, capsys):
    save_image(tmp_path / "photo.jpg", (60, 120), rng)
    sb.save_model(shipped / "tiny", golden.network(lambda: SPEC.build(nnx.Rngs(0))), SPEC)
    for flag, reason in (
        ("--mode=fast", "mode is 'fast'; expected"),
        ("--shard=0/2", "shard is '0/2'; expected I/N with I from 1"),
        ("--shapes=64", "--shapes has '64'; expected NxHxW"),
        ("--model=huge", "huge holds no config.json .* (tiny)"),
        ("--output=photo.jpg", "can't write here"),
    ):
        assert command.main(["photo.jpg", flag]) == 2
        assert re.search(re.escape(reason).replace(r"\.\*", ".*"), capsys.readouterr().err)
    assert not (tmp_path / "predictions").exists()
    assert command.main(["nothing.jpg"]) == 2
    assert "nothing.jpg: no such image" in capsys.readouterr().err


def test_colors_are_the_data_sets_where_it_has_the_same_classes():
    own = command.label_table(SPEC)
    assert (own.name, own.classes) == ("my own", SPEC.class_names)
    spec = dataclasses.replace(
        SPEC, dataset="camvid", num_classes=11, class_names=CAMVID.classes, policy=None
    )
    assert command.label_table(spec) is CAMVID
    renamed = dataclasses.replace(spec, class_names=tuple("abcdefghijk"))
    assert command.label_table(renamed).classes == renamed.class_names


def test_colors_of_unknown_classes_differ():
    table = table_of_names("many", tuple(f"class {i}" for i in range(40)))
    apart = np.abs(table.colors[:, None].astype(int) - table.colors[None]).sum(-1)
    assert (apart + 1000 * np.eye(40, dtype=int)).min() >= 30
    np.testing.assert_array_equal(table.to_train[:40], np.arange(40))
    assert table.to_train[IGNORE] == IGNORE
