"""Public functions take descriptors, distances and ids in every usual form, with the same result."""

import numpy as np
import pytest
import torch

from fastreid.evaluation import (
    aqe,
    evaluate_rank,
    evaluate_roc,
    match_labels,
    nearest_neighbors,
    rank_features,
    score_distances,
    score_features,
)
from fastreid.utils.compute_dist import build_dist

RANDOM = np.random.default_rng(0)
QUERY, GALLERY = (RANDOM.standard_normal((rows, 8)).astype(np.float32) for rows in (6, 20))
DISTANCES = (1 - QUERY @ GALLERY.T).astype(np.float32)
IDS = (np.arange(6) % 3, np.arange(20) % 3, np.zeros(6, int), np.ones(20, int))

FORMS = {
    "lists": lambda x: x.tolist(),
    "tuples": lambda x: tuple(map(tuple, x.tolist())) if x.ndim > 1 else tuple(x.tolist()),
    "tensors": torch.from_numpy,
    "tensors with gradients": lambda x: torch.from_numpy(x).requires_grad_(x.dtype.kind == "f"),
    "lists of tensors": lambda x: [torch.from_numpy(np.asarray(row)) for row in x],
    "double precision": lambda x: x.astype(np.float64 if x.dtype.kind == "f" else np.int32),
    "Fortran's order": np.asfortranarray,
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}
FUNCTIONS = {
    "score_features": lambda form: score_features(form(QUERY), form(GALLERY), *map(form, IDS)).metrics,
    "score_distances": lambda form: score_distances(form(DISTANCES), *map(form, IDS)).metrics,
    "rank_features": lambda form: rank_features(form(QUERY), form(GALLERY), *map(form, IDS)).ap,
    "nearest_neighbors": lambda form: nearest_neighbors(form(GALLERY), 3).indices,
    "evaluate_rank": lambda form: evaluate_rank(form(DISTANCES), *map(form, IDS))[1],
    "evaluate_rank, CUHK03": lambda form: evaluate_rank(form(DISTANCES), *map(form, IDS), use_metric_cuhk03=True)[0],
    "evaluate_roc": lambda form: evaluate_roc(form(DISTANCES), *map(form, IDS))[0],
    "match_labels": lambda form: match_labels(*map(form, IDS)).num_positives,
    "aqe": lambda form: aqe(form(QUERY), form(GALLERY), 1, 3)[1],
    "build_dist": lambda form: build_dist(form(QUERY), form(GALLERY), "cosine"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_form_of_arguments_does_not_matter(name, form):
    expected, found = FUNCTIONS[name](lambda x: x), FUNCTIONS[name](FORMS[form])
    if isinstance(expected, dict):
        assert found == pytest.approx(expected)
    else:
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-5, atol=1e-6)
