"""DiffPerson: generated pictures in files or tar shards, which give the same batches."""

import json
import re
import shutil
import tarfile
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import ConfigError, get_cfg
from fastreid.data import build_datasets, build_feature_loader, build_reid_train_loader
from fastreid.data.benchmarks.diff_person import file_name, load_diff_person, read_generated
from fastreid.data.datasets import DatasetError
from fastreid.engine.fingerprints import data_fingerprint
from fastreid.evaluation.protocols import check_protocol
from fastreid.evaluation.report.thumbnails import thumbnail
from fastreid.evaluation.scoring import Scoring
from fastreid.generation.export import export_pictures
from fastreid.generation.export_plan import ExportOptions
from tests.generation.stages import write_stages
from tests.miniature import run_tool


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """{form: folder that contains DiffPerson} of the same pictures, in files and in shards of four."""
    folders = {}
    for form, size in (("files", 0), ("shards", 4)):
        folders[form] = write_stages(tmp_path_factory.mktemp(form))
        export_pictures(folders[form], ExportOptions(shard_size=size))
    return folders


@pytest.fixture
def shards(exported, tmp_path):
    """A copy of the data set in shards, which may be damaged."""
    shutil.copytree(exported["shards"] / "DiffPerson", tmp_path / "DiffPerson")
    return tmp_path


def config(root, *opts):
    cfg = get_cfg()
    cfg.merge_from_list([
        *("DATASETS.ROOT", str(root), "DATASETS.NAMES", ("DiffPerson",), "DATASETS.TESTS", ()),
        *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 4, "DATALOADER.NUM_INSTANCE", 2, "MODEL.DEVICE", "cpu"),
        *("DATALOADER.SAMPLER_TRAIN", "NaiveIdentitySampler", "INPUT.SIZE_TRAIN", [32, 16], "MODEL.SEED", 1),
        *("INPUT.SIZE_TEST", [32, 16]),
        *opts,
    ])  # fmt: skip
    return cfg


def batches(cfg, count=8, skip=0):
    loader = build_reid_train_loader(cfg)
    loader.fast_forward(skip)
    return list(islice(loader, count))


def names(batch):
    return [path.replace("\\", "/").rsplit("/", 1)[1] for path in batch["img_paths"]]


def same(one, other):
    assert names(one) == names(other)
    for key in ("images", "targets", "camids", "viewids", "indices"):
        assert torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])), key


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_give_the_same_batches_as_files(exported, workers):
    files, shards = (batches(config(exported[form], "DATALOADER.NUM_WORKERS", workers)) for form in ("files", "shards"))
    assert len({tuple(names(batch)) for batch in files}) > 1
    for one, other in zip(files, shards, strict=True):
        same(one, other)
    assert all(".tar/" in path for path in shards[0]["img_paths"])


def test_shards_are_resumed_exactly(exported):
    whole = batches(config(exported["shards"]))
    for one, other in zip(whole[5:], batches(config(exported["shards"]), 3, skip=5), strict=True):
        same(one, other)


def test_features_are_extracted_in_order(exported):
    found = []
    for form in ("files", "shards"):
        cfg = config(exported[form])
        (dataset,) = build_datasets(cfg, ["DiffPerson"])
        found.append(list(build_feature_loader(cfg, dataset.train)))
    for one, other in zip(*found, strict=True):
        same(one, other)


def test_fingerprints_read_the_content_of_shards(exported):
    found = []
    for form in ("files", "shards"):
        images = build_datasets(config(exported[form]), ["DiffPerson"])[0].train
        one_folder = [image for image in images if image.person == 0]
        found.append(data_fingerprint(one_folder, [image.person for image in one_folder]))
    assert found[0] == found[1]


@pytest.mark.parametrize("form", ["files", "shards"])
def test_excluded_sources_contribute_no_person(exported, form):
    cfg = config(exported[form], "DATASETS.EXCLUDE_SOURCES", ["MSMT17"])
    dataset = build_reid_train_loader(cfg).dataset
    assert dataset.num_classes == 2 and sorted(set(dataset.labels)) == [0, 1]
    rows = [json.loads(line) for line in (exported[form] / "DiffPerson/meta.jsonl").read_text().splitlines()]
    kept = {row["file"] for row in rows if row["source"] != "MSMT17"}
    assert {image.path.rsplit("/", 1)[1] for image in dataset.images} == kept


def test_unknown_sources_have_near_matches(exported):
    with pytest.raises(DatasetError, match=r"DATASETS.EXCLUDE_SOURCES 'MSTM17'; did you mean 'MSMT17'"):
        build_reid_train_loader(config(exported["files"], "DATASETS.EXCLUDE_SOURCES", ["MSTM17"]))
    every = ["MSMT17", "CUHK03", "Market1501"]
    with pytest.raises(DatasetError, match="leaves no picture"):
        build_reid_train_loader(config(exported["files"], "DATASETS.EXCLUDE_SOURCES", every))


def test_what_an_export_excluded_may_be_excluded_again(tmp_path):
    export_pictures(write_stages(tmp_path), ExportOptions(exclude_sources=("MSMT17",)))
    cfg = config(tmp_path, "DATASETS.EXCLUDE_SOURCES", ["MSMT17"])
    assert build_reid_train_loader(cfg).dataset.num_classes == 2


@pytest.mark.parametrize(
    ("content", "message"), [(None, "export.json is missing"), ("{", "is damaged"), ('{"sources": 3}', "is damaged")]
)
def test_sources_that_are_not_known(shards, content, message):
    (shards / "DiffPerson/export.json").unlink()
    if content is not None:
        (shards / "DiffPerson/export.json").write_text(content)
    assert len(build_datasets(config(shards), "DiffPerson")[0].train) == 15
    with pytest.raises(DatasetError, match=message):
        build_reid_train_loader(config(shards, "DATASETS.EXCLUDE_SOURCES", ["MSMT17"]))


def test_other_numbers_of_images_than_those_of_the_export_are_said(exported, tmp_path, caplog):
    shutil.copytree(exported["files"] / "DiffPerson", tmp_path / "DiffPerson")
    assert len(load_diff_person(tmp_path).train) == 15 and "images of" not in caplog.text
    for path in (tmp_path / "DiffPerson/images").glob("00003_*"):
        path.unlink()
    with caplog.at_level("WARNING"):
        load_diff_person(tmp_path, exclude_sources=["CUHK03"]).train  # noqa: B018 - it is read now
    assert "has 11 images of 3 people, where export.json has 15 of 4: files are missing" in caplog.text


def test_it_cannot_be_evaluated(exported):
    cfg = config(exported["files"])
    (dataset,) = build_datasets(cfg, ["DiffPerson"])
    assert (dataset.query, dataset.gallery) == ([], [])
    with pytest.raises(
        ConfigError, match="DiffPerson has generated images for training only: it can be trained on, but not eval"
    ):
        check_protocol(dataset, Scoring.from_config(cfg))


@pytest.mark.parametrize("form", ["files", "shards"])
def test_check_dataset_and_reports_read_them(exported, form, tmp_path):
    words = ("DiffPerson", "--read-images", "--contact-sheet", "sheet.png", "DATASETS.ROOT", str(exported[form]))
    said = run_tool("tools/check_dataset.py", *words, cwd=tmp_path)
    assert re.search(r"DiffPerson +train +15 +4 +3", said) and "every image can be read" in said
    assert np.asarray(Image.open(tmp_path / "sheet.png")).std() > 30
    image = build_datasets(config(exported[form]), ["DiffPerson"])[0].train[0]
    assert thumbnail(image.path).startswith("data:image/jpeg;base64,")


def test_a_table_may_name_images_in_shards(exported, tmp_path):
    images = build_datasets(config(exported["shards"]), ["DiffPerson"])[0].train
    lines = [f"{image.path},{image.person}" for image in images]
    (tmp_path / "own.csv").write_text("\n".join(["path,person", *lines]))
    (dataset,) = build_datasets(config(tmp_path), ["csv:own.csv"])
    assert [(image.path, image.person) for image in dataset.train] == [(i.path, i.person) for i in images]
    (tmp_path / "own.csv").write_text(f"path,person\n{images[0].path}x.jpg,1\n")
    with pytest.raises(DatasetError, match="no such image"):
        build_datasets(config(tmp_path), ["csv:own.csv"])


def test_a_missing_shard_is_named(shards):
    (shards / "DiffPerson/shards/000002.tar").unlink()
    with pytest.raises(DatasetError, match=r"000002.tar is missing: index.json beside it has 4 images of this shard"):
        build_reid_train_loader(config(shards))


def test_a_truncated_shard_is_named(shards):
    path = shards / "DiffPerson/shards/000001.tar"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"000001.tar has 1,000 bytes, where index.json .* damaged or another one"):
        build_reid_train_loader(config(shards))
    (shards / "DiffPerson/shards/index.json").unlink()
    with pytest.raises(DatasetError, match=r"000001.tar is damaged or no tar file \(unexpected end of data\)"):
        build_reid_train_loader(config(shards))


def test_an_index_is_made_once(shards):
    index = shards / "DiffPerson/shards/index.json"
    content = index.read_bytes()
    index.unlink()
    assert build_reid_train_loader(config(shards)).dataset.num_classes == 4
    assert index.read_bytes() == content
    index.write_text("nonsense")
    with pytest.raises(DatasetError, match=r"index.json is damaged .*: delete it, and it is made again"):
        build_reid_train_loader(config(shards))


def test_the_order_in_the_tar_files_does_not_matter(exported, tmp_path):
    folder = tmp_path / "DiffPerson/shards"
    folder.mkdir(parents=True)
    for number, first in enumerate((8, 0)):  # one file behind the other, backwards, in a folder
        with tarfile.open(folder / f"my-{number}.tar", "w") as tar:
            for path in sorted((exported["files"] / "DiffPerson/images").iterdir())[first : first + 8][::-1]:
                tar.add(path, f"./pictures/{path.name}")
    for one, other in zip(batches(config(exported["files"])), batches(config(tmp_path)), strict=True):
        same(one, other)


def test_no_folder_shows_the_tree(tmp_path):
    with pytest.raises(DatasetError, match=r"no images in .*DiffPerson/images .*\n.*\n.*images/ .* person, pseudo-c"):
        build_reid_train_loader(config(tmp_path))
    (tmp_path / "DiffPerson/shards").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no tar files with images in .*shards"):
        build_reid_train_loader(config(tmp_path))


def test_file_names(tmp_path):
    name = file_name(12, 1, 3, 45)
    assert name == "00012_c1_s3_0045.jpg"
    image = read_generated(tmp_path / name)
    assert (image.path, image.person, image.camera, image.view) == (str(tmp_path / name), 12, 1, 1)
    for other in ("00012_c1_0045.jpg", "x_c1_s3_0045.jpg", "00012_c1_s3_0045_2.jpg"):
        with pytest.raises(ValueError, match="is not GID_cCAMERA_sSOURCE_NUMBER"):
            read_generated(tmp_path / other)
