"""Translation of config files of older versions of fast-reid and of other programs; each change is logged once.

What other programs' files need is declared by the methods (`fastreid.config.method_config.Origin`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastreid.config.method_config import Origin, Rename, methods
from fastreid.config.notices import notify

Chain = list[tuple[str, dict]]
"""(source, tree) of each file or command line, each to be merged over those before it."""

_FLAGS = "fast-reid made it a group of keys"

# Keys that fast-reid renamed or retired; users' files still have them.
RETIRED: dict[str, Rename] = {
    "SOLVER.MAX_ITER": Rename("SOLVER.MAX_EPOCH", "it has always counted epochs"),
    "SOLVER.DELAY_ITERS": Rename("SOLVER.DELAY_EPOCHS", "it has always counted epochs"),
    "SOLVER.FP16_ENABLED": Rename("SOLVER.AMP.ENABLED"),
    "SOLVER.LOG_PERIOD": Rename(why="losses are logged every 20 iterations"),
    "INPUT.REA.MEAN": Rename("INPUT.REA.VALUE"),
    "INPUT.DO_FLIP": Rename("INPUT.FLIP.ENABLED", _FLAGS),
    "INPUT.FLIP_PROB": Rename("INPUT.FLIP.PROB", _FLAGS),
    "INPUT.DO_PAD": Rename("INPUT.PADDING.ENABLED", _FLAGS),
    "INPUT.PADDING_MODE": Rename("INPUT.PADDING.MODE", _FLAGS),
    "INPUT.PADDING_SIZE": Rename("INPUT.PADDING.SIZE", _FLAGS),
    "INPUT.DO_AUTOAUG": Rename("INPUT.AUTOAUG.ENABLED", _FLAGS),
    "INPUT.DO_AUGMIX": Rename("INPUT.AUGMIX.ENABLED", _FLAGS),
    "TEST.FLIP_ENABLED": Rename("TEST.FLIP.ENABLED", _FLAGS),
    "MODEL.HEADS.IN_FEAT": Rename("MODEL.BACKBONE.FEAT_DIM"),
    "MODEL.LOSSES.TRI.USE_COSINE_DIST": Rename("MODEL.LOSSES.TRI.NORM_FEAT"),
    "DATALOADER.PK_SAMPLER": Rename(
        "DATALOADER.SAMPLER_TRAIN", values={True: "NaiveIdentitySampler", False: "TrainingSampler"}
    ),
}

# Keys that projects around fast-reid add to their trees -> a remark for the user.
ADD_ONS: dict[str, str] = {
    "DATASETS.REC_PATH": "FastFace's; record files are not read: unpack them, and name the images in DATASETS.NAMES",
    "MODEL.BACKBONE.DROPOUT": "FastFace's, of a backbone that is not part of this version: see build_timm_backbone",
    "MODEL.HEADS.PFC": "FastFace's; MODEL.HEADS.CLS_LAYER ArcSoftmax and CosSoftmax are over all classes",
    "DATASETS.RM_LT": "NAIC20's; let the class of the data set leave out the people with few images",
    "TEST.SAVE_DISTMAT": "NAIC20's; fastreid.evaluation.score_features gives the distances",
    "TEST.DSR": "PartialReID's; its head is not part of this version",
    "SOLVER.FREEZE_FC_ITERS": "of an older fast-reid; SOLVER.FREEZE_ITERS freezes what MODEL.FREEZE_LAYERS names",
    "SOLVER.SWA": "of an older fast-reid; SOLVER.EMA averages weights",
}


def modernise(trees: Chain) -> Chain:
    """Translate a chain of configs, and log what was translated.

    If a chain has a model of another program, the defaults of that program are merged before it.

    Args:
        trees: the chain.

    Returns:
        The translated chain.

    Raises:
        ValueError: a value of a retired key has no meaning, or a file has an old and a new name of one key.
    """
    chain = [(source, dict(_leaves(tree))) for source, tree in trees]
    named = [(values[_MODEL], source) for source, values in chain if isinstance(values.get(_MODEL), str)]
    model, where = named[-1] if named else ("", "")
    origin = next((origin for origin in _origins() if model in origin.models), None)
    translated = [(source, _tree(_translated(values, source, origin, model), source)) for source, values in chain]
    return translated if origin is None else origin.in_front(model, where) + translated


_MODEL = "MODEL.META_ARCHITECTURE"


def _origins() -> list[Origin]:
    return [method.origin for method in methods() if method.origin is not None]


def _translated(values: Mapping[str, Any], source: str, origin: Origin | None, model: str) -> dict[str, Any]:
    """The keys and values of one file, by our names."""
    table, names = _tables(origin)
    is_strict = origin is not None and origin.models[model] in origin.strict
    found: dict[str, Any] = {}
    for key, value in values.items():
        if not key:
            raise ValueError(f"a key in {source} is empty; is it a variable of the shell that is not set?")
        old = key
        if key in table:
            key, value = _rename(key, value, table[key], source, is_strict=is_strict)
        if isinstance(value, str) and value in names.get(key, ()):
            notify(f"{source}: {key} {value} is called {names[key][value]} here")
            value = names[key][value]
        if key and key in found:
            raise ValueError(f"{source} has both {old} and {key}, two names of one key; keep one")
        if key:
            found[key] = value
    return found


def _tables(origin: Origin | None) -> tuple[dict[str, Rename], dict[str, dict[str, str]]]:
    """Renamed keys of files of an origin, and renamed values of keys."""
    table, names = dict(RETIRED), {_MODEL: dict[str, str]()}
    for known in _origins():
        table |= known.retired
        names[_MODEL] |= known.models
        for key, values in known.names.items():
            names[key] = names.get(key, {}) | dict(values)
    return table | dict(origin.own_keys if origin else {}), names


def _rename(key: str, value: Any, rename: Rename, source: str, *, is_strict: bool) -> tuple[str, Any]:
    if is_strict and rename.legal and value not in rename.legal:
        raise ValueError(f"{key} in {source} is {value!r}: {rename.why}")
    why = f" ({rename.why})" if rename.why else ""
    if not rename.key:
        notify(f"{source}: {key} is not needed{why}")
        return "", None
    notify(f"{source}: {key} is called {rename.key} here{why}")
    if rename.values is not None:
        if value not in list(rename.values):
            raise ValueError(f"{key} in {source} is {value!r}; legal: {', '.join(map(str, rename.values))}")
        value = rename.values[value]
    return rename.key, value


def _leaves(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with dots and their values; an empty group is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _tree(values: Mapping[str, Any], source: str) -> dict:
    tree: dict = {}
    for key, value in values.items():
        *groups, last = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node:
            raise ValueError(f"{source} sets {key} both as a value and as a group of keys; keep one")
        node[last] = value
    return tree
