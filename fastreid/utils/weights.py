"""Loading weights into a model, with a report of what matched."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import nn

from fastreid.utils.checkpoint_file import State, WeightsError, read_checkpoint, state_dict_in
from fastreid.utils.checkpointed import checkpointed, with_current_names
from fastreid.utils.state_dicts import without_wrapper
from fastreid.utils.tensor_kinds import check_kinds, check_whole_numbers, warn_of_nonfinite

logger = logging.getLogger(__name__)

# Classifiers of identities, whose number depends on the training data. The view head is none of them: it must fit.
_CLASSIFIER_ENDS = (
    *("classifier.weight", "classifier.bias", "heads.weight", "_head.weight"),
    *("class_centres", "class_prototypes", "class_prompts"),
)
_SHOWN = 5
# The least share of a backbone's values that a file must fill; MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE.
MIN_COVERAGE = 0.98


@dataclass
class LoadReport:
    """Result of a comparison of the tensors of a file with those of a model.

    Args:
        path: the file.
        matched: names of tensors that fit.
        mismatched: tensors of another shape, as "name: file [..], model [..]".
        missing: names that the file lacks, in parts of which it has something.
        unexpected: names that the model does not have.
        dropped_classifiers: classifiers of another number of classes, as in `mismatched`.
        absent_parts: top-level parts of the model of which the file has nothing.
    """

    path: str
    matched: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    dropped_classifiers: list[str] = field(default_factory=list)
    absent_parts: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every tensor of the file fits and none of its parts is incomplete."""
        return not (self.mismatched or self.missing or self.unexpected)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors matched"]
        for words, names in (
            ("of another shape", self.mismatched),
            ("missing in the file", self.missing),
            ("in the file only", self.unexpected),
            ("parts not in the file at all", self.absent_parts),
        ):
            if names:
                parts.append(f"{len(names)} {words} ({_first(names)})")
        return f"weights from {self.path}: {'; '.join(parts)}"


def _first(names: list[str]) -> str:
    more = f", … {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def get_missing_parameters_message(keys: Iterable[str]) -> str:
    """Return a sentence about parameters of a model that a file lacks; fast-reid's function of this name."""
    return f"the file lacks parameters of the model: {', '.join(sorted(keys))}"


def get_unexpected_parameters_message(keys: Iterable[str]) -> str:
    """Return a sentence about parameters of a file that a model lacks; fast-reid's function of this name."""
    return f"the file has parameters that are not of the model: {', '.join(sorted(keys))}"


def own_state_dict(model: nn.Module) -> State:
    """Return what checkpoints hold of a model: everything, unless it is a `CheckpointedModule` that keeps less."""
    return checkpointed(model).checkpoint_state_dict()


def load_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    to_train: bool = False,
    to_evaluate: bool = False,
    min_coverage: float = MIN_COVERAGE,
) -> LoadReport:
    """Copy the tensors of a file into a model where name and shape agree, and log the rest.

    The model may translate names of other programs first (`CheckpointedModule.adapt_checkpoint`). A prefix that a
    wrapper added to all names is dropped. A classifier of another number of classes is skipped, which is logged. Below
    the `required_prefixes` of the model everything must match. Parts of which the file has nothing cause a warning.
    Weights that are NaN or infinite are loaded, with a warning.

    Args:
        model: the bare model.
        path: the file.
        to_train: whether the model will be trained. If it has `required_prefixes`, parts that the file lacks are then
            no cause of a warning.
        to_evaluate: whether the model will be evaluated; then everything must be filled, except for classifiers that it
            does not read (`CheckpointedModule.evaluates_classes`).
        min_coverage: least share, 0 to 1, of the values of the backbone that the file must fill; if no part is called
            backbone, of all values except those of classifiers.

    Returns:
        What matched.

    Raises:
        WeightsError: unreadable file; nothing matched; a required tensor does not match; too little of the backbone is
            filled; integers for a floating-point parameter. The model is then unchanged.
    """
    state = state_dict_in(read_checkpoint(path), path)
    check_kinds(state, path)
    declared = checkpointed(model)
    state = declared.adapt_checkpoint(with_current_names(model, state))
    own = model.state_dict()
    wrapper, state = without_wrapper(state, lambda names: sum(name in own for name in names))
    if wrapper:
        logger.info("%s: %r is dropped from its names", path, wrapper)
    report, fitting = compare(model, state, str(path))
    required = declared.required_prefixes
    fine = report.clean and (not report.absent_parts or bool(to_train and required))
    logger.log(logging.INFO if fine else logging.WARNING, "%s", report)
    for shapes in report.dropped_classifiers:
        logger.info("classifier of another class count left out: %s", shapes)
    _check_required(model, report, required)
    if to_evaluate:
        _check_evaluated(model, report)
    if not report.matched:
        raise WeightsError(f"nothing in {path} fits this model ({report}); is it another model's?")
    _check_coverage(model, report, fitting, min_coverage)
    check_whole_numbers(model, fitting, path)
    warn_of_nonfinite(model, fitting, path)
    model.load_state_dict(fitting, strict=False)
    return report


def _check_evaluated(model: nn.Module, report: LoadReport) -> None:
    """Check that everything that an evaluation reads is filled."""
    needs_classes = checkpointed(model).evaluates_classes
    spared = () if needs_classes else _CLASSIFIER_ENDS
    absent = [name for name in [*report.missing, *report.mismatched] if not name.endswith(spared)]
    absent += [*(report.dropped_classifiers if needs_classes else ()), *(f"{part}.*" for part in report.absent_parts)]
    if absent:
        classes = ", with its number of classes as MODEL.HEADS.NUM_CLASSES" if needs_classes else ""
        raise WeightsError(
            f"{report.path} is no checkpoint of a trained {type(model).__name__}, it lacks {_first(absent)}: evaluate "
            f"the model_final.pth or model_best.pth that this config's training wrote{classes}"
        )


def _check_coverage(model: nn.Module, report: LoadReport, fitting: State, min_coverage: float) -> None:
    """Check that enough of the backbone is filled; a random backbone returns features without meaning."""
    sizes = {name: value.numel() for name, value in model.state_dict().items()}
    whose, names = backbone_names(model)
    share = sum(sizes[name] for name in names if name in fitting) / max(1, sum(sizes[name] for name in names))
    if share < min_coverage:
        raise WeightsError(
            f"{report.path} fills only {share:.1%} of the {whose} of this {type(model).__name__}, at least "
            f"{min_coverage:.0%} is asked for (MODEL.BACKBONE.PRETRAIN_MIN_COVERAGE): {report}. It is another model's, "
            "or another MODEL.BACKBONE's; published weights of a backbone alone belong in "
            "MODEL.BACKBONE.PRETRAIN_PATH"
        )


def backbone_names(model: nn.Module) -> tuple[str, list[str]]:
    """Return what a checkpoint must fill: ("backbone", its names), or ("model", all names except classifiers).

    Args:
        model: the bare model; if its backbone has several parts, they are its `backbone_prefixes`.
    """
    names = list(own_state_dict(model))
    if prefixes := checkpointed(model).backbone_prefixes:
        found = [name for name in names if name.startswith(prefixes)]
    else:
        found = [name for name in names if "backbone" in name.split(".")[:-1]]
    if found:
        return "backbone", found
    return "model", [name for name in names if not name.endswith(_CLASSIFIER_ENDS)]


def compare(model: nn.Module, state: State, path: str) -> tuple[LoadReport, State]:
    """Compare a state with a model.

    Args:
        model: the bare model.
        state: names with tensors.
        path: the file that the state is from, for the report.

    Returns:
        The report, and the part of the state that fits.
    """
    target, report, fitting = model.state_dict(), LoadReport(path), {}
    for name, value in state.items():
        if name not in target:
            report.unexpected.append(name)
        elif value.shape == target[name].shape:
            report.matched.append(name)
            fitting[name] = value
        else:
            shapes = f"{name}: file {list(value.shape)}, model {list(target[name].shape)}"
            droppable = name.endswith(_CLASSIFIER_ENDS) and "view_head." not in name
            (report.dropped_classifiers if droppable else report.mismatched).append(shapes)
    missing = [name for name in own_state_dict(model) if name not in state]
    present = {_part(name) for name in state}
    report.missing = [name for name in missing if _part(name) in present]
    report.absent_parts = list(dict.fromkeys(_part(n) for n in missing if _part(n) not in present))
    return report, fitting


def _part(name: str) -> str:
    return name.partition(".")[0]


def _check_required(model: nn.Module, report: LoadReport, required: tuple[str, ...]) -> None:
    lacking = [name for name in model.state_dict() if name.startswith(required)]
    matched = set(report.matched)
    dropped = {shapes.partition(":")[0] for shapes in report.dropped_classifiers}
    lacking = [name for name in lacking if name not in matched | dropped]
    if required and lacking:
        raise WeightsError(
            f"{report.path} must fill everything below {', '.join(required)} but lacks "
            f"{len(lacking)} tensors: {_first(lacking)}. Give a checkpoint of the matching model "
            "and backbone as MODEL.WEIGHTS"
        )
