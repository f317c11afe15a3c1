"""Visualizer: pictures of ranked lists and curves of a distance matrix, with fast-reid's interface."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fastreid.data.picture_grid import COLUMNS, picture_grid, stacked
from fastreid.evaluation.ranked_lists import nearest_images
from fastreid.evaluation.roc import Curves, evaluate_roc, roc_curve
from fastreid.retrieval.distances import MatrixDistances
from fastreid.retrieval.matches import match_labels
from fastreid.retrieval.ranking import rank_queries
from fastreid.utils.colours import OKABE_ITO
from fastreid.utils.errors import ArgumentError
from fastreid.utils.files import atomic_write, save_picture
from fastreid.utils.suggest import explain_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ORDERS = ("ascending", "descending")
_QUERY, _RIGHT, _WRONG = "#888888", OKABE_ITO[2], OKABE_ITO[1]
_LEAST_COLUMNS = 4  # which have room for the title
_MAX_RANK = 50  # of the match curve, as in an evaluation


class Visualizer:
    """Draws what a distance matrix ranks for each query.

    Typical use: ``Visualizer(test_loader.dataset)``, then `get_model_output` with the labels and distances, then
    `vis_rank_list(folder)` and `vis_roc_curve(folder)`. AP, ranked lists and curves are those of an evaluation with the
    same distances.

    Args:
        dataset: items with "img_paths", the queries first, then the gallery.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def get_model_output(
        self,
        all_ap: ArrayLike,
        dist: ArrayLike,
        q_pids: ArrayLike,
        g_pids: ArrayLike,
        q_camids: ArrayLike,
        g_camids: ArrayLike,
    ) -> None:
        """Set what is drawn.

        Args:
            all_ap: AP of the queries that have a match, as `evaluate_rank` returns it, or of all queries.
            dist: distances [Q, G], smaller is more similar.
            q_pids: person ids of the queries, integers [Q].
            g_pids: person ids of the gallery, integers [G].
            q_camids: camera ids of the queries, integers [Q].
            g_camids: camera ids of the gallery, integers [G].

        Raises:
            ArgumentError: numbers that do not belong together.
        """
        self._labels = q_pids, g_pids, q_camids, g_camids
        self._matches = match_labels(*self._labels)
        self.num_query = len(self._matches.num_positives)
        self._distances = MatrixDistances(dist)
        self._matches.check_sizes(*self._distances.shape)
        self.dist, given = np.asarray(dist), np.asarray(all_ap, dtype=np.float64)
        valid = self._matches.num_positives > 0
        if len(given) not in (valid.sum(), self.num_query):
            raise ArgumentError(
                f"{len(given)} values of AP for {self.num_query} queries, of which {valid.sum()} have a match: give "
                "what evaluate_rank returns"
            )
        self.all_ap = np.full(self.num_query, np.nan)
        self.all_ap[valid] = given if len(given) == valid.sum() else given[valid]
        if len(self.dataset) != self.num_query + self._matches.num_gallery:
            raise ArgumentError(
                f"the data set has {len(self.dataset)} images, and the distances are of {self.num_query} queries and "
                f"{self._matches.num_gallery} gallery images"
            )

    def get_matched_result(self, q_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (is the person of the query, gallery index) of all ranked images of a query, the nearest first.

        Images of the query's person and camera, and junk, are not ranked. Of equal distances the lower index is first.
        """
        removed = self._matches.removed_mask(q_index)
        order = np.array(nearest_images(self.dist[q_index], removed, len(removed)), dtype=np.int64)
        starts = self._matches.positive_starts
        right = np.isin(order, self._matches.positives[starts[q_index] : starts[q_index + 1]])
        return right.astype(np.int32), order

    def vis_rank_list(
        self,
        output: str | os.PathLike[str],
        vis_label: bool = False,
        num_vis: int = 100,
        rank_sort: str = "ascending",
        label_sort: str = "ascending",
        max_rank: int = 5,
        actmap: bool = False,
    ) -> np.ndarray:
        """Draw the ranked lists of the worst queries, or of the best ones; see `save_rank_result`.

        Args:
            output: the folder.
            vis_label: add the right images of the query below.
            num_vis: number of queries.
            rank_sort: "ascending" for the lowest AP first, "descending" for the highest.
            label_sort: "ascending" for the least similar of the right images first, or "descending".
            max_rank: images of a list.
            actmap: must be False.

        Returns:
            The queries, int64.
        """
        _check_order("rank_sort", rank_sort)
        order = np.argsort(self.all_ap if rank_sort == "ascending" else -self.all_ap, kind="stable")
        queries = order[: int(np.isfinite(self.all_ap).sum())][:num_vis]  # those without a match are last
        self.save_rank_result(queries, output, max_rank, vis_label, label_sort, actmap)
        return queries

    def save_rank_result(
        self,
        query_indices: Sequence[int] | np.ndarray,
        output: str | os.PathLike[str],
        max_rank: int = 5,
        vis_label: bool = False,
        label_sort: str = "ascending",
        actmap: bool = False,
    ) -> None:
        """Write 0.jpg, 1.jpg, … into a folder, one for each query.

        A picture has the query in a grey frame, then the nearest images with their distances, green where they show the
        person and orange where not.

        Args:
            query_indices: the queries.
            output: the folder; it is created if it does not exist.
            max_rank: images of a list.
            vis_label: add the right images of the query below.
            label_sort: "ascending" for the least similar of them first, or "descending".
            actmap: must be False.

        Raises:
            ArgumentError: `actmap`, or another order.
        """
        _check_order("label_sort", label_sort)
        if actmap:
            raise ArgumentError("actmap=True: maps of activations are not drawn; leave it out")
        Path(output).mkdir(parents=True, exist_ok=True)
        for number, query in enumerate(query_indices):
            right, order = self.get_matched_result(int(query))
            title = f"query {query}, AP {100 * self.all_ap[query]:.2f} %, the {max_rank} nearest"
            columns = min(max(max_rank + 1, _LEAST_COLUMNS), COLUMNS)
            sheets = [self._row(title, query, order[:max_rank], right[:max_rank], columns)]
            if vis_label:
                own = order[right == 1]
                own = (own[::-1] if label_sort == "ascending" else own)[:max_rank]
                sheets.append(self._row(f"images of the person, {label_sort}", query, own, np.ones(len(own)), columns))
            save_picture(stacked(sheets), Path(output) / f"{number}.jpg")

    def _row(self, title: str, query: int, gallery: np.ndarray, right: np.ndarray, columns: int) -> Any:
        items = [query, *(self.num_query + gallery)]
        paths = [str(self.dataset[int(item)]["img_paths"]) for item in items]
        captions = ["query", *(f"{self.dist[query, index]:.4g}" for index in gallery)]
        frames = [_QUERY, *(_RIGHT if is_right else _WRONG for is_right in right)]
        return picture_grid(title, paths, captions, frames=frames, columns=columns)

    def vis_roc_curve(self, output: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Write the plots of TEST.PLOTS, roc.png and similarity_model.png among them, into a folder.

        Args:
            output: the folder; it is created if it does not exist.

        Returns:
            (fpr, tpr, pos, neg): shares of wrong and of right pairs that are accepted up to each threshold, 0..1; and
            the distances of all right and wrong pairs. fast-reid exchanged the first two.
        """
        from fastreid.evaluation.plots import draw_plots

        curve = roc_curve(self._distances, self._matches)
        cmc = rank_queries(self.dist, *self._labels).cmc(_MAX_RANK)
        draw_plots({"model": Curves(cmc, curve)}, Path(output))
        scores, labels = evaluate_roc(self.dist, *self._labels)
        return curve.fpr, curve.tpr, scores[labels == 0], scores[labels == 1]

    @staticmethod
    def save_roc_info(
        output: str | os.PathLike[str], fpr: ArrayLike, tpr: ArrayLike, pos: ArrayLike, neg: ArrayLike
    ) -> None:
        """Write what `vis_roc_curve` returns to roc_info.npz in a folder; fast-reid wrote a pickle."""
        with atomic_write(Path(output) / "roc_info.npz", "wb") as file:
            np.savez_compressed(
                file, fpr=np.asarray(fpr), tpr=np.asarray(tpr), pos=np.asarray(pos), neg=np.asarray(neg)
            )

    @staticmethod
    def load_roc_info(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
        """Return {"fpr", "tpr", "pos", "neg"} of a file of `save_roc_info`.

        Raises:
            ArgumentError: a pickle, which can run code when it is read.
        """
        if Path(path).suffix in (".pickle", ".pkl"):
            raise ArgumentError(
                f"{os.fspath(path)} is a pickle, and reading one can run code; save_roc_info writes an .npz instead"
            )
        with np.load(path) as arrays:
            return dict(arrays)

    @staticmethod
    def plot_roc_curve(fpr: ArrayLike, tpr: ArrayLike, name: str = "model", fig: Figure | None = None) -> Figure:
        """Draw a ROC curve, and return the figure.

        Args:
            fpr: shares of accepted wrong pairs, 0..1.
            tpr: shares of accepted right pairs, 0..1.
            name: name of the curve.
            fig: the figure of an earlier call, to which the curve is added.
        """
        from fastreid.evaluation.plots import add_roc, new_axes

        if fig is None:
            fig, _ = new_axes("Receiver operating characteristic", "wrong pairs accepted", "right pairs accepted, %")
        add_roc(fig.axes[0], np.asarray(fpr), np.asarray(tpr), name)
        return fig

    @staticmethod
    def plot_distribution(pos: ArrayLike, neg: ArrayLike, name: str = "model", fig: Figure | None = None) -> Figure:
        """Draw histograms of the distances of right and wrong pairs, and return the figure.

        Args:
            pos: distances of right pairs.
            neg: distances of wrong pairs.
            name: name of the model.
            fig: the figure of an earlier call, to which they are added.
        """
        from fastreid.evaluation.plots import add_histogram, new_axes

        if fig is None:
            fig, _ = new_axes("Distances of pairs", "distance", "density")
        for what, distances in (("one person", pos), ("two people", neg)):
            add_histogram(fig.axes[0], np.asarray(distances), f"{name}: {what}")
        return fig


def _check_order(argument: str, order: str) -> None:
    if order not in _ORDERS:
        raise ArgumentError(explain_choice(argument, order, _ORDERS))
