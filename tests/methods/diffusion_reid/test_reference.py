"""The list of a finished reference set: a damaged one is one sentence."""

import pytest

from fastreid.config import ConfigError
from fastreid.methods.diffusion_reid.reference import read_reference


@pytest.mark.parametrize("row", ["[" * 100_000, '{"pictures": [{"file": "0.png", "prompt": 3}]}'])
def test_a_damaged_list_of_reference_pictures_is_named(tmp_path, row):
    (tmp_path / "reference.json").write_text(row)
    with pytest.raises(ConfigError, match="reference.json is damaged .*write the reference set again"):
        read_reference(str(tmp_path))
