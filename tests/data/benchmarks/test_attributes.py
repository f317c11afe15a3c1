"""PA-100K and the attributes of Market-1501: what the published files become, and wrong or missing files."""

import re

import numpy as np
import pytest
from scipy.io import savemat

from fastreid.config import ConfigError
from fastreid.data.benchmarks.attributes import (
    DUKEMTMC_FIELDS,
    DUKEMTMC_LAYOUT,
    MARKET1501_LAYOUT,
    PA100K_LAYOUT,
    PEOPLE_ATTRIBUTES,
)
from fastreid.data.datasets import DatasetError
from fastreid.evaluation import check_protocol
from tests.data.benchmarks.attribute_files import (
    COUNTS,
    NAMES,
    market_content,
    pa100k_content,
    write_duke,
    write_market,
    write_pa100k,
)
from tests.data.benchmarks.trees import labels, load

MARKET1501_NAMES, DUKEMTMC_NAMES = (each.attribute_names for each in PEOPLE_ATTRIBUTES)


@pytest.mark.parametrize("place", ["data", "release_data/release_data", "release_data"])
@pytest.mark.parametrize(("name", "split"), [("PA100K", "test"), ("PA100K_VAL", "val")])
def test_pa100k_has_the_labels_of_its_file(tmp_path, name, split, place):
    home, content = write_pa100k(tmp_path, place=place), pa100k_content()
    dataset = load(name, tmp_path)
    assert list(dataset.attribute_names) == NAMES and dataset.unlabelled
    for images, of in ((dataset.train, "train"), (dataset.query, split)):
        assert len(images) == COUNTS[of] and {image.person for image in images} == {-2}
        assert [list(image.attributes) for image in images] == content[f"{of}_label"].tolist()
        assert images[3].path == str(home / place / content[f"{of}_images_name"][3, 0])
    assert dataset.gallery == []


def test_a_single_image_and_its_labels(tmp_path):
    write_pa100k(tmp_path, pa100k_content({"train": 1, "val": 1, "test": 1}))
    assert [len(image.attributes) for image in load("PA100K", tmp_path).train] == [26]


def test_market1501_is_read_by_the_names_of_fields_and_the_value_of_each(tmp_path):
    content = market_content()
    content["test"]["gender"][0, 1] = content["test"]["downbrown"][0, 0] = content["train"]["hat"][0, 0] = 2
    write_market(tmp_path, content)
    dataset = load("Market1501Attr", tmp_path)

    def of(image):
        return {name for name, value in zip(MARKET1501_NAMES, image.attributes, strict=True) if value}

    assert [of(image) for image in dataset.train] == [{"young", "hat"}, {"teenager"}]
    assert [of(image) for image in dataset.query] == [{"young", "lower brown"}, {"teenager", "female"}]
    assert labels(dataset.train) == [(2, 0, 1), (7, 0, 1)] and labels(dataset.query) == [(1, 0, 1), (3, 0, 1)]
    assert len(MARKET1501_NAMES) == 30 and dataset.attribute_names == MARKET1501_NAMES


def test_dukemtmc_has_the_fields_of_its_own_file(tmp_path):
    content = market_content(fields=DUKEMTMC_FIELDS)
    content["test"]["shoes"][0, 0] = content["test"]["upbrown"][0, 1] = content["train"]["boots"][0, 1] = 2
    write_duke(tmp_path, content)
    dataset = load("DukeMTMCAttr", tmp_path)
    named = [
        [name for name, value in zip(DUKEMTMC_NAMES, image.attributes, strict=True) if value]
        for image in (*dataset.train, *dataset.query)
    ]
    assert named == [[], ["boots"], ["light shoes"], ["upper brown"]]
    assert labels(dataset.query) == [(1, 0, 1), (3, 0, 1)] and len(dataset.attribute_names) == 23
    del content["train"]["boots"]
    write_duke(tmp_path / "other", content)
    with pytest.raises(DatasetError, match="duke_attribute.mat .* has 22 attributes, and the published file has 23"):
        _ = load("DukeMTMCAttr", tmp_path / "other").train


def test_the_file_may_be_in_the_folder_itself(tmp_path):
    write_market(tmp_path, place=".")
    assert len(load("Market1501Attr", tmp_path).query) == 2


def test_all_four_ages(tmp_path):
    people = ((2, 3, 4, 5), (1,))
    write_market(tmp_path, people=people)
    ages = [image.attributes[MARKET1501_NAMES.index("young") :][:4] for image in load("Market1501Attr", tmp_path).train]
    assert ages == [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]


@pytest.mark.parametrize("name", ["PA100K", "Market1501Attr"])
def test_they_are_not_ranked(tmp_path, name):
    write_pa100k(tmp_path), write_market(tmp_path)
    with pytest.raises(ConfigError, match=f"{name} has test images with attributes instead of query and gallery"):
        check_protocol(load(name, tmp_path))


@pytest.mark.parametrize(
    ("name", "layout"),
    [("PA100K", PA100K_LAYOUT), ("PA100K_VAL", PA100K_LAYOUT), ("Market1501Attr", MARKET1501_LAYOUT)]
    + [("DukeMTMCAttr", DUKEMTMC_LAYOUT)],
)
def test_a_missing_file_is_named_with_the_tree(tmp_path, name, layout):
    with pytest.raises(DatasetError, match=rf"{name}: there is no .*\.mat(.|\n)*{re.escape(layout)}"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", ["PA100K", "Market1501Attr"])
def test_a_damaged_file_is_named(tmp_path, name):
    file = write_pa100k(tmp_path) / "annotation.mat"
    if name != "PA100K":
        file = write_market(tmp_path) / "attribute/market_attribute.mat"
    file.write_bytes(b"no such file" * 20)
    with pytest.raises(DatasetError, match=rf"{name}: .*{file.name} cannot be read"):
        load(name, tmp_path)


def test_a_missing_image_is_named(tmp_path):
    home = write_pa100k(tmp_path)
    (home / "data/000026.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 8 val images in .*data are missing: 000026.jpg(.|\n)*annotation.mat"):
        load("PA100K_VAL", tmp_path)
    assert len(load("PA100K", tmp_path).query) == 12
    for path in (home / "data").iterdir():
        path.unlink()
    (home / "data").rmdir()
    with pytest.raises(DatasetError, match="24 of 24 train images"):
        load("PA100K", tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attributes": np.array([["hat"], ["bag"]], dtype=object)}, "names 2 attributes, but PA-100K has 26"),
        ({"test_label": np.zeros((11, 26))}, "12 names of test images, but labels of 11 images with 26"),
        ({"train_label": np.zeros((24, 25))}, "labels of 24 images with 25 attributes; 26 attributes are named"),
        ({"train_label": np.full((24, 26), 2)}, "train_label in .* has other values than 0 and 1"),
        ({"test_images_name": None}, "annotation.mat has no test_images_name, so it is not the file of PA-100K"),
    ],
)
def test_another_form_of_the_annotations_is_refused(tmp_path, change, said):
    home, content = write_pa100k(tmp_path), pa100k_content()
    content = {key: value for key, value in (content | change).items() if value is not None}
    savemat(home / "annotation.mat", content)
    with pytest.raises(DatasetError, match=said):
        load("PA100K", tmp_path)


def without(field):
    content = market_content()
    del content["test"][field]
    return content


def with_field(field, values, split="train"):
    content = market_content()
    content[split][field] = np.array([values])
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (without("hat"), "it has 26 attributes, and the published file has 27; in one of them only: hat"),
        (with_field("uppink", [1, 1]), "it has 28 attributes.* in one of them only: uppink"),
        (with_field("age", [1, 5]), "age has the value 5.*; expected 1, 2, 3, 4"),
        (with_field("hat", [0, 1]), "hat has the value 0.*; expected 1, 2"),
        (with_field("hat", [1, 1, 1]), "hat is of 3 people, and image_index has 2"),
        (with_field("hat", [[1, 2], [1, 2]]), "hat is of 2 x 2 people, and image_index has 2"),
        (without("image_index"), "test: it has another form than the published file"),
        ({"train": market_content()["train"]}, "test: it has another form than the published file"),
        (market_content(train=(2, 8)), "no attributes of 1 people of its train images, for example of 0007_c1s1"),
        (market_content(test=(5, 1)), "no attributes of 1 people of its test images, for example of 0003_c1s1"),
    ],
)
def test_another_form_of_the_market_attributes_is_refused(tmp_path, content, said):
    write_market(tmp_path, content)
    with pytest.raises(DatasetError, match=said):
        load("Market1501Attr", tmp_path)
