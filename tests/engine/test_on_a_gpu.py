"""Models on a GPU: the CPU's numbers, one wait in a step, overflow in fp16, compiled sampling, and nccl.

Without a GPU the same code runs on the CPU, among the slow tests.
"""

import contextlib
import copy
import warnings

import pytest
import torch
import torch.distributed as dist

from fastreid.data.train_loader import TrainLoader
from fastreid.engine.compiling import compile_model
from fastreid.engine.sharding import keep_whole, shard
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.solver import build_gradient_clipper, build_optimizer
from fastreid.utils import comm
from fastreid.utils.env import rng_state, set_rng_state
from tests.engine.waits import (
    BATCH,
    CASES,
    SOLVERS,
    assets,
    baseline,
    mgn,
    place,
    sd_folder,
    stage1,
    stage2,
    text_assets,
)
from tests.modeling.toys import batch as toy_batch

__all__ = ["assets", "place", "sd_folder", "text_assets"]

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
pytestmark = [pytest.mark.gpu] if HAS_GPU else [pytest.mark.slow]

# No random numbers in the forward pass: those of a GPU are other ones.
EXACT = {"Baseline": baseline, "MGN": mgn}
WITH_DESCRIPTORS = [name for name in CASES if name != "DiffusionReID"]


@pytest.fixture(autouse=True)
def full_precision():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def with_pixels(batch):
    """The batch with images that are not all black."""
    generator = torch.Generator().manual_seed(0)
    return batch | {"images": torch.rand(batch["images"].shape, generator=generator) * 255}


def on_device(batch):
    """What a loader of training brings to the device."""
    moved = {name: batch[name].to(DEVICE) for name in ("images", *TrainLoader.moved) if name in batch}
    rows = torch.arange(len(batch["images"]))
    views = {name: value.to(DEVICE) for name, value in batch.items() if torch.is_tensor(value) and value.ndim == 4}
    return batch | views | moved | {"position": rows, "batch_size": torch.full_like(rows, len(rows))}


def assert_close(found, expected, limit):
    gap = (found.cpu() - expected).norm() / expected.norm().clamp(min=1e-12)
    assert found.isfinite().all() and gap <= limit, f"differs by {gap:.1e}"


def compare_descriptors(model, batch):
    there = copy.deepcopy(model).to(DEVICE).eval()
    with torch.inference_mode():
        assert_close(there(on_device(batch)), model.eval()(batch), 1e-3)


@pytest.mark.parametrize("name", WITH_DESCRIPTORS)
def test_descriptors_are_those_of_the_cpu(name, request):
    _, model, batch = CASES[name](request)
    compare_descriptors(model, with_pixels(batch))


@pytest.mark.parametrize("solver", SOLVERS[:3])
def test_samples_are_those_of_the_cpu(solver, request):
    _, model, batch = stage2(request, ("MODEL.SDMODEL.SCHEDULER_CONFIG.NAME", solver))
    compare_descriptors(model, with_pixels(batch))


@pytest.mark.parametrize("name", EXACT)
def test_losses_and_gradients_are_those_of_the_cpu(name, request):
    _, model, batch = EXACT[name](request)
    batch, there = with_pixels(batch), copy.deepcopy(model).to(DEVICE).train()
    found, expected = there(on_device(batch)), model.train()(batch)
    for loss, wanted in expected.items():
        assert_close(found[loss].detach(), wanted.detach(), 1e-3)
    for losses in (found, expected):
        sum(losses.values()).backward()
    gradients = [
        torch.cat([p.grad.flatten().cpu() for p in one.parameters() if p.grad is not None]) for one in (there, model)
    ]
    assert_close(*gradients, 1e-2)


def trainer_of(cfg, model, batch, **options):
    def forever():
        while True:
            yield dict(batch)

    optimizer = build_optimizer(cfg, model)
    return SimpleTrainer(model, forever(), optimizer, clip_gradients=build_gradient_clipper(cfg), **options)


@contextlib.contextmanager
def waits():
    """Collect the warnings of torch about operations that wait for a GPU."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        if HAS_GPU:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if HAS_GPU:
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", CASES)
def test_a_step_waits_for_the_gpu_once(name, request):
    cfg, model, batch = CASES[name](request)
    trainer = trainer_of(cfg, model.to(DEVICE).train(), on_device(with_pixels(batch)))
    for _ in range(2):
        trainer.run_step()
    with waits() as found:
        trainer.run_step()
    places = [str(one.message) for one in found if "synchron" in str(one.message)]
    assert len(places) <= 1, "\n".join(f"{one.filename}:{one.lineno}" for one in found)


def test_fp16_that_overflows_lowers_the_scale_and_a_loss_that_is_not_finite_changes_nothing(request):
    cfg, model, batch = stage1(request)
    batch = on_device(with_pixels(batch))
    half = torch.float16 if HAS_GPU else torch.bfloat16
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=HAS_GPU, init_scale=2.0**60)
    options = {"autocast": lambda: torch.autocast(DEVICE.type, half), "scaler": scaler, "max_nonfinite": 3}
    trainer = trainer_of(cfg, model.to(DEVICE).train(), batch, **options)
    for _ in range(60 if HAS_GPU else 2):
        trainer.run_step()
    assert trainer.took_step and trainer.nonfinite_steps == 0
    assert not HAS_GPU or scaler.get_scale() < 2.0**60
    before = copy.deepcopy(model.state_dict())
    trainer._batches = iter([batch | {"images": batch["images"] * float("nan")}])
    trainer.run_step()
    assert not trainer.took_step
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_random_states_are_restored():
    state = rng_state()
    numbers = torch.rand(3, device=DEVICE)
    set_rng_state(state)
    assert torch.equal(torch.rand(3, device=DEVICE), numbers)


def test_compiled_samples_are_those_of_the_same_model(request):
    """On CUDA with CUDA graphs; the last part of the rows is smaller and runs as it is written."""
    keys = ("MODEL.COMPILE", True, "TEST.IMS_PER_BATCH", BATCH, "TEST.SDMODEL.MICRO_BATCH", 12)
    cfg, model, _ = stage2(request, keys)
    batch = on_device(toy_batch(BATCH))
    compiled = copy.deepcopy(model).to(DEVICE).eval()
    compile_model(cfg, compiled, DEVICE)
    with torch.inference_mode():
        expected = model.to(DEVICE).eval()(batch).cpu()
        for _ in range(3):  # a graph is recorded in the second call
            assert_close(compiled(batch), expected, 1e-4)


@pytest.fixture
def group(tmp_path, monkeypatch):
    """A group of one process (nccl on a GPU), in which the ways of several processes are taken."""
    options = {"store": dist.FileStore(str(tmp_path / "store"), 1), "rank": 0, "world_size": 1}
    dist.init_process_group("nccl" if HAS_GPU else "gloo", **options)
    monkeypatch.setattr(comm, "is_distributed", lambda: True)
    yield
    dist.destroy_process_group()


def test_every_message_passes_through_the_device(group):
    rows = torch.arange(6.0).view(3, 2)
    comm.synchronize()
    assert comm.all_gather({"a": [1]}) == [{"a": [1]}] and comm.broadcast((1, "x")) == (1, "x")
    assert comm.gather_plain({"a": "é"}) == [{"a": "é"}]
    assert torch.equal(comm.gather_rows(rows)[0], rows) and torch.equal(comm.gather_rows(rows.long())[0], rows.long())
    given = torch.ones(2, 3, device=DEVICE, requires_grad=True)
    comm.rows_of_all(given).sum().backward()
    assert torch.equal(given.grad.cpu(), torch.ones(2, 3))
    flags = torch.tensor([True, False], device=DEVICE)
    comm.copy_from_main([flags])
    assert flags.tolist() == [True, False] and 0 <= comm.shared_random_seed() < 2**31
    assert comm.all_reduce_sum(torch.ones(2, device=DEVICE)).tolist() == [1, 1]


def test_divided_weights_are_trained_evaluated_and_saved(group, request):
    amp = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bf16", "TEST.AMP.ENABLED", True)
    cfg, model, batch = stage2(request, ("SOLVER.FSDP.ENABLED", True, *amp))
    batch = on_device(with_pixels(batch))
    shard(cfg, model, DEVICE)
    trainer = trainer_of(cfg, model.train(), batch, autocast=lambda: torch.autocast(DEVICE.type, torch.bfloat16))
    keep_whole(trainer.optimizer)
    for _ in range(2):
        trainer.run_step()
        with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16):
            assert model.eval()(batch).isfinite().all()
        model.train()
    assert trainer.took_step and trainer.nonfinite_steps == 0
    state, moments = model.state_dict(), trainer.optimizer.state_dict()
    model.load_state_dict(state)
    trainer.optimizer.load_state_dict(moments)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
