"""Images that a run had to leave out, in one sentence."""

from collections.abc import Mapping

_SHOWN = 5


def tell_skipped(skipped: Mapping[str, str]) -> str:
    """How many images, {path: reason}, could not be read, and the first five by name."""
    shown = "; ".join(f"{path}: {skipped[path]}" for path in sorted(skipped)[:_SHOWN])
    rest = "; …" if len(skipped) > _SHOWN else ""
    return f"{len(skipped):,} image{'' if len(skipped) == 1 else 's'} could not be read ({shown}{rest})"
