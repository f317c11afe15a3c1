"""The domains of the rendered benchmarks: the default changes nothing, each of the others is a place of its own."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from fastreid.rendering import DOMAINS, LAYOUTS, RenderConfig, RenderRequest, render_benchmark, render_person
from fastreid.rendering.body import Pose, body_parts
from fastreid.rendering.cameras import LEAVES
from fastreid.rendering.config import _LIMITS
from fastreid.rendering.domains import Domain
from fastreid.rendering.people import LEGWEAR, Wardrobe, draw_person
from fastreid.rendering.photo import defocus
from fastreid.rendering.textures import PATTERNS, paint

OTHERS = [name for name in DOMAINS if name != "plain"]
SMALL = {"train_ids": 1, "test_ids": 2, "images_per_id": 4, "workers": 1}
CLEAN = RenderConfig(occlusion=0, bystander=0, crop_error=0, motion_blur=0, noise=0, exposure_jitter=0)
STREET = LAYOUTS["Market1501"].cameras


def request(domain: str = "plain", name: str = "Market1501") -> RenderRequest:
    return RenderRequest(name, 3, 3, 7, 5, RenderConfig(), domain)


def files(root) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def pictures(domain: str, config: RenderConfig = CLEAN) -> list[np.ndarray]:
    """Pictures of three people, the same poses in every domain."""
    wanted = request(domain)
    return [
        render_person(wanted.person(pid), camera, np.random.default_rng([pid, number]), config, wanted.look.wardrobe)
        for pid in (1, 2, 3)
        for number, camera in wanted.cameras.items()
    ]


# The default


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_plain_domain_has_the_cameras_of_the_layout(name):
    wanted = request(name=name)
    assert wanted.cameras == dict(LAYOUTS[name].cameras) and wanted.look.wardrobe == Wardrobe()


def test_a_request_without_a_domain_is_plain(tmp_path):
    render_benchmark(tmp_path / "a", **SMALL)
    render_benchmark(tmp_path / "b", domain="plain", **SMALL)
    assert files(tmp_path / "a") == files(tmp_path / "b")


# Measured before there were domains: person, camera -> size, mean of each colour, standard deviation.
BEFORE = {
    (1, 2): ((64, 27), [94.2, 94.3, 82.3], 35.5),
    (2, 6): ((99, 36), [120.3, 130.0, 119.2], 71.0),
    (3, 9): ((116, 39), [88.6, 107.3, 58.0], 39.8),
    (5, 13): ((88, 38), [112.5, 81.5, 78.5], 40.7),
}


@pytest.mark.parametrize(("pid", "number"), BEFORE)
def test_plain_pictures_are_those_of_before(pid, number):
    wanted = request(name="CARGO")
    picture = render_person(wanted.person(pid), wanted.cameras[number], np.random.default_rng([7, pid, number]))
    size, means, deviation = BEFORE[pid, number]
    assert picture.shape[:2] == size
    assert [*picture.reshape(-1, 3).mean(0), picture.std()] == pytest.approx([*means, deviation], abs=0.06)


def test_sets_of_earlier_versions_are_plain(tmp_path):
    render_benchmark(tmp_path, **SMALL)
    manifest = tmp_path / "CARGO/render.json"
    content = json.loads(manifest.read_text())
    assert content["request"].pop("domain") == "plain"
    manifest.write_text(json.dumps(content))
    assert render_benchmark(tmp_path, **SMALL).reused
    with pytest.raises(FileExistsError, match="domain is plain, not night_street"):
        render_benchmark(tmp_path, domain="night_street", **SMALL)


# The others


def test_there_are_at_least_four_others():
    assert len(OTHERS) >= 4


@pytest.mark.parametrize("domain", OTHERS)
def test_a_domain_is_rendered_recorded_and_noticed(domain, tmp_path):
    summary = render_benchmark(tmp_path, "DukeMTMC", domain=domain, **SMALL)
    assert (
        summary.request.domain
        == domain
        == json.loads((tmp_path / "DukeMTMC/render.json").read_text())["request"]["domain"]
    )
    assert render_benchmark(tmp_path, "DukeMTMC", domain=domain, **SMALL).reused
    with pytest.raises(FileExistsError, match=f"domain is {domain}, not plain"):
        render_benchmark(tmp_path, "DukeMTMC", **SMALL)


@pytest.mark.parametrize("domain", OTHERS)
def test_a_domain_has_a_look_of_its_own(domain):
    """The mean colour of its pictures differs from that of every other domain, and none is black, white or flat."""
    own = np.mean([p.reshape(-1, 3).mean(0) for p in pictures(domain)], axis=0)
    for other in DOMAINS.keys() - {domain}:
        theirs = np.mean([p.reshape(-1, 3).mean(0) for p in pictures(other)], axis=0)
        assert np.abs(own - theirs).max() > 8, other
    assert all(15 < p.mean() < 200 and p.std() > 10 for p in pictures(domain))


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("domain", OTHERS)
def test_every_layout_has_cameras_in_every_domain(domain, name):
    wanted, ours = request(domain, name), LAYOUTS[name].cameras
    assert wanted.cameras.keys() == ours.keys()
    for number, camera in wanted.cameras.items():
        assert camera.view == ours[number].view and (camera.wall is None) == (ours[number].wall is None)
        assert 0.5 < camera.distance < 80 and 1.2 < camera.altitude < 60 and 1 < camera.pitch < 85
        size = DOMAINS[domain].size * ours[number].focal / ours[number].distance
        assert camera.focal / camera.distance == pytest.approx(size)


@pytest.mark.parametrize("domain", DOMAINS)
def test_wardrobes_are_complete(domain):
    worn = DOMAINS[domain].wardrobe
    assert len(set(worn.colours)) == len(worn.colours) == _LIMITS["palette_size"][1]
    assert len(set(worn.upper_patterns)) == len(worn.upper_patterns) >= _LIMITS["lookalike_group"][1]
    assert set(worn.legwear) <= set(LEGWEAR) and {*worn.upper_patterns, *worn.lower_patterns} <= PATTERNS.keys()
    for colour in worn.colours:  # each has a second colour that can be told from it
        assert any(np.ptp([colour, other], axis=0).max() > 0.35 for other in worn.colours)


def test_seasons_differ_in_what_people_wear():
    people = {name: [request(name).person(pid) for pid in range(1, 7)] for name in ("campus_summer", "station_winter")}
    assert all(p.sleeves < 1 and not p.coat for p in people["campus_summer"])
    assert all(p.sleeves == 2 and p.coat > 0 and p.legwear in ("trousers", "skirt") for p in people["station_winter"])
    summer, winter = (np.mean([p.upper.colour for p in group]) for group in people.values())
    assert summer > winter + 0.15


def test_a_coat_hangs_below_the_hip():
    person = request().person(1)
    plain, coat = (body_parts(replace(person, coat=length), Pose(0, 0, 0, 0, 0.5)) for length in (0.0, 0.25))
    ((part,),) = [[p for p in coat if not any(np.array_equal(p.start, q.start) and p.r1 == q.r1 for q in plain)]]
    hip = 0.48 * person.height
    assert part.end[2] < hip - 0.2 * person.height < part.start[2] and part.open_end


def test_passers_by_wear_the_clothes_of_the_season():
    crowded = replace(CLEAN, bystander=1.0)
    person, camera = request().person(1), STREET[2]
    green = Wardrobe(colours=((0.0, 0.9, 0.0), (0.5, 0.9, 0.0)), sleeves=(2.0,), legwear=("trousers",))

    def shares(wardrobe: Wardrobe) -> float:
        crops = [
            render_person(person, camera, np.random.default_rng(s), crowded, wardrobe).astype(int) for s in range(6)
        ]
        return np.mean([(c[..., 1] > c[..., 0] + 60).mean() for c in crops])

    assert shares(green) > 0.03 > shares(Wardrobe())


CHANGES = {
    "height": (1.3, "altitude"),
    "tilt": (4.0, "pitch"),
    "size": (0.5, "focal"),
    "sun_height": (0.5, "sun_height"),
    "sun": (0.5, "sun"),
    "light": ((1.2, 1.0, 0.8), "light"),
    "gain": ((0.5, 1.0, 1.0), "gain"),
    "gamma": (1.2, "gamma"),
    "saturation": (0.5, "saturation"),
    "blur": (0.02, "blur"),
    "noise": (3.0, "noise"),
    "grounds": ((LEAVES,), "ground"),
    "walls": ((LEAVES,), "wall"),
}


@pytest.mark.parametrize("setting", [f.name for f in fields(Domain) if f.name not in ("about", "wardrobe")])
def test_every_setting_changes_its_camera_and_the_picture(setting):
    value, changed = CHANGES[setting]
    camera = Domain("other", **{setting: value}).cameras(STREET)[2]
    differ = {f.name for f in fields(camera) if getattr(camera, f.name) != getattr(STREET[2], f.name)}
    assert differ - {"focal"} <= {changed} and changed in differ
    noisy, person = replace(CLEAN, noise=0.02), request().person(1)
    before, after = (render_person(person, c, np.random.default_rng(0), noisy) for c in (STREET[2], camera))
    assert before.shape != after.shape or np.abs(before.astype(int) - after).mean() > 1


def test_blur_keeps_the_mean_and_smooths_edges():
    picture = np.zeros((20, 30, 3), np.float32)
    picture[:, 15:] = 1
    blurred = defocus(picture, 2.0)
    assert blurred.dtype == np.float32 and blurred.mean() == pytest.approx(picture.mean(), abs=0.02)
    assert 0.15 < np.abs(np.diff(blurred, axis=1)).max() < 0.25 and np.all(np.diff(blurred, axis=1) >= -1e-6)


def test_every_pattern_mixes_within_its_two_colours():
    u, v = np.random.default_rng(0).uniform(-3, 5, (2, 500)).astype(np.float32)
    for domain in DOMAINS.values():
        for fabric in (*domain.grounds, *domain.walls):
            low, high = np.sort([fabric.colour, fabric.second], axis=0) ** 2.2
            colours = paint(fabric, u, v)
            assert (colours >= low - 1e-3).all() and (colours <= high + 1e-3).all() and colours.std() > 0.001


# Errors


def test_an_unknown_domain_is_answered_with_near_matches_and_the_list(tmp_path):
    with pytest.raises(ValueError, match=r"unknown domain 'campus'; did you mean 'campus_summer'\? Legal: plain, "):
        render_benchmark(tmp_path, domain="campus", **SMALL)
    assert not list(tmp_path.iterdir())


def test_draws_of_a_wardrobe_without_coats_are_those_of_before():
    rngs = [np.random.default_rng(3) for _ in range(4)]
    plain = draw_person(rngs[0], rngs[1], 0, RenderConfig())
    coats = draw_person(rngs[2], rngs[3], 0, RenderConfig(), Wardrobe(coats=(0.2,)))
    assert replace(coats, coat=0.0) == plain and coats.coat == 0.2
