"""The stage `export`, from the config: the data set DiffPerson, its figures, and its data card."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastreid.config import CfgNode, ConfigError, resolve_device
from fastreid.data.benchmarks.diff_person import NAME
from fastreid.data.build import datasets_root
from fastreid.data.images import read_pixels
from fastreid.data.picture_grid import spread_evenly
from fastreid.generation.caption import FOLDER as CAPTIONS
from fastreid.generation.caption import caption_settings
from fastreid.generation.card import UNKNOWN_LICENCE, Model, collect_card, exported_rows, rows_without, write_card
from fastreid.generation.embedding import Embedder, embed_many, neutral_model
from fastreid.generation.export import SHEET, ExportSummary, export_pictures
from fastreid.generation.export_plan import FILTER, PICTURES, ExportError, ExportOptions
from fastreid.generation.filters.build import build_filters, build_rounds, models_in, needed_models
from fastreid.generation.filters.settings import StageSettings
from fastreid.generation.filters.sheet import filter_sheet
from fastreid.generation.filters.stage import SETTINGS, SUMMARY
from fastreid.generation.filters.stage import SHEET as FILTER_SHEET
from fastreid.generation.journal import Journal
from fastreid.generation.people import Identity, enough_images, people_of
from fastreid.generation.quality import (
    SimilarityGap,
    attribute_entropy,
    diversity_by_person,
    frechet_distance,
    identity_similarity,
    inception,
    keep_rates,
    kernel_distance,
    similarity_gap,
)
from fastreid.generation.records import refuse_other_settings, refuse_other_training, settings_of
from fastreid.generation.rows import PICTURE_ROW, Row
from fastreid.generation.shards import Shard
from fastreid.generation.stages import picture_settings, train_folder
from fastreid.methods.diffusion_reid.grammar import Grammar
from fastreid.utils.files import atomic_write, save_picture
from fastreid.utils.progress import progress
from fastreid.utils.text import read_text

logger = logging.getLogger(__name__)

FIGURES = "figures.json"
_NEUTRAL = "neutral"
_BATCH = 16  # images that Inception takes at once
# Beginning of a folder's or file's name -> licence.
_LICENCES = {
    "stable-diffusion-v1": "CreativeML Open RAIL-M",
    "stable-diffusion-2": "CreativeML Open RAIL++-M",
    "blip2": "MIT",
    "clip-vit": "MIT",
    "random-": "none needed",
}


def export(cfg: CfgNode, shard: Shard) -> ExportSummary:
    """Export the kept pictures; when all shards are done, compute the figures and write the card.

    Args:
        cfg: the config.
        shard: the part of the pictures.

    Returns:
        The counts.

    Raises:
        ExportError: there is nothing to export, or it was exported with other parameters.
        ConfigError: a key has an impossible value.
    """
    root, people = Path(cfg.OUTPUT_DIR), people_of(cfg)
    _refuse_others(cfg, root, people)
    filter_models = _filter_models(cfg, root, people)
    _refuse_unfinished(cfg, root, people)
    summary = export_pictures(root, ExportOptions.from_config(cfg), shard)
    if summary.complete:
        place, excluded = root / NAME, cfg.DATASETS.EXCLUDE_SOURCES
        written, judged = rows_without(root, excluded)
        figures = _figures(cfg, root, written, judged, people)
        with atomic_write(place / FIGURES) as file:
            json.dump(figures, file, indent=1)
        with tempfile.TemporaryDirectory() as folder:
            sheet = root / FILTER / FILTER_SHEET
            if excluded:  # the sheet of the filter shows their people, too
                sheet = Path(folder) / FILTER_SHEET
                files = {(row["gid"], row["number"]): root / PICTURES / row["file"] for row in written}
                save_picture(filter_sheet(judged, files), sheet, quality=85)
            card = collect_card(
                root,
                models=_models(cfg, filter_models),
                settings=_settings(cfg),
                trained_on=cfg.DATASETS.NAMES,
                figures=figures,
                sheets={"Exported pictures": place / SHEET, "Kept and dropped pictures": sheet},
                root=datasets_root(cfg),
                exclude_sources=excluded,
            )
            write_card(card, place)
        logger.info("the data card is %s", place / "card.html")
    return summary


def _refuse_others(cfg: CfgNode, root: Path, people: Sequence[Identity]) -> None:
    """Check that the card would tell the truth: that earlier stages were run with the keys of this config."""
    refuse_other_settings(root / PICTURES, picture_settings(cfg, people))
    is_shared = cfg.DIFFPERSON.GRANULARITY == "shared"
    for gid in [None] if is_shared else [who.gid for who in people]:
        refuse_other_training(cfg, train_folder(cfg, gid))
    if (captions := root / CAPTIONS).is_dir() and cfg.DIFFPERSON.LPE.CAPTIONER != "none":
        refuse_other_settings(captions, caption_settings(cfg, people))


def _filter_models(cfg: CfgNode, root: Path, people: Sequence[Identity]) -> Mapping[str, str]:
    """Return the re-ID model of each data set in the filter, which must have been run with them."""
    if not (settings := root / FILTER / SETTINGS).is_file():
        return {}
    filters = build_filters(cfg.DIFFPERSON.FILTER)
    files = needed_models(cfg.DIFFPERSON.FILTER, filters, sorted({who.source for who in people}))
    StageSettings(settings, filters, models_in(files)).check()
    return files


def _refuse_unfinished(cfg: CfgNode, root: Path, people: Sequence[Identity]) -> None:
    """Check that each person has all pictures, and that the filter was run for as many.

    Raises:
        ExportError: pictures of people are missing, or the filter was run with other keys for the rounds.
    """
    rounds = build_rounds(cfg.DIFFPERSON.FILTER, cfg.DIFFPERSON.GEN.PER_ID)
    there = Counter(row["gid"] for row in Journal(root / PICTURES, PICTURE_ROW).rows())
    wanted, _ = enough_images(people, cfg.DIFFPERSON.MIN_IMAGES)
    if few := [who for who in wanted if not there[who.gid] or there[who.gid] % rounds.per_round] if there else []:
        raise ExportError(
            f"{len(few)} of {len(wanted)} people do not have DIFFPERSON.GEN.PER_ID {rounds.per_round} pictures in each "
            f"round (the first is {few[0].person} of {few[0].source}, with {there[few[0].gid]}): run the stages "
            "generate and filter to their end, or set the number that they were written with"
        )
    if (path := root / FILTER / SUMMARY).is_file():
        known = json.loads(read_text(path)).get("rounds", asdict(rounds))
        if known != asdict(rounds):
            raise ExportError(
                f"the stage filter was run with other DIFFPERSON.FILTER.MIN_KEEP, MAX_ROUNDS or GEN.PER_ID: {known}, "
                f"not {asdict(rounds)}. Set them back, or run it again, which only counts again"
            )


def _figures(
    cfg: CfgNode, root: Path, written: Sequence[Row], judged: Sequence[Row], people: Sequence[Identity]
) -> dict[str, Any]:
    """Return what is known of diversity and consistency: of the exported pictures, and of real images of their people.

    The keep rate is that of all people of the exported data sets.
    """
    rows = exported_rows(root)
    grammar = Grammar.read(cfg.DIFFPERSON.GRAMMAR)
    found: dict[str, Any] = {
        "entropy of attributes (bits)": _rounded(
            attribute_entropy([grammar.attributes(row["caption"]) for row in rows])
        ),
        "keep rate": _rounded(keep_rates(judged)),
    }
    exported = {(row["stage_gid"], row["number"]) for row in rows}
    kept = [row for row in written if (row["gid"], row["number"]) in exported]
    chosen = spread_evenly(kept, cfg.DIFFPERSON.CARD.PICTURES)
    shown = {gid for gid, _ in exported}
    pairs = [(image.path, who.gid) for who in people if who.gid in shown for image in who.images]
    real = spread_evenly(pairs, cfg.DIFFPERSON.CARD.PICTURES)
    found |= _by_features(cfg, root, chosen, real)
    return found | _by_inception(cfg, root, chosen, real) | _by_training(cfg)


def _by_features(cfg: CfgNode, root: Path, rows: Sequence[Row], real: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """Return the figures that need a network that took no part."""
    device = resolve_device(cfg.MODEL.DEVICE)
    load = neutral_model(cfg, (256, 128), device)
    if load is None:
        logger.warning("DIFFPERSON.CARD names no network that took no part: the card has no figures of similarity")
        return {}
    embed = Embedder({_NEUTRAL: load})
    paths = [str(root / PICTURES / row["file"]) for row in rows]
    features = embed_many(embed, paths, _NEUTRAL, "computing features of written pictures")
    people = torch.tensor([row["gid"] for row in rows])
    of_real = embed_many(embed, [path for path, _ in real], _NEUTRAL, "computing features of real images")
    real_people = torch.tensor([gid for _, gid in real])
    written, own, to_real = (
        similarity_gap(features, people),
        similarity_gap(of_real, real_people),
        identity_similarity(features, people, of_real, real_people),
    )
    diversity, real_diversity = (
        _mean(diversity_by_person(*pair)) for pair in ((features, people), (of_real, real_people))
    )
    return {
        "cosine of two written pictures": _rounded(_gap(written)),
        "cosine of two real images": _rounded(_gap(own)),
        "cosine of a written picture and a real image": _rounded(_gap(to_real)),
        "mean distance within a person": _rounded({"written": diversity, "real": real_diversity}),
    }


def _gap(gap: SimilarityGap) -> dict[str, float]:
    return {"same person": gap.same, "other person": gap.other, "gap": gap.gap}


def _by_inception(
    cfg: CfgNode, root: Path, rows: Sequence[Row], real_images: Sequence[tuple[str, int]]
) -> dict[str, Any]:
    """Return FID and KID, if Inception's weights are given."""
    weights = cfg.DIFFPERSON.CARD.INCEPTION
    if not weights or (network := inception(weights)) is None:
        return {}
    device = resolve_device(cfg.MODEL.DEVICE)
    network = network.to(device)
    written = _inception_features(network, [str(root / PICTURES / row["file"]) for row in rows], device)
    real = _inception_features(network, [path for path, _ in real_images], device)
    found = {"FID": frechet_distance(real, written), "KID": kernel_distance(real, written)}
    return {name: round(value, 5) for name, value in found.items() if value is not None}


def _by_training(cfg: CfgNode) -> dict[str, Any]:
    """Return the figures of a model that was trained on the pictures alone, if there is one."""
    path = cfg.DIFFPERSON.CARD.RESULTS
    if not path:
        return {}
    try:
        results = json.loads(read_text(path))
        figures = {
            f"{name} on {protocol}": float(values[name])
            for protocol, values in results.items()
            for name in ("mAP", "Rank-1")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"DIFFPERSON.CARD.RESULTS {path!r} is no results.json of an evaluation ({type(error).__name__}: {error}): "
            "train a model on DiffPerson, evaluate it, and name the file in its OUTPUT_DIR"
        ) from error
    return {"re-ID model trained on the written pictures alone (%)": _rounded(figures)}


def _inception_features(network: Any, paths: Sequence[str], device: str) -> Tensor:
    """Return features [N, 2048] on the CPU."""
    images = map(read_pixels, progress(paths, len(paths), "computing features of Inception"))
    with torch.inference_mode():
        batches = (torch.tensor(pixels, device=device).permute(0, 3, 1, 2) for pixels in _batches(images))
        return torch.cat([network(batch).cpu() for batch in batches])


def _batches(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Stack images that follow each other and have the same size."""
    batch: list[np.ndarray] = []
    for image in images:
        if batch and (len(batch) == _BATCH or image.shape != batch[0].shape):
            yield np.stack(batch)
            batch = []
        batch.append(image)
    if batch:
        yield np.stack(batch)


def _models(cfg: CfgNode, filter_models: Mapping[str, str]) -> list[Model]:
    """Return the models that took part, and the files that were read in place of one."""
    keys, learnt = cfg.DIFFPERSON, settings_of(cfg)
    has_detector = "several_people" in keys.FILTER.NAMES
    named = {
        "text to image": keys.SD.WEIGHTS,
        "captions": learnt.get("LPE.MODEL") or learnt.get("LPE.CAPTION_FILE"),
        "identity words, CLIP": learnt.get("IIR.CLIP"),
        "identity words, re-identification": learnt.get("IIR.REID"),
        "pictures, LoRA": keys.GEN.LORA,
        **{f"filter, {name}": path for name, path in filter_models.items()},
        "filter, detector": (keys.FILTER.DETECTOR_WEIGHTS or keys.FILTER.DETECTOR) if has_detector else "",
        "figures": keys.CARD.MODEL or keys.CARD.TIMM_NAME,
        "figures, FID and KID": keys.CARD.INCEPTION,
    }
    return [Model(role, path, _licence(path)) for role, path in named.items() if path]


def _licence(path: str) -> str:
    name = Path(path).name.rpartition("--")[2]  # of models--OWNER--NAME, as a cache of the hub has it
    return next((text for start, text in _LICENCES.items() if name.startswith(start)), UNKNOWN_LICENCE)


def _settings(cfg: CfgNode) -> dict[str, Any]:
    keys = cfg.DIFFPERSON
    chosen = {"GRANULARITY": keys.GRANULARITY, "data sets": ", ".join(cfg.DATASETS.NAMES), **settings_of(cfg)}
    if list(cfg.DATASETS.PEOPLE) != [0.0, 1.0]:
        chosen["DATASETS.PEOPLE"] = list(cfg.DATASETS.PEOPLE)
    if cfg.DATASETS.SUBSET.MODE != "none":
        chosen |= {f"DATASETS.SUBSET.{name}": value for name, value in cfg.DATASETS.SUBSET.items()}
    if cfg.DATASETS.EXCLUDE_SOURCES:
        chosen["data sets left out of the export"] = ", ".join(cfg.DATASETS.EXCLUDE_SOURCES)
    for group in ("GEN", "FILTER", "EXPORT"):
        chosen |= {f"{group}.{name}": value for name, value in keys[group].items()}
    return {name: value for name, value in chosen.items() if value not in ("", [])}


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values) if values else float("nan")


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers to four digits; those that are not known (of people with one picture) are left out."""
    return {name: round(float(value), 4) for name, value in values.items() if not math.isnan(value)}
