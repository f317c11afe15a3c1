"""Warm-up and milestones as shares of a run, and warnings about schedules that do not fit it."""

import pytest
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.solver import build_lr_scheduler
from fastreid.solver.milestones import misfits

ITERS = 10


def config(**values):
    cfg = get_cfg()
    cfg.SOLVER.update({"MAX_EPOCH": 20, "BASE_LR": 1.0, "WARMUP_ITERS": 0, "STEPS": []} | values)
    return cfg


def schedule_of(cfg):
    return build_lr_scheduler(cfg, torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), ITERS)


@pytest.mark.parametrize("scheduler", ["MultiStepLR", "EpochWarmupMultiStepLR"])
@pytest.mark.parametrize("max_epoch", [20, 40])
def test_milestones_are_at_their_shares(scheduler, max_epoch):
    values = {"WARMUP_EPOCHS": 1} if scheduler.startswith("Epoch") else {"WARMUP_SHARE": 0.1}
    schedule = schedule_of(config(SCHED=scheduler, MAX_EPOCH=max_epoch, STEP_SHARES=[0.5, 0.75], GAMMA=0.5, **values))
    rates = [schedule.lr_at(epoch * ITERS) for epoch in range(max_epoch)]
    first = {rate: rates.index(pytest.approx(rate)) for rate in (0.5, 0.25)}
    assert first == {0.5: max_epoch // 2, 0.25: max_epoch * 3 // 4}


@pytest.mark.parametrize("scheduler", ["MultiStepLR", "CosineAnnealingLR", "LinearLR"])
def test_the_warm_up_is_a_share_of_the_run(scheduler):
    schedule = schedule_of(config(SCHED=scheduler, WARMUP_SHARE=0.25, WARMUP_ITERS=7))
    assert schedule.warmup_iters == 50
    peak, reached = schedule.peak(200)
    assert peak > 0.98 and reached in (49, 50)  # a curve falls from the end of the warm-up on
    assert schedule.lr_at(25) == pytest.approx(0.1 * 0.5 + 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"SCHED": "EpochWarmupMultiStepLR", "WARMUP_SHARE": 0.1}, "warms up by epochs: set SOLVER.WARMUP_SHARE 0"),
        ({"SCHED": "CosineAnnealingLR", "STEP_SHARES": [0.5]}, "read by SOLVER.SCHED MultiStepLR or Epoch"),
        ({"SCHED": "LinearWarmupMultiStepDecayLRScheduler", "STEP_SHARES": [0.5]}, "not by LinearWarmup"),
    ],
)
def test_schedules_that_do_not_read_them(values, message):
    with pytest.raises(ConfigError, match=message):
        schedule_of(config(**values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"STEPS": [5, 10]}, []),
        ({"STEP_SHARES": [0.5, 0.95], "WARMUP_SHARE": 0.1}, []),
        ({"WARMUP_ITERS": 100, "STEPS": [5, 11]}, ["SOLVER.STEPS has 11, counted from epoch 10, after the end"]),
        ({"STEPS": [20, 90]}, ["SOLVER.STEPS has 20, 90, after the end of the run (20 epochs of 10 iterations)"]),
        (
            {"WARMUP_ITERS": 400},
            ["SOLVER.WARMUP_ITERS 400 iterations, and the whole run 200", "never reaches its full value"],
        ),
        (
            {"SCHED": "EpochWarmupCosineLR", "WARMUP_EPOCHS": 30},
            ["never reaches its full value: the highest is 0.7 of 1 (20 epochs"],
        ),
        (
            {"SCHED": "LinearWarmupMultiStepDecayLRScheduler", "DECAY_EPOCHS": [5, 25]},
            ["SOLVER.DECAY_EPOCHS has 25, after the end"],
        ),
        ({"SCHED": "CosineAnnealingLR", "WARMUP_ITERS": 20}, []),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_run(values, said):
    cfg = config(**values)
    found = list(misfits(cfg, schedule_of(cfg), ITERS))
    assert len(found) == len(said), found
    for sentence, part in zip(found, said, strict=True):
        assert part in sentence
