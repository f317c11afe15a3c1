"""Figures of attributes against sums by hand, and what is checked before a model runs."""

import json
import logging
import math

import pytest
import torch
from torch import nn

from fastreid.config import ConfigError, get_cfg
from fastreid.data.datasets import ImageDataset
from fastreid.evaluation.attributes import ATTRIBUTE_FIGURES, attribute_figures, check_attributes, evaluate_attributes
from fastreid.evaluation.expected import check_expected_results
from fastreid.structures import PersonImage
from fastreid.utils.errors import ArgumentError

NAMES = ("hat", "bag", "dress")
TRUE = [(1, 0, 1), (0, 1, 0), (1, 1, 0), (0, 0, 0), (1, 0, 0)]
SCORES = [(0.9, 0.2, 0.4), (0.6, 0.8, 0.1), (0.7, 0.3, 0.5), (0.2, 0.9, 0.1), (0.4, 0.1, 0.2)]


def by_hand(threshold):
    """The figures as sums in Python."""
    found = [[score > threshold for score in row] for row in SCORES]
    means = []
    for a in range(len(NAMES)):
        right = [sum(f[a] and t[a] for f, t in zip(found, TRUE, strict=True))]
        right += [sum(not f[a] and not t[a] for f, t in zip(found, TRUE, strict=True))]
        positives = sum(t[a] for t in TRUE)
        means.append((right[0] / positives + right[1] / (len(TRUE) - positives)) / 2)
    rows = []
    for f, t in zip(found, TRUE, strict=True):
        is_found, is_true = ({a for a, value in enumerate(row) if value} for row in (f, t))
        if is_true:
            both = len(is_found & is_true)
            rows.append((both / len(is_found | is_true), both / max(1, len(is_found)), both / len(is_true)))
    accuracy, precision, recall = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    f1 = 2 * precision * recall / (precision + recall)
    mean = sum(means) / len(means)
    overall = dict(zip(ATTRIBUTE_FIGURES, (mean, accuracy, precision, recall, f1, mean), strict=False))
    each = {f"mA/{name}": value for name, value in zip(NAMES, means, strict=True)}
    return {name: 100 * value for name, value in (overall | each).items()} | {"images": len(TRUE)}


@pytest.mark.parametrize("threshold", [0.15, 0.35, 0.5])
def test_figures_are_those_of_the_formulas(threshold):
    found = attribute_figures(torch.tensor(SCORES), torch.tensor(TRUE), NAMES, threshold)
    assert list(found)[: len(ATTRIBUTE_FIGURES)] == list(ATTRIBUTE_FIGURES)
    assert found == pytest.approx(by_hand(threshold))


def test_right_and_wrong_predictions():
    true = torch.tensor(TRUE)
    right, wrong = (attribute_figures(scores, true, NAMES) for scores in (true.float(), 1 - true.float()))
    assert {right[name] for name in ATTRIBUTE_FIGURES[:6]} == {100.0}
    assert {wrong[name] for name in ATTRIBUTE_FIGURES[:6]} == {0.0}


def test_an_attribute_that_all_or_none_have_is_left_out_of_the_mean():
    true = torch.tensor([(1, 1, 0), (1, 0, 0)])
    found = attribute_figures(torch.tensor([(0.0, 1.0, 0.0), (1.0, 1.0, 0.0)]), true, NAMES)
    assert found["mA"] == found["mA/bag"] == 50.0 and "mA/hat" not in found and "mA/dress" not in found
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize(
    ("scores", "true", "said"),
    [
        (torch.zeros(2, 4), torch.zeros(2, 3), r"probabilities are \[2, 4\], attributes \[2, 3\], with 3 names"),
        (torch.zeros(2, 3), torch.zeros(2, 3), "no attribute that some of them have and others have not"),
        (torch.zeros(2, 3), torch.ones(2, 3), "no attribute that some of them have and others have not"),
    ],
)
def test_figures_that_cannot_be_computed(scores, true, said):
    with pytest.raises(ArgumentError, match=said):
        attribute_figures(scores, true, NAMES)


def dataset(name="Mine", true=TRUE, names=NAMES):
    images = [PersonImage(f"{name}/{n}.jpg", -2, 0, 1, row) for n, row in enumerate(true)]
    data = ImageDataset(images, images, [], name)
    data.attribute_names = names
    return data


def cfg_of(*keys):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.META_ARCHITECTURE", "AttrBaseline", "MODEL.HEADS.NUM_CLASSES", len(NAMES), *keys])
    return cfg


class Scores(nn.Module):
    """Returns the probabilities that belong to the names of files; those of mirrored images are lower."""

    def forward(self, batch):
        rows = torch.tensor([SCORES[int(path.rpartition("/")[2][0])] for path in batch["img_paths"]])
        return rows - 0.4 * (batch["images"][:, 0, 0, :1] > 0)


class Loader(list):
    def __init__(self, images, skipped=()):
        kept = [image.path for image in images if image.path not in skipped]
        pixels = torch.zeros(1, 3, 1, 2)
        pixels[..., 1] = 1  # 0 on the left; 1 if it is mirrored
        super().__init__({"images": pixels, "img_paths": [path]} for path in kept)
        self.skipped = dict.fromkeys(skipped, "damaged")


def test_a_model_is_evaluated_on_two_sets(tmp_path, caplog):
    less = dataset("Less", TRUE[:3])
    with caplog.at_level(logging.INFO, "fastreid"):
        found = evaluate_attributes(cfg_of(), Scores(), [dataset(), less], lambda _, images: Loader(images), tmp_path)
    assert found["Mine"] == pytest.approx(by_hand(0.5))
    assert found["Less"]["images"] == 3
    assert json.loads((tmp_path / "results.json").read_text()) == found
    (table,) = [record.message for record in caplog.records if "Evaluation results" in record.message]
    assert all(name in table for name in (*ATTRIBUTE_FIGURES, "Mine", "Less")) and "hat" not in table


def test_the_threshold_and_mirrored_images_count(tmp_path):
    def run(*keys):
        loader = lambda _, images: Loader(images)  # noqa: E731
        return evaluate_attributes(cfg_of(*keys), Scores(), [dataset()], loader, tmp_path)["Mine"]

    assert run("TEST.THRES", 0.15) == pytest.approx(by_hand(0.15))
    assert run("TEST.THRES", 0.15, "TEST.FLIP.ENABLED", True) == pytest.approx(by_hand(0.35))  # lower by 0.2


def test_images_that_cannot_be_read_are_counted(tmp_path):
    def load(_, images):
        return Loader(images, ["Mine/3.jpg"])

    found = evaluate_attributes(cfg_of(), Scores(), [dataset()], load, tmp_path)["Mine"]
    assert (found["missing_images"], found["images"]) == (1, 4)


@pytest.mark.parametrize(
    ("trained", "tested", "keys", "said"),
    [
        ([dataset("A", names=())], [], (), "A has no attributes, which AttrBaseline needs: take data sets that have"),
        ([dataset("A")], [dataset("B", names=("hat", "bag", "coat"))], (), "A and B .*in one only: coat, dress"),
        ([dataset("A"), dataset("B", names=NAMES[::-1])], [], (), "A and B .*their order differs"),
        ([], [dataset("B")], ("MODEL.HEADS.NUM_CLASSES", 4), "NUM_CLASSES is 4, but B has 3 attributes: set it to 3"),
        ([], [dataset("B", [])], (), "B has no images to test"),
        ([dataset("A", [])], [], (), "A has no images to train on"),
        ([dataset("A", [*TRUE, ()])], [], (), r"A: image A/5.jpg has the attributes \(\), expected 3 of 0 and 1"),
        ([], [dataset("B", [(0, 2, 1)])], (), "B: image B/0.jpg has the attributes"),
        ([], [dataset("B", [(0, 1, 1)] * 3)], (), "B: all test images have the same attributes"),
        ([], [dataset()], ("TEST.RERANK.ENABLED", True), "attributes are not ranked.*TEST.RERANK.ENABLED=True"),
        ([], [dataset()], ("DATASETS.COMBINEALL", True), "DATASETS.COMBINEALL=True"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before(trained, tested, keys, said):
    with pytest.raises(ConfigError, match=said):
        check_attributes(cfg_of(*keys), trained, tested)


def test_expected_figures_are_those_of_attributes():
    def expecting(figure):
        cfg = cfg_of("DATASETS.TESTS", ("PA100K",), "TEST.EXPECTED_RESULTS", [["PA100K", figure, 80.0, 1.0]])
        check_expected_results(cfg, to_verify=True)

    expecting("mA")
    with pytest.raises(ConfigError, match="row 1.*mAP"):
        expecting("mAP")
