"""Prediction on files: images and videos, batches, bad files, names."""

import pathlib
import threading

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.inference import files, predict, result_files
from segblocks_jax.inference.result_files import make_jobs
from segblocks_jax.tasks.segmentation.labels import CITYSCAPES
from segblocks_jax.tasks.segmentation.result import Segmentation

SIDE = 64


class FakeEngine:
    """Labels are the red channel's share of 18; the left half of the blocks runs high."""

    multiple, learned = SIDE, True

    def gmacs(self, size, share):
        return 1 + share

    def __init__(self, classes: int = 19) -> None:
        self.batches: list[tuple[int, ...]] = []
        self._classes = classes

    def __call__(self, images: np.ndarray) -> Segmentation:
        self.batches.append(images.shape)
        n, h, w, _ = images.shape
        if h == 13:
            raise RuntimeError("no memory for this one")
        grid = (n, -(-h // SIDE), -(-w // SIDE))
        mask = np.broadcast_to(np.arange(grid[2]) * 2 < grid[2], grid)
        scores = np.where(mask, np.float32(2), np.float32(-1000))
        labels = (images[..., 0] // 15 % self._classes).astype(np.uint8)
        return Segmentation(labels, None, mask, scores, 0.0, False)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def save_image(path: pathlib.Path, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
    Image.fromarray(image).save(path)
    return image


def save_video(path: pathlib.Path, frames: list[np.ndarray]) -> None:
    av = pytest.importorskip("av", reason="no PyAV; pip install 'segblocks-jax[video]'")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def run(engine, path, output, **options):
    jobs = make_jobs(files.find_files(path), output)
    return predict.predict_files(engine, CITYSCAPES, jobs, **options)


@pytest.mark.usefixtures("unchecked")
def test_neighbors_of_one_size_go_together(engine, tmp_path, rng):
    sizes = [(64, 96)] * 5 + [(32, 96)] * 2 + [(64, 96)]
    images = [save_image(tmp_path / "in" / f"{i}.png", s, rng) for i, s in enumerate(sizes)]
    assert run(engine, tmp_path / "in", tmp_path / "out", batch_size=3) == []
    assert [shape[:2] for shape in engine.batches] == [(3, 64), (2, 64), (2, 32), (1, 64)]
    for i, image in enumerate(images):
        with Image.open(tmp_path / "out" / f"{i}_labels.png") as written:
            np.testing.assert_array_equal(np.asarray(written), image[..., 0] // 15)
            colors = np.asarray(written.convert("RGB"))
        np.testing.assert_array_equal(colors, CITYSCAPES.colors[image[..., 0] // 15])


@pytest.mark.usefixtures("unchecked")
def test_side_by_side_shows_all_three(engine, tmp_path, rng):
    image = save_image(tmp_path / "a.png", (70, 100), rng)
    assert run(engine, tmp_path / "a.png", tmp_path / "out", side_by_side=True) == []
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    kinds = ("grid", "labels", "overlay", "side_by_side")
    assert names == sorted([*(f"a_{kind}.png" for kind in kinds), "a_result.json"])
    joined = files.read_image(tmp_path / "out" / "a_side_by_side.png")
    assert joined.shape[1] == 3 * 100 + 2 * 8
    np.testing.assert_array_equal(joined[-70:, :100], image)
    np.testing.assert_array_equal(
        joined[-70:, -100:], files.read_image(tmp_path / "out/a_grid.png")
    )


@pytest.mark.usefixtures("unchecked")
def test_frames_of_videos(engine, tmp_path):
    shades = [0, 100, 200, 50]
    frames = [np.full((48, 64, 3), shade, np.uint8) for shade in shades]
    save_video(tmp_path / "clip.mp4", frames)
    assert files.count_pictures(tmp_path / "clip.mp4") == 4
    assert run(engine, tmp_path / "clip.mp4", tmp_path / "out", batch_size=4) == []
    assert engine.batches == [(4, 48, 64, 3)]
    for i, shade in enumerate(shades):
        labels = np.asarray(Image.open(tmp_path / "out/clip" / f"frame_{i:06}_labels.png"))
        assert np.abs(labels.mean() - shade // 15) <= 1


@pytest.mark.usefixtures("unchecked")
def test_nothing_stops_for_a_bad_file(engine, tmp_path, rng):
    folder = tmp_path / "in"
    save_image(folder / "b.png", (64, 64), rng)
    save_image(folder / "d.png", (13, 64), rng)
    save_image(folder / "f.png", (64, 64), rng)
    (folder / "a.png").write_bytes(b"no image")
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes()[:3000])
    (folder / "e.mp4").write_bytes(b"no video")
    failed = dict(run(engine, folder, tmp_path / "out", batch_size=2))
    assert sorted(path.name for path in failed) == ["a.png", "c.png", "d.png", "e.mp4"]
    assert "can't read this image" in failed[folder / "a.png"]
    assert "no memory for this one" in failed[folder / "d.png"]
    assert "can't read this video" in failed[folder / "e.mp4"]
    done = {path.name for path in (tmp_path / "out").glob("*_labels.png")}
    assert done == {"b_labels.png", "f_labels.png"}


@pytest.mark.usefixtures("unchecked")
def test_a_video_cut_short_keeps_its_first_frames(engine, tmp_path, rng):
    frames = [rng.integers(0, 256, (64, 96, 3)).astype(np.uint8) for _ in range(30)]
    save_video(tmp_path / "whole.avi", frames)
    content = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "in").mkdir()
    broken = bytearray(content[: len(content) // 2])
    broken[-4000:] = bytes(4000)
    (tmp_path / "in" / "cut.avi").write_bytes(broken)
    run(engine, tmp_path / "in", tmp_path / "out")
    done = len(list((tmp_path / "out/cut").glob("*_labels.png")))
    assert 5 <= done < 30


@pytest.mark.usefixtures("unchecked")
def test_results_that_can_not_be_written_are_reported(engine, tmp_path, rng):
    save_image(tmp_path / "in" / "a.png", (64, 64), rng)
    save_image(tmp_path / "in" / "b.png", (64, 64), rng)
    (tmp_path / "out" / "a_labels.png").mkdir(parents=True)
    failed = run(engine, tmp_path / "in", tmp_path / "out")
    assert [path.name for path, _ in failed] == ["a.png"]
    assert "can't write its results" in failed[0][1]
    assert (tmp_path / "out" / "b_overlay.png").is_file()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("error", ["PatchWelcomeError", "DecoderNotFoundError", "EOFError"])
def test_whatever_a_decoder_raises_the_other_files_are_done(
    error, engine, tmp_path, rng, monkeypatch
):
    av = pytest.importorskip("av", reason="no PyAV; pip install 'segblocks-jax[video]'")

    def fail(*_):
        raise getattr(av.error, error)(-1, "no such decoder")

    monkeypatch.setattr(av, "open", fail)
    save_image(tmp_path / "in" / "b.png", (64, 64), rng)
    (tmp_path / "in" / "a.mp4").write_bytes(b"frames")
    failed = run(engine, tmp_path / "in", tmp_path / "out")
    assert [path.name for path, _ in failed] == ["a.mp4"]
    assert "no such decoder" in failed[0][1]
    assert (tmp_path / "out" / "b_labels.png").is_file()


def test_results_and_folders_are_no_input(tmp_path, rng):
    save_image(tmp_path / "a.png", (8, 8), rng)
    save_image(tmp_path / "out" / "a_labels.png", (8, 8), rng)
    (tmp_path / "clip.avi").mkdir()
    assert files.find_files(tmp_path, tmp_path / "out") == [tmp_path / "a.png"]
    assert len(files.find_files(tmp_path)) == 2


def test_reading_runs_ahead_and_ends(tmp_path):
    started, all_read = [], threading.Event()

    def numbers():
        for i in range(10):
            started.append(i)
            if i == 5:
                all_read.set()
            yield i

    ahead = predict._read_ahead(numbers(), 5)
    assert next(ahead) == 0
    assert all_read.wait(10)
    ahead.close()
    assert len(started) < 10
    assert list(predict._read_ahead(iter(range(1, 8)), 3)) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.usefixtures("unchecked")
def test_errors_of_reading_reach_the_caller():
    def broken():
        yield 1
        raise OSError("the disk is gone")

    ahead = predict._read_ahead(broken(), 2)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)


def test_bad_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such image, video or folder"):
        files.find_files(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no images or videos"):
        files.find_files(tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_bad_batch_size(engine, tmp_path, rng):
    save_image(tmp_path / "a.png", (64, 64), rng)
    with pytest.raises(ValueError, match="batch_size is 0; expected 1 or more"):
        run(engine, tmp_path / "a.png", tmp_path / "out", batch_size=0)


def names_of(root: pathlib.Path, paths: list[str]) -> list[str]:
    found = result_files.name_results([root / path for path in paths], root / "out")
    return [found[root / path] for path in paths]


@pytest.mark.parametrize(
    "paths",
    [
        ("a/b_c.png", "a_b/c.png", "x/b_c.png", "y/c.png"),
        ("a.png", "a.jpg", "a.mp4", "a.png.png", "a.png.jpg"),
        ("A.png", "a.png", "b/a.PNG"),
        ("a.png", "a_labels.png", "a_labels.png.mp4", "a_overlay.png.gif"),
        ("a_2.png", "a.png", "b/a.png", "b_a.png", "b_a.png.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        (f"{'n' * 250}.png", f"{'n' * 245}/{'n' * 250}.png"),
        ("out/a.png", "a.png", "out/a_labels.png", "out/b.gif", "b.gif"),
        ("clip.mp4", "out/clip/frame_000000_labels.png"),
    ],
)
def test_no_result_overwrites_another_nor_an_input(paths, tmp_path):
    written = [
        result_files.fold(path)
        for name, path in zip(names_of(tmp_path, paths), paths, strict=True)
        for path in (
            *(f"{name}_{kind}.png" for kind in ("labels", "overlay", "grid", "side_by_side")),
            *([name, f"{name}/frame_000000_labels.png"] if path.endswith(("gif", "mp4")) else ()),
        )
    ]
    inputs = [path.removeprefix("out/") for path in paths if path.startswith("out/")]
    assert len({*written, *inputs}) == len(written) + len(inputs)
    assert max(len(path.encode()) for path in written) <= 255


def test_names_stay_simple_where_they_are_unique(tmp_path):
    assert names_of(tmp_path, ["a/b.png", "a/c.mp4", "d.png"]) == ["b", "c", "d"]
    assert names_of(tmp_path, ["a/b.png", "c/b.png", "d.png"]) == ["a_b.png", "c_b.png", "d"]


@pytest.mark.usefixtures("unchecked")
def test_results_beside_the_inputs(engine, tmp_path, rng):
    for name in ("a.png", "b.png", "b_labels.png"):
        save_image(tmp_path / name, (64, 64), rng)
    label = (tmp_path / "b_labels.png").read_bytes()
    inputs = files.find_files(tmp_path, tmp_path)
    assert len(inputs) == 3
    for _ in range(2):
        assert predict.predict_files(engine, CITYSCAPES, make_jobs(inputs, tmp_path)) == []
        assert files.find_files(tmp_path, tmp_path) == inputs
        assert len(list(tmp_path.iterdir())) == 3 + 3 * (3 + 1)
    assert (tmp_path / "b_labels.png").read_bytes() == label
    assert (tmp_path / "a_labels.png").is_file()


class FailsInBatches(FakeEngine):
    """Fails for every batch that holds a black image."""

    def __call__(self, images: np.ndarray) -> Segmentation:
        if not images.reshape(len(images), -1).any(1).all():
            raise RuntimeError("no memory")
        return super().__call__(images)


@pytest.mark.usefixtures("unchecked")
def test_only_the_bad_file_of_a_batch_fails(tmp_path, rng):
    for name in "abcd":
        save_image(tmp_path / "in" / f"{name}.png", (64, 64), rng)
    Image.new("RGB", (64, 64)).save(tmp_path / "in" / "b.png")
    failed = run(FailsInBatches(), tmp_path / "in", tmp_path / "out", batch_size=4)
    assert [(path.name, reason) for path, reason in failed] == [
        ("b.png", "can't be segmented (no memory)")
    ]
    assert len(list((tmp_path / "out").glob("*_labels.png"))) == 3


@pytest.mark.usefixtures("unchecked")
def test_pages_get_results_of_their_own(engine, tmp_path, rng):
    pages = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(3)]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in/scan.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "in/one.tif")
    assert run(engine, tmp_path / "in", tmp_path / "out", batch_size=2) == []
    assert (tmp_path / "out/one_labels.png").is_file()
    assert len(list((tmp_path / "out/scan").glob("frame_00000?_labels.png"))) == 3


@pytest.mark.usefixtures("unchecked")
def test_progress_follows_what_files_hold(engine, tmp_path, monkeypatch):
    held = {
        name: [files.Picture(tmp_path / name, i, np.zeros((8, 8, 3), np.uint8)) for i in range(n)]
        for name, n in (("a", 3), ("b", 2), ("c", 4))
    }
    promised, shown = {"a": 2, "b": 5, "c": 1}, []
    monkeypatch.setattr(predict, "count_pictures", lambda file: promised[file.name])
    monkeypatch.setattr(predict, "read_pictures", lambda file: iter(held[file.name]))
    monkeypatch.setattr(
        predict.Progress, "update", lambda _, step, total: shown.append((step, total))
    )
    jobs = make_jobs([tmp_path / name for name in held], tmp_path / "out")
    predict.predict_files(engine, CITYSCAPES, jobs)
    assert shown[:3] == [(1, 8), (2, 8), (3, 9)]
    assert shown[-2:] == [(9, 12), (9, 9)]
