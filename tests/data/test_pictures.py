"""Pictures of any kind become the pixels that evaluation reads, or are refused with what to do."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.data.images import read_pixels
from fastreid.data.pictures import crops_of, name_of, pixels_of, sources_of
from fastreid.utils.errors import ArgumentError

RGB = np.random.default_rng(0).integers(2, 250, (12, 8, 3), dtype=np.uint8)
TENSOR = torch.from_numpy(RGB).permute(2, 0, 1)


def pixels(images, **options):
    return [pixels_of(source) for source in sources_of(images, **options)]


def is_read(images, **options):
    return all(np.array_equal(found, RGB) for found in pixels(images, **options))


@pytest.mark.parametrize(
    "images",
    [
        *(RGB, RGB.astype(np.int64), RGB.astype(np.float64) + 0.3, RGB[None], np.asfortranarray(RGB)),
        *(TENSOR, TENSOR.float() - 0.4, TENSOR.double(), TENSOR[None], TENSOR.float().requires_grad_()),
        *(Image.fromarray(RGB), [Image.fromarray(RGB), RGB, TENSOR], (picture for picture in [RGB, TENSOR])),
    ],
    ids=lambda images: f"{type(images).__name__} {getattr(images, 'dtype', '')}",
)
def test_every_kind_of_picture_has_the_same_pixels(images):
    assert is_read(images)


def test_channels_of_opencv(tmp_path):
    assert is_read(RGB[..., ::-1], bgr=True) and is_read(TENSOR.flip(0), bgr=True)
    assert is_read([RGB[..., ::-1], TENSOR.flip(0)], bgr=True)
    for picture, kind in ((Image.fromarray(RGB), "Image"), ("a.png", "str")):
        with pytest.raises(
            ArgumentError, match=f"image 1 is a {kind}, bgr=True is for arrays and tensors: leave it out"
        ):
            pixels([RGB, picture], bgr=True)


@pytest.mark.parametrize("kind", [str, Path, np.str_])
def test_one_path_is_one_path(tmp_path, kind):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    path = kind(tmp_path / "a.png")
    assert is_read(path) and len(pixels([path, path])) == 2
    assert list(sources_of(path)) == [str(tmp_path / "a.png")]
    assert is_read(np.array([str(path)]))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_pillow_images_are_as_files_are_read(tmp_path, mode):
    picture = Image.fromarray((RGB[..., 0].astype(np.uint16) << 8) + 7) if mode == "I;16" else Image.fromarray(RGB)
    picture = picture if mode == "I;16" else picture.convert(mode)
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(RGB[..., 1]))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    # Pillow itself reads uncompressed TIFFs with an orientation wrongly if it is given their path.
    picture.save(path, exif=exif, **({"compression": "tiff_lzw"} if mode == "CMYK" else {}))
    with Image.open(path) as opened:
        (found,) = pixels(opened)
    expected = read_pixels(str(path))
    assert np.array_equal(found, expected) and expected.shape == (8, 12, 3)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (RGB[..., 0], r"an array \[12, 8\], RGB pixels are \[H, W, 3\]; repeat a grey picture: np.stack\(\[grey"),
        (TENSOR[0], r"a tensor \[12, 8\], RGB pixels are \[3, H, W\]; repeat a grey picture: torch.stack\(\[g"),
        (RGB[..., :1], r"array \[12, 8, 1\].*; repeat a grey picture"),
        (np.concatenate([RGB, RGB[..., :1]], 2), "leave out the fourth channel"),
        (TENSOR.numpy(), r"array \[3, 12, 8\].*; use array.transpose\(1, 2, 0\)"),
        (torch.from_numpy(RGB), r"tensor \[12, 8, 3\].*; use tensor.permute\(2, 0, 1\)"),
        (RGB[:0], r"array \[0, 8, 3\], it has no pixels"),
        (RGB > 3, "values of bool"),
        (TENSOR > 3, "values of bool"),
        (RGB + 1j, "values of complex128"),
        (RGB / 255, "values from 0.00.* to 0.97.*: multiply it by 255 if it is in 0..1"),
        (TENSOR / 255, "multiply it by 255"),
        (TENSOR / 127.5 - 1, "values from -0.9.*: give the picture without mean and deviation"),
        (RGB.astype(np.float32) * 257, "divide by 257 if it has 16 bits"),
        (np.where(RGB == RGB.max(), np.nan, RGB), "NaN or infinite"),
        (Image.fromarray(RGB[..., 0].astype(np.int32)), "cannot be converted to RGB: its values .* no known white"),
        (b"\xff\xd8", r"is a bytes: a picture is a path.*; open an encoded image with PIL.Image.open"),
        (None, "is a NoneType: a picture is a path, a Pillow image, an array"),
        (7, "is a int: a picture is"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused(picture, said):
    with pytest.raises(ArgumentError, match=f"^image 1 .*{said}"):
        pixels([RGB, picture])
    with pytest.raises(ArgumentError, match=f"^image 0 .*{said}"):
        pixels(picture)


def test_black_and_whole_numbers_up_to_one_are_pictures():
    dark = np.zeros((4, 4, 3))
    dark[0] = 1
    assert np.array_equal(pixels(dark)[0], dark.astype(np.uint8))


def test_a_damaged_picture_is_named():
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, "PNG")
    with pytest.raises(ArgumentError, match="^image 0 cannot be converted to RGB: "):
        pixels(Image.open(io.BytesIO(stream.getvalue()[:-60])))


def test_boxes_are_rounded_and_clipped():
    boxes = [[0.4, 0.6, 5.5, 6.4], [-3, -1, 4, 99], [7.4, 11.4, 8, 12]]
    expected = [RGB[1:6, 0:6], RGB[:, :4], RGB[11:, 7:]]
    for given in (boxes, np.array(boxes), torch.tensor(boxes), torch.tensor(boxes, dtype=torch.float64)):
        found = crops_of(RGB, given)
        assert [crop.tolist() for crop in found] == [crop.tolist() for crop in expected]
    for none in ([], np.empty((0, 4)), torch.empty(0, 4)):
        assert crops_of(RGB, none) == []


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((5, 5, 2, 9), r"\(5, 5, 2, 9\), which has no pixel in the frame of 8 x 12: boxes are x1, y1, x2, y2 in p"),
        ((0.1, 0.2, 0.4, 0.3), "has no pixel in the frame"),
        ((8, 0, 20, 5), "has no pixel"),
        ((1e300, 1e300, 2e300, 2e300), "has no pixel"),
        ((1, 1, float("nan"), 5), r"\(1, 1, nan, 5\), which are not all finite"),
        ((1, 1, float("inf"), 5), "not all finite"),
    ],
)  # fmt: skip
def test_a_box_without_pixels_is_named(box, said):
    with pytest.raises(ArgumentError, match=f"^box 1 is .*{said}"):
        crops_of(RGB, [(0, 0, 4, 4), box])


def test_boxes_of_bfloat16():
    assert [crop.shape for crop in crops_of(RGB, torch.tensor([[1, 2, 4, 6]], dtype=torch.bfloat16))] == [(4, 3, 3)]


@pytest.mark.parametrize(
    ("masked", "said"),
    [
        (np.ma.masked_less, "some values are masked; fill them in, or leave them out"),
        (lambda values, _: torch.from_numpy(values).to_sparse(), "a tensor of torch.uint8 .*sparse.*give a dense one"),
        (lambda values, _: torch.from_numpy(values).to("meta"), "a tensor on the device meta"),
    ],
)
def test_what_holds_no_whole_numbers_is_refused(masked, said):
    with pytest.raises(ArgumentError, match=f"^boxes: {said}"):
        crops_of(RGB, masked(np.array([[1, 2, 4, 6]], dtype=np.uint8), 2))
    with pytest.raises(ArgumentError, match=f"^image 0: {said}"):
        pixels(masked(RGB if masked is np.ma.masked_less else RGB.transpose(2, 0, 1).copy(), 200))


@pytest.mark.parametrize("boxes", [
    [1, 2, 3, 4], [[1, 2, 3]], np.zeros((2, 5)), [["a"] * 4], "boxes", np.ones((1, 4)) + 1j,
    torch.ones(1, 4, dtype=torch.complex64),
])  # fmt: skip
def test_boxes_of_another_shape_are_refused(boxes):
    with pytest.raises(ArgumentError, match=r"boxes must be (numbers )?\[N, 4\]"):
        crops_of(RGB, boxes)


def test_the_last_part_of_a_name_depends_on_the_pixels_only():
    first, second = name_of(0, TENSOR), name_of(5, TENSOR)
    assert (first.split("/")[0], second.split("/")[0]) == ("number 0", "number 5")
    assert first.split("/")[1] == second.split("/")[1] != name_of(0, TENSOR.flip(2)).split("/")[1]
