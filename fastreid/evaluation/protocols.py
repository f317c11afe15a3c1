"""Evaluating a model on every protocol asked for: embed once, score each, write what came out."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from fastreid.config import ConfigError
from fastreid.evaluation.confidence import bootstrap_intervals
from fastreid.evaluation.extraction import FeatureStore, my_share
from fastreid.evaluation.ranked_lists import ranked_lists
from fastreid.evaluation.results import print_csv_format, write_json, write_results
from fastreid.evaluation.score import match_images, score
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
        cfg: `TEST.METRIC` is the distance, `TEST.MEMORY_BUDGET` MiB may be used beside the descriptors.
        datasets: protocols, with `name`, `query` and `gallery`.
        build_loader: (cfg, images) -> batches in order (`fastreid.data.build_feature_loader`).
        output_dir: receives results.json, results.csv, intervals.json and ranked_lists.json.
        autocast: makes the context in which features are computed; scores are float32 all the same.
    Returns: {protocol: figures in percent} in every process.
    Raises: ConfigError (a protocol without images), NoValidQueryError; both before any work.
    """
    for dataset in datasets:
        check_protocol(dataset)
    images = {image.path: image for data in datasets for image in (*data.query, *data.gallery)}
    store = FeatureStore()
    store.extract(model, build_loader(cfg, my_share(list(images.values()))), autocast)
    results = Results()
    if comm.is_main_process():
        options = {"metric": cfg.TEST.METRIC, "memory_budget": cfg.TEST.MEMORY_BUDGET}
        results = _score_all(options, store, datasets, Path(output_dir))
    return comm.broadcast(results)


def _score_all(options: Mapping[str, Any], store: FeatureStore, datasets: Sequence[Any], output_dir: Path) -> Results:
    results, lists, intervals = Results(), {}, {}
    for data in datasets:
        result = score(store.select(data.query), store.select(data.gallery), data.query, data.gallery, **options)
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
        results[data.name] = result.metrics
        intervals[data.name] = bootstrap_intervals(result.ranking)
        low, high = intervals[data.name]["mAP"]
        logger.info("%s: resampled queries give an mAP from %.1f to %.1f (95 %%)", data.name, low, high)
        lists[data.name] = ranked_lists(result, data.query, data.gallery)
    write_results(output_dir, results)
    write_json(output_dir / "intervals.json", intervals)
    write_json(output_dir / "ranked_lists.json", lists)
    print_csv_format(results)
    return results


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
