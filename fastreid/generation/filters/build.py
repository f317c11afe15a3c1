"""Builds the filters, and what the stage needs beside them, from the config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastreid.generation.filters.base import FILTER_REGISTRY, FilterError, PictureFilter
from fastreid.generation.filters.summary import Rounds
from fastreid.utils.manifest import sha256_of


def build_filters(keys: Any) -> dict[str, PictureFilter]:
    """Return the filters in DIFFPERSON.FILTER.NAMES, in this order, by their names.

    Args:
        keys: the node DIFFPERSON.FILTER.

    Raises:
        RegistryError: there is no filter of this name.
        FilterError: a filter cannot run as the config says.
    """
    key = "DIFFPERSON.FILTER.NAMES"
    if repeated := sorted({name for name in keys.NAMES if keys.NAMES.count(name) > 1}):
        raise FilterError(f"{key} has {', '.join(repeated)} twice: name each filter once")
    return {name: FILTER_REGISTRY.get(name, key=key).from_config(keys) for name in keys.NAMES}


def build_rounds(keys: Any, per_round: int) -> Rounds:
    """Return how many pictures people should have.

    Args:
        keys: the node DIFFPERSON.FILTER.
        per_round: pictures that a round writes of a person.
    """
    return Rounds(min_keep=keys.MIN_KEEP, per_round=per_round, most=keys.MAX_ROUNDS)


def model_files(keys: Any, sources: Sequence[str]) -> dict[str, str]:
    """Return the checkpoint of the re-ID model of each source, from DIFFPERSON.FILTER.MODELS.

    Args:
        keys: the node DIFFPERSON.FILTER.
        sources: names of the data sets whose people are written.

    Raises:
        FilterError: an entry is not NAME=CHECKPOINT, or a source has no model or two.
    """
    found: dict[str, str] = {}
    for entry in keys.MODELS:
        name, is_pair, path = entry.partition("=")
        if not (is_pair and name and path):
            raise FilterError(f"DIFFPERSON.FILTER.MODELS has {entry!r}, which is not NAME=CHECKPOINT")
        if name in found:
            raise FilterError(f"DIFFPERSON.FILTER.MODELS has two models of {name}: {found[name]} and {path}")
        found[name] = path
    if missing := [name for name in sources if name not in found]:
        raise FilterError(
            f"the filter 'reid' needs a re-ID model of {', '.join(missing)}: add "
            f"'{missing[0]}=CHECKPOINT' to DIFFPERSON.FILTER.MODELS"
        )
    return {name: found[name] for name in sources}


def models_in(files: Mapping[str, str]) -> dict[str, str]:
    """Return the checksums of models, or their paths where there is no file.

    Args:
        files: name of a data set -> checkpoint.
    """
    return {name: sha256_of(path) or path for name, path in files.items()}


def needed_models(keys: Any, filters: Mapping[str, PictureFilter], sources: Sequence[str]) -> dict[str, str]:
    """Return what `model_files` does if one of the filters uses features, else no models.

    Args:
        keys: the node DIFFPERSON.FILTER.
        filters: name -> filter.
        sources: names of the data sets whose people are written.

    Raises:
        FilterError: as `model_files`.
    """
    return model_files(keys, sources) if any(judge.uses_features for judge in filters.values()) else {}
