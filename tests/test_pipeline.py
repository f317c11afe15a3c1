"""The public tools and scripts from end to end, on twelve people and a few iterations."""

import json
import os
import shutil
import subprocess

import pytest
import torch

from fastreid.config import get_cfg, with_values
from fastreid.data import build_feature_loader
from fastreid.data.images import read_image
from fastreid.encoder import Predictor
from fastreid.engine import DefaultPredictor, DefaultTrainer
from fastreid.structures import PersonImage
from fastreid.utils.checkpoint import read_checkpoint
from fastreid.utils.seal import save_sealed
from tests.miniature import FEW_STEPS, ROOT, finished_quickstart, make_scratch
from tests.warm_python import warm_python

PROTOCOLS = ["CARGO", "CARGO_AA", "CARGO_AG", "CARGO_GG"]
FIGURES = ["Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", "metric", "valid_queries"]
LOGS = "logs/quickstart"


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
    """A scratch copy in which ./quickstart.sh has run, with its output."""
    return finished_quickstart(tmp_path_factory.getbasetemp())


@pytest.fixture
def scratch(quickstart):
    scratch, _ = quickstart
    scratch.calls()
    return scratch


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def train(scratch, stage, output, *words):
    """Run train_net with a config of the quickstart in the scratch copy, and return its output."""
    keys = ["DATASETS.ROOT", "datasets/quickstart", "OUTPUT_DIR", str(output), *FEW_STEPS]
    options = [word for word in words if word.startswith("--")]
    keys += [word for word in words if word not in options]
    return scratch.tool("tools/train_net.py", "--config-file", f"configs/quickstart/{stage}.yml", *options, *keys)


# ./quickstart.sh


def test_quickstart_prints_its_steps_and_one_table(quickstart):
    _, done = quickstart
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("==> ")]
    steps_in_order = ["rendering", "assets", "stage 1", "stage 2", "report", "report", "done in"]
    assert [word for line in steps for word in dict.fromkeys(steps_in_order) if word in line] == steps_in_order
    table = done.stdout[done.stdout.index("ALL ") :].splitlines()
    assert all(title in table[0] for title in ("ALL", "A↔G", "A↔A", "G↔G"))
    assert table[1].split() == ["Rank-1", "mAP", "mINP"] * 4
    rows = [line.split("  ")[0] for line in table[3:6]]
    assert rows == ["stage 1", "stage 2", "chance"]


def test_quickstart_leaves_figures_of_both_stages_and_a_report(quickstart):
    logs = quickstart[0].folder / LOGS
    both = results_of(logs)
    assert list(both) == ["stage1", "stage2"]
    for stage, results in both.items():
        assert sorted(results) == PROTOCOLS and results == results_of(logs / stage)
        for figures in results.values():
            assert list(figures) == FIGURES and isinstance(figures["valid_queries"], int)
            assert all(0 <= figures[name] <= 100 for name in FIGURES[:-1])
            assert figures["Rank-1"] <= figures["Rank-5"] <= figures["Rank-10"]
            assert figures["metric"] == pytest.approx((figures["mAP"] + figures["Rank-1"]) / 2)
    # Four test people with one query in each view: half of the eight queries are valid within a view.
    assert [both["stage2"][name]["valid_queries"] for name in PROTOCOLS] == [8, 4, 8, 4]
    page = (logs / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>") and all(title in page for title in ("A↔G", "A↔A", "G↔G"))


def test_quickstart_calls_public_tools_that_it_names(scratch):
    assert scratch.script("quickstart.sh", on_tool="note").returncode == 0
    tools = [call.split()[0] for call in scratch.calls() if call.startswith("tools/")]
    public = {f"tools/{name}.py" for name in ("render_benchmark", "make_assets", "train_net", "make_report")}
    assert tools and set(tools) <= public


def trainings(scratch):
    """Return the configs that quickstart.sh trains if it runs now."""
    assert scratch.script("quickstart.sh", on_tool="note").returncode == 0
    calls = [call.split() for call in scratch.calls() if "train_net" in call]
    assert all("--resume" in call for call in calls)
    return [call[call.index("--config-file") + 1].split("/")[-1] for call in calls]


def test_a_second_quickstart_trains_only_what_is_unfinished(scratch):
    assert trainings(scratch) == []
    results = scratch.folder / LOGS / "stage2/results.json"
    os.rename(results, scratch.folder / "kept")
    assert trainings(scratch) == ["stage2.yml"]  # interrupted in its last evaluation
    os.rename(scratch.folder / "kept", results)
    assert trainings(scratch) == []


def test_stage2_is_trained_anew_on_a_new_stage1(scratch, tmp_path):
    logs = scratch.folder / LOGS
    shutil.move(logs, tmp_path / "kept")
    try:
        shutil.copytree(tmp_path / "kept", logs)
        for path in logs.rglob("*.*"):
            os.utime(path, (2**31, 2**31))  # dates are not used
        assert trainings(scratch) == []
        final = logs / "stage1/model_final.pth"  # as if stage 1 had been trained again
        save_sealed(read_checkpoint(final) | {"best_metric": 0.0}, final)
        assert trainings(scratch) == ["stage2.yml"]
        assert not (logs / "stage2").exists()  # the old run cannot be resumed
    finally:
        shutil.rmtree(logs)
        shutil.move(tmp_path / "kept", logs)


def test_the_scripts_name_the_step_that_failed(tmp_path):
    scratch = make_scratch(tmp_path / "copy")
    failed = scratch.script("quickstart.sh", on_tool="fail")
    assert failed.returncode == 3
    assert failed.stderr.strip().splitlines()[-1].startswith("quickstart.sh: failed while rendering the benchmark")


def test_an_interrupted_script_says_how_to_continue(tmp_path):
    done = make_scratch(tmp_path / "copy").script("quickstart.sh", on_tool="interrupt")
    assert done.returncode == 130
    last = done.stderr.strip().splitlines()[-1]
    assert last == "quickstart.sh: interrupted while rendering the benchmark; call it again, it continues from there"


def test_the_environment_is_installed_once(tmp_path):
    scratch = make_scratch(tmp_path / "copy")
    installs = []
    for _ in range(2):
        assert scratch.script("run_tests.sh", "-k", "some words", on_tool="note").returncode == 0
        calls = scratch.calls()
        installs.append([call for call in calls if "pip install" in call])
        assert calls[-1] == "-m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -k some words"
    first, second = installs
    assert any("requirements.txt" in call and "requirements-dev.txt" in call for call in first)
    assert any("--editable ." in call for call in first) and not second


# Several processes

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "tools/train_net.py"]
OWN = ["tools/train_net.py", "--num-gpus", "2"]


def two_processes(scratch, launcher, stage, output, *words):
    """Run train_net in two processes on a CPU, from a script, and return the checkpoint."""
    command = [*launcher, "--config-file", f"configs/quickstart/{stage}.yml", *words]
    if launcher is TORCHRUN:  # the Python of the scratch copy adds these only to a tool that it starts itself
        command += FEW_STEPS
    keys = ["DATASETS.ROOT", "datasets/quickstart", "OUTPUT_DIR", str(output)]
    options = {"cwd": scratch.folder, "env": os.environ | {"PYTHONPATH": str(ROOT)}, "text": True}
    python = warm_python() if launcher is TORCHRUN else scratch.python
    done = subprocess.run([python, *command, *keys], capture_output=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(output / "model_final.pth", weights_only=True)


def test_two_processes_train_and_evaluate(scratch, tmp_path):
    checkpoint = two_processes(scratch, OWN, "stage1", tmp_path)
    assert checkpoint["model"]["person.memory.seen"].all() and len(checkpoint["rng"]) == 2
    assert sorted(results_of(tmp_path)) == PROTOCOLS
    evaluated = tmp_path / "alone"
    train(scratch, "stage1", evaluated, "--eval-only", "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    assert results_of(evaluated) == results_of(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "overlay"),
    [("stage2", []), ("stage2_unet", []), ("stage2_unet", ["--overlay", "configs/_base_/released.yml"])],
    ids=["small", "described", "released"],
)
def test_two_processes_train_stage2(scratch, tmp_path, config, overlay):
    two_processes(scratch, TORCHRUN, config, tmp_path, *overlay)
    assert sorted(results_of(tmp_path)) == PROTOCOLS


# Each tool alone, in this process


def test_data_and_assets_are_not_made_again(scratch):
    assert "already there" in scratch.tool("tools/render_benchmark.py", *rendering_of(scratch))
    assert "nothing to do" in scratch.tool("tools/make_assets.py", "--size", "tiny")
    with pytest.raises(SystemExit, match="something else than size tiny with seed 1"):
        scratch.tool("tools/make_assets.py", "--size", "tiny", "--seed", "1")


def rendering_of(scratch):
    request = json.loads((scratch.folder / "datasets/quickstart/CARGO/render.json").read_text())["request"]
    counts = (f"--{name.replace('_', '-')}={request[name]}" for name in ("train_ids", "test_ids", "images_per_id"))
    return ["--root", "datasets/quickstart", "--seed", str(request["seed"]), *counts]


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_eval_only_repeats_the_figures_of_training(scratch, stage, tmp_path):
    run = scratch.folder / LOGS / stage
    said = train(scratch, stage, tmp_path, "--eval-only", "MODEL.WEIGHTS", str(run / "model_final.pth"))
    assert results_of(tmp_path) == results_of(run) and "CARGO_AG" in said


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_resuming_a_finished_run_only_evaluates_it(scratch, stage, tmp_path):
    shutil.copytree(scratch.folder / LOGS / stage, tmp_path / "run")
    before = (tmp_path / "run/model_final.pth").stat().st_mtime_ns
    (tmp_path / "run/results.json").unlink()
    assert "has finished its 2 epochs" in train(scratch, stage, tmp_path / "run", "--resume")
    assert (tmp_path / "run/model_final.pth").stat().st_mtime_ns == before
    assert results_of(tmp_path / "run") == results_of(scratch.folder / LOGS / stage)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_an_interrupted_and_resumed_run_equals_an_uninterrupted_one(scratch, stage, tmp_path, monkeypatch):
    step = DefaultTrainer.run_step

    def interrupted(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        step(trainer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(DefaultTrainer, "run_step", interrupted)
        train(scratch, stage, tmp_path)
    assert not (tmp_path / "model_final.pth").exists()
    assert "1 of 2 epochs done" in train(scratch, stage, tmp_path, "--resume")
    whole = torch.load(scratch.folder / LOGS / stage / "model_final.pth", weights_only=True)["model"]
    resumed = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert results_of(tmp_path) == results_of(scratch.folder / LOGS / stage)


def test_stage2_keeps_stage1_bit_for_bit(scratch):
    stage1, stage2 = (
        torch.load(scratch.folder / LOGS / stage / "model_final.pth", weights_only=True)["model"]
        for stage in ("stage1", "stage2")
    )
    assert all(torch.equal(stage2[name], value) for name, value in stage1.items())
    assert any(name.startswith("denoiser.") for name in stage2)


def test_common_mistakes_end_with_one_line(scratch, tmp_path):
    with pytest.raises(SystemExit, match="train_net: error: CARGO: no images in nowhere"):
        train(scratch, "stage1", tmp_path, "DATASETS.ROOT", "nowhere")
    with pytest.raises(SystemExit, match=r"train_net: error: no UNet in 'nowhere'.*make_assets"):
        train(scratch, "stage2_unet", tmp_path, "MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", "nowhere")
    with pytest.raises(SystemExit, match=r"train_net: error: no weights file nowhere\.pth"):
        train(scratch, "stage2", tmp_path, "MODEL.WEIGHTS", "nowhere.pth")
    with pytest.raises(SystemExit, match=r"train_net: error: .*8 training people are fewer than the"):
        train(scratch, "stage1", tmp_path, "SOLVER.IMS_PER_BATCH", "64")
    with pytest.raises(SystemExit, match=r"images are of views \[0, 1\], but MODEL.SDMODEL.VIEW_NUM is 1: set it to 2"):
        train(scratch, "stage1", tmp_path, "--dry-run", "MODEL.SDMODEL.VIEW_NUM", "1")


def test_an_image_that_a_worker_cannot_read_is_named(scratch, tmp_path):
    shutil.copytree(scratch.folder / "datasets/quickstart", tmp_path / "data")
    broken = next((tmp_path / "data/CARGO/query").rglob("*.jpg"))
    broken.write_bytes(broken.read_bytes()[:200])
    words = ["--eval-only", "MODEL.WEIGHTS", f"{LOGS}/stage1/model_final.pth", "DATALOADER.NUM_WORKERS", "1"]
    with pytest.raises(SystemExit) as stop:
        train(scratch, "stage1", tmp_path / "out", *words, "DATASETS.ROOT", str(tmp_path / "data"))
    assert str(stop.value).startswith(f"train_net: error: cannot read image {broken}")
    assert "\n" not in str(stop.value)


def test_notices_of_the_config_are_logged_once(scratch, tmp_path):
    train(scratch, "stage1", tmp_path, "--dry-run", "SOLVER.LOG_PERIOD", "200")
    assert (tmp_path / "log.txt").read_text().count("SOLVER.LOG_PERIOD is not needed") == 1


def test_stage2_requires_a_stage1_that_has_seen_every_view(scratch, tmp_path):
    content = torch.load(scratch.folder / LOGS / "stage1/model_final.pth", weights_only=True)
    content["model"]["person.memory.seen"][1] = False
    torch.save(content, tmp_path / "one_view.pth")
    with pytest.raises(SystemExit, match=r"views \[1\] have no centre: stage 1 never saw them"):
        train(scratch, "stage2", tmp_path / "out", "--dry-run", "MODEL.WEIGHTS", str(tmp_path / "one_view.pth"))


def test_the_report_can_be_written_alone(scratch, tmp_path):
    runs = ["--stage1", f"{LOGS}/stage1", "--stage2", f"{LOGS}/stage2"]
    outputs = ["--output", str(tmp_path / "page.html"), "--results", str(tmp_path / "both.json")]
    said = scratch.tool("tools/make_report.py", *runs, *outputs)
    assert "chance" in said and (tmp_path / "page.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "both.json").read_text()) == results_of(scratch.folder / LOGS)


def test_a_predictor_gives_the_descriptors_that_are_evaluated(scratch, monkeypatch):
    monkeypatch.chdir(scratch.folder)
    made = get_cfg()
    made.merge_from_file(str(ROOT / "configs/quickstart/stage2.yml"))
    made.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "logs/quickstart/stage2/model_final.pth"])
    made.merge_from_list(["DATALOADER.NUM_WORKERS", 0])
    predictor = DefaultPredictor(made)
    paths = sorted((scratch.folder / "datasets/quickstart/CARGO/query").rglob("*.jpg"))[:3]
    described = predictor.describe([*paths, paths[0]])
    assert torch.equal(described[0], described[3]) and len(described) == 4
    pixels = next(iter(build_feature_loader(made, [PersonImage(str(path), 0, 0) for path in paths])))["images"]
    torch.testing.assert_close(predictor(pixels), described[:3])
    with pytest.raises(ValueError, match=r"does not take images of 64x64, its INPUT.SIZE_TEST is 128x64"):
        predictor(torch.zeros(3, 64, 64))


def test_a_checkpoint_of_stage2_is_enough_to_generate_features(scratch, monkeypatch):
    monkeypatch.chdir(scratch.folder)
    mine = Predictor(f"{LOGS}/stage2/model_final.pth", device="cpu")
    paths = sorted((scratch.folder / "datasets/quickstart/CARGO/query").rglob("*.jpg"))[:3]
    features = mine.embed(paths, normalize=False)
    torch.testing.assert_close(features, DefaultPredictor(mine.cfg).describe(paths))
    by_name = Predictor(
        f"{LOGS}/stage2/model_final.pth", config=with_values(mine.cfg, {"TEST.SDMODEL.NOISE": "name"}), device="cpu"
    )
    pictures = [read_image(str(path)) for path in paths]
    expected = by_name.embed(pictures)
    assert not torch.allclose(expected, mine.embed(pictures))
    torch.testing.assert_close(by_name.embed(pictures[::-1], batch_size=2), expected.flip(0))
    torch.testing.assert_close(by_name.embed(pictures[1]), expected[1:2])
