"""What two processes must decide and compute alike: skipped steps, parts of batches, freezing, statistics, averages."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from fastreid.engine import SimpleTrainer, launch
from fastreid.engine.nonfinite import DivergenceError
from fastreid.engine.precise_bn import update_statistics
from fastreid.engine.sharding import shard, whole_weights
from fastreid.utils import comm
from tests.engine.test_accumulation import Classifier, batches, trained
from tests.engine.test_epoch_tasks import Clustered, stopped
from tests.engine.test_nonfinite import poisoned
from tests.engine.test_precise_bn import Net
from tests.engine.toys import ToyTrainer, toy_cfg, train


def agreed(tensors):
    return all(torch.equal(*pair) for pair in zip(*comm.all_gather(list(tensors)), strict=True))


class Block(nn.Module):
    """A unit of `Blocks`, as models of diffusers declare theirs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, inputs):
        return self.linear(inputs).relu()


class Blocks(nn.Sequential):
    _no_split_modules = ("Block",)


def weights_of_other_parts_stay_divided(folder):
    """While an epoch task that calls one block runs."""
    model = Blocks(Block(), Block(), nn.Linear(4, 2))
    shard(toy_cfg(folder, SOLVER__FSDP__ENABLED=True), model, torch.device("cpu"))
    with whole_weights(model, (model[0],)):
        whole = [isinstance(layer.weight, DTensor) for layer in (model[0].linear, model[1].linear, model[2])]
    again = model(torch.ones(3, 4)).shape == (3, 2)
    return {"one block": whole == [False, True, False], "runs": again}


def one_process_runs_a_sharded_model(folder):
    """As an epoch task does, several times; training goes on afterwards."""
    torch.manual_seed(0)
    plain = Blocks(Block(), Block(), nn.Linear(4, 2))
    model, inputs = copy.deepcopy(plain), torch.ones(3, 4)
    shard(toy_cfg(folder, SOLVER__FSDP__ENABLED=True), model, torch.device("cpu"))
    outputs = []
    with whole_weights(model), torch.no_grad():
        if comm.is_main_process():
            outputs = [model(inputs) for _ in range(2)]
    model(inputs).sum().backward()
    plain(inputs).sum().backward()
    weight, wanted = model[0].linear.weight, plain[0].linear.weight
    return {
        "outputs": all(torch.equal(output, plain(inputs)) for output in outputs),
        "sharded": weight.to_local().numel() < weight.numel(),
        "gap": (weight.grad.full_tensor() - wanted.grad).abs().max().item(),
    }


def blocks_are_gathered_as_autocast_would_convert_them(folder):
    """In training and without gradients; the part of each process, and gradients, stay float32."""
    torch.manual_seed(0)
    plain = Blocks(Block(), Block(), nn.Linear(4, 2))
    model, inputs = copy.deepcopy(plain), torch.randn(3, 4)
    seen = []
    model[0].linear.register_forward_pre_hook(lambda module, _: seen.append(module.weight.dtype))
    keys = {"SOLVER__FSDP__ENABLED": True, "SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "bf16"}
    shard(toy_cfg(folder, **keys, TEST__AMP__ENABLED=True), model, torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            same = torch.equal(model(inputs), plain(inputs))
        for net in (model, plain):
            net(inputs).float().sum().backward()
    gaps = [
        (ours.grad.full_tensor() - whole.grad).abs().max()
        for ours, whole in zip(model.parameters(), plain.parameters(), strict=True)
    ]
    return {
        "gathered in bf16": seen == [torch.bfloat16, torch.bfloat16],
        "same outputs": same,
        "float32 kept": {parameter.dtype for parameter in model.parameters()} == {torch.float32},
        "gap": torch.stack(gaps).max().item(),
    }


def float32_is_gathered_if_evaluation_needs_it(folder):
    seen = set()
    for keys in ({"TEST__AMP__ENABLED": False}, {"TEST__AMP__ENABLED": True, "SOLVER__FSDP__GATHER_DTYPE": "fp32"}):
        model = Blocks(Block(), nn.Linear(4, 2))
        model[0].linear.register_forward_pre_hook(lambda module, _: seen.add(module.weight.dtype))
        amp = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "bf16"}
        shard(toy_cfg(folder, SOLVER__FSDP__ENABLED=True, **amp, **keys), model, torch.device("cpu"))
        model(torch.ones(3, 4))
    return {"float32": seen == {torch.float32}}


def sharded_parts_are_added_up_once_or_each_time(folder):
    """Weights are the same; without SYNC_EACH_PART no gradient of a shard is there before the last part."""
    early, gaps = {}, []
    for each in (True, False):
        model = Classifier()
        keys = {"SOLVER__FSDP__ENABLED": True, "SOLVER__FSDP__SYNC_EACH_PART": each}
        shard(toy_cfg(folder, **keys), model, torch.device("cpu"))
        part, found = next(model.parameters()), []
        early[each] = found
        model.register_forward_pre_hook(lambda *_, part=part, found=found: found.append(part.grad is not None))

        def mine():
            for batch in batches():
                yield {name: value[comm.get_rank() :: 2] for name, value in batch.items()}

        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        SimpleTrainer(model, mine(), optimizer, accumulation_steps=3).train(0, 1, 5)
        pairs = zip(model.parameters(), trained(1).model.parameters(), strict=True)
        gaps += [(ours.full_tensor() - whole).abs().max().item() for ours, whole in pairs]
    return {
        "gap": max(gaps),
        "each": early[True] == 5 * [False, True, True],
        "once": early[False] == 5 * [False, False, False],
    }


def parts_equal_the_whole(folder):
    """Each process has every other image, in three parts; no parameter is unused."""

    def mine():
        for batch in batches():
            yield {name: value[comm.get_rank() :: 2] for name, value in batch.items()}

    model = DistributedDataParallel(Classifier())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    SimpleTrainer(model, mine(), optimizer, accumulation_steps=3).train(0, 1, 5)
    whole = trained(1).model.state_dict()
    gaps = [(value - whole[name]).abs().max().item() for name, value in model.module.state_dict().items()]
    return {"gap": max(gaps), "agreed": agreed(model.parameters())}


def one_bad_process_skips_in_all(folder):
    bad = (2, 5) if comm.get_rank() else ()
    trainer = train(toy_cfg(folder / "skip"), trainer_class=poisoned(*bad))
    return {"count": trainer.nonfinite_steps, "agreed": agreed(trainer.bare_model.parameters())}


def one_bad_process_stops_all(folder):
    bad = range(4, 12) if comm.get_rank() else ()
    with pytest.raises(DivergenceError, match="process 1: non-finite loss.*img") as error:
        train(toy_cfg(folder / "stop", SOLVER__MAX_NONFINITE=2), trainer_class=poisoned(*bad))
    return {"same message": len(set(comm.all_gather(str(error.value)))) == 1}


def frozen_layers_stay(folder):
    keys = {"MODEL__FREEZE_LAYERS": "['embed', 'neck']", "SOLVER__FREEZE_ITERS": 99, "SOLVER__WEIGHT_DECAY": 0.1}
    trainer = train(toy_cfg(folder / "frozen", **keys))
    torch.manual_seed(0)
    start = ToyTrainer.build_model(trainer.cfg)
    return {"frozen": torch.equal(start.embed.weight, trainer.bare_model.embed.weight)}


def statistics_are_of_all(folder):
    torch.manual_seed(1)
    images = 9 + torch.rand(12, 3, 4, 2)
    net = Net()
    net.last.eval()
    update_statistics(net, [{"images": part} for part in images[comm.get_rank() :: 2].split([4, 2])])
    gap = (net.first.running_var - images.transpose(0, 1).flatten(1).var(1)).abs().max().item()
    return {"gap": gap, "agreed": agreed([net.first.running_mean, net.first.running_var])}


def averages_agree(folder):
    trainer = train(toy_cfg(folder / "ema", SOLVER__EMA__ENABLED=True))
    state = trainer.average.in_place_of(trainer.bare_model.state_dict())
    results = comm.all_gather(trainer.results)
    names = [name for name, _ in trainer.bare_model.named_parameters()]
    return {"agreed": agreed(state[name] for name in names), "same results": results[0] == results[1] != {}}


def relabelled_runs_agree(folder):
    """The main process alone does the tasks; a run that is resumed in the middle of an epoch ends as the whole one."""
    whole = train(toy_cfg(folder / "tasks"), trainer_class=Clustered)
    cfg = toy_cfg(folder / "stopped tasks")
    stopped(cfg, 7)
    resumed = train(cfg, resume=True, trainer_class=Clustered)
    (task,) = resumed.bare_model.tasks
    state, ours = resumed.bare_model.state_dict(), whole.bare_model.state_dict()
    return {
        "agreed": agreed(ours.values()),
        "resumed": all(torch.equal(value, state[name]) for name, value in ours.items()),
        "rounds": task.rounds == 3 and resumed.start_iter == 7,
        "labels": len({tuple(labels) for labels in comm.all_gather(whole.data_loader.dataset.labels)}) == 1,
    }


CHECKS = (
    parts_equal_the_whole,
    one_bad_process_skips_in_all,
    one_bad_process_stops_all,
    frozen_layers_stay,
    statistics_are_of_all,
    averages_agree,
    relabelled_runs_agree,
    one_process_runs_a_sharded_model,
    weights_of_other_parts_stay_divided,
    blocks_are_gathered_as_autocast_would_convert_them,
    float32_is_gathered_if_evaluation_needs_it,
    sharded_parts_are_added_up_once_or_each_time,
)


def check_all(folder):
    found = {check.__name__: check(Path(folder)) for check in CHECKS}
    (Path(folder) / f"{comm.get_rank()}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(warm_ranks, tmp_path_factory):
    """What each of two processes found; starting them costs seconds, so it is done once."""
    folder = tmp_path_factory.mktemp("two")
    launch(check_all, 2, args=(str(folder),), device="cpu")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_two_processes(found, check):
    for process in found:
        for what, value in process[check].items():
            if what == "gap":
                assert value < 1e-5
            else:
                assert value == 2 if what == "count" else value is True, what
