"""Parts of the benchmarks that their commands in docs/benchmarks.md do not reach, such as those for a GPU."""

import argparse
import importlib.util
import math
import sys
from unittest import mock

import pytest
import torch

from tests.methods.dcac.conftest import dcac_cfg, sd_folder
from tests.miniature import ROOT, run_tool
from tests.modeling.conftest import assets

__all__ = ["assets", "sd_folder"]

CPU = torch.device("cpu")


def loaded(name):
    """A script of benchmarks/ as a module."""
    folder = ROOT / "benchmarks"
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [str(folder), *sys.path]), mock.patch.dict(sys.modules):
        sys.modules[spec.name] = module  # where dataclasses look
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def evaluation():
    return loaded("evaluation")


@pytest.fixture(scope="module")
def figures():
    return loaded("figures")


def at_once(job, warm):
    return 2.0 if warm else 1.0, 3.0, job()


def test_a_baseline_without_a_result_is_compared_with_nothing(evaluation):
    jobs = {"ours": lambda: 0.5, "bare product": lambda: None}
    rows = evaluation._rows("t", jobs, 2, baseline="bare product", product="bare product", measure=at_once)
    assert rows == [["t", "ours", "2.000", "1.0x", "1.00", "3"], ["t", "bare product", "2.000", "1.0x", "1.00", "3"]]


def test_different_results_end_the_benchmark(evaluation):
    with pytest.raises(AssertionError, match=r"t: ours gives 0\.5, classical 0\.6"):
        evaluation._rows("t", {"classical": lambda: 0.6, "ours": lambda: 0.5}, 1, baseline="classical", measure=at_once)


@pytest.mark.parametrize("name", ["generation", "sampling"])
def test_files_that_are_missing_end_in_a_sentence(name, tmp_path):
    with pytest.raises(SystemExit, match=f"^{name}: error: .*nowhere.*there is no such folder"):
        run_tool(f"benchmarks/{name}.py", "--assets", "nowhere", "--device", "cpu", cwd=tmp_path)


def test_on_a_device_jobs_run_in_this_process(evaluation, monkeypatch):
    calls = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: calls.append(name))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 2**20)
    seconds, memory, result = evaluation.measured_on(torch.device("cuda"), lambda: calls.append("job") or "result")
    assert (memory, result) == (5.0, "result") and seconds >= 0
    assert calls == ["job", "synchronize", "reset_peak_memory_stats", "job", "synchronize"]


def test_a_device_that_is_not_here_is_an_error_of_the_command(figures, capsys):
    parser = argparse.ArgumentParser()
    figures.add_device(parser)
    assert parser.parse_args(["--device", "cpu"]).device == CPU
    assert parser.parse_args([]).device.type in ("cpu", "cuda")
    with pytest.raises(SystemExit):
        parser.parse_args(["--device", "gpu"])
    assert "--device 'gpu' is no torch device; devices here: auto, cpu" in capsys.readouterr().err


def test_seconds_are_those_of_one_call_of_a_block(figures, monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(figures.time, "perf_counter", lambda: clock[0])

    def call():
        calls.append(1)
        clock[0] += 2.0

    assert figures.seconds_of(call, CPU, calls=3) == 2.0 and len(calls) == 3


def test_memory_on_a_gpu_is_counted_beside_what_was_there(figures, monkeypatch):
    peak = iter([2 * 2**30, 5 * 2**30])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: next(peak))
    assert figures.memory_of(lambda: "result", torch.device("cuda")) == ("result", 3.0)
    result, memory = figures.memory_of(lambda: "result", CPU)
    assert result == "result" and math.isnan(memory)


def test_the_line_of_a_figure(figures, capsys):
    figures.figure("a / b", 1.23456, goal="1.3 or less")
    figures.figure("a step", 12.0, " ms")
    assert capsys.readouterr().out == "FIGURE a / b = 1.235 (goal: 1.3 or less)\nFIGURE a step = 12 ms\n"


def test_the_rate_of_products_is_that_of_the_device(figures, monkeypatch):
    monkeypatch.setattr(figures, "seconds_of", lambda call, device, calls: 0.5)
    assert figures.product_rate(CPU, torch.float32, size=64) == 64**3 / 0.5


def test_ways_to_sample_give_the_same_features(assets):
    """The plain loops are what the library is compared with, so they must compute the same."""
    sampling = loaded("sampling")
    work = sampling.Work(assets, 2, CPU, "fp32")
    with torch.inference_mode():
        expected = work.release()
        for way in (work.library, work.diffusers):
            torch.testing.assert_close(way(), expected, rtol=1e-3, atol=1e-4)
    assert work.macs_per_pass() > 0


def test_a_step_of_dcac_in_each_way(sd_folder):
    dcac = loaded("dcac")
    cfg = dcac_cfg(sd_folder, "SOLVER.AMP.ENABLED", False)
    images = torch.rand(4, 3, 32, 32) * 255
    batch = {"images": images, "diffusion_images": images, "targets": torch.arange(4) // 2, "indices": torch.arange(4)}
    ways = {name: dcac.Way(name, cfg, batch) for name in dcac.CHANGES}
    losses = {name: way.first_step()[0] for name, way in ways.items()}
    assert losses[dcac.BASELINE] == 0 and losses[dcac.PLAIN] == pytest.approx(losses[dcac.OURS], rel=1e-3) != 0
    assert ways[dcac.OURS].seconds(2) > 0


def test_blocks_of_steps_take_turns():
    train_loop = loaded("train_loop")
    loader = train_loop.EverySecondReady([{"number": number} for number in range(100)], 2)
    batches = iter(loader)
    assert [next(batches)["number"] for _ in range(8)] == [4, 5, 0, 1, 6, 7, 2, 3]
