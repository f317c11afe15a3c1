"""A batch in parts gives the update of the whole batch."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastreid.config import ConfigError, get_cfg
from fastreid.engine import SimpleTrainer
from fastreid.engine.accumulation import accumulation_steps, split_batch
from tests.engine.toys import ToyTrainer, toy_cfg, train


class Classifier(nn.Module):
    """No batch norm; two mean losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.sizes, self.silent = [], 0

    def forward(self, batch):
        self.sizes.append(len(batch["images"]))
        logits = self.layers(batch["images"])
        return {"loss_ce": F.cross_entropy(logits, batch["targets"]), "loss_norm": logits.square().mean()}

    @contextlib.contextmanager
    def no_sync(self):
        """As DistributedDataParallel's."""
        self.silent += 1
        yield


def batches():
    generator = torch.Generator().manual_seed(1)
    while True:
        yield {
            "images": torch.randn(12, 4, generator=generator),
            "targets": torch.randint(3, (12,), generator=generator),
            "img_paths": [str(n) for n in range(12)],
        }


def trained(steps, **options):
    model = Classifier()
    trainer = SimpleTrainer(
        model, batches(), torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9),
        accumulation_steps=steps, **options,
    )  # fmt: skip
    trainer.train(0, 1, 5)
    return trainer


@pytest.mark.parametrize("clip", [None, lambda parameters, norm: nn.utils.clip_grad_norm_(parameters, 0.1)])
@pytest.mark.parametrize("steps", [2, 3, 12])
def test_parts_equal_the_whole(steps, clip):
    whole, parts = trained(1, clip_gradients=clip), trained(steps, clip_gradients=clip)
    assert parts.model.sizes == [12 // steps] * 5 * steps and parts.iter == whole.iter == 5
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(parts.model.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    expected, found = whole.storage.pop_means(), parts.storage.pop_means()
    for name in ("loss_ce", "loss_norm", "total_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


def test_the_loss_scaler_sees_one_update():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5)
    parts, whole = trained(3, scaler=scaler), trained(1)
    assert scaler.get_scale() == 2.0**11
    torch.testing.assert_close(parts.model.layers[0].weight, whole.model.layers[0].weight)


def test_processes_exchange_gradients_once_per_update():
    assert trained(3).model.silent == 5 * 2 and trained(1).model.silent == 0


def test_what_is_not_of_an_image_is_in_each_part():
    table = torch.ones(5, 2)
    first, second = split_batch({"images": torch.arange(4), "paths": list("abcd"), "table": table, "epoch": 3}, 2)
    assert first["images"].tolist() == [0, 1] and second["paths"] == ["c", "d"]
    assert first["table"] is second["table"] is table and second["epoch"] == 3
    with pytest.raises(ConfigError, match="a batch of 5 images does not divide into SOLVER.ACCUMULATION_STEPS=2"):
        split_batch({"images": torch.ones(5)}, 2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["SOLVER.ACCUMULATION_STEPS", 5], "IMS_PER_BATCH=64, the images of one update, must divide over 1 processes"),
        (
            ["SOLVER.ACCUMULATION_STEPS", 32, "DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler"],
            "leaves 2 images a part, which would divide the DATALOADER.NUM_INSTANCE=4 images of a person",
        ),
    ],
)
def test_what_does_not_divide_is_refused(keys, message):
    cfg = get_cfg()
    cfg.merge_from_list(keys)
    with pytest.raises(ConfigError, match=message):
        accumulation_steps(cfg)


def test_a_run_in_parts_is_resumed_to_the_same_bits(tmp_path):
    whole = train(toy_cfg(tmp_path / "whole", SOLVER__ACCUMULATION_STEPS=2))
    train(toy_cfg(tmp_path / "parts", SOLVER__ACCUMULATION_STEPS=2))
    (tmp_path / "parts/last_checkpoint").write_text("model_0001.pth")
    resumed = train(toy_cfg(tmp_path / "parts", SOLVER__ACCUMULATION_STEPS=2), resume=True)
    assert resumed.start_iter == 6 and resumed.iter == whole.iter == 12
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, resumed.bare_model.state_dict()[name]), name
    assert isinstance(resumed, ToyTrainer) and whole.accumulation_steps == 2
