"""Errors that a user can cause end in one sentence; faults of the library keep their traceback."""

import pytest

from fastreid.utils.errors import UserError, reported_as


def test_user_errors_end_in_one_sentence():
    with pytest.raises(SystemExit, match=r"^tool: error: no file x$"), reported_as("tool"):
        raise UserError("no file x")


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), reported_as("tool"):
        raise ZeroDivisionError
