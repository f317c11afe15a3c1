"""Every kind of image file is decoded right, or refused with its path and a reason."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fastreid.data import images
from fastreid.data.formats import webp_size
from fastreid.data.images import BACKGROUND, ImageAccessError, ImageReadError, decode, read_image

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (6, 4, 3), dtype=np.uint8)


def encoded(picture, kind="PNG", **options):
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def pixels(content):
    picture = decode(content, "a.img")
    assert picture.mode == "RGB"
    return np.asarray(picture)


def png(width, height, depth, colour, rows, *chunks):
    """A PNG of raw rows, as Pillow does not write all kinds."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


# Depths


WIDE = RANDOM.integers(0, 65536, (6, 4), dtype=np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_upper_bits(kind):
    found = pixels(encoded(Image.fromarray(WIDE), kind))
    assert (found == (WIDE >> 8)[..., None]).all() and len(np.unique(found)) > 10  # not all white


def test_16_bit_colour_keeps_its_upper_bits():
    wide = RANDOM.integers(0, 65536, (6, 4, 3), dtype=np.uint16)
    content = png(4, 6, 16, 2, [row.astype(">u2").tobytes() for row in wide])
    assert (pixels(content) == wide >> 8).all()


@pytest.mark.parametrize(("depth", "colour", "row", "transparent", "expected"), [
    (4, 0, b"\x12", (1,), [255, 34]), (2, 0, b"\x40", (1,), [255, 0]), (16, 0, b"\1\7\6\6", (0x107,), [255, 6]),
    (16, 2, b"\1\2\3\4\5\6\2\2\3\4\5\6", (0x102, 0x304, 0x506), [255, [2, 3, 5]]),
])  # fmt: skip
def test_a_transparent_colour_is_background_at_every_depth(depth, colour, row, transparent, expected):
    content = png(2, 1, depth, colour, [row], (b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
    assert np.array_equal(pixels(content)[0], [np.broadcast_to(value, 3) for value in expected])


@pytest.mark.parametrize("values", [WIDE.astype(np.int32), WIDE.astype(np.float32)], ids=["integers", "floats"])
def test_values_without_a_stated_white_are_refused(values):
    with pytest.raises(ImageReadError, match="a.img: its values .* have no known white: save it with 8 or 16 bits"):
        pixels(encoded(Image.fromarray(values), "TIFF"))


def test_1_bit():
    bits = RANDOM.integers(0, 2, (6, 4)).astype(bool)
    assert (pixels(encoded(Image.fromarray(bits))) == 255 * bits[..., None]).all()


# Colours


def test_grey():
    assert (pixels(encoded(Image.fromarray(COLOURS[..., 0]))) == COLOURS[..., :1]).all()


ALPHA = np.array([[0, 255, 128, 64]] * 6, dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_the_background(mode):
    colours = COLOURS if mode == "RGBA" else COLOURS[..., :1]
    found = pixels(encoded(Image.fromarray(np.dstack([colours, ALPHA]))))
    share = ALPHA[..., None] / 255
    expected = share * colours + (1 - share) * np.array(BACKGROUND)
    assert np.abs(found - expected).max() <= 1
    assert (found[:, 0] == BACKGROUND).all() and (found[:, 1] == colours[:, 1]).all()


def test_a_palette():
    picture = Image.fromarray(COLOURS).quantize(200)
    assert (pixels(encoded(picture)) == np.asarray(picture.convert("RGB"))).all()


def test_a_palette_with_transparent_colours():
    picture = Image.fromarray(np.array([[0, 1, 2, 3]], dtype=np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    (found,) = pixels(encoded(picture, transparency=bytes([255, 0, 255, 255])))
    assert found.tolist() == [[10, 20, 30], list(BACKGROUND), [70, 80, 90], [100, 110, 120]]
    (found,) = pixels(encoded(picture, "GIF", transparency=2))
    assert found.tolist() == [[10, 20, 30], [40, 50, 60], list(BACKGROUND), [100, 110, 120]]


def cmyk_jpeg():
    """Nearly no ink but cyan: light blue."""
    return encoded(Image.new("CMYK", (8, 8), (200, 10, 20, 30)), "JPEG", quality=100)


def test_cmyk_of_adobe_is_stored_inverted():
    assert b"Adobe" in cmyk_jpeg()
    red, green, blue = pixels(cmyk_jpeg())[0, 0].tolist()
    assert red < 60 and green > 200 and blue > 200


def test_cmyk_of_others_is_not():
    content = cmyk_jpeg()
    start = content.index(b"\xff\xee")
    length = int.from_bytes(content[start + 2 : start + 4], "big")
    plain = content[:start] + content[start + 2 + length :]
    expected = Image.new("CMYK", (1, 1), (55, 245, 235, 225)).convert("RGB").getpixel((0, 0))
    assert np.abs(pixels(plain)[0, 0] - np.array(expected)).max() <= 2


def test_cmyk_tiff():
    picture = Image.new("CMYK", (2, 2), (200, 10, 20, 30))
    assert (pixels(encoded(picture, "TIFF")) == np.asarray(picture.convert("RGB"))).all()


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_turns_the_picture_upright(kind, orientation):
    stored = Image.fromarray(np.kron(COLOURS, np.ones((8, 8, 1), dtype=np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    content = encoded(stored, kind, exif=exif, **options)
    plain = Image.open(io.BytesIO(encoded(stored, kind, **options)))  # as stored, with a JPEG's losses
    plain.load()
    plain.getexif()[0x0112] = orientation
    expected = ImageOps.exif_transpose(plain).convert("RGB")
    found = pixels(content)
    assert found.shape == ((48, 32, 3) if orientation < 5 else (32, 48, 3))
    assert (found == np.asarray(expected)).all()


def test_broken_exif_leaves_the_picture_as_it_is_stored():
    content = encoded(Image.fromarray(COLOURS), "JPEG")
    broken = content[:2] + b"\xff\xe1\x00\x10Exif\0\0garbage." + content[2:]
    assert (pixels(broken) == pixels(content)).all()


# Animations


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_picture_counts(kind):
    first, second = (Image.new("RGB", (4, 6), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert (pixels(content) == (255, 0, 0)).all()


# What is refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture", "not an image, or of an unknown kind"),
        (encoded(Image.fromarray(COLOURS))[:20], "."),
        (encoded(Image.fromarray(COLOURS))[:-30], "."),
        (encoded(Image.fromarray(COLOURS)).replace(b"IDAT", b"IDAX"), "."),
        (png(0, 6, 8, 2, []), "."),
        (encoded(Image.fromarray(COLOURS), "JPEG")[:150], "."),
    ],
    ids=["empty", "text", "no header", "half a png", "broken chunk", "no width", "half a jpeg"],
)
def test_what_is_no_image_is_refused_with_path_and_reason(tmp_path, content, reason):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=rf"^cannot read image {path}: .*{reason}") as error:
        read_image(str(path))
    assert error.value.reason and str(error.value).endswith(error.value.reason)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_cut_anywhere_is_refused_or_whole(options):
    content = encoded(Image.fromarray(RANDOM.integers(0, 256, (64, 48, 3), dtype=np.uint8)), "JPEG", **options)
    whole, refused = pixels(content), 0
    for end in range(0, len(content), 101):
        try:
            assert (pixels(content[:end]) == whole).all()
        except ImageReadError:
            refused += 1
    assert refused == len(range(0, len(content), 101))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ImageReadError, match="gone.jpg: there is no such file"):
        read_image(str(tmp_path / "gone.jpg"))


def test_a_file_that_the_system_does_not_give_is_another_error(tmp_path):
    with pytest.raises(ImageAccessError, match="directory"):
        read_image(str(tmp_path))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("pixels_allowed", [200, 50], ids=["Pillow warns", "Pillow refuses"])
def test_decompression_bombs_are_refused(monkeypatch, pixels_allowed):
    content = encoded(Image.new("RGB", (15, 15)))
    assert pixels(content).shape == (15, 15, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels_allowed)
    with pytest.raises(ImageReadError, match="decompression bomb"):
        pixels(content)


def test_torch_can_make_the_error_of_a_worker_again():
    error = ImageReadError.of("a.jpg", "why")
    assert str(type(error)(str(error))) == "cannot read image a.jpg: why"


# The short way for plain JPEGs

needs_simplejpeg = pytest.mark.skipif(images.simplejpeg is None, reason="simplejpeg is not installed")


@needs_simplejpeg
@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "grey"]),
    st.booleans(),
    st.integers(0, 9),
)
def test_plain_jpegs_have_pillow_s_bits(height, width, quality, subsampling, progressive, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(noise[..., 0]) if subsampling == "grey" else Image.fromarray(noise)
    options = {} if subsampling == "grey" else {"subsampling": subsampling}
    content = encoded(picture, "JPEG", quality=quality, progressive=progressive, **options)
    found = images.decode_plain_jpeg(content)
    assert found.dtype == np.uint8 and np.array_equal(found, pixels(content))


@needs_simplejpeg
@pytest.mark.parametrize("subsampling", ["440", "411", "422"])
def test_other_subsamplings_too(subsampling):
    noise = RANDOM.integers(0, 256, (45, 37, 3), dtype=np.uint8)
    content = images.simplejpeg.encode_jpeg(noise, 90, "RGB", subsampling)
    assert np.array_equal(images.decode_plain_jpeg(content), pixels(content))


def with_exif():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(COLOURS), "JPEG", exif=exif)


@needs_simplejpeg
@pytest.mark.parametrize(
    "content",
    [
        with_exif(),
        cmyk_jpeg(),
        encoded(Image.fromarray(COLOURS)),
        encoded(Image.fromarray(COLOURS), "JPEG")[:-40],
        encoded(Image.fromarray(COLOURS), "JPEG")[:100],
        b"\xff\xd8",
        b"",
    ],
    ids=["exif", "cmyk", "png", "half", "a header", "two bytes", "nothing"],
)
def test_all_others_are_left_to_pillow(content):
    assert images.decode_plain_jpeg(content) is None


@needs_simplejpeg
def test_too_large_jpegs_are_left_to_pillow(monkeypatch):
    content = encoded(Image.new("RGB", (15, 15)), "JPEG")
    assert images.decode_plain_jpeg(content) is not None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert images.decode_plain_jpeg(content) is None


@pytest.mark.parametrize("installed", [True, False])
def test_pixels_are_those_of_the_picture(tmp_path, monkeypatch, installed):
    if not installed:
        monkeypatch.setattr(images, "simplejpeg", None)
    images.simplejpeg_is_as_pillow.cache_clear()
    for name, content in {"a.jpg": encoded(Image.fromarray(COLOURS), "JPEG"), "b.jpg": with_exif()}.items():
        (tmp_path / name).write_bytes(content)
        found = images.read_pixels(str(tmp_path / name))
        assert np.array_equal(found, np.asarray(read_image(str(tmp_path / name))))
    with pytest.raises(ImageReadError):
        images.read_pixels(str(tmp_path / "none.jpg"))
    images.simplejpeg_is_as_pillow.cache_clear()


@needs_simplejpeg
def test_a_decoder_of_other_bits_is_not_used(monkeypatch, caplog):
    fast = images.simplejpeg.decode_jpeg
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", lambda content: fast(content) ^ 1)
    images.simplejpeg_is_as_pillow.cache_clear()
    assert not images.simplejpeg_is_as_pillow() and "decodes 444 differently" in caplog.text
    images.simplejpeg_is_as_pillow.cache_clear()


# Files that are more than pictures, and pictures that are larger than they look


def test_programs_are_not_run(tmp_path, monkeypatch):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(ImageReadError, match="x.jpg: not an image, or of an unknown kind"):
        read_image(str(path))


@pytest.mark.parametrize("kind", ["PCX", "TGA", "ICO", "SGI", "PDF"])
def test_formats_that_are_not_meant_are_not_decoded(kind):
    with pytest.raises(ImageReadError, match="of an unknown kind"):
        decode(encoded(Image.fromarray(COLOURS), kind), "a.jpg")


@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("extended", [True, False])
def test_the_size_of_a_webp_is_read_before_its_canvas_is_made(monkeypatch, lossless, extended):
    options = {"exif": Image.Exif()} if not extended else {"xmp": b"more"}
    content = encoded(Image.new("RGB", (150, 130), "red"), "WEBP", lossless=lossless, **options)
    assert webp_size(content) == (150, 130)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150 * 130 - 1)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(ImageReadError, match="its 150 x 130 pixels are more than PIL.Image.MAX_IMAGE_PIXELS"):
        decode(content, "a.webp")


def test_other_files_have_no_size_of_a_webp():
    assert webp_size(encoded(Image.fromarray(COLOURS))) is None
    assert webp_size(b"RIFF\0\0\0\0WEBP") is None
    assert webp_size(b"RIFF\0\0\0\0WEBPJUNK" + bytes(20)) is None


def test_a_bomb_takes_no_memory_for_its_pixels():
    content = png(60_000, 60_000, 8, 2, [b"\0" * 100])
    with pytest.raises(ImageReadError, match="decompression bomb"):
        pixels(content)


def test_a_file_of_absurd_length_is_not_read(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageReadError, match="its 1,099,511,627,776 bytes are more than the 1,073,741,824"):
        read_image(str(tmp_path / "a.jpg"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "device.jpg"):
        with pytest.raises(ImageReadError, match=f"{name}: not a regular file"):
            read_image(str(tmp_path / name))


def test_paths_that_no_file_can_have_are_refused(tmp_path):
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for path in (tmp_path / "loop.jpg", tmp_path / ("x" * 300), f"{tmp_path}/a\0.jpg", tmp_path / "\ud800.jpg"):
        with pytest.raises(ImageReadError, match="cannot read image") as error:
            read_image(str(path))
        assert not isinstance(error.value, ImageAccessError)


def test_a_name_that_is_not_utf_8(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xe9.png")
    with open(path, "wb") as file:
        file.write(encoded(Image.fromarray(COLOURS)))
    assert (np.asarray(read_image(os.fsdecode(path))) == COLOURS).all()
