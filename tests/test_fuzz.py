"""Two thousand damaged inputs: each works or ends with one error message, and leaves no incomplete file.

A failure contains its number, which is its seed, and the folder of its input.
"""

import io
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from fastreid.config import get_cfg
from fastreid.config.tree import leaves
from tests.fuzzing import BINARY, TEXT, Case, damaged, failures
from tests.tiny import CONFIG

pytestmark = pytest.mark.slow

CONFIGS, CHECKPOINTS, FEATURES, TABLES, IMAGES = 500, 400, 450, 350, 300
DEFAULTS = dict(leaves(get_cfg()))


def link(people, place):
    for path in people.iterdir():
        if path.suffix in (".png", ".csv", ".yml"):
            shutil.copy(path, place)


def check(found):
    if found:
        pytest.fail(f"{len(found)} inputs failed:\n\n" + "\n\n".join(found[:20]), pytrace=False)


# Values that a user might write instead of others.
VALUES = (
    "5", "-1", "0", "1.5", "1e9", "10000000000", "99999999999999999999", "-0.5", ".nan", ".inf", "true", "no", "null",
    "''", "x", "[]", "[1]", "[0, 0]", "[-1, 5]", "[1, 2, 3, 4]", "['a']", "{a: 1}", "~/x", "/dev/null", "2020-01-01",
    "!!set {a}", "!!binary aGk=", "Adam", "auto", "(1, 2)", "'5'", "\u2194", '"\\0"', '"\\uDCE9"', "csv:people.csv",
)  # fmt: skip
NUMBERS = (-2, -1, 0, 1, 2, 3, 5, 7, 64, 1000, 10**5, 10**9, 10**12, 2**63)
WORDS = (
    "", "x", "BN", "GhostBN", "Adam", "AdamW", "Muon", "LBFGS", "max", "MGN", "SDReIDStage1", "SDReIDStage2", "18x",
    "ArcSoftmax", "build_vit_backbone", "build_resnet_backbone", "mini", "GeneralizedMeanPooling", "after", "cuda",
    "meta", "fp16", "BalancedIdentitySampler", "SetReWeightSampler", "ImbalancedDatasetSampler", "csv:people.csv",
    "folder:.", "CARGO", "LinearWarmupMultiStepDecayLRScheduler", "CosineAnnealingLR", "faiss", "euclidean",
    "/dev/null", "config.yml", "a\0b", "\udce9", "y" * 5000,
)  # fmt: skip


def another(draw, default):
    """Return a value of the type of `default`."""
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return draw.choice(NUMBERS)
    if isinstance(default, float):
        return draw.choice((*map(float, NUMBERS[:12]), 0.5, 1e-300, 1e300, -0.1))
    if isinstance(default, str):
        return draw.choice(WORDS)
    pool = WORDS if default and isinstance(default[0], str) else draw.choice((NUMBERS, NUMBERS, WORDS, (0.5, 1.0, 128)))
    return [draw.choice(pool) for _ in range(draw.choice((0, 1, 1, 2, 2, 3, 3)))]


def write_config(draw, place):
    """Damage a config as bytes, replace its values, or leave it, and add keys with random values."""
    how, words = draw.random(), []
    if how < 0.35:
        (place / "config.yml").write_bytes(damaged(CONFIG.encode(), draw, TEXT))
    elif how < 0.6:
        lines = CONFIG.splitlines()
        at = draw.randrange(1, len(lines))
        lines[at] = f"{lines[at].partition(':')[0]}: {draw.choice(VALUES)}"
        (place / "config.yml").write_text("\n".join(lines), encoding="utf-8")
    else:
        for key in draw.sample(list(DEFAULTS), draw.choice((1, 1, 1, 2, 3))):
            words += [key, str(another(draw, DEFAULTS[key]))]
            switch = f"{key.rpartition('.')[0]}.ENABLED"
            words += [switch, "true"] if switch in DEFAULTS and draw.random() < 0.7 else []
    return words


def test_configs(people, tmp_path):
    def make(draw: random.Random, place: Path) -> Case:
        link(people, place)
        return Case("train_net", ["--dry-run", "--config-file", "config.yml", *write_config(draw, place)])

    check(failures("config", CONFIGS, make, tmp_path))


def checkpoint_bytes(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def strange_checkpoint(draw, state):
    """Return a complete file that contains something other than weights."""
    name = draw.choice(list(state))
    tensor = state[name]
    others = [
        {}, [], 5, None, "x", [tensor], {"model": None}, {"model": {}}, {"model": 5}, {1: tensor}, {"epoch": 3},
        {"model": {name: 5}}, {"model": {1: tensor}}, {"state_dict": {"module." + k: v for k, v in state.items()}},
        {"model": state | {name: tensor.to(torch.complex64)}}, {"model": state | {name: tensor[None]}},
        {"model": state | {name: tensor.double() * torch.nan}}, {"model": state | {name: torch.zeros(0)}},
        {"model": state | {name: torch.zeros(1).expand(10**9)}}, {"model": state | {name: tensor.to_sparse()}},
        {"model": {k: v for k, v in state.items() if k != name}}, {"model": state, "epoch": "x", "optimizer": 5},
        {"model": state | {"": tensor}}, {"net": {"a": {"b": state}}},
        {"model": {k: v.bool() for k, v in state.items()}},
    ]  # fmt: skip
    return checkpoint_bytes(draw.choice(others))


def test_checkpoints(people, tmp_path):
    whole = torch.load(people / "out" / "model_final.pth", weights_only=True)
    state = whole["model"]
    sources = {"run": (people / "out" / "model_final.pth").read_bytes(), "bare": checkpoint_bytes(state)}
    old = io.BytesIO()
    torch.save({"model": state}, old, _use_new_zipfile_serialization=False)
    sources |= {"old": old.getvalue(), "safetensors": save({k: v.contiguous() for k, v in state.items()})}

    def make(draw: random.Random, place: Path) -> Case:
        source = draw.choice(list(sources))
        data = strange_checkpoint(draw, state) if draw.random() < 0.3 else damaged(sources[source], draw, BINARY)
        door = draw.random()
        name = "x.safetensors" if source == "safetensors" else "x.pth"
        if door < 0.65:
            (place / name).write_bytes(data)
            return Case("convert_checkpoint", [name, "new.pth"], ("new.pth",))
        link(people, place)
        if door < 0.85:
            (place / name).write_bytes(data)
            return Case("train_net", ["--eval-only", "--config-file", "config.yml", "MODEL.WEIGHTS", name])
        (place / "out").mkdir()
        (place / "out" / "model_0000.pth").write_bytes(data)
        note = draw.choice((b"model_0000.pth", b"model_0000.pth", draw.randbytes(9), b"", b"..", b"\xff", b"gone.pth"))
        (place / "out" / "last_checkpoint").write_bytes(note)
        return Case("train_net", ["--dry-run", "--resume", "--config-file", "config.yml"])

    check(failures("checkpoint", CHECKPOINTS, make, tmp_path))


ARRAYS = (
    lambda n: np.zeros((n, 4), complex), lambda n: np.full((n, 4), "x"), lambda n: np.array([[None] * 4] * n),
    lambda n: np.full((n, 4), np.nan), lambda n: np.full((n, 4), np.inf), lambda n: np.full((n, 4), 1e300),
    lambda n: np.zeros(n), lambda n: np.zeros(()), lambda n: np.zeros((n, 0)), lambda n: np.zeros((0, 4)),
    lambda n: np.zeros((n, 4, 4)), lambda n: np.zeros((n, 4), bool), lambda n: np.zeros((n, 4)),
    lambda n: np.zeros((n, 5)), lambda n: np.zeros(n, dtype=[("a", "f4")]), lambda n: np.full(n, b"x"),
    lambda n: np.arange(n), lambda n: -np.arange(n), lambda n: np.arange(n).astype(np.float16),
    lambda n: np.full(n, 2**64 - 1, np.uint64), lambda n: np.array([f"n{i % 3}" for i in range(n)]),
    lambda n: np.full((n, 4), 1e-38, np.float32), lambda n: np.full((n, 4), np.datetime64("2020-01-01")),
)  # fmt: skip
SCORING = (
    [], [], [], [], ["TEST.METRIC", "euclidean"], ["TEST.RERANK.ENABLED", "true"], ["TEST.AQE.ENABLED", "true"],
    ["TEST.ROC.ENABLED", "true"], ["TEST.BREAKDOWN", "['camera', 'view']"], ["TEST.SINGLE_SHOT", "true"],
    ["TEST.DBA.ENABLED", "true", "TEST.DBA.K", "3"], ["TEST.ENGINE", "torch"],
)  # fmt: skip


def side_of(draw, count):
    pids = np.arange(count) % 4
    return {
        "features": draw.standard_normal((count, 4)).astype(np.float32),
        "pids": pids,
        "camids": np.arange(count) // 4,
    }


def write_features(folder, name, kind, arrays):
    path = folder / f"{name}.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "safetensors":
        path.write_bytes(save({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}))
    else:
        np.save(path, arrays["features"])
        rows = [f"{p},{c}" for p, c in zip(arrays["pids"], arrays["camids"], strict=True)]
        path.with_suffix(".csv").write_text("\n".join(["pid,camid", *rows]) + "\n")
    return path


def test_features(tmp_path):
    def make(draw: random.Random, place: Path) -> Case:
        numbers = np.random.default_rng(draw.randrange(2**32))
        kinds = draw.choice(("npz", "npy", "safetensors")), draw.choice(("npz", "npy", "safetensors"))
        query = write_features(place, "q", kinds[0], side_of(numbers, 4))
        arrays = side_of(numbers, 12)
        if draw.random() < 0.35:
            arrays[draw.choice(("features", "pids", "camids", "viewids"))] = draw.choice(ARRAYS)(12)
            gallery = place / "g.npz"
            np.savez(gallery, **arrays)
        else:
            gallery = write_features(place, "g", kinds[1], arrays)
            is_table = kinds[1] == "npy" and draw.random() < 0.7
            broken = gallery.with_suffix(".csv") if is_table else gallery
            broken.write_bytes(damaged(broken.read_bytes(), draw, TEXT if is_table else BINARY))
        sides = [str(query), str(gallery)] if draw.random() < 0.7 else [str(gallery), str(query)]
        words = ["--query", sides[0], "--gallery", sides[1], "--output", "out.json", *draw.choice(SCORING)]
        return Case("evaluate_features", words, ("out.json",))

    check(failures("features", FEATURES, make, tmp_path))


def test_tables_of_images(people, tmp_path):
    def make(draw: random.Random, place: Path) -> Case:
        link(people, place)
        table = place / "people.csv"
        table.write_bytes(damaged(table.read_bytes(), draw, TEXT))
        if draw.random() < 0.7:
            words = ["csv:people.csv", "--contact-sheet", "sheet.jpg", *draw.choice(([], ["--read-images"]))]
            return Case("check_dataset", words, ("sheet.jpg",))
        return Case("train_net", ["--dry-run", "--config-file", "config.yml"])

    check(failures("table", TABLES, make, tmp_path))


FORMATS = ("png", "jpg", "bmp", "webp", "tif", "gif")


def picture_bytes(draw, suffix):
    modes = ("RGB", "L", "RGBA", "P", "I;16", "1", "CMYK", "LA")
    numbers = np.random.default_rng(draw.randrange(2**32)).integers(0, 255, (24, 12, 3), dtype=np.uint8)
    picture, file = Image.fromarray(numbers), io.BytesIO()
    mode = draw.choice(modes)
    if mode == "I;16":
        picture = Image.fromarray(numbers[..., 0].astype(np.uint16) * 257)
    elif mode != "RGB":
        picture = picture.convert("L").convert(mode) if mode in ("LA", "1") else picture.convert(mode)
    form = {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
    try:
        picture.save(file, form)
    except (OSError, ValueError):  # a mode that the format does not have
        Image.fromarray(numbers).save(file := io.BytesIO(), form)
    return file.getvalue()


def test_images(people, tmp_path):
    def make(draw: random.Random, place: Path) -> Case:
        link(people, place)
        written, named = draw.choice(FORMATS), draw.choice(FORMATS[:2])
        target = f"train_0_0.{named}"
        (place / "train_0_0.png").unlink()
        data = picture_bytes(draw, written)
        if draw.random() < 0.05:
            data = draw.choice(
                (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", b"<svg/>", b"P6 99999 99999 255\n")
            )
        (place / target).write_bytes(damaged(data, draw, BINARY))
        table = place / "people.csv"
        table.write_text(table.read_text().replace("train_0_0.png", target))
        policy = ["DATALOADER.BAD_IMAGES", draw.choice(("raise", "skip"))]
        if draw.random() < 0.8:
            words = ["csv:people.csv", "--contact-sheet", "sheet.jpg", "--read-images"]
            return Case("check_dataset", words, ("sheet.jpg",))
        return Case(
            "train_net", ["--config-file", "config.yml", "SOLVER.MAX_EPOCH", "1", "DATASETS.TESTS", "()", *policy]
        )

    check(failures("image", IMAGES, make, tmp_path))
