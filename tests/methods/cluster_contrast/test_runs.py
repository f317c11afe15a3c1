"""Whole runs of Cluster Contrast: it learns, is killed and resumed, runs in two processes, and starts elsewhere."""

import csv
import re
import signal

import pytest
import torch

from tests.methods import whole_runs
from tests.methods.cluster_contrast.conftest import KEYS, make_domain
from tests.methods.whole_runs import STOP, final, state
from tests.miniature import run_tool


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domain")
    make_domain(folder)
    return folder


def train(folder, output, *words):
    return whole_runs.train(folder, KEYS, output, *words)


@pytest.fixture(scope="module")
def whole(folder):
    done = train(folder, "whole")
    assert done.returncode == 0, done.stderr[-2000:]
    return state(folder, "whole")


# Within the second epoch; before the third one, after its clustering.
@pytest.mark.parametrize("iteration", [4, pytest.param(6, marks=pytest.mark.slow)])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(folder, whole, iteration):
    (folder / "stop.py").write_text(STOP.format(iteration=iteration, signal=int(signal.SIGKILL)))
    stopped = train(folder, f"stopped{iteration}", "--import=stop.py")
    assert stopped.returncode == -signal.SIGKILL
    resumed = train(folder, f"stopped{iteration}", "--import=stop.py", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    found = state(folder, f"stopped{iteration}")
    assert {"memory.class_prototypes", "memory.num_clusters"} < whole["model"].keys() == found["model"].keys()
    assert [name for name, value in whole["model"].items() if not torch.equal(value, found["model"][name])] == []
    assert torch.equal(whole["epoch_tasks"]["labels"], found["epoch_tasks"]["labels"])
    assert (folder / f"stopped{iteration}/clusters.csv").read_text() == (folder / "whole/clusters.csv").read_text()


def test_a_finished_run_that_is_resumed_writes_its_clusters_again(folder, whole):
    before = (folder / "whole/clusters.csv").read_text()
    (folder / "whole/clusters.csv").unlink()
    done = train(folder, "whole", "--resume")
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "whole/clusters.csv").read_text() == before


def test_clusters_of_the_trained_model_are_written(folder, whole):
    with open(folder / "whole/clusters.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["image"] for row in rows}) == 72
    clusters = {int(row["cluster"]) for row in rows} - {-1}
    assert clusters == set(range(len(clusters))) and len(clusters) >= 4
    sheets = sorted(path.name for path in (folder / "whole/clusters").iterdir())
    assert sheets == [f"{number:04d}.jpg" for number in sorted(clusters)]


@pytest.mark.slow
def test_two_processes_train_as_one(folder):
    norm = ("MODEL.HEADS.NORM", "syncBN", "SOLVER.OPT", "SGD", "SOLVER.BASE_LR", "0.01")
    for output, options in (("one", ()), ("two", ("--num-gpus=2",))):
        done = train(folder, output, *options, *norm)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = final(folder, "one"), final(folder, "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name].float(), value.float(), rtol=1e-3, atol=5e-4, msg=name)
    tables = [(folder / output / "clusters.csv").read_text().splitlines() for output in ("one", "two")]
    assert [{line.rpartition(",")[0] for line in lines} for lines in tables[:1]] == [
        {line.rpartition(",")[0] for line in lines} for lines in tables[1:]
    ]


def test_both_training_tools_end_with_the_same_bits(folder, whole):
    run_tool("tools/plain_train_net.py", *KEYS, "OUTPUT_DIR", "plain", cwd=folder)
    plain = final(folder, "plain")
    assert [name for name, value in whole["model"].items() if not torch.equal(value, plain[name])] == []
    assert (folder / "plain/clusters.csv").read_text() == (folder / "whole/clusters.csv").read_text()


def purities(text):
    return [float(value) for value in re.findall(r"pairs F (\d\.\d+)", text)]


def test_training_raises_the_purity(tmp_path):
    make_domain(tmp_path)
    longer = ("SOLVER.MAX_EPOCH", "6", "SOLVER.ITERS_PER_EPOCH", "10", "CLUSTER.METHOD", "hdbscan")
    keys = (*KEYS, *longer, "DATASETS.NAMES", "['csv:people.csv']", "CLUSTER.EXPORT", "False", "OUTPUT_DIR", "out")
    said = run_tool("tools/train_net.py", *keys, cwd=tmp_path)
    found = purities(said)
    assert len(found) == 6 and found[-1] > found[0] + 0.05 and found[-1] > 0.9
    assert not list(tmp_path.rglob("clusters.csv"))


def test_adaptation_starts_from_a_model_of_another_domain(tmp_path):
    """A Baseline trained with the people of one domain; then clusters of another one, at a rate that moves little."""
    source, target = tmp_path / "source", tmp_path / "target"
    for where, seed in ((source, 1), (target, 2)):
        where.mkdir()
        make_domain(where, seed=seed)
    labelled = ("MODEL.META_ARCHITECTURE", "Baseline", "DATASETS.NAMES", "['csv:people.csv']")
    run_tool("tools/train_net.py", *KEYS, *labelled, "OUTPUT_DIR", "out", cwd=source)
    weights = ("MODEL.WEIGHTS", str(source / "out/model_final.pth"), "SOLVER.BASE_LR", "1e-9")
    run_tool("tools/train_net.py", *KEYS, *weights, "OUTPUT_DIR", "out", cwd=target)
    before, after = final(source, "out"), final(target, "out")
    moved = [name for name, value in before.items() if name in after and after[name].shape == value.shape]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name in moved:
        if not name.endswith(statistics):
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6, msg=name)
    assert before.keys() - set(moved) == {"heads.weight"}
    assert before["heads.weight"].shape[0] == 12 and after["heads.weight"].shape[0] == 0
