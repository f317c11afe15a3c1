"""A sentence about the images that a run skipped."""

from collections.abc import Mapping

_SHOWN = 5


def describe_skipped(skipped: Mapping[str, str]) -> str:
    """Return the number of images that could not be read, and the first five with their reasons.

    Args:
        skipped: {path: reason}.
    """
    shown = "; ".join(f"{path}: {skipped[path]}" for path in sorted(skipped)[:_SHOWN])
    rest = "; …" if len(skipped) > _SHOWN else ""
    return f"{len(skipped):,} image{'' if len(skipped) == 1 else 's'} could not be read ({shown}{rest})"
