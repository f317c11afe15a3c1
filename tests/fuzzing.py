"""Damage inputs by a seed and run a tool on them: the tool must work, or end with one error message."""

import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.miniature import run_tool

SECONDS = 20  # for one input
MEMORY = 8 * 2**30  # address space beside that of the process; a damaged size must not exhaust the machine
_TOKENS = (
    b"0", b"-1", b"1e400", b"nan", b".inf", b"99999999999999999999999", b"-0.0", b"true", b"null", b"''", b"[]", b"{}",
    b"[[[", b"*a", b"&a", b"!!binary x", b"!!float x", b"\xff\xfe", b"\xc3\x28", b"\x00", b"'", b'"', b",,,", b"\n\n",
    b":", b"~", b"../../x", b"1_1", b"007", b"\xe2\x86\x94", b"a" * 5000,
)  # fmt: skip


class TookTooLong(BaseException):
    """Raised when a tool does not end; a BaseException, so that the tool does not catch it."""


def _flip(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8, 64))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _insert(data: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice((draw.choice(_TOKENS), draw.randbytes(draw.randrange(1, 40)))) + data[at:]


def _cut_out(data: bytes, draw: random.Random) -> bytes:
    first = draw.randrange(len(data) + 1)
    return data[:first] + data[first + draw.randrange(1, 64) :]


def _lines(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    how = draw.randrange(4)
    if how == 0:
        lines.insert(to, lines[at])
    elif how == 1:
        del lines[at]
    elif how == 2:
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = draw.choice((b"  ", b"\t", b"")) + lines[at] * draw.choice((1, 2))
    return b"\n".join(lines)


def _words(data: bytes, draw: random.Random) -> bytes:
    """Replace a word by another token, or exchange two words."""
    words = data.replace(b",", b" , ").split(b" ") if b"," in data else data.split(b" ")
    at, to = draw.randrange(len(words)), draw.randrange(len(words))
    if draw.random() < 0.5:
        words[at] = draw.choice(_TOKENS) + (b"\n" if words[at].endswith(b"\n") else b"")
    else:
        words[at], words[to] = words[to], words[at]
    return b" ".join(words).replace(b" , ", b",")


def _recode(data: bytes, draw: random.Random) -> bytes:
    text = data.decode("utf-8", "replace") + "# \u5317\u4eac \u00e9\n"
    encoding = draw.choice(("utf-16", "utf-16-le", "utf-32", "gbk", "cp1252", "utf-8-sig", "cp037"))
    return text.encode(encoding, "replace")


def _repeat(data: bytes, draw: random.Random) -> bytes:
    return data * draw.choice((0, 2, 3))


BINARY = (_flip, _flip, _truncate, _insert, _cut_out, _repeat)
TEXT = (_flip, _truncate, _insert, _cut_out, _lines, _lines, _words, _words, _words, _recode, _repeat)


def damaged(data: bytes, draw: random.Random, ways: tuple[Callable[[bytes, random.Random], bytes], ...]) -> bytes:
    """Return `data` after one to three of the `ways`."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(ways)(data, draw)
    return data


@dataclass
class Case:
    """One input: the command line of a tool, in a folder of its own."""

    tool: str
    words: list[str]
    outputs: tuple[str, ...] = ()  # files that must be complete or absent afterwards


def failure_of(case: Case, folder: Path) -> str | None:
    """Run a case in `folder`, and return what went wrong, or None."""
    status: object = None
    complaints = io.StringIO()
    try:
        with _in_time(), contextlib.redirect_stderr(complaints):
            run_tool(f"tools/{case.tool}.py", *case.words, cwd=folder)
    except SystemExit as stop:
        status = stop.code
    except TookTooLong:
        return f"took more than {SECONDS} s"
    except BaseException:
        return traceback.format_exc(limit=-4)
    if isinstance(status, str) and not status.startswith(f"{case.tool}: "):
        return f"ended with {status!r}"
    for text in (str(status), complaints.getvalue()):
        if "Traceback" in text or "Logging error" in text:
            return text
    if isinstance(status, str) and len(status) > 4000:
        return f"a message of {len(status)} characters: {status[:300]}"
    if half := [str(path) for path in folder.rglob("*") if path.name.endswith((".tmp", ".part"))]:
        return f"left {half}"
    return next((broken for name in case.outputs if (broken := _broken(folder / name, status))), None)


def _broken(path: Path, status: object) -> str | None:
    if not path.exists():
        return None
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".pth":
            import torch

            torch.load(path, weights_only=True)
        elif path.suffix == ".jpg":
            from PIL import Image

            Image.open(path).load()
    except Exception as error:
        return f"left a broken {path.name}: {error} (after {status!r})"
    return None


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Limit the address space, so that too large an allocation raises an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def failures(kind: str, count: int, make: Callable[[random.Random, Path], Case], folder: Path) -> list[str]:
    """Run `count` cases of a kind, and return the seed, the saved input and the error of each one that fails.

    The environment variable FASTREID_FUZZ_SEED selects other cases.
    """
    seed = os.environ.get("FASTREID_FUZZ_SEED", "")
    found = []
    with bounded_memory():
        for number in range(count):
            place = folder / f"{kind}-{number}"
            place.mkdir()
            case = make(random.Random(f"{seed}{kind} {number}"), place)
            if wrong := failure_of(case, place):
                kept = folder / "kept" / place.name
                shutil.copytree(place, kept, symlinks=True)
                found.append(f"{kind} {number}, saved in {kept}: {case.tool} {' '.join(case.words)}\n{wrong}")
            shutil.rmtree(place)
    return found
