"""Epoch tasks: when they run, what they may change, and that a resumed run does not repeat them."""

from itertools import cycle, islice

import pytest
import torch
from torch.utils.data import DataLoader, Sampler

from fastreid.config import ConfigError
from fastreid.engine import HookBase
from fastreid.engine.trainer_base import progress_of
from fastreid.modeling import ReidModel
from fastreid.modeling.epoch_task import EpochPlan, EpochTask
from fastreid.utils import comm
from fastreid.utils.checkpoint import read_checkpoint
from tests.engine.toys import (
    ITERS_PER_EPOCH,
    PEOPLE,
    ToyImages,
    ToyModel,
    ToySampler,
    ToyTrainer,
    toy_cfg,
    toy_images,
    train,
)

BATCH = 8


class Relabelled(ToyImages):
    """Toy images whose labels can be replaced."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "targets": self.labels[index]}


class PlannedSampler(Sampler):
    """The toy's order until a plan comes."""

    def __init__(self, size):
        self.toy, self.order, self.begins = ToySampler(size, BATCH), None, 0

    def set_order(self, order, num_batches):
        self.order, self.begins = order, num_batches
        self.fast_forward(num_batches)

    def fast_forward(self, num_batches):
        self.toy.fast_forward(num_batches)
        self.skip = (num_batches - self.begins) * BATCH

    def __iter__(self):
        if self.order is None:
            return iter(self.toy)
        mine = self.order[comm.get_rank() :: comm.get_world_size()]
        return islice(cycle(mine), self.skip, None)


class PlannedLoader(DataLoader):
    """A loader that follows plans, as that of `build_reid_train_loader`."""

    iters_per_epoch = ITERS_PER_EPOCH

    def set_plan(self, *, labels, order, num_batches):
        if labels is not None:
            self.dataset.labels = list(labels)
        self.sampler.set_order(order, num_batches)


class Cluster(EpochTask):
    """New labels by quartiles of a feature before each epoch but the first; before odd epochs also a new order."""

    def __init__(self, model):
        self.model, self.rounds, self.epochs, self.written = model, 0, [], None

    def is_due(self, epoch):
        self.epoch = epoch
        return epoch > 0

    def run(self, training_set):
        assert not self.model.training and not torch.is_grad_enabled()
        self.rounds += 1
        self.epochs.append(self.epoch)
        values = torch.cat([self.model(batch)[:, 0] for batch in training_set.batches(training_set.images)])
        self.model.mean.copy_(values.mean())
        self.model.cached.copy_(values.max())
        ranks = values.argsort().argsort()
        labels = ((ranks * PEOPLE // len(ranks) + self.rounds) % PEOPLE).tolist()
        return EpochPlan(labels, ranks.argsort().tolist()[:-1] if self.epoch % 2 else None)

    def after_training(self, training_set, folder):
        assert not self.model.training and not torch.is_grad_enabled()
        self.written = folder, self.model.embed.weight.clone(), list(training_set.people)

    def state_dict(self):
        return {"rounds": self.rounds, "order": torch.tensor(self.epochs)}

    def load_state_dict(self, state):
        self.rounds, self.epochs = state["rounds"], state["order"].tolist()


class ClusteredModel(ToyModel, ReidModel):
    """A toy with one task."""

    make_tasks = (Cluster,)

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("cached", torch.zeros(()), persistent=False)
        self.targets = []

    def forward(self, batch):
        if self.training:
            self.targets.append(batch["targets"].tolist())
        return super().forward(batch)

    def epoch_tasks(self):
        self.tasks = [make(self) for make in self.make_tasks]
        return self.tasks


class Clustered(ToyTrainer):
    stop_at = None

    @classmethod
    def build_model(cls, cfg):
        torch.manual_seed(0)
        return ClusteredModel(PEOPLE)

    @classmethod
    def build_train_loader(cls, cfg):
        images = toy_images()
        return PlannedLoader(Relabelled(images), batch_size=BATCH, sampler=PlannedSampler(len(images)))

    def build_hooks(self):
        return [*super().build_hooks(), StopAt(self.stop_at)]


class StopAt(HookBase):
    """Saves the run after an iteration, as a signal does, and stops it."""

    def __init__(self, iteration, iters_per_epoch=ITERS_PER_EPOCH):
        self.iteration, self.iters_per_epoch = iteration, iters_per_epoch

    def between_steps(self):
        trainer = self.trainer
        if trainer.iter == self.iteration:
            values = progress_of(trainer) | {"epoch": trainer.iter // self.iters_per_epoch - 1}
            trainer.checkpointer.save("model_interrupted", **values)
            raise KeyboardInterrupt


def stopped(cfg, iteration):
    class Stopped(Clustered):
        stop_at = iteration

    with pytest.raises(KeyboardInterrupt):
        train(cfg, trainer_class=Stopped)


def assert_same(one, other):
    ours, theirs = (trainer.checkpointer.save_dir / "model_final.pth" for trainer in (one, other))
    ours, theirs = (read_checkpoint(path) for path in (ours, theirs))
    for name, value in ours["model"].items():
        assert torch.equal(value, theirs["model"][name]), name
    for number, state in ours["optimizer"]["state"].items():
        assert torch.equal(state["momentum_buffer"], theirs["optimizer"]["state"][number]["momentum_buffer"])
    assert torch.equal(ours["epoch_tasks"]["labels"], theirs["epoch_tasks"]["labels"])


def test_a_task_gives_labels_and_order_from_its_epoch_on(tmp_path):
    trainer = train(toy_cfg(tmp_path), trainer_class=Clustered)
    (task,) = trainer.bare_model.tasks
    assert task.epochs == [1, 2, 3] and trainer.bare_model.mean != 0
    targets = trainer.bare_model.targets
    assert len(targets) == 4 * ITERS_PER_EPOCH
    # Epoch 1: images in the order of their quartiles, which are numbered from the round on.
    drawn = [label for batch in targets[ITERS_PER_EPOCH : 2 * ITERS_PER_EPOCH] for label in batch][:-1]
    assert drawn == sorted(drawn, key=lambda label: (label - 1) % PEOPLE) and len(set(drawn)) == PEOPLE
    # Epoch 2 has labels and no order: the sampler draws again.
    drawn = [label for batch in targets[2 * ITERS_PER_EPOCH : 3 * ITERS_PER_EPOCH] for label in batch]
    assert drawn != sorted(drawn, key=lambda label: (label - 2) % PEOPLE)
    assert sorted(drawn) == sorted(label for label in range(PEOPLE) for _ in range(len(drawn) // PEOPLE))


@pytest.mark.parametrize("iteration", [1, 3, 4, 6, 7, 10])
def test_a_run_that_is_resumed_anywhere_equals_the_whole(tmp_path, iteration):
    whole = train(toy_cfg(tmp_path / "whole"), trainer_class=Clustered)
    cfg = toy_cfg(tmp_path / "parts")
    stopped(cfg, iteration)
    resumed = train(cfg, resume=True, trainer_class=Clustered)
    assert resumed.start_iter == iteration
    assert resumed.bare_model.tasks[0].epochs == [1, 2, 3]  # none twice
    assert_same(whole, resumed)


def test_old_checkpoints_have_no_state_of_tasks(tmp_path):
    """Their first epoch's tasks were done; later ones run."""
    cfg = toy_cfg(tmp_path)
    stopped(cfg, 4)
    path = tmp_path / "model_interrupted.pth"
    content = read_checkpoint(path)
    del content["epoch_tasks"]
    torch.save(content, path)
    resumed = train(cfg, resume=True, trainer_class=Clustered)
    assert resumed.start_iter == 4 and resumed.bare_model.tasks[0].epochs == [2, 3]


def test_a_plan_is_followed_from_the_first_iteration_if_epochs_are_shorter_now(tmp_path):
    """Its place in the run was counted in longer epochs."""
    stopped(toy_cfg(tmp_path), 9)

    class Shorter(Clustered):
        @classmethod
        def build_train_loader(cls, cfg):
            loader = super().build_train_loader(cfg)
            loader.iters_per_epoch = 1
            return loader

    resumed = train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=5), resume="anyway", trainer_class=Shorter)
    assert resumed.start_iter == 3 and resumed.iter == 5
    assert resumed.bare_model.tasks[0].epochs == [1, 2, 3, 4]


def test_averaged_weights_take_over_the_buffers_of_a_task(tmp_path):
    trainer = train(toy_cfg(tmp_path, SOLVER__EMA__ENABLED=True), trainer_class=Clustered)
    averaged = trainer.average.in_place_of(trainer.bare_model.state_dict())
    assert torch.equal(averaged["mean"], trainer.bare_model.mean)
    assert not torch.equal(averaged["embed.weight"], trainer.bare_model.embed.weight)


@pytest.mark.parametrize("averages", [False, True])
def test_tasks_write_after_training_with_the_weights_that_are_evaluated(tmp_path, averages):
    cfg = toy_cfg(tmp_path, SOLVER__EMA__ENABLED=averages)
    trainer = train(cfg, trainer_class=Clustered)
    final = read_checkpoint(tmp_path / "model_final.pth")["model"]
    folder, weight, people = trainer.bare_model.tasks[0].written
    assert folder == tmp_path and torch.equal(weight, final["embed.weight"])
    assert torch.equal(weight, trainer.bare_model.embed.weight) != averages
    assert people == [image.person for image in toy_images()] != trainer.loader.labels  # not the labels of the plans
    again = train(cfg, resume=True, trainer_class=Clustered)  # finished: it is written again
    assert torch.equal(again.bare_model.tasks[0].written[1], weight)


def test_tasks_write_nothing_if_a_run_stops_before(tmp_path):
    class Stopped(Clustered):
        stop_at = 12  # the last iteration

    trainer = Stopped(toy_cfg(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.iter == trainer.max_iter == 12 and trainer.bare_model.tasks[0].written is None


def test_a_model_without_tasks_has_no_state_of_them(tmp_path):
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=1))
    assert "epoch_tasks" not in read_checkpoint(tmp_path / "model_final.pth")


def test_what_tasks_need_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(ClusteredModel, "make_tasks", (Cluster, Cluster))
    with pytest.raises(ConfigError, match="must have different names, got Cluster, Cluster"):
        Clustered(toy_cfg(tmp_path))
    monkeypatch.setattr(ClusteredModel, "make_tasks", (Cluster,))

    class Fixed(Clustered):
        @classmethod
        def build_train_loader(cls, cfg):
            return ToyTrainer.build_train_loader(cfg)

    with pytest.raises(ConfigError, match=r"but DataLoader has no set_plan\(labels=…"):
        train(toy_cfg(tmp_path), trainer_class=Fixed)
    monkeypatch.delattr(ToyImages, "num_classes")
    monkeypatch.setattr(Relabelled, "__init__", lambda self, images: setattr(self, "num_classes", PEOPLE))
    with pytest.raises(ConfigError, match="which read the training images, but the data set"):
        Clustered(toy_cfg(tmp_path))
