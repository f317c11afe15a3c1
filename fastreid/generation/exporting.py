"""The stage `export`, from the config: the data set DiffPerson, its figures, and its data card."""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastreid.config import CfgNode, ConfigError, resolve_device
from fastreid.data.benchmarks.diff_person import NAME
from fastreid.data.build import datasets_root
from fastreid.data.images import read_pixels
from fastreid.data.picture_grid import spread_evenly
from fastreid.generation.card import UNKNOWN_LICENCE, Model, collect_card, exported_rows, rows_without, write_card
from fastreid.generation.embedding import Embedder, neutral_model
from fastreid.generation.export import SHEET, ExportSummary, export_pictures
from fastreid.generation.export_plan import FILTER, PICTURES, ExportOptions
from fastreid.generation.filters.build import build_filters, models_in, needed_models
from fastreid.generation.filters.settings import StageSettings
from fastreid.generation.filters.sheet import filter_sheet
from fastreid.generation.filters.stage import SETTINGS
from fastreid.generation.filters.stage import SHEET as FILTER_SHEET
from fastreid.generation.people import Identity, people_of
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
from fastreid.generation.rows import Row
from fastreid.generation.shards import Shard
from fastreid.generation.stages import picture_settings, train_folder
from fastreid.methods.diffusion_reid.grammar import Grammar
from fastreid.utils.files import atomic_write, save_picture
from fastreid.utils.text import read_text

logger = logging.getLogger(__name__)

FIGURES = "figures.json"
_NEUTRAL = "neutral"
_LICENCES = {"stable-diffusion": "CreativeML Open RAIL-M", "blip2": "MIT", "clip-vit": "MIT", "random": "none needed"}


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
                models=_models(cfg),
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
    if (settings := root / FILTER / SETTINGS).is_file():
        filters = build_filters(cfg.DIFFPERSON.FILTER)
        files = needed_models(cfg.DIFFPERSON.FILTER, filters, sorted({who.source for who in people}))
        StageSettings(settings, filters, models_in(files)).check()


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
    features = embed([str(root / PICTURES / row["file"]) for row in rows], _NEUTRAL)
    people = torch.tensor([row["gid"] for row in rows])
    of_real = embed([path for path, _ in real], _NEUTRAL)
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
    written = _inception_features(network, [str(root / PICTURES / row["file"]) for row in rows])
    real = _inception_features(network, [path for path, _ in real_images])
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


def _inception_features(network: Any, paths: Sequence[str]) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network(torch.from_numpy(read_pixels(path)).permute(2, 0, 1)[None]) for path in paths])


def _models(cfg: CfgNode) -> list[Model]:
    keys, learnt = cfg.DIFFPERSON, settings_of(cfg)
    named = {
        "text to image": keys.SD.WEIGHTS,
        "captions": learnt.get("LPE.MODEL") or learnt.get("LPE.CAPTION_FILE"),
        "identity words, CLIP": learnt.get("IIR.CLIP"),
        "identity words, re-identification": learnt.get("IIR.REID"),
        **{f"filter, {entry.partition('=')[0]}": entry.partition("=")[2] for entry in keys.FILTER.MODELS},
        "figures": keys.CARD.MODEL or keys.CARD.TIMM_NAME,
    }
    return [Model(role, path, _licence(path)) for role, path in named.items() if path]


def _licence(path: str) -> str:
    return next((text for part, text in _LICENCES.items() if part in Path(path).name), UNKNOWN_LICENCE)


def _settings(cfg: CfgNode) -> dict[str, Any]:
    keys = cfg.DIFFPERSON
    chosen = {"GRANULARITY": keys.GRANULARITY, "data sets": ", ".join(cfg.DATASETS.NAMES), **settings_of(cfg)}
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
