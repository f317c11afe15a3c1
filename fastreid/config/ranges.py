"""The range of each key of the config: one table, which is checked before a run starts.

Names in registries (backbones, losses, optimisers) are checked where they are looked up, as users add to them. Choices
are here only if nothing else checks them. The keys of a method are in its `config.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_MAX_SIDE = 16384  # pixels
_MAX_INT = 2**63 - 1


@dataclass(frozen=True)
class Rule:
    """A condition on a value.

    Args:
        says: the condition in words, after "must be".
        holds: whether a value fulfils it.
    """

    says: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_INT


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def number(says: str, holds: Callable[[float], bool]) -> Rule:
    """Return a rule of one number, which is neither NaN nor infinity.

    Args:
        says: the condition in words.
        holds: whether a number fulfils it.
    """
    return Rule(says, lambda value: _is_number(value) and math.isfinite(value) and holds(value))


def at_least(low: float, why: str = "") -> Rule:
    """Return the rule of numbers from `low` on; `why` is added to its words."""
    return number(f"{low:g} or more{why}", lambda value: value >= low)


def between(low: float, high: float, says: str = "") -> Rule:
    """Return the rule of numbers from `low` to `high`; `says` replaces its words."""
    return number(says or f"from {low:g} to {high:g}", lambda value: low <= value <= high)


def each(rule: Rule, what: str, count: int | None = None) -> Rule:
    """Return the rule of a list or tuple whose elements obey a rule.

    Args:
        rule: rule of each element.
        what: the condition in words.
        count: number of elements; None for any.
    """
    return Rule(
        what, lambda values: (count is None or len(values) == count) and all(rule.holds(value) for value in values)
    )


def whole(low: int, high: int = _MAX_INT) -> Rule:
    """Return the rule of integers from `low` to `high`, for the elements of lists."""
    return number("", lambda value: isinstance(value, int) and low <= value <= high)


def one_of(*choices: Any) -> Rule:
    """Return the rule of a choice."""
    return Rule(f"one of {', '.join(map(str, choices))}", lambda value: value in choices)


ANY = Rule("", lambda value: True)  # checked where it is read
FLAG = Rule("True or False", lambda value: isinstance(value, bool))
TEXT = Rule("text without null characters", _is_text)
NAME = Rule("a name, not an empty text, without null characters", lambda value: _is_text(value) and bool(value.strip()))
NAMES = each(NAME, "a list of names, none of them empty, without null characters")
FINITE = number("a finite number", lambda value: True)
POSITIVE = number("above 0", lambda value: value > 0)
COUNT = at_least(1)
NOT_NEGATIVE = at_least(0)
LOOP = between(1, 10**6, "from 1 to 1,000,000")  # lengths of loops that run before anything is computed
PERIOD = at_least(-1, " (0 and -1: never)")
SHARE = between(0, 1)
SHARE_BELOW_1 = number("from 0 to below 1", lambda value: 0 <= value < 1)
SHARE_ABOVE_0 = number("above 0, up to 1", lambda value: 0 < value <= 1)
SIZE = each(whole(1, _MAX_SIDE), "[height, width]", 2)  # in pixels
COLOUR = each(between(0, 255), "three numbers from 0 to 255, of red, green and blue", 3)
SPREAD = each(POSITIVE, "three numbers above 0, of red, green and blue", 3)
PART = Rule(
    "[from, to], two shares from 0 to 1 that ascend",
    lambda values: len(values) == 2 and all(map(SHARE.holds, values)) and values[0] < values[1],
)
EPOCHS = each(whole(0), "a list of whole numbers, 0 or more")
RANGE = Rule(
    "[lowest, highest], two numbers above 0",
    lambda values: len(values) == 2 and all(map(POSITIVE.holds, values)) and values[0] <= values[1],
)

_MODEL = {
    "DEVICE": NAME,
    "COMPILE": FLAG,
    "CHANNELS_LAST": FLAG,
    "FLOAT32": one_of("ieee", "tf32"),
    "SEED": number(f"a whole number below 2^63 (negative: drawn anew), at least {-(2**31)}", lambda v: v >= -(2**31)),
    "META_ARCHITECTURE": NAME,
    "FREEZE_LAYERS": NAMES,
    "QUEUE_SIZE": NOT_NEGATIVE,
    "WEIGHTS": TEXT,
    "PIXEL_MEAN": COLOUR,
    "PIXEL_STD": SPREAD,
    "BACKBONE.NAME": NAME,
    "BACKBONE.DEPTH": NAME,
    "BACKBONE.STEM": NAME,
    "BACKBONE.OUTPUT": one_of("class", "patches"),
    "BACKBONE.CLIP_FEATURE": NAME,
    "BACKBONE.FREEZE_PATCH_EMBED": FLAG,
    "BACKBONE.TIMM_NAME": TEXT,
    "BACKBONE.LAST_STRIDE": one_of(1, 2),
    "BACKBONE.FEAT_DIM": COUNT,
    "BACKBONE.NORM": NAME,
    "BACKBONE.NORM_SPLIT": COUNT,
    "BACKBONE.WITH_IBN": FLAG,
    "BACKBONE.WITH_SE": FLAG,
    "BACKBONE.WITH_NL": FLAG,
    "BACKBONE.SIE_COE": FINITE,
    "BACKBONE.CAMERA_NUM": NOT_NEGATIVE,
    "BACKBONE.INNER_SUB": FLAG,
    "BACKBONE.STRIDE_SIZE": each(whole(1, 1024), "(rows, columns), whole numbers from 1", 2),
    "BACKBONE.DROP_PATH_RATIO": SHARE_BELOW_1,
    "BACKBONE.DROP_RATIO": SHARE_BELOW_1,
    "BACKBONE.ATT_DROP_RATE": SHARE_BELOW_1,
    "BACKBONE.PRETRAIN": FLAG,
    "BACKBONE.PRETRAIN_PATH": TEXT,
    "BACKBONE.PRETRAIN_MIN_COVERAGE": SHARE,
    "HEADS.NAME": NAME,
    "HEADS.NORM": NAME,
    "HEADS.NORM_SPLIT": COUNT,
    "HEADS.NUM_CLASSES": NOT_NEGATIVE,
    "HEADS.EMBEDDING_DIM": NOT_NEGATIVE,
    "HEADS.WITH_BNNECK": FLAG,
    "HEADS.NECK_FEAT": NAME,
    "HEADS.POOL_LAYER": NAME,
    "HEADS.CLS_LAYER": NAME,
    "HEADS.MARGIN": NOT_NEGATIVE,
    "HEADS.SCALE": COUNT,
}
_LOSSES = {
    "NAME": NAMES,
    "CE.EPSILON": number("up to 1 (below 0: chosen by the loss itself)", lambda value: value <= 1),
    "CE.ALPHA": SHARE,
    "CE.SCALE": NOT_NEGATIVE,
    "FL.ALPHA": NOT_NEGATIVE,
    "FL.GAMMA": NOT_NEGATIVE,
    "FL.SCALE": NOT_NEGATIVE,
    "TRI.MARGIN": NOT_NEGATIVE,
    "TRI.NORM_FEAT": FLAG,
    "TRI.HARD_MINING": FLAG,
    "TRI.EXACT_SOFTMAX": FLAG,
    "TRI.SCALE": NOT_NEGATIVE,
    "CIRCLE.MARGIN": SHARE,
    "CIRCLE.GAMMA": POSITIVE,
    "CIRCLE.SCALE": NOT_NEGATIVE,
    "COSFACE.MARGIN": NOT_NEGATIVE,
    "COSFACE.GAMMA": POSITIVE,
    "COSFACE.SCALE": NOT_NEGATIVE,
    "CENTER.ALPHA": SHARE,
    "CENTER.SCALE": NOT_NEGATIVE,
}
_INPUT = {
    "SIZE_TRAIN": SIZE,
    "SIZE_TEST": SIZE,
    "INTERPOLATION_TEST": one_of("bicubic", "bilinear"),
    "CROP.SIZE": SIZE,
    "CROP.SCALE": RANGE,
    "CROP.RATIO": RANGE,
    "PADDING.MODE": one_of("constant", "edge", "reflect", "symmetric"),
    "PADDING.SIZE": between(0, _MAX_SIDE),
    "ROTATION.DEGREES": between(0, 180),
    "CJ.BRIGHTNESS": NOT_NEGATIVE,
    "CJ.CONTRAST": NOT_NEGATIVE,
    "CJ.SATURATION": NOT_NEGATIVE,
    "CJ.HUE": between(0, 0.5),
    "REA.VALUE": COLOUR,
    "RPT.PROB": ANY,  # changing it is an error
    **{f"{step}.PROB": SHARE for step in ("FLIP", "CJ", "AUTOAUG", "AUGMIX", "REA")},
    **{
        f"{step}.ENABLED": FLAG
        for step in ("CROP", "FLIP", "PADDING", "ROTATION", "CJ", "AFFINE", "AUTOAUG", "AUGMIX", "REA", "RPT")
    },
}
_DATA = {
    "DATASETS.ROOT": TEXT,
    "DATASETS.NAMES": NAMES,
    "DATASETS.TESTS": NAMES,
    "DATASETS.COMBINEALL": FLAG,
    "DATASETS.SKIP_MISSING": FLAG,
    "DATASETS.PEOPLE": PART,
    "DATASETS.SUBSET.MODE": one_of("none", "small_scale", "few_shot"),
    "DATASETS.SUBSET.RATIO": SHARE_ABOVE_0,
    "DATASETS.SUBSET.SEED": NOT_NEGATIVE,
    "DATASETS.EXCLUDE_SOURCES": NAMES,
    "DATALOADER.SAMPLER_TRAIN": NAME,
    "DATALOADER.NUM_INSTANCE": COUNT,
    "DATALOADER.NUM_WORKERS": between(-1, 4096, "from 0 to 4096, or -1 (by the number of cores)"),
    "DATALOADER.SET_WEIGHT": each(whole(1), "a list of whole numbers above 0"),
    "DATALOADER.TIMEOUT": NOT_NEGATIVE,
    "DATALOADER.BAD_IMAGES": NAME,
}
_SOLVER = {
    "AMP.ENABLED": FLAG,
    "AMP.DTYPE": NAME,
    "AMP.FROZEN": FLAG,
    "OPT": NAME,
    "OPT_ARGS": ANY,
    "MAX_EPOCH": LOOP,
    "ITERS_PER_EPOCH": between(0, 10**6, "from 0 (training images // IMS_PER_BATCH) to 1,000,000"),
    "BASE_LR": POSITIVE,
    "OVERRIDE_LR": NOT_NEGATIVE,
    "HEADS_LR_FACTOR": NOT_NEGATIVE,
    "LAYER_DECAY": SHARE_ABOVE_0,
    "MOMENTUM": SHARE_BELOW_1,
    "NESTEROV": FLAG,
    "WEIGHT_DECAY": NOT_NEGATIVE,
    "WEIGHT_DECAY_NORM": NOT_NEGATIVE,
    "BIAS_LR_FACTOR": NOT_NEGATIVE,
    "WEIGHT_DECAY_BIAS": NOT_NEGATIVE,
    "SCHED": NAME,
    "DELAY_EPOCHS": NOT_NEGATIVE,
    "GAMMA": POSITIVE,
    "STEPS": EPOCHS,
    "STEP_SHARES": each(SHARE_BELOW_1, "a list of numbers from 0 to below 1"),
    "DECAY_RATE": POSITIVE,
    "DECAY_EPOCHS": EPOCHS,
    "ETA_MIN_LR": NOT_NEGATIVE,
    "WARMUP_FACTOR": NOT_NEGATIVE,
    "WARMUP_ITERS": NOT_NEGATIVE,
    "WARMUP_SHARE": SHARE_BELOW_1,
    "WARMUP_METHOD": NAME,
    "WARMUP_EPOCHS": NOT_NEGATIVE,
    "FREEZE_ITERS": at_least(-1, " (-1: the whole run)"),
    "CHECKPOINT_PERIOD": PERIOD,
    "KEEP_CHECKPOINTS": NOT_NEGATIVE,
    "IMS_PER_BATCH": COUNT,
    "FIT_BATCH": FLAG,
    "EMA.ENABLED": FLAG,
    "EMA.MOMENTUM": SHARE_BELOW_1,
    "EMA.WARMUP": FLAG,
    "FSDP.ENABLED": FLAG,
    "FSDP.GATHER_DTYPE": one_of("auto", "fp32"),
    "FSDP.SYNC_EACH_PART": FLAG,
    "ACCUMULATION_STEPS": COUNT,
    "MAX_NONFINITE": NOT_NEGATIVE,
    "CLIP_GRADIENTS.ENABLED": FLAG,
    "CLIP_GRADIENTS.CLIP_TYPE": NAME,
    "CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
    # The largest of all entries is the norm of infinite order.
    "CLIP_GRADIENTS.NORM_TYPE": Rule("above 0, or infinity", lambda v: v == math.inf or POSITIVE.holds(v)),
}
_TEST = {
    "EVAL_PERIOD": PERIOD,
    "IMS_PER_BATCH": COUNT,
    "METRIC": NAME,
    "EXPECTED_RESULTS": ANY,  # fastreid.evaluation.expected names the wrong row
    "MEMORY_BUDGET": POSITIVE,
    "AMP.ENABLED": FLAG,
    "ENGINE": NAME,
    "SEARCH": NAME,
    "SINGLE_SHOT": FLAG,
    "BREAKDOWN": NAMES,
    "RECALLS": each(whole(1), "a list of whole numbers, 1 or more"),
    "PLOTS": FLAG,
    "REPORT": FLAG,
    "ROC.ENABLED": FLAG,
    "FLIP.ENABLED": FLAG,
    "DBA.ENABLED": FLAG,
    "DBA.K": COUNT,
    "DBA.ALPHA": NOT_NEGATIVE,
    "AQE.ENABLED": FLAG,
    "AQE.ALPHA": NOT_NEGATIVE,
    "AQE.QE_TIME": between(1, 1000),
    "AQE.QE_K": COUNT,
    "RERANK.ENABLED": FLAG,
    "RERANK.K1": COUNT,
    "RERANK.K2": COUNT,
    "RERANK.LAMBDA": SHARE,
    "PRECISE_BN.ENABLED": FLAG,
    "PRECISE_BN.DATASET": TEXT,
    "PRECISE_BN.NUM_ITER": COUNT,
}
_OTHER = {
    "KD.EMA.ENABLED": FLAG,  # changing them is an error
    "KD.EMA.MOMENTUM": ANY,
    "IMPORTS": NAMES,
    "OUTPUT_DIR": TEXT,
    "CUDNN_BENCHMARK": FLAG,
    "DETERMINISTIC": FLAG,
}
RULES: dict[str, Rule] = {
    **_OTHER,
    **_DATA,
    **{f"MODEL.{key}": rule for key, rule in _MODEL.items()},
    **{f"MODEL.LOSSES.{key}": rule for key, rule in _LOSSES.items()},
    **{f"INPUT.{key}": rule for key, rule in _INPUT.items()},
    **{f"SOLVER.{key}": rule for key, rule in _SOLVER.items()},
    **{f"TEST.{key}": rule for key, rule in _TEST.items()},
}


def problem_with(key: str, value: Any) -> str | None:
    """Return a sentence if a value is out of the range of a key, otherwise None.

    Args:
        key: full name; user-defined keys without a range take any value.
        value: the value.
    """
    rule = RULES.get(key)
    if rule is None or rule.holds(value):
        return None
    shown = list(value) if isinstance(value, tuple) else value
    return f"{key} must be {rule.says}{_bound(value, rule)}, got {shortened(shown)}{_remedy(key, value, rule)}"


def _bound(value: Any, rule: Rule) -> str:
    """What the words of a rule leave out, if the value breaks only that."""
    if rule is SIZE and len(value) == 2:
        return f", each from 1 to {_MAX_SIDE}"
    has_no_limit = rule.says.startswith("above") or " or more" in rule.says
    is_beyond = isinstance(value, int | float) and not isinstance(value, bool) and value > _MAX_INT
    return " and below 2^63" if has_no_limit and is_beyond else ""


def shortened(value: Any) -> str:
    """Return a value for a message, with at most 200 characters."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def _remedy(key: str, value: Any, rule: Rule) -> str:
    """Return what to type if there are numbers instead of names."""
    if rule is not NAMES or not all(isinstance(entry, str | int | float) for entry in value):
        return ""
    if all(isinstance(entry, str) for entry in value):
        return ""
    names = ", ".join(repr(str(entry)) for entry in value)
    return f'; quote what looks like a number: {key} "[{names}]"'
