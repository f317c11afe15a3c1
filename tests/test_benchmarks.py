"""Parts of benchmarks/evaluation.py that its command in docs/benchmarks.md does not reach without a GPU."""

import importlib.util
import sys
from unittest import mock

import pytest
import torch

from tests.miniature import ROOT


@pytest.fixture(scope="module")
def evaluation():
    folder = ROOT / "benchmarks"
    spec = importlib.util.spec_from_file_location("benchmarks_evaluation", folder / "evaluation.py")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(folder), *sys.path]), mock.patch.dict(sys.modules):
        sys.modules[spec.name] = module  # where dataclasses look
        spec.loader.exec_module(module)
    return module


def at_once(job, warm):
    return 2.0 if warm else 1.0, 3.0, job()


def test_a_baseline_without_a_result_is_compared_with_nothing(evaluation):
    jobs = {"ours": lambda: 0.5, "bare product": lambda: None}
    rows = evaluation._rows("t", jobs, 2, baseline="bare product", product="bare product", measure=at_once)
    assert rows == [["t", "ours", "2.000", "1.0x", "1.00", "3"], ["t", "bare product", "2.000", "1.0x", "1.00", "3"]]


def test_different_results_end_the_benchmark(evaluation):
    with pytest.raises(AssertionError, match=r"t: ours gives 0\.5, classical 0\.6"):
        evaluation._rows("t", {"classical": lambda: 0.6, "ours": lambda: 0.5}, 1, baseline="classical", measure=at_once)


def test_on_a_device_jobs_run_in_this_process(evaluation, monkeypatch):
    calls = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 2**20)
    seconds, memory, result = evaluation.measured_on("cuda", lambda: calls.append("job") or "result")
    assert (memory, result) == (5.0, "result") and seconds >= 0
    assert calls == ["job", "synchronize", "reset_peak_memory_stats", "job", "synchronize"]
