"""Filters from a config."""

import pytest

from fastreid.config import CfgNode
from fastreid.generation.filters import FILTER_REGISTRY, FilterError, build_filters, build_rounds, model_files
from fastreid.methods.diffusion_reid.filter_config import AUTO_OR_NUMBER, KEYS
from fastreid.utils.registry import RegistryError


def keys(**values):
    tree = CfgNode()
    for name, key in KEYS.items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, CfgNode())
        node[last] = key.default
    node.update(values)
    return node


def test_the_defaults_obey_their_rules():
    assert all(key.rule.holds(key.default) for key in KEYS.values())
    assert [AUTO_OR_NUMBER.holds(text) for text in ("auto", "0.6", "-1", "high", "nan", "")] == [True] * 3 + [False] * 3


def test_the_default_filters():
    filters = build_filters(keys())
    assert list(filters) == ["reid", "blur", "near_copy"]
    assert filters["reid"].settings() == {
        "identity": None, "identity_percentile": 5.0, "margin": 0.0,
        "copy": None, "copy_percentile": 99.5, "quantile": None,
    }  # fmt: skip
    assert filters["near_copy"].settings() == {"max_correlation": 0.9}
    assert filters["blur"].settings() == {"min_sharpness": 0.15}


def test_every_key_reaches_its_filter():
    changed = keys(
        TAU_ID="0.5", TAU_PCT=10.0, MARGIN=0.1, TAU_DUP="0.9", DUP_PCT=90.0, MODE="quantile", KEEP_QUANTILE=0.5,
        MAX_CORRELATION=0.8, MIN_SHARPNESS=0.3,
    )  # fmt: skip
    filters = build_filters(changed)
    assert filters["reid"].settings() == {
        "identity": 0.5, "identity_percentile": 10.0, "margin": 0.1,
        "copy": 0.9, "copy_percentile": 90.0, "quantile": 0.5,
    }  # fmt: skip
    assert filters["near_copy"].settings() == {"max_correlation": 0.8}
    assert filters["blur"].settings() == {"min_sharpness": 0.3}
    assert vars(build_rounds(keys(MIN_KEEP=7, MAX_ROUNDS=2), 50)) == {"min_keep": 7, "per_round": 50, "most": 2}


def test_unknown_filters_and_those_without_weights():
    assert set(FILTER_REGISTRY) == {"reid", "near_copy", "blur", "several_people"}
    with pytest.raises(RegistryError, match="near_copy"):
        build_filters(keys(NAMES=["near_copies"]))
    with pytest.raises(FilterError, match="remove 'several_people' from DIFFPERSON.FILTER.NAMES"):
        build_filters(keys(NAMES=["several_people"]))


def test_models_of_sources():
    models = keys(MODELS=["Market1501=m.pth", "csv:a.csv=x=y.pth"])
    with pytest.raises(FilterError, match="two models of A"):
        model_files(keys(MODELS=["A=1", "A=2"]), ["A"])
    with pytest.raises(FilterError, match="a re-ID model of B, C: add 'B=CHECKPOINT'"):
        model_files(keys(MODELS=["A=1"]), ["A", "B", "C"])
    with pytest.raises(FilterError, match="'m.pth', which is not NAME=CHECKPOINT"):
        model_files(keys(MODELS=["m.pth"]), ["A"])
    assert model_files(models, ["csv:a.csv"]) == {"csv:a.csv": "x=y.pth"}
