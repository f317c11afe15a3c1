"""docs/your_data.md: its commands run as they are written, and print what the page shows."""

import os
import re
import shlex

import av
import numpy as np
import pytest
from PIL import Image

from tests.miniature import ROOT, rendered, run_tool
from tests.own_photos import CAMERAS, IMAGES, write_photos
from tests.pages import TEXTS, blocks

PAGE = TEXTS["docs/your_data.md"]
# Only the training is shorter.
SHORTER = {
    "tools/train_net.py": shlex.split(
        "MODEL.DEVICE cpu SOLVER.MAX_EPOCH 1 SOLVER.ITERS_PER_EPOCH 2 SOLVER.IMS_PER_BATCH 8 DATALOADER.NUM_WORKERS 0"
    ),
}


def commands():
    """Return the Python commands of the page in their order."""
    lines = "\n".join(blocks(PAGE, "bash")).splitlines()
    return [line for line in lines if line.startswith("python ")]


def write_video(folder, name):
    """Write forty frames of a grey video, and a table of the boxes of four people in them."""
    with av.open(str(folder / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for number in range(40):
            picture = np.full((64, 64, 3), 5 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    rows = [f"{frame},p{person},{9 * person},0,{9 * person + 9},20" for frame in range(40) for person in range(4)]
    (folder / f"{name}.csv").write_text("\n".join(["frame,person,left,top,right,bottom", *rows]))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """{command: what it printed}; all commands have run in one folder."""
    folder = tmp_path_factory.mktemp("your_data")
    data = rendered(tmp_path_factory.getbasetemp(), "Market1501")
    people = sorted((data / "Market1501/bounding_box_train").glob("*.jpg"))
    by_person = {}
    for path in people:
        by_person.setdefault(path.name[:4], []).append(path)
    write_photos(folder / "photos", [(files * 12)[: len(CAMERAS) * IMAGES] for files in by_person.values()])
    for name in ("door", "yard"):
        write_video(folder, name)
    (folder / "configs").symlink_to(ROOT / "configs")
    outputs = {}
    for command in commands():
        _, tool, *words = shlex.split(command)
        outputs[command] = run_tool(tool, *words, *SHORTER.get(tool, []), cwd=folder)
    return outputs


def test_the_commands_of_the_page_run(said):
    tools = [command.split()[1] for command in said]
    assert tools == [
        *("tools/make_table.py", "tools/check_dataset.py", "tools/train_net.py", "tools/make_report.py"),
        *("tools/compare_images.py", "tools/make_table.py"),
    ]


@pytest.mark.parametrize("tool", ["tools/make_table.py", "tools/check_dataset.py"])
def test_the_page_shows_what_they_print(said, tool):
    command = next(command for command in said if command.split()[1] == tool)
    after = PAGE[PAGE.index(command) :]
    (shown, *_) = blocks(after, "text")
    assert said[command].strip() == shown.strip()


@pytest.mark.parametrize("tool", ["tools/make_report.py", "tools/compare_images.py"])
def test_what_a_trained_model_prints_has_the_form_on_the_page(said, tool):
    """Numbers depend on the training."""
    command = next(command for command in said if command.split()[1] == tool)
    (shown, *_) = blocks(PAGE[PAGE.index(command) :], "text")
    assert words_of(said[command]) == words_of(shown)


def words_of(text):
    """Return the words of a text without numbers, lines of tables, and the answers of an untrained model."""
    words = re.findall(r"[^\s\d]+", text)
    return [word for word in words if re.search(r"[A-Za-z]", word) and word not in ("yes", "no")]


def test_the_example_of_a_table_works_as_printed(tmp_path):
    page = TEXTS["docs/datasets.md"]
    table, *_ = blocks(page, "csv")
    command = next(line for line in "\n".join(blocks(page, "bash")).splitlines() if "csv:people.csv" in line)
    (tmp_path / "people.csv").write_text(table)
    for line in table.splitlines()[1:]:
        path = tmp_path / line.split(",")[0]
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 64)).save(path)
    os.symlink(ROOT / "configs", tmp_path / "configs")
    _, tool, *words = shlex.split(command)
    printed = run_tool(tool, *words, cwd=tmp_path)
    assert re.search(r"csv:people.csv +query +1 +1", printed) and "The highest rate is" in printed
