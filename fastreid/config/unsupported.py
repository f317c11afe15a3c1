"""Keys that are not supported: changing one is an error with the reason."""

from collections.abc import Iterable

from fastreid.config.config import CfgNode, ConfigError
from fastreid.config.ranges import problem_with
from fastreid.config.tree import is_changed, leaves, value_of

_CAMERAS = "camera ids enter no network here, as in SD-ReID and, although it has the key, in fast-reid"
_TEACHER = "it is of self-distillation, which is not part of this version; see SOLVER.EMA, and KD.MODEL_WEIGHTS"

REASONS: dict[str, str] = {
    "MODEL.QUEUE_SIZE": "it belongs to MoCo, which is not part of this version",
    "MODEL.BACKBONE.SIE_COE": _CAMERAS,
    "MODEL.BACKBONE.CAMERA_NUM": _CAMERAS,
    "MODEL.BACKBONE.INNER_SUB": "the variant that subtracts the view token is not used by any SD-ReID recipe",
    "KD.EMA.ENABLED": _TEACHER,
    "KD.EMA.MOMENTUM": _TEACHER,
    "INPUT.RPT.ENABLED": "random patch is not part of this version",
    "INPUT.RPT.PROB": "random patch is not part of this version",
}


def refuse_unsupported(cfg: CfgNode) -> None:
    """Check that no key of `REASONS` was changed from its default, and that every value is in its range.

    Args:
        cfg: the config.

    Raises:
        ConfigError: the message names every such key, its value, and the reason or the range.
    """
    from fastreid.config.defaults import _C

    changed = [
        f"{key}={value_of(cfg, key)!r} ({reason})"
        for key, reason in REASONS.items()
        if is_changed(cfg, _C, key) and not _is_switched_off(cfg, key)
    ]
    if changed:
        raise ConfigError(f"not supported: {'; '.join(changed)}. Leave these keys at their defaults")
    check_ranges(cfg)


def check_ranges(cfg: CfgNode) -> None:
    """Check every value against its range in `fastreid.config.ranges`, also values that Python code set.

    Args:
        cfg: the config.

    Raises:
        ConfigError: the message names every key that is out of its range, and the range.
    """
    if problems := [problem for key, value in leaves(cfg) if (problem := problem_with(key, value))]:
        raise ConfigError("; ".join(problems))


def require_unread(cfg: CfgNode, group: str, reads: Iterable[str], why: str) -> None:
    """Check that the keys of a group that a part does not read have their defaults.

    User-defined keys, which the tree of this library does not have, are skipped.

    Args:
        cfg: the config.
        group: full name of the group, as "MODEL.BACKBONE".
        reads: last parts of the names of the keys that the part reads.
        why: as in `require_defaults`.

    Raises:
        ConfigError: the message names the keys that were changed.
    """
    from fastreid.config.defaults import _C

    require_defaults(cfg, [f"{group}.{key}" for key in value_of(_C, group) if key not in reads], why)


def require_defaults(cfg: CfgNode, keys: Iterable[str], why: str) -> None:
    """Check that keys that a part does not use have their defaults.

    Args:
        cfg: the config.
        keys: full names, as "MODEL.HEADS.NORM".
        why: the part, and what it does instead; one sentence without a full stop.

    Raises:
        ConfigError: the message names the keys that were changed.
    """
    from fastreid.config.defaults import _C

    changed = [f"{key}={value_of(cfg, key)!r} (default {value_of(_C, key)!r})" for key in keys
               if is_changed(cfg, _C, key)]  # fmt: skip
    if changed:
        raise ConfigError(f"{why}, so these keys must stay at their defaults: {', '.join(changed)}")


def _is_switched_off(cfg: CfgNode, key: str) -> bool:
    """Return whether the group of a key is not enabled."""
    group, _, last = key.rpartition(".")
    return last != "ENABLED" and f"{group}.ENABLED" in REASONS and not value_of(cfg, f"{group}.ENABLED")
