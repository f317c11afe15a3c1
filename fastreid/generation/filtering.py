"""The stages `filter` and `top-up`, from the config: real images, re-ID models, and rounds of more pictures."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastreid.config import CfgNode, resolve_device, with_values
from fastreid.data.build import training_images
from fastreid.generation.embedding import Embedder, of_checkpoint
from fastreid.generation.filters.build import build_filters, build_rounds, models_in, needed_models
from fastreid.generation.filters.sources import RealImages
from fastreid.generation.filters.stage import FilterStage
from fastreid.generation.filters.summary import FilterSummary
from fastreid.generation.journal import Journal
from fastreid.generation.people import Identity, enough_images, people_of
from fastreid.generation.records import refuse_other_people
from fastreid.generation.rows import PICTURE_ROW
from fastreid.generation.shards import Shard
from fastreid.generation.stages import PICTURES, generate
from fastreid.structures import PersonImage

logger = logging.getLogger(__name__)

_MODELS = "DIFFPERSON.FILTER.MODELS"


def filter_pictures(cfg: CfgNode, shard: Shard) -> FilterSummary:
    """Judge the written pictures of the people of a shard.

    Args:
        cfg: the config.
        shard: the part of the people.

    Returns:
        The counts, and the people who have too few pictures.

    Raises:
        ConfigError: a key has an impossible value.
        FilterError: a filter cannot run, or the stage was begun with other filters or models.
    """
    keys = cfg.DIFFPERSON.FILTER
    filters, people = build_filters(keys), people_of(cfg)
    refuse_other_people(Path(cfg.OUTPUT_DIR) / PICTURES, people)
    sources = real_images(cfg, people)
    files = needed_models(keys, filters, list(sources))
    device = resolve_device(cfg.MODEL.DEVICE)
    stage = FilterStage(
        Path(cfg.OUTPUT_DIR),
        filters,
        sources,
        Embedder({name: of_checkpoint(path, key=_MODELS, device=device) for name, path in files.items()}),
        models_in(files),
        [who.gid for who in enough_images(people, cfg.DIFFPERSON.MIN_IMAGES)[0]],
    )
    summary = stage.run(build_rounds(keys, cfg.DIFFPERSON.GEN.PER_ID), shard)
    if summary.short:
        logger.info(
            "people with fewer than %d kept pictures (DIFFPERSON.FILTER.MIN_KEEP): %d; the stage top-up writes more",
            keys.MIN_KEEP, len(summary.short),
        )  # fmt: skip
    return summary


def top_up(cfg: CfgNode, shard: Shard) -> FilterSummary:
    """Write and judge more pictures of people of a shard who have too few, until all have enough or rounds are used up.

    Args:
        cfg: the config.
        shard: the part of the people.

    Returns:
        The last counts.

    Raises:
        ConfigError: as `generate`.
        FilterError: as `filter_pictures`.
    """
    per_round = cfg.DIFFPERSON.GEN.PER_ID
    # A round that an earlier start left unfinished comes first: what is kept depends on how many there are.
    for count, people in _unfinished_rounds(cfg, per_round).items():
        generate(cfg, shard, per_person=count, only=people)
    summary = filter_pictures(cfg, shard)
    for done in range(1, cfg.DIFFPERSON.FILTER.MAX_ROUNDS):
        short = list(summary.short)
        if not short:
            break
        logger.info("round %d: more pictures of %d people", done + 1, len(short))
        # People who were topped up in an earlier start have more pictures already, and get no more in this round.
        generate(cfg, shard, per_person=per_round * (done + 1), only=short)
        summary = filter_pictures(cfg, shard)
    return summary


def _unfinished_rounds(cfg: CfgNode, per_round: int) -> dict[int, list[int]]:
    """Return number of pictures at the end of a later round -> people who have a part of this round."""
    counts = Counter(row["gid"] for row in Journal(Path(cfg.OUTPUT_DIR) / PICTURES, PICTURE_ROW).rows())
    found: dict[int, list[int]] = {}
    for gid, count in counts.items():
        done = math.ceil(count / per_round)
        if 1 < done <= cfg.DIFFPERSON.FILTER.MAX_ROUNDS and count % per_round:
            found.setdefault(done * per_round, []).append(gid)
    return found


def real_images(cfg: CfgNode, people: Sequence[Identity]) -> dict[str, RealImages]:
    """Return the training images of each data set; the person of each is its number among the written people.

    With DATASETS.SUBSET few_shot, the images that it leaves out are the held-out ones: neither the generator nor the
    re-ID models of the same subset have seen them.

    Args:
        cfg: the config.
        people: its people.
    """
    gid_of = {image.path: who.gid for who in people for image in who.images}
    found: dict[str, list[PersonImage]] = {}
    for who in people:
        found.setdefault(who.source, []).extend(replace(image, person=who.gid) for image in who.images)
    held_out = _held_out(cfg, gid_of)
    return {name: RealImages(images, held_out.get(name, [])) for name, images in found.items()}


def _held_out(cfg: CfgNode, gid_of: dict[str, int]) -> dict[str, list[PersonImage]]:
    if cfg.DATASETS.SUBSET.MODE != "few_shot":
        return {}
    whole = training_images(with_values(cfg, {"DATASETS.SUBSET.MODE": "none"}))
    # All people are in both, so their classes are the same.
    found: dict[str, list[PersonImage]] = {}
    for image, label, number in zip(whole.images, whole.labels, whole.sets, strict=True):
        if image.path not in gid_of:
            found.setdefault(whole.sources[number].name, []).append(replace(image, person=label))
    return found
