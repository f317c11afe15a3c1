"""Evaluation of a model on several protocols: embed each image once, score each protocol, write the results."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from fastreid.config import ConfigError
from fastreid.evaluation.breakdown import with_camera_names
from fastreid.evaluation.ranked_lists import Names, log_failures, ranked_lists
from fastreid.evaluation.results import Outcome, log_breakdown, write_outcomes
from fastreid.evaluation.roc import Curves, roc_curve
from fastreid.evaluation.scoring import ProtocolResult, score
from fastreid.evaluation.scoring_options import Scoring
from fastreid.evaluation.statistics import bootstrap_intervals
from fastreid.evaluation.thresholds import log_thresholds, thresholds_of
from fastreid.retrieval.extraction import BatchLoader, FeatureStore, my_share
from fastreid.retrieval.matches import Matches, match_images
from fastreid.structures import PersonImage
from fastreid.utils import comm
from fastreid.utils.skipped import describe_skipped

logger = logging.getLogger(__name__)

_TIED = 1e-4  # differences of mAP, due to ties, from which on a warning is logged

BuildLoader = Callable[[Any, Sequence[PersonImage]], BatchLoader]
Results = OrderedDict[str, dict[str, float | int]]


@runtime_checkable
class _HasNames(Protocol):
    """A data set that knows the names of people and cameras."""

    person_names: Mapping[int, str]
    camera_names: Mapping[int, str]


@dataclass(frozen=True)
class MatchedProtocol:
    """The test images of a protocol with their matches; labels are matched once, however often a model is scored.

    Attributes:
        name: name of the protocol.
        query: query images.
        gallery: gallery images.
        matches: positives, removed and junk images of every query.
        person_names: {id: name} of people whose names are not their ids.
        camera_names: the same of cameras.
        num_missing: number of the protocol's images that could not be read and are left out.
    """

    name: str
    query: Sequence[PersonImage]
    gallery: Sequence[PersonImage]
    matches: Matches
    person_names: Mapping[int, str]
    camera_names: Mapping[int, str]
    num_missing: int = 0

    @classmethod
    def of(cls, dataset: Any) -> MatchedProtocol:
        """Return a data set's test images with their matches; of a `MatchedProtocol`, itself.

        Args:
            dataset: has `name`, `query` and `gallery`, and maybe `person_names` and `camera_names`.
        """
        if isinstance(dataset, cls):
            return dataset
        has_names = isinstance(dataset, _HasNames)
        return cls(
            name=dataset.name,
            query=dataset.query,
            gallery=dataset.gallery,
            matches=match_images(dataset.query, dataset.gallery),
            person_names=dataset.person_names if has_names else {},
            camera_names=dataset.camera_names if has_names else {},
        )

    def without(self, skipped: Mapping[str, str]) -> MatchedProtocol:
        """Return the protocol without the images that could not be read, {path: reason}."""
        query, gallery = ([i for i in side if i.path not in skipped] for side in (self.query, self.gallery))
        missing = len(self.query) + len(self.gallery) - len(query) - len(gallery)
        if not missing:
            return self
        logger.warning("%s: %d of its images are missing", self.name, missing)
        matches = match_images(query, gallery)
        return replace(self, query=query, gallery=gallery, matches=matches, num_missing=missing)

    def check(self, scoring: Scoring | None = None, *, with_pairs: bool = False) -> None:
        """Check that the protocol can be scored; see `check_protocol`."""
        for side, images in (("query", self.query), ("gallery", self.gallery)):
            if not images:
                raise ConfigError(
                    f"{self.name}: the {side} is empty; check the data set's {side} files under "
                    "DATASETS.ROOT, and that the protocol's views occur in them"
                )
        self.matches.require_valid_query(self.name)
        if with_pairs and not (self.matches.num_valid_gallery - self.matches.num_positives).any():
            raise ConfigError(
                f"{self.name}: TEST.ROC and TEST.PLOTS need pairs of two people, and all gallery images are of the "
                "queries' own"
            )
        if scoring:
            try:
                scoring.check_sizes(len(self.query), len(self.gallery))
            except ValueError as error:
                raise ConfigError(f"{self.name}: {error}") from error


def check_protocol(dataset: Any, scoring: Scoring | None = None, *, with_pairs: bool = False) -> MatchedProtocol:
    """Check that a protocol can be scored, before the model runs.

    Args:
        dataset: as `MatchedProtocol.of`.
        scoring: how it will be scored.
        with_pairs: whether wrong pairs are needed (ROC curves).

    Returns:
        The protocol with its matches, which `evaluate_protocols` takes instead of the data set.

    Raises:
        ConfigError: no person labels; no query or no gallery images; fewer images than neighbours are asked for; no
            wrong pair.
        NoValidQueryError: no query has a match under another camera.
    """
    if not dataset.query and (reason := getattr(dataset, "unlabelled", "")):
        raise ConfigError(f"{dataset.name} has no person labels ({reason}): it can be trained on, but not evaluated")
    if reason := getattr(dataset, "training_only", ""):
        raise ConfigError(f"{dataset.name} has {reason}: it can be trained on, but not evaluated")
    protocol = MatchedProtocol.of(dataset)
    protocol.check(scoring, with_pairs=with_pairs)
    return protocol


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
        cfg: `TEST` gives the options of scoring (`Scoring`).
        model: `model(batch)` returns descriptors [B, D] in eval mode.
        datasets: protocols, as `MatchedProtocol.of` takes them.
        build_loader: (cfg, images) -> batches in order (`fastreid.data.build_feature_loader`).
        output_dir: receives results.json, results.csv, intervals.json, ranked_lists.json; with TEST.BREAKDOWN
            breakdown.json, with TEST.ROC thresholds.json, with TEST.PLOTS pictures.
        autocast: returns the context in which features are computed; scores are float32 in any case.

    Returns:
        {protocol: figures in percent} in every process. If the loader skipped images (DATALOADER.BAD_IMAGES "skip"),
        every protocol's figures have `missing_images`, the number of its own.

    Raises:
        ConfigError: a protocol without images; raised before any work, unless images are skipped.
        NoValidQueryError: a protocol without a valid query; likewise.
    """
    scoring = Scoring.from_config(cfg)
    with_pairs = scoring.roc or cfg.TEST.PLOTS
    protocols = [check_protocol(dataset, scoring, with_pairs=with_pairs) for dataset in datasets]
    images = {image.path: image for protocol in protocols for image in (*protocol.query, *protocol.gallery)}
    store = FeatureStore()
    loader = build_loader(cfg, my_share(list(images.values())))
    store.extract(model, loader, autocast, flip=cfg.TEST.FLIP.ENABLED)
    if store.skipped:
        logger.warning("the figures are not those of the whole protocols: %s", describe_skipped(store.skipped))
        protocols = [protocol.without(store.skipped) for protocol in protocols]
        for protocol in protocols:
            protocol.check(scoring, with_pairs=with_pairs)
    outcomes: OrderedDict[str, Outcome] = OrderedDict()
    for protocol in protocols:
        features = store.select(protocol.query), store.select(protocol.gallery)
        result = score(
            *features, protocol.query, protocol.gallery, scoring, matches=protocol.matches, shared=True
        )  # fmt: skip
        if result and store.skipped:
            result.metrics["missing_images"] = protocol.num_missing
        if result:
            outcomes[protocol.name] = summarize(result, protocol, scoring, with_plots=cfg.TEST.PLOTS)
    if comm.is_main_process():
        write_outcomes(outcomes, Path(output_dir))
    return Results(comm.gather_plain({name: outcome.metrics for name, outcome in outcomes.items()})[0])


def summarize(
    result: ProtocolResult, protocol: MatchedProtocol, scoring: Scoring, *, with_plots: bool = False
) -> Outcome:
    """Log what limits the meaning of a protocol's figures, and return the parts of the result that are written.

    Args:
        result: result of scoring the protocol.
        protocol: its images.
        scoring: how it was scored.
        with_plots: whether curves are needed.
    """
    name, num_queries = protocol.name, len(protocol.query)
    unmatched = num_queries - result.ranking.num_valid_queries
    if unmatched:
        logger.info(
            "%s: %d of %d queries have no match under another camera and are not counted", name, unmatched, num_queries
        )
    worst, best = result.ranking.mean_ap_bounds
    if best - worst > _TIED:
        logger.warning(
            "%s: many distances are equal; another order among them could give an mAP from %.2f to %.2f",
            name,
            100 * worst,
            100 * best,
        )
    interval = bootstrap_intervals(result.ranking, rank1=result.rank1)
    logger.info("%s: resampled queries give an mAP from %.1f to %.1f (95 %%)", name, *interval["mAP"])
    breakdown = dict(result.breakdown)
    if "camera" in breakdown:
        breakdown["camera"] = with_camera_names(breakdown["camera"], protocol.camera_names)
    log_breakdown(name, breakdown)
    thresholds = thresholds_of(result.roc, scoring) if result.roc else None
    if thresholds:
        log_thresholds(name, thresholds)
    curves = None
    if with_plots:
        curves = Curves(result.cmc, result.roc or roc_curve(result.distances, result.matches))
    names = Names(protocol.person_names, protocol.camera_names)
    lists = ranked_lists(result, protocol.query, protocol.gallery, names)
    log_failures(name, lists)
    return Outcome(result.metrics, interval, lists, breakdown, thresholds, curves)
