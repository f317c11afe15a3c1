"""One training step of each meta-architecture on a fake CUDA device: no mixed devices, and one wait for the GPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fastreid.config import CfgNode, get_cfg
from fastreid.data.train_loader import TrainLoader
from fastreid.data.transforms import PersonTransform, Pixels
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.methods.dcac.feedback import VIEW
from fastreid.modeling import META_ARCH_REGISTRY, build_model
from fastreid.modeling.trained import config_text
from fastreid.solver import build_gradient_clipper, build_optimizer
from fastreid.utils.checkpoint import CONFIG_TEXT
from tests.fake_cuda import CPU, DEVICE, FakeCuda
from tests.methods.dcac.conftest import SIZE, dcac_cfg, sd_folder
from tests.methods.diffusion_reid.conftest import assets as text_assets
from tests.methods.diffusion_reid.conftest import factory_keys, place
from tests.methods.pisl.conftest import CAMERAS, CLUSTERS, give_labels, pisl_cfg
from tests.methods.sd_reid.test_generators import MLP, OF_ALL, TRANSFORMER, WHITE, run_tasks
from tests.modeling.conftest import assets
from tests.modeling.toys import fill_memory, stage1_cfg, stage2_cfg

__all__ = ["assets", "place", "sd_folder", "text_assets"]

BATCH = 8
# The one wait: Python reads the loss, which decides whether the step is taken (SOLVER.MAX_NONFINITE).
CHECK = "engine/train_loop.py: return (comm.all_reduce_sum(mine) / comm.get_world_size()).tolist(): tolist"
LOSSES = ("CrossEntropyLoss", "FocalLoss", "TripletLoss", "CircleLoss", "Cosface", "CenterLoss")
RESNET = (
    *("MODEL.BACKBONE.DEPTH", "18x", "MODEL.BACKBONE.WITH_IBN", True, "MODEL.HEADS.WITH_BNNECK", True),
    *("MODEL.HEADS.EMBEDDING_DIM", 8, "SOLVER.CLIP_GRADIENTS.ENABLED", True, "MODEL.DEVICE", "cpu"),
)
Made = tuple[CfgNode, nn.Module, dict[str, Any]]


def cfg_of(*keys: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list([*RESNET, *keys])
    return cfg


def labelled(height: int, width: int, size: int = BATCH) -> dict[str, Any]:
    """A batch of images of two views and four cameras, two of each person."""
    return {
        "images": torch.zeros(size, 3, height, width),
        "targets": torch.arange(size) // 2,
        "viewids": torch.arange(size) % 2,
        "camids": torch.arange(size) % 4,
        "indices": torch.arange(size),
        "img_paths": [f"{number}.jpg" for number in range(size)],
    }


def baseline(request: Any, keys: tuple[object, ...] = ()) -> Made:
    """The losses of the table, on a small ResNet."""
    cfg = cfg_of("MODEL.LOSSES.NAME", LOSSES, *keys)
    return cfg, build_model(cfg, num_classes=4), labelled(64, 32)


def mgn(request: Any) -> Made:
    cfg = cfg_of("MODEL.META_ARCHITECTURE", "MGN", "MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"))
    return cfg, build_model(cfg, num_classes=4), labelled(96, 48)


def distiller(request: Any, name: str) -> Made:
    folder = request.getfixturevalue("tmp_path")
    cfg = cfg_of("MODEL.LOSSES.NAME", ("CrossEntropyLoss", "TripletLoss"), "MODEL.HEADS.NUM_CLASSES", 4)
    torch.save({"model": build_model(cfg).state_dict(), CONFIG_TEXT: config_text(cfg)}, folder / "teacher.pth")
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", name, "KD.MODEL_WEIGHTS", [str(folder / "teacher.pth")]])
    return cfg, build_model(cfg), labelled(64, 32)


def attributes(request: Any) -> Made:
    keys = ("MODEL.META_ARCHITECTURE", "AttrBaseline", "MODEL.HEADS.NAME", "AttrHead", "MODEL.HEADS.NUM_CLASSES", 3)
    cfg = cfg_of(*keys, "MODEL.LOSSES.NAME", ("BinaryCrossEntropyLoss",))
    model = build_model(cfg)
    model.take_shares(torch.tensor([0.1, 0.2, 0.3]))
    return cfg, model, labelled(64, 32) | {"attributes": torch.ones(BATCH, 3)}


def stage1(request: Any) -> Made:
    cfg = stage1_cfg()
    return cfg, build_model(cfg, num_classes=4), labelled(64, 32)


def stage2(request: Any, keys: tuple[object, ...] = ()) -> Made:
    cfg = stage2_cfg(request.getfixturevalue("assets"), *keys)
    model = build_model(cfg, num_classes=4)
    fill_memory(model)
    run_tasks(model)
    return cfg, model, labelled(64, 32)


def dcac(request: Any, keys: tuple[object, ...] = ()) -> Made:
    cfg = dcac_cfg(request.getfixturevalue("sd_folder"), *keys)
    return cfg, build_model(cfg, num_classes=4), labelled(32, 32) | {VIEW: torch.zeros(BATCH, 3, SIZE, SIZE)}


def pisl(request: Any, keys: tuple[object, ...] = ()) -> Made:
    cfg, batch = pisl_cfg(*keys), labelled(128, 96, 6)
    batch |= {"targets": batch["targets"] % CLUSTERS, "camids": batch["camids"] % CAMERAS}
    return cfg, give_labels(build_model(cfg)), batch


def cluster_contrast(request: Any, update: str = "hard") -> Made:
    keys = ("MODEL.META_ARCHITECTURE", "ClusterContrast", "MODEL.HEADS.MAX_CLUSTERS", 6)
    cfg = cfg_of(*keys, "MODEL.LOSSES.CLUSTER.UPDATE", update)
    model = build_model(cfg)
    model.memory.restart(nn.functional.normalize(torch.randn(4, model.memory.class_prototypes.shape[1])))
    return cfg, model, labelled(64, 32)


def diffusion_reid(request: Any) -> Made:
    place, assets = (request.getfixturevalue(name) for name in ("place", "text_assets"))
    cfg = get_cfg()
    cfg.merge_from_list([*factory_keys(place, assets), "DIFFPERSON.TRAIN.COND_DROP", "0.5"])
    paths = [str(place / f"train_{person}_0.png") for person in range(3)]
    return cfg, build_model(cfg), labelled(64, 32, 3) | {"targets": torch.arange(3), "img_paths": paths}


TRAINED_ENCODER = ("MODEL.SDMODEL.ENCODER_LR_FACTOR", 0.1)
# Name of a case, which begins with that of its meta-architecture.
CASES: dict[str, Callable[[Any], Made]] = {
    "Baseline": baseline,
    "Baseline, weighted triplets": partial(baseline, keys=("MODEL.LOSSES.TRI.HARD_MINING", False)),
    "MGN": mgn,
    "Distiller": partial(distiller, name="Distiller"),
    "DistillerOverhaul": partial(distiller, name="DistillerOverhaul"),
    "AttrBaseline": attributes,
    "SDReIDStage1": stage1,
    "SDReIDStage2, UNet": stage2,
    "SDReIDStage2, MLP": partial(stage2, keys=MLP),
    "SDReIDStage2, transformer": partial(stage2, keys=TRANSFORMER),
    "SDReIDStage2, targets of all": partial(stage2, keys=(*MLP, *WHITE, *OF_ALL)),
    "SDReIDStage2, the encoder trains": partial(stage2, keys=(*MLP, *TRAINED_ENCODER)),
    "DCAC": dcac,
    "DCAC, prompts by prototypes": partial(
        dcac, keys=("DCAC.COND.SOURCE", "fc+pcl", "MODEL.LOSSES.PCL.UPDATE", "all", "DCAC.COND.BOTTLENECK", "net")
    ),
    "PISL": pisl,
    "PISL, with stripes (PPLR)": partial(pisl, keys=("PISL.SDM.PATCH_SOURCE", "stripes")),
    "ClusterContrast": cluster_contrast,
    "ClusterContrast, one after another": partial(cluster_contrast, update="all"),
    "DiffusionReID": diffusion_reid,
}


def fake_loader(cuda: FakeCuda, batch: dict[str, Any]) -> tuple[TrainLoader, Any]:
    """The loader of a training on the fake device, and a patch with which it gets the same batch again and again."""

    def sent(value: Any) -> Any:  # as torch's thread pins it
        return cuda.pin(value) if isinstance(value, Tensor) else value

    def batches(loader: DataLoader[Any]) -> Iterator[dict[str, Any]]:
        size = len(batch["images"])
        numbers = {"position": torch.arange(size), "batch_size": torch.full((size,), size)}
        while True:
            made = {name: sent(value) for name, value in (batch | numbers).items()}
            for name in views:
                made[name] = Pixels(sent(batch[name].byte()), sent(torch.ones(size, 4, dtype=torch.int64)))
            yield made

    views = [name for name in ("images", VIEW) if name in batch]
    transform = PersonTransform(lambda picture: picture, erase_value=(1.0, 2.0, 3.0))
    dataset = SimpleNamespace(transforms=dict.fromkeys(views, transform))
    loader = TrainLoader.__new__(TrainLoader)
    loader.dataset, loader.device, loader.skipped, loader.num_workers = dataset, DEVICE, {}, 0
    return loader, mock.patch.object(DataLoader, "__iter__", batches)


def waits_of(cfg: CfgNode, model: nn.Module, batch: dict[str, Any]) -> list[str]:
    """The waits of the second step of a training: the first one may move constants."""
    cuda = FakeCuda()
    cuda.move(model.train())
    loader, patched = fake_loader(cuda, batch)
    with patched, cuda.running():
        optimizer = build_optimizer(cfg, model)
        trainer = SimpleTrainer(model, loader, optimizer, clip_gradients=build_gradient_clipper(cfg))
        for _ in range(2):
            cuda.clear()
            trainer.run_step()
    return [re.sub(r":\d+:", ":", wait) for wait in cuda.waits]


# The MLP predicts the clean sample, which "pndm" and "euler" cannot use.
SOLVERS = ("ddpm", "pndm", "euler", "ddim", "dpm++")
NOISES = ("shared", "name", "zeros", "fresh")  # the seeds of "image" are the pixels, which are read


@pytest.mark.parametrize(
    "keys",
    [
        *(("MODEL.SDMODEL.SCHEDULER_CONFIG.NAME", solver) for solver in SOLVERS[:3]),
        *((*MLP, "MODEL.SDMODEL.SCHEDULER_CONFIG.NAME", solver) for solver in SOLVERS[3:]),
        *((*MLP, "TEST.SDMODEL.NOISE", noise) for noise in NOISES),
    ],
    ids=[*SOLVERS, *NOISES],
)
def test_sampling_does_not_wait_for_the_gpu(keys, request):
    """From the second batch on: images that are on the device become descriptors that are there."""
    _, model, batch = stage2(request, keys)
    cuda = FakeCuda()
    cuda.move(model.eval())
    # Some constructors of diffusers need values of tensors.
    reverse = model.schedule.reverse(model.sampler.num_steps, CPU)
    reverse.timesteps = cuda.tensor(reverse.timesteps)
    model.schedule._prepared[model.sampler.num_steps, DEVICE] = reverse
    with cuda.running(), torch.no_grad():
        for _ in range(2):
            cuda.clear()
            descriptors = model(batch | {"images": torch.zeros(BATCH, 3, 64, 32, device=DEVICE)})
    assert descriptors.device == DEVICE and not cuda.waits, "\n".join(cuda.waits)


@pytest.mark.parametrize("name", CASES)
def test_a_training_step_waits_for_the_gpu_once(name, request):
    waits = waits_of(*CASES[name](request))
    others = [wait for wait in waits if wait != CHECK]
    assert not others, "further waits:\n" + "\n".join(others)
    assert waits == [CHECK]


def test_each_meta_architecture_is_tried():
    assert {name.partition(",")[0] for name in CASES} == set(META_ARCH_REGISTRY)


WAITS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool(x.any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "a boolean index": lambda x: x[x > 0],
    "assignment to a boolean index": lambda x: x.index_put_((x > 0,), x.sum()),
    "an index of one number": lambda x: x[x.argmax()],
    "an index on the CPU": lambda x: x[torch.arange(2)],
    "nonzero": lambda x: x.nonzero(),
    "bincount": lambda x: x.long().bincount(minlength=3),
    "equal": lambda x: torch.equal(x, x),
    "a constant": lambda x: x.new_tensor([1.0, 2.0]),
    "a copy from memory that is not pinned": lambda x: torch.zeros(2).to(x.device, non_blocking=True),
    "a copy that waits": lambda x: torch.zeros(2).pin_memory().to(x.device),
    "assignment from the CPU": lambda x: x.copy_(torch.zeros(4)),
}


@pytest.mark.parametrize("what", WAITS)
def test_each_kind_of_wait_is_recorded(what):
    cuda = FakeCuda()
    with cuda.running():
        WAITS[what](torch.empty(4, device=DEVICE))
    assert len(cuda.waits) == 1


def test_operations_on_the_device_and_copies_in_the_background_do_not_wait():
    cuda = FakeCuda()
    with cuda.running():
        x = torch.empty(4, device=DEVICE)
        moved = torch.arange(4).pin_memory().to(DEVICE, non_blocking=True)
        assert (x[moved] * 2 + torch.tensor(1.0)).sum().device == DEVICE
        assert torch.arange(3).tolist() == [1, 1, 1] and int(torch.arange(3)[0]) == 1  # any values
    assert cuda.waits == []


def test_tensors_of_two_devices_raise():
    cuda = FakeCuda()
    with cuda.running():
        there, here = torch.empty(4, device=DEVICE), torch.zeros(4)
        with pytest.raises(RuntimeError, match="same device|different devices"):
            there + here
        with pytest.raises(RuntimeError, match="indices should be on the CPU"):
            here[torch.zeros(2, dtype=torch.int64, device=DEVICE)]


def test_gradients_of_fake_tensors_have_the_shapes_of_their_leaves():
    cuda = FakeCuda()
    with cuda.running():
        weight, bias = (nn.Parameter(torch.empty(size, device=DEVICE)) for size in ((3, 4), (1, 4)))
        (nn.functional.normalize(torch.empty(2, 3, device=DEVICE) @ weight + bias) * bias).sum().backward()
        assert [part.grad.shape for part in (weight, bias)] == [(3, 4), (1, 4)]
        assert weight.grad.device == DEVICE
