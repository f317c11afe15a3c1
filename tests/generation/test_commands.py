"""The commands of docs/diffusion_reid.md, in their order: from images of people to a backbone that a recipe reads."""

import json
import shlex
import shutil

import pytest
import torch

from tests.miniature import FEW_STEPS, PEOPLE, ROOT, run_tool
from tests.pages import TEXTS, blocks
from tests.tools import test_openpeople_to_table as of_openpeople

package = of_openpeople.package

COMMANDS = [
    line for block in blocks(TEXTS["docs/diffusion_reid.md"], "bash") for line in block.splitlines() if line.strip()
]
SMALL = shlex.split(
    "MODEL.DEVICE cpu DATASETS.NAMES \"['Market1501']\" DATASETS.ROOT datasets INPUT.SIZE_TRAIN [64,32] "
    "INPUT.SIZE_TEST [64,32] SOLVER.MAX_EPOCH 1 SOLVER.ITERS_PER_EPOCH 2 SOLVER.IMS_PER_BATCH 4 "
    "DATALOADER.NUM_WORKERS 0 DIFFPERSON.SD.WEIGHTS sd DIFFPERSON.GRAMMAR configs/grammars/rendered.yml "
    "DIFFPERSON.LPE.CAPTIONER file DIFFPERSON.LPE.CAPTION_FILE captions.jsonl DIFFPERSON.IIR.MODE table "
    "DIFFPERSON.DI.ARS_SIZE 3 DIFFPERSON.GEN.PER_ID 2 DIFFPERSON.GEN.STEPS 2 DIFFPERSON.GEN.SOLVER dpm++ "
    "DIFFPERSON.FILTER.NAMES \"['blur','near_copy']\" DIFFPERSON.FILTER.MIN_KEEP 3 DIFFPERSON.FILTER.MAX_ROUNDS 2 "
    "DIFFPERSON.FILTER.MIN_SHARPNESS 0.0"
)
BACKBONE = shlex.split("MODEL.BACKBONE.DEPTH 18x MODEL.BACKBONE.FEAT_DIM 512 INPUT.SIZE_TRAIN [64,32]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, assets):
    folder = tmp_path_factory.mktemp("commands")
    options = [word for name, value in PEOPLE.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    run_tool(
        "tools/render_benchmark.py", "--name", "Market1501", "--root", "datasets", "--captions", "captions.jsonl",
        "--workers", "1", *options, cwd=folder,
    )  # fmt: skip
    shutil.copytree(assets, folder / "sd")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


def added(tool, words):
    if tool == "tools/diffperson.py":
        return SMALL
    if tool == "tools/convert_checkpoint.py":
        return []
    keys = [*FEW_STEPS, *BACKBONE, "INPUT.SIZE_TEST", "[64,32]", "SOLVER.AMP.ENABLED", "False"]
    if any("pretrain_r50" in word for word in words):
        return [*keys, "SOLVER.MAX_EPOCH", "1", "SOLVER.ITERS_PER_EPOCH", "2"]
    return [*keys, "DATASETS.ROOT", "datasets", "SOLVER.MAX_EPOCH", "1", "MODEL.BACKBONE.WITH_NL", "False"]


def test_the_commands_of_the_page_run(folder):
    stages = ["caption", "reference", "train", "generate", "filter", "top-up", "export"]
    named = [shlex.split(line)[2:-2] for line in COMMANDS if "DiffPerson/base.yml" in line]
    assert named == [*([stage] for stage in stages), stages]
    for line in COMMANDS:
        if "openpeople" in line:
            continue
        python, tool, *words = shlex.split(line)
        assert python == "python"
        run_tool(tool, *words, *added(tool, words), cwd=folder)
    root = folder / "logs/DiffPerson/base"
    rows = [json.loads(line) for line in (root / "DiffPerson/meta.jsonl").read_text().splitlines()]
    assert {row["gid"] for row in rows} == set(range(8)) and {row["source"] for row in rows} == {"Market1501"}
    assert len(rows) == 32  # two rounds of two pictures
    # The backbone is the one of the pre-training, and the last run has started from it.
    written = torch.load(folder / "pretrained/diffperson_r50.pth", weights_only=True)["model"]
    trained = torch.load(folder / "logs/DiffPerson/pretrain_r50/model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(value, trained[f"backbone.{name}"]) for name, value in written.items()) and written
    log = next((folder / "logs").rglob("AGW_R50/log.txt"), None) or next((folder / "logs").rglob("*agw*/log.txt"))
    assert "pretrained/diffperson_r50.pth" in log.read_text()


def test_the_example_of_synthetic_people_runs(package, folder):
    table, captions = (line for line in COMMANDS if "openpeople" in line)
    run_tool(*shlex.split(table)[1:], "--height", "32", cwd=folder)
    run_tool(*shlex.split(captions)[1:], "MODEL.DEVICE", "cpu", "DATASETS.SKIP_MISSING", "False", cwd=folder)
    rows = (folder / "logs/DiffPerson/openpeople/captions/captions.jsonl").read_text().splitlines()
    expected = {"gender": "a man", "hair": "short black hair", "action": "standing", "view": "seen from the front"}
    assert json.loads(rows[-1])["attributes"] == expected


def test_the_card_can_be_read(folder):
    card = (folder / "logs/DiffPerson/base/DiffPerson/card.md").read_text()
    for text in ("Market1501", "rendered by this library: shows no real people", "LPE.CAPTIONER", "keep rate"):
        assert text.replace("_", "\\_") in card, text


def test_a_card_that_would_not_be_true_is_refused(folder):
    export = next(shlex.split(line)[2:] for line in COMMANDS if "diffperson.py export" in line)
    card = folder / "logs/DiffPerson/base/DiffPerson/card.md"
    before = card.read_text()
    assert "blip2" not in before and "IIR.CLIP" not in before.replace("\\", "")
    for keys, message in (
        (["DIFFPERSON.GEN.STEPS", "50"], "pictures was written with other settings: steps was 2, not 50"),
        (["DIFFPERSON.SD.WEIGHTS", "other"], "pictures was written with other settings: weights was"),
        (["DIFFPERSON.DI.PRIOR_WEIGHT", "2.0"], "the model in .* was trained with other settings: .*DI.PRIOR_WEIGHT"),
        (["DIFFPERSON.FILTER.MIN_SHARPNESS", "0.5"], "filter was begun with other filters"),
    ):
        with pytest.raises(SystemExit, match=message):
            run_tool("tools/diffperson.py", *export, *SMALL, *keys, cwd=folder)
        assert card.read_text() == before


def test_a_change_of_another_stage_does_not_stop_a_training(folder):
    train = next(shlex.split(line)[2:] for line in COMMANDS if "diffperson.py train" in line)
    checkpoint = folder / "logs/DiffPerson/base/train/model_final.pth"
    before = checkpoint.read_bytes()
    keys = ["DIFFPERSON.FILTER.MODE", "quantile", "DIFFPERSON.GEN.GUIDANCE", "2.0"]
    run_tool("tools/diffperson.py", *train, *SMALL, *keys, cwd=folder)
    assert checkpoint.read_bytes() == before
    with pytest.raises(SystemExit, match="DIFFPERSON.IIR.REG was 0.01, is 0.5"):
        run_tool("tools/diffperson.py", *train, *SMALL, "DIFFPERSON.IIR.REG", "0.5", cwd=folder)
