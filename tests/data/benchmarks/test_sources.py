"""List files: every form that is met, and what is said of lines that lead nowhere."""

import logging

import pytest

from fastreid.data.benchmarks.lists import Lines, Listed
from fastreid.data.benchmarks.sources import FirstOf, Folder, MissingImages
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
        "./query/2/b.jpg\n'query/1/A.JPG'\n./test/2/d.jpg\n",
    ],
    ids=["plain", "no last newline", "crlf and blanks", "backslashes", "byte order mark", "flat", "spelling"],
)
def test_lines_in_their_order(home, text):
    (home / "exp.txt").write_bytes(text.encode())
    assert names(QUERIES, home) == ["query/2/b.jpg", "query/1/a.jpg"]
    assert names(GALLERY, home) == ["test/2/d.jpg"]


def test_images_that_are_not_there_are_counted_and_the_first_are_named(home):
    gone = [f"query/9/{i}.jpg" for i in range(5)]
    (home / "exp.txt").write_text("\n".join([*gone[:2], FILES[0], *gone[2:]]))
    with pytest.raises(
        MissingImages, match=r"of 6 images .queries of exp.txt. 5 are not there: query/9/0.jpg, query/9/1.jpg.* …"
    ):
        QUERIES.paths(home)


def test_a_name_that_two_files_have_is_not_guessed(home):
    touch(home, "query/3/a.jpg")
    (home / "exp.txt").write_text("query/a.jpg")
    with pytest.raises(MissingImages, match="1 are there more than once, in other folders .*: query/a.jpg"):
        QUERIES.paths(home)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no list file .*exp.txt"),
        (b"", "names no gallery images .it is empty"),
        (b"query/1/a.jpg\n", "names no gallery images .its first line is 'query/1/a.jpg'"),
        (b"\xff\xfe\x00", "is no text file"),
        (b"test/\xe9.jpg", "is no text file .*exp.txt is not text in UTF-8: byte 0xe9 at position 5 .line 1."),
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


def test_links_are_followed_and_litter_is_not_read(home, tmp_path_factory):
    other = touch(tmp_path_factory.mktemp("disk"), "x/f.jpg")
    (home / "test/linked").symlink_to(other / "x")
    (home / "test/gone.jpg").symlink_to(other / "nothing.jpg")
    touch(home, "test/._c.jpg", "test/.ipynb_checkpoints/c.jpg", "test/@eaDir/c.jpg", "test/__MACOSX/c.jpg")
    (home / "test/folder.jpg").mkdir()
    assert names(Folder("test"), home) == ["test/1/c.jpg", "test/2/d.jpg", "test/linked/f.jpg"]


def test_a_list_file_that_is_a_folder(home):
    (home / "exp.txt").mkdir()
    with pytest.raises(MissingImages, match="no list file .*exp.txt .Is a directory"):
        QUERIES.paths(home)


def test_a_list_in_utf_16_and_names_that_hold_other_line_ends(home):
    touch(home, "test/3/x\u2028y.jpg")
    (home / "exp.txt").write_text("query/1/a.jpg\ntest/3/x\u2028y.jpg\n", encoding="utf-16")
    assert names(QUERIES, home) == ["query/1/a.jpg"] and names(GALLERY, home) == ["test/3/x\u2028y.jpg"]


def test_lines_that_are_repeated_are_counted(home, caplog):
    (home / "exp.txt").write_text("test/1/c.jpg\n" * 3 + "test/2/d.jpg\n")
    assert len(GALLERY.paths(home)) == 4
    assert "gallery of exp.txt: 2 of 4 lines repeat an image" in caplog.text


@pytest.mark.parametrize("word", ["٧", "1_1", "+1", "9" * 20])
def test_numbers_in_lists_are_digits_that_fit(home, word):
    (home / "list.txt").write_text(f"1/c.jpg {word}\n2/d.jpg 7\n")
    with pytest.raises(MissingImages, match="1 of 2 lines of .*list.txt are not an image and 1 whole number"):
        Lines(("list.txt",), ("test",), numbers=1).paths(home)


def test_the_other_form_of_a_split_is_logged(home, caplog):
    (home / "list.txt").write_text("1/c.jpg 1\n")
    both = FirstOf((Lines(("list.txt",), ("test",), numbers=1), Folder("test")))
    with caplog.at_level(logging.INFO):
        assert names(both, home) == ["test/1/c.jpg"]
    assert "list.txt is read; test could be read instead" in caplog.text
