"""An evaluation, its best checkpoint and its record are one thing, wherever the run is killed."""

import json
import os

import pytest
import torch

from fastreid.engine.evaluating import RECORD, last_evaluation, restore_best
from fastreid.utils.checkpoint import Checkpointer, read_checkpoint
from tests.engine.remains import KILLED, differences, in_a_fork, killed_at, remains_of
from tests.engine.toys import ToyTrainer, toy_cfg, train


def kill_everywhere(folder, *, also_between=False, **keys):
    """Kill a run at each of its file events, resume it, and compare what is left; how many events there were."""
    assert in_a_fork(lambda: train(toy_cfg(folder / "whole", **keys))) == 0
    expected = remains_of(folder / "whole")
    assert {"model_best.pth", "results.json", "metrics.json", RECORD} < set(expected)
    for number in range(1000):
        cfg = toy_cfg(folder / f"killed{number}", **keys)
        status = in_a_fork(lambda: (killed_at(number, also_between=also_between), train(cfg)))  # noqa: B023
        if status == 0:
            return number
        assert status == KILLED
        assert in_a_fork(lambda: train(cfg, resume=True)) == 0  # noqa: B023
        assert differences(remains_of(folder / f"killed{number}"), expected) == [], f"killed at event {number}"
    raise AssertionError("the run has no end")


def test_killed_at_every_file_of_an_evaluation(tmp_path):
    # results.json and .csv, intervals, ranked lists, best, metrics.json, record; before that checkpoint and manifest.
    assert kill_everywhere(tmp_path, SOLVER__MAX_EPOCH=1) >= 10


@pytest.mark.slow
def test_killed_at_every_file_of_a_run(tmp_path):
    keys = {"TEST__EVAL_PERIOD": 2, "SOLVER__KEEP_CHECKPOINTS": 2, "TEST__BREAKDOWN": ["camera"]}
    assert kill_everywhere(tmp_path, also_between=True, **keys) > 60


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_a_finished_run_evaluated_again_has_its_record_once(tmp_path):
    train(toy_cfg(tmp_path))
    before = remains_of(tmp_path)
    for _ in range(2):
        train(toy_cfg(tmp_path), resume=True)
        assert differences(remains_of(tmp_path), before) == []
    assert sum("Toy/mAP" in line for line in lines(tmp_path)) == 1


class Fails(ToyTrainer):
    """Its best checkpoint cannot be written."""

    def build_hooks(self):
        save = self.checkpointer.save

        def failing(name, **values):
            if name == "model_best":
                raise RuntimeError("stopped here")
            return save(name, **values)

        self.checkpointer.save = failing
        return super().build_hooks()


def test_the_best_score_is_not_kept_before_its_file(tmp_path):
    cfg = toy_cfg(tmp_path, SOLVER__MAX_EPOCH=1)
    trainer = Fails(cfg)
    with pytest.raises(RuntimeError, match="stopped here"):
        trainer.train()
    assert trainer.best_metric is None and last_evaluation(tmp_path) is None
    resumed = train(cfg, resume=True)
    assert read_checkpoint(tmp_path / "model_best.pth")["best_metric"] == resumed.best_metric
    assert last_evaluation(tmp_path).best_metric == resumed.best_metric


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_best_checkpoint_is_written_again(tmp_path, caplog, damage):
    keys = {"TEST__EVAL_PERIOD": 1, "SOLVER__BASE_LR": 0.2}
    train(toy_cfg(tmp_path / "whole", SOLVER__MAX_EPOCH=5, **keys))
    train(toy_cfg(tmp_path / "parts", SOLVER__MAX_EPOCH=5, **keys))
    (tmp_path / "parts/last_checkpoint").write_text("model_0003.pth")
    best = tmp_path / "parts/model_best.pth"
    content = best.read_bytes()
    if damage == "gone":
        best.unlink()
    else:
        best.write_bytes(content[:-1] if damage == "cut" else content[:900] + bytes([content[900] ^ 1]) + content[901:])
    train(toy_cfg(tmp_path / "parts", SOLVER__MAX_EPOCH=5, **keys), resume=True)
    assert "model_best.pth cannot be used" in caplog.text
    assert differences(remains_of(tmp_path / "parts"), remains_of(tmp_path / "whole")) == []


def test_a_best_checkpoint_that_cannot_be_written_again_is_made_anew(tmp_path, caplog):
    checkpointer = Checkpointer(torch.nn.Linear(1, 1), tmp_path)
    checkpointer.save("model_0001", epoch=1, iteration=6)
    assert restore_best(checkpointer, None, None) == (None, None)
    assert not caplog.messages
    assert restore_best(checkpointer, 50.0, 3) == (None, None)
    assert "model_best.pth cannot be used: it is gone. The next evaluation writes it again" in caplog.text
    assert restore_best(checkpointer, 50.0, 6) == (50.0, 6)
    content = read_checkpoint(tmp_path / "model_best.pth")
    assert (content["best_metric"], content["best_iteration"], content["iteration"]) == (50.0, 6, 6)


def test_a_record_that_cannot_be_read_is_none(tmp_path):
    for text in ("", "[]", "{}", '{"iteration": 3}'):
        (tmp_path / RECORD).write_text(text)
        assert last_evaluation(tmp_path) is None


class Counting(ToyTrainer):
    evaluations = 0

    @classmethod
    def test(cls, cfg, model):
        cls.evaluations += 1
        return super().test(cfg, model)


@pytest.mark.parametrize("is_done", [True, False])
def test_results_from_the_future_do_not_count_as_an_evaluation(tmp_path, is_done):
    cfg = toy_cfg(tmp_path, TEST__EVAL_PERIOD=2)
    whole = train(cfg)
    (tmp_path / "last_checkpoint").write_text("model_0001.pth")
    done = {"iteration": 6 if is_done else 3, "epoch": 1, "best_metric": 0.0, "best_iteration": 3}
    (tmp_path / RECORD).write_text(json.dumps(done))
    (tmp_path / "results.json").write_text("{}")
    os.utime(tmp_path / "results.json", (2**32, 2**32))
    counting = type("Counting", (Counting,), {})
    resumed = train(cfg, resume=True, trainer_class=counting)
    assert counting.evaluations == (1 if is_done else 2)
    assert resumed.results == whole.results
