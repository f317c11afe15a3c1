"""Whole runs of PISL: killed and resumed within and between epochs, and in two processes."""

import json
import signal

import pytest
import torch

from tests.methods import whole_runs
from tests.methods.cluster_contrast.conftest import KEYS, make_domain
from tests.methods.pisl.conftest import TINY
from tests.methods.whole_runs import STOP, final, state

SMALL = [
    *KEYS,
    *map(str, TINY),
    *("MODEL.BACKBONE.NAME", "build_vit_backbone", "MODEL.BACKBONE.TIMM_NAME", "", "MODEL.BACKBONE.DEPTH", "mini"),
    *("MODEL.BACKBONE.OUTPUT", "patches", "MODEL.BACKBONE.DROP_PATH_RATIO", "0.0"),
    *("INPUT.SIZE_TRAIN", "[48, 48]", "INPUT.SIZE_TEST", "[48, 48]", "MODEL.HEADS.MAX_CLUSTERS", "40"),
    *("PISL.PSC.SMOOTH_START", "1", "PISL.PSC.KNN", "10", "CLUSTER.EPS", "0.6"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domain")
    make_domain(folder)
    return folder


def train(folder, output, *words):
    return whole_runs.train(folder, SMALL, output, *words)


@pytest.fixture(scope="module")
def whole(folder):
    done = train(folder, "whole")
    assert done.returncode == 0, done.stderr[-2000:]
    return state(folder, "whole")


# Within the second epoch; before the third one, after its labelling.
@pytest.mark.parametrize("iteration", [4, pytest.param(6, marks=pytest.mark.slow)])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(folder, whole, iteration):
    (folder / "stop.py").write_text(STOP.format(iteration=iteration, signal=int(signal.SIGKILL)))
    output = f"stopped{iteration}"
    assert train(folder, output, "--import=stop.py").returncode == -signal.SIGKILL
    resumed = train(folder, output, "--import=stop.py", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    found = state(folder, output)
    assert [name for name, value in whole["model"].items() if not torch.equal(value, found["model"][name])] == []
    mine, theirs = (run["epoch_tasks"]["tasks"]["RelabelParts"]["epoch_state"] for run in (found, whole))
    assert torch.equal(mine["scores"], theirs["scores"]) and theirs["scores"].any()
    assert all(torch.equal(a, b) for a, b in zip(mine["proxies"], theirs["proxies"], strict=True))
    assert torch.equal(found["epoch_tasks"]["labels"], whole["epoch_tasks"]["labels"])
    for file in ("patches.json", "clusters.csv"):
        assert (folder / output / file).read_text() == (folder / "whole" / file).read_text()


def test_patches_are_recorded_through_the_epochs(folder, whole):
    found = json.loads((folder / "whole/patches.json").read_text())
    assert len(found["images"]) == 8 and all(path.endswith(".png") for path in found["images"])
    assert [entry["epoch"] for entry in found["epochs"]] == [0, 1, 2]
    assert torch.tensor(found["epochs"][0]["theta"]).shape == (8, 3, 2, 3)
    assert found["epochs"][0]["theta"] != found["epochs"][2]["theta"]


def test_a_checkpoint_evaluates_without_the_parts(folder, whole):
    words = ("--eval-only", "MODEL.WEIGHTS", "whole/model_final.pth", "PISL.NUM_PARTS", "4")
    done = train(folder, "evaluated", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = [json.loads((folder / run / "results.json").read_text()) for run in ("whole", "evaluated")]
    assert figures[0]["csv:people.csv"]["mAP"] == figures[1]["csv:people.csv"]["mAP"]


@pytest.mark.slow
def test_two_processes_train_as_one(folder):
    keys = ("MODEL.HEADS.NORM", "syncBN", "SOLVER.OPT", "SGD", "SOLVER.BASE_LR", "0.01", "SOLVER.MAX_EPOCH", "2")
    for output, options in (("one", ()), ("two", ("--num-gpus=2",))):
        done = train(folder, output, *options, *keys)
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = final(folder, "one"), final(folder, "two")
    for name, value in one.items():
        torch.testing.assert_close(two[name].float(), value.float(), rtol=1e-3, atol=1e-4, msg=name)
