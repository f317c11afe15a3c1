"""Loaders over a benchmark on disk."""

from itertools import islice

import pytest
import torch
from PIL import Image

from fastreid.config import ConfigError, check_ranges, get_cfg
from fastreid.data import (
    build_datasets,
    build_feature_loader,
    build_reid_test_loader,
    build_reid_train_loader,
    datasets_root,
)
from fastreid.data.datasets import DATASET_REGISTRY, DatasetError, ImageDataset
from fastreid.structures import PersonImage
from fastreid.utils.registry import RegistryError


@pytest.fixture
def cfg(tmp_path):
    """Six people, four images each (two aerial), in CARGO's layout; three query and gallery images."""
    for split, people, cameras in (
        ("train", range(1, 7), (1, 2, 6, 9)),
        ("query", (7,), (3,)),
        ("gallery", (7, 8), (10,)),
    ):
        for person in people:
            for index, camera in enumerate(cameras):
                folder = tmp_path / "CARGO" / split / f"Cam{camera}"
                folder.mkdir(parents=True, exist_ok=True)
                colour = (person * 20, camera * 10, index * 30)
                Image.new("RGB", (20, 40), colour).save(folder / f"Cam{camera}_day_{person}_{index}.jpg")
    cfg = get_cfg()
    cfg.merge_from_list([
        *("DATASETS.ROOT", str(tmp_path), "DATASETS.NAMES", ("CARGO",), "DATASETS.TESTS", ("CARGO",)),
        *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 8, "INPUT.SIZE_TRAIN", [32, 16]),
        *("INPUT.SIZE_TEST", [32, 16], "DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler", "MODEL.DEVICE", "cpu"),
    ])  # fmt: skip
    return cfg


def test_people_of_two_data_sets_are_different_classes(cfg, tmp_path):
    Image.new("RGB", (8, 16)).save(tmp_path / "1.jpg")
    (tmp_path / "own.csv").write_text("path,person\n1.jpg,1\n")  # CARGO has a person 1, too
    cfg.merge_from_list(["DATASETS.NAMES", ("CARGO", "csv:own.csv")])
    dataset = build_reid_train_loader(cfg).dataset
    assert dataset.num_classes == 7 and len(set(dataset.labels)) == 7
    own, theirs = ({i.camera for i in dataset.images if ("CARGO" in i.path) is first} for first in (False, True))
    assert own and theirs and not own & theirs  # nor are their cameras the same


def test_missing_benchmarks_are_left_out_on_request(cfg, caplog):
    cfg.merge_from_list(["DATASETS.NAMES", ("CARGO", "Market1501"), "DATASETS.TESTS", ("Market1501", "CARGO")])
    with pytest.raises(DatasetError, match="Market1501"):
        build_reid_train_loader(cfg)
    cfg.merge_from_list(["DATASETS.SKIP_MISSING", True])
    assert build_reid_train_loader(cfg).dataset.num_classes == 6
    assert [dataset.name for dataset in build_datasets(cfg, cfg.DATASETS.TESTS)] == ["CARGO"]
    assert "Market1501 is left out, as there is no folder" in caplog.text
    cfg.merge_from_list(["DATASETS.TESTS", ("Market1501", "MSMT17")])
    with pytest.raises(DatasetError, match="DATASETS.TESTS: none of Market1501, MSMT17 is there: no folder .*ROOT"):
        build_datasets(cfg, cfg.DATASETS.TESTS)


@pytest.mark.parametrize("names", [("CARGO", "CARGO_AG"), ("CUHK03_labeled", "CUHK03_detected")])
def test_the_same_people_are_not_trained_on_twice(cfg, names):
    cfg.merge_from_list(["DATASETS.NAMES", names])
    with pytest.raises(ConfigError, match=f"has {' and '.join(names)}, which train on the same people; name one"):
        build_reid_train_loader(cfg)


def test_no_data_set_to_train_on_names_the_key(cfg):
    cfg.merge_from_list(["DATASETS.NAMES", ()])
    with pytest.raises(ConfigError, match="DATASETS.NAMES is empty"):
        build_reid_train_loader(cfg)


@pytest.mark.parametrize("key", ["DATASETS.NAMES", "DATASETS.TESTS"])
def test_an_unknown_data_set_names_its_key(cfg, key):
    cfg.merge_from_list(["DATASETS.NAMES", (), "DATASETS.TESTS", (), key, ("CARG0",)])
    with pytest.raises(RegistryError, match=f"unknown dataset in {key} 'CARG0'"):
        build_datasets(cfg, ["CARG0"])


def test_a_set_without_training_images_says_so(cfg, tmp_path):
    Image.new("RGB", (8, 16)).save(tmp_path / "1.jpg")
    (tmp_path / "own.csv").write_text("path,person,camera,split\n1.jpg,1,1,query\n")
    cfg.merge_from_list(["DATASETS.NAMES", ("csv:own.csv",)])
    with pytest.raises(DatasetError, match="csv:own.csv has no training images"):
        build_reid_train_loader(cfg)


def test_combineall_trains_on_the_test_people_too(cfg):
    cfg.merge_from_list(["DATASETS.COMBINEALL", True])
    assert build_reid_train_loader(cfg).dataset.num_classes == 8


def people_of(cfg, *part):
    cfg.merge_from_list(["DATASETS.PEOPLE", list(part)])
    dataset = build_reid_train_loader(cfg).dataset
    assert sorted(set(dataset.labels)) == list(range(dataset.num_classes))
    return {image.person for image in dataset.images}


def test_a_part_of_the_people_is_the_same_for_every_seed_and_order(cfg):
    everybody = people_of(cfg, 0.0, 1.0)
    first, others = people_of(cfg, 0.0, 0.5), people_of(cfg, 0.5, 1.0)
    assert len(first) == len(others) == 3 and not first & others and first | others == everybody
    cfg.merge_from_list(["MODEL.SEED", 99])
    assert people_of(cfg, 0.0, 0.5) == first
    assert people_of(cfg, 0.0, 0.7) > first  # a larger part has the people of a smaller one
    with pytest.raises(ConfigError, match=r"DATASETS.PEOPLE \[0.0, 0.05\] leaves none of the 6 training people"):
        people_of(cfg, 0.0, 0.05)


@pytest.mark.parametrize("part", [[0.5], [0.5, 0.5], [0.7, 0.2], [0.0, 1.5]])
def test_a_part_that_is_none_is_refused(cfg, part):
    cfg.merge_from_list(["DATASETS.PEOPLE", part])
    with pytest.raises(ConfigError, match="DATASETS.PEOPLE must be"):
        check_ranges(cfg)


def test_a_subset_is_of_each_data_set_and_leaves_query_and_gallery_alone(cfg, tmp_path):
    for person, number in [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)]:
        Image.new("RGB", (8, 16)).save(tmp_path / f"{person}_{number}.jpg")
    rows = [f"{person}_{number}.jpg,{person}" for person, number in [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)]]
    (tmp_path / "own.csv").write_text("\n".join(["path,person", *rows]))
    cfg.merge_from_list(["DATASETS.NAMES", ("CARGO", "csv:own.csv"), "DATASETS.SUBSET.RATIO", 0.5])
    cfg.merge_from_list(["DATASETS.SUBSET.MODE", "small_scale"])
    loader = build_reid_train_loader(cfg)
    assert loader.dataset.num_classes == 3 + 1 and len(loader.dataset.images) in (12 + 4, 12 + 2)
    (tested,) = build_datasets(cfg, ["CARGO"])
    assert len(tested.query) + len(tested.gallery) == 3
    cfg.merge_from_list(["DATASETS.SUBSET.MODE", "few_shot"])
    loader = build_reid_train_loader(cfg)
    assert loader.dataset.num_classes == 6 + 2 and len(loader.dataset.images) == 6 * 2 + 2 + 2


def test_a_class_that_does_not_ask_for_the_root(cfg):
    DATASET_REGISTRY.register(lambda: ImageDataset([("a.jpg", 1, 1)], [], []), name="Rootless")
    try:
        (dataset,) = build_datasets(cfg, ["Rootless"])
        assert dataset.name == "Rootless" and len(dataset.train) == 1
    finally:
        del DATASET_REGISTRY._objects["Rootless"]


def test_training_batches(cfg):
    loader = build_reid_train_loader(cfg)
    assert loader.dataset.num_classes == 6 and loader.iters_per_epoch == 3
    for batch in islice(loader, 7):  # more than an epoch: it is endless
        assert batch["images"].shape == (8, 3, 32, 16) and batch["images"].dtype == torch.float32
        assert batch["images"].max() > 2  # 0..255, the model normalises
        assert sorted(batch["targets"].bincount().tolist())[-2:] == [4, 4]
        assert set(batch["targets"].tolist()) <= set(range(6))
        assert ((batch["camids"] < 5) == (batch["viewids"] == 0)).all()


def test_the_order_follows_from_the_seed_and_can_be_fast_forwarded(cfg):
    def paths(skip=0):
        loader = build_reid_train_loader(cfg)
        loader.sampler.fast_forward(skip)
        return [batch["img_paths"] for batch in islice(loader, 3)]

    first = paths()
    assert first == paths() and first[1:] == paths(1)[:2]
    cfg.MODEL.SEED = 2
    assert first != paths()


def test_feature_loaders_keep_the_order_and_every_image(cfg):
    loader, num_query = build_reid_test_loader(cfg, "CARGO")
    (batch,) = loader
    assert num_query == 1 and batch["targets"].tolist() == [7, 7, 8]
    assert build_feature_loader(cfg, loader.dataset.images).batch_size == cfg.TEST.IMS_PER_BATCH


def test_combineall_trains_on_query_and_gallery_too(cfg):
    cfg.DATASETS.COMBINEALL = True
    assert build_reid_train_loader(cfg).dataset.num_classes == 8


def test_the_root_is_the_key_then_the_environment(cfg, monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", "/elsewhere")
    assert datasets_root(cfg) == cfg.DATASETS.ROOT
    cfg.DATASETS.ROOT = ""
    assert datasets_root(cfg) == "/elsewhere"
    monkeypatch.delenv("FASTREID_DATASETS")
    assert datasets_root(cfg) == "datasets"


def test_unknown_datasets_and_samplers_get_near_matches(cfg):
    cfg.DATASETS.NAMES = ("CARGO_GA",)
    with pytest.raises(KeyError, match="CARGO_AG"):
        build_reid_train_loader(cfg)
    cfg.DATASETS.NAMES, cfg.DATALOADER.SAMPLER_TRAIN = ("CARGO",), "IdentitySampler"
    with pytest.raises(KeyError, match="did you mean 'NaiveIdentitySampler'"):
        build_reid_train_loader(cfg)


def test_samplers_get_what_they_ask_for_of_the_images(cfg, tmp_path):
    cfg.DATALOADER.SAMPLER_TRAIN = "ViewBalancedSampler"
    for _, batch in zip(range(3), build_reid_train_loader(cfg), strict=False):
        for person in batch["targets"].unique():
            assert sorted(batch["viewids"][batch["targets"] == person].tolist()) == [0, 0, 1, 1]
    for number in range(4):
        Image.new("RGB", (8, 16)).save(tmp_path / f"{number}.jpg")
    (tmp_path / "own.csv").write_text("path,person\n" + "".join(f"{n}.jpg,{n % 2}\n" for n in range(4)))
    cfg.merge_from_list(["DATASETS.NAMES", ("CARGO", "csv:own.csv"), "DATALOADER.NUM_INSTANCE", 2])
    cfg.merge_from_list(["DATALOADER.SAMPLER_TRAIN", "SetReWeightSampler", "DATALOADER.SET_WEIGHT", [3, 1]])
    batch = next(iter(build_reid_train_loader(cfg)))
    assert sum("CARGO" in path for path in batch["img_paths"]) == 6


def test_weights_of_sets_are_not_ignored(cfg):
    cfg.DATALOADER.SET_WEIGHT = [1]
    with pytest.raises(ConfigError, match="NaiveIdentitySampler does not weigh data sets: take .* SetReWeightSampler"):
        build_reid_train_loader(cfg)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmentations_do_not_depend_on_the_workers(cfg, num_workers):
    cfg.merge_from_list(["INPUT.FLIP.ENABLED", True, "INPUT.REA.ENABLED", True, "INPUT.CJ.ENABLED", True])
    expected = [batch["images"] for batch in islice(build_reid_train_loader(cfg), 4)]
    cfg.DATALOADER.NUM_WORKERS = num_workers
    loader = build_reid_train_loader(cfg)
    loader.sampler.fast_forward(2)  # as a resumed run does
    for ours, theirs in zip(islice(loader, 2), expected[2:], strict=True):
        assert torch.equal(ours["images"], theirs)


def test_no_more_workers_than_batches_and_none_for_one(cfg):
    images = [PersonImage("a.jpg", 0, 0)] * 9
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 4])
    for size, expected in ((9, 0), (8, 2), (4, 3), (1, 4)):
        cfg.merge_from_list(["TEST.IMS_PER_BATCH", size])
        assert build_feature_loader(cfg, images).num_workers == expected
    assert build_reid_train_loader(cfg).num_workers == 4
