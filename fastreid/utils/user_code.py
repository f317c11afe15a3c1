"""Import of user-defined Python files, which register data sets or models that a config can name."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import zlib
from pathlib import Path

from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)


class UserCodeError(UserError, RuntimeError):
    """A user-defined file is missing, or fails when it is imported."""


def import_file(path: str) -> None:
    """Import a Python file by its path, once per process; it can import modules of its folder.

    Args:
        path: the file.

    Raises:
        UserCodeError: there is no such file, or it raised an error; the message names the line.
    """
    file = Path(path).expanduser()
    try:
        file = file.resolve()
        is_file = file.is_file()
    except ValueError:  # a name that no file can have
        is_file = False
    if not is_file:
        raise UserCodeError(f"no file {str(file)!r} to import (--import or the key IMPORTS)")
    # The same importable name in every process, so that classes can be pickled.
    name = f"fastreid_user_{file.stem}_{zlib.crc32(os.fsencode(file)):x}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserCodeError(f"{file} is no Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserCodeError(
            f"importing {file} failed, {_where(error, file)}: {type(error).__name__}: {error}"
        ) from error
    logger.info("imported %s", file)


def _where(error: BaseException, file: Path) -> str:
    """The line of the file that was executed last."""
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"line {line}" if line else "before its first line"
