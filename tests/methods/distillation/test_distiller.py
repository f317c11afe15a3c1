"""Distiller and its teachers: losses, what is frozen and saved, evaluation without teachers, and wrong teachers."""

import logging

import pytest
import torch
import torch.nn.functional as F

from fastreid import Predictor
from fastreid.config import ConfigError, get_cfg
from fastreid.modeling import build_model
from fastreid.modeling.amp import autocast_for, store_frozen_assets
from fastreid.modeling.model import evaluation_config_of
from fastreid.modeling.trained import config_text, load_trained
from fastreid.utils.checkpoint import CONFIG_TEXT, load_weights
from fastreid.utils.weights import own_state_dict
from tests.methods.distillation.conftest import RESNET, TINY, batch, cfg_of, save_teacher, student_cfg

OVERHAUL = ("MODEL.META_ARCHITECTURE", "DistillerOverhaul", *RESNET)


def model_of(cfg):
    torch.manual_seed(0)
    return build_model(cfg)


def save(model, cfg, path):
    """As a run of this config saves its model."""
    torch.save({"model": own_state_dict(model), CONFIG_TEXT: config_text(cfg)}, path)
    return path


def test_the_loss_is_the_divergence_from_the_teacher(teacher):
    student, baseline = model_of(student_cfg(teacher)), model_of(cfg_of())
    taught, _ = load_trained(teacher)
    losses, plain = student.train()(batch()), baseline.train()(batch())
    assert list(losses) == ["loss_cls", "loss_jsdiv"]
    torch.testing.assert_close(losses["loss_cls"], plain["loss_cls"])
    neck = taught(batch())
    logits = 16 * F.linear(F.normalize(neck), F.normalize(taught.heads.weight))
    own = baseline.heads(baseline.backbone(baseline.preprocess_image(batch())), batch()["targets"])["pred_class_logits"]
    p, q = ((values / 16).log_softmax(1) for values in (logits, own))
    expected = 256 * ((p.exp() - q.exp()) * (p - q)).sum(1).mean() / 2
    torch.testing.assert_close(losses["loss_jsdiv"], expected.detach().requires_grad_(), rtol=1e-4, atol=1e-5)


def test_scale_temperature_and_kind_of_divergence(teacher):
    keys = ("KD.DIVERGENCE", "kl", "KD.TEMPERATURE", 2.0)
    once, twice = (model_of(student_cfg(teacher, *keys, "KD.SCALE", scale)).train()(batch()) for scale in (1.0, 2.0))
    assert list(once) == ["loss_cls", "loss_kldiv"]
    torch.testing.assert_close(twice["loss_kldiv"], 2 * once["loss_kldiv"])
    cooler = model_of(student_cfg(teacher, *keys[:3], 16.0)).train()(batch())
    assert cooler["loss_kldiv"].item() != pytest.approx(once["loss_kldiv"].item(), rel=1e-3)


def test_several_teachers_give_the_mean(teacher, tmp_path):
    other = save_teacher(tmp_path / "other.pth", seed=9)
    losses = [
        model_of(cfg_of("MODEL.META_ARCHITECTURE", "Distiller", "KD.MODEL_WEIGHTS", files)).train()(batch())
        for files in ([teacher], [other], [teacher, other])
    ]
    one, two, both = (found["loss_jsdiv"] for found in losses)
    torch.testing.assert_close(both, (one + two) / 2)


@pytest.mark.parametrize("keys", [(), OVERHAUL], ids=["logits", "overhaul"])
def test_the_teacher_does_not_move_and_is_not_saved(teacher, resnet, keys):
    student = model_of(student_cfg(resnet if keys else teacher, *keys)).train()
    before = {name: value.clone() for name, value in student.teachers.state_dict().items()}
    assert not any(module.training for module in student.teachers.modules())
    optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], 0.1)
    sum(student(batch()).values()).backward()
    assert [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None] == []
    optimizer.step()
    after = student.teachers.state_dict()
    assert [name for name, value in before.items() if not torch.equal(value, after[name])] == []
    parts = {name.partition(".")[0] for name in own_state_dict(student)}
    assert parts == {"backbone", "heads"} | ({"overhaul"} if keys else set())
    assert [module for part in student.rate_parts() for module in part.modules] == [student.heads]


def test_pure_distillation_trains_the_classifier(teacher):
    student = model_of(student_cfg(teacher, "MODEL.LOSSES.NAME", ())).train()
    losses = student(batch())
    assert list(losses) == ["loss_jsdiv"]
    losses["loss_jsdiv"].backward()
    assert student.heads.weight.grad is not None


def test_teachers_that_are_stored_in_half_precision(resnet):
    """SOLVER.AMP.FROZEN: in the format of autocast, as every use of them is under it."""
    cfg = student_cfg(resnet, *OVERHAUL, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bf16")
    exact, rounded = model_of(cfg).train(), model_of(cfg).train()
    store_frozen_assets(cfg, rounded, "cpu")
    assert rounded.teachers[0].backbone.conv1.weight.dtype == torch.bfloat16
    with autocast_for(cfg, "cpu"):
        # Convolutions of the smallest maps in bf16 are not the same each time on some CPUs.
        larger = batch() | {"images": F.interpolate(batch()["images"], scale_factor=4)}
        first, second = exact(larger), rounded(larger)
    torch.testing.assert_close(second, first)
    assert second["loss_jsdiv"].dtype == second["loss_overhaul"].dtype == torch.float32


def test_overhaul_adds_the_distances_of_maps(resnet):
    losses = [
        model_of(student_cfg(resnet, *OVERHAUL, "KD.OVERHAUL.SCALE", scale)).train()(batch()) for scale in (1.0, 3.0)
    ]
    assert list(losses[0]) == ["loss_cls", "loss_jsdiv", "loss_overhaul"]
    torch.testing.assert_close(losses[1]["loss_overhaul"], 3 * losses[0]["loss_overhaul"])
    assert losses[0]["loss_overhaul"] > 0


def test_overhaul_brings_the_maps_of_the_student_to_those_of_the_teacher(resnet):
    student = model_of(student_cfg(resnet, *OVERHAUL, "MODEL.LOSSES.NAME", (), "KD.SCALE", 0.0)).train()
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], 1e-2)
    found = []
    for _ in range(8):
        loss = student(batch())["loss_overhaul"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.8 * found[0]


@pytest.mark.parametrize("keys", [(), OVERHAUL], ids=["logits", "overhaul"])
def test_the_student_is_evaluated_without_its_teacher(keys, tmp_path, caplog):
    gone = save_teacher(tmp_path / "gone.pth", *keys[2:])
    cfg = student_cfg(gone, *keys)
    student = model_of(cfg)
    path = save(student, cfg, tmp_path / "student.pth")
    (tmp_path / "gone.pth").unlink()
    with caplog.at_level(logging.WARNING):
        predictor = Predictor(path)
    assert not len(predictor.model.teachers) and not caplog.records
    torch.testing.assert_close(predictor.model(batch()), student.eval()(batch()))
    baseline = build_model(cfg_of(*keys[2:]))
    load_weights(baseline, path, to_evaluate=True)
    torch.testing.assert_close(baseline.eval()(batch()), student(batch()))


def test_networks_whose_maps_are_read_are_not_compiled(resnet):
    with pytest.raises(ConfigError, match="set MODEL.COMPILE to False"):
        model_of(student_cfg(resnet, *OVERHAUL)).compile_parts(8)


def test_without_a_teacher_nothing_is_trained(teacher):
    model = build_model(evaluation_config_of(student_cfg(teacher)))
    with pytest.raises(ConfigError, match="Distiller trains with a teacher, but KD.MODEL_WEIGHTS is empty"):
        model.check_data([])


# Teachers


def test_the_config_of_a_teacher_may_be_a_file(teacher, tmp_path):
    plain = save_teacher(tmp_path / "plain.pth", with_config=False)
    (tmp_path / "teacher.yml").write_text(
        "MODEL:\n  BACKBONE: {NAME: build_timm_backbone, TIMM_NAME: test_vit, PRETRAIN: True, PRETRAIN_PATH: x}\n"
        "  HEADS: {WITH_BNNECK: True}\nINPUT: {SIZE_TRAIN: [32, 16], SIZE_TEST: [32, 16]}\n"
    )
    config = ("KD.MODEL_CONFIG", [str(tmp_path / "teacher.yml")])
    student = model_of(student_cfg(plain, *config))
    assert len(student.teachers[0].heads.weight) == 4
    with pytest.raises(ConfigError, match=r"KD.MODEL_CONFIG has 1 files and KD.MODEL_WEIGHTS has 2"):
        build_model(student_cfg(plain, "KD.MODEL_WEIGHTS", [plain, teacher], *config))
    with pytest.raises(ConfigError, match="KD.MODEL_WEIGHTS.*carries no config"):
        build_model(student_cfg(plain))


WRONG = {
    "missing": ((), "KD.MODEL_WEIGHTS '.*gone.pth': there is no such checkpoint"),
    "of other people": (("MODEL.HEADS.NUM_CLASSES", 7), "has 7 classes and the student 4.*same DATASETS.NAMES"),
    "without classes": (("MODEL.HEADS.NUM_CLASSES", 0), "has no classifier"),
    "of another kind": (("MODEL.META_ARCHITECTURE", "MGN", *RESNET), "is a MGN, but a teacher must be one of Baseline"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_teachers_that_cannot_teach(wrong, tmp_path):
    keys, message = WRONG[wrong]
    path = str(tmp_path / "gone.pth") if wrong == "missing" else save_teacher(tmp_path / "teacher.pth", *keys)
    with pytest.raises(ConfigError, match=message):
        build_model(student_cfg(path))


def test_overhaul_needs_resnets(teacher, resnet):
    with pytest.raises(ConfigError, match="of the student is a TimmBackbone.*Distiller, which compares logits"):
        build_model(student_cfg(resnet, *OVERHAUL, "MODEL.BACKBONE.DEPTH", "50x", *TINY))
    with pytest.raises(ConfigError, match="backbone of the teacher is a TimmBackbone"):
        build_model(student_cfg(teacher, *OVERHAUL))
    assert list(build_model(student_cfg(resnet)).train()(batch())) == ["loss_cls", "loss_jsdiv"]


def test_a_teacher_of_other_data_sets_is_said(tmp_path, caplog):
    path = save_teacher(tmp_path / "duke.pth", "DATASETS.NAMES", ("DukeMTMC",))
    build_model(student_cfg(path))
    assert "DATASETS.NAMES ('DukeMTMC',), and here it is ('Market1501',)" in caplog.text


def test_files_of_fast_reid_name_another_builder():
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "build_resnet_backbone_distill"])
    assert cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone"
