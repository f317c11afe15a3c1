"""docs/follow_a_step.md names functions in the order in which a real run calls them."""

import importlib
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.miniature import FEW_STEPS, ROOT, rendered, run_tool
from tests.modeling import toys
from tests.recipes import save_stage1

PAGE = ROOT / "docs/follow_a_step.md"
CONFIG = "configs/quickstart/stage2_unet.yml"
STEP, EVALUATION = "One training step", "One evaluation"
STOP = re.compile(r"^\d+\. \[`([\w.]+)`\]\(([^)]+)\)", re.MULTILINE)
SMALL = [
    *("INPUT.SIZE_TRAIN", "[64, 32]", "INPUT.SIZE_TEST", "[64, 32]", "MODEL.BACKBONE.PRETRAIN", "False"),
    *("TEST.SDMODEL.NUM_INFERENCE_STEPS", "2", "DATASETS.TESTS", "('CARGO',)"),
]


@dataclass(frozen=True)
class Stop:
    """A function that the page links."""

    name: str
    file: Path
    section: str

    @property
    def code(self):
        """File and name of the function, as a trace has them."""
        path = self.file.relative_to(ROOT).with_suffix("")
        module = path.name if path.parts[0] == "tools" else ".".join(path.parts)
        assert self.name.startswith(f"{module}."), f"{self.name} is not in {path}"
        if path.parts[0] == "tools":
            return str(self.file), self.name.rpartition(".")[2]
        owner = importlib.import_module(module)
        for part in self.name.removeprefix(f"{module}.").split("."):
            owner = inspect.getattr_static(owner, part)
        function = inspect.unwrap(getattr(owner, "__func__", owner))
        return function.__code__.co_filename, function.__code__.co_name


def stops():
    text = PAGE.read_text()
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        for name, link in STOP.findall(section):
            found.append(Stop(name, (PAGE.parent / link).resolve(), section.splitlines()[0]))
    return found


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """(file, function) of every call of a function of this repository in a small run, in their order.

    What importing a module calls is left out: a module is imported once in a process, so it depends on earlier tests.
    """
    folder = tmp_path_factory.mktemp("followed")
    toys.write_assets(folder)
    data = rendered(tmp_path_factory.getbasetemp(), "CARGO")
    keys = [*SMALL, *FEW_STEPS, "SOLVER.MAX_EPOCH", "1", "DATASETS.ROOT", str(data)]
    keys += ["MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH", str(folder / "unet")]
    keys += ["MODEL.SDMODEL.CON_LEARNER_CONFIG.OUT_CHANNELS", "[]"]
    keys += ["MODEL.SDMODEL.SCHEDULER_CONFIG.PRETRAINED_PATH", str(folder / "scheduler")]
    keys += save_stage1(ROOT / CONFIG, folder / "stage1.pth", *SMALL[:6])
    found, ours = [], (str(ROOT / "fastreid"), str(ROOT / "tools"))

    imports = 0

    def note(frame, event, _):
        nonlocal imports
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if name == "<module>" and not file.startswith(ours[1]):
            imports += {"call": 1, "return": -1}.get(event, 0)
        elif event == "call" and not imports and file.startswith(ours) and not file.endswith("__init__.py"):
            found.append((file, name))

    sys.setprofile(note)
    try:
        run_tool("tools/train_net.py", "--config-file", str(ROOT / CONFIG), *keys, "OUTPUT_DIR", "run", cwd=folder)
    finally:
        sys.setprofile(None)
    return found


def test_links_lead_to_the_functions_they_name():
    assert len(stops()) > 30
    for stop in stops():
        assert stop.code[0] == str(stop.file), stop.name


def test_stops_are_numbered():
    numbers = re.findall(r"^(\d+)\. ", PAGE.read_text(), re.MULTILINE)
    assert numbers == [str(number + 1) for number in range(len(stops()))]


def test_each_stop_is_called_after_the_one_before(calls):
    place = -1
    for stop in stops():
        try:
            place = calls.index(stop.code, place + 1)
        except ValueError:
            pytest.fail(f"{stop.name} is not called after the stop before it")


def test_a_training_step_is_read_in_ten_files():
    files = {stop.file for stop in stops() if stop.section == STEP}
    lines = sum(len(file.read_text().splitlines()) for file in files)
    assert len(files) <= 10 and lines <= 1200, (len(files), lines)


def test_an_evaluation_touches_few_files(calls):
    """Files whose functions are called from the evaluation on; the goal is 20.

    `utils/` is left out: which of its files are called depends on the pace of the machine (progress, for example).
    """
    first = calls.index(next(stop.code for stop in stops() if stop.section == EVALUATION))
    last = calls.index(stops()[-1].code, first)
    files = sorted({Path(file).relative_to(ROOT).as_posix() for file, _ in calls[first:last]})
    files = [file for file in files if not file.startswith("fastreid/utils/")]
    assert len(files) <= MOST_FILES, files


MOST_FILES = 49
