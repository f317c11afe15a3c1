"""New labels and orders between epochs: what is drawn, in every process, and after a resume."""

import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

import fastreid
from fastreid.config import ConfigError, get_cfg
from fastreid.data import build_feature_loader, build_reid_train_loader
from fastreid.data.samplers import SAMPLER_REGISTRY
from fastreid.data.transforms import PersonTransform, ResizeCropFlip
from fastreid.structures import Batch
from fastreid.utils.errors import ArgumentError

PEOPLE, EACH, BATCH = 4, 4, 4


@pytest.fixture
def cfg(tmp_path):
    """Four people with four images each."""
    lines = ["path,person"]
    for number in range(PEOPLE * EACH):
        Image.new("RGB", (8, 16), (10 * number, 0, 0)).save(tmp_path / f"{number:02d}.png")
        lines.append(f"{number:02d}.png,{number // EACH}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    cfg = get_cfg()
    cfg.merge_from_list([
        *("DATASETS.ROOT", str(tmp_path), "DATASETS.NAMES", ("csv:own.csv",), "DATALOADER.NUM_WORKERS", 0),
        *("SOLVER.IMS_PER_BATCH", BATCH, "INPUT.SIZE_TRAIN", [16, 8], "INPUT.SIZE_TEST", [16, 8]),
        *("DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler", "DATALOADER.NUM_INSTANCE", 2, "INPUT.FLIP.ENABLED", True),
        *("INPUT.REA.ENABLED", True, "MODEL.DEVICE", "cpu"),
    ])  # fmt: skip
    return cfg


def indices(loader, count):
    return [batch["indices"].tolist() for batch in islice(loader, count)]


def alike(first, second):
    for ours, theirs in zip(first, second, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name]


NEW_LABELS = [5, 5, 5, 5, 6, 6, 6, 6, 5, 5, 5, 5, 7, 7, -1, -1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_new_labels_are_drawn_by_and_are_the_targets(cfg, num_workers):
    cfg.DATALOADER.NUM_WORKERS = num_workers
    loader = build_reid_train_loader(cfg)
    assert loader.dataset.num_classes == PEOPLE
    loader.set_plan(labels=NEW_LABELS, num_batches=3)
    assert loader.dataset.num_classes == 3
    seen = set()
    for batch in islice(loader, 40):
        assert batch["targets"].tolist() == [NEW_LABELS[index] for index in batch["indices"]]
        assert sorted(batch["targets"].bincount().tolist())[-2:] == [2, 2]
        assert batch["position"].tolist() == [0, 1, 2, 3]
        seen |= set(batch["indices"].tolist())
    assert seen == set(range(14))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_new_order_is_repeated(cfg, num_workers):
    cfg.DATALOADER.NUM_WORKERS = num_workers
    loader = build_reid_train_loader(cfg)
    loader.set_plan(order=[3, 1, 4, 1, 5, 9], num_batches=2)
    batches = list(islice(loader, 3))
    assert [batch["indices"].tolist() for batch in batches] == [[3, 1, 4, 1], [5, 9, 3, 1], [4, 1, 5, 9]]
    assert batches[0]["targets"].tolist() == [0, 0, 1, 0]
    loader.set_plan(labels=[9] * 16, order=[3, 1, 4, 1, 5, 9], num_batches=2)
    assert next(iter(loader))["targets"].tolist() == [9] * 4


@pytest.mark.parametrize("plan", [{"labels": NEW_LABELS}, {"order": list(range(15))}])
def test_a_resumed_run_goes_on_in_the_middle_of_an_epoch(cfg, plan):
    loader = build_reid_train_loader(cfg)
    list(islice(loader, 3))
    loader.set_plan(**plan, num_batches=3)
    expected = list(islice(loader, 5))
    cfg.DATALOADER.NUM_WORKERS = 2
    resumed = build_reid_train_loader(cfg)
    resumed.set_plan(**plan, num_batches=3)
    resumed.fast_forward(5)
    alike(islice(resumed, 3), expected[2:])


def test_the_augmentations_go_on(cfg):
    """An order that repeats the old one changes nothing at all."""
    loader = build_reid_train_loader(cfg)
    expected = list(islice(loader, 5))
    order = [index for batch in expected[2:] for index in batch["indices"].tolist()]
    loader.set_plan(order=order, num_batches=2)
    alike(islice(loader, 3), expected[2:])


def test_each_relabelling_draws_another_order(cfg):
    loader = build_reid_train_loader(cfg)
    labels = loader.dataset.labels
    before, found = indices(loader, 4), []
    for start in (0, 4, 8):
        loader.set_plan(labels=labels, num_batches=start)
        found.append(indices(loader, 4))
    assert found[0] == before and found[1] != before and found[2] not in (found[1], before)


def test_a_plan_of_nothing_changes_nothing(cfg):
    loader = build_reid_train_loader(cfg)
    before = indices(loader, 4)
    loader.set_plan(num_batches=2)
    assert indices(loader, 4) == before


def test_wrong_plans_are_refused(cfg):
    loader = build_reid_train_loader(cfg)
    with pytest.raises(ArgumentError, match="16 training images cannot have the index 16"):
        loader.set_plan(order=[0, 16], num_batches=0)
    with pytest.raises(ArgumentError, match="1 labels for 16"):
        loader.set_plan(labels=[1], num_batches=0)
    with pytest.raises(ConfigError, match="1 training people are fewer than the 2"):
        loader.set_plan(labels=[1] * 10 + [-1] * 6, num_batches=0)


def test_a_user_defined_sampler_cannot_leave_images_out(cfg):
    SAMPLER_REGISTRY.register(lambda labels: range(len(labels)), name="Plain")
    try:
        cfg.DATALOADER.SAMPLER_TRAIN = "Plain"
        loader = build_reid_train_loader(cfg)
        loader.set_plan(labels=[3] * 16, num_batches=0)
        assert indices(loader, 1) == [[0, 1, 2, 3]]
        with pytest.raises(ArgumentError, match="derived from .*EndlessSampler"):
            loader.set_plan(labels=[3] * 15 + [-1], num_batches=0)
    finally:
        del SAMPLER_REGISTRY._objects["Plain"]


def test_processes_share_the_batches_of_a_plan(cfg, monkeypatch):
    def found(rank, world_size):
        monkeypatch.setattr("fastreid.utils.comm.get_rank", lambda: rank)
        monkeypatch.setattr("fastreid.utils.comm.get_world_size", lambda: world_size)
        loader = build_reid_train_loader(cfg)
        loader.set_plan(labels=NEW_LABELS, num_batches=2)
        by_labels = list(islice(loader, 2))
        loader.set_plan(order=range(16), num_batches=2)
        return by_labels + list(islice(loader, 2))

    whole, shares = found(0, 1), [found(rank, 2) for rank in (0, 1)]
    for batch, *parts in zip(whole, *shares, strict=True):
        rows = {int(p): image for part in parts for p, image in zip(part["position"], part["images"], strict=True)}
        assert torch.equal(torch.stack([rows[position] for position in range(BATCH)]), batch["images"])


def test_iterations_per_epoch_may_be_a_key(cfg):
    assert build_reid_train_loader(cfg).iters_per_epoch == 4
    cfg.SOLVER.ITERS_PER_EPOCH = 7
    assert build_reid_train_loader(cfg).iters_per_epoch == 7


def test_a_training_batch_has_the_declared_keys(cfg):
    batch = next(iter(build_reid_train_loader(cfg)))
    assert batch.keys() == Batch.__annotations__.keys() - {"attributes"}  # of data sets that have them
    for name in batch.keys() - {"images", "img_paths"}:
        assert batch[name].dtype == torch.int64 and batch[name].shape == (BATCH,), name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_further_views_of_a_sample(cfg, num_workers):
    expected = list(islice(build_reid_train_loader(cfg), 3))
    cfg.DATALOADER.NUM_WORKERS = num_workers
    views = {"diffusion_images": PersonTransform(ResizeCropFlip((32, 16)))}
    for batch, alone in zip(build_reid_train_loader(cfg, views), expected, strict=False):
        assert torch.equal(batch["images"], alone["images"])
        assert batch["diffusion_images"].shape == (BATCH, 3, 32, 16)
        assert (batch["diffusion_images"][:, 0, 0, 0] == 10 * batch["indices"]).all()
    images = build_reid_train_loader(cfg).dataset.images
    (batch, *_) = build_feature_loader(cfg, images, views)
    assert batch["diffusion_images"].dtype == torch.float32 and batch["images"].shape[2:] == (16, 8)


def files_that_run(call):
    """The files of the library in which `call` runs code."""
    files, home = set(), Path(fastreid.__file__).parent

    def note(frame, event, arg):
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(home):
            files.add(file.relative_to(home).as_posix())

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files


def test_the_way_from_a_path_to_a_tensor_takes_at_most_six_files(cfg):
    """Of one item and of one batch; the samplers, which give the order, are not counted."""
    loader = build_reid_train_loader(cfg)
    draw, batches = next(iter(loader.sampler)), iter(loader)
    of_item, of_batch = files_that_run(lambda: loader.dataset[draw]), files_that_run(lambda: next(batches))
    way = {file for file in of_batch if "samplers" not in file}
    assert {"data/dataset.py", "data/images.py"} <= of_item <= way and "data/loader.py" in way
    assert len(way) <= 6, way
