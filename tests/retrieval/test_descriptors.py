"""Every public function refuses descriptors that are not finite real numbers, and names the row."""

import datetime

import numpy as np
import pytest
import torch

from fastreid.evaluation import (
    Expansion,
    Reranking,
    Scoring,
    aqe,
    build_dist,
    distance_rows,
    evaluate_rank,
    evaluate_roc,
    jaccard_distances,
    jaccard_graph,
    nearest_neighbors,
    rank_features,
    rank_queries,
    score,
    score_distances,
    score_features,
)
from fastreid.retrieval.descriptors import FeatureError, check_finite_rows, rows_in_place, rows_on_cpu
from fastreid.structures import PersonImage
from fastreid.utils.errors import UserError

PIDS, CAMERAS = np.arange(12) % 4, np.arange(12) // 4
Q = slice(0, 4)


def ids():
    return PIDS[Q], PIDS[4:], CAMERAS[Q], CAMERAS[4:]


def good():
    return np.random.default_rng(0).standard_normal((12, 6)).astype(np.float32)


def _score(query, gallery, **how):
    return score_features(query, gallery, *ids(), Scoring(**how))


FUNCTIONS = {
    "score": _score,
    "score, euclidean": lambda q, g: _score(q, g, metric="euclidean"),
    "score, torch": lambda q, g: _score(q, g, engine="torch"),
    "score, re-ranked": lambda q, g: _score(q, g, reranking=Reranking(k1=4, k2=2)),
    "score, expanded": lambda q, g: _score(q, g, expansion=Expansion(k=2), augmentation=Expansion(k=2)),
    "score, roc": lambda q, g: _score(q, g, roc=True),
    "rank_features": lambda q, g: rank_features(q, g, *ids()),
    "distance_rows": distance_rows,
    "nearest_neighbors": lambda q, g: nearest_neighbors(q, 2, gallery=g),
    "aqe": lambda q, g: aqe(q, g, 1, 2, 3.0),
    "jaccard_graph": lambda q, g: jaccard_graph(g, k1=3),
    "jaccard_distances": lambda q, g: jaccard_distances(q, g, k1=3),
    "build_dist": lambda q, g: build_dist(q, g, "cosine"),
}


def spoiled(kind):
    """Gallery rows that cannot be scored; row 3 is the first of two."""
    rows = good()[4:]
    if kind in ("nan", "inf"):
        rows[[3, 5], 1] = float(kind)
        return rows
    if kind in ("None", "text among numbers"):
        rows = rows.astype(object)
        rows[3, 2] = rows[5, 0] = None if kind == "None" else "0.5"
        return rows
    if kind == "tensor of complex numbers":
        return torch.from_numpy(rows).to(torch.complex64)
    if kind == "sparse tensor":
        return torch.from_numpy(rows).to_sparse()
    if kind == "ragged":
        return [[1.0, 2.0], [1.0]] * 4
    if kind == "dates":
        return np.full(rows.shape, np.datetime64("2020-01-01"))
    return rows.astype({"complex": np.complex64, "text": "U8", "bytes": "S8"}[kind])


KINDS = ("complex", "text", "bytes", "dates", "ragged", "tensor of complex numbers", "sparse tensor",
         "None", "text among numbers", "nan", "inf")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_refuses_wrong_descriptors(function, kind):
    with pytest.raises(ValueError) as error:
        FUNCTIONS[function](good()[Q], spoiled(kind))
    said = str(error.value)
    if kind in ("None", "text among numbers"):
        assert "2 of 8 rows of descriptors hold what is no real number; the first is row 3, with" in said
    elif kind in ("nan", "inf"):
        assert "3 is not finite" in said or "7 is not finite" in said  # of both sides together
    else:
        assert "descriptors must be" in said
    if function.startswith("score"):
        assert isinstance(error.value, UserError)
        assert kind not in ("nan", "inf") or "gallery image 3 is not finite (2 of 8 are not)" in said


MATRIX_FUNCTIONS = {
    "score_distances": score_distances,
    "evaluate_rank": lambda matrix, *ids: evaluate_rank(matrix, *ids, max_rank=5),
    "rank_queries": rank_queries,
    "evaluate_roc": evaluate_roc,
}


@pytest.mark.parametrize("kind", ["complex", "text", "dates", "ragged", "None", "tensor of complex numbers"])
@pytest.mark.parametrize("function", MATRIX_FUNCTIONS)
def test_every_function_refuses_wrong_distances(function, kind):
    matrix = np.abs(good()[Q] @ good()[4:].T)
    wrong = {
        "complex": lambda: matrix.astype(complex),
        "text": lambda: matrix.astype(str),
        "dates": lambda: np.full(matrix.shape, np.datetime64("2020-01-01")),
        "ragged": lambda: [[1.0], [1.0, 2.0]],
        "None": lambda: np.where(matrix > 1, None, matrix),
        "tensor of complex numbers": lambda: torch.from_numpy(matrix.astype(complex)),
    }[kind]()
    with pytest.raises(FeatureError, match="distances"):
        MATRIX_FUNCTIONS[function](wrong, *ids())
    MATRIX_FUNCTIONS[function](matrix.astype(object), *ids())


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", ["float64", "float16", "list", "objects", "tensor", "bfloat16", "int"])
def test_every_function_takes_real_numbers_of_every_type(function, kind):
    rows = good()
    forms = {
        "list": lambda part: part.tolist(),
        "objects": lambda part: part.astype(object),
        "tensor": lambda part: torch.from_numpy(part).requires_grad_(),
        "bfloat16": lambda part: torch.from_numpy(part).bfloat16(),
        "int": lambda part: (100 * part).astype(np.int32),
    }
    form = forms.get(kind, lambda part: part.astype(kind))
    FUNCTIONS[function](form(rows[Q]), form(rows[4:]))


def test_types_may_differ_between_query_and_gallery():
    rows = good()
    expected = _score(rows[Q], rows[4:]).metrics
    assert _score(torch.from_numpy(rows[Q]), rows[4:].astype(np.float64)).metrics == expected


def test_nothing_is_copied_without_need(tmp_path):
    np.save(tmp_path / "a.npy", good())
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert rows_on_cpu(mapped) is mapped
    rows = good()
    assert np.shares_memory(rows_on_cpu(rows), rows) and np.shares_memory(rows_on_cpu(torch.from_numpy(rows)), rows)


def test_the_error_names_and_counts_rows():
    rows = np.zeros((5000, 2))
    rows[[4500, 4999], 1] = np.inf
    with pytest.raises(FeatureError, match=r"query image 4500 is not finite \(2 of 5000 are not\)"):
        check_finite_rows(rows, "query image")
    with pytest.raises(FeatureError, match="1 of 3 rows of descriptors hold .* the first is row 1, with datetime.date"):
        rows_on_cpu([[1, 2], [1, datetime.date(2020, 1, 1)], [1, 2]])
    with pytest.raises(FeatureError, match="1 of 3 rows of descriptors are masked; the first is row 2"):
        rows_on_cpu(np.ma.masked_equal([[1, 2], [3, 4], [5, 0]], 0))


@pytest.mark.parametrize("kind", [">f4", ">f2", ">f8", ">i2", ">i8"])
def test_another_byte_order_is_the_same_numbers(kind):
    rows = np.arange(6).reshape(3, 2)
    found = rows_on_cpu(rows.astype(kind))
    assert found.dtype.isnative and found.dtype.kind == kind[1] and np.array_equal(found, rows)


@pytest.mark.parametrize("convert", [
    np.asarray, torch.from_numpy, np.ndarray.tolist, np.negative, lambda rows: rows.astype(object),
    lambda rows: rows.astype(np.uint64),
])  # fmt: skip
def test_whole_numbers_that_float64_cannot_tell_apart_are_refused(convert):
    rows = np.array([[1, 2**53], [2**53 + 1, 0], [2**62, 0]])
    said = "2 of 3 rows of descriptors hold whole numbers beyond 2.53, .*; the first is row 1, with .*9007199254740993"
    with pytest.raises(FeatureError, match=said):
        rows_in_place(convert(rows))
    assert len(rows_in_place(convert(rows[:1]))) == 1


def test_the_error_of_a_run_names_the_image():
    images = [PersonImage(f"{n}.jpg", int(p), int(c), 0) for n, (p, c) in enumerate(zip(PIDS, CAMERAS, strict=True))]
    rows = torch.from_numpy(good())
    rows[2] = torch.nan
    with pytest.raises(UserError, match=r"query image 2\.jpg is not finite \(1 of 4 are not\)"):
        score(rows[Q], rows[4:], images[Q], images[4:])
