"""The command line of tools/diffperson.py: what it refuses, with a sentence."""

import itertools
import json
import os
import shutil

import pytest

from tests.methods.diffusion_reid import conftest as of_generator
from tests.miniature import run_tool

assets, place, factory_keys = of_generator.assets, of_generator.place, of_generator.factory_keys


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "--dry-run"], "--dry-run is an option of the stage train only; generate is shared by --shard"),
        (["filter", "--num-gpus", "2"], "--num-gpus is an option of the stage train only"),
        (["caption", "--resume"], "--resume is an option of the stage train only"),
        (["train", "--eval-only"], "--eval-only: the generator is not evaluated"),
        (["export", "--shard", "3/2"], "--shard 3/2: the first number must be 1 to 2"),
        (["export", "DIFFPERSON.GEN.STEPS", "3", "--shard", "3/2"], "--shard 3/2: the first number must be 1 to 2"),
        (["export", "DIFFPERSON.GEN.STEPS", "3", "--shard=3/2"], "--shard 3/2: the first number must be 1 to 2"),
        (["train", "--shard", "1/2", "DIFFPERSON.LPE.CAPTIONER", "none"], "one model of all people is not trained in"),
        (["generate", "DIFFPERSON.PERSON", "0"], "DIFFPERSON.PERSON is set by the stage train with .* take it out"),
        (["generate", "DIFFPERSON.GEN.STEP", "3"], "unknown key DIFFPERSON.GEN.STEP .*did you mean .*STEPS"),
    ],
)
def test_words_that_cannot_be_meant(tmp_path, words, said):
    with pytest.raises(SystemExit, match=said):
        run_tool("tools/diffperson.py", *words, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_each_person_is_trained_once(place, assets, tmp_path, capsys):
    keys = [
        *factory_keys(place, assets), "DIFFPERSON.GRANULARITY", "per_id", "OUTPUT_DIR", str(tmp_path / "out"),
        "SOLVER.MAX_EPOCH", "1", "SOLVER.ITERS_PER_EPOCH", "1", "DIFFPERSON.GEN.STEPS", "1", "SOLVER.WARMUP_ITERS", "0",
        "SOLVER.IMS_PER_BATCH", "2",
    ]  # fmt: skip

    def train(*words):
        run_tool("tools/diffperson.py", "train", *keys, *words, cwd=tmp_path)
        folders = [tmp_path / f"out/train/{gid:05d}" for gid in range(3)]
        assert all((folder / "sheet.jpg").is_file() for folder in folders)
        return [(folder / "model_final.pth").read_bytes() for folder in folders]

    run_tool("tools/diffperson.py", "caption", *keys, cwd=tmp_path)
    first = train()
    assert len({*first}) == 3
    (tmp_path / "out/train/00001/sheet.jpg").unlink()  # as after a kill before it was drawn
    capsys.readouterr()
    assert train("DIFFPERSON.GEN.GUIDANCE", "2.0") == first
    assert "iterations in" not in capsys.readouterr().out  # nothing was trained again
    with pytest.raises(
        SystemExit, match=r"00000/model_final.pth is of a run that trains on something else: SOLVER.BASE"
    ):
        train("SOLVER.BASE_LR", "0.5")


def test_models_of_one_person_are_not_trained_by_torchrun(place, assets, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    keys = [*factory_keys(place, assets), "DIFFPERSON.GRANULARITY", "per_id", "DIFFPERSON.LPE.CAPTIONER", "none"]
    with pytest.raises(SystemExit, match="not trained by torchrun: use --shard i/n, or --num-gpus"):
        run_tool("tools/diffperson.py", "train", *keys, "OUTPUT_DIR", str(tmp_path), cwd=tmp_path)


def test_stages_run_one_after_another(place, assets, tmp_path):
    keys = [
        *factory_keys(place, assets), "SOLVER.MAX_EPOCH", "1", "SOLVER.ITERS_PER_EPOCH", "1",
        "SOLVER.WARMUP_ITERS", "0", "SOLVER.IMS_PER_BATCH", "2", "DIFFPERSON.GEN.STEPS", "1",
        "DIFFPERSON.GEN.PER_ID", "2", "DIFFPERSON.DI.FOLDER", "", "DIFFPERSON.DI.ARS_SIZE", "2",
    ]  # fmt: skip
    stages = ["caption", "reference", "train", "generate"]
    run_tool("tools/diffperson.py", *stages, *keys, "OUTPUT_DIR", str(tmp_path / "at_once"), cwd=tmp_path)
    for stage in stages:
        run_tool("tools/diffperson.py", stage, *keys, "OUTPUT_DIR", str(tmp_path / "singly"), cwd=tmp_path)
    pictures = [sorted((tmp_path / name / "pictures").rglob("*.png")) for name in ("at_once", "singly")]
    assert len(pictures[0]) == 3 * 2
    assert [path.read_bytes() for path in pictures[0]] == [path.read_bytes() for path in pictures[1]]


def test_a_finished_factory_can_be_moved_and_refuses_what_its_card_would_get_wrong(place, assets, tmp_path, caplog):
    words = [
        "SOLVER.MAX_EPOCH", "1", "SOLVER.ITERS_PER_EPOCH", "1", "SOLVER.WARMUP_ITERS", "0", "SOLVER.IMS_PER_BATCH", "2",
        "DIFFPERSON.GEN.STEPS", "1", "DIFFPERSON.GEN.PER_ID", "2", "DIFFPERSON.DI.FOLDER", "",
        "DIFFPERSON.DI.ARS_SIZE", "2", "DIFFPERSON.FILTER.NAMES", "['near_copy']", "DIFFPERSON.FILTER.MIN_KEEP", "1",
        "DIFFPERSON.FILTER.MAX_CORRELATION", "1.0",
    ]  # fmt: skip
    before, data = tmp_path / "before", tmp_path / "data"

    def keys_of(folder):
        return [
            *factory_keys(folder, assets), "DATASETS.NAMES", "['csv:people.csv']", "DATASETS.ROOT", str(folder), *words,
        ]  # fmt: skip

    keys = keys_of(place)

    def run(*stages_and_words):
        stages = list(itertools.takewhile(str.islower, stages_and_words))
        own = stages_and_words[len(stages) :]
        run_tool("tools/diffperson.py", *stages, *keys, "OUTPUT_DIR", str(before), *own, cwd=tmp_path)

    run("caption", "reference", "train")
    with pytest.raises(SystemExit, match="the model in .* was trained with other settings: DIFFPERSON.LPE.TEMPLATE"):
        run("generate", "DIFFPERSON.LPE.TEMPLATE", "a <id> man, {caption}")
    run("generate", "filter", "export")
    card = (before / "DiffPerson/card.md").read_text()
    assert "filter, " not in card.split("## Counts")[0]  # near_copy has no model
    trained = (before / "train/model_final.pth").read_bytes()
    refused = {
        ("train", "DIFFPERSON.DI.ARS_SIZE", "5"): "reference was written with other settings: pictures was 2, not 5",
        ("train", "DIFFPERSON.DI.FINE_GRAINED", "False"): "reference was written with other settings: prompts was",
        ("export", "DIFFPERSON.GEN.PER_ID", "4"): r"3 of 3 people do not have DIFFPERSON.GEN.PER_ID 4 .*with 2\)",
        ("export", "DIFFPERSON.FILTER.MIN_KEEP", "7"): "run with other DIFFPERSON.FILTER.MIN_KEEP, .*'min_keep': 1",
        ("export", "DIFFPERSON.LPE.CAPTION_FILE", __file__): "other settings: content of the caption file was",
    }
    for wrong, said in refused.items():
        with pytest.raises(SystemExit, match=said):
            run(*wrong)
    # Elsewhere, it goes on: nothing is trained or written again.
    os.rename(before, tmp_path / "after")
    before = tmp_path / "after"
    shutil.copytree(place, data)
    keys = keys_of(data)
    with pytest.raises(SystemExit, match="if images were moved, the stage caption of tools/diffperson.py writes them"):
        run("train")
    run("caption", "train", "generate", "filter", "export")
    assert "the place of the images is another one now" in caplog.text
    rows = [json.loads(line) for line in (before / "captions/captions.jsonl").read_text().splitlines()]
    assert {os.path.dirname(row["image"]) for row in rows} == {os.path.realpath(data)}
    assert (before / "train/model_final.pth").read_bytes() == trained


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the stage is missing: it comes first, and is one or more of caption, reference, train"),
        (["--config-file", "x.yml"], "the stage is missing"),
        (["tran"], "unknown stage 'tran'; did you mean 'train'"),
        (["caption", "tran"], "unknown stage 'tran'"),
        (["train", "generate", "--num-gpus", "2"], "--num-gpus is an option of the stage train only; generate is"),
    ],
)
def test_words_that_are_no_stages(tmp_path, words, said, capsys):
    with pytest.raises(SystemExit) as raised:
        run_tool("tools/diffperson.py", *words, cwd=tmp_path)
    assert said in f"{raised.value} {capsys.readouterr().err}" and list(tmp_path.iterdir()) == []
