"""A disk that is really full ends a run in one sentence, whatever it was writing; with room, it goes on."""

import re
import sys

import pytest

from fastreid.utils.errors import reported_as
from fastreid.utils.logger import setup_logger
from tests.engine.remains import differences, in_a_fork, remains_of
from tests.engine.toys import toy_cfg, train
from tests.small_disk import resize, small_disk

KEYS = {"SOLVER__MAX_EPOCH": 2, "TEST__EVAL_PERIOD": 1, "TEST__BREAKDOWN": ["camera"], "TEST__PLOTS": True}
SENTENCE = re.compile(r"train_net: error: (\S+) could not be written: the disk is full \(\d+ MiB are free\)")


def run(folder, *, resume):
    with reported_as("train_net"):
        setup_logger(folder)
        train(toy_cfg(folder, **KEYS), resume=resume)


def fill(folder, pages):
    """Leave so many pages of 4 kB."""
    with open(folder / "filling", "wb", buffering=0) as file:
        while True:
            try:
                file.write(b"\0" * 4096)
            except OSError:
                break
        file.truncate(max(0, file.tell() - 4096 * pages))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert in_a_fork(lambda: run(folder, resume=False)) == 0
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
@pytest.mark.parametrize("pages", [1, 3, 8, 20, 26, 36, 50, 64, 90])
def test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on(tmp_path, whole, capfd, pages):
    with small_disk(tmp_path / "disk", "4m") as disk:
        fill(disk, pages)
        status = in_a_fork(lambda: run(disk / "run", resume=True))
        said = capfd.readouterr().err
        assert status == 1 and "Traceback" not in said and "unexpected pos" not in said, said
        assert SENTENCE.search(said), said
        assert not list(disk.rglob(".*.tmp"))
        resize(disk, "40m")
        assert in_a_fork(lambda: run(disk / "run", resume=True)) == 0, capfd.readouterr().err
        assert differences(remains_of(disk / "run"), remains_of(whole)) == []
