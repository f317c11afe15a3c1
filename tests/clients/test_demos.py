"""The demos of fast-reid: features of a loader, pictures of ranked lists, and ROC curves of several models."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.data import build_reid_test_loader
from fastreid.data.data_utils import read_image
from fastreid.engine import DefaultPredictor
from fastreid.evaluation.rank import eval_market1501, evaluate_rank
from fastreid.evaluation.roc import evaluate_roc
from fastreid.utils.errors import ArgumentError
from fastreid.utils.visualizer import Visualizer


class Demo:
    """Features of the images of a loader."""

    def __init__(self, cfg):
        self.predictor = DefaultPredictor(cfg)

    def run_on_loader(self, data_loader):
        for batch in data_loader:
            yield self.predictor(batch["images"]), batch["targets"].cpu().numpy(), batch["camids"].cpu().numpy()


@pytest.fixture
def ranked(cfg):
    """A visualizer with the distances of the test set, and those distances with their labels."""
    test_loader, num_query = build_reid_test_loader(cfg, dataset_name="Market1501")
    feats, pids, camids = [], [], []
    for feat, pid, camid in Demo(cfg).run_on_loader(test_loader):
        feats.append(feat)
        pids.extend(pid)
        camids.extend(camid)
    feats = torch.nn.functional.normalize(torch.cat(feats))
    dist = 1 - (feats[:num_query] @ feats[num_query:].T).numpy()
    labels = [np.asarray(ids[part]) for ids in (pids, camids) for part in (slice(num_query), slice(num_query, None))]
    labels = (labels[0], labels[1], labels[2], labels[3])
    cmc, all_ap, all_inp = evaluate_rank(dist, *labels)
    visualizer = Visualizer(test_loader.dataset)
    visualizer.get_model_output(all_ap, dist, *labels)
    return visualizer, dist, labels


def test_ranked_lists_are_those_of_the_score(ranked, tmp_path):
    visualizer, dist, (q_pids, g_pids, q_camids, g_camids) = ranked
    cmc, ap, _ = eval_market1501(dist, q_pids, g_pids, q_camids, g_camids, 5)
    for query in range(len(q_pids)):
        right, order = visualizer.get_matched_result(query)
        removed = (g_pids == q_pids[query]) & (g_camids == q_camids[query])
        expected = [index for index in np.argsort(dist[query], kind="stable") if not removed[index]]
        assert order.tolist() == expected and (right == (g_pids[order] == q_pids[query])).all()
        hits = np.flatnonzero(right) + 1
        assert ap[query] == pytest.approx(np.mean((np.arange(len(hits)) + 1) / hits))
    worst = visualizer.vis_rank_list(tmp_path / "lists", True, 2, "ascending", "descending", 3)
    assert worst.tolist() == np.argsort(ap, kind="stable").tolist()
    assert visualizer.vis_rank_list(tmp_path / "best", num_vis=1, rank_sort="descending").tolist() == [ap.argmax()]
    picture = np.asarray(Image.open(tmp_path / "lists/0.jpg").convert("RGB")).astype(int)
    grey = (abs(picture - [136, 136, 136]).max(axis=2) < 12).sum()
    assert picture.shape[0] > 300 and grey > 300  # two rows; the frame of the query
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == ["0.jpg", "1.jpg"]


def test_roc_curves_are_drawn_saved_and_compared(ranked, tmp_path):
    visualizer, dist, labels = ranked
    fpr, tpr, pos, neg = visualizer.vis_roc_curve(tmp_path)
    scores, wrong = evaluate_roc(dist, *labels, use_cython=False)
    assert np.array_equal(np.concatenate([pos, neg]), scores) and wrong.sum() == len(neg)
    threshold = np.median(pos)
    point = np.searchsorted(np.sort(pos), threshold, side="right") - 1
    assert tpr[-1] == 1 and 0 <= fpr[point] == pytest.approx((neg <= np.sort(pos)[point]).mean())
    visualizer.save_roc_info(tmp_path, fpr, tpr, pos, neg)
    loaded = Visualizer.load_roc_info(tmp_path / "roc_info.npz")
    assert all(map(np.array_equal, (loaded[name] for name in ("fpr", "tpr", "pos", "neg")), (fpr, tpr, pos, neg)))
    figure = Visualizer.plot_roc_curve(loaded["fpr"], loaded["tpr"], "first")
    assert Visualizer.plot_roc_curve(fpr, tpr, "second", figure) is figure and len(figure.axes[0].lines) == 2
    shown = Visualizer.plot_distribution(pos, neg, "first").axes[0].get_legend().get_texts()
    assert [text.get_text() for text in shown] == ["first: one person", "first: two people"]
    assert {"roc.png", "similarity_model.png"} <= {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ArgumentError, match="is a pickle"):
        Visualizer.load_roc_info("roc_info.pickle")


def test_what_cannot_be_drawn_is_said(ranked, tmp_path):
    visualizer, dist, labels = ranked
    with pytest.raises(ArgumentError, match="actmap=True: maps of activations are not drawn"):
        visualizer.vis_rank_list(tmp_path, actmap=True)
    with pytest.raises(ArgumentError, match="unknown rank_sort 'worst'"):
        visualizer.vis_rank_list(tmp_path, rank_sort="worst")
    with pytest.raises(ArgumentError, match="1 values of AP for 2 queries"):
        visualizer.get_model_output([0.5], dist, *labels)
    with pytest.raises(ArgumentError, match="the data set has 1 images"):
        Visualizer([{}]).get_model_output([0.5, 0.5], dist, *labels)
    assert not list(tmp_path.iterdir())


def test_images_are_read_as_pictures(client, tmp_path):
    path = client / "datasets/Market1501/query/0011_c1s1_000001_01.jpg"
    pixels = np.asarray(Image.open(path))
    assert np.array_equal(np.asarray(read_image(path)), pixels)
    assert np.array_equal(np.asarray(read_image(str(path), format="BGR")), pixels[..., ::-1])
    assert read_image(path, "L").mode == "L"
    with pytest.raises(ArgumentError, match="unknown format of read_image 'YUV'"):
        read_image(path, "YUV")
