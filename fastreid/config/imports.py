"""User-defined files that a config names: they may add keys, so they are imported before the config is merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastreid.config.files import load_chain
from fastreid.config.types import parsed

_KEY = "IMPORTS"


def imports_in(files: Iterable[str], opts: Sequence[str]) -> list[str]:
    """Return the paths in IMPORTS of config files and of KEY VALUE pairs, without merging anything.

    Import them, then call `get_cfg` and merge: keys that they add with `add_section` can then be set.

    Args:
        files: YAML files, in the order in which they will be merged.
        opts: KEY VALUE pairs of the command line, merged after the files.

    Raises:
        ConfigError: a file cannot be read.
    """
    values = [tree.get(_KEY) for file in files for _, tree in load_chain(file)]
    values += [parsed(value) for key, value in zip(opts[::2], opts[1::2], strict=False) if key == _KEY]
    last = next((value for value in reversed(values) if value is not None), ())
    # Values of another type are errors when they are merged.
    return [path for path in last if isinstance(path, str)] if isinstance(last, list | tuple) else []
