"""A linear model on four-number "images", in memory: a whole run in a fraction of a second."""

import zlib

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from fastreid.config import CfgNode, get_cfg
from fastreid.data.datasets import ImageDataset
from fastreid.engine import DefaultTrainer
from fastreid.structures import PersonImage
from fastreid.utils import comm

PEOPLE, PER_PERSON, FEATURES = 4, 6, 4
ITERS_PER_EPOCH = 3


def toy_cfg(output_dir, **keys) -> CfgNode:
    """Defaults for the toy; ``keys`` as SOLVER__MAX_EPOCH=3."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.OUTPUT_DIR = str(output_dir)
    cfg.SOLVER.OPT = "SGD"
    cfg.SOLVER.BASE_LR = 0.05
    cfg.SOLVER.SCHED = "CosineAnnealingLR"
    cfg.SOLVER.MAX_EPOCH = 4
    cfg.SOLVER.WARMUP_ITERS = 4
    cfg.SOLVER.CHECKPOINT_PERIOD = 1
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.TEST.EVAL_PERIOD = 0
    cfg.TEST.REPORT = False  # the images are no files
    cfg.DATASETS.TESTS = ("Toy", "ToyToo")
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    cfg.freeze()
    return cfg


def features_of(image: PersonImage) -> torch.Tensor:
    """Four numbers that depend on the image only: its person, and a little noise."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(image).encode()))
    centre = F.one_hot(torch.tensor(image.person % FEATURES), FEATURES).float()
    return centre + 0.15 * torch.randn(FEATURES, generator=generator)


class ToyImages(Dataset):
    num_classes = PEOPLE

    def __init__(self, images):
        self.images = list(images)
        self.labels = [image.person for image in self.images]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        return {
            "images": features_of(image),
            "targets": image.person,
            "camids": image.camera,
            "viewids": image.view,
            "img_paths": image.path,
        }


class ToySampler(torch.utils.data.Sampler):
    """Endless shuffled passes that can start later."""

    def __init__(self, size, batch_size):
        self.size, self.batch_size, self.skip = size, batch_size, 0

    def fast_forward(self, num_batches):
        self.skip = num_batches * self.batch_size

    def __iter__(self):
        generator = torch.Generator().manual_seed(5 + comm.get_rank())
        position = 0
        while True:
            for index in torch.randperm(self.size, generator=generator).tolist():
                position += 1
                if position > self.skip:
                    yield index


class ToyModel(nn.Module):
    """Linear, BatchNorm and classifier; dropout, so that random states matter."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, 6)
        self.neck = nn.BatchNorm1d(6)
        self.heads = nn.ModuleDict({"classifier": nn.Linear(6, num_classes, bias=False)})

    def forward(self, batch):
        features = self.neck(self.embed(batch["images"]))
        if not self.training:
            return features.float()
        logits = self.heads["classifier"](F.dropout(features, 0.5)).float()
        return {"loss_identity": F.cross_entropy(logits, batch["targets"])}


def toy_images(count=PEOPLE * PER_PERSON):
    return [PersonImage(f"img{i:03d}", i % PEOPLE, i // PEOPLE % 2) for i in range(count)]


class ToyTrainer(DefaultTrainer):
    """The real trainer on the toy."""

    @classmethod
    def build_model(cls, cfg):
        torch.manual_seed(0)
        return ToyModel(cfg.MODEL.HEADS.NUM_CLASSES)

    @classmethod
    def build_train_loader(cls, cfg):
        images = toy_images()
        sampler = ToySampler(len(images), 8)
        loader = DataLoader(ToyImages(images), batch_size=8, sampler=sampler)
        loader.iters_per_epoch = ITERS_PER_EPOCH
        return loader

    @classmethod
    def build_test_datasets(cls, cfg):
        images = toy_images()
        return [ImageDataset([], images[:4], images[4:], name) for name in cfg.DATASETS.TESTS]

    @classmethod
    def build_feature_loader(cls, cfg, images):
        return DataLoader(ToyImages(images), batch_size=5)


def train(cfg, *, resume=False, trainer_class=ToyTrainer):
    """Seed, build, load or resume, train; return the trainer."""
    from fastreid.utils.env import seed_everything

    seed_everything(cfg.MODEL.SEED)
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer
