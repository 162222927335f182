"What a picture file holds becomes eight-bit RGB, or is refused with the reason; never a blank."

import os
import sys

import numpy as np
import pytest
from PIL import Image

import npt.data.opening
from npt.data.check_images import _broken_images
from npt.data.opening import _in_rgb, _open_image

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
EIGHT = np.uint8(RAMP * 255).astype(int)


@pytest.mark.parametrize("kind, values, tags", [
    ("16 bits", np.uint16(RAMP * 65535), {}), ("12 bits, stated", np.uint16(RAMP * 4095), {281: 4095}),
    ("dark", np.uint16(RAMP * 65535 / 4), {}), ("32 bits", np.int32(RAMP * (2**31 - 1)), {}),
    ("32 bits, stated", np.int32(RAMP * 65535), {281: 65535}), ("floats", np.float32(RAMP), {}),
])
def test_greys_of_every_depth_are_scaled(kind, values, tags, tmp_path):
    Image.fromarray(values).save(tmp_path / "grey.tiff", tiffinfo=tags)
    seen = np.asarray(_open_image(tmp_path / "grey.tiff", upright=True)).astype(int)
    assert seen.shape == (8, 8, 3) and abs(seen * (4 if kind == "dark" else 1) - EIGHT[..., None]).max() <= 4, kind


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_white_does_not_depend_on_the_brightest_value(ending, tmp_path):
    values = np.uint16(RAMP * 60_000)
    seen = []
    for brightest in 8191, 65535:
        values[0, 0] = brightest
        Image.fromarray(np.minimum(values, brightest)).save(tmp_path / f"grey.{ending}")
        seen.append(np.asarray(_open_image(tmp_path / f"grey.{ending}", upright=True)))
    dark = (values < 8191).nonzero()
    assert len(dark[0]) > 5 and np.array_equal(seen[0][dark], seen[1][dark])


@pytest.mark.parametrize("most", [4095, 65535])
def test_a_pgm_of_sixteen_bits_is_scaled_by_what_it_states(most, tmp_path):
    for part in 1, 4:  # as bright as it can be, and a dark one
        path = tmp_path / "grey.pgm"
        path.write_bytes(b"P5 8 8 %d\n" % most + np.uint16(RAMP * most / part).astype(">u2").tobytes())
        assert abs(np.asarray(_open_image(path, upright=False))[..., 0].astype(int) * part - EIGHT).max() <= part


def test_a_tiff_that_counts_from_white_is_turned_around(tmp_path):
    Image.fromarray(np.uint16(65535 - RAMP * 65535)).save(tmp_path / "grey.tiff", tiffinfo={262: 0})
    with Image.open(tmp_path / "grey.tiff") as image:
        assert image.tag_v2[262] == 0
    assert abs(np.asarray(_open_image(tmp_path / "grey.tiff", upright=True))[..., 0].astype(int) - EIGHT).max() <= 1


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("orientation, turned", [(3, 2), (6, -1), (8, 1)])
def test_a_tiff_on_its_side_is_turned(kind, orientation, turned, compression, tmp_path):
    white = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[kind]
    Image.fromarray(kind(RAMP[:5] * white)).save(tmp_path / "scan.tiff", tiffinfo={274: orientation}, compression=compression)
    seen = np.asarray(_open_image(tmp_path / "scan.tiff", upright=True))[..., 0].astype(int)
    expected = np.rot90(EIGHT[:5], turned)
    assert seen.shape == expected.shape and abs(seen - expected).max() <= 1


@pytest.mark.parametrize("values", [
    *(np.float32(RAMP * most) for most in (2**24, 3, 255, np.nan, 0.01, 1e6, 0)), np.float32(RAMP - 0.5),
    np.int32(RAMP * 65535), np.int32(RAMP * 255), np.uint16(RAMP * 4095), np.uint16(RAMP * 255), np.uint16(RAMP * 0),
])
def test_greys_that_would_come_out_blank_are_named(values, tmp_path, monkeypatch):
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    Image.fromarray(values).save(path := tmp_path / "grey.tiff")
    assert "save it with 8 bits" in _broken_images([path])[path]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_other_pictures_are_converted_by_pillow_as_ever(mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).convert(mode)
    assert _in_rgb(image, upright=False).tobytes() == image.convert("RGB").tobytes()


def test_heic_is_named_where_its_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    (path := tmp_path / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr(npt.data.opening, "_READS_HEIC", False)
    assert "pip install pillow-heif" in _broken_images([path])[path]
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    path.write_bytes((tmp_path / "a.png").read_bytes())
    monkeypatch.setattr(npt.data.opening, "_READS_HEIC", True)  # the package has come, and nothing old is remembered
    assert not _broken_images([path])


def test_heic_is_registered_where_its_package_is(monkeypatch):
    registered = []
    fake = type(sys)("pillow_heif")
    fake.__spec__, fake.register_heif_opener = object(), lambda: registered.append(True)
    monkeypatch.setitem(sys.modules, "pillow_heif", fake)
    assert npt.data.opening._reads_heic() and registered == [True]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(npt.data.opening, "find_spec", lambda name: None)
    assert not npt.data.opening._reads_heic()


def test_heic_is_read(tmp_path):
    pytest.importorskip("pillow_heif")
    red = Image.new("RGB", (64, 64), (200, 20, 20))
    red.save(tmp_path / "red.heic")
    assert np.abs(np.asarray(_open_image(tmp_path / "red.heic", upright=True)).astype(int) - (200, 20, 20)).max() < 12


@pytest.mark.parametrize("ending", ["eps", "jpg"])
def test_a_file_that_would_start_a_program_is_never_opened(ending, tmp_path, monkeypatch):
    "Whatever its name ends in."
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    path = tmp_path / f"picture.{ending}"
    Image.new("RGB", (8, 8)).save(path, "EPS")
    with Image.open(path) as image:
        assert image.format == "EPS", "Pillow would open it"
    assert "cannot identify" in _broken_images([path])[path]
    with pytest.raises(OSError, match=path.name):
        _open_image(path, upright=True)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF", "TGA"])
def test_what_photographs_come_in_is_opened(kind, tmp_path):
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not know {kind}")
    Image.new("RGB", (40, 40), "white").save(tmp_path / "picture", kind)
    assert np.asarray(_open_image(tmp_path / "picture", upright=True)).min() > 250


def test_a_pipe_or_a_device_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    broken = _broken_images([tmp_path / "pipe.jpg", tmp_path / "device.png"])
    assert len(broken) == 2 and all("it is no file but a pipe, a device or the like" in reason for reason in broken.values())
