"""Epoch tasks with the loader of `build_reid_train_loader`: files, workers, and a model with two views of a sample."""

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from fastreid.data.transforms import build_transforms
from fastreid.engine import DefaultTrainer
from fastreid.modeling import META_ARCH_REGISTRY, ReidModel
from fastreid.modeling.epoch_task import EpochPlan, EpochTask
from fastreid.utils.checkpoint import read_checkpoint
from tests.engine.test_epoch_tasks import StopAt
from tests.engine.toys import toy_cfg, train

PEOPLE, EACH = 4, 4


class Regroup(EpochTask):
    """Before each epoch, half of the images in the order of a feature get labels by it; the others are not drawn."""

    def __init__(self, model):
        self.model = model

    def is_due(self, epoch):
        return True

    def run(self, training_set):
        values = torch.cat([self.model(batch)[:, 0] for batch in training_set.batches(training_set.images)])
        ranks = values.argsort().argsort()
        return EpochPlan(torch.where(ranks < 8, ranks // 2 % PEOPLE, -1).tolist())


class TwoViews(ReidModel):
    """A linear model on mean colours of two views of a sample."""

    def __init__(self, cfg):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(6, 5)
        self.classifier = nn.Linear(5, PEOPLE)

    @classmethod
    def image_transforms(cls, cfg, *, is_train):
        return {"small_images": build_transforms(cfg, is_train=is_train)}

    def forward(self, batch):
        colours = [batch[name].mean(dim=(2, 3)) / 255 for name in ("images", "small_images")]
        features = self.embed(torch.cat(colours, dim=1))
        if not self.training:
            return features
        return {"loss_identity": F.cross_entropy(self.classifier(F.dropout(features)), batch["targets"])}

    def epoch_tasks(self):
        return (Regroup(self),)


@pytest.fixture
def keys(tmp_path):
    """Config keys of a small data set; its two first images of each person are the query."""
    generator = torch.Generator().manual_seed(0)
    lines = ["path,person,camera,split"]
    for number in range(PEOPLE * EACH):
        colour = tuple(torch.randint(256, (3,), generator=generator).tolist())
        Image.new("RGB", (8, 16), colour).save(tmp_path / f"{number:02d}.png")
        for split in ("train", "gallery" if number % EACH else "query"):
            lines.append(f"{number:02d}.png,{number // EACH},{number % EACH},{split}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    META_ARCH_REGISTRY.register(TwoViews)
    yield {
        "DATASETS__ROOT": str(tmp_path), "DATASETS__NAMES": ("csv:own.csv",), "DATASETS__TESTS": ("csv:own.csv",),
        "MODEL__META_ARCHITECTURE": "TwoViews", "MODEL__BACKBONE__PRETRAIN": False,
        "INPUT__SIZE_TRAIN": [16, 8], "INPUT__SIZE_TEST": [16, 8], "INPUT__REA__ENABLED": True,
        "DATALOADER__SAMPLER_TRAIN": "NaiveIdentitySampler", "DATALOADER__NUM_INSTANCE": 2,
        "SOLVER__IMS_PER_BATCH": 4, "SOLVER__MAX_EPOCH": 3,
    }  # fmt: skip
    del META_ARCH_REGISTRY._objects["TwoViews"]


def stopping_at(iteration):
    class Stopped(DefaultTrainer):
        def build_hooks(self):
            return [*super().build_hooks(), StopAt(iteration, self.iters_per_epoch)]

    return Stopped


@pytest.mark.parametrize(("num_workers", "iteration"), [(0, 5), (2, 6), (2, 8)])
def test_a_relabelled_run_that_is_resumed_equals_the_whole(tmp_path, keys, num_workers, iteration):
    whole = train(toy_cfg(tmp_path / "whole", DATALOADER__NUM_WORKERS=0, **keys), trainer_class=DefaultTrainer)
    assert set(whole.results["csv:own.csv"]) > {"mAP"}
    cfg = toy_cfg(tmp_path / "parts", DATALOADER__NUM_WORKERS=num_workers, **keys)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, trainer_class=stopping_at(iteration))
    resumed = train(cfg, resume=True, trainer_class=DefaultTrainer)
    assert resumed.start_iter == iteration and whole.iters_per_epoch == 4
    before, after = (read_checkpoint(tmp_path / folder / "model_final.pth") for folder in ("whole", "parts"))
    assert all(torch.equal(value, after["model"][name]) for name, value in before["model"].items())
    assert torch.equal(before["epoch_tasks"]["labels"], after["epoch_tasks"]["labels"])
    assert before["epoch_tasks"]["labels"].min() == -1


def test_an_evaluator_of_a_project_gets_all_views(tmp_path, keys):
    """`build_evaluator` of a subclass evaluates each protocol by itself, as in fast-reid."""

    class OwnEvaluator(DefaultTrainer):
        @classmethod
        def build_evaluator(cls, cfg, dataset_name, output_dir=None):
            return super().build_evaluator(cfg, dataset_name, output_dir)

    cfg = toy_cfg(tmp_path, DATALOADER__NUM_WORKERS=0, TEST__FLIP__ENABLED=True, **keys)
    model = TwoViews(cfg)
    assert OwnEvaluator.test(cfg, model)["csv:own.csv"]["mAP"] == DefaultTrainer.test(cfg, model)["csv:own.csv"]["mAP"]
