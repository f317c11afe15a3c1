"""Scoring options from the config and by plain calls; invalid ones raise an error that names them."""

import sys

import numpy as np
import pytest
import torch

from fastreid.config import ConfigError, get_cfg
from fastreid.evaluation.protocols import check_protocol
from fastreid.evaluation.scoring import score_distances, score_features
from fastreid.evaluation.scoring_options import Expansion, Reranking, Scoring
from fastreid.evaluation.statistics import bootstrap_intervals
from fastreid.retrieval import compiled_engine
from fastreid.retrieval.compiled_engine import CompiledDistances
from fastreid.retrieval.matches import match_labels
from fastreid.retrieval.neighbors import nearest_neighbors
from fastreid.retrieval.ranking import rank_queries
from fastreid.retrieval.torch_engine import TorchDistances
from fastreid.utils.errors import ArgumentError
from tests.evaluation.test_roc import protocol
from tests.evaluation.toys import two_protocols


def from_keys(*keys):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *keys])
    return Scoring.from_config(cfg)


def test_defaults_of_the_config_are_those_of_the_record():
    assert from_keys("TEST.MEMORY_BUDGET", 64.0) == Scoring()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            ("TEST.AQE.ENABLED", True, "TEST.AQE.QE_K", 7, "TEST.AQE.QE_TIME", 2, "TEST.AQE.ALPHA", 1.0),
            {"expansion": Expansion(k=7, alpha=1.0, times=2)},
        ),
        (("TEST.DBA.ENABLED", True, "TEST.DBA.K", 4), {"augmentation": Expansion(k=4)}),
        (
            ("TEST.RERANK.ENABLED", True, "TEST.RERANK.K1", 9, "TEST.RERANK.K2", 2, "TEST.RERANK.LAMBDA", 0.1),
            {"reranking": Reranking(k1=9, k2=2, weight=0.1)},
        ),
        (("TEST.ROC.ENABLED", True, "TEST.SINGLE_SHOT", True), {"roc": True, "single_shot": True}),
        (("TEST.ENGINE", "torch", "TEST.SEARCH", "faiss"), {"engine": "torch", "search": "faiss"}),
        (("TEST.BREAKDOWN", ["view", "camera"]), {"breakdown": ("view", "camera")}),
        (("TEST.RECALLS", [1, 100]), {"recalls": (1, 100)}),
    ],
)
def test_keys_become_options_that_change_what_is_computed(keys, expected):
    assert from_keys("TEST.MEMORY_BUDGET", 64.0, *keys) == Scoring(**expected)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (("TEST.METRIC", "cosin"), "'cosin'; did you mean 'cosine'"),
        (("TEST.ENGINE", "torc"), "TEST.ENGINE.*did you mean 'torch'"),
        (("TEST.SEARCH", "fais"), "TEST.SEARCH.*did you mean 'faiss'"),
        (("TEST.BREAKDOWN", ["views"]), "TEST.BREAKDOWN.*did you mean 'view'"),
        (("TEST.RECALLS", [4, 0]), "TEST.RECALLS.*at least 1, got 0"),
        (("TEST.RECALLS", [1], "TEST.SINGLE_SHOT", True), "TEST.RECALLS.*TEST.SINGLE_SHOT"),
        (("TEST.MEMORY_BUDGET", 0.0), "TEST.MEMORY_BUDGET.*above 0 MiB, got 0"),
        (("TEST.AQE.ENABLED", True, "TEST.AQE.QE_K", 0), "TEST.AQE.*k=0"),
        (("TEST.DBA.ENABLED", True, "TEST.DBA.ALPHA", -1.0), "TEST.DBA.*alpha=-1"),
        (("TEST.RERANK.ENABLED", True, "TEST.RERANK.LAMBDA", 2.0), "TEST.RERANK.*weight=2"),
    ],
)
def test_invalid_keys_raise_before_any_work(keys, said):
    with pytest.raises(ConfigError, match=said):
        from_keys(*keys)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"recalls": 5}, r"recalls must be a tuple, got 5 \(int\)"),
        ({"breakdown": "view"}, "breakdown must be a tuple, got 'view'"),
        ({"memory_budget": "256"}, "memory_budget must be a number of MiB, got '256'"),
        ({"metric": ["cosine"]}, "metric must be a text"),
        ({"reranking": True}, "reranking must be a Reranking or None, got True"),
        ({"expansion": Reranking()}, "expansion must be an Expansion or None"),
        ({"single_shot": "False"}, "single_shot must be True or False, got 'False'"),
        ({"roc": "False"}, "roc must be True or False"),
        ({"max_rank": 10**12}, "max_rank must be from 10 to 10000000"),
    ],
)
def test_a_value_of_another_type_is_named(options, said):
    with pytest.raises(ArgumentError, match=said):
        Scoring(**options)


def test_views_of_one_side_are_refused():
    ids = [1, 2], [1, 2], [0, 0], [1, 1]
    with pytest.raises(ArgumentError, match="view ids are given for queries and gallery, or for neither"):
        score_features(np.eye(2), np.eye(2), *ids, q_viewids=[0, 1])


def test_compiled_needs_the_extension(monkeypatch):
    monkeypatch.setattr(compiled_engine, "is_available", lambda: False)
    with pytest.raises(ValueError, match="TEST.ENGINE is compiled, but the extension is not built"):
        Scoring(engine="compiled")


OPTIONS = {
    "plain": {},
    "euclidean": {"metric": "euclidean"},
    "expansion": {"expansion": Expansion(k=4)},
    "augmentation": {"augmentation": Expansion(k=4)},
    "reranking": {"reranking": Reranking(k1=8, k2=3)},
    "all": {
        "augmentation": Expansion(k=2), "expansion": Expansion(k=3), "reranking": Reranking(k1=8, k2=3), "roc": True
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_every_engine_gives_the_same_figures(name, monkeypatch):
    query, gallery, *ids = protocol(3, q=30, g=300, dim=16)
    expected = score_features(query, gallery, *ids, Scoring(**OPTIONS[name]))
    torched = score_features(query, gallery, *ids, Scoring(**OPTIONS[name], engine="torch", memory_budget=0.05))
    monkeypatch.setattr(compiled_engine, "is_available", lambda: False)
    uncompiled = score_features(query, gallery, *ids, Scoring(**OPTIONS[name], memory_budget=0.05))
    for found in (torched, uncompiled):
        assert found.metrics == pytest.approx(expected.metrics, abs=1e-3)
        np.testing.assert_allclose(found.distances_of(11), expected.distances_of(11), atol=1e-5)
    if name not in ("plain",):
        assert expected.metrics != score_features(query, gallery, *ids).metrics


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("engine", ["compiled", "torch"])
def test_figures_are_those_of_the_distances_that_are_shown(name, engine):
    query, gallery, *ids = protocol(5, q=25, g=200, dim=16)
    result = score_features(query, gallery, *ids, Scoring(**OPTIONS[name], engine=engine, memory_budget=0.02))
    rows = np.stack([result.distances_of(row) for row in range(len(query))])
    assert 100 * rank_queries(rows, *ids).mean_ap == result.metrics["mAP"]


def test_breakdown_scores_each_pair_of_groups_alone():
    query, gallery, *ids = protocol(6, q=40, g=200, dim=16, cameras=4)
    q_views, g_views = ids[2] % 2, ids[3] % 2
    options = {"breakdown": ("view", "camera")}
    for engine in ("compiled", "torch"):
        result = score_features(
            query, gallery, *ids, Scoring(engine=engine, memory_budget=0.05, **options),
            q_viewids=q_views, g_viewids=g_views,
        )  # fmt: skip
        rows = result.breakdown["view"]
        assert [(row["query"], row["gallery"]) for row in rows] == [
            ("aerial", "aerial"), ("aerial", "ground"), ("ground", "aerial"), ("ground", "ground")
        ]  # fmt: skip
        for row, (q, g) in zip(rows, [(0, 0), (0, 1), (1, 0), (1, 1)], strict=True):
            part = [ids[0][q_views == q], ids[1][g_views == g], ids[2][q_views == q], ids[3][g_views == g]]
            alone = score_features(query[q_views == q], gallery[g_views == g], *part, Scoring(engine=engine)).metrics
            assert {name: row[name] for name in ("Rank-1", "mAP", "mINP", "valid_queries")} == pytest.approx(
                {name: alone[name] for name in ("Rank-1", "mAP", "mINP", "valid_queries")}
            )
        cameras = {(row["query"], row["gallery"]) for row in result.breakdown["camera"]}
        assert cameras == {(f"camera {a}", f"camera {b}") for a in range(4) for b in range(4) if a != b}


def test_breakdown_by_view_needs_views():
    with pytest.raises(ValueError, match="needs the view ids"):
        score_features(*protocol(1), Scoring(breakdown=("view",)))


def test_single_shot_changes_the_curve_only():
    data = protocol(7, q=30, g=150)
    ordinary, single = (score_features(*data, Scoring(single_shot=one)) for one in (False, True))
    assert single.metrics["mAP"] == ordinary.metrics["mAP"]
    assert single.metrics["Rank-1"] != ordinary.metrics["Rank-1"]


def test_expansion_needs_as_many_images():
    query, gallery, *ids = protocol(1, q=5, g=10)
    with pytest.raises(ValueError, match="TEST.AQE.QE_K is 99, but there are only 15 images"):
        score_features(query, gallery, *ids, Scoring(expansion=Expansion(k=99)))


@pytest.mark.parametrize("rounded", [np.float32, np.float16, "bfloat16"])
def test_reranking_reads_every_storage(rounded):
    query, gallery, *ids = protocol(8, q=20, g=100)
    if rounded == "bfloat16":
        stored = [torch.from_numpy(x).bfloat16() for x in (query, gallery)]
        plain = [x.float().numpy() for x in stored]
    else:
        stored = [x.astype(rounded) for x in (query, gallery)]
        plain = [x.astype(np.float32) for x in stored]
    options = Scoring(reranking=Reranking(k1=6, k2=2), expansion=Expansion(k=2))
    assert score_features(*stored, *ids, options).metrics == score_features(*plain, *ids, options).metrics


def test_ranking_of_some_queries_only_is_part_of_the_whole():
    query, gallery, *ids = protocol(9, q=30, g=200)
    matches, distances = match_labels(*ids), CompiledDistances(query, gallery)
    some = np.arange(30) % 3 == 0
    part = distances.rank(matches.among(some, np.ones(200, dtype=bool)))
    np.testing.assert_array_equal(part.ap[some], distances.rank(matches).ap[some])
    assert not part.valid[~some].any()


def test_a_given_matrix_has_the_same_score():
    query, gallery, *ids = protocol(11, q=30, g=200)
    options = Scoring(roc=True, breakdown=("camera",))
    expected = score_features(query, gallery, *ids, options)
    found = score_distances(CompiledDistances(query, gallery).rows(0, 30), *ids, options)
    assert found.metrics == expected.metrics and found.breakdown == expected.breakdown
    with pytest.raises(ValueError, match="need descriptors"):
        score_distances(np.ones((30, 200)), *ids, Scoring(reranking=Reranking()))


def test_rank1_is_the_same_in_all_results():
    query, gallery, *ids = protocol(7, q=30, g=150)
    result = score_features(query, gallery, *ids, Scoring(single_shot=True))
    low, high = bootstrap_intervals(result.ranking, rank1=result.rank1)["Rank-1"]
    assert low < result.metrics["Rank-1"] < high
    assert result.chance["Rank-1"] == pytest.approx(100 / 5)  # of five people one is right
    with pytest.raises(ValueError, match="TEST.BREAKDOWN.*TEST.SINGLE_SHOT"):
        Scoring(single_shot=True, breakdown=("camera",))


@pytest.mark.parametrize("options", [{"reranking": Reranking(k1=5, k2=2)}, {"expansion": Expansion(k=2)}])
def test_the_side_of_a_broken_descriptor_is_named(options):
    query, gallery, *ids = protocol(1, q=30, g=100)
    gallery[5, 1] = np.nan
    with pytest.raises(ValueError, match="gallery image 5 is not finite"):
        score_features(query, gallery, *ids, Scoring(**options))


@pytest.mark.parametrize("options", [{"reranking": Reranking()}, {"augmentation": Expansion()}, {}])
def test_shapes_are_checked_before_any_work(options):
    query, gallery, *ids = protocol(1, q=30, g=100)
    with pytest.raises(ValueError, match=r"must be \[Q, D\] and \[G, D\]"):
        score_features(query[:, :4], gallery, *ids, Scoring(**options))
    with pytest.raises(ValueError, match="30 query and 99 gallery descriptors, but ids of 30 and 100"):
        score_features(query, gallery[:99], *ids, Scoring(**options))
    views = {"q_viewids": ids[2], "g_viewids": np.append(ids[3], 0)}
    with pytest.raises(ValueError, match=r"gallery view ids must be \[100\] integers"):
        score_features(query, gallery, *ids, Scoring(**options), **views)


def test_missing_libraries_are_logged_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert from_keys("TEST.SEARCH", "faiss").search == "auto"  # the same neighbours
    monkeypatch.setattr(compiled_engine, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="TEST.SEARCH is compiled, but the extension is not built"):
        from_keys("TEST.SEARCH", "compiled")


def test_a_protocol_that_cannot_be_scored_raises_before_the_model_runs():
    data = two_protocols()[0]
    check_protocol(data, Scoring(expansion=Expansion(k=24)), with_pairs=True)
    with pytest.raises(ConfigError, match="TOY: TEST.AQE.QE_K is 25, but there are only 24 images"):
        check_protocol(data, Scoring(expansion=Expansion(k=25)))
    data.query, data.gallery = data.query[:1], [image for image in data.gallery if image.person == 0]
    check_protocol(data)
    with pytest.raises(ConfigError, match="TOY: TEST.ROC and TEST.PLOTS need pairs of two people"):
        check_protocol(data, with_pairs=True)


@pytest.mark.parametrize("device", ["x", "mkldnn", "meta", "cuda:99"])
def test_scoring_and_searching_refuse_a_missing_device(device):
    with pytest.raises(ArgumentError, match=rf"device \(MODEL.DEVICE\).*'{device}'.* auto, cpu"):
        Scoring(device=device)
    with pytest.raises(ArgumentError, match=f"device.*'{device}'.* auto, cpu"):
        nearest_neighbors(np.eye(3, dtype=np.float32), 1, device=device)
    with pytest.raises(ArgumentError, match=f"device.*'{device}'.* auto, cpu"):
        TorchDistances(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), device=device)


@pytest.mark.parametrize(
    "options",
    [{"expansion": Expansion(alpha="3")}, {"reranking": Reranking(weight="3")}, {"reranking": Reranking(k1=1.5)}],
)
def test_numbers_of_another_type_are_refused(options):
    with pytest.raises(ArgumentError, match="TEST\\.(AQE|RERANK): "):
        Scoring(**options)
