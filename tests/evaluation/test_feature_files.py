"""Descriptors of other programs: every format gives the same figures, and errors say what is wrong."""

import gc
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fastreid.evaluation import score_features
from fastreid.evaluation.feature_files import FeatureFileError, read_feature_pair, read_features
from fastreid.evaluation.scoring_options import Scoring
from fastreid.evaluation.thresholds import thresholds_of
from tests.miniature import ROOT, run_tool
from tests.retrieval.test_compiled_engine import protocol


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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_figures_are_written_also_if_they_cannot_be_printed(data, tmp_path):
    files = [word for name, side in sides(data).items() for word in (f"--{name}", write(tmp_path, "npz", name, *side))]
    command = [sys.executable, str(ROOT / "tools/evaluate_features.py"), *files, "--output", "out.json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode and "Traceback" not in done.stderr
    assert json.loads((tmp_path / "out.json").read_text()) == score_features(*data).metrics


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
    with pytest.raises(SystemExit, match="error: --output . is a folder: name a file in it"):
        run_tool("tools/evaluate_features.py", "--query", query, "--gallery", query, "--output", ".", cwd=tmp_path)
    rows, pids, cams = sides(data)["gallery"]
    rows[4, 4] = np.nan
    gallery = write(tmp_path, "npz", "gallery", rows, pids, cams)
    with pytest.raises(SystemExit, match="error: the descriptor of gallery image 4 is not finite"):
        run_tool("tools/evaluate_features.py", "--query", query, "--gallery", gallery, cwd=tmp_path)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["TEST.FLIP.ENABLED", "True"], "TEST.FLIP.ENABLED"),
        (["SOLVER.BASE_LR", "1.0"], "SOLVER.BASE_LR has no effect on scoring"),
        (["TEST.PLOTS", "True"], "--plots FOLDER"),
        (["TEST.RERANK.K1"], "TEST.RERANK.K1"),
        (["TEST.RERANK.K1", "9"], "TEST.RERANK.K1 has no effect without TEST.RERANK.ENABLED True"),
        (
            ["TEST.EXPECTED_RESULTS", "[]"],
            "TEST.EXPECTED_RESULTS has no effect on scoring: only MODEL.DEVICE, TEST.DBA",
        ),
        (["TEST.AMP.ENABLED", "True"], "TEST.AMP.ENABLED has no effect"),
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


def test_arrays_that_cannot_be_scored(tmp_path):
    good = {"features": np.ones((3, 2)), "pids": np.arange(3), "camids": np.arange(3)}
    objects = np.array([[1.0, None]] * 3, dtype=object)
    for spoiled, said in (
        ({"features": np.ones((3, 2), complex)}, r"real numbers, but all 3 rows are complex numbers \(complex128\)"),
        ({"features": np.full((3, 2), "x")}, "all 3 rows are text"),
        ({"features": np.full((3, 2), np.datetime64("2020"))}, "all 3 rows are dates"),
        ({"features": objects}, "features are Python objects, which are not read, as they may run code"),
        ({"pids": np.array(["a", None, "b"], dtype=object)}, "pids are Python objects"),
        ({"features": np.ones((3, 0))}, "holds no features"),
        ({"features": np.ones((0, 2)), "pids": np.arange(0), "camids": np.arange(0)}, "holds no features"),
        ({"camids": np.arange(4)}, r"camids \[4\]; expected"),
        ({"viewids": np.arange(2)}, r"viewids \[2\]; expected"),
        ({"pids": np.array([1, 2, 2**64 - 1], dtype=np.uint64)}, "ids are at most"),
        ({"pids": np.array([1.0, 2.0, 3.0])}, "pids must be whole numbers or names, they are float64"),
    ):
        np.savez(tmp_path / "a.npz", **(good | spoiled))
        with pytest.raises(FeatureFileError, match=said):
            read_features(tmp_path / "a.npz")
    for kind in (torch.bfloat16, torch.float8_e4m3fn):
        tensors = {name: torch.from_numpy(array) for name, array in good.items()}
        save_file(tensors | {"pids": torch.ones(3).to(kind)}, tmp_path / "a.safetensors")
        with pytest.raises(FeatureFileError, match=f"pids must be whole numbers or names, they are {kind}"):
            read_features(tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", **good, paths=objects)  # other arrays may hold anything
    assert read_features(tmp_path / "a.npz").rows.shape == (3, 2)


def test_empty_files(tmp_path):
    for name in ("a.npz", "a.npy", "a.safetensors"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(FeatureFileError, match=f"cannot read .*{name}: ."):
            read_features(tmp_path / name)
    np.savez(tmp_path / "a.npz")
    with pytest.raises(FeatureFileError, match="lacks features, pids, camids; it has nothing"):
        read_features(tmp_path / "a.npz")
    with open(tmp_path / "a.npz", "wb") as file:
        np.save(file, np.ones((2, 2)))
    with pytest.raises(FeatureFileError, match=r"one array without a name; call the file \.npy"):
        read_features(tmp_path / "a.npz")


def write_table(folder, text, name="a", encoding="utf-8"):
    lines = len(text.strip().splitlines()) - 1
    np.save(folder / f"{name}.npy", np.eye(max(1, lines), 8)[:lines])
    (folder / f"{name}.csv").write_bytes(text.encode(encoding))
    return folder / f"{name}.npy"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pid,camid\n1,2\n3\n", r"a\.csv, line 3: 1 values, where the header has 2 columns"),
        ("pid,camid\n1,2,3\n", "line 2: 3 values"),
        ("pid,camid\n1,2\n0.0,2\n", "row 1 of pids is '0.0', a number with a decimal point; write 0"),
        ("pid,camid\n1,2\n1,3.\n", r"row 1 of camids is '3\.', a number"),
        ("pid,camid\n1,2\n,2\n", "row 1 of pids is empty"),
        ("pid,camid\n-2,2\n", "row 0 of pids is '-2'; below 0 there is only -1, for junk"),
        ("pid,camid,viewid\n1,2,aerial\n", "row 0 of viewids is 'aerial'; views are whole numbers"),
        ("pid;camid\n1;2\n", "has columns .'pid;camid'., expected pid and camid once each, separated by commas"),
        ("pid,camid,pid\n1,2,3\n", "once each"),
        ('pid,camid\n"1,2\n', "is no CSV file"),
        ("", "has columns"),
        ("pid,camid\n1,2\na\0,2\n", r"a\.csv, line 3: it has a byte of value 0"),
        ("pid,camid\nann,1\nbob,2\n", "pids has names, such as 'ann'.*read_feature_pair"),
    ],
)
def test_wrong_tables(tmp_path, text, said):
    with pytest.raises(FeatureFileError, match=said):
        read_features(write_table(tmp_path, text))


def test_tables_of_other_programs(tmp_path):
    for text, encoding in (
        ("pid, camid\n1, 2\n 3 ,4\n", "utf-8-sig"),
        ("camid,pid\r\n2,1\r\n4,3\r\n\r\n", "utf-16"),
        ('path,PID,CamID\n"a\n,b",1,2\nc,3,4\n', "utf-8"),
    ):
        features = read_features(write_table(tmp_path, text.replace("a\n,b", "a,b"), encoding=encoding))
        assert (features.pids.tolist(), features.camids.tolist()) == ([1, 3], [2, 4])
    with pytest.raises(FeatureFileError, match=r"a\.csv is not text in UTF-8: byte 0xe9 at position 10 \(line 2\)"):
        read_features(write_table(tmp_path, "pid,camid\n\xe9,1\n", encoding="latin-1"))
    (tmp_path / "a.csv").unlink()
    with pytest.raises(FeatureFileError, match=r"there is no .*a\.csv with the ids"):
        read_features(tmp_path / "a.npy")


def test_names_that_differ_are_two_people_and_both_sides_share_them(tmp_path):
    query = write_table(tmp_path, "pid,camid\n1_1,a\n007,a\n11,a\n-1,b\n", "q")
    gallery = write_table(tmp_path, "pid,camid\n11,b\n7,1\n007,b\n1_1,01\nzoe,01\n-1,a\n", "g")
    first, second = read_feature_pair(query, gallery)
    assert first.pids[0] == second.pids[3] and first.pids[1] == second.pids[2] and first.pids[2] == second.pids[0]
    assert len({*first.pids, *second.pids}) == 6 and first.pids[3] == second.pids[5] == -1
    assert len(set(second.camids)) == 4 and first.camids[3] == second.camids[0] and first.camids[0] == second.camids[5]
    # The same in an archive.
    arrays = {"features": np.eye(2), "pids": np.array(["ann", "bob"]), "camids": np.arange(2)}
    np.savez(tmp_path / "n.npz", **arrays)
    one, two = read_feature_pair(tmp_path / "n.npz", write_table(tmp_path, "pid,camid\nbob,0\nann,0\n", "m"))
    assert one.pids.tolist() == two.pids[::-1].tolist() and two.camids.tolist() == [0, 0]


def test_the_tool_scores_names(data, tmp_path):
    (query, q_pids, q_cams), (gallery, g_pids, g_cams) = sides(data).values()
    as_names = {"q": (query, [f"p{p}" for p in q_pids], q_cams), "g": (gallery, [f"p{p}" for p in g_pids], g_cams)}
    files = [write(tmp_path, "npy", name, *side) for name, side in as_names.items()]
    words = ["--query", files[0], "--gallery", files[1], "--output", str(tmp_path / "out.json")]
    run_tool("tools/evaluate_features.py", *words, cwd=tmp_path)
    unnamed = [np.where(np.asarray(pids) < 0, 10**6, pids) for pids in (q_pids, g_pids)]
    expected = score_features(query, gallery, *unnamed, q_cams, g_cams).metrics
    assert json.loads((tmp_path / "out.json").read_text()) == expected


def test_the_tool_prints_thresholds_and_names_of_cameras(data, tmp_path):
    (query, q_pids, q_cams), (gallery, g_pids, g_cams) = sides(data).values()
    names = np.array([f"gate {number}" for number in range(10)])
    as_names = {"q": (query, q_pids, names[q_cams]), "g": (gallery, g_pids, names[g_cams])}
    files = [write(tmp_path, "npy", name, *side) for name, side in as_names.items()]
    words = ["--query", files[0], "--gallery", files[1], "--output", str(tmp_path / "out.json")]
    keys = ["TEST.ROC.ENABLED", "True", "TEST.BREAKDOWN", "['camera']"]
    said = run_tool("tools/evaluate_features.py", *words, *keys, cwd=tmp_path)
    scoring = Scoring(roc=True, breakdown=("camera",))
    result = score_features(*data, scoring)
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["thresholds"] == thresholds_of(result.roc, scoring) and "false matches <= 0.1 %" in said
    expected = [names[[int(row[side][-1]) for side in ("query", "gallery")]] for row in result.breakdown["camera"]]
    assert [[row["query"], row["gallery"]] for row in found["breakdown"]["camera"]] == [list(row) for row in expected]
    assert "gate 0" in said and "camera 0" not in said


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_the_tool_says_which_rows_and_how_many(data, value, tmp_path):
    arrays = sides(data)
    arrays["query"][0][[2, 3], 1] = float(value)
    files = [word for name, side in arrays.items() for word in (f"--{name}", write(tmp_path, "npz", name, *side))]
    said = r"evaluate_features: error: the descriptor of query image 2 is not finite \(2 of \d+ are not\)"
    with pytest.raises(SystemExit, match=said):
        run_tool("tools/evaluate_features.py", *files, cwd=tmp_path)


@pytest.mark.parametrize("kind", ["npz", "npy", "safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html><body>log in</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"pid,camid\n1,2\n", "a text file that begins 'pid,camid'"),
        (b"", "it is empty"),
        (b"PK\x03\x04 and then junk" * 20, "cannot read"),
        (b"PK", "cannot read"),
        (b"\x1f\x8b\x08\x00" * 9, "a gzip archive: unpack it first"),
        (b"\x80\x04]\x94.", "cannot read"),
        (b"\x00\xff" * 40, "cannot read"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_error_names_the_kind_of_other_files(tmp_path, kind, content, said):
    (tmp_path / f"q.{kind}").write_bytes(content)
    (tmp_path / "q.csv").write_text("pid,camid\n1,2\n")
    with pytest.raises(FeatureFileError, match=said) as caught:
        read_features(tmp_path / f"q.{kind}")
    message = str(caught.value)
    assert message.startswith("cannot read") and f"q.{kind}" in message
    assert not any(word in message for word in ("allow_pickle", "unsafe", "state dict", "trust"))
    gc.collect()  # a file that was left open warns here, which the mark above makes an error


def test_numpy_files_under_the_wrong_name(tmp_path):
    good = {"features": np.ones((3, 2)), "pids": np.arange(3), "camids": np.arange(3)}
    np.savez(tmp_path / "a.npz", **good)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(FeatureFileError, match=r"archive of NumPy arrays; call the file a\.npz"):
        read_features(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npz", **good)
    whole = (tmp_path / "b.npz").read_bytes()
    (tmp_path / "b.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeatureFileError, match=r"b\.npz: it is damaged, or was cut off"):
        read_features(tmp_path / "b.npz")


@pytest.mark.parametrize("kind", ["npz", "safetensors", "npy"])
def test_ids_below_zero_are_refused_in_every_format(tmp_path, kind):
    for pids, said in (([0, -1, 1], None), ([0, -1, -2], "row 2 of pids is '?-2'?; below 0 there is only -1")):
        path = write(tmp_path, kind, "q", np.eye(3, 4), np.array(pids), np.array([0, 1, 2]))
        if said is None:
            assert read_features(path).pids.tolist() == pids
            continue
        with pytest.raises(FeatureFileError, match=said):
            read_features(path)


def test_views_below_zero_are_refused(tmp_path):
    arrays = {"features": np.eye(3, 4), "pids": np.arange(3), "camids": np.arange(3), "viewids": np.array([0, -1, 1])}
    np.savez(tmp_path / "q.npz", **arrays)
    with pytest.raises(FeatureFileError, match=r"row 1 of viewids is -1; views are whole numbers, 0 or more"):
        read_features(tmp_path / "q.npz")


@pytest.mark.parametrize("odd", ["1_0", "+1", "nan", "1e0", "1\xa0", "007"])
@pytest.mark.parametrize("column", ["pids", "camids"])
def test_values_that_turn_numbers_into_names_are_named(tmp_path, odd, column, caplog):
    line = f"{odd},1" if column == "pids" else f"1,{odd}"
    query = write_table(tmp_path, f"pid,camid\n1,2\n2,1\n{line}\n", "q")
    gallery = write_table(tmp_path, "pid,camid\n1,1\n2,2\n", "g")
    read_feature_pair(query, gallery)
    record = caplog.records[0]
    message = record.getMessage()
    assert record.levelname == "WARNING" and message.startswith(str(query))
    assert f"{column} are read as names" in message and ascii(odd) in message


@pytest.mark.parametrize("pair", ["Ann ann", "7 007", "Jos\xe9 Jose\u0301"])
@pytest.mark.parametrize("column", ["pids", "camids"])
def test_names_that_differ_in_spelling_only_are_told(tmp_path, pair, column, caplog):
    one, other = pair.split()
    tables = [
        write_table(tmp_path, f"pid,camid\n{f'{name},1' if column == 'pids' else f'1,{name}'}\nbob,c2\n", side)
        for side, name in (("q", one), ("g", other))
    ]
    read_feature_pair(*tables)
    what = "people" if column == "pids" else "cameras"
    assert f"{what} whose names differ in spelling only are different {what}: '" in caplog.text


def test_names_alone_and_numbers_alone_need_no_warning(tmp_path, caplog):
    for text in ("pid,camid\nann,c1\nbob,c2\n-1,c1\n", "pid,camid\n1,2\n-1,3\n"):
        path = write_table(tmp_path, text)
        read_feature_pair(path, path)
    assert not caplog.records
