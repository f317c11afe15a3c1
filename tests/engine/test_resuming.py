"""A run is resumed as what it was: other data, another configuration, another optimiser are refused by name."""

import dataclasses
import json
import logging

import pytest
import torch
from torch.utils.data import DataLoader

from fastreid.config import get_cfg
from fastreid.engine import default_argument_parser
from fastreid.engine.resuming import FREE, ResumeError, seed_of_run
from fastreid.utils.checkpoint import WeightsError, read_checkpoint
from tests.engine.toys import ITERS_PER_EPOCH, ToyImages, ToySampler, ToyTrainer, toy_cfg, toy_images, train


def trainer_on(images):
    """The toy's trainer, on these images."""

    class Trainer(ToyTrainer):
        @classmethod
        def build_train_loader(cls, cfg):
            loader = DataLoader(ToyImages(images), batch_size=8, sampler=ToySampler(len(images), 8))
            loader.iters_per_epoch = max(1, len(images) // 8)
            return loader

    return Trainer


def permuted(images):
    people = [image.person for image in images]
    return [dataclasses.replace(image, person=people[i - 1]) for i, image in enumerate(images)]


def paths_exchanged(images):
    paths = [image.path for image in images]
    paths[0], paths[1] = paths[1], paths[0]
    return [dataclasses.replace(image, path=path) for image, path in zip(images, paths, strict=True)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (permuted, "which person a training image shows changed"),
        (paths_exchanged, "the order of the training images changed; which person a training image shows changed"),
        (lambda images: images[::-1], "the order of the training images changed"),
        (lambda images: images[:-1], r"the training images changed \(24 images of 4 people before, 23 images"),
        (lambda images: [dataclasses.replace(i, camera=i.camera + 1) for i in images], "the cameras of the training"),
    ],
)
def test_other_data_is_refused(tmp_path, change, said):
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=2))
    with pytest.raises(ResumeError, match=f"model_final.pth is of a run that trains on something else: {said}"):
        train(toy_cfg(tmp_path), resume=True, trainer_class=trainer_on(change(toy_images())))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("SOLVER.BASE_LR", 0.01, "SOLVER.BASE_LR was 0.05, is 0.01"),
        ("SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.WEIGHT_DECAY was 0.0005, is 0.1"),
        ("MODEL.SEED", 7, "MODEL.SEED was 1111, is 7"),
        ("MODEL.LOSSES.NAME", ("TripletLoss",), r"MODEL.LOSSES.NAME was \['CrossEntropyLoss'\], is \['TripletLoss'\]"),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.ENABLED was False, is True"),
        ("INPUT.FLIP.ENABLED", True, "INPUT.FLIP.ENABLED was False, is True"),
        ("SOLVER.WARMUP_ITERS", 5, "SOLVER.WARMUP_ITERS was 4, is 5"),
        ("DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler", "DATALOADER.SAMPLER_TRAIN was 'TrainingSampler'"),
    ],
)
def test_another_configuration_is_refused_and_names_the_key(tmp_path, key, value, said):
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=1))
    with pytest.raises(ResumeError, match=f"{said}.*Repeat the command.*--resume-anyway"):
        train(toy_cfg(tmp_path, **{key.replace(".", "__"): value}), resume=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("OUTPUT_DIR", None),
        ("DATALOADER.NUM_WORKERS", 3),
        ("SOLVER.MAX_EPOCH", 5),
        ("SOLVER.CHECKPOINT_PERIOD", 2),
        ("SOLVER.MAX_NONFINITE", 3),
        ("TEST.EVAL_PERIOD", 2),
        ("TEST.METRIC", "euclidean"),
        ("DATASETS.NAMES", ("folder:elsewhere",)),  # the images are the same
        ("MODEL.WEIGHTS", "gone.pth"),
        ("INPUT.REA.PROB", 0.9),  # of what is not enabled
        ("SOLVER.GAMMA", 0.5),  # of another schedule
    ],
)
def test_what_may_change(tmp_path, key, value):
    train(toy_cfg(tmp_path / "a", SOLVER__MAX_EPOCH=1))
    (tmp_path / "a").rename(tmp_path / "b")
    keys = {} if value is None else {key.replace(".", "__"): value}
    trainer = train(toy_cfg(tmp_path / "b", **{"SOLVER__MAX_EPOCH": 2} | keys), resume=True)
    assert trainer.start_epoch == 1 and trainer.changed_at_resume == []


@pytest.mark.parametrize("resume", [True, "anyway"])
@pytest.mark.parametrize(
    ("key", "value"), [("SOLVER.OPT", "SGD"), ("SOLVER.OPT", "Adam"), ("SOLVER.SCHED", "MultiStepLR")]
)
def test_another_optimiser_or_schedule_is_refused_whatever_is_allowed(tmp_path, key, value, resume):
    train(toy_cfg(tmp_path, SOLVER__OPT="AdamW", SOLVER__MAX_EPOCH=1))
    cfg = toy_cfg(tmp_path, **{"SOLVER__OPT": "AdamW", key.replace(".", "__"): value})
    with pytest.raises(ResumeError, match=f"{key} was .*, is {value!r}.*start a new run: .*MODEL.WEIGHTS .*final.pth"):
        train(cfg, resume=resume)


def without_identity(path):
    content = torch.load(path, weights_only=True)
    del content["identity"]
    torch.save(content, path)


def test_a_checkpoint_of_an_older_version_goes_on_with_a_note(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="fastreid")
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=1))
    without_identity(tmp_path / "model_final.pth")
    train(toy_cfg(tmp_path, MODEL__SEED=3), resume=True)
    (note,) = (record for record in caplog.records if "has no fingerprints" in record.getMessage())
    assert note.levelno == logging.INFO
    assert read_checkpoint(tmp_path / "model_final.pth")["identity"]["config"]["MODEL.SEED"] == 3


def test_of_an_older_version_the_options_of_the_optimiser_must_be_there(tmp_path):
    train(toy_cfg(tmp_path, SOLVER__OPT="AdamW", SOLVER__MAX_EPOCH=1))
    without_identity(tmp_path / "model_final.pth")
    with pytest.raises(WeightsError, match=r"the optimizer in .* is not SGD: it has no dampening, momentum, nesterov"):
        train(toy_cfg(tmp_path), resume=True)


def test_resumed_anyway_the_changes_count_and_are_recorded(tmp_path, caplog):
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=1))
    decay = dict.fromkeys(("SOLVER__WEIGHT_DECAY", "SOLVER__WEIGHT_DECAY_NORM", "SOLVER__WEIGHT_DECAY_BIAS"), 0.25)
    cfg = toy_cfg(tmp_path, SOLVER__BASE_LR=0.01, SOLVER__MOMENTUM=0.5, **decay)
    trainer = train(cfg, resume="anyway")
    assert trainer.schedule.lr_at(4) == pytest.approx(0.01)
    assert {group["momentum"] for group in trainer.optimizer.param_groups} == {0.5}
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.25}
    said = ["SOLVER.BASE_LR was 0.05, is 0.01", "SOLVER.MOMENTUM was 0.9, is 0.5"]
    assert "resuming because of --resume-anyway, although" in caplog.text
    first, second = json.loads((tmp_path / "manifest.json").read_text())["sessions"]
    assert "changed_at_resume" not in first and set(said) < set(second["changed_at_resume"])
    history = read_checkpoint(tmp_path / "model_final.pth")["identity"]["history"]
    assert [entry["iteration"] for entry in history] == [ITERS_PER_EPOCH] and set(said) < set(history[0]["changed"])
    train(cfg, resume=True)  # from now on it is this run
    assert len(json.loads((tmp_path / "manifest.json").read_text())["sessions"]) == 3


def test_resumed_anyway_with_more_images_the_epochs_go_on(tmp_path):
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=2))
    more = trainer_on(toy_images(32))
    with pytest.raises(ResumeError, match="24 images of 4 people before, 32 images"):
        train(toy_cfg(tmp_path), resume=True, trainer_class=more)
    trainer = train(toy_cfg(tmp_path), resume="anyway", trainer_class=more)
    assert (trainer.start_epoch, trainer.start_iter, trainer.iter) == (2, 8, 16)


def test_the_same_bits_with_and_without_a_change_of_what_is_free(tmp_path):
    whole = train(toy_cfg(tmp_path / "whole", SOLVER__SCHED="MultiStepLR"))
    train(toy_cfg(tmp_path / "parts", SOLVER__SCHED="MultiStepLR", SOLVER__MAX_EPOCH=2))
    parts = train(toy_cfg(tmp_path / "parts", SOLVER__SCHED="MultiStepLR"), resume=True)
    for name, value in whole.bare_model.state_dict().items():
        assert torch.equal(value, parts.bare_model.state_dict()[name]), name


def test_more_epochs_of_a_schedule_that_depends_on_them_are_said(tmp_path, caplog):
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=2))
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=3), resume=True)
    assert "SOLVER.MAX_EPOCH was 2, is 3: learning rates of CosineAnnealingLR depend on it" in caplog.text


def test_a_refused_command_leaves_the_config_of_the_run(tmp_path):
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=1))
    (tmp_path / "config.yaml").write_text("before")
    with pytest.raises(ResumeError):
        train(toy_cfg(tmp_path, MODEL__SEED=3), resume=True)
    assert (tmp_path / "config.yaml").read_text() == "before"
    train(toy_cfg(tmp_path), resume=True)
    assert "MAX_EPOCH: 4" in (tmp_path / "config.yaml").read_text()


def test_the_option_reaches_any_script_s_trainer():
    parse = default_argument_parser().parse_args
    assert [parse(words).resume for words in ([], ["--resume"], ["--resume-anyway"])] == [False, True, "anyway"]


def test_every_free_key_is_a_key():
    cfg = get_cfg()
    for name in FREE:
        node = cfg
        for part in name.split("."):
            assert part in node, name
            node = node[part]


def test_a_drawn_seed_is_known_to_the_next_session(tmp_path):
    assert seed_of_run(tmp_path) is None
    train(toy_cfg(tmp_path, MODEL__SEED=77, SOLVER__MAX_EPOCH=1))
    assert seed_of_run(tmp_path) == 77


def test_results_of_an_earlier_run_are_not_those_of_a_new_one(tmp_path):
    for name in ("results.json", "thresholds.json", "report.html"):
        (tmp_path / name).write_text(f"the first {name}")
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=1, TEST__EVAL_PERIOD=0))
    assert not (tmp_path / "thresholds.json").exists()
    assert (tmp_path / "thresholds_before.json").read_text() == "the first thresholds.json"
    assert (tmp_path / "results_before.json").exists() and (tmp_path / "report_before.html").exists()
    train(toy_cfg(tmp_path, SOLVER__MAX_EPOCH=2, TEST__EVAL_PERIOD=0), resume=True)
    assert (tmp_path / "results_before.json").read_text() == "the first results.json"
