#!/usr/bin/env python
"""Measures what pre-training on written people is worth, with and without parts of Diffusion-ReID, over seeds.

    python benchmarks/written.py [--seeds 1 2 3] [--rows ROW …] [--output logs/written]

`./quickstart.sh diffperson` renders the data, and trains the small Stable Diffusion and the models that judge. Then
each row of each seed trains a generator, writes and filters pictures, pre-trains the quickstart's small ViT on them,
and trains it in another place. Finished parts are not repeated. The tables have mAP / Rank-1 as mean ± standard
deviation over seeds, gains over random weights that are paired by seed, and what the data cards say of the pictures.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreid.evaluation.gains import mean_and_spread
from fastreid.generation.captioned import CaptionedPictures, load_pictures
from fastreid.generation.colour_check import ColourCheck
from fastreid.methods.diffusion_reid.captions import read_captions
from fastreid.rendering.people import CLOTHES
from fastreid.utils.errors import reported_as
from rendered import ROOT, folder_of, tables, train_net

import torch
from PIL import Image
from tabulate import tabulate
from torchvision.transforms.v2.functional import pil_to_tensor

DATA = ROOT / "datasets/quickstart_diffperson"
RANDOM, ALL = "random weights", "written pictures"
RENDERED = "the rendered images that the generator learnt from"
# The first is trained and tested in the new place, the second is trained where the pictures come from.
SETTINGS = {"supervised": "all images of the new place", "generalization": "direct transfer"}
PLACES = {"Market1501": "alone: mAP where they were learnt", "MSMT17": "alone: mAP in the new place"}
PARTS = ("upper", "lower")
FACTS = {
    "same person": ("cosine of a written picture and a real image", "same person"),
    "other person": ("cosine of a written picture and a real image", "other person"),
    "distance within a person": ("mean distance within a person", "written"),
}


@dataclass(frozen=True)
class Row:
    """The pictures of a row.

    Args:
        keys: of diffperson.py.
        stages: the stages that it runs.
        pictures_of: the row that has written them, if the first stages are left out.
    """

    keys: tuple[str, ...] = ()
    stages: tuple[str, ...] = ("caption", "reference", "train", "generate", "filter", "export")
    pictures_of: str = ""


ROWS = {
    ALL: Row(),
    "written without captions": Row(
        ("DIFFPERSON.LPE.CAPTIONER", "none"), ("reference", "train", "generate", "filter", "export")
    ),
    "written without identity words": Row(("DIFFPERSON.IIR.MODE", "off")),
    "written without Diversity Injection": Row(
        ("DIFFPERSON.DI.ENABLED", "False"), ("caption", "train", "generate", "filter", "export")
    ),
    "written pictures, no filter": Row(("DIFFPERSON.FILTER.NAMES", "[]"), ("filter", "export"), ALL),
    "written pictures, filtered by thresholds": Row(("DIFFPERSON.FILTER.MODE", "threshold"), ("filter", "export"), ALL),
}


def tool(name: str, *words: str) -> None:
    """Run a program of tools/."""
    subprocess.run([sys.executable, f"tools/{name}.py", *words], cwd=ROOT, check=True)


def write(row: Row, seed: int, folder: Path) -> None:
    """Run the stages of Diffusion-ReID; the data set is FOLDER/DiffPerson."""
    if row.pictures_of:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("captions", "pictures"):
            if not (folder / name).exists():
                (folder / name).symlink_to(folder.parent / folder_of(row.pictures_of) / name)
    keys = ["MODEL.SEED", str(seed), "DIFFPERSON.GEN.SEED", str(seed), "DATASETS.ROOT", str(DATA), *row.keys]
    config = ("--config-file", "configs/quickstart/diffperson.yml")
    tool("diffperson", *row.stages, *config, "OUTPUT_DIR", str(folder), *keys)


def backbone_of(name: str, seed: int, folder: Path) -> Path:
    """Pre-train the backbone of a row and return its file."""
    path = folder / "backbone.pth"
    if path.is_file():
        return path
    keys = ["MODEL.SEED", str(seed), "DATASETS.TESTS", "[]", "OUTPUT_DIR", str(folder / "pretrain")]
    if name == RENDERED:
        keys += ["DATASETS.ROOT", str(DATA), "DATASETS.NAMES", "['Market1501']"]
        keys += ["DATASETS.SUBSET.MODE", "few_shot", "DATASETS.SUBSET.RATIO", "0.8"]  # as the generator
    else:
        if not (folder / "DiffPerson/figures.json").is_file():
            write(ROWS[name], seed, folder)
        keys += ["DATASETS.ROOT", str(folder)]
    tool("train_net", "--config-file", "configs/quickstart/diffperson_pretrain.yml", "--resume", *keys)
    tool("convert_checkpoint", "--overwrite", "--backbone", str(folder / "pretrain/model_final.pth"), str(path))
    return path


def run(name: str, seed: int, folder: Path) -> dict[str, dict]:
    """Return the figures of one row and seed in each setting."""
    found = {}
    for setting in SETTINGS:
        keys = ["MODEL.SEED", str(seed), "DATASETS.ROOT", str(DATA)]
        if name != RANDOM:
            backbone = backbone_of(name, seed, folder)
            keys += ["MODEL.BACKBONE.PRETRAIN", "True", "MODEL.BACKBONE.PRETRAIN_PATH", str(backbone)]
        if setting == "generalization":
            keys += ["DATASETS.NAMES", "['Market1501']"]
        train_net("configs/quickstart/diffperson_transfer.yml", folder / setting, *keys)
        results = json.loads((folder / setting / "results.json").read_text(encoding="utf-8"))
        found[setting] = results["MSMT17"]
    return found


def alone(folder: Path) -> dict[str, dict]:
    """Return the figures of the model that was trained on the pictures of a row alone, in both places."""
    keys = ["DATASETS.ROOT", str(DATA), "DATASETS.TESTS", str(list(PLACES))]
    weights = str(folder / "pretrain/model_final.pth")
    train_net(
        "configs/quickstart/diffperson_pretrain.yml", folder / "alone", "--eval-only", "MODEL.WEIGHTS", weights, *keys
    )
    return json.loads((folder / "alone/results.json").read_text(encoding="utf-8"))


class Clothes:
    """Whether written pictures show the colours of their person's clothes, by the captions of the rendered images."""

    def __init__(self) -> None:
        everything = read_captions(DATA / "captions.jsonl")
        captions = {path: caption for path, caption in everything.items() if "bounding_box_train" in path}
        self._of_person = {int(Path(path).name[:4]): caption for path, caption in captions.items()}
        self._rendered = load_pictures(captions, 64, 32)
        self._check = ColourCheck(self._rendered, tuple(CLOTHES))

    def shares(self, name: str, folder: Path) -> list[float]:
        """Return the shares in percent, of upper and of lower clothes; pictures with other clothes are left out."""
        data = self._rendered
        if name in ROWS:
            lines = (folder / "DiffPerson/meta.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [row for row in map(json.loads, lines) if row["swapped"] not in PARTS]
            images = folder / "DiffPerson/images"
            pictures = [pil_to_tensor(Image.open(images / row["file"]).convert("RGB")) for row in rows]
            data = CaptionedPictures(torch.stack(pictures), [self._of_person[int(row["person"])] for row in rows])
        found = self._check.share_right(data)
        return [100 * found[part] for part in PARTS]


def facts(name: str, folders: Sequence[Path], clothes: Clothes) -> list[str]:
    """Return a row of the table of pictures: what the data cards of its seeds say, colours, and `alone`."""
    files = [folder / "DiffPerson/figures.json" for folder in folders] if name in ROWS else []
    cards = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    written = [mean_and_spread([100 * card["keep rate"]["kept"] for card in cards])]
    for a, b in FACTS.values():
        written.append(f"{sum(card[a][b] for card in cards) / len(cards):.2f}" if cards else "–")
    written += map(mean_and_spread, zip(*(clothes.shares(name, folder) for folder in folders), strict=True))
    figures = [alone(folder) for folder in folders]
    return [name, *written, *(mean_and_spread([one[place]["mAP"] for one in figures]) for place in PLACES)]


def main() -> None:
    """Parse the command line, run everything, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rows", nargs="+", metavar="ROW", default=[*ROWS, RENDERED], help="beside random weights")
    parser.add_argument("--output", type=Path, default=Path("logs/written"))
    args = parser.parse_args()
    if unknown := set(args.rows) - {*ROWS, RENDERED}:
        parser.error(f"no row is called {', '.join(sorted(unknown))}; rows are: {'; '.join([*ROWS, RENDERED])}")
    output = args.output.resolve()
    folders = {name: [output / f"seed{seed}" / folder_of(name) for seed in args.seeds] for name in (RANDOM, *args.rows)}
    rows = {
        name: [run(name, seed, folder) for seed, folder in zip(args.seeds, of_row, strict=True)]
        for name, of_row in folders.items()
    }
    clothes = Clothes()
    pictures = [facts(name, of_row, clothes) for name, of_row in folders.items() if name != RANDOM]
    headers = ["pictures", "kept (%)", *FACTS, *(f"{part} clothes right (%)" for part in PARTS), *PLACES.values()]
    text = tables(rows, SETTINGS, "gain over random weights")
    text += f"\n{tabulate(pictures, headers, 'github', disable_numparse=True)}\n"
    (output / "results.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    with reported_as("written"):
        main()
