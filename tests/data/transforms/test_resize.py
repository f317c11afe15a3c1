"""The compiled resize gives Pillow's bits: any sizes, any part, mirrored or not, with any instructions."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fastreid.data.transforms.resize import compiled_resize, resize, resize_by_pillow

needs_compiled = pytest.mark.skipif(
    find_spec("fastreid.data.resize_cylib.resize_cy") is None, reason="extension not compiled"
)
sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))


@pytest.fixture(autouse=True)
def found_anew():
    compiled_resize.cache_clear()
    yield
    compiled_resize.cache_clear()


def picture(size, seed, contrast=False):
    random = np.random.default_rng(seed)
    # Black and white overshoot most, which is where rounding and clipping show.
    return (
        255 * random.integers(0, 2, (*size, 3), np.uint8) if contrast else random.integers(0, 256, (*size, 3), np.uint8)
    )


@needs_compiled
@settings(deadline=None, max_examples=150)
@given(sizes, sizes, st.integers(0, 99), st.booleans(), st.booleans())
def test_any_size_to_any_other(before, after, seed, contrast, portably):
    pixels = picture(before, seed, contrast)
    expected = np.asarray(Image.fromarray(pixels).resize(after[::-1], Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(compiled_resize()(pixels, after, (0, 0, *after), portably=portably), expected)
    assert np.array_equal(resize(pixels, after), expected)


@needs_compiled
@settings(deadline=None, max_examples=100)
@given(sizes, sizes, sizes, st.tuples(st.integers(-99, 99), st.integers(-99, 99)), st.booleans())
def test_any_part(before, after, part, corner, mirrored):
    pixels, kept = picture(before, 0), (*corner, *part)
    found = resize(pixels, after, kept, mirrored=mirrored)
    assert found.flags.c_contiguous and np.array_equal(found, resize_by_pillow(pixels, after, kept, mirrored=mirrored))


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_is_outside_is_black(mirrored):
    pixels = np.full((4, 2, 3), 200, np.uint8)
    for found in (resize, resize_by_pillow):
        (plane, *_) = found(pixels, (8, 4), (-1, -2, 10, 5), mirrored=mirrored)
        plane = plane[:, ::-1] if mirrored else plane
        assert (plane[0] == 0).all() and (plane[9] == 0).all() and (plane[1:9, :2] == 0).all()
        assert (plane[1:9, 2:] == 200).all()


@needs_compiled
@pytest.mark.parametrize(
    ("before", "after"), [((256, 128), (256, 128)), ((256, 40), (256, 128)), ((700, 300), (256, 128))]
)
def test_sizes_of_people(before, after):
    pixels = picture(before, 1)
    assert np.array_equal(resize(pixels, after), resize_by_pillow(pixels, after, (0, 0, *after)))
    assert np.array_equal(resize(pixels[:, ::-1], after), resize_by_pillow(pixels[:, ::-1], after, (0, 0, *after)))


@needs_compiled
def test_a_pillow_that_goes_the_other_way_is_followed(monkeypatch):
    def two_steps(self, size, resample):  # columns, then rows, as older versions always do
        between = resize_one_way(self, (size[0], self.height), resample)
        return resize_one_way(between, (size[0], size[1]), resample)

    resize_one_way = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", two_steps)
    pixels = picture((80, 10), 3, contrast=True)
    assert compiled_resize() is not None
    assert np.array_equal(resize(pixels, (20, 17)), resize_by_pillow(pixels, (20, 17), (0, 0, 20, 17)))


@needs_compiled
def test_a_pillow_of_other_bits_is_used_itself(monkeypatch, caplog):
    bicubic = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, _: bicubic(self, size, Image.Resampling.LANCZOS))
    pixels = picture((30, 10), 3)
    expected = np.asarray(Image.fromarray(pixels).resize((9, 20), 0)).transpose(2, 0, 1)
    assert compiled_resize() is None and np.array_equal(resize(pixels, (20, 9)), expected)
    assert "resizes differently" in caplog.text


def test_without_the_extension_pillow_resizes_and_it_is_told(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "fastreid.data.resize_cylib.resize_cy", None)
    pixels = picture((30, 10), 3)
    assert compiled_resize() is None and resize(pixels, (20, 9)).shape == (3, 20, 9)
    assert "python setup.py build_ext --inplace" in caplog.text
