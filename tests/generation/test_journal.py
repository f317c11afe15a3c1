"""Manifests of a stage: rows are only added, and a writer that was killed costs its last line at most."""

import json
import os
import subprocess
import sys

import pytest

from fastreid.generation.journal import Journal
from fastreid.generation.rows import JournalError
from fastreid.generation.shards import Shard
from fastreid.utils.errors import ArgumentError
from fastreid.utils.lock import InUseError


def test_rows_of_all_writers_in_order(tmp_path):
    journal = Journal(tmp_path / "stage")
    assert journal.rows() == []
    for shard, gid in (("2of2", 1), ("1of2", 0)):
        with journal.writer(shard) as writer:
            writer.add({"gid": gid, "number": 1, "file": "b"}, {"gid": gid, "number": 0, "file": "ä"})
    assert [(row["gid"], row["number"], row["file"]) for row in journal.rows()] == [
        (0, 0, "ä"), (0, 1, "b"), (1, 0, "ä"), (1, 1, "b"),
    ]  # fmt: skip


def test_a_row_that_two_shards_wrote_counts_once(tmp_path):
    journal = Journal(tmp_path)
    for shard in ("1of1", "1of3"):
        with journal.writer(shard) as writer:
            writer.add({"gid": 0, "number": 0, "shard": shard})
    assert journal.rows() == [{"gid": 0, "number": 0, "shard": "1of1"}]


def test_an_incomplete_last_line_is_not_a_row_and_is_removed(tmp_path, caplog):
    journal = Journal(tmp_path)
    with journal.writer() as writer:
        writer.add({"gid": 0, "number": 0})
    path = tmp_path / "manifest-1of1.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"gid": 0, "num')
    assert journal.rows() == [{"gid": 0, "number": 0}]
    with journal.writer() as writer:
        writer.add({"gid": 0, "number": 1})
    assert "incomplete" in caplog.text
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"gid": 1}'])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, line):
    (tmp_path / "manifest-1of1.jsonl").write_text('{"gid": 0, "number": 0}\n' + line + '\n{"gid": 2, "number": 0}\n')
    with pytest.raises(
        JournalError, match="manifest-1of1.jsonl is damaged: line 2 (is not a JSON object|has no number)"
    ):
        Journal(tmp_path).rows()


def test_a_file_has_one_writer(tmp_path):
    code = (
        "import sys\nfrom fastreid.generation.journal import Journal\n"
        "with Journal(sys.argv[1]).writer() as w:\n    w.add({'gid': 0, 'number': 0})\n"
        "    print('open', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(InUseError, match="manifest-1of1"), Journal(tmp_path).writer():
            pass
    finally:
        other.communicate("")


def test_a_full_disk_leaves_whole_rows(tmp_path, monkeypatch):
    journal = Journal(tmp_path)
    with journal.writer() as writer:
        writer.add({"gid": 0, "number": 0})

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("fastreid.generation.journal.os.fsync", full)
        with pytest.raises(OSError, match="the disk is full"):
            writer.add({"gid": 0, "number": 1})
    assert journal.rows() == [{"gid": 0, "number": 0}]


def test_shards_are_parts_of_the_people():
    people = list(range(11))
    parts = [Shard.parse(f"{index}/3").of(people) for index in (1, 2, 3)]
    assert sorted(sum(parts, [])) == people and max(map(len, parts)) - min(map(len, parts)) == 1
    assert Shard.parse("1/1").of(people) == people and Shard(2, 4).name == "2of4"


@pytest.mark.parametrize("text", ["0/3", "4/3", "a", "1", "1/0", "-1/2"])
def test_impossible_shards(text):
    with pytest.raises(ArgumentError, match="--shard"):
        Shard.parse(text)


def test_old_temporary_files_of_killed_processes_are_removed(tmp_path):
    (tmp_path / "00001").mkdir()
    old, young = tmp_path / "00001/.0001.png.abcdefgh.tmp", tmp_path / ".x.json.abcdefgh.tmp"
    for path in (old, young):
        path.touch()
    os.utime(old, (0, 0))
    with Journal(tmp_path).writer():
        assert not old.exists() and young.exists()  # another shard may be writing it
