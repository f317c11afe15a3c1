#!/usr/bin/env python
"""Measures SD-ReID on the rendered benchmark: every variant of stage 2 against stage 1, over several seeds.

    python benchmarks/rendered.py [--seeds 1 2 3] [--root datasets/quickstart] [--output logs/rendered]
        [--rows ROW …] [--stage1 KEY VALUE …] [--on csv:FILE]

Trains the quickstart's two stages with `tools/train_net.py` for every seed, then the variants in ROWS on
the same stage 1, and prints (and writes to OUTPUT/results.md) two tables: mAP / Rank-1 per protocol as mean ± standard
deviation over the seeds, and the gain over stage 1, paired by seed. With --on the checkpoints are also evaluated on
another data set, in two more tables. What is finished is not run again.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastreid.evaluation.gains import mean_and_spread
from fastreid.utils.errors import reported_as

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
PROTOCOLS = {"CARGO": "ALL", "CARGO_AG": "A↔G", "CARGO_AA": "A↔A", "CARGO_GG": "G↔G"}
RELEASED = ("--overlay", "configs/_base_/released.yml")
MLP = ("--overlay", "configs/_base_/generator_mlp.yml")
JOINT_TRAINING = ("--overlay", "configs/_base_/joint_training.yml")
STAGE1 = "stage 1"
UNET = "UNet"
ONE_STEP, DIFFUSION, JOINT = "MLP, one step", "MLP, diffusion of 5 steps", "joint training"
HELD_OUT = "stage 1 on 70 % of the people"
DIFFUSE = (
    *("MODEL.SDMODEL.TRAIN_STEP", "1000", "MODEL.SDMODEL.SCHEDULER_CONFIG.NAME", "dpm++"),
    *("TEST.SDMODEL.NUM_INFERENCE_STEPS", "5", "TEST.SDMODEL.NOISE", "shared"),
)
# One step at no rate: what has a closed form is fitted, and nothing else is trained.
UNTRAINED = (
    *("SOLVER.MAX_EPOCH", "1", "SOLVER.ITERS_PER_EPOCH", "1", "SOLVER.WARMUP_ITERS", "0"),
    *("SOLVER.BASE_LR", "1e-12", "SOLVER.ETA_MIN_LR", "0.0"),
)
UNET_ALONE = ("MODEL.SDMODEL.LINEAR_MEAN", "False", "TEST.SDMODEL.GENERATED_WEIGHT", "0.6")
NO_CACHE = ("MODEL.SDMODEL.FEATURE_CACHE", "")
# Four passes over the training images for statistics.
SHORT = ("SOLVER.IMS_PER_BATCH", "64", "SOLVER.MAX_EPOCH", "4", "SOLVER.ITERS_PER_EPOCH", "92")
JOINTLY = (*MLP, *JOINT_TRAINING, *NO_CACHE, *SHORT)
LEARNT_NOISE = ("MODEL.SDMODEL.LEARNT_NOISE", "True")
AUGMENTED = tuple(
    word for step in ("PADDING", "REA", "CJ", "AFFINE") for word in (f"INPUT.{step}.ENABLED", "True")
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of the tables.

    Args:
        arguments: of train_net.py.
        evaluates: the row whose checkpoint is evaluated; "" trains one.
        starts_from: the row whose checkpoint the training starts from.
        is_stage1: whether stage 1 is trained.
    """

    arguments: tuple[str, ...] = ()
    evaluates: str = ""
    starts_from: str = STAGE1
    is_stage1: bool = False


ROWS = {
    "linear mean, whitened": Row((*MLP, *UNTRAINED)),
    ONE_STEP: Row(MLP),
    "whitened person vector, nothing generated": Row((*MLP, "TEST.SDMODEL.PARTS", "('person','latent')"), ONE_STEP),
    "MLP, one step, generated features alone": Row((*MLP, "TEST.SDMODEL.PARTS", "('generated',)"), ONE_STEP),
    # tools/choose_view_weights.py chose it on the people for validation, with one stage 1.
    "MLP, one step, a weight for each view": Row((*MLP, "TEST.SDMODEL.VIEW_WEIGHTS", "[1.5, 1.5]"), ONE_STEP),
    DIFFUSION: Row((*MLP, *DIFFUSE)),
    "the same, 8 draws": Row((*MLP, *DIFFUSE, "TEST.SDMODEL.NUM_DRAWS", "8"), DIFFUSION),
    "the same, 2 steps": Row((*MLP, *DIFFUSE, "TEST.SDMODEL.NUM_INFERENCE_STEPS", "2"), DIFFUSION),
    "the same, 20 steps": Row((*MLP, *DIFFUSE, "TEST.SDMODEL.NUM_INFERENCE_STEPS", "20"), DIFFUSION),
    "the same, 1 step from zeros": Row(
        (*MLP, *DIFFUSE, "TEST.SDMODEL.NUM_INFERENCE_STEPS", "1", "TEST.SDMODEL.NOISE", "zeros"), DIFFUSION
    ),
    "MLP, one step, standardised latents": Row(
        (*MLP, "MODEL.SDMODEL.WHITEN_LATENT", "False", "TEST.SDMODEL.GENERATED_WEIGHT", "1.0")
    ),
    "MLP, one step, no linear mean": Row((*MLP, "MODEL.SDMODEL.LINEAR_MEAN", "False")),
    "MLP, one step, target over the batch": Row((*MLP, "MODEL.SDMODEL.TARGET", "person_in_view")),
    "MLP, one step, without own view condition": Row((*MLP, "MODEL.SDMODEL.OWN_VIEW_CONDITION", "False")),
    "transformer, one step": Row(
        (*MLP, "MODEL.SDMODEL.DENOISER", "transformer", "MODEL.SDMODEL.TRANSFORMER_CONFIG.DEPTH", "2",
         "MODEL.SDMODEL.TRANSFORMER_CONFIG.HEADS", "3", "MODEL.SDMODEL.CON_LEARNER_CONFIG.HEADS", "3")
    ),
    "learnt starting noise, one step": Row((*MLP, *LEARNT_NOISE)),
    "learnt starting noise, 5 steps": Row((*MLP, *DIFFUSE, *LEARNT_NOISE)),
    "cross-entropy of generated vectors": Row((*MLP, "MODEL.SDMODEL.GENERATED_CE", "0.1")),
    "triplets of generated vectors": Row((*MLP, "MODEL.SDMODEL.GENERATED_TRIPLET", "0.1")),
    "MLP, one step, strong augmentation": Row((*MLP, *NO_CACHE, *AUGMENTED)),
    "MLP, one step, short": Row((*MLP, *SHORT)),
    JOINT: Row(JOINTLY),
    "joint training, person feature alone": Row((*JOINTLY, "TEST.SDMODEL.PARTS", "('person',)"), JOINT),
    "joint training, losses on generated vectors": Row(
        (*JOINTLY, "MODEL.SDMODEL.GENERATED_CE", "0.1", "MODEL.SDMODEL.GENERATED_TRIPLET", "0.1")
    ),
    # As long as stage 1 on all of them.
    HELD_OUT: Row(("DATASETS.PEOPLE", "[0.0, 0.7]", "SOLVER.ITERS_PER_EPOCH", "46"), is_stage1=True),
    "held out: MLP on all people": Row(MLP, starts_from=HELD_OUT),
    "held out: MLP on the other 30 %": Row((*MLP, "DATASETS.PEOPLE", "[0.7, 1.0]"), starts_from=HELD_OUT),
    "held out: MLP on the same 70 %": Row((*MLP, "DATASETS.PEOPLE", "[0.0, 0.7]"), starts_from=HELD_OUT),
    "linear mean, UNet not trained": Row(UNTRAINED),
    UNET: Row(),
    "UNet, generated features alone": Row(("TEST.SDMODEL.PARTS", "('generated',)"), UNET),
    "UNet without linear mean": Row(UNET_ALONE),
    "UNet without linear mean, own feature": Row((*UNET_ALONE, "MODEL.SDMODEL.TARGET", "own")),
    "released overlay": Row(RELEASED),
}  # fmt: skip


def folder_of(name: str) -> str:
    """Folder name of a row."""
    return "".join(c if c.isalnum() else "_" for c in name)


def train_net(config: str, output: Path, *arguments: str) -> None:
    """Run train_net; its figures are in OUTPUT/results.json."""
    if (output / "results.json").is_file():
        return
    starts = [index for index, word in enumerate(arguments) if word == "--overlay"]
    overlays = [word for index in starts for word in arguments[index : index + 2]]
    keys = [word for word in arguments if word not in (*overlays, "--eval-only")]
    flags = ["--eval-only"] if "--eval-only" in arguments else ["--resume"]
    command = [
        sys.executable,
        "tools/train_net.py",
        "--config-file",
        config,
        *overlays,
        *flags,
        "OUTPUT_DIR",
        str(output),
    ]
    subprocess.run([*command, *keys], cwd=ROOT, check=True)


@dataclass(frozen=True)
class Runs:
    """The runs of one seed.

    Args:
        seed: the seed.
        root: folder of the data sets.
        output: folder of all seeds.
        stage1: further keys of every stage 1.
    """

    seed: int
    root: str
    output: Path
    stage1: Sequence[str] = ()

    def folder(self, name: str) -> Path:
        """Folder of a row."""
        return self.output / f"seed{self.seed}" / ("stage1" if name == STAGE1 else folder_of(name))

    def result(self, name: str) -> dict[str, dict]:
        """Train or evaluate one row and return {protocol: figures}."""
        row, folder = ROWS.get(name, Row(is_stage1=True)), self.folder(name)
        if row.is_stage1:
            self._run(folder, "stage1", *self.stage1, *row.arguments)
        else:
            flags = ("--eval-only",) if row.evaluates else ()
            cache = ("MODEL.SDMODEL.FEATURE_CACHE", str(folder.parent / "features"))
            start = self._weights(row.evaluates or row.starts_from)
            self._run(folder, "stage2_unet", *flags, *start, *cache, *row.arguments)
        return _results(folder)

    def result_on(self, name: str, dataset: str) -> dict[str, dict]:
        """Evaluate the checkpoint of a row, which is trained, on another data set."""
        row, folder = ROWS.get(name, Row(is_stage1=True)), self.folder(name) / folder_of(dataset)
        config = "stage1" if row.is_stage1 else "stage2_unet"
        keys = (*self._weights(row.evaluates or name), "DATASETS.TESTS", str([dataset]), *row.arguments)
        self._run(folder, config, "--eval-only", *keys)
        return _results(folder)

    def _weights(self, name: str) -> tuple[str, str]:
        return "MODEL.WEIGHTS", str(self.folder(name) / "model_final.pth")

    def _run(self, folder: Path, config: str, *words: str) -> None:
        base = ("MODEL.SEED", str(self.seed), "DATASETS.ROOT", self.root)
        train_net(f"configs/quickstart/{config}.yml", folder, *base, *words)


def _results(folder: Path) -> dict[str, dict]:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def tables(
    rows: dict[str, list[dict[str, dict]]],
    protocols: Mapping[str, str] = PROTOCOLS,
    gain_title: str = "gain over stage 1, paired by seed",
) -> str:
    """Both tables as Markdown; rows: name -> results of each seed, first those over which the others gain."""
    baseline = next(iter(rows.values()))
    figures, gains = [], []
    for name, seeds in rows.items():
        cells, differences = [], []
        for protocol in protocols:
            after = {key: [s[protocol][key] for s in seeds] for key in ("mAP", "Rank-1")}
            before = {key: [s[protocol][key] for s in baseline] for key in after}
            cells.append(" / ".join(map(mean_and_spread, after.values())))
            paired = ([a - b for a, b in zip(after[key], before[key], strict=True)] for key in after)
            differences.append(" / ".join(mean_and_spread(difference, "+") for difference in paired))
        figures.append([name, *cells])
        gains.append([name, *differences])
    headers = ["mAP / Rank-1 (%)", *protocols.values()]
    gain_headers = [gain_title, *protocols.values()]
    return f"{tabulate(figures, headers, 'github')}\n\n{tabulate(gains[1:], gain_headers, 'github')}\n"


def main() -> None:
    """Parse the command line, run everything, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--root", default="datasets/quickstart", help="folder of the rendered CARGO")
    parser.add_argument("--output", type=Path, default=Path("logs/rendered"))
    parser.add_argument("--rows", nargs="+", metavar="ROW", default=list(ROWS), help="rows beside stage 1")
    parser.add_argument("--stage1", nargs="+", metavar="KEY VALUE", default=[], help="further keys of stage 1")
    parser.add_argument("--on", metavar="DATASET", help="also evaluate on this data set, such as csv:people.csv")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(ROWS):
        parser.error(f"no row is called {', '.join(sorted(unknown))}; rows are: {'; '.join(ROWS)}")
    root, output = str(Path(args.root).resolve()), args.output.resolve()
    runs = [Runs(seed, root, output, args.stage1) for seed in args.seeds]
    rows, others, text = {}, {}, ""
    for name in (STAGE1, *args.rows):
        rows[name] = [each.result(name) for each in runs]
        text = tables(rows)
        if args.on:
            others[name] = [each.result_on(name, args.on) for each in runs]
            text += f"\n{tables(others, {protocol: protocol for protocol in others[name][0]})}"
        (output / "results.md").write_text(text, encoding="utf-8")  # the results so far
    print(text)


if __name__ == "__main__":
    with reported_as("rendered"):
        main()
