"""Evaluating a model on every protocol asked for: embed once, score each, write what came out."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fastreid.config import ConfigError
from fastreid.evaluation.breakdown import Row, breakdown_table
from fastreid.evaluation.confidence import bootstrap_intervals
from fastreid.evaluation.extraction import FeatureStore, my_share
from fastreid.evaluation.plots import Curves, draw_plots
from fastreid.evaluation.ranked_lists import ranked_lists
from fastreid.evaluation.results import print_csv_format, write_json, write_results
from fastreid.evaluation.roc import roc_curve
from fastreid.evaluation.score import ProtocolResult, match_images, score
from fastreid.evaluation.scoring import Scoring
from fastreid.structures import PersonImage
from fastreid.utils import comm

logger = logging.getLogger(__name__)

BuildLoader = Callable[[Any, Sequence[PersonImage]], Iterable[Mapping[str, Any]]]
Results = OrderedDict[str, dict[str, float | int]]


def evaluate_protocols(
    cfg: Any,
    model: nn.Module,
    datasets: Sequence[Any],
    build_loader: BuildLoader,
    output_dir: str | Path,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Results:
    """Score a model on several protocols; each shared image is embedded once.

    Args:
        cfg: `TEST` says how to score (`Scoring`).
        datasets: protocols, with `name`, `query` and `gallery`.
        build_loader: (cfg, images) -> batches in order (`fastreid.data.build_feature_loader`).
        output_dir: receives results.json, results.csv, intervals.json, ranked_lists.json; with TEST.BREAKDOWN
            breakdown.json, with TEST.PLOTS pictures.
        autocast: makes the context in which features are computed; scores are float32 all the same.
    Returns: {protocol: figures in percent} in every process.
    Raises: ConfigError (a protocol without images), NoValidQueryError; both before any work.
    """
    scoring = Scoring.from_config(cfg)
    for dataset in datasets:
        check_protocol(dataset)
    images = {image.path: image for data in datasets for image in (*data.query, *data.gallery)}
    store = FeatureStore()
    store.extract(model, build_loader(cfg, my_share(list(images.values()))), autocast)
    outcomes = OrderedDict()
    for data in datasets:
        features = store.select(data.query), store.select(data.gallery)
        result = score(*features, data.query, data.gallery, scoring, shared=True)
        if result:
            outcomes[data.name] = _outcome(result, data, with_plots=cfg.TEST.PLOTS)
    if comm.is_main_process():
        _write(outcomes, Path(output_dir))
    return comm.broadcast(Results((name, outcome.metrics) for name, outcome in outcomes.items()))


@dataclass(frozen=True)
class _Outcome:
    """What stays of a scored protocol; its descriptors do not."""

    metrics: dict[str, float | int]
    interval: dict[str, tuple[float, float]]
    lists: dict[str, Any]
    breakdown: dict[str, list[Row]]
    curves: Curves | None


def _outcome(result: ProtocolResult, data: Any, *, with_plots: bool) -> _Outcome:
    """Tell what is to be known about a protocol beside its figures, and keep what is written."""
    skipped = len(data.query) - result.ranking.num_valid_queries
    if skipped:
        logger.info(
            "%s: %d of %d queries have no match under another camera and are not counted",
            data.name,
            skipped,
            len(data.query),
        )
    worst, best = result.ranking.mean_ap_bounds
    if best - worst > 1e-4:  # of distinct distances nothing is to be said
        logger.warning(
            "%s: many distances are equal; another order among them could give an mAP from %.2f to %.2f",
            data.name,
            100 * worst,
            100 * best,
        )
    interval = bootstrap_intervals(result.ranking)
    logger.info("%s: resampled queries give an mAP from %.1f to %.1f (95 %%)", data.name, *interval["mAP"])
    for by, rows in result.breakdown.items():
        logger.info("%s by %s, in percent:\n%s", data.name, by, breakdown_table(rows))
    curves = None
    if with_plots:
        curves = Curves(result.cmc, result.roc or roc_curve(result.distances, result.matches))
    lists = ranked_lists(result, data.query, data.gallery)
    return _Outcome(result.metrics, interval, lists, result.breakdown, curves)


def _write(outcomes: Mapping[str, _Outcome], output_dir: Path) -> None:
    results = {name: outcome.metrics for name, outcome in outcomes.items()}
    write_results(output_dir, results)
    write_json(output_dir / "intervals.json", {name: outcome.interval for name, outcome in outcomes.items()})
    write_json(output_dir / "ranked_lists.json", {name: outcome.lists for name, outcome in outcomes.items()})
    if any(outcome.breakdown for outcome in outcomes.values()):
        write_json(output_dir / "breakdown.json", {name: outcome.breakdown for name, outcome in outcomes.items()})
    curves = {name: outcome.curves for name, outcome in outcomes.items() if outcome.curves}
    if curves:
        draw_plots(curves, output_dir / "plots")
    print_csv_format(results)


def check_protocol(dataset: Any) -> None:
    """Find out before the model runs what would spoil its evaluation after.

    Raises:
        ConfigError: no query or no gallery images.
        NoValidQueryError: no query has a match under another camera.
    """
    for side in ("query", "gallery"):
        if not getattr(dataset, side):
            raise ConfigError(
                f"{dataset.name}: the {side} is empty; check the data set's {side} files under "
                "DATASETS.ROOT, and that the protocol's views occur in them"
            )
    match_images(dataset.query, dataset.gallery).require_valid_query(dataset.name)
