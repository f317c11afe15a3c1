"""Two processes train and evaluate as one with the whole batch does, up to the rounding of sums."""

import json

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from fastreid.engine import DefaultTrainer, launch
from fastreid.layers.sync_batch_norm import synchronized
from fastreid.utils import comm
from tests.miniature import rendered
from tests.modeling import toys

PLAIN = ["MODEL.BACKBONE.STEM", "patch", "MODEL.HEADS.WITH_BNNECK", False]  # no batch norm anywhere
SYNC_NECK = ["MODEL.BACKBONE.STEM", "patch", "MODEL.HEADS.NORM", "syncBN"]
ALL_LOSSES = ["MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss", "CircleLoss", "Cosface")]
CLIPPED = ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01]  # less than any step's norm
STEPS = [
    *("SOLVER.OPT", "SGD", "SOLVER.BASE_LR", 0.01, "SOLVER.SCHED", "MultiStepLR", "SOLVER.WARMUP_ITERS", 0),
    *("SOLVER.MAX_EPOCH", 2, "SOLVER.ITERS_PER_EPOCH", 3, "SOLVER.CHECKPOINT_PERIOD", 1),
    *("SOLVER.IMS_PER_BATCH", 16, "SOLVER.AMP.ENABLED", False),
    *("DATALOADER.NUM_INSTANCE", 4, "DATALOADER.NUM_WORKERS", 0),
    *("INPUT.REA.ENABLED", True, "DATASETS.TESTS", ("CARGO", "CARGO_AG")),
]  # fmt: skip
MIXED = ["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bf16", "TEST.AMP.ENABLED", True]
SHARDED = {"sharded": "stage2", "mixed sharded": "mixed"}  # and the run of one process


class SyncTrainer(DefaultTrainer):
    """Every batch norm counts the images of all processes.

    In float64: the stem's chain of batch norms makes a float32 rounding of 1e-7 one of 1e-3 within two epochs.
    """

    @classmethod
    def build_model(cls, cfg):
        return synchronized(super().build_model(cfg)).double()


def runs(assets, data, output):
    """Name -> trainer class and config."""
    configs = {
        "plain": (DefaultTrainer, toys.stage1_cfg(), [*PLAIN, *ALL_LOSSES]),
        "weighted": (DefaultTrainer, toys.stage1_cfg(), [*SYNC_NECK, "MODEL.LOSSES.TRI.HARD_MINING", False]),
        "synchronised": (SyncTrainer, toys.stage1_cfg(), []),
        "first": (DefaultTrainer, toys.stage1_cfg(), []),
        "stage2": (
            DefaultTrainer,
            toys.stage2_cfg(assets),
            [*CLIPPED, "MODEL.WEIGHTS", f"{output}/first/model_final.pth"],
        ),
        "mixed": (
            DefaultTrainer,
            toys.stage2_cfg(assets),
            [*CLIPPED, *MIXED, "MODEL.WEIGHTS", f"{output}/first/model_final.pth"],
        ),
        "sharded": (DefaultTrainer, toys.stage2_cfg(assets), [*CLIPPED, "SOLVER.FSDP.ENABLED", True]),
        "mixed sharded": (DefaultTrainer, toys.stage2_cfg(assets), [*CLIPPED, *MIXED, "SOLVER.FSDP.ENABLED", True]),
    }
    for name, (trainer, cfg, options) in configs.items():
        cfg.merge_from_list([*STEPS, *options, "DATASETS.ROOT", str(data), "OUTPUT_DIR", f"{output}/{name}"])
        yield name, trainer, cfg


def train_all(assets, data, output, weights):
    """Stage 2 starts from the same stage 1, `weights`, in any number of processes."""
    for name, trainer, cfg in runs(assets, data, output):
        if name in (("first", "mixed") if weights else SHARDED):
            continue
        if name in ("stage2", *SHARDED) and weights:
            cfg.MODEL.WEIGHTS = weights
        built = train(trainer, cfg)
        if name == "mixed sharded":
            go_on(built, trainer, cfg)
        if name in SHARDED:
            continue  # each process has another part
        for values in (built.bare_model.state_dict(), built.optimizer.state_dict()["state"]):
            flat = torch.cat([torch.as_tensor(value).flatten().double() for value in tensors_in(values)])
            copies = comm.gather_rows(flat)
            assert all(torch.equal(copies[0], copy) for copy in copies), f"{name}: processes have come apart"


def train(trainer, cfg, resume=False):
    torch.manual_seed(cfg.MODEL.SEED + comm.get_rank())
    built = trainer(cfg)
    built.checkpointer.save_dir.mkdir(parents=True, exist_ok=True)
    built.resume_or_load(resume)
    built.train()
    return built


def go_on(whole, trainer, cfg):
    """A sharded run that is resumed ends as the whole one did, and its parameters are in parts."""
    units = [module for module in whole.bare_model.modules() if isinstance(module, FSDPModule)]
    weight = whole.bare_model.denoiser.unet.conv_in.weight
    assert len(units) > 3 and weight.to_local().numel() < weight.numel() and whole.model is whole.bare_model
    if comm.is_main_process():
        (whole.checkpointer.save_dir / "last_checkpoint").write_text("model_0000.pth")
    comm.synchronize()
    again = train(trainer, cfg, resume=True)
    assert again.start_iter > 0
    before, after = whole.bare_model.state_dict(), again.bare_model.state_dict()
    moments = [list(tensors_in(built.optimizer.state_dict()["state"])) for built in (whole, again)]
    if not comm.is_main_process():  # which alone gathers them
        assert before["denoiser.unet.conv_in.weight"].is_meta and any(value.is_meta for value in moments[0])
        return
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(map(torch.equal, *moments))


def tensors_in(tree):
    for value in tree.values():
        if isinstance(value, dict):
            yield from tensors_in(value)
        elif isinstance(value, torch.Tensor):
            yield value


@pytest.fixture(scope="module")
def folders(warm_ranks, tmp_path_factory):
    """What one process left behind, and what two did."""
    assets = toys.write_assets(tmp_path_factory.mktemp("assets"))
    data = rendered(tmp_path_factory.getbasetemp(), "CARGO")
    alone, two = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("two")
    train_all(assets, data, alone, "")
    launch(train_all, 2, args=(assets, data, two, f"{alone}/first/model_final.pth"), device="cpu")
    return alone, two


def both(folders, name):
    return [torch.load(folder / name / "model_final.pth", weights_only=True) for folder in folders]


@pytest.mark.parametrize("name", ["plain", "weighted", "synchronised", "stage2"])
def test_weights_and_memory_are_those_of_one_process(folders, name):
    alone, two = (content["model"] for content in both(folders, name))
    assert alone.keys() == two.keys()
    for key, value in alone.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("name", "limit"), [("sharded", 1e-4), ("mixed sharded", 5e-3)])
def test_sharded_weights_are_those_of_one_process(folders, name, limit):
    """In the last epoch they moved by the same, up to `limit` of the movement; bf16 rounds sums of its own order."""
    moved = []
    for folder in (folders[0] / SHARDED[name], folders[1] / name):
        before, after = (torch.load(folder / f"{file}.pth")["model"] for file in ("model_0000", "model_final"))
        assert all(type(value) is torch.Tensor for value in after.values())
        moved.append({key: after[key].double() - before[key].double() for key in after})
    assert moved[0].keys() == moved[1].keys()
    alone, two = (torch.cat([value.flatten() for value in one.values()]) for one in moved)
    assert (two - alone).norm() <= limit * alone.norm() and alone.norm() > 0.1
    if name == "sharded":  # nothing is rounded to bf16
        files = folders[0] / SHARDED[name] / "model_final.pth", folders[1] / name / "model_final.pth"
        alone, two = (torch.load(file)["model"] for file in files)
        for key, value in alone.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "weighted", "synchronised", "stage2"])
def test_losses_are_those_of_one_process(folders, name):
    alone, two = ([json.loads(line) for line in (f / name / "metrics.json").read_text().splitlines()] for f in folders)
    losses = [[row for row in rows if "total_loss" in row] for rows in (alone, two)]
    assert len(losses[0]) == len(losses[1]) > 0
    for one, other in zip(*losses, strict=True):
        named = {key: value for key, value in one.items() if "loss" in key}
        assert {key: other[key] for key in named} == pytest.approx(named, rel=1e-4)


def test_sharded_evaluation_in_mixed_precision(folders):
    """Its blocks are gathered in bf16, which they compute in, and its figures are those of one process."""
    files = folders[0] / "mixed/results.json", folders[1] / "mixed sharded/results.json"
    alone, two = (json.loads(file.read_text()) for file in files)
    assert two.keys() == alone.keys() == {"CARGO", "CARGO_AG"}
    for protocol, figures in alone.items():
        assert two[protocol]["mAP"] == pytest.approx(figures["mAP"], abs=2.0)


def test_training_moved_the_weights(folders):
    """Else the comparison would be of what both started from."""
    alone, _ = both(folders, "plain")
    before = torch.load(folders[0] / "plain/model_0000.pth", weights_only=True)["model"]
    name = "person.identity_head.classifier.weight"
    assert (alone["model"][name] - before[name]).abs().max() > 1e-3
