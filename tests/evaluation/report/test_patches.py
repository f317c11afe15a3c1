"""Patches of a run are drawn where their matrices say, for epochs that are spread over the run."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image, ImageColor

from fastreid.evaluation.report import make_report
from fastreid.evaluation.report.patches import HEIGHT, MARGIN, MAX_EPOCHS, colour_of, draw_patches, patch_pictures
from tests.evaluation.report.fake_runs import write_run

STRIPS = [[[1, 0, 0], [0, 1 / 3, shift]] for shift in (-2 / 3, 0, 2 / 3)]
WHOLE = [[[1, 0, 0], [0, 1, 0]]]


def write_patches(folder, num_images=2, num_epochs=3, theta=STRIPS):
    folder.mkdir(exist_ok=True)
    images = [str(folder / f"{number}.png") for number in range(num_images)]
    for image in images:
        Image.new("RGB", (32, 64), "white").save(image)
    epochs = [{"epoch": 2 * number, "theta": [theta] * num_images} for number in range(num_epochs)]
    (folder / "patches.json").write_text(json.dumps({"images": images, "epochs": epochs}))
    return images


def is_colour(canvas, x, y, part):
    """Whether the pixel at x, y in -1…1 of the image has the colour of a patch."""
    left, top = (round(MARGIN * side) for side in (HEIGHT / 2, HEIGHT))
    at = round(left + (x + 1) / 2 * HEIGHT / 2), round(top + (y + 1) / 2 * HEIGHT)
    return canvas.getpixel(at) == ImageColor.getrgb(colour_of(part))


def test_the_corners_of_the_unit_matrix_are_those_of_the_image():
    canvas = draw_patches(Image.new("RGB", (32, 64), "white"), np.array(WHOLE, dtype=float))
    assert canvas.size == (112 + 2 * 13, 224 + 2 * 27)
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1), (0, -1), (1, 0.5)):
        assert is_colour(canvas, x, y, 0)
    for x, y in ((0, 0), (0.9, 0.9), (-0.9, 0), (0, 1.1)):
        assert not is_colour(canvas, x, y, 0)


def test_each_strip_has_its_outline_and_colour():
    canvas = draw_patches(Image.new("RGB", (32, 64), "white"), np.array(STRIPS, dtype=float))
    assert [is_colour(canvas, 1, y, part) for part, y in enumerate((-2 / 3, 0, 2 / 3))] == [True] * 3
    assert is_colour(canvas, 0, -1, 0) and is_colour(canvas, 0, 1, 2)
    assert not any(is_colour(canvas, 0, 0, part) for part in range(3))


def test_the_first_row_is_of_x_and_the_last_column_shifts():
    moved = np.array([[[0.25, 0, 0.5], [0, 0.5, -0.25]]])
    canvas = draw_patches(Image.new("RGB", (32, 64), "white"), moved)
    assert all(is_colour(canvas, x, y, 0) for x in (0.25, 0.75) for y in (-0.75, 0.25))
    sheared = np.array([[[0.5, 0.5, 0], [0, 0.5, 0]]])
    canvas = draw_patches(Image.new("RGB", (32, 64), "white"), sheared)
    assert all(is_colour(canvas, x, y, 0) for x, y in ((-1, -0.5), (0, -0.5), (1, 0.5), (0, 0.5)))


def test_patches_that_coincide_are_all_seen():
    canvas = draw_patches(Image.new("RGB", (32, 64), "white"), np.array(WHOLE * 3, dtype=float))
    found = {canvas.getpixel((x, 100)) for x in range(canvas.width)}
    assert {ImageColor.getrgb(colour_of(part)) for part in range(3)} <= found


@pytest.mark.parametrize("scale", [4.25, 1e30])
def test_a_patch_far_outside_is_no_error(scale):
    draw_patches(Image.new("RGB", (32, 64), "white"), scale * np.array(STRIPS, dtype=float))


@pytest.mark.parametrize(("count", "shown"), [(1, [0]), (3, [0, 2, 4]), (50, [0, 20, 40, 58, 78, 98])])
def test_the_epochs_are_spread(tmp_path, count, shown):
    write_patches(tmp_path, num_epochs=count)
    pictures = patch_pictures(tmp_path, "run")
    assert pictures.epochs == shown and len(shown) <= MAX_EPOCHS
    assert [len(row) for _, row in pictures.rows] == [len(shown)] * 2


def test_the_page_shows_the_runs_that_have_patches(tmp_path):
    runs = {name: write_run(tmp_path, name, noise) for name, noise in (("plain", 1.5), ("pisl", 0.9))}
    make_report(runs, tmp_path / "report.html", tmp_path / "results.json")
    assert "Patches" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    images = write_patches(runs["pisl"])
    make_report(runs, tmp_path / "report.html", tmp_path / "results.json")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    section = page.partition('<section id="patches">')[2]
    assert 'href="#patches"' in page and "<h3>pisl</h3>" in section and "<h3>plain</h3>" not in section
    assert section.count("<img ") == 6 and all(f'title="{image}"' in section for image in images)
    assert all(f">epoch {epoch}<" in section for epoch in (0, 2, 4)) and "patch 3" in section
    picture = section.partition('src="data:image/jpeg;base64,')[2].partition('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).height == HEIGHT + 2 * round(MARGIN * HEIGHT)


def test_images_that_are_gone_are_left_out_with_a_note(tmp_path):
    run = write_run(tmp_path, "pisl", 0.9)
    gone, kept = write_patches(run)
    (run / "0.png").unlink()
    make_report({"pisl": run}, tmp_path / "report.html", tmp_path / "results.json")
    section = (tmp_path / "report.html").read_text(encoding="utf-8").partition('<section id="patches">')[2]
    assert f"left out: {gone}<" in section and f'title="{kept}"' in section and section.count("<img ") == 3
    (run / "1.png").unlink()
    make_report({"pisl": run}, tmp_path / "report.html", tmp_path / "results.json")
    section = (tmp_path / "report.html").read_text(encoding="utf-8").partition('<section id="patches">')[2]
    assert f"left out: {gone}, {kept}<" in section and "<img " not in section


@pytest.mark.parametrize("images", [[], ["a.jpg"]])
def test_a_log_without_epochs_shows_nothing(tmp_path, images):
    (tmp_path / "patches.json").write_text(json.dumps({"images": images, "epochs": []}))
    assert patch_pictures(tmp_path, "run") is None


BROKEN = {
    "not JSON": '{"images": [',
    "another kind": "[]",
    "no epochs": '{"images": []}',
    "too few images": json.dumps({"images": ["a", "b"], "epochs": [{"epoch": 0, "theta": [STRIPS]}]}),
    "other shapes": json.dumps({"images": ["a"], "epochs": [{"epoch": 0, "theta": [[[1, 2, 3]]]}]}),
    "not finite": '{"images": ["a"], "epochs": [{"epoch": 0, "theta": [[[[NaN, 0, 0], [0, 1, 0]]]]}]}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named(tmp_path, content, caplog):
    (tmp_path / "patches.json").write_text(content)
    found = patch_pictures(tmp_path, "run")
    assert found.rows == [] and re.search(r"left out, as \S*patches.json is broken \(.+\)\.$", found.problem)
    assert found.problem in caplog.text


def test_a_broken_file_of_one_run_leaves_the_rest_of_the_page(tmp_path):
    runs = {name: write_run(tmp_path, name, 0.9) for name in ("broken", "fine")}
    (runs["broken"] / "patches.json").write_text("[]")
    write_patches(runs["fine"])
    make_report(runs, tmp_path / "report.html", tmp_path / "results.json")
    section = (tmp_path / "report.html").read_text(encoding="utf-8").partition('<section id="patches">')[2]
    assert section.count("The patches of this run are left out, as ") == 1 and "<img " in section
