"""Training without person labels: a model that clusters for itself, from the command line, resumed, and refused."""

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from fastreid.config import ConfigError, get_cfg
from fastreid.engine import DefaultTrainer
from fastreid.modeling import META_ARCH_REGISTRY, ReidModel
from fastreid.modeling.epoch_task import EpochPlan, EpochTask
from fastreid.modeling.model import needs_labels_of
from fastreid.utils.checkpoint import read_checkpoint
from tests.engine.test_epoch_plans import stopping_at
from tests.engine.toys import toy_cfg, train
from tests.miniature import run_tool

IMAGES, CLUSTERS = 16, 4


class Cluster(EpochTask):
    """Before each epoch, labels by quartiles of brightness; the darkest image belongs to none."""

    def __init__(self):
        self.found = []

    def is_due(self, epoch):
        return True

    def run(self, training_set):
        self.found.append(list(training_set.labels))
        batches = training_set.batches(training_set.images)
        brightness = torch.cat([batch["images"].mean(dim=(1, 2, 3)) for batch in batches])
        ranks = brightness.argsort().argsort()
        return EpochPlan(torch.where(ranks == 0, -1, ranks * CLUSTERS // IMAGES).tolist())


class Unsupervised(ReidModel):
    """A linear model on mean colours."""

    needs_labels = False

    def __init__(self, cfg):
        super().__init__()
        torch.manual_seed(0)
        self.num_classes = cfg.MODEL.HEADS.NUM_CLASSES
        self.task = Cluster()
        self.classifier = nn.Linear(3, CLUSTERS)

    def forward(self, batch):
        colours = batch["images"].mean(dim=(2, 3)) / 255
        if not self.training:
            return colours
        return {"loss_cluster": F.cross_entropy(self.classifier(F.dropout(colours)), batch["targets"])}

    def epoch_tasks(self):
        return (self.task,)


@pytest.fixture
def keys(tmp_path):
    """Config keys of a folder of images; `people.csv` has the same images with people."""
    (tmp_path / "frames").mkdir()
    lines = ["path,person,camera,split"]
    for number in range(IMAGES):
        Image.new("RGB", (8, 16), (15 * number, 40, 90)).save(tmp_path / f"frames/{number:02d}.png")
        for split in ("train", "gallery" if number % 2 else "query"):
            lines.append(f"frames/{number:02d}.png,{number // 8},{number},{split}")
    (tmp_path / "people.csv").write_text("\n".join(lines))
    META_ARCH_REGISTRY.register(Unsupervised)
    yield {
        "DATASETS__ROOT": str(tmp_path), "DATASETS__NAMES": ("folder:frames",), "DATASETS__TESTS": ("csv:people.csv",),
        "MODEL__META_ARCHITECTURE": "Unsupervised", "MODEL__BACKBONE__PRETRAIN": False,
        "INPUT__SIZE_TRAIN": [16, 8], "INPUT__SIZE_TEST": [16, 8], "SOLVER__IMS_PER_BATCH": 4,
        "DATALOADER__NUM_WORKERS": 0, "DATALOADER__SAMPLER_TRAIN": "NaiveIdentitySampler",
        "DATALOADER__NUM_INSTANCE": 2, "SOLVER__MAX_EPOCH": 3,
    }  # fmt: skip
    del META_ARCH_REGISTRY._objects["Unsupervised"]


@pytest.mark.parametrize("name", ["folder:frames", "images:frames"])
def test_a_run_without_labels_that_is_resumed_equals_the_whole(tmp_path, keys, name):
    keys |= {"DATASETS__NAMES": (name,)}
    whole = train(toy_cfg(tmp_path / "whole", **keys), trainer_class=DefaultTrainer)
    assert whole.bare_model.num_classes == 0 and set(whole.results["csv:people.csv"]) > {"mAP"}
    assert whole.bare_model.task.found[0] == [-1] * IMAGES and set(whole.bare_model.task.found[1]) == {-1, 0, 1, 2, 3}
    cfg = toy_cfg(tmp_path / "parts", **keys)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, trainer_class=stopping_at(6))
    train(cfg, resume=True, trainer_class=DefaultTrainer)
    before, after = (read_checkpoint(tmp_path / folder / "model_final.pth") for folder in ("whole", "parts"))
    assert all(torch.equal(value, after["model"][key]) for key, value in before["model"].items())


def test_labels_of_a_labelled_set_are_not_used(tmp_path, keys):
    """Neither their number, which a config may not fit, nor the labels: the weights are those of a run without."""
    states = []
    for name in ("folder:frames", "csv:people.csv"):
        keys |= {"DATASETS__NAMES": (name,), "MODEL__HEADS__NUM_CLASSES": 1}
        trainer = train(toy_cfg(tmp_path / name[:3], **keys), trainer_class=DefaultTrainer)
        states.append(trainer.bare_model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_precise_bn_would_need_labels(tmp_path, keys):
    with pytest.raises(
        ConfigError, match="TEST.PRECISE_BN draws batches with the labels .* Unsupervised makes its own"
    ):
        DefaultTrainer(toy_cfg(tmp_path / "run", TEST__PRECISE_BN__ENABLED=True, **keys))


def test_a_model_that_needs_labels_is_refused(tmp_path, keys):
    keys |= {"MODEL__META_ARCHITECTURE": "Baseline"}
    with pytest.raises(
        ConfigError, match="folder:frames, whose images have no person labels .its images are not in fold"
    ):
        DefaultTrainer(toy_cfg(tmp_path / "run", **keys))
    assert needs_labels_of(get_cfg())


def test_a_dry_run_and_both_training_tools(tmp_path, keys):
    words = [word for key, value in keys.items() for word in (key.replace("__", "."), str(value))]
    words += ["MODEL.DEVICE", "cpu", "SOLVER.MAX_EPOCH", "1", "SOLVER.OPT", "SGD"]
    said = run_tool("tools/train_net.py", "--dry-run", *words, "OUTPUT_DIR", "dry", cwd=tmp_path)
    assert said[said.index("folder:frames ") :].split()[:4] == ["folder:frames", "train", "16", "-"]
    for tool in ("train_net", "plain_train_net"):
        run_tool(f"tools/{tool}.py", *words, "OUTPUT_DIR", tool, cwd=tmp_path)
    first, second = (
        read_checkpoint(tmp_path / tool / "model_final.pth")["model"] for tool in ("train_net", "plain_train_net")
    )
    assert all(torch.equal(value, second[key]) for key, value in first.items())
