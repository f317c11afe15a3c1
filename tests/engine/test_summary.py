"""Tables of a dry run."""

import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.engine.summary import model_summary, schedule_summary
from fastreid.solver import build_lr_scheduler


def rows(table):
    return [line.split() for line in table.splitlines()]


def test_model_parts_and_totals():
    model = nn.Module()
    model.person = nn.Module()
    model.person.backbone = nn.Linear(999, 1).requires_grad_(False)
    model.person.neck = nn.Linear(9, 1)
    model.dropout = nn.Dropout()
    table = rows(model_summary(model))
    assert ["person", "1,010", "10"] in table
    assert ["person.backbone", "1,000", "0"] in table
    assert table[-1] == ["total", "1,010", "10"]
    assert not any("dropout" in row for row in table)


def summary(iters_per_epoch, **solver):
    cfg = get_cfg()
    for key, value in {"BASE_LR": 1.0, **solver}.items():
        cfg.SOLVER[key] = value
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule = build_lr_scheduler(cfg, optimizer, iters_per_epoch)
    return schedule_summary(schedule, max_epoch=cfg.SOLVER.MAX_EPOCH, iters_per_epoch=iters_per_epoch)


def test_steps_are_shown_where_they_happen():
    text = summary(10, MAX_EPOCH=20, WARMUP_ITERS=20, WARMUP_FACTOR=0.1, STEPS=[5, 10])
    assert text.startswith("20 epochs of 10 iterations, 200 in all")
    assert rows(text)[3:-1] == [
        ["1", "0", "0.1"],
        ["3", "20", "1"],
        ["7", "60", "0.1"],
        ["12", "110", "0.01"],
        ["20", "199", "0.01"],
    ]
    assert text.endswith("\nThe highest rate is 1, first in iteration 20 (epoch 3).")


def test_a_smooth_curve_is_shown_at_quarters_and_its_end():
    text = summary(10, SCHED="CosineAnnealingLR", MAX_EPOCH=100, WARMUP_ITERS=0, ETA_MIN_LR=1e-3)
    table = rows(text)[3:-1]
    assert [row[0] for row in table] == ["1", "26", "51", "76", "100"]
    assert table[-1] == ["100", "999", "0.001"]


def test_warmup_longer_than_training():
    text = summary(1, MAX_EPOCH=2, WARMUP_ITERS=100, WARMUP_FACTOR=0.0)
    assert rows(text)[3:-1] == [["1", "0", "0"], ["2", "1", "0.01"]]
    assert text.endswith("\nThe highest rate is 0.01, first in iteration 1 (epoch 2).")
