"""Pictures that are cut off or have no header are found without decoding them."""

import numpy as np
import pytest
from PIL import Image

from fastreid.generation.whole import is_whole


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_whole_pictures_and_damaged_ones(name, tmp_path):
    path = tmp_path / name
    assert not is_whole(path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)).save(path)
    assert is_whole(path)
    content = path.read_bytes()
    starts = range(0, len(content), 7)
    damaged = [content[:size] for size in (*starts, len(content) - 1)]
    damaged += [bytes(len(content)), bytes(100) + content[100:], b"\xff\xd9", b"no picture"]
    for other in damaged:
        path.write_bytes(other)
        assert not is_whole(path), len(other)


def test_another_format_is_not_whole(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", format="BMP")
    assert not is_whole(tmp_path / "a.png")


def test_errors_of_the_disk_are_not_damage(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match="directory"):
        is_whole(tmp_path / "a.png")
