"""What a load report says, and which mismatches are errors."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.checkpoint_file import WeightsError
from fastreid.utils.checkpointed import CheckpointedModule
from fastreid.utils.weights import _first, load_weights


class Person(nn.Module):
    def __init__(self, width=4, classes=3, views=2):
        super().__init__()
        self.backbone = nn.Linear(2, width)
        self.identity_head = nn.ModuleDict({"classifier": nn.Linear(width, classes, bias=False)})
        self.view_head = nn.ModuleDict({"classifier": nn.Linear(width, views, bias=False)})


class Stage1(CheckpointedModule):
    def __init__(self, **sizes):
        super().__init__()
        self.person = Person(**sizes)


class Stage2(Stage1):
    required_prefixes = ("person.backbone.", "person.identity_head.")

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.denoiser = nn.Linear(3, 3)


def saved(tmp_path, content):
    path = tmp_path / "model_final.pth"
    torch.save(content, path)
    return path


@pytest.fixture
def info(caplog):
    caplog.set_level(logging.INFO, logger="fastreid")
    return caplog


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s}])
def test_every_wrapping_and_module_prefix_load(tmp_path, info, wrap):
    source, target = Stage1(), Stage1()
    state = {f"module.{name}": value for name, value in source.state_dict().items()}
    report = load_weights(target, saved(tmp_path, wrap(state)))
    assert report.clean and len(report.matched) == 4
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)
    (record,) = info.records
    assert record.levelno == logging.INFO and "4 tensors matched" in record.getMessage()


def test_weights_in_safetensors_load(tmp_path, info):
    source, target = Stage1(), Stage1()
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    assert load_weights(target, tmp_path / "weights.safetensors").clean
    assert torch.equal(target.person.backbone.weight, source.person.backbone.weight)


def test_anything_off_is_a_warning_with_counts_and_names(tmp_path, info):
    state = Stage1(views=5).state_dict()
    state["stranger"] = torch.zeros(1)
    del state["person.identity_head.classifier.weight"]
    load_weights(Stage1(), saved(tmp_path, state))
    warning = next(r for r in info.records if r.levelno == logging.WARNING).getMessage()
    assert "2 tensors matched" in warning
    assert "1 of another shape (person.view_head.classifier.weight: file [5, 4], model [2, 4])" in warning
    assert "1 missing in the file (person.identity_head.classifier.weight)" in warning
    assert "1 in the file only (stranger)" in warning


def test_classifier_of_another_class_count_is_left_out_with_a_line(tmp_path, info):
    target = Stage2(classes=7)
    before = target.person.identity_head["classifier"].weight.clone()
    report = load_weights(target, saved(tmp_path, Stage1().state_dict()), to_train=True)
    assert torch.equal(target.person.identity_head["classifier"].weight, before)
    assert not report.mismatched
    assert (
        "classifier of another class count left out: person.identity_head.classifier.weight: "
        "file [3, 4], model [7, 4]" in info.text
    )


def test_another_number_of_views_is_a_mismatch(tmp_path, info):
    report = load_weights(Stage1(), saved(tmp_path, Stage1(views=3).state_dict()))
    assert len(report.mismatched) == 1 and "view_head" in report.mismatched[0]


@pytest.mark.parametrize(("to_train", "level"), [(True, logging.INFO), (False, logging.WARNING)])
def test_absent_parts_are_expected_in_training_only(tmp_path, info, to_train, level):
    path = saved(tmp_path, Stage1().state_dict())
    report = load_weights(Stage2(), path, to_train=to_train)
    assert report.absent_parts == ["denoiser"] and report.clean
    (record,) = info.records
    assert record.levelno == level
    assert "1 parts not in the file at all (denoiser)" in record.getMessage()


def test_required_keys_missing_or_of_another_shape_are_an_error(tmp_path):
    state = Stage1().state_dict()
    del state["person.backbone.bias"]
    with pytest.raises(WeightsError, match=r"lacks 1 tensors: person\.backbone\.bias"):
        load_weights(Stage2(), saved(tmp_path, state))
    with pytest.raises(WeightsError, match=r"lacks 3 tensors: person\.backbone\.weight"):
        load_weights(Stage2(), saved(tmp_path, {"person.view_head.classifier.weight": torch.ones(2, 4)}))


def test_nothing_matching_is_an_error_and_changes_nothing(tmp_path):
    target = Stage1()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(WeightsError, match="nothing in .* fits this model"):
        load_weights(target, saved(tmp_path, {"blocks.0": torch.ones(2)}))
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


class Net(nn.Module):
    """A model without a part that is called backbone."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*(nn.Linear(4, 4) for _ in range(20)))
        self.heads = nn.Linear(4, 7)


class Split(CheckpointedModule):
    """A model whose backbone has two parts."""

    backbone_prefixes = ("stem.", "branch.")

    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.heads = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 400)


def tracker_loads(model, path):
    Checkpointer(model).load(path)


@pytest.mark.parametrize("load", [load_weights, tracker_loads])
@pytest.mark.parametrize(
    ("make", "kept", "said"),
    [
        (Stage1, "person.backbone.bias", "fills only 33.3% of the backbone of this Stage1, at least 98%"),
        (Stage2, "person.identity_head.classifier.weight", "must fill everything below person.backbone"),
        (Net, "body.0.", "fills only 4.9% of the model of this Net"),
        (Split, "stem.", "fills only 50.0% of the backbone of this Split"),
    ],
)
def test_a_backbone_that_is_left_at_random_is_refused(tmp_path, load, make, kept, said):
    torch.manual_seed(1)
    path = saved(tmp_path, {name: value for name, value in make().state_dict().items() if name.startswith(kept)})
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=said):
        load(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_whoever_wants_less_says_so(tmp_path):
    path = saved(tmp_path, {"person.backbone.bias": torch.ones(4)})
    with pytest.raises(WeightsError):
        load_weights(Stage1(), path, min_coverage=0.4)
    model = Stage1()
    load_weights(model, path, min_coverage=0.3)
    assert torch.equal(model.person.backbone.bias, torch.ones(4))


@pytest.mark.parametrize(
    ("place", "prefix"),
    [
        ("state_dict", "model."), ("state_dict", "net."), ("teacher", "module."), ("teacher", "module.encoder."),
        ("student", "_orig_mod."), ("model_state_dict", "module._orig_mod."), ("net", ""), ("state_dict_ema", ""),
        ("model_ema", "module."), ("params", "student."), ("weights", "wrapped.model."), ("model", "model.module."),
    ],
)  # fmt: skip
def test_files_of_other_programs_load(tmp_path, place, prefix):
    source, target = Stage1(), Stage1()
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    path = saved(tmp_path, {"epoch": 3, place: state | {"steps": 7, "note": None}, "optimizer": {"state": {}}})
    assert len(load_weights(target, path).matched) == 4
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


def test_parts_of_names_in_the_middle_that_wrappers_add(tmp_path):
    source, target = Stage1(), Stage1()
    state = {n.replace("backbone.", "backbone._orig_mod."): v for n, v in source.state_dict().items()}
    assert load_weights(target, saved(tmp_path, state)).clean


def test_a_prefix_that_is_the_model_s_own_stays(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = Stage1()

    source, target = Wrapped(), Wrapped()
    assert load_weights(target, saved(tmp_path, source.state_dict())).clean
    assert torch.equal(target.model.person.backbone.weight, source.model.person.backbone.weight)


@pytest.mark.parametrize(
    ("change", "kind"), [(torch.Tensor.to_sparse, "sparse"), (lambda weight: weight + 1j, "complex")]
)
def test_tensors_of_a_kind_that_no_weights_are_of_are_refused(tmp_path, change, kind):
    state = Person().state_dict()
    state["backbone.weight"] = change(state["backbone.weight"])
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=f"backbone.weight in .*a.pth is a {kind} tensor"):
        load_weights(Person(), tmp_path / "a.pth")


class ByClasses(Stage1):
    evaluates_classes = True


@pytest.mark.parametrize("target", [Stage1(), ByClasses()], ids=lambda model: type(model).__name__)
def test_an_incomplete_checkpoint_is_not_evaluated(tmp_path, target):
    """Classifiers are needed only by models that are evaluated by their classes, and only then the key is named."""
    whole, key = Stage1().state_dict(), ", with its number of classes as MODEL.HEADS.NUM_CLASSES"
    path = saved(tmp_path, {"model": {name: value for name, value in whole.items() if "classifier" not in name}})
    if target.evaluates_classes:
        with pytest.raises(WeightsError, match=f"lacks person.*classifier.* this config's training wrote{key}$"):
            load_weights(target, path, to_evaluate=True)
        return
    load_weights(target, path, to_evaluate=True)
    path = saved(tmp_path, {"model": {name: value for name, value in whole.items() if "bias" not in name}})
    with pytest.raises(WeightsError, match="lacks person.backbone.bias: .* this config's training wrote$"):
        load_weights(target, path, to_evaluate=True)


@pytest.mark.parametrize(("count", "shown"), [(1, "0"), (5, "0, 1, 2, 3, 4"), (7, "0, 1, 2, 3, 4, … 2 more")])
def test_the_first_names_and_how_many_more_there_are(count, shown):
    assert _first([str(number) for number in range(count)]) == shown
