"""The rendered benchmark: same bytes from the same seed, CARGO's layout, matches for every query, nothing half-done."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid.data.benchmarks.cargo import read_cargo
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.rendering import LAYOUTS, RenderConfig, RenderRequest, render_benchmark, render_person
from fastreid.rendering import write as writer
from fastreid.rendering.body import Pose, body_parts
from fastreid.rendering.contact_sheet import contact_sheet
from fastreid.rendering.people import CLOTHES
from fastreid.rendering.raycast import Frame, Part, Pinhole, cast, normals, squash
from fastreid.structures import View
from fastreid.utils.errors import UserError
from tests.processes import is_running

SMALL = {"train_ids": 3, "test_ids": 3, "images_per_id": 7, "seed": 5}
CAMERAS = LAYOUTS["CARGO"].cameras


def request(**changes) -> RenderRequest:
    return RenderRequest(**{"name": "CARGO", **SMALL, "config": RenderConfig(), **changes})


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("rendered")
    render_benchmark(root, workers=1, **SMALL)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# The benchmark as a whole


def test_another_run_with_two_processes_gives_the_same_bytes(rendered, tmp_path):
    render_benchmark(tmp_path, workers=2, **SMALL)
    assert files(tmp_path) == files(rendered)


def test_another_seed_and_another_config_give_other_pictures(rendered, tmp_path):
    few = {"train_ids": 1, "test_ids": 2, "images_per_id": 4}
    render_benchmark(tmp_path / "a", workers=1, seed=1, **few)
    render_benchmark(tmp_path / "b", workers=1, seed=2, **few)
    render_benchmark(tmp_path / "c", workers=1, seed=1, config=RenderConfig(noise=0.1), **few)
    a, b, c = ({p for n, p in files(tmp_path / s).items() if n.endswith("jpg")} for s in "abc")
    assert len(a) == 12 and not a & b and not a & c


def test_a_person_does_not_depend_on_how_many_images_are_rendered():
    few, many = request(images_per_id=4), request(images_per_id=12)
    assert few.person(2) == many.person(2)
    assert [s.camera for s in few.shots(2)] == [s.camera for s in many.shots(2)[:4]]


def test_layout_names_and_counts(rendered):
    names = [Path(n) for n in files(rendered) if n.endswith(".jpg")]
    assert len({n.name for n in names}) == len(names) == 42
    for name in names:
        benchmark, split, folder, file = name.parts
        assert (benchmark, folder) == ("CARGO", file.split("_")[0]) and split in ("train", "query", "gallery")
        assert file.split("_")[1] == "day" and 1 <= read_cargo(name).camera + 1 <= 13
    assert json.loads((rendered / "CARGO/render.json").read_text())["images"] == {
        "train": 21,
        "query": 6,
        "gallery": 15,
    }


def test_the_ordinary_loader_reads_it_and_ids_are_disjoint(rendered):
    dataset = DATASET_REGISTRY.get("CARGO")(root=str(rendered))
    assert [len(split) for split in (dataset.train, dataset.query, dataset.gallery)] == [21, 6, 15]
    people = [{image.person for image in split} for split in (dataset.train, dataset.query, dataset.gallery)]
    assert people == [{1, 2, 3}, {4, 5, 6}, {4, 5, 6}]


@pytest.mark.parametrize("images_per_id", [4, 5, 10])
def test_every_query_has_a_match_across_views_and_one_in_another_camera_of_its_view(images_per_id):
    wanted = request(train_ids=2, test_ids=40, images_per_id=images_per_id)
    for pid in range(3, 43):
        shots = wanted.shots(pid)
        queries = [s for s in shots if s.split == "query"]
        gallery = [s.camera for s in shots if s.split == "gallery"]
        assert len(shots) == images_per_id
        assert sorted(CAMERAS[q.camera].view for q in queries) == [View.AERIAL, View.GROUND]
        for query in queries:
            view = CAMERAS[query.camera].view
            assert any(CAMERAS[camera].view != view for camera in gallery)
            assert any(CAMERAS[camera].view == view and camera != query.camera for camera in gallery)


def test_everybody_is_seen_by_as_many_cameras_of_each_view_as_asked():
    wanted = request(config=RenderConfig(cameras_per_view=2))
    for pid in range(1, 7):
        cameras = {shot.camera for shot in wanted.shots(pid)}
        assert sum(CAMERAS[camera].view == View.AERIAL for camera in cameras) == 2 == len(cameras) - 2


def test_lookalikes_share_colours_and_build_but_no_pattern_within_train_and_within_test():
    wanted = request(train_ids=6, test_ids=8, config=RenderConfig(lookalike_group=4))

    def shared(pid: int) -> tuple:
        person = wanted.person(pid)
        return person.build, person.upper.colour, person.lower.colour

    for group in ([1, 2, 3, 4], [5, 6], [7, 8, 9, 10], [11, 12, 13, 14]):
        assert len({shared(pid) for pid in group}) == 1
        assert len({wanted.person(pid).upper.pattern for pid in group}) == len(group)
    assert len({shared(pid)[0] for pid in (1, 5, 7, 11)}) == 4


def test_the_palette_limits_the_clothes():
    wanted = request(train_ids=60, config=RenderConfig(palette_size=2))
    worn = {c for pid in range(1, 61) for c in (wanted.person(pid).upper.colour, wanted.person(pid).lower.colour)}
    assert worn == set(list(CLOTHES.values())[:2])


# What is there already


def test_the_same_parameters_reuse_and_others_are_refused_unless_overwritten(tmp_path):
    small = {**SMALL, "workers": 1}
    first = render_benchmark(tmp_path, **small)
    before = files(tmp_path)
    again = render_benchmark(tmp_path, **{**small, "workers": 2})
    assert again.reused and again.images == first.images and not first.reused
    with pytest.raises(FileExistsError, match=r"other parameters \(seed is 5, not 6; test_ids is 3, not 4\)"):
        render_benchmark(tmp_path, **{**small, "seed": 6, "test_ids": 4})
    with pytest.raises(FileExistsError, match="noise is 0.02, not 0.5"):
        render_benchmark(tmp_path, config=RenderConfig(noise=0.5), **small)
    assert files(tmp_path) == before
    render_benchmark(tmp_path, overwrite=True, **{**small, "train_ids": 1})
    assert len(files(tmp_path)) == 4 * 7 + 1 and [p.name for p in tmp_path.iterdir()] == ["CARGO"]


def test_a_folder_that_was_not_rendered_is_never_overwritten(tmp_path):
    (tmp_path / "CARGO").mkdir()
    with pytest.raises(FileExistsError, match="was not rendered"):
        render_benchmark(tmp_path, overwrite=True, **SMALL)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_leaves_nothing_and_keeps_what_was_there(tmp_path, monkeypatch, error):
    render_benchmark(tmp_path, workers=1, **SMALL)
    before, render_identity = files(tmp_path), writer._render_identity

    def interrupted(folder, wanted, pid):
        if pid == 2:
            raise error
        return render_identity(folder, wanted, pid)

    monkeypatch.setattr(writer, "_render_identity", interrupted)
    with pytest.raises(error):
        render_benchmark(tmp_path, workers=1, overwrite=True, **{**SMALL, "seed": 6})
    assert files(tmp_path) == before and len(list(tmp_path.iterdir())) == 1


def dies(folder, wanted, pid):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_the_death_of_a_process_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_render_identity", dies)
    monkeypatch.setattr(writer, "_process_context", lambda: multiprocessing.get_context("fork"))
    with pytest.raises(UserError, match="one of 2 processes that render was killed, .* lower the number of workers"):
        render_benchmark(tmp_path, workers=2, **SMALL)
    assert not list(tmp_path.iterdir())


def waits(folder, wanted, pid):
    Path(os.environ["PIDS"], str(os.getpid())).touch()
    time.sleep(600)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_the_processes_end_if_the_parent_was_killed(tmp_path):
    code = (
        "from tests.rendering import test_rendering as t; t.writer._render_identity = t.waits; "
        "t.writer._process_context = lambda: t.multiprocessing.get_context('fork'); "
        "t.render_benchmark('there', workers=2, **t.SMALL)"
    )
    (tmp_path / "pids").mkdir()
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PIDS": str(tmp_path / "pids")}
    parent, end = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=env), time.monotonic() + 60
    while len(pids := [path.name for path in (tmp_path / "pids").iterdir()]) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert len(pids) == 2
    while any(is_running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    left = [pid for pid in pids if is_running(pid)]
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert not left


def test_a_damaged_manifest_is_told_and_can_be_overwritten(tmp_path):
    small = {**SMALL, "workers": 1}
    render_benchmark(tmp_path, **small)
    before, manifest = files(tmp_path), tmp_path / "CARGO" / writer.MANIFEST
    for content in ("", "[]", "{}", '{"images": {}}', '{"images": {}, "request": 1}'):
        manifest.write_text(content)
        with pytest.raises(FileExistsError, match=r"was rendered, but its render\.json is damaged"):
            render_benchmark(tmp_path, **small)
    render_benchmark(tmp_path, overwrite=True, **small)
    assert files(tmp_path) == before


def test_what_a_killed_process_left_is_put_back_or_removed(tmp_path):
    small = {**SMALL, "workers": 1}
    render_benchmark(tmp_path, **small)
    before = files(tmp_path)
    (tmp_path / "CARGO").rename(tmp_path / ".CARGO.before")
    (tmp_path / ".CARGO.draft/AGPReID").mkdir(parents=True)
    assert render_benchmark(tmp_path, **small).reused
    render_benchmark(tmp_path, overwrite=True, **{**small, "seed": 6})
    render_benchmark(tmp_path, overwrite=True, **small)
    assert files(tmp_path) == before


# Errors


def test_an_unknown_name_is_answered_with_the_near_match(tmp_path):
    with pytest.raises(ValueError, match=r"'CARG0'; did you mean 'CARGO'\? Legal: CARGO"):
        render_benchmark(tmp_path, "CARG0")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bad", "least"),
    [({"train_ids": 0}, 1), ({"test_ids": 1}, 2), ({"images_per_id": 3}, 4), ({"seed": -1}, 0), ({"workers": 0}, 1)],
)
def test_bad_counts_are_named(tmp_path, bad, least):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; .*at least {least}"):
        render_benchmark(tmp_path, **{**SMALL, **bad})


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"occlusion": 1.5}, "occlusion is 1.5; it must lie in 0..1"),
        ({"palette_size": 13}, "palette_size is 13; it must lie in 1..12"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"jpeg_quality_low": 95}, "above jpeg_quality_high 90; swap them"),
    ],
)
def test_bad_knobs_are_named(knobs, said):
    with pytest.raises(ValueError, match=said):
        RenderConfig(**knobs)


# The pictures

PLAIN = RenderConfig(occlusion=0, bystander=0, crop_error=0, motion_blur=0, noise=0, exposure_jitter=0)


def shoot(camera: int, seed: int = 0, config: RenderConfig = PLAIN, pid: int = 1) -> np.ndarray:
    return render_person(request().person(pid), CAMERAS[camera], np.random.default_rng(seed), config)


def test_resolution_falls_with_altitude_and_aerial_crops_are_smaller_and_squarer():
    heights = [np.mean([shoot(camera, seed).shape[0] for seed in range(6)]) for camera in range(1, 6)]
    assert heights[4] < heights[3] < heights[0] and heights[4] < 45 < 80 < heights[0]
    sizes = {view: [] for view in View}
    for number, camera in CAMERAS.items():
        sizes[camera.view].append(np.mean([shoot(number, seed).shape[:2] for seed in range(4)], axis=0))
    aerial, ground = (np.mean(sizes[view], axis=0) for view in (View.AERIAL, View.GROUND))
    assert aerial[0] < 0.7 * ground[0]
    assert aerial[1] / aerial[0] > 1.2 * ground[1] / ground[0]


def test_resolution_knob_scales_the_crop():
    low, high = (shoot(6, config=RenderConfig(resolution=r, crop_error=0)).shape for r in (0.5, 1.0))
    assert high[0] == pytest.approx(2 * low[0], abs=2)


def test_cameras_shift_colours_only_as_far_as_their_response():
    """The same person on the same ground: Cam2 (warm) sees a redder picture than Cam3 (cool) unless it is off."""

    def red_over_blue(camera: int, strength: float) -> float:
        config = RenderConfig(**{**vars(PLAIN), "colour_response": strength})
        plain = CAMERAS[camera].__class__(**{**vars(CAMERAS[camera]), "ground": CAMERAS[1].ground})
        person = request().person(1)
        pictures = [render_person(person, plain, np.random.default_rng(s), config) for s in range(4)]
        red, _, blue = np.mean([p.reshape(-1, 3).mean(0) for p in pictures], axis=0)
        return red / blue

    assert red_over_blue(2, 1.0) > 1.15 * red_over_blue(3, 1.0)
    assert red_over_blue(2, 0.0) == pytest.approx(red_over_blue(3, 0.0), rel=0.05)


@pytest.mark.parametrize("knob", ["occlusion", "bystander"])
@pytest.mark.parametrize("camera", [2, 9])
def test_occlusion_and_bystanders_change_pictures_and_keep_their_size(knob, camera):
    changed = 0
    for seed in range(8):
        plain, other = (shoot(camera, seed, RenderConfig(**{**vars(PLAIN), knob: p})) for p in (0.0, 1.0))
        assert plain.shape == other.shape
        changed += np.abs(plain.astype(int) - other).mean() > 2
    assert changed >= 5


def test_pictures_are_rgb_jpegs_of_full_range(rendered):
    for path in (rendered / "CARGO/query").rglob("*.jpg"):
        picture = np.asarray(Image.open(path))
        assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.std() > 10


def test_contact_sheet_has_a_cell_for_everybody_in_every_camera():
    sheet = np.asarray(contact_sheet(request(), [1, 4]))
    assert sheet.shape[1] > 13 * 64
    cell = sheet.shape[1] // 13
    assert all((sheet[:, c * cell : (c + 1) * cell] < 128).any() for c in range(13))


# Geometry


def test_a_tapered_capsule_is_hit_where_its_distance_function_is_zero():
    """Every hit lies on the surface, every miss passes it by, by a search along the ray."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        a, b = rng.normal(0, 0.3, (2, 3))
        part = Part(
            a, b, *rng.uniform(0.03, 0.2, 2), 0, Frame(a, b, b), squash(rng.normal(size=3), rng.uniform(0.4, 1))
        )
        forward, right, down = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        camera = Pinhole(np.zeros(3), right, down, forward, 30.0, 900.0)
        x = y = np.linspace(-15, 15, 8).astype(np.float32)
        hits = cast([part], camera, x, y)
        grid = np.meshgrid(x, y)
        start, direction = (v.astype(float) for v in camera.rays(*(g.ravel() for g in grid)))
        steps = np.linspace(-1.5, 1.5, 301)
        inside = distance(part, start[:, None] + steps[:, None] * direction[:, None]).min(1)
        hit = hits.part.ravel() >= 0
        assert (inside[hit] < 2e-3).all() and (inside[~hit] > -1e-3).all()
        t = hits.t.ravel()[hit].astype(float)
        assert np.abs(distance(part, start[hit] + t[:, None] * direction[hit])).max(initial=0) < 2e-4
        nearer = start[hit] + (t - 0.02)[:, None] * direction[hit]
        assert (distance(part, nearer) > -1e-4).all()  # the first of the two crossings


def distance(part: Part, points: np.ndarray) -> np.ndarray:
    """Signed distance in the squashed space, by trying many places of the axis."""
    local, axis = (points - part.start) @ part.squash.T, part.squash @ (part.end - part.start)
    s = np.linspace(0, 1, 151)
    centres, radii = s[:, None] * axis, part.r0 + s * (part.r1 - part.r0)
    return np.min([np.linalg.norm(local - c, axis=-1) - r for c, r in zip(centres, radii, strict=True)], axis=0)


def test_normals_point_out_of_the_surface():
    part = Part(np.zeros(3), np.array([0, 0, 1.0]), 0.2, 0.1, 0, Frame(*np.eye(3)), squash(np.eye(3)[0], 0.5))
    camera = Pinhole(np.array([0, 0, 0.5]), *np.eye(3)[[1, 2, 0]], 10.0, 100.0)
    x, y = np.linspace(-0.5, 0.5, 3).astype(np.float32), np.linspace(-3, 3, 5).astype(np.float32)
    hits = cast([part], camera, x, y)
    rows, columns = np.nonzero(hits.part >= 0)
    start, direction = camera.rays(x[columns], y[rows])
    points = start + hits.t[rows, columns, None] * direction
    found = normals([part], hits.part[rows, columns], hits.along[rows, columns], points)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5) and (found * direction).sum(1).max() < -0.5
    assert (distance(part, points + 0.01 * found) > 0).all()


def test_people_stand_on_the_ground_at_their_height():
    for pid in range(1, 7):
        person = request().person(pid)
        for phase in np.linspace(0, 2 * np.pi, 7):
            parts = body_parts(person, Pose(1, 2, 0.7, phase, 1.0))
            low = min(min(p.start[2] - p.r0, p.end[2] - p.r1) for p in parts)
            high = max(max(p.start[2] + p.r0, p.end[2] + p.r1) for p in parts)
            assert -0.06 < low < 0.06
            assert 0.9 * person.height < high < 1.12 * person.height
