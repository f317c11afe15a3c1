"""Twelve defects of fast-reid 1.3 that users reported, with a test that this library does not have each of them.

1 import fails on Python >= 3.10          7 the loader and re-ranking need CUDA
2 torch >= 2.0: no weight is changed      8 EVAL_PERIOD 0, or fewer images than a batch: ZeroDivisionError
3 no compiler: evaluation exits           9 model files are searched in the working directory
4 identity samplers loop endlessly       10 resuming loses the best score, freezing, scaler, random states
5 flip test normalises twice             11 the error of a registry does not list its names
6 INPUT.AFFINE raises TypeError          12 one camera: an error without a hint
"""

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys

import pytest
import torch
from PIL import Image

import fastreid
from fastreid.config import ConfigError, get_cfg
from fastreid.data import build_reid_train_loader
from fastreid.data.datasets import DATASET_REGISTRY, ImageDataset
from fastreid.data.samplers import SAMPLER_REGISTRY
from fastreid.data.transforms import build_transforms
from fastreid.evaluation import NoValidQueryError
from fastreid.modeling import build_model
from fastreid.modeling.backbones import BACKBONE_REGISTRY, build_backbone
from fastreid.modeling.heads import REID_HEADS_REGISTRY
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY
from fastreid.retrieval.extraction import FeatureStore
from fastreid.solver import OPTIMIZER_REGISTRY, SCHEDULE_REGISTRY
from fastreid.solver.layer_decay import layer_factors
from fastreid.structures import PersonImage
from fastreid.utils.checkpoint import read_checkpoint
from fastreid.utils.registry import RegistryError
from tests.engine.test_defaults import Interrupted
from tests.engine.toys import ToyTrainer, toy_cfg, toy_images, train
from tests.miniature import ROOT
from tests.modeling import toys


def test_1_every_module_is_imported_by_this_python():
    names = [module.name for module in pkgutil.walk_packages(fastreid.__path__, "fastreid.")]
    assert len(names) > 80
    for name in names:
        if not name.endswith("rank_cy"):  # needs a compiler
            importlib.import_module(name)


@pytest.mark.parametrize("opt", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("scaled", [False, True])
def test_2_a_few_steps_change_every_weight_and_lower_the_loss(tmp_path, opt, scaled):
    class Trainer(ToyTrainer):
        def build_hooks(self):
            if scaled:  # "No inf checks were recorded"
                self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
            return super().build_hooks()

    trainer = train(toy_cfg(tmp_path, SOLVER__OPT=opt, SOLVER__MAX_EPOCH=20), trainer_class=Trainer)
    torch.manual_seed(0)
    start = dict(ToyTrainer.build_model(trainer.cfg).named_parameters())
    for name, value in trainer.bare_model.named_parameters():
        assert (value != start[name]).all(), name
    records = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    losses = [record["total_loss"] for record in records if "total_loss" in record]
    assert losses[-1] < 0.8 * losses[0]


WITHOUT_COMPILER = """
import json, subprocess, sys
from unittest import mock
sys.modules["fastreid.retrieval.rank_cylib.rank_cy"] = None  # importing it fails
from tests.engine.toys import ToyTrainer, toy_cfg, train

class Trainer(ToyTrainer):
    @classmethod
    def test(cls, cfg, model):
        with mock.patch.object(subprocess, "Popen", side_effect=AssertionError("a process was started")):
            return super().test(cfg, model)

print(json.dumps(train(toy_cfg(sys.argv[1]), trainer_class=Trainer).results))
"""


def test_3_without_the_compiled_part_evaluation_gives_the_same_figures(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CC": "no-such-compiler"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER, str(tmp_path / "without")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout.splitlines()[-1]), train(toy_cfg(tmp_path / "with")).results
    assert found.keys() == expected.keys()
    for protocol, figures in expected.items():
        assert found[protocol] == pytest.approx(figures, abs=1e-4)


GROUPED = [
    name for name in SAMPLER_REGISTRY if "num_instances" in inspect.signature(SAMPLER_REGISTRY.get(name)).parameters
]


@pytest.mark.parametrize("name", GROUPED)
def test_4_too_few_people_for_a_batch_is_an_error_with_the_numbers(name):
    make = SAMPLER_REGISTRY.get(name)
    images = range(6 * 20)
    known = {
        "batch_size": 64, "num_instances": 4, "seed": 0, "rank": 0, "world_size": 1, "set_weight": [1],
        "cameras": [i % 3 for i in images], "views": [i % 2 for i in images], "sets": [0 for _ in images],
    }  # fmt: skip
    asked = inspect.signature(make).parameters
    with pytest.raises(ConfigError, match="6 .*16|16 .*6"):
        make([i % 6 for i in images], **{key: value for key, value in known.items() if key in asked})


def test_5_the_flip_test_leaves_images_as_they_are_and_is_the_mean_of_both():
    torch.manual_seed(0)
    model = build_model(toys.stage1_cfg(), num_classes=4).eval()
    batch = toys.batch()
    before = batch["images"].clone()
    store = FeatureStore()
    store.extract(model, [batch], flip=True)
    assert torch.equal(batch["images"], before)
    with torch.no_grad():
        both = [model({**batch, "images": images}) for images in (before, before.flip(-1))]
    rows = torch.stack([store._rows[path] for path in batch["img_paths"]])
    torch.testing.assert_close(rows, (both[0] + both[1]) / 2)


def test_6_affine_works_with_this_torchvision():
    cfg = get_cfg()
    cfg.INPUT.AFFINE.ENABLED = True
    picture = Image.effect_noise((64, 128), 80).convert("RGB")
    torch.manual_seed(0)
    images = [build_transforms(cfg)(picture) for _ in range(4)]
    assert images[0].shape == (3, 256, 128) and not torch.equal(images[0], images[1])


def test_7_a_run_with_re_ranking_needs_no_cuda(tmp_path, monkeypatch):
    def touched(*words, **options):
        raise AssertionError("CUDA was asked for")

    for name in ("Stream", "current_stream", "set_device", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, touched)
    keys = {"TEST__RERANK__ENABLED": True, "TEST__RERANK__K1": 5, "TEST__RERANK__K2": 2}
    assert train(toy_cfg(tmp_path, **keys)).results["Toy"]["mAP"] > 0


def few_images(folder, count):
    """A stand-in for CARGO with this many training images, of two people each."""
    for number in range(count):
        place = folder / "CARGO/train" / f"Cam{1 + number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16)).save(place / f"{place.name}_day_{number // 4}_{number}.jpg")
    cfg = get_cfg()
    cfg.merge_from_list([
        *("DATASETS.ROOT", str(folder), "DATASETS.NAMES", ("CARGO",), "DATALOADER.NUM_WORKERS", 0),
        *("MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", 64),
    ])  # fmt: skip
    return cfg


def test_8_no_evaluation_in_between_is_one_at_the_end(tmp_path):
    class Counting(ToyTrainer):
        evaluations = 0

        @classmethod
        def test(cls, cfg, model):
            cls.evaluations += 1
            return super().test(cfg, model)

    assert train(toy_cfg(tmp_path, TEST__EVAL_PERIOD=0), trainer_class=Counting).results
    assert Counting.evaluations == 1


@pytest.mark.parametrize("sampler", ["TrainingSampler", "NaiveIdentitySampler", "BalancedIdentitySampler"])
def test_8_fewer_images_than_a_batch_is_an_error_with_the_numbers(tmp_path, sampler):
    cfg = few_images(tmp_path, 8)
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    with pytest.raises(ConfigError, match="8 training images are fewer than .* 64|2 training people .* 16"):
        build_reid_train_loader(cfg)


# In fast-reid, RegNets and EfficientNets read config files below the working directory.
BACKBONES = {
    "build_regnet_backbone": "200y",
    "build_effnet_backbone": "b0",
    "build_resnet_backbone": "18x",
    "build_vit_backbone": "mini",
}


@pytest.mark.parametrize("name", BACKBONES)
def test_9_backbones_and_configs_are_found_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.DEPTH", BACKBONES[name]])
    backbone = build_backbone(cfg)
    assert backbone.feature_dim > 0
    factors = layer_factors(backbone, 0.5)  # the first layers have lower rates than the last
    assert factors[next(iter(factors))] < max(factors.values()) == 0.5
    cfg.merge_from_file(str(ROOT / "configs/quickstart/stage1.yml"))  # its _BASE_ is relative to it


@pytest.mark.parametrize("opt", ["SGD", "AdamW"])
def test_10_resuming_forgets_nothing(tmp_path, opt):
    keys = {
        "SOLVER__OPT": opt, "TEST__EVAL_PERIOD": 1, "MODEL__FREEZE_LAYERS": "['embed']", "SOLVER__FREEZE_ITERS": 4,
    }  # fmt: skip
    whole = train(toy_cfg(tmp_path / "whole", **keys))
    cfg = toy_cfg(tmp_path / "parts", **keys)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, trainer_class=Interrupted)
    assert {"scaler", "rng", "scheduler"} <= read_checkpoint(tmp_path / "parts/model_0001.pth").keys()
    best = read_checkpoint(tmp_path / "parts/model_best.pth")["best_metric"]

    resumed = ToyTrainer(cfg)
    resumed.resume_or_load(resume=True)
    assert resumed.best_metric == best
    before = resumed.bare_model.embed.weight.clone()
    resumed.train()
    assert not torch.equal(before, resumed.bare_model.embed.weight)  # the four frozen iterations have ended
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, resumed.bare_model.state_dict()[name]), name
    assert (resumed.best_metric, resumed.results) == (whole.best_metric, whole.results)


REGISTRIES = (
    BACKBONE_REGISTRY, REID_HEADS_REGISTRY, META_ARCH_REGISTRY, DATASET_REGISTRY, SAMPLER_REGISTRY, OPTIMIZER_REGISTRY,
    SCHEDULE_REGISTRY,
)  # fmt: skip


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.name)
def test_11_a_missing_name_is_answered_with_those_there_are(registry):
    first = next(iter(registry))
    with pytest.raises(RegistryError) as error:
        registry.get(first[:-1] + "?")
    assert first in str(error.value).partition("Legal:")[0]
    assert all(name in str(error.value).partition("Legal:")[2] for name in registry)


def test_12_one_camera_is_explained_before_the_training(tmp_path):
    class OneCamera(ToyTrainer):
        @classmethod
        def build_test_datasets(cls, cfg):
            images = [PersonImage(image.path, image.person, 0) for image in toy_images()]
            return [ImageDataset([], images[:4], images[4:], "Toy")]

    with pytest.raises(NoValidQueryError, match="Toy: .*only under the query's own camera.*each camera has its own id"):
        OneCamera(toy_cfg(tmp_path))
