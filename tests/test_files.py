"""Reading of image and video files: depths, orientation, pages, sizes, what a folder holds."""

import logging
import pathlib

import numpy as np
import pytest
from PIL import Image

from segblocks_jax.data import images
from segblocks_jax.inference import files
from segblocks_jax.inference.result_files import save_result

RAMP = np.tile(np.arange(256, dtype=np.uint8), (8, 1))


def save(path: pathlib.Path, pixels: np.ndarray, **options) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def save_color16(path: pathlib.Path, pixels: np.ndarray) -> pathlib.Path:
    cv2 = pytest.importorskip("cv2")
    assert cv2.imwrite(str(path), pixels)
    return path


def only_error(path: pathlib.Path) -> str:
    (picture,) = files.read_pictures(path)
    assert picture.image is None
    return picture.error


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
def test_more_than_8_bits_are_scaled_from_the_depth_that_is_used(top, suffix, tmp_path):
    deep = np.rint(RAMP * (top / 255)).astype(np.uint16)
    read = files.read_image(save(tmp_path / f"deep.{suffix}", deep))
    np.testing.assert_array_equal(read, np.dstack([RAMP] * 3))


@pytest.mark.parametrize(
    "pixels",
    [RAMP / np.float32(255), RAMP.astype(np.float32), RAMP * np.float32(257), RAMP * np.int32(257)],
    ids=["F to 1", "F to 255", "F to 65535", "I to 65535"],
)
def test_wide_numbers_are_scaled(pixels, tmp_path):
    read = files.read_image(save(tmp_path / "wide.tif", pixels))
    np.testing.assert_array_equal(read, np.dstack([RAMP] * 3))


@pytest.mark.parametrize(
    ("order", "mark", "white"), [("big", b"MM\0*", 1), ("little", b"II*\0", 0)]
)
def test_pixels_of_either_byte_order_and_polarity(order, mark, white, tmp_path):
    tags = {256: 256, 257: 8, 258: 16, 259: 1, 262: white, 273: 110, 278: 8, 279: 4096}
    header = mark + (8).to_bytes(4, order) + len(tags).to_bytes(2, order)
    for tag, value in tags.items():
        for number, size in ((tag, 2), (4, 2), (1, 4), (value, 4)):
            header += number.to_bytes(size, order)
    pixels = (RAMP.astype(np.uint16) * 257).astype(">u2" if order == "big" else "<u2")
    (tmp_path / "gray.tif").write_bytes(header + bytes(110 - len(header)) + pixels.tobytes())
    read = files.read_image(tmp_path / "gray.tif")[..., 0]
    np.testing.assert_array_equal(read, RAMP if white else RAMP[:, ::-1])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.float32(-1), "negative"),
        (np.float32(np.nan), "expected finite"),
        (np.int32(70000), "70000"),
    ],
)
def test_numbers_without_a_scale_are_refused_by_name(value, reason, tmp_path):
    error = only_error(save(tmp_path / "odd.tif", np.full((8, 8), value)))
    assert reason in error
    assert f"mode {'I' if isinstance(value, np.int32) else 'F'}" in error
    assert "8 bits" in error


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_colors(suffix, tmp_path):
    deep = np.dstack([RAMP] * 3).astype(np.uint16)
    read = files.read_image(save_color16(tmp_path / f"full.{suffix}", deep * 257))
    np.testing.assert_array_equal(read[..., 1], RAMP)
    error = only_error(save_color16(tmp_path / f"twelve.{suffix}", deep * 16))
    assert "16 bits per channel" in error
    assert "8 bits" in error


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_colors(mode, tmp_path):
    image = Image.fromarray(np.dstack([RAMP, RAMP, RAMP])).convert("RGBA" if "A" in mode else "RGB")
    image = image.convert("P").convert(mode) if mode == "PA" else image.convert(mode)
    suffix = "tif" if mode in ("CMYK", "YCbCr", "PA") else "png"
    image.save(tmp_path / f"image.{suffix}")
    read = files.read_image(tmp_path / f"image.{suffix}")
    assert np.abs(read[..., 0].astype(int) - RAMP).max() <= {"1": 255, "P": 60}.get(mode, 30)
    assert len(np.unique(read)) == 2 or mode != "1"


def test_palettes_with_transparency_are_read(tmp_path):
    Image.fromarray(RAMP).convert("P").save(tmp_path / "p.png", transparency=bytes(range(256)))
    assert files.read_image(tmp_path / "p.png").shape == (8, 256, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_read_as_they_are_shown(orientation, suffix, tmp_path):
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:16, :32] = 255  # A mark in one corner, longer than wide.
    turn = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
        8: lambda x: np.rot90(x),
    }[orientation]
    tags = {"tiffinfo": {0x0112: orientation}} if suffix == "tif" else {"exif": exif(orientation)}
    read = files.read_image(save(tmp_path / f"photo.{suffix}", stored, **tags))
    np.testing.assert_array_equal(read > 127, turn(stored) > 127)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_orientation_data_is_passed_over(tmp_path):
    pixels = np.zeros((48, 64, 3), np.uint8)
    path = save(tmp_path / "a.jpg", pixels, exif=b"Exif\0\0II*\0\xff\xff\xff\0garbage")
    assert files.read_image(path).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, -1, 1, 0), np.rot90),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
        ((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((1, 0, 0, 1), lambda x: x),
        ((0, 0, 0, 0), lambda x: x),
    ],
)
def test_frames_are_turned_by_their_display_matrix(matrix, turn):
    a, b, c, d = (65536 * x for x in matrix)
    content = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes()
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    np.testing.assert_array_equal(files._as_shown(pixels, content), turn(pixels))


def save_video(path: pathlib.Path, *, sound: bool = False) -> pathlib.Path:
    """Three frames, or a second of silence."""
    av = pytest.importorskip("av", reason="no PyAV; pip install 'segblocks-jax[video]'")
    with av.open(str(path), "w") as container:
        if sound:
            stream = container.add_stream("aac", rate=8000, layout="mono")
            frames = [av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")]
            frames[0].sample_rate = 8000
        else:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            frames = [av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), "rgb24")] * 3
        for frame in [*frames, None]:
            container.mux(stream.encode(frame))
    return path


def test_turned_videos(tmp_path):
    path = save_video(tmp_path / "phone.mp4")
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    assert content[start : start + 4] == b"\0\1\0\0"
    turned = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30], ">i4").tobytes()
    content[start : start + 36] = turned
    path.write_bytes(content)
    read = list(files.read_pictures(path))
    assert [p.image.shape for p in read] == [(96, 64, 3)] * 3


PAGES = [np.full((40, 50, 3), value, np.uint8) for value in (0, 80, 160)]


@pytest.mark.parametrize("name", ["scan.tif", "clip.webp", "clip.png", "clip.gif"])
def test_every_page_is_read(name, tmp_path):
    first, *rest = map(Image.fromarray, PAGES)
    first.save(tmp_path / name, save_all=True, append_images=rest)
    assert files.count_pictures(tmp_path / name) == 3
    read = list(files.read_pictures(tmp_path / name))
    assert [p.frame for p in read] == [0, 1, 2]
    for picture, page in zip(read, PAGES, strict=True):
        assert np.abs(picture.image.astype(int) - page).max() <= 4


def test_a_bad_page_leaves_the_others(tmp_path):
    pages = [Image.fromarray(x) for x in (RAMP, np.full((8, 8), np.float32(-1)), RAMP)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    read = list(files.read_pictures(tmp_path / "scan.tif"))
    assert [p.error is None for p in read] == [True, False, True]


def test_small_copies_in_a_file_are_no_pages(tmp_path, caplog):
    large, small = Image.fromarray(PAGES[0]), Image.fromarray(PAGES[1][:10, :10])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    large.save(tmp_path / "pyramid.tif", save_all=True, append_images=[small])
    large.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[small])
    for name in ("pyramid.tif", "phone.jpg"):
        caplog.clear()
        (picture,) = files.read_pictures(tmp_path / name)
        assert picture.frame is None
        assert picture.image.shape == (40, 50, 3)
        assert "left out 1 smaller or hidden" in caplog.text


def test_large_images_are_told_which_option_allows_them(tmp_path, monkeypatch):
    path = save(tmp_path / "mosaic.png", PAGES[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    error = only_error(path)
    assert "2,000 pixels" in error
    assert "--max_pixels=2000" in error
    assert "MAX_IMAGE_PIXELS" in error
    images.allow_pixels(1998)
    assert "2,000 pixels" in only_error(path)
    images.allow_pixels(2000)
    assert files.read_image(path).shape == (40, 50, 3)


def test_files_without_pictures_say_so(tmp_path):
    path = save_video(tmp_path / "sound.mp4", sound=True)
    assert only_error(path).startswith("it holds no picture, only audio;")
    assert files.count_pictures(path) == 1
    (tmp_path / "empty.mp4").touch()
    assert "can't read this video" in only_error(tmp_path / "empty.mp4")


def test_frames_are_counted_where_the_header_has_no_count(tmp_path):
    path = save_video(tmp_path / "stream.mkv")
    assert files.count_pictures(path) == 3
    path.rename(tmp_path / "renamed.mp4")
    assert len(list(files.read_pictures(tmp_path / "renamed.mp4"))) == 3


def test_what_a_folder_leaves_out_is_counted(tmp_path, caplog):
    folder = tmp_path / "in"
    for name in ("a.png", "B.GIF", ".hidden.png", ".cache/b.png", "sub/c.jpg"):
        save(folder / name, PAGES[0])
    for name in ("photo.heic", "photo2.heic", "notes"):
        (folder / name).touch()
    (folder / "moved.png").symlink_to("/nowhere/moved.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "more").symlink_to(folder / "sub")
    (folder / "same.png").symlink_to(folder / "a.png")
    with caplog.at_level(logging.WARNING):
        found = files.find_files(folder)
    assert [p.name for p in found] == ["B.GIF", "a.png", "same.png", "c.jpg"]
    counts = ".heic: 2, broken links: 2, hidden: 2, links to folders: 1, without suffix: 1"
    assert counts in caplog.text
    assert len(caplog.records) == 1


def test_results_beside_their_inputs_are_no_input(tmp_path):
    images = [save(tmp_path / name, PAGES[0]) for name in ("a.png", "b_labels.png", "sub/c.png")]
    marked = tmp_path / "a_labels.png"
    save_result(marked, PAGES[0])
    (tmp_path / "clip").mkdir()
    save_result(tmp_path / "clip/frame_000000_labels.png", PAGES[0])
    assert files.find_files(tmp_path, tmp_path) == images
    assert files.find_files(tmp_path / "sub", tmp_path) == images[2:]
    assert marked in files.find_files(tmp_path)


def test_only_results_is_an_error(tmp_path):
    save_result(tmp_path / "a_labels.png", PAGES[0])
    with pytest.raises(FileNotFoundError, match=r"no images or videos.*results: 1"):
        files.find_files(tmp_path, tmp_path)


def test_errors_name_the_file(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(ValueError, match=r"a\.png: can't read this image: .*convert it to PNG"):
        files.read_image(tmp_path / "a.png")
