"""The stage `filter`: rows, restarts, shards, rounds, settings, damaged files."""

import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.generation.filters import FilterError, RealImages
from fastreid.generation.filters.near_copy import NearCopyFilter
from fastreid.generation.filters.reid import ReidFilter
from fastreid.generation.filters.reid_scores import held_out_scores
from fastreid.generation.filters.settings import StageSettings
from fastreid.generation.filters.summary import Rounds
from fastreid.generation.journal import Journal
from fastreid.generation.rows import JournalError
from fastreid.generation.shards import Shard
from tests.generation.filters.toys import (
    ROUNDS,
    embed,
    picture_row,
    real_images,
    rows_of,
    save,
    stage,
    toy_image,
    write_pictures,
)

PEOPLE = range(5)
WRONG = 4  # number of the picture that shows the next person


def shows(gid, number):
    return (gid + 1) % len(PEOPLE) if number == WRONG else gid


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with real images and pictures, the real images, and the rows of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("written")
    images = real_images(folder, PEOPLE)
    write_pictures(folder, PEOPLE, range(6), shows=shows)
    save(folder / "pictures/00002/0001.png", toy_image(2, "real 3"))  # a copy of a real image
    (folder / "pictures/00003/0000.png").write_bytes(b"damaged")
    whole = folder / "whole"
    shutil.copytree(folder / "pictures", whole / "pictures")
    stage(whole, images).run(ROUNDS)
    return folder, images, rows_of(whole)


@pytest.fixture
def folder(written, tmp_path):
    shutil.copytree(written[0] / "pictures", tmp_path / "pictures")
    return tmp_path


def test_rows_have_reasons_and_scores(written):
    _, _, rows = written
    assert [(row["gid"], row["number"]) for row in rows] == [(gid, n) for gid in PEOPLE for n in range(6)]
    reason = {(row["gid"], row["number"]): row["reason"] for row in rows}
    assert {reason[gid, WRONG] for gid in PEOPLE} <= {"reid.margin", "reid.identity"}
    assert reason[2, 1] == "reid.copy" and reason[3, 0] == "unreadable"
    assert list(reason.values()).count("") >= 16
    for row in rows:
        assert row.keys() == {"gid", "number", "kept", "reason", "scores"} and row["kept"] == (not row["reason"])
        names = {"reid.identity", "reid.margin", "reid.copy", "near_copy.real", "near_copy.kept"}
        assert set(row["scores"]) == (set() if row["reason"] == "unreadable" else names)


def test_a_damaged_picture_is_logged_and_nothing_is_lost(written, folder, caplog):
    stage(folder, written[1]).run(ROUNDS)
    assert "0000.png" in caplog.text and "it is dropped as 'unreadable'" in caplog.text
    assert rows_of(folder) == written[2]


def test_a_person_whose_pictures_are_all_damaged(written, folder):
    for path in (folder / "pictures/00001").iterdir():
        path.write_bytes(b"no picture")
    stage(folder, written[1]).run(ROUNDS)
    assert {row["reason"] for row in rows_of(folder) if row["gid"] == 1} == {"unreadable"}
    assert [row for row in rows_of(folder) if row["gid"] != 1] == [row for row in written[2] if row["gid"] != 1]


def test_a_picture_that_is_gone_stops_the_stage(written, folder):
    (folder / "pictures/00002/0004.png").unlink()
    with pytest.raises(FilterError, match=r"00002/0004.png is gone: run the stage generate again"):
        stage(folder, written[1]).run(ROUNDS)
    assert {row["gid"] for row in rows_of(folder)} == {0, 1}  # those before it are kept


def test_finished_people_are_skipped(written, folder):
    stage(folder, written[1]).run(ROUNDS)

    def never(paths, source):
        raise AssertionError("nothing is left to be embedded")

    stage(folder, written[1], embed=never).run(ROUNDS)
    assert rows_of(folder) == written[2]


@pytest.mark.parametrize("calls", range(6))
def test_a_stage_that_was_stopped_goes_on_to_the_same_rows(written, folder, calls):
    left = calls

    def breaking(paths, source):
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return embed(paths, source)

    with pytest.raises(KeyboardInterrupt):
        stage(folder, written[1], embed=breaking).run(ROUNDS)
    assert rows_of(folder) == written[2][: 6 * max(0, calls - 1)]
    stage(folder, written[1]).run(ROUNDS)
    assert rows_of(folder) == written[2]


@pytest.mark.parametrize("quantile", [None, 0.5])
def test_a_manifest_that_ends_anywhere_is_completed(written, folder, quantile):
    filters = {"reid": ReidFilter(quantile=quantile), "near_copy": NearCopyFilter(max_correlation=0.999)}
    stage(folder, written[1], filters).run(ROUNDS)
    expected, path = rows_of(folder), folder / "filter/manifest-1of1.jsonl"
    whole = path.read_bytes()
    for end in np.random.default_rng(0).integers(0, len(whole), 10):
        path.write_bytes(whole[:end])
        stage(folder, written[1], filters).run(ROUNDS)
        assert rows_of(folder) == expected and path.read_bytes() == whole


def test_shards_make_the_same_rows_as_one_process(written, folder):
    for index in (3, 1, 2):
        stage(folder, written[1]).run(ROUNDS, Shard(index, 3))
    assert rows_of(folder) == written[2]
    assert len(list((folder / "filter").glob("manifest-*.jsonl"))) == 3


def test_shards_do_not_depend_on_who_has_pictures_already(written, folder):
    path = folder / "pictures/manifest-1of1.jsonl"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(row for row in rows if json.loads(row)["gid"] != 0))
    stage(folder, written[1]).run(ROUNDS, Shard(2, 2))
    assert {row["gid"] for row in rows_of(folder)} == {1, 3}


def test_shards_share_the_people_whose_pictures_are_written(written, folder):
    path = folder / "pictures/manifest-1of1.jsonl"
    path.write_text("".join(row for row in path.read_text().splitlines(keepends=True) if json.loads(row)["gid"] != 1))
    stage(folder, written[1], people=[0, 2, 3, 4]).run(ROUNDS, Shard(1, 2))
    assert {row["gid"] for row in rows_of(folder)} == {0, 3}
    with pytest.raises(FilterError, match="2 people who have fewer training images than DIFFPERSON.MIN_IMAGES"):
        stage(folder, written[1], people=[0, 2]).run(ROUNDS)


def test_the_order_of_the_pictures_does_not_matter(written, folder):
    path = folder / "pictures/manifest-1of1.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    stage(folder, written[1]).run(ROUNDS)
    assert rows_of(folder) == written[2]


def test_pictures_of_a_later_round_are_judged_beside_the_earlier_ones(written, folder):
    stage(folder, written[1]).run(ROUNDS)
    write_later = range(6, 9)
    for gid in (0, 4):
        for number in write_later:
            save(folder / f"pictures/{gid:05d}/{number:04d}.png", toy_image(gid, f"written {gid} {number}"))
    save(folder / "pictures/00000/0007.png", toy_image(0, "written 0 0"))  # equal to a kept one
    with Journal(folder / "pictures").writer("round2") as writer:
        writer.add(*(picture_row(g, n, f"{g:05d}/{n:04d}.png") for g in (0, 4) for n in write_later))
    stage(folder, written[1]).run(Rounds(min_keep=3, per_round=3, most=3))
    rows = rows_of(folder)
    assert [row for row in rows if row["number"] < 6] == written[2]
    later = {(row["gid"], row["number"]): row["reason"] for row in rows if row["number"] >= 6}
    assert later.keys() == {(gid, number) for gid in (0, 4) for number in write_later}
    assert next(row for row in written[2] if row["gid"] == row["number"] == 0)["kept"]
    assert later[0, 7] == "near_copy.kept" and later[4, 7] == ""


@pytest.mark.parametrize(("quantile", "kept"), [(0.5, 3), (0.75, 5), (1.0, 6), (0.01, 1)])
def test_a_quantile_keeps_exactly_so_many_of_each_person(written, folder, quantile, kept):
    (folder / "pictures/00003/0000.png").write_bytes((folder / "pictures/00003/0001.png").read_bytes())
    stage(folder, written[1], {"reid": ReidFilter(quantile=quantile)}).run(ROUNDS)
    for gid in PEOPLE:
        rows = [row for row in rows_of(folder) if row["gid"] == gid]
        assert sum(row["kept"] for row in rows) == kept
        best = sorted(rows, key=lambda row: (-row["scores"]["reid.identity"], row["number"]))
        assert all(row["kept"] for row in best[:kept]) and {row["reason"] for row in best[kept:]} <= {"reid.quantile"}


def test_people_are_judged_when_all_of_their_pictures_are_written(written, folder, caplog):
    rows = Journal(folder / "pictures").rows()
    filters = {"reid": ReidFilter(quantile=0.5)}
    manifests = sorted((folder / "pictures").glob("manifest-*.jsonl"))
    for path in manifests:
        path.unlink()
    with pytest.raises(FilterError, match="pictures has no pictures: run the stage generate first"):
        stage(folder, written[1], filters).run(ROUNDS)
    assert not (folder / "filter").exists()
    late = [row for row in rows if (row["gid"], row["number"]) in ((1, 4), (1, 5)) or row["gid"] == 3]
    with Journal(folder / "pictures").writer("a") as writer:
        writer.add(*(row for row in rows if row not in late))
    stage(folder, written[1], filters).run(ROUNDS)
    assert {row["gid"] for row in rows_of(folder)} == set(PEOPLE) - {1, 3}
    said = "2 of 5 people of .*pictures are not judged, .*the first is person 1, who has 4 of 6.: run the stage gen"
    assert re.search(said, caplog.text)
    with Journal(folder / "pictures").writer("a") as writer:
        writer.add(*late)
    summary = stage(folder, written[1], filters).run(ROUNDS)
    assert {gid: sum(row["kept"] for row in rows_of(folder) if row["gid"] == gid) for gid in PEOPLE} == dict.fromkeys(
        PEOPLE, 3
    )
    assert summary.sources["A"].pictures == len(rows)


@pytest.mark.parametrize(("count", "whole"), [(0, False), (3, False), (6, True), (8, False), (12, True), (13, True)])
def test_rounds_are_whole(count, whole):
    assert ROUNDS.is_whole(count) is whole  # two rounds of 6; more were written with another DIFFPERSON.GEN.PER_ID


def test_each_source_is_judged_by_its_own_model(tmp_path):
    images = {"A": real_images(tmp_path / "a", (0, 1)), "B": real_images(tmp_path / "b", (2, 3))}
    write_pictures(tmp_path, range(4), range(3), source_of=lambda gid: "AB"[gid // 2])
    asked = []

    def recording(paths, source):
        asked.extend((path, source) for path in paths)
        # The model of B is useless: all its features are the same.
        return embed(paths, source) if source == "A" else embed(paths, source) * 0 + 1

    sources = {name: RealImages(found) for name, found in images.items()}
    fixed = ReidFilter(identity=0.5, margin=0.01, copy=2)
    summary = stage(tmp_path, [], {"reid": fixed}, sources=sources, embed=recording).run(Rounds(3, 3, 2))
    assert {row["reason"] for row in rows_of(tmp_path) if row["gid"] < 2} == {""}
    assert {row["reason"] for row in rows_of(tmp_path) if row["gid"] >= 2} == {"reid.margin"}
    assert all((source == "A") == ("/a/" in path or "/00000/" in path or "/00001/" in path) for path, source in asked)
    assert summary.sources["A"].kept == 6 and summary.sources["B"].dropped == {"reid.margin": 6}


def test_calibrated_thresholds_are_stored_and_used_again(written, folder):
    summary = stage(folder, written[1], models={"A": "a.pth"}).run(ROUNDS, Shard(1, 2))
    path = folder / "filter/settings.json"
    content = json.loads(path.read_text())
    assert content["models"] == {"A": "a.pth"} and content["thresholds"] == summary.thresholds
    assert 0.5 < content["thresholds"]["A"]["reid"]["identity"] < content["thresholds"]["A"]["reid"]["copy"] <= 1
    content["thresholds"]["A"]["reid"]["margin"] = 2.5
    path.write_text(json.dumps(content))
    stage(folder, written[1], models={"A": "a.pth"}).run(ROUNDS, Shard(2, 2))
    others = [row for row in rows_of(folder) if row["gid"] % 2 == 1]
    assert {row["reason"] for row in others if row["number"] not in (0, WRONG)} == {"reid.margin"}


def test_held_out_images_calibrate_if_there_are_any(written, folder):
    held = real_images(folder / "held", PEOPLE, count=2)
    real = {"A": RealImages(written[1], held)}
    summary = stage(folder, [], sources=real).run(ROUNDS)
    features, people = embed([i.path for i in held], "A"), [i.person for i in held]
    others = embed([i.path for i in written[1]], "A")
    owners = torch.tensor([image.person for image in written[1]])
    genuine = held_out_scores(features, torch.tensor(people), others, owners)
    expected = np.percentile(genuine[0].numpy(), 5)
    assert summary.thresholds["A"]["reid"]["identity"] == pytest.approx(expected, abs=1e-6)


def test_other_settings_are_refused(written, folder):
    stage(folder, written[1], models={"A": "a.pth"}).run(ROUNDS)
    with pytest.raises(JournalError, match="begun with other filters.*0.999.*0.5"):
        stage(folder, written[1], {"near_copy": NearCopyFilter(max_correlation=0.5)}).run(ROUNDS)
    with pytest.raises(JournalError, match="another re-ID model of A: a.pth, now b.pth"):
        stage(folder, written[1], models={"A": "b.pth"}).run(ROUNDS)
    for content in ("{", "[]", "{}", "[" * 100_000, '{"filters": [], "models": [], "thresholds": {}}'):
        (folder / "filter/settings.json").write_text(content)
        with pytest.raises(JournalError, match=r"settings.json is damaged"):
            stage(folder, written[1]).run(ROUNDS)


def test_people_with_too_few_pictures_are_short_until_the_last_round(written, folder):
    rounds = Rounds(min_keep=5, per_round=6, most=2)
    kept = {gid: sum(row["kept"] for row in written[2] if row["gid"] == gid) for gid in PEOPLE}
    few = {gid: count for gid, count in kept.items() if count < 5}
    assert few.keys() >= {2, 3}
    summary = stage(folder, written[1]).run(rounds)
    assert summary.short == few and summary.exhausted == {}
    last = stage(folder, written[1]).run(Rounds(min_keep=5, per_round=6, most=1))
    assert last.short == {} and last.exhausted == few
    content = json.loads((folder / "filter/summary.json").read_text())
    assert content["exhausted"] == {str(gid): count for gid, count in few.items()}
    counts = content["sources"]["A"]
    assert counts["people"] == 5 and counts["pictures"] == 30 == counts["kept"] + sum(counts["dropped"].values())


def test_people_of_other_shards_are_not_short(written, folder):
    summary = stage(folder, written[1]).run(Rounds(min_keep=99, per_round=6, most=2), Shard(1, 2))
    assert list(summary.short) == [0, 2, 4]


def test_without_the_reid_filter_nothing_is_embedded(written, folder, caplog):
    with caplog.at_level(logging.INFO):
        stage(folder, written[1], {"near_copy": NearCopyFilter()}, embed=None).run(ROUNDS)
    reasons = {(row["gid"], row["number"]): row["reason"] for row in rows_of(folder)}
    assert reasons[2, 1] == "near_copy.real"
    assert "of 30 pictures of 5 people are kept" in caplog.text


def test_pictures_of_unknown_people_and_sources_are_refused(written, folder):
    with pytest.raises(FilterError, match="1 people without real images in A .the first is person 4"):
        stage(folder, [image for image in written[1] if image.person != 4]).run(ROUNDS)
    with pytest.raises(FilterError, match="people of A, but the sources are B"):
        stage(folder, [], sources={"B": RealImages(written[1])}).run(ROUNDS)


def test_the_sheet_has_a_band_for_each_reason(written, folder):
    stage(folder, written[1]).run(ROUNDS)
    sheet = Image.open(folder / "filter/kept_and_dropped.jpg")
    reasons = {row["reason"] for row in written[2]}
    # Two rows of eight kept pictures; a row for each reason with pictures; titles.
    bands = len(reasons) - 1
    assert sheet.size == (8 * 84, 24 * len(reasons) + (2 + bands - 1) * 164)
    assert np.asarray(sheet).std() > 20


def test_two_shards_that_begin_at_the_same_time_have_the_same_filters(folder):
    one, other = (
        StageSettings(folder / "filter/settings.json", {"near_copy": NearCopyFilter(max_correlation=value)}, {})
        for value in (0.5, 0.9)
    )
    one.check()
    other.check()  # neither has written anything
    one.add("A", {})
    with pytest.raises(JournalError, match=r"begun with other filters.*0.5.*0.9"):
        other.add("A", {})
