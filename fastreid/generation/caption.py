"""The stage `caption`: a caption for each training image, in which a person has the same clothes everywhere."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode, ConfigError
from fastreid.data.picture_grid import picture_grid, spread_evenly
from fastreid.generation.captioners import CAPTIONER_REGISTRY
from fastreid.generation.people import Identity, digest_of, people_of
from fastreid.generation.records import NAMES
from fastreid.generation.rows import CAPTION_ROW, Row
from fastreid.generation.shards import Shard
from fastreid.generation.stage import StageFolder
from fastreid.methods.diffusion_reid.grammar import Grammar
from fastreid.utils.files import atomic_write, save_picture
from fastreid.utils.lock import path_lock
from fastreid.utils.manifest import mark_of, sha256_of
from fastreid.utils.progress import progress

logger = logging.getLogger(__name__)

FOLDER, RESULT, SHEET = "captions", "captions.jsonl", "sheet.jpg"
_SHOWN = 32


def captions_file(cfg: CfgNode) -> Path:
    """Return the file of all captions.

    Raises:
        ConfigError: it is not there.
    """
    path = Path(cfg.OUTPUT_DIR) / FOLDER / RESULT
    if not path.is_file():
        raise ConfigError(f"there is no {path}: run the stage caption first (all of its shards)")
    return path


def caption(cfg: CfgNode, shard: Shard) -> Path | None:
    """Caption the training images of a shard; the last shard that ends writes the file of all captions.

    Images are captioned once. The grammar and DIFFPERSON.LPE.MERGE may change: the file is then written anew from the
    captions that are there, with a warning.

    Args:
        cfg: the config.
        shard: the part of the people.

    Returns:
        The file captions.jsonl; None if other shards are not finished.

    Raises:
        ConfigError: the captioner cannot be used, an image has no caption or cannot be read, or the folder was written
            with other settings.
        DiskError: the disk is full or broken.
    """
    keys, people = cfg.DIFFPERSON.LPE, people_of(cfg)
    stage = StageFolder(Path(cfg.OUTPUT_DIR) / FOLDER, CAPTION_ROW)
    stage.begin(caption_settings(cfg, people))
    captioner = CAPTIONER_REGISTRY.get(keys.CAPTIONER, key="DIFFPERSON.LPE.CAPTIONER")(cfg)
    done = {(row["gid"], row["number"]) for row in stage.journal.rows()}
    todo = [
        (who.gid, number, os.path.realpath(image.path))
        for who in shard.of(people)
        for number, image in enumerate(who.images)
        if (who.gid, number) not in done
    ]
    if keys.CAPTIONER == "file" and todo:
        captioner([path for _, _, path in todo])  # names all images without a caption before it writes any
    batches = [todo[start : start + keys.BATCH] for start in range(0, len(todo), keys.BATCH)]
    with stage.writer(shard.name) as writer:
        for batch in progress(batches, len(batches), "captioning images"):
            found = captioner([path for _, _, path in batch])
            writer.add(
                *(
                    {"gid": gid, "number": number, "image": path, "caption": text}
                    for (gid, number, path), text in zip(batch, found, strict=True)
                )
            )
    return _finish(cfg, stage, people)


def caption_settings(cfg: CfgNode, people: Sequence[Identity]) -> dict[str, Any]:
    """Return the settings that decide the captions.

    Args:
        cfg: the config.
        people: the people of the config.
    """
    keys = cfg.DIFFPERSON.LPE
    own: dict[str, Any] = {}
    if keys.CAPTIONER == "file":
        own = {"content of the caption file": sha256_of(keys.CAPTION_FILE)}
    elif keys.CAPTIONER != "none":
        own = {"model": keys.MODEL, "prefix": keys.PREFIX, "most tokens": keys.MAX_TOKENS}
        content = mark_of(keys.MODEL)
        own |= {"content of the model": content} if content else {}
    return {
        "captioner": keys.CAPTIONER,
        **own,
        "data sets": list(cfg.DATASETS.NAMES),
        "people": len(people),
        "images": sum(len(who.images) for who in people),
        NAMES: digest_of(people),
    }


def _finish(cfg: CfgNode, stage: StageFolder, people: Sequence[Identity]) -> Path | None:
    rows = stage.journal.rows()
    total = sum(len(who.images) for who in people)
    if len(rows) < total:
        logger.info("%d of %d images are captioned; other shards are not finished", len(rows), total)
        return None
    paths = {(who.gid, number): image.path for who in people for number, image in enumerate(who.images)}
    # Where the images are now: they may have been moved since they were captioned.
    rows = [{**row, "image": os.path.realpath(paths[row["gid"], row["number"]])} for row in rows]
    grammar = Grammar.read(cfg.DIFFPERSON.GRAMMAR)
    merged = list(_merged(rows, grammar, is_merged=cfg.DIFFPERSON.LPE.MERGE))
    path = stage.folder / RESULT
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in merged)
    with path_lock(path, wait=True):
        if path.is_file() and path.read_text(encoding="utf-8", errors="replace") != content:
            logger.warning(
                "%s is written anew: the grammar, DIFFPERSON.LPE.MERGE or the place of the images is another one now, "
                "or the file was changed",
                path,
            )
        with atomic_write(path) as file:
            file.write(content)
    summary = _summary(merged, grammar)
    stage.write_json("summary.json", summary)
    _draw_sheet(stage.folder / SHEET, merged, grammar)
    logger.info("%d captions of %d people are in %s; some are on %s", len(merged), len(people), path, SHEET)
    if summary["empty"]:
        logger.warning("%d of %d captions are empty", summary["empty"], len(merged))
    for slot, counts in summary["phrases"].items():
        shown = ", ".join(f"{phrase} {count}" for phrase, count in list(counts.items())[:5])
        logger.info("%s: found in %d captions%s", slot, sum(counts.values()), f" ({shown}, …)" if counts else "")
    return path


def _draw_sheet(path: Path, rows: Sequence[Row], grammar: Grammar) -> None:
    """Draw the first image of some people, each above the phrases that its captions have for the person."""
    first = {row["gid"]: row for row in reversed(rows)}
    shown = spread_evenly([first[gid] for gid in sorted(first)], _SHOWN)
    title = f"{len(rows)} captions of {len(first)} people; below: what they agree on"
    sheet = picture_grid(title, [row["image"] for row in shown], [_phrases_of(row, grammar) for row in shown])
    save_picture(sheet, path)


def _phrases_of(row: Row, grammar: Grammar) -> str:
    return ", ".join(row["attributes"][slot] for slot in grammar.identity if slot in row["attributes"])


def _merged(rows: Sequence[Row], grammar: Grammar, *, is_merged: bool) -> Iterable[Row]:
    """Yield rows whose captions have the phrases of most captions of the person, and the phrases of each."""
    captions: dict[int, list[str]] = {}
    for row in rows:
        captions.setdefault(row["gid"], []).append(row["caption"])
    shared = {gid: grammar.majority(texts) if is_merged else {} for gid, texts in captions.items()}
    for row in rows:
        text = grammar.merged(row["caption"], shared[row["gid"]])
        changed = {"original": row["caption"]} if text != row["caption"] else {}
        known = {"gid": row["gid"], "image": row["image"], "caption": text}
        yield {**known, **changed, "attributes": grammar.attributes(text)}


def _summary(rows: Sequence[Row], grammar: Grammar) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {slot: Counter() for slot in grammar.order}
    for row in rows:
        for slot, phrase in row["attributes"].items():
            counts[slot][phrase] += 1
    return {
        "captions": len(rows),
        "changed": sum("original" in row for row in rows),
        "empty": sum(not row["caption"] for row in rows),
        "phrases": {slot: dict(found.most_common()) for slot, found in counts.items()},
    }
