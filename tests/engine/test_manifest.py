"""What a run writes about itself."""

import json
import os
import sys

import pytest
import torch

from fastreid.data.datasets import ImageDataset
from fastreid.engine.manifest import evaluation_manifest, names_of
from fastreid.utils.manifest import sha256_of
from tests.engine.test_defaults import Interrupted
from tests.engine.toys import ToyTrainer, toy_cfg, train


def manifest_in(folder, name="manifest.json"):
    return json.loads((folder / name).read_text())


def test_a_training_says_what_it_came_from(tmp_path):
    weights = tmp_path / "w.pth"
    torch.save({"model": ToyTrainer.build_model(toy_cfg("x", MODEL__HEADS__NUM_CLASSES=4)).state_dict()}, weights)
    trainer = train(toy_cfg(tmp_path / "run", MODEL__WEIGHTS=str(weights)))
    found = manifest_in(tmp_path / "run")
    assert found["config"]["SOLVER"]["BASE_LR"] == 0.05 and found["config"]["MODEL"]["HEADS"]["NUM_CLASSES"] == 4
    assert found["seed"] == 1111
    assert found["weights"] == {"MODEL.WEIGHTS": {"path": str(weights), "sha256": sha256_of(weights)}}
    assert found["datasets"]["all training images"]["train"]["images"] == len(trainer.data_loader.dataset)
    assert set(found["datasets"]["Toy"]) == {"query", "gallery"} and found["datasets"]["Toy"]["query"]["people"] == 4
    (session,) = found["sessions"]
    assert session["command"] == [sys.executable, *sys.argv] and session["versions"]["torch"] == str(torch.__version__)
    assert (session["processes"], session["status"], session["iterations_done"]) == (1, "finished", 12)
    assert session["started"] <= session["ended"] and session["devices"]["CPU cores"]
    assert session["deterministic"] is False and set(session["code"]) == {"version", "commit", "changed"}


def test_a_resumed_training_adds_its_session(tmp_path):
    cfg = toy_cfg(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, trainer_class=Interrupted)
    assert manifest_in(tmp_path)["sessions"][0]["status"].startswith("stopped: KeyboardInterrupt")
    train(cfg, resume=True)
    first, second = manifest_in(tmp_path)["sessions"]
    assert (first["first_iteration"], first["iterations_done"]) == (0, 7)
    assert (second["first_iteration"], second["iterations_done"], second["status"]) == (6, 12, "finished")
    train(cfg)  # anew
    assert len(manifest_in(tmp_path)["sessions"]) == 1


def test_the_images_of_a_subset_are_in_a_file_with_its_checksum(tmp_path):
    train(toy_cfg(tmp_path / "all"))
    assert "subset" not in manifest_in(tmp_path / "all") and not (tmp_path / "all/training_images.txt").exists()
    keys = {"DATASETS__SUBSET__MODE": "few_shot", "DATASETS__SUBSET__RATIO": 0.5, "DATASETS__SUBSET__SEED": 3}
    trainer = train(toy_cfg(tmp_path / "few", **keys))
    found = manifest_in(tmp_path / "few")["subset"]
    checksum = sha256_of(tmp_path / "few/training_images.txt")
    assert found == {
        "mode": "few_shot",
        "ratio": 0.5,
        "seed": 3,
        "images": len(trainer.loader.images),
        "file": "training_images.txt",
        "sha256": checksum,
    }
    lines = (tmp_path / "few/training_images.txt").read_text().splitlines()
    assert lines == sorted(image.path for image in trainer.loader.images)


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1, "sessions": 3}', '{"format": 1}'])
def test_a_damaged_manifest_is_kept_and_reported(tmp_path, content, caplog):
    cfg = toy_cfg(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, trainer_class=Interrupted)
    (tmp_path / "manifest.json").write_text(content)
    train(cfg, resume=True)
    assert "manifest.json cannot be read; it is now manifest_damaged.json" in caplog.text
    assert (tmp_path / "manifest_damaged.json").read_text() == content
    assert len(manifest_in(tmp_path)["sessions"]) == 1


def test_an_evaluation_has_a_manifest_of_its_own(tmp_path):
    train(toy_cfg(tmp_path))
    before = manifest_in(tmp_path)
    with pytest.raises(OSError, match="^stopped$"), evaluation_manifest(toy_cfg(tmp_path), dict):
        assert manifest_in(tmp_path, "manifest_evaluation.json")["sessions"][0]["status"] == "running"
        raise OSError("stopped")
    assert manifest_in(tmp_path, "manifest_evaluation.json")["sessions"][0]["status"] == "stopped"
    assert manifest_in(tmp_path) == before


def test_names_of_people_and_cameras_are_in_the_manifest(tmp_path):
    own, tuples = ImageDataset([], [], [], "csv:a.csv"), ImageDataset([("a.jpg", "bob", "c1")], [], [], "Mine")
    own.person_names, own.camera_names = {0: "007", 1: os.fsdecode(b"\xff")}, {0: "roof", 1: "street"}
    assert tuples.train
    with evaluation_manifest(toy_cfg(tmp_path), dict, lambda: names_of([tuples, own], [own])):
        pass
    assert manifest_in(tmp_path, "manifest_evaluation.json")["names"] == {
        "csv:a.csv": {"people": {"007": 0, os.fsdecode(b"\xff"): 1}, "cameras": {"roof": 0, "street": 1}},
        "Mine": {"training people": {"bob": 0}, "training cameras": {"c1": 0}},
    }


def test_a_training_of_own_images_has_their_names(tmp_path):
    class Named(ToyTrainer):
        @classmethod
        def build_test_datasets(cls, cfg):
            toys = super().build_test_datasets(cfg)
            toys[0].person_names = {0: "ann"}
            return toys

    train(toy_cfg(tmp_path), trainer_class=Named)
    assert manifest_in(tmp_path)["names"] == {toy_cfg(tmp_path).DATASETS.TESTS[0]: {"people": {"ann": 0}}}
