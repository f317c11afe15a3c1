"""Finished toy runs: the real evaluation of random pictures, and the other files of a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from fastreid.evaluation import evaluate_protocols
from tests.evaluation.toys import CFG, CountingModel, build_loader, two_protocols

PROTOCOLS = ("CARGO", "CARGO_AG")


def write_runs(folder, names=PROTOCOLS):
    """Write the folders stage1 and stage2 below `folder`, with every file that a report reads."""
    return tuple(write_run(folder, stage, noise, names) for stage, noise in (("stage1", 1.5), ("stage2", 0.9)))


def write_run(folder, name, noise, names=PROTOCOLS, *, views=True, people=None, cameras=None, keys=()):
    """Write the folder of one run, of a model with this noise; all runs share their images.

    Args:
        folder: its parent.
        name: its name.
        noise: noise of the model.
        names: names of the protocols.
        views: whether there are two views, or only one.
        people: names of people.
        cameras: names of cameras.
        keys: config keys and values.
    """
    datasets = two_protocols(names, folder=f"{folder}/images/")
    for data in datasets:
        data.person_names, data.camera_names = people or {}, cameras or {}
        if not views:
            data.query, data.gallery = ([replace(i, view=0) for i in side] for side in (data.query, data.gallery))
    write_images({i.path for data in datasets for i in (*data.query, *data.gallery)})
    run = folder / name
    cfg = CFG.clone()
    cfg.merge_from_list(list(keys))
    results = evaluate_protocols(cfg, CountingModel(noise), datasets, build_loader, run)
    write_records(run / "metrics.json", results)
    unet = "assets/unet" if name == "stage2" else ""
    (run / "config.yaml").write_text(yaml.safe_dump(config(unet)))
    return run


def write_images(paths):
    rng = np.random.default_rng(0)
    for path in sorted(paths):
        Path(path).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 16, 3), dtype=np.uint8)).save(path)


def write_records(path, results):
    lines = [
        {"iteration": i, "epoch": 0, "lr": 1e-3, "total_loss": 3 / i, "loss_cls": 2 / i,
         "loss_triplet": 1 / i, "time": 0.25, "eta_seconds": 1.0}
        for i in (20, 40, 60)
    ]  # fmt: skip
    for iteration in (40, 60):
        lines.append({"iteration": iteration} | {f"{p}/mAP": m["mAP"] for p, m in results.items()})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def config(unet):
    return {
        "MODEL": {
            "META_ARCHITECTURE": "<Toy>",
            "SDMODEL": {"TARGET": "own", "UNET_CONFIG": {"PRETRAINED_PATH": unet}},
        },
        "SOLVER": {"BASE_LR": 0.001},
        "DATASETS": {"NAMES": ["CARGO"]},
    }
