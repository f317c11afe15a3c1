"""What each key may be: every key has a rule, and what is out of range is refused by its name before a run."""

import math

import pytest

from fastreid.config import ConfigError, check_ranges, get_cfg, refuse_unsupported
from fastreid.config.ranges import ANY, FLAG, RULES, TEXT, problem_with
from fastreid.config.tree import leaves


def test_every_key_has_a_rule_and_its_default_obeys_it():
    found = dict(leaves(get_cfg()))
    assert set(found) == set(RULES)
    refuse_unsupported(get_cfg())
    flags = {key for key, value in found.items() if isinstance(value, bool)}
    assert {key for key, rule in RULES.items() if rule is FLAG} == flags


def test_no_number_may_be_nan_or_infinite():
    for key, value in leaves(get_cfg()):
        if RULES[key] is ANY or isinstance(value, bool | str):
            continue
        for wrong in (math.nan, math.inf, -math.inf, 10**30):
            if (key, wrong) != ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", math.inf):
                spoiled = [wrong] * max(1, len(value)) if isinstance(value, list | tuple) else wrong
                assert problem_with(key, spoiled), (key, wrong)


def test_no_text_may_have_null_characters():
    for key, value in leaves(get_cfg()):
        if isinstance(value, str):
            assert problem_with(key, "a\0b"), key


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("DATALOADER.NUM_WORKERS", -2, r"DATALOADER\.NUM_WORKERS must be from 0 to 4096, or -1 .*, got -2"),
        ("TEST.IMS_PER_BATCH", 0, r"TEST\.IMS_PER_BATCH must be 1 or more, got 0"),
        ("SOLVER.IMS_PER_BATCH", -8, "must be 1 or more"),
        ("MODEL.PIXEL_MEAN", [1.0, 2.0], r"must be three numbers from 0 to 255, .* got \[1\.0, 2\.0\]"),
        ("MODEL.PIXEL_MEAN", ["a", "b", "c"], "must be three numbers"),
        ("MODEL.PIXEL_STD", [1.0, 0.0, 1.0], "must be three numbers above 0"),
        ("MODEL.PIXEL_STD", [True, True, True], "must be three numbers above 0"),
        ("SOLVER.BASE_LR", 0.0, "must be above 0"),
        ("SOLVER.BASE_LR", math.nan, "got nan"),
        ("SOLVER.MAX_EPOCH", 0, "must be from 1 to 1,000,000"),
        ("SOLVER.MOMENTUM", 1.0, "must be from 0 to below 1"),
        ("SOLVER.STEPS", [30, 55.5], "whole numbers"),
        ("INPUT.SIZE_TRAIN", [256, -128], r"must be \[height, width\], .*got \[256, -128\]"),
        ("INPUT.SIZE_TRAIN", [256.0, 128.0], r"must be \[height, width\]"),
        ("INPUT.FLIP.PROB", 1.5, "must be from 0 to 1"),
        ("INPUT.CROP.SCALE", [1, 0.2], r"must be \[lowest, highest\]"),
        ("INPUT.PADDING.MODE", "constnt", "must be one of constant, edge, reflect, symmetric, got 'constnt'"),
        (
            "DATASETS.NAMES",
            (1501,),
            r"""must be a list of names, .*got \[1501\]; quote .*DATASETS\.NAMES "\['1501'\]\"""",
        ),
        ("DATASETS.TESTS", ("",), "must be a list of names, none of them empty"),
        ("DATASETS.NAMES", ("csv:a\0b",), r"names, .* without null characters, got \['csv:a\\x00b'\]$"),
        ("SOLVER.BASE_LR", math.inf, "must be above 0 and below 2.63, got inf"),
        ("INPUT.SIZE_TEST", [100000, 8], r"must be \[height, width\], each from 1 to "),
        ("SOLVER.CHECKPOINT_PERIOD", -2, r"must be -1 or more \(0 and -1: never\)"),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(key, value, said):
    cfg = get_cfg()
    *groups, last = key.split(".")
    node = cfg
    for group in groups:
        node = node[group]
    node[last] = value
    with pytest.raises(ConfigError, match=said):
        check_ranges(cfg)
    with pytest.raises(ConfigError, match=f"^{key}"):
        refuse_unsupported(cfg)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TEST.EVAL_PERIOD", -1),
        ("SOLVER.FREEZE_ITERS", -1),
        ("TEST.SDMODEL.NOISE_SEED", -1),
        ("MODEL.SEED", -1),
        ("MODEL.SEED", 2**40),
        ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", math.inf),
        ("MODEL.LOSSES.CE.EPSILON", -1.0),
        ("MODEL.PIXEL_MEAN", [0.485, 0.456, 0]),
        ("DATASETS.TESTS", ()),
        ("OUTPUT_DIR", ""),
    ],
)
def test_conventions_hold(key, value):
    assert problem_with(key, value) is None


def test_paths_may_be_anything_but_null():
    assert RULES["OUTPUT_DIR"] is TEXT and problem_with("OUTPUT_DIR", "caf\udce9 \u2194") is None
