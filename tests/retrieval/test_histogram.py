"""Counts of distances in bins and at thresholds are exact, by the kernels and by torch."""

import sys

import numpy as np
import pytest
import torch

from fastreid.retrieval import compiled_engine, histogram
from fastreid.retrieval.histogram import PairCounter

DISTANCES = np.array([[0.25, -0.5, 1.5], [0.1, 0.75, 0.25], [1.0, 0.6, 0.0]], np.float32)


@pytest.fixture(params=["compiled", "torch"])
def make_counter(request, monkeypatch):
    """Return a function that makes a counter of four bins from 0 to 1."""
    if request.param == "compiled" and not compiled_engine.is_available():
        pytest.skip("extension not compiled")
    if request.param == "torch":
        monkeypatch.setitem(sys.modules, "fastreid.retrieval.rank_cylib.rank_cy", None)
        monkeypatch.setattr(histogram, "_CHUNK", 4)  # several parts, the last one shorter
    return lambda thresholds: PairCounter(thresholds, (0.0, 1.0), num_bins=4)


def counts_of(counter):
    return [counts.tolist() for counts in counter.read()]


@pytest.mark.parametrize("kind", ["array", "tensor", "float64", "transposed"])
def test_counts_are_exact_at_edges_ties_and_outside_of_the_bounds(make_counter, kind):
    form = {"tensor": torch.from_numpy, "float64": np.float64, "transposed": np.transpose}.get(kind, np.asarray)
    counter = make_counter([0.0, 0.25, 0.5, 0.75])
    assert counter.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    counter.add(form(DISTANCES))
    # An edge belongs to the bin that starts there, but the last one to the last bin.
    assert counts_of(counter) == [[3, 2, 1, 3], [2, 5, 5, 7], [1, 2, 0, 1]]


def test_counts_add_up_and_can_be_subtracted(make_counter):
    counter = make_counter([0.0, 0.25, 0.5, 0.75])
    counter.add(DISTANCES)
    counter.add(DISTANCES[0], sign=-1)
    counter.add(DISTANCES[2])
    assert counts_of(counter) == [[3, 1, 2, 3], [2, 4, 4, 7], [2, 1, 0, 1]]


def test_the_kernels_are_used_if_they_are_built(make_counter, request):
    is_torch = request.node.callspec.params["make_counter"] == "torch"
    assert isinstance(make_counter([0.5]).on_cpu, histogram._TorchHistogram) == is_torch


def test_counters_of_several_devices_are_added():
    counter = PairCounter([0.25, 0.5], (0.0, 1.0), num_bins=4)
    counter.add(DISTANCES)
    other = histogram._TorchHistogram(np.float32([0.25, 0.5]), 0.0, 1.0, 4, "cpu")
    other.add(DISTANCES[0])
    counter._counters["another device"] = other
    assert counts_of(counter) == [[4, 3, 1, 4], [7, 7], [3, 0]]


def test_no_thresholds_and_no_distances(make_counter):
    counter = make_counter([])
    assert counts_of(counter) == [[0, 0, 0, 0], [], []]
    counter.add(np.zeros((0, 3), np.float32))
    counter.add(DISTANCES)
    assert counts_of(counter) == [[3, 2, 1, 3], [], []]
