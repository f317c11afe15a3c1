"""The interface of fast-reid: a project that was written for it runs unchanged, and every public name exists."""

import importlib
import inspect
import json
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from tests.miniature import ROOT
from tests.warm_python import warm_python

PROJECT = ROOT / "tests/external_project"

# Public names of fast-reid, by module.
PUBLIC = {
    "fastreid.config": "get_cfg CfgNode configurable",
    "fastreid.engine": "DefaultTrainer DefaultPredictor default_argument_parser default_setup launch hooks",
    "fastreid.data": "build_reid_train_loader build_reid_test_loader",
    "fastreid.data.datasets": "DATASET_REGISTRY",
    "fastreid.data.datasets.bases": "ImageDataset",
    "fastreid.data.samplers": "TrainingSampler NaiveIdentitySampler BalancedIdentitySampler SetReWeightSampler "
    "ImbalancedDatasetSampler InferenceSampler",
    "fastreid.data.transforms": "build_transforms",
    "fastreid.modeling": "build_model",
    "fastreid.modeling.meta_arch": "META_ARCH_REGISTRY Baseline MGN build_model",
    "fastreid.modeling.meta_arch.baseline": "Baseline",
    "fastreid.modeling.meta_arch.mgn": "MGN",
    "fastreid.modeling.backbones": "BACKBONE_REGISTRY build_backbone",
    "fastreid.modeling.heads": "REID_HEADS_REGISTRY EmbeddingHead ClasHead build_heads",
    "fastreid.modeling.losses": "cross_entropy_loss triplet_loss pairwise_circleloss pairwise_cosface focal_loss",
    "fastreid.layers": "get_norm Linear ArcSoftmax CosSoftmax CircleSoftmax GlobalAvgPool GeneralizedMeanPoolingP",
    "fastreid.solver": "build_optimizer build_lr_scheduler",
    "fastreid.evaluation": "ReidEvaluator DatasetEvaluator inference_on_dataset print_csv_format evaluate_rank",
    "fastreid.evaluation.roc": "evaluate_roc",
    "fastreid.evaluation.query_expansion": "aqe",
    "fastreid.utils.compute_dist": "build_dist",
    "fastreid.utils.checkpoint": "Checkpointer",
    "fastreid.utils": "comm logger registry",
}

# Positional arguments, as the code of fast-reid and its users passes them.
SIGNATURES = {
    "fastreid.modeling.losses.cross_entropy_loss": "pred_class_logits gt_classes eps alpha",
    "fastreid.modeling.losses.triplet_loss": "embedding targets margin norm_feat hard_mining",
    "fastreid.modeling.losses.pairwise_circleloss": "embedding targets margin gamma",
    "fastreid.modeling.losses.pairwise_cosface": "embedding targets margin gamma",
    "fastreid.modeling.heads.build_heads": "cfg",
    "fastreid.modeling.backbones.build_backbone": "cfg",
    "fastreid.layers.get_norm": "norm out_channels",
    "fastreid.data.build_reid_test_loader": "cfg dataset_name",
    "fastreid.engine.DefaultTrainer.build_evaluator": "cfg dataset_name output_dir",
    "fastreid.engine.DefaultTrainer.build_test_loader": "cfg dataset_name",
    "fastreid.engine.DefaultTrainer.test": "cfg model",
    "fastreid.evaluation.inference_on_dataset": "model data_loader evaluator flip_test",
    "fastreid.evaluation.ReidEvaluator": "cfg num_query output_dir",
}


@pytest.mark.parametrize(("module", "name"), [(m, name) for m, names in PUBLIC.items() for name in names.split()])
def test_public_names_are_where_they_were(module, name):
    found = importlib.import_module(module)
    if not hasattr(found, name):
        importlib.import_module(f"{module}.{name}")
    assert getattr(found, name) is not None


@pytest.mark.parametrize("path", SIGNATURES)
def test_arguments_have_their_names_and_places(path):
    module, _, name = path.rpartition(".")
    if "DefaultTrainer" in module:
        owner = importlib.import_module("fastreid.engine").DefaultTrainer
    else:
        owner = importlib.import_module(module)
    parameters = inspect.signature(getattr(owner, name)).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == SIGNATURES[path].split()


def write_people(root):
    """Write images of six people, each with one colour, from two cameras; the first four are for training."""
    random = np.random.default_rng(0)
    for person in range(6):
        colour = random.integers(40, 216, size=3)
        for camera in (1, 2):
            for shot in range(3):
                train = person < 4
                split = "train" if train else ("query" if shot == 0 else "gallery")
                pixels = np.clip(colour + random.normal(0, 20, size=(60, 30, 3)), 0, 255).astype(np.uint8)
                folder = root / "parking_lot" / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"{person:04d}_c{camera}_{shot}.jpg")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with its data."""
    folder = tmp_path_factory.mktemp("external") / "project"
    shutil.copytree(PROJECT, folder)
    write_people(folder / "datasets")
    return folder


def run(project, *words):
    """Run the project as its user does, and return its output."""
    command = [warm_python(), "train_net.py", "--config-file", "config.yml", *words, "MODEL.DEVICE", "cpu"]
    paths = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=project, env=os.environ | paths, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_the_project_trains_and_evaluates(project):
    said = run(project)
    assert "counted 9 steps in 3 epochs" in said  # 24 images in batches of 8
    logs = project / "logs/parking_lot"
    figures = results(logs)["ParkingLot"]
    assert figures["Rank-1"] > 50 and figures["positive"] > 0  # from the evaluator of the project
    logged = set().union(*map(json.loads, (logs / "metrics.json").read_text().splitlines()))
    assert {"loss_cls", "loss_part0", "loss_part1", "loss_part2", "ParkingLot/positive"} <= logged
    state = torch.load(logs / "model_final.pth", weights_only=True)["model"]
    assert {"backbone.0.weight", "heads.bottleneck.0.weight", "heads.weight"} <= set(state)
    assert (logs / "model_best.pth").exists()


def test_its_checkpoint_is_evaluated_by_its_own_main(project):
    words = ["MODEL.WEIGHTS", "logs/parking_lot/model_final.pth", "OUTPUT_DIR", "logs/again"]
    run(project, "--eval-only", *words)
    assert results(project / "logs/again") == results(project / "logs/parking_lot")


def test_two_processes_share_its_evaluation(project):
    words = ["--num-gpus", "2", "OUTPUT_DIR", "logs/two", "MODEL.WEIGHTS", "logs/parking_lot/model_final.pth"]
    run(project, "--eval-only", *words)
    shared, alone = results(project / "logs/two")["ParkingLot"], results(project / "logs/parking_lot")["ParkingLot"]
    assert {k: v for k, v in shared.items() if k != "positive"} == {k: v for k, v in alone.items() if k != "positive"}
