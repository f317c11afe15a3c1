"""fast-reid's 131 keys: each has its default and an effect that can be seen, or is refused with a reason.

What only matters beside another key is set beside it here; set alone, it is logged (`fastreid.config.unread`).
"""

import logging
from itertools import islice
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from fastreid.config import CfgNode, ConfigError, get_cfg, image_size, refuse_unsupported
from fastreid.config.renames import ADD_ONS
from fastreid.config.unread import TABLE, log_unread
from fastreid.config.unsupported import REASONS
from fastreid.data import build_feature_loader, build_reid_train_loader
from fastreid.data.datasets import DATASET_REGISTRY, DatasetError, ImageDataset
from fastreid.data.transforms import build_transforms
from fastreid.engine import DefaultTrainer, build_for_evaluation, default_argument_parser, default_setup
from fastreid.engine.freezing import build_layer_freeze
from fastreid.evaluation import evaluate_protocols
from fastreid.modeling import build_model
from fastreid.modeling.amp import amp_dtype
from fastreid.modeling.backbones import BACKBONE_REGISTRY, build_backbone
from fastreid.modeling.heads import build_heads
from fastreid.modeling.losses import LossTerms, loss_options
from fastreid.solver import build_gradient_clipper, build_lr_scheduler, build_optimizer
from fastreid.structures import PersonImage
from fastreid.utils.registry import RegistryError
from fastreid.utils.weights import WeightsError
from tests.engine.toys import ToyImages, ToyTrainer, toy_images, train
from tests.modeling.toys import batch, fill_memory, stage2_cfg, write_assets

# fast-reid 1.3's default leaves, dumped from its running config, but for these:
OTHER_DEFAULTS = {"MODEL.DEVICE": "auto"}  # there "cuda", without which it does not run
FAST_REID = """
MODEL: META_ARCHITECTURE='Baseline' FREEZE_LAYERS=[] QUEUE_SIZE=8192 WEIGHTS=''
  PIXEL_MEAN=[123.675,116.28,103.53] PIXEL_STD=[58.395,57.12,57.375]
MODEL.BACKBONE: NAME='build_resnet_backbone' DEPTH='50x' LAST_STRIDE=1 FEAT_DIM=2048 NORM='BN' WITH_IBN=False
  WITH_SE=False WITH_NL=False SIE_COE=3.0 STRIDE_SIZE=(16,16) DROP_PATH_RATIO=0.1 DROP_RATIO=0.0 ATT_DROP_RATE=0.0
  PRETRAIN=False PRETRAIN_PATH=''
MODEL.HEADS: NAME='EmbeddingHead' NORM='BN' NUM_CLASSES=0 EMBEDDING_DIM=0 WITH_BNNECK=False NECK_FEAT='before'
  POOL_LAYER='GlobalAvgPool' CLS_LAYER='Linear' MARGIN=0.0 SCALE=1
MODEL.LOSSES: NAME=('CrossEntropyLoss',)
MODEL.LOSSES.CE: EPSILON=0.0 ALPHA=0.2 SCALE=1.0
MODEL.LOSSES.FL: ALPHA=0.25 GAMMA=2 SCALE=1.0
MODEL.LOSSES.TRI: MARGIN=0.3 NORM_FEAT=False HARD_MINING=False SCALE=1.0
MODEL.LOSSES.CIRCLE: MARGIN=0.25 GAMMA=128 SCALE=1.0
MODEL.LOSSES.COSFACE: MARGIN=0.25 GAMMA=128 SCALE=1.0
KD: MODEL_CONFIG=[] MODEL_WEIGHTS=[]
KD.EMA: ENABLED=False MOMENTUM=0.999
INPUT: SIZE_TRAIN=[256,128] SIZE_TEST=[256,128]
INPUT.CROP: ENABLED=False SIZE=[224,224] SCALE=[0.16,1] RATIO=[0.75,1.3333333333333333]
INPUT.FLIP: ENABLED=False PROB=0.5
INPUT.PADDING: ENABLED=False MODE='constant' SIZE=10
INPUT.CJ: ENABLED=False PROB=0.5 BRIGHTNESS=0.15 CONTRAST=0.15 SATURATION=0.1 HUE=0.1
INPUT.AFFINE: ENABLED=False
INPUT.AUTOAUG: ENABLED=False PROB=0.0
INPUT.AUGMIX: ENABLED=False PROB=0.0
INPUT.REA: ENABLED=False PROB=0.5 VALUE=[123.675,116.28,103.53]
INPUT.RPT: ENABLED=False PROB=0.5
DATASETS: NAMES=('Market1501',) TESTS=('Market1501',) COMBINEALL=False
DATALOADER: SAMPLER_TRAIN='TrainingSampler' NUM_INSTANCE=4 NUM_WORKERS=8 SET_WEIGHT=[]
SOLVER: OPT='Adam' MAX_EPOCH=120 BASE_LR=0.0003 HEADS_LR_FACTOR=1.0 MOMENTUM=0.9 NESTEROV=False WEIGHT_DECAY=0.0005
  WEIGHT_DECAY_NORM=0.0005 BIAS_LR_FACTOR=1.0 WEIGHT_DECAY_BIAS=0.0005 SCHED='MultiStepLR' DELAY_EPOCHS=0 GAMMA=0.1
  STEPS=[30,55] ETA_MIN_LR=1e-07 WARMUP_FACTOR=0.1 WARMUP_ITERS=1000 WARMUP_METHOD='linear' FREEZE_ITERS=0
  CHECKPOINT_PERIOD=20 IMS_PER_BATCH=64
SOLVER.AMP: ENABLED=False
SOLVER.CLIP_GRADIENTS: ENABLED=False CLIP_TYPE='norm' CLIP_VALUE=5.0 NORM_TYPE=2.0
TEST: EVAL_PERIOD=20 IMS_PER_BATCH=64 METRIC='cosine'
TEST.ROC: ENABLED=False
TEST.FLIP: ENABLED=False
TEST.AQE: ENABLED=False ALPHA=3.0 QE_TIME=1 QE_K=5
TEST.RERANK: ENABLED=False K1=20 K2=6 LAMBDA=0.3
TEST.PRECISE_BN: ENABLED=False DATASET='Market1501' NUM_ITER=300
"""


def fast_reid_leaves():
    group = ""
    for word in FAST_REID.split():
        if word.endswith(":"):
            group = word[:-1] + "."
        else:
            key, value = word.split("=", 1)
            yield group + key, eval(value)
    yield "OUTPUT_DIR", "logs/"
    yield "CUDNN_BENCHMARK", False


def read(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


KEYS = OTHER_DEFAULTS | dict(fast_reid_leaves())


def test_there_are_131_and_they_have_their_defaults():
    assert len(KEYS) == 131
    assert {key: read(get_cfg(), key) for key in KEYS} == KEYS


# What a config leads to. Observers are given a config and say what came of it; an error is an outcome, too.

PEOPLE, CAMERAS = 6, 3


def images_of(name, count=36, offset=0):
    return [PersonImage(f"{name}/{n}.jpg", offset + n % PEOPLE, n // PEOPLE % CAMERAS) for n in range(count)]


class OneSet(ImageDataset):
    def __init__(self, root=""):
        super().__init__(images_of("one"), images_of("q", 6, offset=50), images_of("g", 12, offset=50), "OneSet")


class OtherSet(ImageDataset):
    def __init__(self, root=""):
        super().__init__(images_of("other", 48), images_of("q", 6), images_of("g", 12), "OtherSet")


@pytest.fixture(scope="module", autouse=True)
def _registered():
    for each in (OneSet, OtherSet):
        DATASET_REGISTRY.register(each)
    yield
    for each in (OneSet, OtherSet):
        del DATASET_REGISTRY._objects[each.__name__]


def network(cfg, folder):
    """Its losses on a batch, its descriptors, and the shapes of its parameters."""
    torch.manual_seed(0)
    model = build_model(cfg)
    images = torch.rand(8, 3, 64, 32, generator=torch.Generator().manual_seed(1)) * 255
    torch.manual_seed(1)
    losses = model({"images": images, "targets": torch.arange(8) // 2, "viewids": torch.arange(8) % 2})
    with torch.no_grad():
        described = model.eval()({"images": images}).mean().item()
    shapes = {name: (list(value.shape), str(value.device)) for name, value in model.state_dict().items()}
    return {name: loss.item() for name, loss in losses.items()}, described, shapes


def head(cfg, folder):
    """The head alone, on the same maps: its losses, its descriptors, and its parameters."""
    torch.manual_seed(0)
    made, terms = build_heads(cfg), LossTerms(loss_options(cfg))
    maps, people = torch.rand(8, 32, 2, 2, generator=torch.Generator().manual_seed(1)), torch.arange(8) // 2
    losses = {name: loss.item() for name, loss in terms(made(maps, people), people).items()}
    return losses, made.eval()(maps).tolist(), list(made.state_dict())


def kind(cfg, folder):
    # A machine without an accelerator has one device that could be told from the CPU, meta, which is refused.
    with mock.patch("fastreid.utils.devices._is_usable", return_value=True):
        model = build_model(cfg)
    return type(model), next(model.parameters()).device


def layers(cfg, folder):
    return {name: list(value.shape) for name, value in build_backbone(cfg).state_dict().items()}


def frozen(cfg, folder):
    freeze = build_layer_freeze(cfg, nn.ModuleDict({"backbone": nn.Linear(2, 2), "heads": nn.Linear(2, 2)}))
    return freeze and vars(freeze).keys(), cfg.SOLVER.FREEZE_ITERS if freeze else 0


def evaluated_weights(cfg, folder):
    return build_for_evaluation(cfg)


def pixels(cfg, folder):
    """The same picture through both transforms, three times."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 30, 3), dtype=np.uint8))
    torch.manual_seed(0)
    both = [build_transforms(cfg, is_train)(picture) for is_train in (True, False) for _ in range(3)]
    return [(list(image.shape), image.sum().item(), image[:, :8, :8].sum().item()) for image in both]


def batches(cfg, folder):
    loader = build_reid_train_loader(cfg)
    drawn = [tuple(draw) if isinstance(draw, tuple) else draw for draw in islice(loader.sampler, 48)]
    return drawn, len(loader.dataset), loader.num_workers, loader.batch_size


def protocols(cfg, folder):
    loader = build_feature_loader(cfg, images_of("q"))
    return [data.name for data in DefaultTrainer.build_test_datasets(cfg)], loader.batch_size, loader.num_workers


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.heads = nn.Linear(4, 2)


def rates(cfg, folder):
    """Settings of every parameter group, and the learning rates of 12 epochs of 3 iterations."""
    optimizer = build_optimizer(cfg, Parts())
    schedule = build_lr_scheduler(cfg, optimizer, 3)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return type(optimizer), settings, [schedule.lr_at(iteration) for iteration in range(36)]


def clipped(cfg, folder):
    clip, parameter = build_gradient_clipper(cfg), nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([30.0, 40.0, 1.0, 2.0])
    if clip:
        clip([parameter])
    return parameter.grad.tolist()


def precision(cfg, folder):
    return amp_dtype(cfg, "cpu")


class Watched(ToyTrainer):
    """Notes the data that loaders are asked for."""

    @classmethod
    def build_train_loader(cls, cfg):
        cls.asked.append(cfg.DATASETS.NAMES)
        return super().build_train_loader(cfg)


def run(cfg, folder):
    """A whole run of the toy: what it wrote and where, how long it was, and what came out."""
    given = cfg.clone()
    given.defrost()
    if given.OUTPUT_DIR == "logs/":
        given.OUTPUT_DIR = str(folder / "run")
    Watched.asked = []
    trainer = train(given, trainer_class=Watched)
    written = sorted(path.name for path in folder.rglob("model_*"))
    tests = sum("Toy/mAP" in line for line in next(folder.rglob("metrics.json")).read_text().splitlines())
    folders = sorted(path.name for path in folder.iterdir())
    statistics = trainer.bare_model.neck.running_mean.tolist()
    return written, tests, folders, trainer.iter, Watched.asked, statistics


def figures(cfg, folder):
    """Of the toy's model, on images that look to one side."""

    class Sided(nn.Module):
        def forward(self, batch):
            return batch["images"] * torch.tensor([1.0, -2.0, 3.0, 0.5])

    protocol = ImageDataset([], toy_images()[:6], toy_images()[6:], "Toy")
    results = evaluate_protocols(
        cfg, Sided(), [protocol], lambda cfg, images: torch.utils.data.DataLoader(ToyImages(images), 5), folder
    )
    lists = (folder / "ranked_lists.json").read_text()
    return dict(results["Toy"]), lists


def cudnn(cfg, folder):
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    logger = logging.getLogger("fastreid")
    handlers, level = list(logger.handlers), logger.level
    given = cfg.clone()
    given.OUTPUT_DIR = str(folder)
    try:
        default_setup(given, default_argument_parser().parse_args([]))
        return torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)


# (observer, keys that are set beside, key -> another value). Every key is in one of them, or refused.
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.DEPTH": "18x",
    "MODEL.HEADS.NUM_CLASSES": 4,
    "INPUT.SIZE_TRAIN": [64, 32],
    "INPUT.SIZE_TEST": [64, 32],
}
MINI = SMALL | {"MODEL.BACKBONE.NAME": "build_vit_backbone", "MODEL.BACKBONE.DEPTH": "mini"}
LOSSES = ("CrossEntropyLoss", "FocalLoss", "TripletLoss", "CircleLoss", "Cosface")
HEAD = {"MODEL.BACKBONE.FEAT_DIM": 32, "MODEL.HEADS.NUM_CLASSES": 4}
ALL_LOSSES = HEAD | {"MODEL.LOSSES.NAME": LOSSES, "MODEL.LOSSES.CE.EPSILON": -1.0}
DATA = {
    "DATASETS.NAMES": ("OneSet",),
    "DATASETS.TESTS": ("OneSet",),
    "SOLVER.IMS_PER_BATCH": 8,
    "MODEL.DEVICE": "cpu",
    "DATALOADER.NUM_WORKERS": 0,
}
TOY = {
    "MODEL.DEVICE": "cpu",
    "SOLVER.OPT": "SGD",
    "SOLVER.MAX_EPOCH": 2,
    "SOLVER.IMS_PER_BATCH": 8,
    "DATASETS.TESTS": ("Toy",),
    "SOLVER.WARMUP_ITERS": 0,
}


def on(*groups, **more):
    return {f"{group}.ENABLED": True for group in groups} | more


PADDED = SMALL | on("INPUT.PADDING")
CROPPED = SMALL | {"INPUT.CROP.ENABLED": True, "INPUT.CROP.SIZE": [48, 24]}
ALWAYS = {f"INPUT.{name}.PROB": 1.0 for name in ("FLIP", "CJ", "AUTOAUG", "AUGMIX", "REA")}
CJ = {"INPUT.CJ.BRIGHTNESS": 0.9, "INPUT.CJ.CONTRAST": 0.9, "INPUT.CJ.SATURATION": 0.9, "INPUT.CJ.HUE": 0.4}

EFFECTS = [
    (network, SMALL, {
        "MODEL.PIXEL_MEAN": [1.0, 2.0, 3.0], "MODEL.PIXEL_STD": [9.0, 9.0, 9.0],
        "MODEL.BACKBONE.DEPTH": "34x", "MODEL.BACKBONE.LAST_STRIDE": 2,
        "MODEL.BACKBONE.FEAT_DIM": 700, "MODEL.BACKBONE.NORM": "GN", "MODEL.BACKBONE.WITH_IBN": True,
        "MODEL.BACKBONE.WITH_SE": True, "MODEL.BACKBONE.PRETRAIN": True,
    }),
    (head, HEAD, {
        "MODEL.HEADS.NAME": "ClasHead", "MODEL.HEADS.NUM_CLASSES": 5, "MODEL.HEADS.EMBEDDING_DIM": 16,
        "MODEL.HEADS.WITH_BNNECK": True, "MODEL.HEADS.POOL_LAYER": "GlobalMaxPool",
        "MODEL.HEADS.CLS_LAYER": "ArcSoftmax", "MODEL.HEADS.SCALE": 3, "MODEL.LOSSES.NAME": ("FocalLoss",),
        "MODEL.LOSSES.CE.EPSILON": 0.1, "MODEL.LOSSES.CE.SCALE": 2.0,
    }),
    (kind, SMALL, {"MODEL.META_ARCHITECTURE": "MGN", "MODEL.DEVICE": "meta"}),
    (kind, SMALL | {"MODEL.META_ARCHITECTURE": "Distiller"}, {"KD.MODEL_WEIGHTS": ["a"], "KD.MODEL_CONFIG": ["a"]}),
    (evaluated_weights, SMALL, {"MODEL.WEIGHTS": "nowhere.pth"}),
    (layers, SMALL | {"MODEL.BACKBONE.DEPTH": "50x"}, {
        "MODEL.BACKBONE.NAME": "build_resnext_backbone", "MODEL.BACKBONE.WITH_NL": True,
    }),
    (network, SMALL | {"MODEL.BACKBONE.PRETRAIN": True}, {"MODEL.BACKBONE.PRETRAIN_PATH": "nowhere.pth"}),
    (network, MINI, {
        "MODEL.BACKBONE.STRIDE_SIZE": (12, 12), "MODEL.BACKBONE.DROP_PATH_RATIO": 0.5,
        "MODEL.BACKBONE.DROP_RATIO": 0.5, "MODEL.BACKBONE.ATT_DROP_RATE": 0.5,
    }),
    (head, HEAD | {"MODEL.HEADS.WITH_BNNECK": True}, {"MODEL.HEADS.NORM": "GN"}),
    (head, HEAD | {"MODEL.HEADS.CLS_LAYER": "CosSoftmax"}, {"MODEL.HEADS.MARGIN": 0.3}),
    (head, ALL_LOSSES | {"MODEL.HEADS.WITH_BNNECK": True}, {"MODEL.HEADS.NECK_FEAT": "after"}),
    (head, ALL_LOSSES, {
        "MODEL.LOSSES.CE.ALPHA": 0.5, "MODEL.LOSSES.TRI.NORM_FEAT": True, "MODEL.LOSSES.TRI.HARD_MINING": True,
        **{f"MODEL.LOSSES.{group}.SCALE": 2.0 for group in ("FL", "TRI", "CIRCLE", "COSFACE")},
        **{f"MODEL.LOSSES.{group}.MARGIN": 0.7 for group in ("TRI", "CIRCLE", "COSFACE")},
        "MODEL.LOSSES.CIRCLE.GAMMA": 32, "MODEL.LOSSES.COSFACE.GAMMA": 32,
        "MODEL.LOSSES.FL.ALPHA": 0.5, "MODEL.LOSSES.FL.GAMMA": 1,
    }),
    (frozen, {"SOLVER.FREEZE_ITERS": 5}, {"MODEL.FREEZE_LAYERS": ["backbone"]}),
    (frozen, {"MODEL.FREEZE_LAYERS": ["backbone"]}, {"SOLVER.FREEZE_ITERS": 5}),
    (pixels, SMALL | ALWAYS, {
        "INPUT.SIZE_TRAIN": [32, 16], "INPUT.SIZE_TEST": [32, 16], "INPUT.CROP.ENABLED": True,
        **on("INPUT.FLIP", "INPUT.PADDING", "INPUT.CJ", "INPUT.AFFINE", "INPUT.AUTOAUG", "INPUT.AUGMIX", "INPUT.REA"),
    }),
    (pixels, CROPPED, {
        "INPUT.CROP.SIZE": [32, 16], "INPUT.CROP.SCALE": [0.9, 1.0], "INPUT.CROP.RATIO": [0.4, 0.5],
    }),
    (pixels, PADDED, {"INPUT.PADDING.MODE": "edge", "INPUT.PADDING.SIZE": 20}),
    (pixels, SMALL | on("INPUT.FLIP", "INPUT.CJ", "INPUT.REA"), {
        "INPUT.FLIP.PROB": 1.0, "INPUT.CJ.PROB": 1.0, "INPUT.REA.PROB": 1.0,
    }),
    (pixels, SMALL | on("INPUT.AUTOAUG"), {"INPUT.AUTOAUG.PROB": 1.0}),
    (pixels, SMALL | on("INPUT.AUGMIX"), {"INPUT.AUGMIX.PROB": 1.0}),
    (pixels, SMALL | on("INPUT.CJ") | {"INPUT.CJ.PROB": 1.0}, CJ),
    (pixels, SMALL | on("INPUT.REA") | {"INPUT.REA.PROB": 1.0}, {"INPUT.REA.VALUE": [0.0, 0.0, 0.0]}),
    (batches, DATA, {
        "DATASETS.NAMES": ("OtherSet",), "DATASETS.COMBINEALL": True, "DATALOADER.NUM_WORKERS": 1,
        "DATALOADER.SAMPLER_TRAIN": "NaiveIdentitySampler", "SOLVER.IMS_PER_BATCH": 12,
    }),
    (batches, DATA | {"DATALOADER.SAMPLER_TRAIN": "NaiveIdentitySampler"}, {"DATALOADER.NUM_INSTANCE": 2}),
    (batches, DATA | {
        "DATASETS.NAMES": ("OneSet", "OtherSet"), "DATALOADER.SAMPLER_TRAIN": "SetReWeightSampler",
        "DATALOADER.SET_WEIGHT": [1, 1], "SOLVER.IMS_PER_BATCH": 24,
    }, {"DATALOADER.SET_WEIGHT": [2, 1]}),
    (protocols, DATA, {"DATASETS.TESTS": ("OtherSet",), "TEST.IMS_PER_BATCH": 7}),
    (rates, {"SOLVER.WARMUP_ITERS": 6, "SOLVER.STEPS": [3, 6]}, {
        "SOLVER.OPT": "SGD", "SOLVER.BASE_LR": 0.1, "SOLVER.HEADS_LR_FACTOR": 2.0, "SOLVER.WEIGHT_DECAY": 0.1,
        "SOLVER.WEIGHT_DECAY_NORM": 0.1, "SOLVER.BIAS_LR_FACTOR": 2.0, "SOLVER.WEIGHT_DECAY_BIAS": 0.1,
        "SOLVER.SCHED": "CosineAnnealingLR", "SOLVER.DELAY_EPOCHS": 5, "SOLVER.GAMMA": 0.5, "SOLVER.STEPS": [4, 6],
        "SOLVER.WARMUP_FACTOR": 0.3, "SOLVER.WARMUP_ITERS": 9, "SOLVER.WARMUP_METHOD": "constant",
    }),
    (rates, {"SOLVER.OPT": "SGD"}, {"SOLVER.MOMENTUM": 0.5, "SOLVER.NESTEROV": True}),
    (rates, {"SOLVER.SCHED": "CosineAnnealingLR", "SOLVER.WARMUP_ITERS": 0}, {
        "SOLVER.ETA_MIN_LR": 1e-4, "SOLVER.MAX_EPOCH": 10,
    }),
    (clipped, {}, {"SOLVER.CLIP_GRADIENTS.ENABLED": True}),
    (clipped, on("SOLVER.CLIP_GRADIENTS"), {
        "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
        "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 1.0,
    }),
    (precision, {"SOLVER.AMP.DTYPE": "bf16"}, {"SOLVER.AMP.ENABLED": True}),
    (run, TOY, {
        "SOLVER.CHECKPOINT_PERIOD": 1, "TEST.EVAL_PERIOD": 1, "OUTPUT_DIR": "FOLDER/elsewhere",
        "TEST.PRECISE_BN.ENABLED": True,
    }),
    (run, TOY | on("TEST.PRECISE_BN"), {"TEST.PRECISE_BN.DATASET": "Other", "TEST.PRECISE_BN.NUM_ITER": 1}),
    (figures, TOY, {
        "TEST.METRIC": "euclidean", "TEST.ROC.ENABLED": True, "TEST.FLIP.ENABLED": True, "TEST.AQE.ENABLED": True,
        "TEST.RERANK.ENABLED": True,
    }),
    (figures, TOY | on("TEST.AQE"), {"TEST.AQE.ALPHA": 0.0, "TEST.AQE.QE_TIME": 3, "TEST.AQE.QE_K": 9}),
    (figures, TOY | on("TEST.RERANK"), {"TEST.RERANK.K1": 5, "TEST.RERANK.K2": 2, "TEST.RERANK.LAMBDA": 0.9}),
    (cudnn, {"MODEL.DEVICE": "cpu"}, {"CUDNN_BENCHMARK": True}),
]  # fmt: skip


def test_every_key_is_watched_or_refused():
    watched = [key for _, _, changes in EFFECTS for key in changes]
    assert set(watched) | (REASONS.keys() & KEYS.keys()) == KEYS.keys()
    assert len(watched) == len(set(watched))
    refused = KEYS.keys() & REASONS.keys()
    assert refused.isdisjoint(watched) and len(refused) == 6  # test_config.py shows that they are refused


@pytest.mark.parametrize(("observe", "beside", "changes"), EFFECTS, ids=lambda part: getattr(part, "__name__", ""))
def test_a_changed_key_has_an_effect(tmp_path, observe, beside, changes):
    before = outcome(observe, beside, tmp_path / "before")
    assert before == outcome(observe, beside, tmp_path / "again"), "the observer itself is not steady"
    after = {key: outcome(observe, beside | {key: value}, tmp_path / key) for key, value in changes.items()}
    assert [key for key, what in after.items() if what == before] == []
    # An error says which key it is about, and what a change is compared with is none but where it must be.
    assert [key for key, what in after.items() if isinstance(what, str) and key.rpartition(".")[2] not in what] == []
    assert not isinstance(before, str) or changes.keys() <= {"MODEL.WEIGHTS", "MODEL.BACKBONE.PRETRAIN_PATH"}


def outcome(observe, values, folder):
    folder.mkdir()
    cfg = get_cfg()
    cfg.merge_from_list([w for key, v in values.items() for w in (key, str(v).replace("FOLDER", str(folder)))])
    refuse_unsupported(cfg)
    try:
        return observe(cfg, folder)
    except (ConfigError, DatasetError, RegistryError, WeightsError) as error:
        return str(error)


# SD-ReID's own keys: reading is what can be seen of most of them.


def test_every_key_of_sd_reid_is_read(monkeypatch, tmp_path):
    seen = set()

    def noting(node, name):
        seen.add((frozenset(node), name))
        return dict.__getitem__(node, name)

    monkeypatch.setattr(CfgNode, "__getitem__", noting, raising=False)  # attributes are read by it too
    cfg = stage2_cfg(
        write_assets(tmp_path),
        *("MODEL.SDMODEL.UNET_CONFIG.TRAIN", "cross_attention_kv"),
        *("MODEL.SDMODEL.UNET_CONFIG.TRAINABLE_BLOCK_IDX", [3, 4, 6, 7]),
    )
    model = build_model(cfg, num_classes=4)
    fill_memory(model)
    model(batch())
    with torch.no_grad():
        model.eval()(batch())
    assets = cfg.MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH
    for denoiser in ("mlp", "transformer"):
        other = stage2_cfg(Path(assets).parent, "MODEL.SDMODEL.DENOISER", denoiser)
        other.MODEL.SDMODEL.TRANSFORMER_CONFIG.HEADS = 3
        other.MODEL.SDMODEL.LEARNT_NOISE = True
        build_model(other, num_classes=4)
    monkeypatch.undo()
    groups = {"MODEL.SDMODEL": cfg.MODEL.SDMODEL, "TEST.SDMODEL": cfg.TEST.SDMODEL}
    groups |= {f"MODEL.SDMODEL.{key}": node for key, node in cfg.MODEL.SDMODEL.items() if isinstance(node, CfgNode)}
    keys = {f"{group}.{key}" for group, node in groups.items() for key in node if (frozenset(node), key) not in seen}
    # Of TRAIN lora, and of the optimiser.
    elsewhere = {"MODEL.SDMODEL.UNET_CONFIG.LORA_RANK", "MODEL.SDMODEL.ENCODER_LR_FACTOR"}
    assert keys - REASONS.keys() - elsewhere - groups.keys() == set()


# Beside others: a backbone refuses what it does not read, the rest is logged.

ALIEN = {
    "build_resnet_backbone": ("18x", {"STRIDE_SIZE": (8, 8), "DROP_PATH_RATIO": 0.3, "STEM": "conv", "TIMM_NAME": "x"}),
    "build_resnext_backbone": ("50x", {"DROP_RATIO": 0.3, "ATT_DROP_RATE": 0.3, "CAMERA_NUM": 5, "SIE_COE": 1.0}),
    "build_vit_backbone": ("mini", {"LAST_STRIDE": 2, "NORM": "GN", "WITH_SE": True, "WITH_NL": True}),
    "build_mobilenetv2_backbone": ("1.0x", {"WITH_IBN": True, "NORM": "syncBN", "STRIDE_SIZE": (8, 8)}),
    "build_timm_backbone": ("50x", {"DEPTH": "101x", "LAST_STRIDE": 2, "WITH_NL": True, "OUTPUT": "patches"}),
}


@pytest.mark.parametrize("name", ALIEN)
def test_a_backbone_refuses_what_it_does_not_read(name):
    depth, alien = ALIEN[name]
    assert name in BACKBONE_REGISTRY
    for key, value in alien.items():
        cfg = get_cfg()
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.TIMM_NAME = name, depth, "convnext_atto"
        if name != "build_timm_backbone":
            cfg.MODEL.BACKBONE.TIMM_NAME = ""
        cfg.merge_from_list([f"MODEL.BACKBONE.{key}", value])
        with pytest.raises(ConfigError, match=f"must stay at their defaults: .*{key}="):
            build_backbone(cfg)


def logged_of(caplog, *words):
    caplog.clear()
    cfg = get_cfg()
    cfg.merge_from_list(list(words))
    log_unread(cfg)
    return caplog.text


def test_defaults_and_keys_that_are_read_are_not_mentioned(caplog):
    assert logged_of(caplog) == ""
    assert logged_of(caplog, "INPUT.REA.ENABLED", "True", "INPUT.REA.PROB", "0.3", "SOLVER.BASE_LR", "0.1") == ""
    assert logged_of(caplog, "TEST.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bf16") == ""


def test_an_option_of_what_is_switched_off_is_logged(caplog):
    said = logged_of(caplog, "INPUT.REA.PROB", "0.3", "TEST.RERANK.K1", "7", "INPUT.RPT.PROB", "0.1")
    assert "nothing reads it: INPUT.REA.PROB (INPUT.REA.ENABLED is False); INPUT.RPT.PROB (" in said
    assert "TEST.RERANK.K1 (TEST.RERANK.ENABLED is False)" in said and len(caplog.records) == 1


# (what decides, key that nothing reads then)
UNREAD = [
    ({"MODEL.BACKBONE.PRETRAIN": False}, "MODEL.BACKBONE.PRETRAIN_PATH"),
    ({"MODEL.BACKBONE.DEPTH": "34x"}, "MODEL.BACKBONE.WITH_NL"),
    ({"MODEL.BACKBONE.NAME": "build_osnet_backbone"}, "MODEL.BACKBONE.WITH_NL"),
    ({"MODEL.BACKBONE.NAME": "build_mobilenetv2_backbone"}, "MODEL.BACKBONE.LAST_STRIDE"),
    ({"MODEL.HEADS.WITH_BNNECK": False}, "MODEL.HEADS.NORM"),
    *(({"MODEL.LOSSES.NAME": ("Mine",)}, f"MODEL.LOSSES.{g}.SCALE") for g in ("CE", "FL", "TRI", "CIRCLE", "COSFACE")),
    ({"MODEL.LOSSES.NAME": ("Mine",)}, "MODEL.LOSSES.CENTER.SCALE"),
    ({"MODEL.LOSSES.CE.EPSILON": 0.0}, "MODEL.LOSSES.CE.ALPHA"),
    *(
        ({"MODEL.META_ARCHITECTURE": "Baseline"}, key)
        for key in (
            "TEST.SDMODEL.NUM_DRAWS",
            "MODEL.LOSSES.PCL.MOMENTUM",
            "CLUSTER.K1",
            "PISL.NUM_PARTS",
            "DIFFPERSON.IIR.WORDS",
            "KD.MODEL_WEIGHTS",
            "KD.OVERHAUL.SCALE",
            "MODEL.LOSSES.BCE.SCALE",
        )
    ),
    (
        {"MODEL.LOSSES.NAME": ("TripletLoss",), "MODEL.LOSSES.TRI.HARD_MINING": True},
        "MODEL.LOSSES.TRI.EXACT_SOFTMAX",
    ),
    ({"MODEL.META_ARCHITECTURE": "PISL"}, "MODEL.LOSSES.CLUSTER.TEMPERATURE"),
    ({"MODEL.META_ARCHITECTURE": "ClusterContrast"}, "CLUSTER.REINIT_CLASSIFIER"),
    ({"MODEL.META_ARCHITECTURE": "PISL", "CLUSTER.METHOD": "hdbscan"}, "CLUSTER.EPS"),
    ({"DATASETS.SUBSET.MODE": "none"}, "DATASETS.SUBSET.SEED"),
    ({"SOLVER.SCHED": "MultiStepLR"}, "SOLVER.WARMUP_EPOCHS"),
    ({"DATALOADER.SAMPLER_TRAIN": "TrainingSampler"}, "DATALOADER.NUM_INSTANCE"),
    ({"DATASETS.NAMES": ("Market1501",)}, "DATASETS.EXCLUDE_SOURCES"),
    ({"SOLVER.OPT": "Adam"}, "SOLVER.MOMENTUM"),
    ({"SOLVER.OVERRIDE_LR": 0.5}, "SOLVER.BASE_LR"),
    ({"SOLVER.SCHED": "MultiStepLR"}, "SOLVER.ETA_MIN_LR"),
    ({"SOLVER.SCHED": "CosineAnnealingLR"}, "SOLVER.GAMMA"),
    ({"SOLVER.SCHED": "EpochWarmupCosineLR"}, "SOLVER.GAMMA"),
    ({"SOLVER.SCHED": "LinearLR"}, "SOLVER.STEPS"),
    ({"SOLVER.SCHED": "LinearWarmupMultiStepDecayLRScheduler"}, "SOLVER.DELAY_EPOCHS"),
    ({"SOLVER.WARMUP_ITERS": 0}, "SOLVER.WARMUP_FACTOR"),
    ({"SOLVER.WARMUP_SHARE": 0.1}, "SOLVER.WARMUP_ITERS"),
    ({"SOLVER.STEP_SHARES": [0.5]}, "SOLVER.STEPS"),
    (on("SOLVER.CLIP_GRADIENTS") | {"SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "value"}, "SOLVER.CLIP_GRADIENTS.NORM_TYPE"),
]


CHANGED = {
    str: "{}x".format,
    list: lambda value: [*value, 99],
    bool: lambda value: not value,
    int: lambda value: value + 1,
    float: lambda value: value + 1,
}


@pytest.mark.parametrize(("beside", "key"), UNREAD, ids=lambda part: part if isinstance(part, str) else "")
def test_a_key_that_nothing_reads_is_logged(caplog, beside, key):
    default = read(get_cfg(), key)
    words = [str(word) for pair in (beside | {key: CHANGED[type(default)](default)}).items() for word in pair]
    assert f"{key} (" in logged_of(caplog, *words)


def test_every_row_has_been_tried():
    tried = {key for _, key in UNREAD}
    assert [row for row in TABLE if not any(f"{k}.".startswith(f"{key}.") for k in tried for key in row.keys)] == []


def test_user_defined_parts_are_not_mentioned(caplog):
    words = "MODEL.META_ARCHITECTURE Mine MODEL.LOSSES.FL.SCALE 2.0 SOLVER.OPT Mine SOLVER.MOMENTUM 0.5".split()
    assert logged_of(caplog, *words, "DATALOADER.SAMPLER_TRAIN", "Mine", "DATALOADER.NUM_INSTANCE", "8") == ""


@pytest.mark.parametrize("key", ADD_ONS)
def test_keys_of_projects_say_what_to_do_and_are_taken_where_they_are_added(key):
    group, _, last = key.rpartition(".")
    with pytest.raises(ConfigError) as error:
        get_cfg().merge_from_list([key, "1"])
    assert f"unknown key {key} in the command line: {ADD_ONS[key]}. Leave it out" in str(error.value)
    cfg = get_cfg()
    read(cfg, group)[last] = 0  # as the projects' add_…_config do
    cfg.merge_from_list([key, "1"])
    assert read(cfg, key) == 1


@pytest.mark.parametrize("crop", [(48, 24), (47, 25), (63, 31), (64, 32), (65, 33), (70, 24)])
def test_crops_are_cut_out_of_the_middle_for_evaluation_too(crop):
    cfg = get_cfg()
    cfg.merge_from_list([w for k, v in (CROPPED | {"INPUT.CROP.SIZE": list(crop)}).items() for w in (k, str(v))])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8))
    expected = v2.PILToTensor()(v2.CenterCrop(crop)(picture)).float()
    assert torch.equal(build_transforms(cfg, is_train=False)(picture), expected)
    assert image_size(cfg) == image_size(cfg, is_train=False) == crop


@pytest.mark.parametrize("size", [[256], [0, 0], [1, 2, 3]])
def test_a_size_has_two_numbers(size):
    cfg = get_cfg()
    cfg.INPUT.SIZE_TEST = size
    with pytest.raises(ConfigError, match=r"INPUT.SIZE_TEST must be \[height, width\], .*got"):
        refuse_unsupported(cfg)
