"""Descriptors of other programs: every format gives the same figures, every mistake its sentence."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastreid.evaluation import score_features
from fastreid.evaluation.feature_files import FeatureFileError, read_features
from tests.evaluation.test_fused import protocol
from tests.miniature import run_tool


def write(folder, kind, name, rows, pids, camids):
    path = folder / f"{name}.{kind}"
    if kind == "npz":
        np.savez(path, features=rows, pids=pids, camids=camids)
    elif kind == "safetensors":
        tensors = {"features": rows, "pids": pids, "camids": camids}
        save_file({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()}, path)
    else:
        np.save(path, rows)
        lines = ["pid,camid", *(f"{p},{c}" for p, c in zip(pids, camids, strict=True))]
        path.with_suffix(".csv").write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def data():
    return protocol()


def sides(data):
    query, gallery, q_pids, g_pids, q_cams, g_cams = data
    return {"query": (query, q_pids, q_cams), "gallery": (gallery, g_pids, g_cams)}


@pytest.mark.parametrize("kind", ["npz", "npy", "safetensors"])
def test_the_tool_gives_the_figures_of_the_call(data, kind, tmp_path):
    files = [word for name, side in sides(data).items() for word in (f"--{name}", write(tmp_path, kind, name, *side))]
    said = run_tool("tools/evaluate_features.py", *files, "--output", str(tmp_path / "out.json"), cwd=tmp_path)
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures == score_features(*data).metrics
    assert "mINP" in said and f"{figures['mAP']:.2f}" in said


def test_an_npy_file_stays_on_disk(data, tmp_path):
    features = read_features(write(tmp_path, "npy", "gallery", *sides(data)["gallery"]))
    assert isinstance(features.rows, np.memmap)


@pytest.mark.parametrize(
    ("name", "arrays", "said"),
    [
        ("a.txt", None, "features are read from .npz, .npy, .safetensors files"),
        ("a.npz", None, "no file .*a.npz"),
        ("a.npz", {"features": np.ones((2, 3)), "pids": np.arange(2)}, "lacks camids; it has features, pids"),
        ("a.npz", {"features": np.ones(2), "pids": np.arange(2), "camids": np.arange(2)}, r"features are \[2\]"),
        ("a.npz", {"features": np.ones((2, 3)), "pids": np.ones(2), "camids": np.arange(2)}, "pids must be whole"),
    ],
)
def test_wrong_files(tmp_path, name, arrays, said):
    if arrays:
        np.savez(tmp_path / name, **arrays)
    with pytest.raises(FeatureFileError, match=said):
        read_features(tmp_path / name)


def test_broken_files(tmp_path):
    for name in ("a.npz", "a.npy", "a.safetensors"):
        (tmp_path / name).write_bytes(b"no")
        with pytest.raises(FeatureFileError, match=f"cannot read .*{name}"):
            read_features(tmp_path / name)
    np.save(tmp_path / "b.npy", np.ones((1, 2)))
    (tmp_path / "b.csv").write_text("person,camera\n1,2\n")
    with pytest.raises(FeatureFileError, match="has columns .*expected pid and camid"):
        read_features(tmp_path / "b.npy")


def test_the_tool_answers_in_a_sentence(data, tmp_path):
    query = write(tmp_path, "npz", "query", *sides(data)["query"])
    with pytest.raises(SystemExit, match="evaluate_features: error: no file .*gone.npz"):
        run_tool("tools/evaluate_features.py", "--query", query, "--gallery", "gone.npz", cwd=tmp_path)
    rows, pids, cams = sides(data)["gallery"]
    rows[4, 4] = np.nan
    gallery = write(tmp_path, "npz", "gallery", rows, pids, cams)
    with pytest.raises(SystemExit, match="error: the descriptor of gallery image 4 is not finite"):
        run_tool("tools/evaluate_features.py", "--query", query, "--gallery", gallery, cwd=tmp_path)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["TEST.FLIP.ENABLED", "True"], "TEST.FLIP.ENABLED"),
        (["SOLVER.BASE_LR", "1.0"], "SOLVER.BASE_LR has no say in scoring"),
        (["TEST.PLOTS", "True"], "--plots FOLDER"),
        (["TEST.RERANK.K1"], "TEST.RERANK.K1"),
    ],
)
def test_the_tool_ignores_no_key(data, keys, said, tmp_path):
    files = [word for name, side in sides(data).items() for word in (f"--{name}", write(tmp_path, "npz", name, *side))]
    with pytest.raises(SystemExit, match=said):
        run_tool("tools/evaluate_features.py", *files, *keys, cwd=tmp_path)


def test_half_precision_stays_half(data, tmp_path):
    (features, pids, cams), _ = sides(data).values()
    tensors = {"features": torch.from_numpy(features).bfloat16(), "pids": torch.from_numpy(pids)}
    save_file(tensors | {"camids": torch.from_numpy(cams)}, tmp_path / "q.safetensors")
    assert read_features(tmp_path / "q.safetensors").rows.dtype == torch.bfloat16
