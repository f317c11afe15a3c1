"""The stage export: new numbers without gaps, the same bytes whatever was interrupted, nothing is replaced."""

import contextlib
import json
import multiprocessing
import random
import re
import shutil
import sys
import tarfile
import time
from dataclasses import replace

import pytest

from fastreid.data.benchmarks.diff_person import load_diff_person
from fastreid.data.datasets import DatasetError
from fastreid.data.images import ImageReadError
from fastreid.data.shards import scan_shard
from fastreid.generation.export import export_pictures
from fastreid.generation.export_plan import ExportError, ExportOptions
from fastreid.generation.shards import Shard
from fastreid.methods.diffusion_reid.export_config import KEYS
from tests.generation.stages import DROPPED, NUMBERS, SOURCES, content_of, export_slowly, write_stages

FILES, SHARDS = ExportOptions(), ExportOptions(shard_size=5)


@pytest.fixture
def stages(tmp_path):
    return write_stages(tmp_path / "run")


def meta_of(folder):
    return [json.loads(line) for line in (folder / "DiffPerson/meta.jsonl").read_text().splitlines()]


def test_people_are_numbered_without_gaps_and_map_back(stages):
    summary = export_pictures(stages, FILES)
    assert summary.complete and not summary.reused and (summary.people, summary.images) == (4, 15)
    rows = meta_of(stages)
    assert sorted({row["gid"] for row in rows}) == [0, 1, 2, 3]
    assert {row["gid"]: (row["source"], row["person"], row["stage_gid"]) for row in rows} == {
        0: ("Market1501", "0", 0), 1: ("MSMT17", "7", 1), 2: ("CUHK03", "21", 3), 3: ("MSMT17", "28", 4),
    }  # fmt: skip
    assert {(row["stage_gid"], row["number"]) for row in rows} == {
        (gid, number) for gid in range(len(SOURCES)) for number in range(NUMBERS)
    } - DROPPED.keys()
    by_name = {row["file"]: row for row in rows}
    assert list(by_name) == sorted(path.name for path in (stages / "DiffPerson/images").iterdir())
    row = by_name["00003_c1_s1_0003.jpg"]
    assert row["swapped"] == "carrying" and row["camera"] == 1 and row["scores"] == {"confidence": 0.3}
    assert row["prompt"] == "a photo of <id> person, 3" and (row["seed"], row["steps"], row["guidance"]) == (
        403,
        20,
        7.5,
    )
    facts = json.loads((stages / "DiffPerson/export.json").read_text())
    assert facts["sources"] == ["CUHK03", "MSMT17", "Market1501"]
    assert facts["cameras"] == ["own caption", "carrying", "upper"]
    assert (stages / "DiffPerson/sheet.jpg").is_file() and not (stages / "DiffPerson.parts").exists()


@pytest.mark.parametrize(
    ("change", "people", "names"),
    [
        ({"cameras": "one"}, 4, r"_c0_"),
        ({"min_pictures": 4}, 3, r"."),
        ({"exclude_sources": ("MSMT17",)}, 2, r"_s[02]_"),
    ],
)
def test_options(stages, change, people, names):
    assert export_pictures(stages, replace(FILES, **change)).people == people
    assert all(re.search(names, row["file"]) for row in meta_of(stages))
    assert {row["gid"] for row in meta_of(stages)} == set(range(people))
    assert {row["source"] for row in meta_of(stages)} & set(change.get("exclude_sources", ())) == set()


def test_quality_changes_the_files(tmp_path):
    sizes = []
    for quality in (10, 95):
        folder = write_stages(tmp_path / str(quality))
        export_pictures(folder, replace(FILES, quality=quality))
        sizes.append(sum(path.stat().st_size for path in (folder / "DiffPerson/images").iterdir()))
    assert sizes[0] < sizes[1]


def test_without_filters_all_pictures_are_kept(tmp_path):
    folder = write_stages(tmp_path)
    for path in (folder / "filter").iterdir():
        path.unlink()
    with pytest.raises(ExportError, match="20 of 20 pictures .* have not been filtered, for example 00000/0000.png"):
        export_pictures(folder, FILES)
    assert export_pictures(folder, FILES, filtered=False).images == len(SOURCES) * NUMBERS


@pytest.mark.parametrize("options", [FILES, SHARDS], ids=["files", "shards"])
def test_parts_of_several_shards_are_the_whole(tmp_path, options):
    whole, shared = write_stages(tmp_path / "whole"), write_stages(tmp_path / "shared")
    export_pictures(whole, options)
    summaries = [export_pictures(shared, options, Shard(index, 3)) for index in (3, 1, 2)]
    assert [summary.complete for summary in summaries] == [False, False, True]
    assert content_of(whole / "DiffPerson") == content_of(shared / "DiffPerson")
    assert not (shared / "DiffPerson.parts").exists()


@pytest.mark.parametrize("options", [FILES, SHARDS], ids=["files", "shards"])
def test_the_same_again_is_nothing_to_do_and_something_else_is_an_error(stages, options):
    export_pictures(stages, options)
    before = {path: path.stat().st_mtime_ns for path in (stages / "DiffPerson").rglob("*")}
    again = export_pictures(stages, options)
    assert again.reused and again.complete
    assert {path: path.stat().st_mtime_ns for path in (stages / "DiffPerson").rglob("*")} == before
    with pytest.raises(ExportError, match=r"quality is 95, not 80\). It is not replaced"):
        export_pictures(stages, replace(options, quality=80))
    (stages / "pictures/00000/0000.png").write_bytes(b"another picture")
    with pytest.raises(ExportError, match="with other parameters or pictures .pictures is [0-9a-f]{64}, not"):
        export_pictures(stages, options)
    assert {path: path.stat().st_mtime_ns for path in (stages / "DiffPerson").rglob("*")} == before


def test_a_started_export_is_only_continued_with_its_own_parameters(stages):
    assert not export_pictures(stages, FILES, Shard(1, 2)).complete
    with pytest.raises(
        ExportError, match="DiffPerson.parts was exported with other parameters .*quality is 95, not 80"
    ):
        export_pictures(stages, replace(FILES, quality=80))
    assert export_pictures(stages, FILES).complete


def test_a_folder_that_was_not_exported_is_not_replaced(stages):
    (stages / "DiffPerson").mkdir()
    (stages / "DiffPerson/mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="was not exported .*; move it away"):
        export_pictures(stages, FILES)
    assert content_of(stages / "DiffPerson") == {"mine.txt": b"mine"}


def test_unknown_sources_have_near_matches(stages):
    with pytest.raises(DatasetError, match="'Market1502'; did you mean 'Market1501'"):
        export_pictures(stages, replace(FILES, exclude_sources=("Market1502",)))


def test_nothing_left_says_why(stages, tmp_path):
    with pytest.raises(ExportError, match=r"none of the 20 pictures .* kept 15, .*MIN_PICTURES 9"):
        export_pictures(stages, replace(FILES, min_pictures=9))
    with pytest.raises(ExportError, match="has no pictures: run the stage generate"):
        export_pictures(tmp_path / "empty", FILES)


@pytest.mark.parametrize("options", [FILES, SHARDS], ids=["files", "shards"])
def test_a_damaged_picture_in_the_middle_is_named_and_nothing_is_lost(stages, options):
    path = stages / "pictures/00003/0002.png"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2] + bytes(len(good) - len(good) // 2))
    with pytest.raises(ImageReadError, match="00003/0002.png"):
        export_pictures(stages, options)
    assert not (stages / "DiffPerson").exists()
    path.write_bytes(good)
    assert export_pictures(stages, options).complete
    path.unlink()
    with pytest.raises(ExportError, match="00003/0002.png is missing"):
        export_pictures(stages, options)


def test_a_file_that_a_power_failure_cut_off_is_written_again(stages, tmp_path):
    whole = write_stages(tmp_path / "whole")
    export_pictures(whole, FILES)
    export_pictures(stages, FILES, Shard(1, 2))
    first, second, *_ = sorted((stages / "DiffPerson.parts/images").iterdir())
    first.write_bytes(first.read_bytes()[:-40])
    second.write_bytes(b"")
    export_pictures(stages, FILES)
    assert content_of(stages / "DiffPerson") == content_of(whole / "DiffPerson")


def damage(name, change):
    """A case: the file of a finished data set that is damaged, and how."""
    return pytest.param(name, change, id=f"{name.rpartition('/')[2]}-{change.__name__}")


def gone(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-700])


def blank(path):
    path.write_bytes(bytes(path.stat().st_size))


def without_last_picture(path):
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-2].offset
    path.write_bytes(path.read_bytes()[:end] + bytes(1024))


def with_blank_pictures(path):
    content = bytearray(path.read_bytes())
    for position, length in scan_shard(str(path)).members.values():
        content[position : position + length] = bytes(length)
    path.write_bytes(content)


def moved(path):
    path.write_text(path.read_text().replace("[512,", "[513,"))


IMAGE, TAR, META, INDEX = "images/00001_c0_s1_0000.jpg", "shards/000001.tar", "meta.jsonl", "shards/index.json"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(damage(IMAGE, change) for change in (gone, empty, cut_off, blank)),
        *(damage(META, change) for change in (gone, empty, cut_off, blank)),
        *(damage(TAR, change) for change in (gone, empty, cut_off, blank, without_last_picture, with_blank_pictures)),
        *(damage(INDEX, change) for change in (gone, empty, moved)),
        damage("sheet.jpg", empty),
    ],
)
def test_what_is_missing_or_damaged_is_written_again(stages, caplog, name, change):
    options = SHARDS if name.startswith("shards") else FILES
    export_pictures(stages, options)
    before = content_of(stages / "DiffPerson")
    change(stages / "DiffPerson" / name)
    assert content_of(stages / "DiffPerson") != before
    summary = export_pictures(stages, options)
    assert summary.complete and content_of(stages / "DiffPerson") == before
    if name != "sheet.jpg":
        assert not summary.reused
        assert "DiffPerson is incomplete or damaged; what is missing is written again" in caplog.text
    assert export_pictures(stages, options).reused and not (stages / "DiffPerson.parts").exists()


@pytest.mark.parametrize("options", [FILES, SHARDS], ids=["files", "shards"])
def test_what_is_missing_is_written_again_in_shards(stages, options):
    export_pictures(stages, options)
    place = stages / "DiffPerson"
    before = content_of(place)
    shutil.rmtree(place / ("shards" if options.shard_size else "images"))
    (place / "tmpabcdefgh.tmp").touch()  # of an export that was killed
    assert [export_pictures(stages, options, Shard(index, 2)).complete for index in (2, 1)] == [False, True]
    assert content_of(place) == before


def test_a_full_disk_leaves_parts_that_are_continued(stages, monkeypatch):
    number = 0

    def full(path, content):
        nonlocal number
        number += 1
        if number == 6:
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr("fastreid.generation.export._write_file", full)
        with pytest.raises(OSError, match="the disk is full"):
            export_pictures(stages, FILES)
    assert len(list((stages / "DiffPerson.parts/images").iterdir())) == 5
    assert export_pictures(stages, FILES).images == 15


def test_shards_need_webdataset(stages, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ExportError, match="needs the package webdataset, which is not installed"):
        export_pictures(stages, SHARDS)


def start(folder, options, shard="1/1"):
    """Start an export in another process; a message comes before each picture."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.generation.stages"])  # torch is imported once for all
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=export_slowly, args=(folder, options, shard, sender))
    process.start()
    sender.close()
    return process, receiver


@pytest.mark.parametrize("options", [FILES, replace(SHARDS, shard_size=2)], ids=["files", "shards"])
def test_killed_at_random_moments_and_continued(tmp_path, options):
    whole, killed = write_stages(tmp_path / "whole"), write_stages(tmp_path / "killed")
    export_pictures(whole, options)
    for pictures in (2, 1, 3, 1, 2, 1, 3, 1, 2, 1):
        process, receiver = start(killed, options)
        with contextlib.suppress(EOFError):  # it may end before
            for _ in range(pictures):
                receiver.recv()
        time.sleep(random.uniform(0, 0.03))
        process.kill()
        process.join()
        assert not (killed / "DiffPerson").exists() or not (killed / "DiffPerson.parts").exists()
    assert export_pictures(killed, options).complete
    assert content_of(killed / "DiffPerson") == content_of(whole / "DiffPerson")
    assert not list(killed.rglob("*.tmp"))


@pytest.mark.parametrize("options", [FILES, replace(SHARDS, shard_size=2)], ids=["files", "shards"])
def test_shards_at_the_same_time(tmp_path, options):
    whole, shared = write_stages(tmp_path / "whole"), write_stages(tmp_path / "shared")
    export_pictures(whole, options)
    started = [start(shared, options, f"{index}/3") for index in (1, 2, 3)]
    for process, _ in started:
        process.join()
    assert [process.exitcode for process, _ in started] == [0, 0, 0]
    assert content_of(shared / "DiffPerson") == content_of(whole / "DiffPerson")
    assert not (shared / "DiffPerson.parts").exists()


def test_a_kill_before_the_rename_is_continued(stages, tmp_path, monkeypatch):
    whole = write_stages(tmp_path / "whole")
    export_pictures(whole, SHARDS)

    class Killed(BaseException):
        pass

    def stop(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.rename", stop)
        with pytest.raises(Killed):
            export_pictures(stages, SHARDS)
    assert not (stages / "DiffPerson").exists()
    export_pictures(stages, SHARDS)
    assert content_of(stages / "DiffPerson") == content_of(whole / "DiffPerson")


def test_the_options_are_those_of_the_keys():
    defaults = {key.rpartition(".")[2].lower(): entry.default for key, entry in KEYS.items()}
    found = {name: getattr(FILES, name) for name in defaults}
    assert found == defaults


def test_the_loader_reads_what_was_exported(stages):
    export_pictures(stages, FILES)
    images = load_diff_person(stages).train
    assert [(image.person, image.camera) for image in images] == [
        (row["gid"], row["camera"]) for row in meta_of(stages)
    ]
