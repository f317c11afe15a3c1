"""Several processes on a CPU: collectives, a distributed run, errors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from fastreid.config import ConfigError
from fastreid.engine import launch
from fastreid.engine.launch import LaunchError, RankError, _free_port
from fastreid.utils import comm
from fastreid.utils.draws import BatchDraws
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("warm_ranks")


def test_one_process_is_a_plain_call():
    assert launch(lambda a, b: a + b, 1, args=(1, 2)) == 3


def talk(folder):
    rank = comm.get_rank()
    total = comm.all_reduce_sum(torch.tensor([1.0, rank]))
    mean = comm.reduce_dict({"b": torch.tensor(2.0 * rank), "a": torch.tensor(1.0)})
    torch.manual_seed(rank)
    report = {
        "world": comm.get_world_size(),
        "local": comm.get_local_rank(),
        "main": comm.is_main_process(),
        "all": comm.all_gather(f"p{rank}"),
        "to_0": comm.gather(rank),
        "from_1": comm.broadcast(rank, src=1),
        "sum": total.tolist(),
        "mean": {name: value.item() for name, value in mean.items()},
        "seed": comm.shared_random_seed(),
    }
    with mock.patch.object(comm.dist, "get_backend", return_value="nccl"):  # then numbers have a group of their own
        report["seeds beside nccl"] = [comm.shared_random_seed() for _ in range(2)]
        report["groups"] = comm._cpu_group() is comm._cpu_group() is not None
    comm.synchronize()
    with open(os.path.join(folder, f"{rank}.json"), "w") as file:
        json.dump(report, file)


def send_rows():
    """Rows of any number, in parts; gradients go back to whose rows they are."""
    rank = comm.get_rank()
    with mock.patch.object(comm, "_PART_BYTES", 64):  # two rows of three numbers, with one left over
        parts = comm.gather_rows(torch.arange(21.0).view(7, 3) if rank else torch.empty(0, 0))
    assert parts[0].shape == (0, 3) and torch.equal(parts[1], torch.arange(21.0).view(7, 3))
    assert comm.gather_plain({"a": [rank, "é"]}) == [{"a": [0, "é"]}, {"a": [1, "é"]}]
    own = torch.full((2, 2), rank + 1.0, requires_grad=True)
    rows = comm.rows_of_all(own)
    assert rows.tolist() == [[1, 1], [1, 1], [2, 2], [2, 2]]
    (rows * torch.arange(8.0).view(4, 2) * (rank + 1)).sum().backward()
    assert own.grad.tolist() == ([[12, 15], [18, 21]] if rank else [[0, 3], [6, 9]])  # (1 + 2) x 0 … 7
    total = comm.sum_over_processes(own)
    assert total.tolist() == [[3, 3], [3, 3]]
    (gradient,) = torch.autograd.grad(total.sum() * (rank + 1), own)
    assert gradient.tolist() == [[3, 3], [3, 3]]
    draws = [BatchDraws(torch.arange(3) * 2 + rank, 6, torch.device("cpu")).normal(5) for _ in range(2)]
    assert not torch.equal(*draws) and not torch.equal(*comm.gather_rows(draws[0]))


def train_toy(folder):
    from tests.engine.toys import toy_cfg, train

    trainer = train(toy_cfg(folder, SOLVER__MAX_EPOCH=2))
    weights = trainer.bare_model.embed.weight
    assert all(torch.equal(weights, other) for other in comm.all_gather(weights))
    assert comm.all_gather(trainer.results)[0] == trainer.results != {}
    means = comm.all_gather(trainer.bare_model.neck.running_mean)
    assert means[0].any() and torch.equal(*means)  # evaluated as it was saved


def talk_and_train(folder):
    talk(folder)
    send_rows()
    train_toy(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes left behind; starting them costs seconds, so it is done once."""
    path = tmp_path_factory.mktemp("two")
    assert launch(talk_and_train, 2, args=(str(path),), device="cpu") is None
    return path


def test_two_processes_talk(folder):
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1))
    for report in (first, second):
        assert report["world"] == 2 and report["all"] == ["p0", "p1"]
        assert report["from_1"] == 1 and report["sum"] == [2.0, 1.0]
        assert report["mean"] == {"a": 1.0, "b": 1.0}
    assert first["to_0"] == [0, 1] and second["to_0"] == []
    assert (first["local"], second["local"]) == (0, 1)
    assert (first["main"], second["main"]) == (True, False)
    assert first["seed"] == second["seed"]
    assert first["seeds beside nccl"] == second["seeds beside nccl"] and first["groups"] and second["groups"]
    assert len({first["seed"], *first["seeds beside nccl"]}) == 3


def test_two_processes_train(folder):
    content = torch.load(folder / "model_final.pth", weights_only=True)
    assert not any(name.startswith("module.") for name in content["model"])
    assert len(content["rng"]) == 2
    assert len((folder / "metrics.json").read_text().splitlines()) == 2


def fail_in_one(folder):
    if comm.get_rank() == 1:
        raise FileNotFoundError("query/0001.jpg")
    comm.synchronize()


def test_an_error_in_one_process_ends_all(tmp_path):
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="query/0001.jpg"):
        launch(fail_in_one, 2, args=(str(tmp_path),), device="cpu")


def hang_in_one(how):
    comm.synchronize()
    if comm.get_rank() == 1:
        {"hangs": signal.pause, "aborts": os.abort}.get(how, lambda: os.kill(os.getpid(), signal.SIGKILL))()
    comm.all_reduce_sum(torch.ones(2))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_that_hangs_is_not_waited_for_longer_than_asked():
    said = r"process 0 of 2 waited 0\.05 minutes \(--timeout\) for another one, which hangs"
    with pytest.raises(RankError, match=f"^{said}"):
        launch(hang_in_one, 2, args=("hangs",), device="cpu", timeout_minutes=0.05)


def hang_at_the_end():
    rank = comm.get_rank()
    comm.synchronize()
    if rank == 1:
        signal.pause()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_that_hangs_when_others_have_finished_is_not_waited_for_either():
    with pytest.raises(LaunchError, match=r"waited 0\.05 minutes \(--timeout\) for process 1 of 2, which hangs at the"):
        launch(hang_at_the_end, 2, device="cpu", timeout_minutes=0.05)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_that_is_killed_ends_the_others_and_is_told():
    with pytest.raises(LaunchError, match="process 1 terminated with signal SIGKILL.*memory was full.*--resume"):
        launch(hang_in_one, 2, args=("is killed",), device="cpu", timeout_minutes=1)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_process_that_nccl_ends_has_waited_for_another():
    message = r"process 1 terminated with signal SIGABRT.*waited 1 minutes \(--timeout\) for another one.*--resume"
    with pytest.raises(LaunchError, match=message):
        launch(hang_in_one, 2, args=("aborts",), device="cpu", timeout_minutes=1)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_a_device_with_a_number_is_for_one_process(device, monkeypatch):
    with pytest.raises(ConfigError, match=f"MODEL.DEVICE is {device}, but each of 2 processes has a GPU of its own"):
        launch(print, 2, device=device)
    assert launch(str, 1, args=(5,), device=device) == "5"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="each of 4 processes"):
        launch(print, 1, device=device)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_gpus_per_machine": 0}, "must be at least 1"),
        ({"num_gpus_per_machine": 1, "num_machines": 2}, "several machines need --dist-url"),
        (
            {"num_gpus_per_machine": 1, "num_machines": 2, "machine_rank": 2},
            r"--machine-rank 2 must be in 0\.\.1",
        ),
        (
            {"num_gpus_per_machine": 64, "device": "cuda"},
            r"--num-gpus 64 but this machine shows \d+ CUDA devices",
        ),
        ({"num_gpus_per_machine": 1, "timeout_minutes": 0}, "--timeout must be above 0 and at most 1,000,000 minutes"),
        ({"num_gpus_per_machine": 2, "timeout_minutes": float("nan")}, "at most 1,000,000 minutes, got nan"),
        ({"num_gpus_per_machine": 2, "timeout_minutes": 1e300}, "at most 1,000,000 minutes, got 1e\\+300"),
    ],
)
def test_impossible_requests(options, message):
    with pytest.raises(LaunchError, match=message):
        launch(print, **options)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("x", "No rendezvous handler"),
        ("tcp://127.0.0.1", "port number missing"),
        ("tcp://127.0.0.1:99999", "[Pp]ort"),
        ("tcp://127.0.0.1:{port}", "1/2 clients joined"),  # the other machine is not started
    ],
)
def test_machines_that_do_not_find_each_other_are_told_so(url, reason):
    url = url.format(port=_free_port())
    said = f"the processes of the run did not find each other at {url}: .*{reason}.*--dist-url is tcp://HOST:PORT"
    with pytest.raises(RankError, match=said):
        launch(print, 1, 2, 0, url, device="cpu", timeout_minutes=0.05)


def torchrun(processes, *words, **options):
    command = [warm_python(), "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, **options)


# A model that holds the process group, and is held by a circle of references, as a trainer and its hooks are.
# Linux lists a thread for a moment after it was joined, so those that are about to go are given time.
LEAVES = """
import time
from pathlib import Path
from torch import nn
from fastreid.engine import launch
from fastreid.utils import comm

def main():
    model = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
    model.friend = [model]
    assert gloo_threads()
    return comm.get_rank(), comm.get_world_size(), comm.get_local_rank()

def gloo_threads():
    found = []
    for path in Path("/proc/self/task").glob("*/comm"):
        try:
            found.append(path.read_text())
        except OSError:  # it went while we looked
            pass
    return [name for name in found if "gloo" in name]

me = launch(main, 1, device="cpu")
deadline = time.monotonic() + 20
while gloo_threads() and time.monotonic() < deadline:
    time.sleep(0.05)
assert not gloo_threads(), gloo_threads()
Path(f"{me[0]}.txt").write_text(repr(me))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at the threads of a process as Linux shows them")
def test_processes_of_torchrun_are_joined_and_none_leaves_threads_behind(tmp_path):
    """A thread that outlives the interpreter aborts the process."""
    (tmp_path / "leaves.py").write_text(LEAVES)
    done = torchrun(2, str(tmp_path / "leaves.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["(0, 2, 0)", "(1, 2, 1)"]


def test_torchrun_starts_all_processes(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(LaunchError, match="the processes were started by torchrun.*--nproc-per-node"):
        launch(print, 2, device="cpu")
