"""Projects with data of their own: data sets of tensors, loaders over them, and VDT's classes under their names."""

import os.path as osp
import re
from glob import glob

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from fastreid.config import ConfigError
from fastreid.data import build_datasets, build_reid_test_loader, build_reid_train_loader
from fastreid.data.build import _root
from fastreid.data.common import CommDataset
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset
from fastreid.data.samplers import NaiveIdentitySampler, TrainingSampler
from fastreid.data.transforms import build_transforms
from fastreid.engine import DefaultTrainer
from fastreid.evaluation import ClasEvaluator, ReidEvaluator, inference_on_dataset
from fastreid.modeling.meta_arch import build_model
from fastreid.utils import comm
from fastreid.utils.errors import ArgumentError
from fastreid.utils.registry import RegistryError


class AttrDataset(CommDataset):
    """Images with three attributes each, as a project adds labels to the items."""

    def __init__(self, img_items, transform=None, relabel=True):
        super().__init__(img_items, transform, relabel)
        self.attributes = {person: torch.tensor([person % 2, person > 2, 1]) for person in self.pids}

    def __getitem__(self, index):
        return super().__getitem__(index) | {"attributes": self.attributes[self.img_items[index][1]]}


@pytest.fixture
def items(client):
    """The training images as a project collects them."""
    dataset = DATASET_REGISTRY.get("Market1501")(root=str(client / "datasets"))
    if comm.is_main_process():
        dataset.show_train()
    return [(path, pid, camid) for path, pid, camid in dataset.train]


def test_images_are_tensors(cfg, items):
    for dataset in (build_reid_train_loader(cfg).dataset, build_reid_test_loader(cfg, "Market1501")[0].dataset):
        item = dataset[1]
        picture = np.rollaxis(np.asarray(item["images"].numpy(), dtype=np.uint8), 0, 3)
        assert picture.shape == (64, 32, 3) and item["images"].dtype == torch.float32 and item["images"].max() > 1
    raw = CommDataset(items)[3]
    assert raw["images"].dtype == torch.uint8 and raw["images"].shape == (3, 16, 8)
    assert np.array_equal(raw["images"].numpy().transpose(1, 2, 0), np.asarray(Image.open(items[3][0])))
    assert CommDataset(items).num_classes == 4 and CommDataset(items, relabel=False)[0]["targets"] == items[0][1]


@pytest.mark.parametrize("sampler", ["NaiveIdentitySampler", "TrainingSampler"])
def test_a_loader_over_a_given_set(cfg, items, sampler):
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    train_set = AttrDataset(items, build_transforms(cfg, is_train=True))
    loader = build_reid_train_loader(cfg, train_set=train_set, num_workers=0)
    assert loader.dataset is train_set and loader.iters_per_epoch == 2
    batch = next(iter(loader))
    assert batch["images"].shape == (4, 3, 64, 32) and batch["attributes"].shape == (4, 3)
    if sampler == "NaiveIdentitySampler":
        assert len(set(batch["targets"].tolist())) == 2


def test_loaders_without_a_config(items):
    train_set = CommDataset(items)
    loader = build_reid_train_loader(train_set, sampler=TrainingSampler(len(train_set), seed=3), total_batch_size=4)
    first = [next(iter(loader))["img_paths"] for _ in range(2)]
    assert first[0] == first[1]
    loader.sampler.fast_forward(1)  # a resumed run
    resumed = next(iter(loader))["img_paths"]
    fresh = build_reid_train_loader(train_set, sampler=TrainingSampler(8, True, 3), total_batch_size=4)
    both = iter(fresh)
    next(both)
    assert next(both)["img_paths"] == resumed
    ordered = build_reid_train_loader(
        train_set=train_set, sampler=TrainingSampler(8, shuffle=False), total_batch_size=2
    )
    assert next(iter(ordered))["img_paths"] == [items[0][0], items[1][0]]
    test_loader, num_query = build_reid_test_loader(test_set=train_set, test_batch_size=3, num_query=2)
    assert num_query == 2 and [len(batch["targets"]) for batch in test_loader] == [3, 3, 2]


def test_two_processes_draw_different_images(monkeypatch):
    drawn = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        stream = iter(TrainingSampler(6, seed=1))
        drawn.append([next(stream) for _ in range(3)])
    assert sorted(drawn[0] + drawn[1]) == list(range(6))


def test_own_transforms_sampler_and_batch_size_beside_a_config(cfg):
    loader = build_reid_train_loader(
        cfg,
        transforms=lambda picture: torch.from_numpy(np.array(picture.resize((4, 6)))).permute(2, 0, 1),
        sampler=TrainingSampler(8, shuffle=False),
        total_batch_size=8,
    )
    batch = next(iter(loader))
    assert batch["images"].shape == (8, 3, 6, 4) and batch["indices"].tolist() == list(range(8))
    loader, num_query = build_reid_test_loader(cfg, "Market1501", transforms=lambda picture: torch.zeros(1))
    assert num_query == 2 and next(iter(loader))["images"].shape == (8, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda cfg, items: build_reid_train_loader(CommDataset(items)), "needs a batch size: total_batch_size"),
        (
            lambda cfg, items: build_reid_train_loader(cfg, train_set=[{}], transforms=len),
            "transforms beside train_set",
        ),
        (lambda cfg, items: build_reid_train_loader(cfg, train_set=[{}] * 4), "list has no img_items"),
        (lambda cfg, items: build_reid_train_loader(total_batch_size=4), "a loader needs a config, or a data set"),
        (lambda cfg, items: build_reid_train_loader(3), "takes a config, or a data set"),
        (lambda cfg, items: build_reid_test_loader(cfg), "either a dataset_name or a test_set"),
        (lambda cfg, items: build_reid_test_loader(cfg, "Market1501", num_query=3), "num_query=3 is for a test_set"),
        (lambda cfg, items: TrainingSampler(0), "0 training images are fewer"),
        (lambda cfg, items: build_reid_train_loader(CommDataset(items), total_batch_size=0), "a batch of 0 images"),
    ],
)
def test_arguments_that_cannot_be_used(cfg, items, call, message):
    with pytest.raises((ArgumentError, ConfigError), match=message):
        call(cfg, items)


def add_attributes_config(cfg):
    """Keys of a project."""
    cfg.TEST.THRES = 0.5
    cfg.MODEL.LOSSES.BCE = type(cfg)({"SCALE": 1.0})


class ClasTrainer(DefaultTrainer):
    """Trains a classifier on a data set of its own and measures its accuracy, as FastClas does."""

    @classmethod
    def build_train_loader(cls, cfg):
        dataset = DATASET_REGISTRY.get("Market1501")(root=_root_now())
        train_set = CommDataset(dataset.train, build_transforms(cfg, is_train=True))
        return build_reid_train_loader(cfg, train_set=train_set, sampler=TrainingSampler(len(train_set)))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        dataset = DATASET_REGISTRY.get(dataset_name)(root=_root_now())
        dataset.show_test()
        test_set = CommDataset(dataset.train, build_transforms(cfg, is_train=False))
        return build_reid_test_loader(cfg, test_set=test_set)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_dir=None):
        data_loader, _ = cls.build_test_loader(cfg, dataset_name)
        return data_loader, ClasEvaluator(cfg, output_dir)


def _root_now():
    from fastreid.data import build

    return build._root


def test_a_classifier_with_own_keys_trains_on_a_given_set(cfg, caplog):
    add_attributes_config(cfg)
    cfg.merge_from_list([
        *("TEST.THRES", 0.7, "MODEL.LOSSES.BCE.SCALE", 2.0, "MODEL.HEADS.NAME", "ClasHead", "MODEL.WEIGHTS", ""),
        *("SOLVER.MAX_EPOCH", 1, "SOLVER.STEPS", [1]),
    ])  # fmt: skip
    assert cfg.TEST.THRES == 0.7 and cfg.MODEL.LOSSES.BCE.SCALE == 2.0
    caplog.set_level("INFO", "fastreid")
    trainer = ClasTrainer(cfg)
    assert trainer.cfg.MODEL.HEADS.NUM_CLASSES == 4
    figures = trainer.train()["Market1501"]
    assert figures["Acc@1"] == figures["metric"] and figures["metric"] in np.arange(0, 101, 12.5)  # of 8 images
    assert "Market1501, query: 2 people, 2 images" in caplog.text


def test_accuracy_is_counted_over_batches(cfg):
    evaluator = ClasEvaluator(cfg)
    evaluator.process({"targets": torch.tensor([0, 1])}, torch.tensor([[3.0, 1.0], [2.0, 1.0]]))
    evaluator.process({"targets": torch.tensor([1])}, torch.tensor([[0.0, 1.0]]))
    assert evaluator.evaluate() == {"Acc@1": pytest.approx(200 / 3), "metric": pytest.approx(200 / 3)}
    evaluator.reset()
    with pytest.raises(ArgumentError, match="no image was classified"):
        evaluator.evaluate()
    with pytest.raises(ArgumentError, match="MODEL.HEADS.NAME ClasHead"):
        evaluator.process({"targets": torch.tensor([1])}, torch.zeros(3))
    with pytest.raises(ArgumentError, match="leave out output_dir"):
        ClasEvaluator(cfg, "logs")


class Pairs(Dataset):
    """A test set without views."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"images": torch.full((3, 64, 32), 60.0 * (index % 2)), "targets": index % 2, "camids": index // 2,
                "img_paths": f"memory {index}"}  # fmt: skip


def test_an_evaluator_needs_no_views(cfg):
    cfg.DATASETS.TESTS = ("pairs",)
    loader, num_query = build_reid_test_loader(cfg, test_set=Pairs(), num_query=2)
    figures = inference_on_dataset(build_model(cfg), loader, ReidEvaluator(cfg, num_query))
    assert figures["Rank-1"] == 100 and figures["mAP"] == 100


def write_aerial(root):
    """Write images of two people in the folders of CARGO."""
    for split, cameras in {"train": (1, 6), "query": (2,), "gallery": (7, 8)}.items():
        for camera in cameras:
            folder = root / "CARGO" / split / f"Cam{camera}"
            folder.mkdir(parents=True)
            for person in (1, 2):
                Image.new("RGB", (8, 16)).save(folder / f"Cam{camera}_day_{person}_1.jpg")


def test_a_class_of_vdt_takes_its_own_name_when_it_says_so(cfg, tmp_path):
    registered = DATASET_REGISTRY.get("CARGO")

    class CARGO(ImageDataset):
        """The class of VDT's data set: tuples with the name of the view."""

        dataset_dir = "CARGO"

        def __init__(self, root="datasets", **kwargs):
            self.root = osp.join(root, self.dataset_dir)
            self.check_before_run([osp.join(self.root, split) for split in ("train", "query", "gallery")])
            train, query, gallery = (self.process_dir(split) for split in ("train", "query", "gallery"))
            super().__init__(train, query, gallery, **kwargs)

        def process_dir(self, split):
            for path in sorted(glob(osp.join(self.root, split, "*", "*.jpg"))):
                camera, person = map(int, re.search(r"Cam(\d+)_day_(\d+)_", path).groups())
                view, ids = ("Aerial" if camera <= 5 else "Ground"), (person, camera - 1)
                if split == "train":
                    ids = (f"{self.dataset_dir}_{person}", f"{self.dataset_dir}_{camera - 1}")
                yield (path, *ids, view)

    write_aerial(tmp_path)
    cfg.DATASETS.ROOT = str(tmp_path)
    with pytest.raises(RegistryError, match="'CARGO' is registered already; .*replace=True"):
        DATASET_REGISTRY.register()(CARGO)
    with pytest.raises(RegistryError, match="nothing to replace: unknown dataset 'CARG0'"):
        DATASET_REGISTRY.register(name="CARG0", replace=True)(CARGO)
    DATASET_REGISTRY.register(replace=True)(CARGO)
    try:
        (dataset,) = build_datasets(cfg, "CARGO")
        assert type(dataset) is CARGO and dataset.get_num_pids(dataset.train) == 2 and len(dataset.gallery) == 4
        assert {int(image.view) for image in dataset.train} == {0, 1}
        (tmp_path / "CARGO").rename(tmp_path / "mine")  # SKIP_MISSING looks for benchmarks of the library only
        CARGO.dataset_dir, cfg.DATASETS.SKIP_MISSING, cfg.DATASETS.NAMES = "mine", True, ("CARGO",)
        assert build_reid_train_loader(cfg, sampler=NaiveIdentitySampler(
            [0, 0, 1, 1], batch_size=4, num_instances=2, seed=0)).dataset.num_classes == 2  # fmt: skip
    finally:
        DATASET_REGISTRY.register(registered, name="CARGO", replace=True)


def test_the_root_of_data_sets_is_that_of_the_environment(monkeypatch):
    assert isinstance(_root, str)
    monkeypatch.setenv("FASTREID_DATASETS", "/data")
    assert _root_now() == "/data"
    monkeypatch.delenv("FASTREID_DATASETS")
    assert _root_now() == "datasets"
    with pytest.raises(ImportError, match="_rot"):
        from fastreid.data.build import _rot  # noqa: F401
