"""README and docs are correct: commands run, keys, files and links exist."""

import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fastreid.config import get_cfg
from fastreid.config.unsupported import REASONS
from fastreid.data.benchmarks.diff_person import file_name
from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.engine.setup import tool_argument_parser
from fastreid.modeling import build_model
from tests.miniature import ADDED, ROOT, Scratch, finished_quickstart, make_scratch
from tests.pages import MIGRATING, TEXTS, blocks
from tests.recipes import leaves, merged
from tests.small_commands import (
    SMALL_RESNET,
    small_cargo,
    small_dcac,
    small_pisl,
    small_pretraining,
    small_transfer,
    unless_given,
    write_backbone,
)
from tests.warm_python import warm_python

SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "fastreid").rglob("*.py"))

# Pages, and parts of commands, that take too long or start several processes, and the tests that run them.
RUN_ELSEWHERE = {
    "./quickstart.sh dcac": "tests/test_quickstart_dcac.py::test_it_renders_two_places_trains_and_writes_one_report",
    "./quickstart.sh diffperson": "tests/test_quickstart_diffperson.py::test_people_are_learnt_written_and_trained_on",
    "./quickstart.sh pisl": "tests/test_quickstart_pisl.py::test_labels_in_one_place_none_in_the_other_and_one_report",
    "./quickstart.sh": "tests/test_pipeline.py::test_quickstart_prints_its_steps_and_one_table",
    "--stable-diffusion": "tests/tools/test_convert_checkpoint.py::test_a_stable_diffusion_of_one_file_becomes_folders",
    "benchmarks/gpu.sh": "tests/test_gpu_script.py::test_every_section_runs_on_a_cpu",
    "./run_tests.sh": "tests/test_pipeline.py::test_the_environment_is_installed_once",
    "docs/retrieval.md": "tests/data/benchmarks/test_image_retrieval.py::test_the_commands_of_the_page_run",
    "docs/attributes.md": "tests/methods/attributes/test_runs.py::test_the_commands_of_the_page_run",
    "docs/distillation.md": "tests/methods/distillation/test_runs.py::test_the_commands_of_the_page_run",
    "docs/your_data.md": "tests/test_your_data.py::test_the_commands_of_the_page_run",
    "docs/follow_a_step.md": "tests/test_follow_a_step.py::test_each_stop_is_called_after_the_one_before",
    "docs/diffusion_reid.md": "tests/generation/test_commands.py::test_the_commands_of_the_page_run",
    "ruff": "tests/test_house.py::test_ruff_has_no_complaint",
    "mypy": "tests/test_house.py::test_types_are_right",
    "stripes.py": "tests/test_adding_a_method.py::test_the_commands_of_the_page_run",
    "--size sd15": "tests/test_recipes.py::test_stage2_at_its_true_size",
    "--num-gpus 2": "tests/test_pipeline.py::test_two_processes_train_and_evaluate",
    "torchrun": "tests/engine/test_launch.py::test_processes_of_torchrun_are_joined_and_none_leaves_threads_behind",
    "--num-machines 2": "tests/engine/test_launch.py::test_impossible_requests",
}

LONG = ("dcac", "domains", "faults", "few_steps", "generation", "rendered", "spinning", "stored_features", "written")
SHORTER = {
    **{f"benchmarks/{name}.py": ["--help"] for name in LONG},
    "tools/train_net.py": ["SOLVER.MAX_EPOCH", "1"],
    "tools/plain_train_net.py": ["SOLVER.MAX_EPOCH", "1"],
    "tools/check_checkpoint.py": ["--people", "3"],
    "benchmarks/sampling.py": ["--assets", "pretrained/random-tiny", "--batch", "2", "--rounds", "1"],
    "benchmarks/generators.py": ["--assets", "nowhere", "--batch", "1", "--rounds", "1"],
    "benchmarks/evaluation.py": ["--sizes", "tiny", "--dims", "16"],
    "benchmarks/labeling.py": ["--sizes", "tiny"],
    "benchmarks/mutants.py": ["--each", "1", "layers/pooling.py"],
    "benchmarks/predictor.py": ["--boxes", "4", "--rounds", "1"],
    "benchmarks/image_loading.py": ["--images", "64", "--rounds", "1"],
    "benchmarks/train_loop.py": ["--models", "stage1", "--rounds", "2", "SOLVER.IMS_PER_BATCH", "16"],
}
FORKING = tuple(
    f"benchmarks/{name}.py"
    for name in ("evaluation", "faults", "image_loading", "labeling", "mutants", "predictor", "spinning", "train_loop")
)


def commands() -> Iterator[tuple[str, str]]:
    """Yield (page, command line) of every bash block, each line once."""
    seen = set()
    for page, text in TEXTS.items():
        for line in "\n".join(blocks(text, "bash")).splitlines():
            if line and not line.startswith("#") and line not in seen:
                seen.add(line)
                yield page, line


# Commands


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A copy of the finished quickstart, to which the commands may write."""
    finished, done = finished_quickstart(tmp_path_factory.getbasetemp())
    assert done.returncode == 0, done.stderr
    copy = make_scratch(tmp_path_factory.mktemp("docs") / "copy")
    for name in ("datasets", "pretrained", "logs"):
        shutil.copytree(finished.folder / name, copy.folder / name)
    write_own_data(copy.folder)
    write_fork(copy.folder)
    write_archive(copy.folder / "pretrained/ViT-B-16.pt")
    for name in ("query", "gallery"):  # as another program writes them
        rows, cameras = np.eye(4, dtype=np.float32), np.full(4, len(name))
        np.savez(copy.folder / f"{name}.npz", features=rows, pids=np.arange(4), camids=cameras)
    return copy


def write_own_data(folder: Path) -> None:
    """Write the table, the class and the written people of docs/datasets.md, with enough people for a batch."""
    example, *_ = blocks(TEXTS["docs/datasets.md"], "csv")
    lines = example.splitlines()[:1]
    dataset = DATASET_REGISTRY.get("CARGO")(root=folder / "datasets/quickstart")
    for split in ("train", "query", "gallery"):
        lines += [f"{i.path},{i.person},cam{i.camera},{int(i.view)},{split}" for i in getattr(dataset, split)]
    (folder / "people.csv").write_text("\n".join(lines))
    (own_class,) = blocks(TEXTS["docs/datasets.md"], "python")
    (folder / "my_dataset.py").write_text(own_class)
    (folder / "datasets/mine").mkdir()
    for name in "abc":  # a dry run opens them
        shutil.copy(dataset.query[0].path, folder / f"datasets/mine/{name}.jpg")
    written = folder / "logs/diffperson/DiffPerson/images"
    written.mkdir(parents=True)
    for number, image in enumerate(dataset.train[:32]):  # eight people with four pictures
        shutil.copy(image.path, written / file_name(number // 4, 0, 0, number % 4))


def write_archive(path: Path) -> None:
    """Write a TorchScript archive, which is the form of OpenAI's weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will replace it
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 1)), path)


def write_fork(folder: Path) -> None:
    """Write the config and the code of docs/migrating_from_fastreid.md, and a checkpoint in the form of fast-reid."""
    for name, language in (("old.yml", "yaml"), ("my_fork.py", "python")):
        (example,) = blocks(TEXTS[MIGRATING], language)
        (folder / name).write_text(example)
    cfg = merged(folder / "old.yml")
    model = build_model(cfg, num_classes=751)
    model = torch.nn.ModuleDict({"backbone": model.backbone, "heads": model.heads})
    assert {"backbone.layer1.0.conv1.weight", "heads.bottleneck.0.weight", "heads.weight"} <= model.state_dict().keys()
    optimizer = torch.optim.Adam(model.parameters())
    old = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "lr_sched": {"last_epoch": 59}}
    torch.save(old | {"warmup_sched": {"last_epoch": 1999}, "epoch": 59, "metric": 0.9}, folder / "old.pth")


@pytest.mark.parametrize(("page", "command"), list(commands()), ids=lambda word: word[:90])
def test_every_command_runs(scratch, page, command):
    if elsewhere := [test for part, test in RUN_ELSEWHERE.items() if part in command or part == page]:
        path, _, name = elsewhere[0].partition("::")
        assert f"\ndef {name}(" in (ROOT / path).read_text()
        return
    words = shlex.split(command)
    environment = [word for word in words if re.match("[A-Z_]+=", word)]
    first, *rest = words[len(environment) :]
    if first == "source":
        activate(command, scratch)
    elif first == "python":
        run_python_tool(scratch, *rest)
    else:
        run_script(scratch, first, rest)


# Keys that say where things are, and not what is trained.
PLACES = ("DATASETS.ROOT", "MODEL.DEVICE", "MODEL.WEIGHTS")


def changed_keys(command: str) -> set[str]:
    """Return the config keys that a command of train_net changes, without those of places."""
    words = shlex.split(command)
    at = [place for place, word in enumerate(words) if word.endswith("train_net.py")]
    if not at or "--help" in words:
        return set()
    args = tool_argument_parser().parse_args([word for word in words[at[0] + 1 :] if word != "--verify"])
    return {*args.overlay, *args.opts[::2]} - {*PLACES}


def test_no_command_writes_into_the_folder_of_another_run():
    """A command that changes what is trained or evaluated names its own OUTPUT_DIR."""
    lines = [command for _, command in commands() if "--resume" not in command]
    assert [line for line in lines if (keys := changed_keys(line)) and "OUTPUT_DIR" not in keys] == []


def activate(command: str, scratch: Scratch) -> None:
    """Check that the command puts the Python of the environment first on PATH."""
    folder = scratch.folder / "activated"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    found = subprocess.run(
        ["bash", "-c", f"{command} && command -v python"], cwd=folder, capture_output=True, text=True
    )
    assert found.stdout.strip() == str(folder / ".venv/bin/python"), found.stderr


def run_script(scratch: Scratch, name: str, words: list[str]) -> None:
    """Run a script without its tools, and check that the arguments for train_net can be parsed and merged."""
    scratch.calls()
    done = scratch.script(name, *words, on_tool="note")
    assert done.returncode == 0, done.stderr
    calls = [call.split() for call in scratch.calls()]  # without a shell: quotes are part of values
    configs = [read_command(call[1:]) for call in calls if call[0] == "tools/train_net.py"]
    models = {"./run_dcac.sh": {"DCAC"}, "./run_pisl.sh": {"PISL"}}.get(name, {"SDReIDStage1", "SDReIDStage2"})
    assert {cfg.MODEL.META_ARCHITECTURE for cfg in configs} == models


def read_command(words: list[str]):
    """Return the config of arguments of train_net; unknown options, files and keys are errors."""
    args = tool_argument_parser().parse_args(words)
    cfg = merged(*(ROOT / path for path in filter(None, [args.config_file, *args.overlay])))
    cfg.merge_from_list(args.opts)
    return cfg


def run_python_tool(scratch: Scratch, tool: str, *words: str) -> None:
    added = [*ADDED.get(tool, []), *SHORTER.get(tool, [])]
    if tool == "tools/check_dataset.py" and "DATASETS.ROOT" not in words:
        added += ["DATASETS.ROOT", "datasets/quickstart"]
    if "--verify" in words:  # the people are other ones
        added += ["TEST.EXPECTED_RESULTS", "[['CARGO', 'mAP', 50, 50]]"]
    if "--help" in [*words, *added]:
        with pytest.raises(SystemExit, match="^0$"):
            scratch.tool(tool, *words, *added)
        return
    if tool == "my_fork.py":  # in a process of its own, because it registers classes
        small = ["INPUT.SIZE_TRAIN", "[64, 32]", "INPUT.SIZE_TEST", "[64, 32]"]
        command = [warm_python(), tool, *words, *ADDED["tools/train_net.py"], *SHORTER["tools/train_net.py"], *small]
        subprocess.run(command, cwd=scratch.folder, check=True, timeout=300)
        return
    if tool in FORKING:  # starts processes, which a process with threads must not do
        command = [warm_python(), str(ROOT / tool), *words, *added]
        subprocess.run(command, cwd=scratch.folder, check=True, timeout=300)
        return
    is_pisl = tool == "tools/train_pisl_cam.py" or any("configs/PISL" in word for word in words)
    if is_pisl or any("configs/CARGO" in word for word in words):
        small = small_pisl if is_pisl else small_cargo
        words, added = (
            [*words[:2], *unless_given("--dry-run", words), *words[2:]],
            [*added, *small(words, scratch)],
        )
    if any("configs/unsupervised" in word for word in words):  # three images
        words = [*words[:2], "--dry-run", *words[2:]]
        added += ["MODEL.BACKBONE.PRETRAIN", "False", *SMALL_RESNET, "MODEL.WEIGHTS", ""]
        added += ["SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_INSTANCE", "2"]
    if any("configs/DCAC" in word for word in words):
        added += small_dcac(words, scratch)
    if tool == "tools/transfer.py":
        added += small_transfer(words, scratch)
    if any("DiffPerson/pretrain_" in word for word in words) and "--backbone" in words:
        write_backbone(scratch.folder / words[words.index("--backbone") + 1], "backbone.")
    elif any("DiffPerson/pretrain_" in word or "configs/Market1501" in word for word in words):
        added += small_pretraining(words, scratch)
    scratch.tool(tool, *words, *added)


def test_the_example_of_scoring_runs():
    (example,) = blocks(TEXTS["docs/metrics.md"], "python")
    names: dict = {}
    exec(example, names)
    assert 0 < names["figures"]["mAP"] < 100 and len(names["cmc"]) == 50 and len(names["ap"]) == 8


def test_the_examples_of_evaluation_run():
    names: dict = {}
    for example in blocks(TEXTS["docs/evaluation.md"], "python"):
        exec(example, names)
    assert names["better"].metrics["mAP"] > names["plain"].metrics["mAP"]
    assert {row["query"] for row in names["rows_by_camera"]} == {f"camera {camera}" for camera in range(4)}
    assert names["matched"] == [(0, 1), (1, 0), (2, 2)]
    assert names["nearest"].indices.shape == (250, 10) and len(set(names["labels"])) > 5


def test_every_key_of_evaluation_has_its_row():
    named = set(re.findall(r"`(TEST\.[A-Z_.0-9]+)`", TEXTS["docs/evaluation.md"]))
    cfg = get_cfg()
    groups = {f"TEST.{group}.{key}" for group in ("DBA", "AQE", "RERANK", "ROC") for key in cfg.TEST[group]}
    single = {
        f"TEST.{key}"
        for key in ("BREAKDOWN", "SINGLE_SHOT", "RECALLS", "PLOTS", "REPORT", "ENGINE", "SEARCH", "MEMORY_BUDGET")
    }
    assert groups | single <= named


def test_the_python_example_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    (example,) = blocks(TEXTS["docs/config.md"], "python")
    names: dict = {}
    exec(example, names)
    assert names["cfg"].SOLVER.MAX_EPOCH == 60 and names["cfg"].is_frozen()


def test_the_yaml_example_merges(tmp_path):
    (example,) = blocks(TEXTS["docs/config.md"], "yaml")
    shutil.copytree(ROOT / "configs/_base_", tmp_path / "_base_")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.yml").write_text(example)
    cfg = merged(tmp_path / "mine/mine.yml")
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.SOLVER.MAX_EPOCH, cfg.OUTPUT_DIR) == ("SDReIDStage1", 60, "logs/mine")


# Names


def groups(keys: dict[str, object]) -> set[str]:
    return {key.rsplit(".", depth)[0] for key in keys for depth in range(1, key.count(".") + 1)}


@pytest.mark.parametrize("page", TEXTS)
def test_every_key_exists(page):
    keys = leaves(get_cfg()) | dict.fromkeys(re.findall(r"MODEL\.STRIPES\.[A-Z]+", TEXTS[page]))  # of an example
    tops = "|".join({key.partition(".")[0] for key in keys})
    named = set(re.findall(rf"\b(?:{tops})(?:\.[A-Z][A-Z_0-9]*)+", TEXTS[page]))
    assert named - keys.keys() - groups(keys) == set()


def test_every_sd_reid_key_is_explained():
    page = TEXTS["docs/sd_reid.md"]
    words = set(re.findall(r"`([A-Z_.]+)`", page))
    wanted = [k for k in leaves(get_cfg()) if k.startswith(("MODEL.SDMODEL.", "TEST.SDMODEL.")) and k not in REASONS]
    assert [key for key in wanted if key not in words and key.rpartition(".")[2] not in words] == []


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        assert "://" not in path, f"{target}: pages stand by themselves"
        linked = (ROOT / page).parent / path if path else ROOT / page
        assert linked.exists(), f"{page} links to {path}, which is not there"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_are_named_exist(page):
    named = re.findall(r"(?<![\w/.-])((?:configs|tools|fastreid|tests|benchmarks|docs|go)/[\w./-]*\w)", TEXTS[page])
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", TEXTS)
def test_no_page_names_a_package_host_or_a_machine(page):
    found = re.findall(
        r"pypi|pythonhosted|index-url|find-links|conda|hugging ?face|/work/|/root/|/tmp/|/home/", TEXTS[page]
    )
    assert found == []


def test_messages_in_troubleshooting_are_ours():
    section = TEXTS["README.md"].split("## Troubleshooting")[1].split("## ")[0]
    messages = [m for row in re.findall(r"^\| (.+?) \|", section, re.MULTILINE) for m in re.findall("`(.+?)`", row)]
    pieces = [piece.strip() for message in messages for piece in re.split(r"…|CARGO|\d[\d.%]*", message)]
    assert len(messages) > 4 and [p for p in pieces if len(p) > 8 and p not in SOURCE] == []


def test_results_stand_between_their_markers():
    before, results, after = TEXTS["README.md"].split("<!-- results -->")
    assert "## Results" in before and results.strip() and "docs/results.md" in after


# A run and a fork

# Files that logs/README.md leaves to docs/usage.md.
RARE = {
    r"\.fastreid\.lock",
    r"last_evaluation\.json",
    r"manifest_evaluation\.json",
    r".*_before\.(pth|json|csv|html)",
    r"model_final\.(onnx|pt2)",
}


@pytest.mark.parametrize(
    ("page", "heading", "common"),
    [("docs/usage.md", "## What a run leaves behind", False), ("logs/README.md", "# Runs", True)],
)
def test_files_of_a_run_are_all_named(scratch, page, heading, common):
    table = TEXTS[page].split(heading)[1].split("\n\n")[2]
    listed = " ".join(re.findall(r"^\| (.+?) \|", table, re.MULTILINE))
    patterns = [
        re.escape(name).replace("0004", r"\d{4}").replace(r"\*", ".*") for name in re.findall("`(.+?)`", listed)
    ]
    patterns += RARE if common else ()
    found = {path.name for path in (scratch.folder / "logs/quickstart/stage1").iterdir()}
    assert not {name for name in found if not any(re.fullmatch(p, name) for p in patterns)}


def test_the_config_of_a_fork_is_in_todays_names(scratch):
    cfg = merged(scratch.folder / "old.yml")
    assert (cfg.SOLVER.MAX_EPOCH, cfg.MODEL.BACKBONE.FEAT_DIM, cfg.INPUT.REA.VALUE[0]) == (60, 512, 123.675)
    assert cfg.DATALOADER.SAMPLER_TRAIN == "NaiveIdentitySampler" and not cfg.SOLVER.AMP.ENABLED
