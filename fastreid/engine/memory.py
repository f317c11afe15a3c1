"""Memory that a training step and an evaluation need, for --dry-run.

The model runs on PyTorch's FakeTensors, which have shapes and no values. Therefore a step of any size can be tried on
any machine, in seconds. The bytes of the tensors that are alive at the same time are counted, but not the buffers
inside of kernels.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastreid.config import CfgNode, resolve_device, with_values
from fastreid.engine.accumulation import split_batch
from fastreid.engine.training_loader import LoaderTrainingSet
from fastreid.modeling.amp import amp_dtype
from fastreid.modeling.model import RANKING, evaluation_of, interface_of
from fastreid.utils import comm
from fastreid.utils.live_bytes import LiveBytes

if TYPE_CHECKING:
    from fastreid.engine.defaults import DefaultTrainer

logger = logging.getLogger(__name__)

_CONTEXT = 2**29  # what CUDA and its libraries take on a card for themselves, about

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]
Value = TypeVar("Value")


@dataclass(frozen=True)
class StepPeak:
    """Bytes of a forward and a backward pass, beside what was there before.

    Attributes:
        all: the most that is alive at the same time.
        others: the same without the gradients of parameters that are done.
    """

    all: int
    others: int


@dataclass(frozen=True)
class Needs:
    """Bytes that a training needs.

    Attributes:
        weights: parameters and buffers.
        gradients: one for each parameter that trains.
        optimizer: state of the optimiser.
        average: averaged weights.
        step: one pass of a part of a batch.
        parts: parts of a batch; the gradients are there from the first to the last.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    step: StepPeak
    parts: int = 1

    @property
    def total(self) -> int:
        """The most that is needed at the same time."""
        moving = max(self.step.all, self.gradients) if self.parts == 1 else self.gradients + self.step.others
        return self.weights + self.optimizer + self.average + moving


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of tensors; each is counted once."""
    return sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors}.values())


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the state of an optimiser after a step, from a step of one small matrix."""
    matrix = nn.Parameter(torch.ones(64, 64))
    matrix.grad = torch.ones(64, 64)
    known = inspect.signature(type(optimizer)).parameters
    alone = type(optimizer)([matrix], **{name: value for name, value in optimizer.defaults.items() if name in known})
    alone.step()
    share = bytes_of(value for value in alone.state[matrix].values() if isinstance(value, Tensor)) / matrix.nbytes
    return round(share * bytes_of(parameter for group in optimizer.param_groups for parameter in group["params"]))


def step_peak(model: nn.Module, batch: Mapping[str, Any], autocast: Autocast = contextlib.nullcontext) -> StepPeak:
    """Return what a forward and a backward pass of a model in training mode need, the batch included.

    Buffers of the model may be replaced by fake tensors: it must not be used afterwards.

    Args:
        model: the bare model, on the CPU.
        batch: a batch, on the CPU.
        autocast: returns the context in which the model runs.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with _fake(model, batch) as (given, count):
        hooks = [parameter.register_hook(count.mark_gradient) for parameter in trained]
        try:
            with autocast():
                losses = model.train()(given)
            torch.autograd.grad(sum(losses.values()), trained, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        return StepPeak(count.peak, count.peak_without_gradients)


def evaluation_peak(
    model: nn.Module, batch: Mapping[str, Any], autocast: Autocast = contextlib.nullcontext
) -> tuple[int, int]:
    """Return the bytes that a pass in eval mode needs, and the length of a descriptor; arguments as `step_peak`."""
    with _fake(model, batch) as (given, count), torch.no_grad(), autocast():
        descriptors = model.eval()(given)
        return count.peak, descriptors.shape[1]


@contextlib.contextmanager
def _fake(model: nn.Module, batch: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], LiveBytes]]:
    """Return the batch as fake tensors, and the count of tensors."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    there = [mode.from_tensor(tensor) for tensor in (*model.parameters(), *model.buffers())]
    given = {name: mode.from_tensor(value) if isinstance(value, Tensor) else value for name, value in batch.items()}
    with mode, LiveBytes(there) as count:
        for value in given.values():
            if isinstance(value, Tensor):
                count.add(value)
        yield given, count


def memory_summary(trainer: DefaultTrainer) -> str:
    """Return a table of what a training step and an evaluation need, and whether a GPU that is there has as much.

    The model must not be used afterwards: it is moved to the CPU, and buffers may be fake.

    Args:
        trainer: the trainer, in a single process.
    """
    if comm.is_distributed():
        return "The memory of a run is estimated by a dry run in one process."
    cfg, model = trainer.cfg, trainer.bare_model.cpu()
    alone = with_values(cfg, {"DATALOADER.NUM_WORKERS": 0})
    batch = _tried("a training step", lambda: _training_batch(trainer, alone)) or {}
    images = len(batch.get("images", ()))  # SOLVER.FIT_BATCH may have lowered SOLVER.IMS_PER_BATCH
    step = _tried("a training step", lambda: _training_peak(trainer, alone, model, batch)) if batch else None
    test = None
    if trainer.test_datasets:
        test = _tried("an evaluation", lambda: evaluation_peak(model, _test_batch(trainer, alone), _test_autocast(cfg)))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    needs = Needs(
        weights=bytes_of([*model.parameters(), *model.buffers()]),
        gradients=bytes_of(trained),
        optimizer=optimizer_bytes(trainer.optimizer),
        average=trainer.average.nbytes if trainer.average else 0,
        step=step or StepPeak(0, 0),
        parts=trainer.accumulation_steps,
    )
    total, tensors = (None, None) if step is None else (needs.total, step.others)
    tested, tested_tensors = (None, None) if test is None else (needs.weights + test[0], test[0])
    tested_too = f"and {cfg.TEST.IMS_PER_BATCH} " if trainer.test_datasets else ""
    rows: list[tuple[str, int | None, int | None]] = [
        ("parameters and buffers", needs.weights, needs.weights),
        ("state of the optimiser", needs.optimizer, 0),
        ("averaged weights", needs.average, 0),
        ("gradients", needs.gradients, 0),
        (f"tensors of {images} {tested_too}images", tensors, tested_tensors),
        ("at the same time", total, tested),
    ]
    columns = 3 if trainer.test_datasets else 2
    shown = [(name, *map(sized, numbers))[:columns] for name, *numbers in rows]
    headers, places = ["memory", "training step", "evaluation"], ("left", "right", "right")
    table = tabulate(shown, headers[:columns], colalign=places[:columns])
    during = None if test is None else needs.weights + needs.optimizer + needs.average + test[0]
    return "\n".join([table, *_ranking(trainer, test), *_card(cfg, total, during)])


def _tried(what: str, run: Callable[[], Value]) -> Value | None:
    try:
        return run()
    except Exception as error:  # user-defined parts may do anything with values, which fake tensors lack
        logger.debug("stopped by", exc_info=True)
        logger.warning("the memory of %s is not known: %s: %s", what, type(error).__name__, str(error).split("\n")[0])
        return None


def _autocast(cfg: CfgNode, *, enabled: bool | None = None) -> Autocast:
    """Autocast on the CPU as it is on the device of the run; fp16 takes as much memory as bf16."""
    dtype = amp_dtype(cfg, resolve_device(cfg.MODEL.DEVICE), enabled=enabled)
    return contextlib.nullcontext if dtype is None else lambda: torch.autocast("cpu", torch.bfloat16)


def _test_autocast(cfg: CfgNode) -> Autocast:
    return _autocast(cfg, enabled=cfg.TEST.AMP.ENABLED)


def _training_peak(trainer: DefaultTrainer, cfg: CfgNode, model: nn.Module, batch: dict[str, Any]) -> StepPeak:
    """What a step needs after the epoch tasks, whose results are made up."""
    autocast = _autocast(cfg)

    def shape_of(compute: Callable[[Mapping[str, Any]], Tensor], batches: Iterable[Mapping[str, Any]]) -> Sequence[int]:
        # Computed, of two images, as parts of tasks need values: an image's noise follows from its position.
        few = {name: value[:2] for name, value in next(iter(batches)).items()}
        with torch.no_grad(), autocast():
            return compute(few).shape

    if tasks := interface_of(model.eval()).epoch_tasks():
        known = LoaderTrainingSet(trainer.loader, partial(trainer.batches_of, cfg=cfg))
        for task in tasks:
            task.rehearse(known, shape_of)
    return step_peak(model, batch, autocast)


def _training_batch(trainer: DefaultTrainer, cfg: CfgNode) -> dict[str, Any]:
    """A part of a batch of the run."""
    batch = next(iter(trainer.build_train_loader(cfg)))
    part = split_batch(batch, trainer.accumulation_steps)[0]
    # Their values would be needed. Without them the rows of the batch follow each other.
    return {name: value for name, value in part.items() if name not in ("position", "batch_size")}


def _test_batch(trainer: DefaultTrainer, cfg: CfgNode) -> dict[str, Any]:
    """A batch of TEST.IMS_PER_BATCH copies of a test image."""
    image = next(image for dataset in trainer.test_datasets for image in dataset.query)
    size = cfg.TEST.IMS_PER_BATCH
    batch = next(iter(trainer.build_feature_loader(cfg, [image])))
    return {
        name: value.expand(size, *value.shape[1:]) if isinstance(value, Tensor) else list(value) * size
        for name, value in batch.items()
    }


def _ranking(trainer: DefaultTrainer, test: tuple[int, int] | None) -> Iterator[str]:
    if not trainer.test_datasets:
        yield "DATASETS.TESTS is empty: nothing is evaluated."
    if test is None or evaluation_of(trainer.cfg) != RANKING:
        return
    paths = {image.path for dataset in trainer.test_datasets for image in (*dataset.query, *dataset.gallery)}
    yield (
        f"{len(paths):,} descriptors of {test[1]:,} numbers take {sized(4 * test[1] * len(paths))} on the CPU, and "
        f"their ranking at most {trainer.cfg.TEST.MEMORY_BUDGET:g} MiB (TEST.MEMORY_BUDGET)."
    )


def _card(cfg: CfgNode, step: int | None, during: int | None) -> Iterator[str]:
    """Whether the card has the memory of a step, and of an evaluation during a training."""
    device = resolve_device(cfg.MODEL.DEVICE)
    if step is None or not device.startswith("cuda"):
        return
    there = torch.cuda.mem_get_info(device)[1]
    answer = "has enough"
    if step + _CONTEXT > there:
        answer = "has too little: raise SOLVER.ACCUMULATION_STEPS"
    elif during is not None and during + _CONTEXT > there:
        answer = (
            f"has too little for an evaluation during a training, {sized(during)}: lower TEST.IMS_PER_BATCH or "
            "TEST.SDMODEL.MICRO_BATCH"
        )
    yield f"{torch.cuda.get_device_name(device)} with {sized(there)} {answer}."


def sized(number: int | None) -> str:
    """Return a number of bytes as text, such as "1.5 GiB", or "not known"."""
    if number is None:
        return "not known"
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.1f} MiB"
