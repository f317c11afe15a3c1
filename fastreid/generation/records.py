"""Compares the config of a stage with what earlier stages have recorded, so that no two runs are mixed."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode, ConfigError
from fastreid.config.files import read_tree
from fastreid.generation.people import Identity, digest_of
from fastreid.generation.stage import SETTINGS, changes, read_settings
from fastreid.methods.diffusion_reid.captions import CAPTIONS_FACT, digest_of_captions, read_captions
from fastreid.utils.checkpoint import read_checkpoint

NAMES = "names of people and images"
# Groups of keys that decide what a model has learnt, and those in them that only say where something is.
LEARNT = ("LPE", "IIR", "DI", "TUNE")
_PLACES = ("LPE.CAPTION_FILE", "DI.FOLDER")


def refuse_other_people(folder: Path, people: Sequence[Identity]) -> None:
    """Check that pictures were written of these people.

    Args:
        folder: the folder of the stage `generate`.
        people: the people of the config.

    Raises:
        ConfigError: they were written of people with other names or images.
    """
    refuse_other_settings(folder, {NAMES: digest_of(people)})


def refuse_other_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Check that a stage was run with these settings, as far as it has recorded them.

    Args:
        folder: the folder of the stage.
        settings: names with values.

    Raises:
        ConfigError: it was run with others; the message lists them.
    """
    path = folder / SETTINGS
    before = read_settings(path) if path.is_file() else None
    if found := changes(before or {}, settings):
        raise ConfigError(
            f"{folder} was written with other settings: {'; '.join(found)}. Nothing was changed: set them back "
            "(DATASETS decides the names of people and images), name another OUTPUT_DIR, or delete the folder"
        )


def refuse_other_training(cfg: CfgNode, folder: Path) -> None:
    """Check that a model was trained with the keys of this config.

    Args:
        cfg: the config.
        folder: OUTPUT_DIR of the training; without config.yaml nothing is known, and nothing is checked.

    Raises:
        ConfigError: it was trained with others; the message lists them.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return
    trained = read_tree(str(path)).get("DIFFPERSON", {})
    found = []
    for name, now in settings_of(cfg).items():
        group, _, key = name.partition(".")
        before = trained.get(group, {}).get(key, now)
        if name not in _PLACES and not _is_same(before, now):
            found.append(f"DIFFPERSON.{name} was {before!r:.80}, not {now!r:.80}")
    if found:
        raise ConfigError(
            f"the model in {folder} was trained with other settings: {'; '.join(found)}. Nothing was changed: set them "
            "back, name another OUTPUT_DIR, or train again in another folder"
        )


def refuse_other_captions(checkpoint: Path, captions: Path) -> None:
    """Check that a model was trained on these captions, if it was trained on any.

    Args:
        checkpoint: the checkpoint of the model.
        captions: captions.jsonl of the stage `caption`.

    Raises:
        ConfigError: it was trained on others.
    """
    identity = read_checkpoint(checkpoint, lazily=True).get("identity")
    facts = identity.get("facts", {}) if isinstance(identity, dict) else {}
    if facts.get(CAPTIONS_FACT, "") not in ("", _digest_of(captions, captions.stat().st_mtime_ns)):
        raise ConfigError(
            f"the model in {checkpoint.parent} was trained on other captions than {captions} has now. Nothing was "
            "changed: run the stage caption with the grammar and the DIFFPERSON.LPE.MERGE of before, name another "
            "OUTPUT_DIR, or train again in another folder"
        )


@functools.cache
def _digest_of(captions: Path, _changed: int) -> str:
    return digest_of_captions(read_captions(captions))


def _is_same(one: Any, other: Any) -> bool:
    return (
        list(one) == list(other) if isinstance(one, list | tuple) and isinstance(other, list | tuple) else one == other
    )


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys of the training that have an effect with the other keys, by their names below DIFFPERSON.

    Args:
        cfg: the config.
    """
    keys = cfg.DIFFPERSON
    silent = {"LPE.BATCH"}
    if keys.LPE.CAPTIONER != "blip2":
        silent.add("LPE.PREFIX")
    if keys.LPE.CAPTIONER in ("file", "none"):
        silent |= {"LPE.MODEL", "LPE.MAX_TOKENS"}
    if keys.LPE.CAPTIONER != "file":
        silent.add("LPE.CAPTION_FILE")
    if keys.IIR.MODE != "encoder":
        silent |= {"IIR.HIDDEN", "IIR.INPUT"}
    for part, key in (("clip", "IIR.CLIP"), ("reid", "IIR.REID")):
        if keys.IIR.MODE != "encoder" or part not in keys.IIR.INPUT:
            silent.add(key)
    for group, is_off, switch in (
        ("IIR", keys.IIR.MODE == "off", "MODE"),
        ("DI", not keys.DI.ENABLED, "ENABLED"),
        ("TUNE", keys.TUNE.MODE == "words", "MODE"),
    ):
        silent |= {f"{group}.{name}" for name in keys[group] if is_off and name != switch}
    if keys.TUNE.MODE == "full":
        silent |= {"TUNE.RANK", "TUNE.ALPHA", "TUNE.TARGETS"}
    chosen = {f"{group}.{name}": value for group in LEARNT for name, value in keys[group].items()}
    return {name: value for name, value in chosen.items() if name not in silent}
