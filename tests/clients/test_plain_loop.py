"""A training loop of a user, without a trainer: loader, optimiser, schedules, storage, writers, checkpoints."""

import json
import os

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.data import build_reid_test_loader, build_reid_train_loader
from fastreid.evaluation import ReidEvaluator, inference_on_dataset
from fastreid.evaluation.testing import flatten_results_dict, print_csv_format
from fastreid.modeling.meta_arch import build_model
from fastreid.solver import build_lr_scheduler, build_optimizer
from fastreid.utils import comm
from fastreid.utils.checkpoint import Checkpointer, PeriodicCheckpointer
from fastreid.utils.events import CommonMetricPrinter, EventStorage, JSONWriter, TensorboardXWriter, get_event_storage


def do_test(cfg, model):
    """Evaluate a model on every test set."""
    results = {}
    for name in cfg.DATASETS.TESTS:
        data_loader, num_query = build_reid_test_loader(cfg, dataset_name=name)
        results_i = inference_on_dataset(model, data_loader, ReidEvaluator(cfg, num_query), flip_test=False)
        results[name] = results_i
        results_i["dataset"] = name
        print_csv_format(results_i)
    return results[name] if len(results) == 1 else results


def do_train(cfg, model, resume=False, stop=None):
    """Train, and return the learning rate of each iteration."""
    data_loader = build_reid_train_loader(cfg)
    data_loader_iter = iter(data_loader)
    model.train()
    optimizer, param_wrapper = build_optimizer(cfg, model)
    assert param_wrapper is optimizer.param_groups
    iters_per_epoch = len(data_loader.dataset) // cfg.SOLVER.IMS_PER_BATCH
    scheduler = build_lr_scheduler(cfg, optimizer, iters_per_epoch)
    checkpointer = Checkpointer(
        model, cfg.OUTPUT_DIR, save_to_disk=comm.is_main_process(), optimizer=optimizer, **scheduler
    )
    start_epoch = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume).get("epoch", -1) + 1
    iteration = start_iter = start_epoch * iters_per_epoch
    max_epoch = cfg.SOLVER.MAX_EPOCH
    max_iter = max_epoch * iters_per_epoch
    periodic = PeriodicCheckpointer(checkpointer, cfg.SOLVER.CHECKPOINT_PERIOD, max_epoch)
    writers = [
        CommonMetricPrinter(max_iter),
        JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json")),
        TensorboardXWriter(cfg.OUTPUT_DIR),
    ]
    rates = []
    with EventStorage(start_iter) as storage:
        for epoch in range(start_epoch, max_epoch if stop is None else stop):
            storage.epoch = epoch
            for _ in range(iters_per_epoch):
                storage.iter = iteration
                loss_dict = model(next(data_loader_iter))
                losses = sum(loss_dict.values())
                reduced = {k: v.item() for k, v in comm.reduce_dict(loss_dict).items()}
                storage.put_scalars(total_loss=sum(reduced.values()), **reduced)
                get_event_storage().put_scalar("step", 1.0)
                optimizer.zero_grad()
                losses.backward()
                optimizer.step()
                rates.append(optimizer.param_groups[0]["lr"])
                storage.put_scalar("lr", rates[-1], smoothing_hint=False)
                iteration += 1
                if iteration <= cfg.SOLVER.WARMUP_ITERS:
                    scheduler["warmup_sched"].step()
            for writer in writers:
                writer.write()
            if iteration > cfg.SOLVER.WARMUP_ITERS and epoch + 1 > cfg.SOLVER.DELAY_EPOCHS:
                scheduler["lr_sched"].step()
            periodic.step(epoch, metric=float(epoch != 2))
    for writer in writers:
        writer.close()
    return rates


def test_a_plain_loop_trains_resumes_and_evaluates(cfg, tmp_path, caplog):
    cfg.MODEL.HEADS.NUM_CLASSES = 4
    model = build_model(cfg)
    before = model.backbone.conv1.weight.detach().clone()
    caplog.set_level("INFO", "fastreid")
    rates = do_train(cfg, model, stop=1)
    assert not torch.equal(model.backbone.conv1.weight, before)
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
    assert checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file().endswith("model_0000.pth")
    rates += do_train(cfg, build_model(cfg), resume=True)
    assert rates == pytest.approx(
        [0.001, 0.0055, 0.01, 0.01, 0.01, 0.01]
    )  # the first step of epochs is after the second
    logs = tmp_path / "logs"
    assert {path.name for path in logs.glob("*.pth")} == {
        *("model_best.pth", "model_final.pth", "model_0000.pth", "model_0001.pth"),
    }  # fmt: skip
    assert torch.load(logs / "model_best.pth", weights_only=True)["epoch"] == 1  # the best of the resumed run
    lines = [json.loads(line) for line in (logs / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 3, 5]
    assert all({"total_loss", "loss_cls", "loss_triplet", "lr", "step"} <= line.keys() for line in lines)
    assert lines[-1]["lr"] == rates[-1]
    assert list(logs.glob("events.out.tfevents.*")) and "epoch 2  iter 5/6  total_loss: " in caplog.text
    results = do_test(cfg, model)
    assert "dataset" not in results and "Market1501" in caplog.text
    flat = flatten_results_dict({"Market1501": results})
    assert flat["Market1501/metric"] == results["metric"]


@pytest.mark.parametrize(("warmup", "delay"), [(0, 0), (3, 0), (4, 0), (2, 2), (3, 3)])
def test_two_schedulers_have_the_rates_of_torch(cfg, warmup, delay):
    """Those of torch.optim.lr_scheduler in the same loop, times the warm-up."""
    keys = {"WARMUP_ITERS": warmup, "DELAY_EPOCHS": delay, "MAX_EPOCH": 8, "STEPS": [1, 3], "WARMUP_FACTOR": 0.1}
    cfg.merge_from_list([word for key, value in keys.items() for word in (f"SOLVER.{key}", value)])
    length = 8 - max(-(-warmup // 2), delay, 1)
    own = {
        "MultiStepLR": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 3], 0.1),
        "CosineAnnealingLR": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length, 1e-7),
    }
    for sched, make in own.items():
        cfg.SOLVER.SCHED = sched
        optimizer = build_optimizer(cfg, torch.nn.Linear(1, 1))
        scheduler = build_lr_scheduler(cfg, optimizer, 2)
        by_torch = make(torch.optim.SGD([torch.zeros(1)], 0.01))
        for iteration in range(1, 17):
            share = min((iteration - 1) / warmup, 1) if warmup else 1
            expected = by_torch.get_last_lr()[0] * (0.1 * (1 - share) + share)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
            if iteration <= warmup:
                scheduler["warmup_sched"].step()
            if iteration % 2 == 0 and iteration > warmup and iteration // 2 > delay:
                scheduler["lr_sched"].step()
                by_torch.step()
    assert ("warmup_sched" in dict(**scheduler)) is bool(warmup)
    with pytest.raises(KeyError, match="no 'sched'"):
        scheduler["sched"]


def test_a_schedule_of_all_epochs_is_not_stepped(cfg):
    cfg.SOLVER.SCHED = "LinearWarmupMultiStepDecayLRScheduler"
    scheduler = build_lr_scheduler(cfg, build_optimizer(cfg, torch.nn.Linear(1, 1)), 2)
    with pytest.raises(ConfigError, match="call set_iteration"):
        scheduler["lr_sched"]


def test_flat_buffers_are_refused(cfg):
    with pytest.raises(ConfigError, match="contiguous=True"):
        build_optimizer(cfg, torch.nn.Linear(1, 1), contiguous=True)
