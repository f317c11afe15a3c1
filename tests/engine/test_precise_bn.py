"""Batch norm statistics of many batches: exact, and nothing else changes."""

import random

import pytest
import torch
from torch import nn

from fastreid.config import ConfigError
from fastreid.data.datasets import DatasetError
from fastreid.engine.precise_bn import PreciseBN, update_statistics
from fastreid.utils.checkpoint import read_checkpoint
from tests.engine.toys import ToyModel, ToyTrainer, toy_cfg, train


class Net(nn.Module):
    """A batch norm on images, one behind it, one that is frozen, dropout, and a counter."""

    def __init__(self):
        super().__init__()
        self.first, self.frozen = nn.BatchNorm2d(3), nn.BatchNorm2d(3).eval()
        self.last = nn.BatchNorm1d(3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch):
        self.calls += 1
        maps = self.frozen(self.first(batch["images"]))
        return self.last(nn.functional.dropout(maps, 0.3).amax((2, 3)))


def batches(sizes=(5, 8, 2)):
    torch.manual_seed(3)
    return [{"images": 50 * torch.rand(size, 3, 4, 2) + 1000} for size in sizes]


def test_they_are_those_of_all_values_together():
    net, shown = Net(), batches()
    names = update_statistics(net, shown)
    values = torch.cat([batch["images"] for batch in shown]).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(net.first.running_mean.double(), values.mean(1), rtol=1e-6, atol=0)
    torch.testing.assert_close(net.first.running_var.double(), values.var(1), rtol=1e-5, atol=0)
    assert names == [f"{layer}.running_{kind}" for layer in ("first", "last") for kind in ("mean", "var")]


def test_nothing_else_moves():
    net = Net()
    random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), torch.rand(2).tolist()
    random.seed(1)
    torch.manual_seed(1)
    shown = batches()
    torch.manual_seed(1)
    update_statistics(net, shown)
    assert (random.random(), torch.rand(2).tolist()) == expected
    assert net.calls == 0 and net.first.num_batches_tracked == 0
    assert torch.equal(net.frozen.running_mean, torch.zeros(3))


def pbn_cfg(folder, **keys):
    keys = {"TEST__PRECISE_BN__ENABLED": True, "TEST__PRECISE_BN__NUM_ITER": 3, **keys}
    return toy_cfg(folder, TEST__PRECISE_BN__DATASET="", **keys)


@pytest.mark.parametrize("ema", [False, True])
def test_the_last_checkpoint_and_evaluation_have_them(tmp_path, ema):
    trainer = train(pbn_cfg(tmp_path / "pbn", SOLVER__EMA__ENABLED=ema, SOLVER__EMA__MOMENTUM=0.5))
    plain = train(toy_cfg(tmp_path / "plain"))
    for name, value in plain.bare_model.named_parameters():
        assert torch.equal(value, trainer.bare_model.get_parameter(name)), name
    final = read_checkpoint(tmp_path / "pbn/model_final.pth")
    model = ToyModel(4)
    model.load_state_dict(final["model"])
    with torch.no_grad():  # three batches are the whole data
        features = model.embed(
            torch.stack([item["images"] for item in map(trainer.data_loader.dataset.__getitem__, range(24))])
        )
    torch.testing.assert_close(final["model"]["neck.running_mean"], features.mean(0))
    torch.testing.assert_close(final["model"]["neck.running_var"], features.var(0))
    earlier = [read_checkpoint(tmp_path / run / "model_0002.pth")["model"] for run in ("pbn", "plain")]
    assert ema or torch.equal(*(state["neck.running_mean"] for state in earlier))
    raw = final["average"]["raw"] if ema else final["model"]
    assert torch.equal(raw["neck.running_mean"], plain.bare_model.neck.running_mean) is ema


def test_a_resumed_run_ends_with_the_same_ones(tmp_path):
    whole = train(pbn_cfg(tmp_path / "whole"))
    train(pbn_cfg(tmp_path / "parts"))
    (tmp_path / "parts/last_checkpoint").write_text("model_0002.pth")
    parts = train(pbn_cfg(tmp_path / "parts"), resume=True)
    assert torch.equal(whole.bare_model.neck.running_mean, parts.bare_model.neck.running_mean)
    assert whole.results == parts.results


class Picky(ToyTrainer):
    """Reads only what it knows."""

    asked: list = []

    @classmethod
    def build_train_loader(cls, cfg):
        cls.asked.append(cfg.DATASETS.NAMES)
        if "Nowhere" in cfg.DATASETS.NAMES:
            raise DatasetError("no images in Nowhere")
        return super().build_train_loader(cfg)


def test_the_data_set_is_the_one_that_is_named(tmp_path, caplog):
    for name, expected in (("", ("Market1501",)), ("Other", ("Other",))):
        Picky(toy_cfg(tmp_path, TEST__PRECISE_BN__ENABLED=True, TEST__PRECISE_BN__DATASET=name))
        assert Picky.asked[-1] == expected
    assert "statistics will be those of Other, which is not a training set" in caplog.text
    with pytest.raises(
        ConfigError, match=r"PRECISE_BN.DATASET is 'Nowhere' \(\"\" is the training set\): no images in"
    ):
        Picky(toy_cfg(tmp_path, TEST__PRECISE_BN__ENABLED=True, TEST__PRECISE_BN__DATASET="Nowhere"))


def test_frozen_layers_keep_theirs_and_a_model_of_none_but_those_is_told(tmp_path, caplog):
    trainer = train(pbn_cfg(tmp_path, MODEL__FREEZE_LAYERS="['neck']", SOLVER__FREEZE_ITERS=-1))
    assert torch.equal(trainer.bare_model.neck.running_mean, torch.zeros(6))
    assert "PRECISE_BN changed nothing: all batch norms of the model are frozen" in caplog.text


def test_mistakes_are_found_before_training(tmp_path):
    class NoNorm(ToyTrainer):
        @classmethod
        def build_model(cls, cfg):
            return nn.Linear(2, 2)

    with pytest.raises(ConfigError, match="PRECISE_BN is enabled, but Linear has no batch norm"):
        NoNorm(pbn_cfg(tmp_path))
    with pytest.raises(ConfigError, match="NUM_ITER must be 1 or more, got 0"):
        ToyTrainer(pbn_cfg(tmp_path, TEST__PRECISE_BN__NUM_ITER=0))
    with pytest.raises(ConfigError, match="NUM_ITER is a number of batches, 1 or more, got 0"):
        PreciseBN(nn.BatchNorm1d(2), [], 0)
