"""The plan of a comparison of backbones: which runs, on what, from which weights, in which order."""

from pathlib import Path

import pytest

from fastreid.config import ConfigError, get_cfg
from fastreid.engine.transfer import SETTINGS, Comparison, refuse_own_keys, shared_keys


def comparison(**options):
    defaults = {
        "backbones": {"fresh": "random", "own": "own.pth"},
        "settings": list(SETTINGS),
        "target": "Market1501",
        "sources": ["MSMT17", "DukeMTMC"],
        "ratios": [0.5, 0.1],
        "num_seeds": 2,
        "output": Path("out"),
    }
    return Comparison(**defaults | options)


def keys_of(setting, backbone="own", **options):
    return next(run.keys for run in comparison(**options).runs() if (run.setting, run.backbone) == (setting, backbone))


def test_each_setting_has_a_run_for_each_seed_ratio_and_backbone():
    runs = list(comparison().runs())
    assert len(runs) == (4 + 2 * 2) * 2 * 2 == len({run.folder for run in runs})
    assert [run.title for run in comparison(settings=["few_shot"], num_seeds=1).runs()] == [
        *("few_shot 10 %, fresh, seed 1", "few_shot 10 %, own, seed 1"),
        *("few_shot 50 %, fresh, seed 1", "few_shot 50 %, own, seed 1"),
    ]
    assert all(run.keys["MODEL.SEED"] == run.keys["DATASETS.SUBSET.SEED"] == run.seed for run in runs)
    assert {tuple(run.keys["DATASETS.TESTS"]) for run in runs} == {("Market1501",)}


def test_ratios_that_are_nearly_equal_have_runs_of_their_own():
    runs = list(comparison(settings=["few_shot"], ratios=[0.7500001, 0.7500002, 0.5], num_seeds=1).runs())
    assert len({run.folder for run in runs}) == len({run.title for run in runs}) == 3 * 2
    assert runs[0].folder == Path("out/few_shot_0.5/fresh/seed1") and "75.00002 %" in runs[-1].title


def test_what_each_setting_trains_on():
    target, sources = ["Market1501"], ["MSMT17", "DukeMTMC"]
    trained = {name: (keys_of(name)["DATASETS.NAMES"], keys_of(name)["DATASETS.SUBSET.MODE"]) for name in SETTINGS}
    assert trained == {
        "supervised": (target, "none"),
        "small_scale": (target, "small_scale"),
        "few_shot": (target, "few_shot"),
        "unsupervised": (target, "none"),
        "generalization": (sources, "none"),
        "adaptation": (target, "none"),
    }
    assert {name for name, setting in SETTINGS.items() if not setting.with_labels} == {"unsupervised", "adaptation"}


def test_the_initial_weights():
    own, fresh = keys_of("supervised"), keys_of("supervised", "fresh")
    assert (own["MODEL.BACKBONE.PRETRAIN"], own["MODEL.BACKBONE.PRETRAIN_PATH"]) == (True, "own.pth")
    assert (fresh["MODEL.BACKBONE.PRETRAIN"], fresh["MODEL.BACKBONE.PRETRAIN_PATH"]) == (False, "")
    assert own["MODEL.WEIGHTS"] == fresh["MODEL.WEIGHTS"] == ""


def test_adaptation_starts_from_the_model_of_the_sources_with_the_same_backbone_and_seed():
    runs = list(comparison(settings=["adaptation"]).runs())
    assert [run.setting for run in runs] == ["generalization"] * 4 + ["adaptation"] * 4
    for run in runs[4:]:
        assert run.start == Path(f"out/generalization/{run.backbone}/seed{run.seed}/model_final.pth")
        assert run.start.parent in {earlier.folder for earlier in runs[:4]}
        assert run.keys["MODEL.WEIGHTS"] == str(run.start) and run.keys["MODEL.BACKBONE.PRETRAIN"] is False


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backbones": {"own": "own.pth"}}, "--backbones needs two or more NAME=PATH"),
        ({"backbones": {"own": "a", "../x": "b"}}, r"the name '\.\./x' must be letters"),
        ({"settings": ["fewshot"]}, "unknown setting 'fewshot'; did you mean 'few_shot'"),
        ({"sources": []}, "generalization and adaptation train on another data set first: name it with --source"),
        ({"sources": ["MSMT17", "Market1501"]}, "--source has the target Market1501"),
        ({"ratios": [0.1, 30]}, r"--ratios are shares above 0, up to 1 \(0.1 is 10 %\), got 30"),
        ({"ratios": [1.0000001]}, "got 1.0000001"),
        ({"num_seeds": 0}, "--seeds is the number of seeds, 1 or more, got 0"),
    ],
)
def test_what_cannot_be_compared_is_explained(options, said):
    wanted = {"settings": ["generalization", "adaptation"]} | options
    with pytest.raises(ConfigError, match=said):
        comparison(**wanted)


@pytest.mark.parametrize("key", ["DATASETS.SUBSET.RATIO", "MODEL.SEED", "OUTPUT_DIR"])
def test_keys_in_which_runs_differ_cannot_be_given(key):
    refuse_own_keys(["SOLVER.MAX_EPOCH", "3"])
    with pytest.raises(ConfigError, match=f"{key} is set by the comparison itself"):
        refuse_own_keys(["SOLVER.MAX_EPOCH", "3", key, "3"])


def test_recipes_without_labels_take_over_the_network():
    supervised, unsupervised = get_cfg(), get_cfg()
    supervised.merge_from_list(["MODEL.BACKBONE.WITH_NL", True, "INPUT.SIZE_TRAIN", [64, 32], "SOLVER.BASE_LR", 9.0])
    supervised.merge_from_list(["MODEL.BACKBONE.PRETRAIN", True, "MODEL.BACKBONE.PRETRAIN_PATH", "x.pth"])
    assert shared_keys(supervised, unsupervised) == {"MODEL.BACKBONE.WITH_NL": True, "INPUT.SIZE_TRAIN": [64, 32]}
