"""Whether a run is finished follows from what its files hold."""

import os

import pytest

from fastreid.engine.evaluating import RECORD
from fastreid.engine.finished import FINISHED, OTHER_WEIGHTS, UNFINISHED, state_of
from tests.engine.toys import toy_cfg, train


@pytest.fixture
def runs(tmp_path):
    train(toy_cfg(tmp_path / "stage1", SOLVER__MAX_EPOCH=1))
    weights = tmp_path / "stage1/model_final.pth"
    train(toy_cfg(tmp_path / "stage2", SOLVER__MAX_EPOCH=2, MODEL__WEIGHTS=str(weights)))
    return tmp_path / "stage2", weights


def test_dates_do_not_count(runs):
    folder, weights = runs
    assert state_of(folder) == state_of(folder, weights) == FINISHED
    for path in (weights, folder / "model_final.pth", folder / "results.json"):
        os.utime(path, (2**31, 2**31))
        assert state_of(folder, weights) == FINISHED


@pytest.mark.parametrize("gone", [RECORD, "results.json", "model_final.pth"])
def test_cut_off_before_its_end(runs, gone):
    (runs[0] / gone).unlink()
    assert state_of(*runs) == UNFINISHED
    assert state_of(runs[0] / "none", runs[1]) == UNFINISHED


def test_trained_on_from_weights_that_have_changed(runs):
    folder, weights = runs
    train(toy_cfg(weights.parent, SOLVER__MAX_EPOCH=1, SOLVER__BASE_LR=0.01))
    assert state_of(folder) == FINISHED and state_of(folder, weights) == OTHER_WEIGHTS


def test_a_run_without_tests_is_finished_when_it_is_trained(tmp_path):
    folder = tmp_path / "run"
    train(toy_cfg(folder, SOLVER__MAX_EPOCH=1, DATASETS__TESTS=()))
    (folder / "config.yaml").write_text("DATASETS:\n  TESTS: []\n")
    assert state_of(folder) == FINISHED
    (folder / "config.yaml").write_text("DATASETS:\n  TESTS: [CARGO]\n")
    assert state_of(folder) == UNFINISHED
    (folder / "config.yaml").unlink()
    assert state_of(folder) == UNFINISHED
