"""Images that cannot be read stop the run, or are replaced or left out, and are counted."""

import logging
from itertools import islice

import pytest
import torch
from PIL import Image

from fastreid.config import ConfigError, get_cfg
from fastreid.data import build_feature_loader, build_reid_train_loader
from fastreid.data.images import ImageAccessError, ImageReadError
from fastreid.structures import PersonImage
from fastreid.utils.skipped import describe_skipped

PEOPLE, EACH = 4, 5


@pytest.fixture
def cfg(tmp_path):
    """Four people with five images each: their red is the person, their green the image."""
    lines = ["path,person"]
    for person in range(PEOPLE):
        for number in range(EACH):
            Image.new("RGB", (8, 16), (40 * person, 40 * number, 0)).save(tmp_path / f"{person}_{number}.png")
            lines.append(f"{person}_{number}.png,{person}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    cfg = get_cfg()
    cfg.merge_from_list([
        *("DATASETS.ROOT", str(tmp_path), "DATASETS.NAMES", ("csv:own.csv",), "DATALOADER.NUM_WORKERS", 0),
        *("SOLVER.IMS_PER_BATCH", 8, "INPUT.SIZE_TRAIN", [16, 8], "INPUT.SIZE_TEST", [16, 8], "TEST.IMS_PER_BATCH", 4),
        *("DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler", "MODEL.DEVICE", "cpu", "INPUT.FLIP.ENABLED", True),
        *("DATALOADER.BAD_IMAGES", "skip"),
    ])  # fmt: skip
    return cfg


def spoil(tmp_path, *names):
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    return {str(tmp_path / f"{name}.png") for name in names}


def batches(cfg, count, first=0):
    loader = build_reid_train_loader(cfg)
    loader.sampler.fast_forward(first)
    return list(islice(loader, count)), loader


def test_other_policies_are_refused_with_the_legal_ones(cfg):
    cfg.DATALOADER.BAD_IMAGES = "skp"
    for build in (lambda: build_reid_train_loader(cfg), lambda: build_feature_loader(cfg, [])):
        with pytest.raises(ConfigError, match="DATALOADER.BAD_IMAGES 'skp'; did you mean 'skip'.* Legal: raise, skip"):
            build()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_raise_stops_the_run_and_names_the_image(cfg, tmp_path, num_workers):
    cfg.merge_from_list(["DATALOADER.BAD_IMAGES", "raise", "DATALOADER.NUM_WORKERS", num_workers])
    (path,) = spoil(tmp_path, "2_3")
    with pytest.raises(ImageReadError, match=f"cannot read image {path}: not an image"):
        batches(cfg, 8)


def test_nothing_changes_without_bad_images(cfg):
    found, loader = batches(cfg, 4)
    cfg.DATALOADER.BAD_IMAGES = "raise"
    for ours, theirs in zip(found, batches(cfg, 4)[0], strict=True):
        assert ours.keys() == theirs.keys() and torch.equal(ours["images"], theirs["images"])
    assert loader.skipped == {}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_shows_another_image_of_the_same_person(cfg, tmp_path, num_workers):
    cfg.DATALOADER.NUM_WORKERS = num_workers
    bad = spoil(tmp_path, "2_3", "2_4", "0_0")
    found, loader = batches(cfg, 12)
    for batch in found:
        assert batch["targets"].bincount().tolist().count(4) == 2 and "skipped" not in batch
        assert (batch["images"][:, 0, 0, 0] == 40 * batch["targets"]).all()  # the pixels are the person's, too
    shown = [path for batch in found for path in batch["img_paths"]]
    assert not bad & set(shown) and len(set(shown)) == PEOPLE * EACH - 3
    assert loader.skipped.keys() == bad and set(loader.skipped.values()) == {"not an image, or of an unknown kind"}


def test_a_person_without_images_is_replaced_by_others(cfg, tmp_path):
    bad = spoil(tmp_path, *(f"1_{number}" for number in range(EACH)))
    found, loader = batches(cfg, 8)
    assert not any(1 in batch["targets"] for batch in found) and loader.skipped.keys() == bad
    assert all(len(batch["images"]) == 8 for batch in found)


def test_no_image_at_all_is_an_error(cfg, tmp_path):
    spoil(tmp_path, *(f"{person}_{number}" for person in range(PEOPLE) for number in range(EACH)))
    with pytest.raises(ImageReadError, match="no image to train on can be read; .* could not be read .*: not an image"):
        batches(cfg, 1)


def test_a_resumed_run_takes_the_same_images_whatever_its_workers(cfg, tmp_path):
    spoil(tmp_path, "2_3", "2_4", "0_0")
    expected, _ = batches(cfg, 6)
    cfg.DATALOADER.NUM_WORKERS = 2
    for ours, theirs in zip(batches(cfg, 3, first=3)[0], expected[3:], strict=True):
        assert ours["img_paths"] == theirs["img_paths"] and torch.equal(ours["images"], theirs["images"])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_leaves_out_what_cannot_be_read(cfg, tmp_path, num_workers, caplog):
    cfg.DATALOADER.NUM_WORKERS = num_workers
    images = [PersonImage(str(tmp_path / f"{p}_{n}.png"), p, n) for p in range(3) for n in range(4)]
    bad = spoil(tmp_path, "0_1", *(f"1_{number}" for number in range(4)))  # of one batch nothing is left
    loader = build_feature_loader(cfg, images)
    with caplog.at_level(logging.WARNING):
        found = list(loader)
    assert [path for batch in found for path in batch["img_paths"]] == [i.path for i in images if i.path not in bad]
    assert [len(batch["images"]) for batch in found] == [3, 4]
    assert loader.skipped.keys() == bad
    assert len([message for message in caplog.messages if "skipping image" in message]) == 5


def test_what_the_file_system_does_not_give_is_never_skipped(cfg, tmp_path):
    (tmp_path / "0_0.png").unlink()
    (tmp_path / "0_0.png").mkdir()
    with pytest.raises(ImageAccessError):
        list(build_feature_loader(cfg, [PersonImage(str(tmp_path / "0_0.png"), 0, 0)]))


def test_the_sentence_counts_all_and_names_a_few():
    said = describe_skipped({f"{number}.jpg": "cut off" for number in range(1234)})
    assert said.startswith("1,234 images could not be read (0.jpg: cut off; 1.jpg: ") and said.count("cut off") == 5
    assert describe_skipped({"a.jpg": "why"}) == "1 image could not be read (a.jpg: why)"
