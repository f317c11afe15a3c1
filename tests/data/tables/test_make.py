"""Tables that are made: who is tested, which images are queries, and what is written."""

import random
from collections import Counter

import pytest

from fastreid.data.own_tables import read_csv
from fastreid.data.tables import PathPattern, PatternError, TableOptions, make_table, write_table
from fastreid.retrieval.matches import match_images
from tests.data.benchmarks.trees import touch

PATTERN = PathPattern("{camera}/{person}/{name}")
PATHS = [f"{c}/{p}/{n}.jpg" for c in ("door", "gate", "yard") for p in "abcdefghij" for n in range(3)]


def splits(table) -> Counter:
    return Counter(image.split for image in table.images)


def test_people_are_split_and_a_query_is_drawn_for_each_person_and_camera():
    table = make_table(PATHS, PATTERN, TableOptions())
    tested = {image.person for image in table.images if image.split != "train"}
    assert len(tested) == 3 and tested.isdisjoint(i.person for i in table.images if i.split == "train")
    assert splits(table) == {"train": 7 * 9, "query": 3 * 3, "gallery": 3 * 6}
    queries = [(image.person, image.camera) for image in table.images if image.split == "query"]
    assert len(set(queries)) == len(queries)
    assert [image.path for image in table.images] == sorted(PATHS) and table.columns == ["camera", "split"]
    assert table.unmatched == [] and table.notes == []


def test_the_same_table_whatever_the_order_and_another_one_for_another_seed():
    shuffled = random.Random(5).sample(PATHS, len(PATHS))
    first = make_table(PATHS, PATTERN, TableOptions(seed=1))
    assert make_table(shuffled, PATTERN, TableOptions(seed=1)) == first
    assert make_table(PATHS, PATTERN, TableOptions(seed=2)) != first


def test_another_person_moves_few_others():
    tested = []
    for paths in (PATHS, [*PATHS, *(f"{c}/new/1.jpg" for c in ("door", "gate"))]):
        images = make_table(paths, PATTERN, TableOptions()).images
        tested.append({image.person for image in images if image.split != "train"} - {"new"})
    assert len(tested[0] ^ tested[1]) <= 2


def test_only_people_of_two_cameras_are_tested():
    paths = [*(f"door/{p}/{n}.jpg" for p in "abcdefgh" for n in range(2)), "gate/a/1.jpg", "gate/b/1.jpg"]
    table = make_table(paths, PATTERN, TableOptions(test_people=0.5))
    assert {image.person for image in table.images if image.split != "train"} == {"a", "b"}
    assert table.notes == ["2 people are tested instead of 4: only they have images of two cameras"]
    # A camera with one image gives no query, so that there is something to find.
    assert {image.camera for image in table.images if image.split == "query"} == {"door"}


def test_single_images_of_two_cameras_give_one_query():
    paths = [f"{c}/{p}/1.jpg" for c in ("door", "gate") for p in "abcd"]
    assert splits(make_table(paths, PATTERN, TableOptions())) == {"train": 6, "query": 1, "gallery": 1}


def test_without_cameras_one_query_is_drawn_for_each_person():
    paths = [f"{p}/{n}.jpg" for p in "abcdefghij" for n in range(4)]
    table = make_table(paths, PathPattern("{person}/{name}"), TableOptions())
    assert splits(table) == {"train": 28, "query": 3, "gallery": 9} and table.columns == ["split"]


def test_one_camera_is_none_because_all_right_images_would_be_removed():
    paths = [f"door/{p}/{n}.jpg" for p in "abcd" for n in range(2)]
    table = make_table(paths, PATTERN, TableOptions())
    assert table.columns == ["split"] and len(table.notes) == 1
    assert "no person has images of two cameras, so the table has no column camera" in table.notes[0]
    given = make_table(
        [f"{s}/{p}" for s in ("train", "test") for p in paths],
        PathPattern("{split}/{camera}/{person}/*"),
        TableOptions(),
    )
    assert given.columns == ["split"] and "all tested images have one camera" in given.notes[0]


def test_more_cameras_than_people_are_doubted():
    swapped = make_table(PATHS, PathPattern("{person}/{camera}/{name}"), TableOptions())
    assert "more cameras (10) than people (3): is one taken for the other in the pattern" in swapped.notes[0]
    assert not make_table(PATHS, PATTERN, TableOptions()).notes


def test_splits_that_the_folders_say_are_kept_and_queries_are_drawn_for_test():
    pattern = PathPattern("{split}/{person}_{camera}_*")
    paths = [*(f"train/{p}_{c}_1.jpg" for p in "ab" for c in "xy"), "query/c_x_1.jpg", "bounding_box_test/c_y_1.jpg"]
    table = make_table(paths, pattern, TableOptions())
    assert {i.path: i.split for i in table.images if i.person == "c"} == {
        "query/c_x_1.jpg": "query",
        "bounding_box_test/c_y_1.jpg": "gallery",
    }
    paths = [*(f"train/{p}_{c}_1.jpg" for p in "ab" for c in "xy"), *(f"val/c_{c}_{n}.jpg" for c in "xy" for n in "12")]
    assert splits(make_table(paths, pattern, TableOptions())) == {"train": 4, "query": 2, "gallery": 2}


def test_the_written_table_is_read_back_and_every_query_can_be_scored(tmp_path):
    root, output = tmp_path / "photos", tmp_path / "tables/people.csv"
    touch(root, *PATHS)
    table = make_table(PATHS, PATTERN, TableOptions())
    assert write_table(table, root, output) and not write_table(table, root, output)
    dataset = read_csv(output)
    assert {split: len(getattr(dataset, split)) for split in ("train", "query", "gallery")} == splits(table)
    assert set(dataset.camera_names.values()) == {"door", "gate", "yard"}
    matches = match_images(dataset.query, dataset.gallery)
    assert (matches.num_positives > 0).all()
    assert output.read_text().splitlines()[1].startswith("../photos/door/a/0.jpg,a,door,")


def test_another_content_is_not_overwritten(tmp_path):
    output = tmp_path / "people.csv"
    table = make_table(PATHS, PATTERN, TableOptions())
    output.write_text("mine\n")
    with pytest.raises(PatternError, match="exists and has another content.*--overwrite"):
        write_table(table, tmp_path, output)
    assert output.read_text() == "mine\n"
    assert write_table(table, tmp_path, output, overwrite=True)


@pytest.mark.parametrize("share", [0, 1, -0.1, 2])
def test_a_share_outside_is_refused(share):
    with pytest.raises(PatternError, match="above 0 and below 1"):
        TableOptions(test_people=share)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["x.jpg", *PATHS[:1]], "fits 1 of 2 images; not, e.g., x.jpg"),
        ([f"{c}/{p}/1.jpg" for c in "xy" for p in "ab"], "2 people are too few"),
        (["x/a/1.jpg", "x/b/1.jpg", "y/c/1.jpg"], "3 people are too few.*two images"),
        (["x/-1/1.jpg", "x/b/1.jpg"], "means that no person is known"),
        (["x/ a/1.jpg", "x/b/1.jpg"], "the person ' a' begins or ends with a space"),
    ],
)
def test_paths_that_cannot_be_a_table(paths, message):
    with pytest.raises(PatternError, match=message):
        make_table(paths, PATTERN, TableOptions())


@pytest.mark.parametrize(
    ("pattern", "path", "message"),
    [
        ("{split}/{person}/*", "trian/a/1.jpg", "train"),
        ("{view}/{person}/*", "areal/a/1.jpg", "aerial"),
    ],
)
def test_wrong_words_are_answered_with_near_ones(pattern, path, message):
    with pytest.raises(PatternError, match=f"did you mean .{message}"):
        make_table([path], PathPattern(pattern), TableOptions())


@pytest.mark.parametrize("person", ["\udcff", "c\udcff", "\udcfa\udcfb"])
@pytest.mark.parametrize("others", [PATHS, [f"door/\udcfc{n}/{n}.jpg" for n in range(3)]], ids=["valid", "invalid"])
def test_a_path_that_is_not_utf8_is_named(tmp_path, person, others):
    paths = [f"{camera}/{person}/{n}.jpg" for camera in ("alley", "court") for n in range(2)]
    with pytest.raises(PatternError) as raised:
        write_table(make_table([*others, *paths], PATTERN, TableOptions()), tmp_path, tmp_path / "people.csv")
    assert f"the path {paths[0]!r} is not valid UTF-8 and cannot be in a table: rename it" in str(raised.value)
    assert not (tmp_path / "people.csv").exists()
