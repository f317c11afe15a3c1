"""Unfinished files of killed processes: those of the own pictures are deleted at a start, others are left."""

import pytest

from fastreid.generation.plans import PicturePlan
from fastreid.generation.shards import Shard
from fastreid.generation.stage import StageFolder
from fastreid.generation.write import PictureFolder

PLANS = [PicturePlan(0, 0, "", 0, {}), PicturePlan(2, 0, "", 0, {})]


@pytest.fixture
def stage(tmp_path):
    stage = StageFolder(tmp_path)
    stage.begin({"steps": 2})
    for gid in range(3):
        (tmp_path / f"{gid:05d}").mkdir()
        (tmp_path / f"{gid:05d}/.0000.png.abcdefgh.tmp").touch()
    (tmp_path / "00000/.0001.png.abcdefgh.tmp").touch()
    (tmp_path / ".sheet.jpg.abcdefgh.tmp").touch()
    return stage


def left(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.tmp")}


@pytest.mark.parametrize("other", [None, "2of2"])
def test_leftovers_of_the_own_pictures_are_removed(stage, tmp_path, other):
    folder, shard = PictureFolder(stage, "png", {}), Shard(1, 2)
    with stage.writer(other or shard.name), stage.writer(shard.name):
        folder.remove_leftovers(PLANS, shard)
    assert left(tmp_path) == {
        "00000/.0001.png.abcdefgh.tmp",
        "00001/.0000.png.abcdefgh.tmp",
        ".sheet.jpg.abcdefgh.tmp",
    }


def test_nothing_is_removed_while_another_division_into_shards_runs(stage, tmp_path):
    before = left(tmp_path)
    with stage.writer("1of12"), stage.writer("1of2"):
        PictureFolder(stage, "png", {}).remove_leftovers(PLANS, Shard(1, 2))
    assert left(tmp_path) == before
