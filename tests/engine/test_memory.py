"""What a dry run says about memory: counted on tensors without values, as it would be on real ones."""

import contextlib

import pytest
import torch
from torch import nn

from fastreid.config import with_values
from fastreid.engine import memory
from fastreid.engine.memory import (
    Needs,
    StepPeak,
    bytes_of,
    evaluation_peak,
    memory_summary,
    optimizer_bytes,
    step_peak,
)
from fastreid.modeling.epoch_task import EpochTask
from fastreid.solver.ema import WeightAverage
from fastreid.utils.live_bytes import LiveBytes
from tests.engine.toys import ToyModel, ToyTrainer, toy_cfg


class Chain(nn.Module):
    """Activations that each save their result."""

    def __init__(self, length):
        super().__init__()
        self.scale, self.length = nn.Parameter(torch.ones(())), length

    def forward(self, batch):
        x = batch["images"] * self.scale
        for _ in range(self.length):
            x = x.tanh()
        return {"loss": x.sum()} if self.training else x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 500)

    def forward(self, batch):
        x = self.head(self.norm(self.conv(batch["images"])).relu().mean((2, 3)))
        return {"loss": x.float().square().mean()} if self.training else x


def test_saved_activations_are_counted_in_training_only():
    batch = {"images": torch.zeros(50, 20)}
    size = batch["images"].nbytes
    for length in (3, 30):
        assert (length + 2) * size <= step_peak(Chain(length), batch).all <= (length + 5) * size
        peak, dim = evaluation_peak(Chain(length), batch)
        assert 2 * size <= peak <= 4 * size and dim == 20


@pytest.mark.parametrize("autocast", [contextlib.nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_a_step_without_values_needs_what_a_real_one_does(autocast):
    batch, model = {"images": torch.randn(6, 3, 20, 12)}, Net()
    with LiveBytes([*model.parameters(), *model.buffers()]) as count:
        count.add(batch["images"])
        with autocast():
            losses = model(batch)
        for parameter in model.parameters():
            parameter.register_hook(count.mark_gradient)
        torch.autograd.grad(sum(losses.values()), list(model.parameters()))
    found = step_peak(model, batch, autocast)  # bfloat16: a few bytes differ in the gradient of a mean
    assert (found.all, found.others) == pytest.approx((count.peak, count.peak_without_gradients), rel=1e-3)


def test_gradients_are_counted_apart_when_they_are_computed():
    model = nn.Sequential(*(nn.Linear(300, 300) for _ in range(4)))
    size = model[0].weight.nbytes
    model.forward = lambda batch: {"loss": nn.Sequential.forward(model, batch["images"]).sum()}
    found = step_peak(model, {"images": torch.zeros(2, 300)})
    assert 4 * size < found.all < 4.5 * size and size < found.others < 1.5 * size


def test_values_that_python_reads_do_not_stop_the_count():
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("number", torch.tensor(3))

        def forward(self, batch):
            x = self.layer(batch["images"])
            rows = x[x.sum(1) > 0], x[(x > 0).nonzero()[:, 0]], x[batch["targets"].bincount(minlength=2)]
            scale = 1 + x.mean().item() + float(bool((x > 2).any())) + int(self.number)
            return {"loss": sum(part.sum() for part in rows) * scale * self.number.item()}

    batch = {"images": torch.zeros(8, 4), "targets": torch.zeros(8, dtype=torch.int64)}
    assert step_peak(Reading(), batch).all > 5 * 8 * 4 * 4


def test_gradients_stay_while_a_batch_passes_in_parts():
    needs = Needs(weights=100, gradients=40, optimizer=80, average=10, step=StepPeak(70, 65))
    assert needs.total == 100 + 80 + 10 + 70
    assert Needs(100, 90, 80, 10, StepPeak(70, 65)).total == 100 + 80 + 10 + 90
    assert Needs(100, 40, 80, 10, StepPeak(70, 65), parts=2).total == 100 + 80 + 10 + 40 + 65


@pytest.mark.parametrize(
    ("name", "options", "share"), [("AdamW", {"fused": True}, 2), ("SGD", {"momentum": 0.9}, 1), ("SGD", {}, 0)]
)
def test_the_state_of_an_optimiser(name, options, share):
    model = nn.Linear(300, 300)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, **options)
    assert optimizer_bytes(optimizer) == pytest.approx(share * bytes_of(model.parameters()), rel=0.01)


def test_the_average_is_counted_before_it_is_made():
    model = ToyModel(4).requires_grad_(False)
    model.embed.requires_grad_(True)
    average = WeightAverage(model, momentum=0.9, warmup=False)
    assert average.nbytes == bytes_of([*model.embed.parameters(), *model.buffers()])


def test_the_summary_compares_with_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resolve_device", lambda name: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some card")
    for there, answer in ((8 * 2**30, "8.0 GiB has enough"), (2**29, "512.0 MiB has too little: raise SOLVER.ACC")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, there=there: (0, there))
        text = memory_summary(ToyTrainer(toy_cfg(tmp_path)))
        assert f"Some card with {answer}" in text and "tensors of 8 and 64 images" in text and "not known" not in text


def test_the_images_are_those_of_a_batch_that_was_fitted(tmp_path, caplog):
    # The toy's loader has batches of 8, as a loader that fits its batches to few people may have.
    trainer = ToyTrainer(with_values(toy_cfg(tmp_path), {"DATASETS.TESTS": [], "SOLVER.IMS_PER_BATCH": 640}))
    text = memory_summary(trainer)
    assert "tensors of 8 images" in text and "DATASETS.TESTS is empty: nothing is evaluated" in text
    assert "evaluation " not in text and "not known" not in text
    assert "not known: " not in caplog.text


def test_a_model_that_cannot_run_without_values_stops_nothing(tmp_path, monkeypatch, caplog):
    trainer = ToyTrainer(toy_cfg(tmp_path))
    monkeypatch.setattr(trainer.bare_model, "forward", lambda batch: batch["images"].numpy())
    text = memory_summary(trainer)
    assert text.count("not known") == 4 and "parameters and buffers" in text
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(" is not known: ")[0] for line in said] == [
        "the memory of a training step", "the memory of an evaluation"
    ]  # fmt: skip


class Prepare(EpochTask):
    """Without it the step cannot be computed."""

    def __init__(self, model):
        self.model, self.shape = model, None

    def is_due(self, epoch):
        return True

    def run(self, training_set):
        raise AssertionError("a dry run computes nothing")

    def rehearse(self, training_set, shape_of):
        self.shape = shape_of(lambda batch: batch["images"].flatten(1), training_set.batches(training_set.images))
        self.model.rows = torch.zeros(len(training_set.images), self.shape[1])


def test_results_of_epoch_tasks_are_made_up(tmp_path, monkeypatch, caplog):
    trainer = ToyTrainer(with_values(toy_cfg(tmp_path), {"DATASETS.TESTS": []}))
    task, forward = Prepare(trainer.bare_model), trainer.bare_model.forward

    def needing_rows(batch):
        losses = forward(batch)
        return {name: loss + trainer.bare_model.rows.sum() for name, loss in losses.items()}

    monkeypatch.setattr(trainer.bare_model, "epoch_tasks", lambda: [task], raising=False)
    monkeypatch.setattr(trainer.bare_model, "forward", needing_rows)
    monkeypatch.setattr(memory, "interface_of", lambda model: model)
    assert "not known" not in memory_summary(trainer) and "not known" not in caplog.text
    assert task.shape[0] == 2  # images that were computed
