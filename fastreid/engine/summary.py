"""Tables for --dry-run: model parts, learning rates, and queries that can be scored."""

from __future__ import annotations

from collections.abc import Iterable

from tabulate import tabulate
from torch import nn

from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.data.check import counts_as_text
from fastreid.data.datasets import ImageDataset
from fastreid.evaluation.protocols import MatchedProtocol
from fastreid.solver import LRSchedule
from fastreid.utils.display_text import printable


def model_summary(model: nn.Module) -> str:
    """Parameters and trainable parameters of each part, two levels deep, and their totals."""
    rows = [(name, *count_parameters(part)) for name, part in _parts(model)]
    rows.append(("total", *count_parameters(model)))
    return tabulate(rows, headers=["part", "parameters", "trainable"], intfmt=",")


def _parts(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    for name, part in model.named_children():
        if count_parameters(part)[0]:
            yield name, part
            for inner_name, inner in part.named_children():
                if count_parameters(inner)[0] and not isinstance(part, (nn.Sequential, nn.ModuleList)):
                    yield f"  {name}.{inner_name}", inner


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Numbers of (all, trainable) parameters; shared ones count once."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def schedule_summary(schedule: LRSchedule, *, max_epoch: int, iters_per_epoch: int) -> str:
    """The learning rate of the first group at the start, after warm-up, at each change and at the end; and the highest.

    A curve that changes in every epoch (cosine) is shown at quarters.

    Args:
        schedule: the schedule.
        max_epoch: number of epochs.
        iters_per_epoch: iterations of an epoch.
    """
    starts = [schedule.lr_at(epoch * iters_per_epoch) for epoch in range(max_epoch)]
    changes = [e for e in range(1, max_epoch) if starts[e] != starts[e - 1]]
    warmup_iters = schedule.warmup_iters
    warm = warmup_iters // iters_per_epoch
    changes = [e for e in changes if e > warm]
    if len(changes) > 8:
        changes = [max_epoch * quarter // 4 for quarter in (1, 2, 3)]
    points = {
        0,
        min(warmup_iters, max_epoch * iters_per_epoch - 1),
        max_epoch * iters_per_epoch - 1,
    }
    points |= {epoch * iters_per_epoch for epoch in changes}
    rows = [(i // iters_per_epoch + 1, i, f"{schedule.lr_at(i):.3g}") for i in sorted(points)]
    head = f"{max_epoch} epochs of {iters_per_epoch} iterations, {max_epoch * iters_per_epoch} in all"
    peak, reached = schedule.peak(max_epoch * iters_per_epoch)
    highest = f"The highest rate is {peak:.3g}, first in iteration {reached} (epoch {reached // iters_per_epoch + 1})."
    return f"{head}\n{tabulate(rows, headers=['epoch', 'iteration', 'lr'])}\n{highest}"


def attributes_table(datasets: Iterable[ImageDataset]) -> str:
    """Test images and attributes of each data set, for models that predict attributes."""
    rows = [(printable(data.name), len(data.query), len(data.attribute_names)) for data in datasets]
    return counts_as_text(("data set", "test images", "attributes"), rows)


def valid_queries_table(datasets: Iterable[ImageDataset | MatchedProtocol]) -> str:
    """Number of queries with a match in each protocol, beside the number that published figures imply."""
    rows = []
    for dataset in datasets:
        benchmark = BENCHMARK_OF.get(dataset.name)
        matches = MatchedProtocol.of(dataset).matches if dataset.query else None
        valid = 0 if matches is None else int((matches.num_positives > 0).sum())
        published = benchmark.protocol(dataset.name).valid_queries if benchmark else None
        pairs = benchmark.aliases.items() if benchmark else ()
        alias = next((b if a == dataset.name else a for a, b in pairs if dataset.name in (a, b)), None)
        rows.append((printable(dataset.name), alias, len(dataset.query), valid, published))
    headers = ("protocol", "same as", "queries", "with a match", "published")
    return counts_as_text(headers, rows)
