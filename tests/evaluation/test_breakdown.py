"""Tables of figures by view and camera."""

import pytest

from fastreid.evaluation.breakdown import breakdown_table, with_camera_names

FIGURES = {"valid_queries": 1234, "Rank-1": 12.345, "mAP": 0.0, "mINP": 100.0}


@pytest.mark.parametrize("name", ["010", "1e3", "7", "1_000", "nan"])
def test_names_that_look_like_numbers_are_shown_as_they_are(name):
    rows = [{"query": name, "gallery": "gate", **FIGURES}, {"query": "gate", "gallery": name, **FIGURES}]
    first, second = (
        [cell.strip() for cell in line.split("│")[1:-1]] for line in breakdown_table(rows).splitlines()[3:5]
    )
    assert first == [name, "gate", "1234", "12.35", "0.00", "100.00"] and second[:2] == ["gate", name]
    # Text stands at the left of its column.
    assert breakdown_table(rows).splitlines()[3].startswith(f"│ {name} ")


def test_cameras_have_their_names():
    rows = [{"query": "camera 3", "gallery": "camera 12", **FIGURES}]
    shown = with_camera_names(rows, {3: "010", 5: "roof"})
    assert (shown[0]["query"], shown[0]["gallery"], shown[0]["mAP"]) == ("010", "camera 12", 0.0)
