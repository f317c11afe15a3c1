"""Contact sheets of image files."""

import numpy as np
import pytest
from PIL import Image

from fastreid.data.picture_grid import CELL, picture_grid, spread_evenly, stacked


def red_images(folder, count):
    for number in range(count):
        Image.new("RGB", (20, 40), (250, 0, 0)).save(folder / f"{number}.png")
    return [str(folder / f"{number}.png") for number in range(count)]


def test_cells_are_in_rows_of_eight(tmp_path):
    sheet = np.asarray(picture_grid("a title", red_images(tmp_path, 9))).astype(int)
    assert sheet.shape == (24 + 2 * CELL[1], 8 * CELL[0], 3)
    red = (sheet[..., 0] > 200) & (sheet[..., 1] < 50)
    cells = red[24:].reshape(2, CELL[1], 8, CELL[0]).any(axis=(1, 3))
    assert cells.tolist() == [[True] * 8, [True] + [False] * 7]
    assert (sheet[:24] < 100).any()  # the title


def test_captions_have_a_line_of_their_own(tmp_path):
    paths = red_images(tmp_path, 2)
    sheet = np.asarray(picture_grid("", paths, ["one", ""])).astype(int)
    assert sheet.shape[0] == 24 + CELL[1] + 14
    dark = (sheet[24 + CELL[1] :] < 100).all(axis=-1)
    assert dark[:, : CELL[0]].any() and not dark[:, CELL[0] :].any()


def test_a_long_caption_has_several_lines(tmp_path):
    paths = red_images(tmp_path, 2)
    sheet = np.asarray(picture_grid("", paths, ["a white top with long sleeves", "short"])).astype(int)
    assert sheet.shape[0] == 24 + CELL[1] + 3 * 14  # "a white top", "with long", "sleeves"
    dark = (sheet[24 + CELL[1] :] < 100).all(axis=-1).reshape(3, 14, 8, CELL[0]).any(axis=(1, 3))
    assert dark[:, 0].all() and dark[:, 1].tolist() == [True, False, False]


def test_a_file_that_cannot_be_read_leaves_its_cell_empty(tmp_path, caplog):
    (tmp_path / "bad.png").write_bytes(b"")
    sheet = np.asarray(picture_grid("people", [str(tmp_path / "bad.png")]))
    assert (sheet[24:] == 255).all() and "bad.png is not on the contact sheet of people" in caplog.text


@pytest.mark.parametrize(("count", "most", "expected"), [
    (3, 5, [0, 1, 2]), (9, 3, [0, 4, 8]), (5, 1, [0]), (0, 4, []),
])  # fmt: skip
def test_items_are_spread_evenly(count, most, expected):
    assert spread_evenly(range(count), most) == expected


def test_sheets_below_each_other():
    whole = stacked([Image.new("RGB", (4, 2), "red"), Image.new("RGB", (4, 3), "blue")])
    assert whole.size == (4, 5) and whole.getpixel((0, 1)) == (255, 0, 0) and whole.getpixel((3, 2)) == (0, 0, 255)
