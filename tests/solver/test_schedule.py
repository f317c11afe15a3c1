"""Learning rates against closed forms at chosen points."""

import math

import pytest
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.solver import LRSchedule, build_lr_scheduler
from fastreid.solver.schedule import Warmup
from fastreid.utils.registry import RegistryError


def schedule(iters_per_epoch, *, lrs=(1.0,), **solver):
    cfg = get_cfg()
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in lrs]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    return build_lr_scheduler(cfg, optimizer, iters_per_epoch), optimizer


@pytest.mark.parametrize(
    ("method", "expected"),
    [("constant", 0.01), ("linear", 0.01 * 0.75 + 0.25), ("exp", 0.01**0.75)],
)
def test_warmup_at_a_quarter(method, expected):
    warmup = Warmup(200, 0.01, method)
    assert warmup(50) == pytest.approx(expected)
    assert warmup(0) == pytest.approx(0.01)
    assert warmup(200) == warmup(10**6) == 1.0
    assert Warmup(0, 0.01)(0) == 1.0


def test_cosine_after_warmup():
    # 2000 iterations of 110 are 18.2 epochs: the plateau ends with epoch 19 of 120.
    lr, _ = schedule(
        110, SCHED="CosineAnnealingLR", WARMUP_ITERS=2000, WARMUP_FACTOR=0.01, MAX_EPOCH=120,
        ETA_MIN_LR=0.2,
    )  # fmt: skip

    def closed_form(steps):
        return 0.2 + 0.8 * (1 + math.cos(math.pi * steps / 101)) / 2

    assert lr.lr_at(0) == pytest.approx(0.01)
    assert lr.lr_at(1000) == pytest.approx(0.505)
    assert lr.lr_at(2000) == lr.lr_at(19 * 110 - 1) == pytest.approx(1.0)
    assert lr.lr_at(19 * 110) == pytest.approx(closed_form(1))
    assert lr.lr_at(60 * 110 + 5) == pytest.approx(closed_form(60 - 18))
    assert lr.lr_at(119 * 110) == pytest.approx(0.2)  # the last epoch


@pytest.mark.parametrize("iters_per_epoch", [1, 7])
def test_cosine_after_a_warmup_by_epochs(iters_per_epoch):
    lr, _ = schedule(
        iters_per_epoch, SCHED="EpochWarmupCosineLR", WARMUP_ITERS=0, WARMUP_EPOCHS=20, WARMUP_FACTOR=0.0,
        MAX_EPOCH=300, ETA_MIN_LR=0.1,
    )  # fmt: skip
    rates = [lr.lr_at(epoch * iters_per_epoch) for epoch in range(300)]
    assert rates[:20] == pytest.approx([(epoch + 1) / 20 for epoch in range(20)])
    assert rates[20] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 280)) / 2)
    assert rates[159] == pytest.approx(0.55) and rates[-1] == pytest.approx(0.1)
    with pytest.raises(ConfigError, match="EpochWarmupCosineLR warms up by epochs .* set SOLVER.WARMUP_ITERS 0"):
        schedule(1, SCHED="EpochWarmupCosineLR", WARMUP_ITERS=5)


def test_linear_falls_evenly_to_the_last_epoch():
    ours, _ = schedule(5, SCHED="LinearLR", WARMUP_ITERS=0, DELAY_EPOCHS=4, MAX_EPOCH=20, ETA_MIN_LR=0.2)
    rates = [ours.lr_at(epoch * 5) for epoch in range(20)]
    assert rates[:4] == [1.0] * 4 and rates[-1] == pytest.approx(0.2)
    assert all(one - other == pytest.approx(0.8 / 16) for one, other in zip(rates[3:-1], rates[4:], strict=True))


def test_cosine_is_torch_s_stepped_per_epoch():
    ours, _ = schedule(5, SCHED="CosineAnnealingLR", WARMUP_ITERS=0, DELAY_EPOCHS=4, MAX_EPOCH=20, ETA_MIN_LR=0.1)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=16, eta_min=0.1)
    for epoch in range(20):
        assert ours.lr_at(epoch * 5) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if epoch + 1 >= 4:
            theirs.step()


def test_multi_step_counts_from_the_end_of_the_plateau():
    lr, _ = schedule(10, SCHED="MultiStepLR", WARMUP_ITERS=30, WARMUP_FACTOR=0.1, STEPS=[4, 7], GAMMA=0.5)
    at_epoch = [lr.lr_at(epoch * 10) for epoch in range(12)]
    # Epochs 0-2 warm up (plateau of 3); the curve has made k steps in epoch k + 2.
    assert at_epoch[3:6] == [1.0, 1.0, 1.0]
    assert at_epoch[6:9] == [0.5, 0.5, 0.5]
    assert at_epoch[9:] == [0.25, 0.25, 0.25]
    assert lr.lr_at(15) == pytest.approx(0.55)


def test_delay_longer_than_warmup():
    lr, _ = schedule(10, SCHED="MultiStepLR", WARMUP_ITERS=10, DELAY_EPOCHS=5, STEPS=[1], GAMMA=0.1)
    assert lr.lr_at(49) == 1.0
    assert lr.lr_at(50) == pytest.approx(0.1)


def test_sd_reid_stage_2_decays_at_absolute_epochs():
    lr, _ = schedule(
        100, SCHED="LinearWarmupMultiStepDecayLRScheduler", WARMUP_ITERS=1000, WARMUP_FACTOR=0.01,
        DECAY_EPOCHS=[50, 80], DECAY_RATE=0.1, STEPS=[1], DELAY_EPOCHS=30,
    )  # fmt: skip
    assert lr.lr_at(0) == pytest.approx(0.01)
    assert lr.lr_at(500) == pytest.approx(0.505)
    assert lr.lr_at(1000) == lr.lr_at(4999) == 1.0
    assert lr.lr_at(5000) == pytest.approx(0.1)
    assert lr.lr_at(8000) == pytest.approx(0.01)


def test_every_group_keeps_its_own_base_rate():
    lr, optimizer = schedule(10, lrs=(1.0, 3.0), SCHED="MultiStepLR", WARMUP_ITERS=10, WARMUP_FACTOR=0.1, STEPS=[2])
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.3])
    lr.set_iteration(15)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([1.0, 3.0])
    lr.set_iteration(30)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1, 0.3])


def test_state_is_the_iteration():
    first, _ = schedule(10, SCHED="CosineAnnealingLR", WARMUP_ITERS=5)
    first.set_iteration(333)
    second, optimizer = schedule(10, SCHED="CosineAnnealingLR", WARMUP_ITERS=5)
    optimizer.param_groups[0]["lr"] = 77.0  # as loading the optimiser's state does
    second.load_state_dict(first.state_dict())
    assert optimizer.param_groups[0]["lr"] == first.lr_at(333)


@pytest.mark.parametrize("sched", ["MultiStepLR", "CosineAnnealingLR", "LinearLR"])
def test_warmup_longer_than_training_or_one_epoch(sched):
    lr, _ = schedule(2, SCHED=sched, WARMUP_ITERS=1000, WARMUP_FACTOR=0.0, MAX_EPOCH=1)
    assert lr.lr_at(1) == pytest.approx(0.001)


def test_errors():
    with pytest.raises(RegistryError, match="did you mean 'CosineAnnealingLR'"):
        schedule(1, SCHED="CosineAnealing")
    with pytest.raises(ValueError, match="WARMUP_METHOD 'linaer'; did you mean 'linear'"):
        schedule(1, WARMUP_METHOD="linaer")
    with pytest.raises(ValueError, match="must be linear, not 'exp'"):
        schedule(1, SCHED="LinearWarmupMultiStepDecayLRScheduler", WARMUP_METHOD="exp")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        LRSchedule(
            torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0),
            warmup=Warmup(0, 0.1), curve=lambda lr, epoch: lr, iters_per_epoch=0,
        )  # fmt: skip
