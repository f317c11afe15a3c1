"""List files: every form that is met, and what is said of lines that lead nowhere."""

import pytest

from fastreid.data.benchmarks.sources import Folder, Listed, MissingImages
from tests.data.benchmarks.trees import touch

QUERIES, GALLERY = Listed("exp.txt", queries=True), Listed("exp.txt", queries=False)
FILES = ["query/1/a.jpg", "query/2/b.jpg", "test/1/c.jpg", "test/2/d.jpg"]


@pytest.fixture
def home(tmp_path):
    return touch(tmp_path, *FILES)


def names(source, home):
    return [path.relative_to(home).as_posix() for path in source.paths(home)]


@pytest.mark.parametrize(
    "text",
    [
        "query/2/b.jpg\nquery/1/a.jpg\ntest/2/d.jpg\n",
        "query/2/b.jpg\nquery/1/a.jpg\ntest/2/d.jpg",
        "\n query/2/b.jpg \r\n\r\nquery/1/a.jpg\r\ntest/2/d.jpg\r\n\r\n",
        "query\\2\\b.jpg\r\nquery\\1\\a.jpg\r\ntest\\2\\d.jpg",
        "\ufeffquery/2/b.jpg\nquery/1/a.jpg\ntest/2/d.jpg\n",
        "query/b.jpg\nquery/other/a.jpg\ntest/d.jpg\n",  # other folders than on disk
    ],
    ids=["plain", "no last newline", "crlf and blanks", "backslashes", "byte order mark", "flat"],
)
def test_lines_in_their_order(home, text):
    (home / "exp.txt").write_bytes(text.encode())
    assert names(QUERIES, home) == ["query/2/b.jpg", "query/1/a.jpg"]
    assert names(GALLERY, home) == ["test/2/d.jpg"]


def test_images_that_are_not_there_are_counted_and_the_first_are_named(home):
    gone = [f"query/9/{i}.jpg" for i in range(5)]
    (home / "exp.txt").write_text("\n".join([*gone[:2], FILES[0], *gone[2:]]))
    with pytest.raises(
        MissingImages, match=r"5 of the 6 queries of exp.txt are not below .*9/0.jpg, query/9/1.jpg, .* …"
    ):
        QUERIES.paths(home)


def test_a_name_that_two_files_have_is_not_guessed(home):
    touch(home, "query/3/a.jpg")
    (home / "exp.txt").write_text("query/a.jpg")
    with pytest.raises(MissingImages, match="1 of the 1 queries"):
        QUERIES.paths(home)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no list file .*exp.txt"),
        (b"", "names no gallery images .it is empty"),
        (b"query/1/a.jpg\n", "names no gallery images .its first line is 'query/1/a.jpg'"),
        (b"\xff\xfe\x00", "is no text file"),
    ],
)
def test_lists_that_cannot_be_used(home, content, said):
    if content is not None:
        (home / "exp.txt").write_bytes(content)
    with pytest.raises(MissingImages, match=said):
        GALLERY.paths(home)


def test_a_folder_is_read_at_any_depth_in_sorted_order(home):
    touch(home, "test/0.PNG", "test/notes.txt", "test/1/deep/e.jpeg")
    assert names(Folder("test"), home) == ["test/0.PNG", "test/1/c.jpg", "test/1/deep/e.jpeg", "test/2/d.jpg"]
    with pytest.raises(MissingImages, match="no images in .*nothing"):
        Folder("nothing").paths(home)
