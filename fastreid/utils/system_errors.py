"""Errors of the file system, the memory or the operating system as sentences with a remedy."""

from __future__ import annotations

import errno
import os
import re

# errno -> what is wrong with {file}, and what to do.
_REFUSALS: dict[int, str] = {
    errno.ENOENT: "there is no {file}: check the path",
    errno.EACCES: "{file} may not be read or written by this user: change its permissions, or name another place",
    errno.EPERM: "{file} may not be changed by this user: change its permissions, or name another place",
    errno.EISDIR: "{file} is a folder, where a file is wanted",
    errno.ENOTDIR: "{file} has a file where a folder is wanted: name another path",
    errno.EEXIST: "{file} is there already, and is not what is wanted: move it away, or name another path",
    errno.ENOTEMPTY: "{file} is there already and holds files: move it away, or name another path",
    errno.ENAMETOOLONG: "{file} is longer than the file system takes: shorten the name",
    errno.EILSEQ: "the file system does not take the name {file}: rename it",
    errno.ENOSPC: "no space is left on the disk for {file}: free some, or name a folder on another disk",
    errno.EDQUOT: "the disk quota of this user is used up by {file}: free some space, or name another disk",
    errno.EFBIG: "{file} grew larger than the file system or `ulimit -f` allows",
    errno.EROFS: "{file} is on a file system that is mounted read-only: name a folder that can be written",
    errno.EMFILE: "this process has too many open files, at {file}: raise the limit (ulimit -n 65535) or lower "
    "DATALOADER.NUM_WORKERS",
    errno.ENFILE: "the machine has too many open files, at {file}: close other programs, or raise fs.file-max",
    errno.EIO: "the disk or the network behind {file} failed: check it (dmesg), then try again",
    errno.ELOOP: "{file} is a symbolic link that leads back to itself",
    errno.ESTALE: "{file} went away on its file server: check the mount, then try again",
    errno.ENOMEM: "the memory is full, at {file}: lower DATALOADER.NUM_WORKERS or SOLVER.IMS_PER_BATCH",
    errno.EAGAIN: "the system has no more processes or memory to give, at {file}: raise `ulimit -u`, or lower "
    "DATALOADER.NUM_WORKERS",
    errno.ETXTBSY: "{file} is being executed: try again when it has ended",
    errno.EBUSY: "{file} is in use: try again when it is not",
    errno.EADDRINUSE: "the address is in use: give another --dist-url, or end the run that has it",
}
_ON_GPU = (
    "the memory of the GPU is full: lower SOLVER.IMS_PER_BATCH, raise SOLVER.ACCUMULATION_STEPS or set "
    "SOLVER.AMP.ENABLED True in a training; lower TEST.SDMODEL.MICRO_BATCH, "
)
_ON_CPU = "the memory is full: lower SOLVER.IMS_PER_BATCH, DATALOADER.NUM_WORKERS or "
_LESS = "TEST.IMS_PER_BATCH and TEST.MEMORY_BUDGET in an evaluation"
_SHARED = (
    "the shared memory (/dev/shm), which processes of a run need, is full: make it larger (docker run --shm-size 8g, "
    "mount -o remount,size=8G /dev/shm), or set DATALOADER.NUM_WORKERS to 0"
)
# What torch and the libraries of CUDA say if they get no memory.
_NO_GPU_MEMORY = re.compile(
    r"CUDA (?:error: )?out of memory|Cuda failure[^\n]*out of memory|CU(?:BLAS|DNN|SOLVER)_STATUS_ALLOC_FAILED"
)
# A torch write that ends early has no errno: its archive writer notices the position only.
_CUT_OFF = re.compile(r"unexpected pos \d+ vs|PytorchStreamWriter failed writing")
_IN_WORKER = re.compile(r"^\w*(?:Error|Exception): \[Errno (\d+)\] ([^:\n]*)(?:: '(.*)')?\s*$", re.MULTILINE)


def system_error_sentence(error: BaseException) -> str | None:
    """A sentence for an error of the file system, the memory or the encoding of names; None for other errors."""
    if isinstance(error, OSError):
        return _of_os_error(error)
    if isinstance(error, MemoryError):
        return f"{_ON_CPU}{_LESS}{_detail(str(error))}"
    if isinstance(error, UnicodeEncodeError):
        return _of_name(error)
    if isinstance(error, ImportError):
        return _of_import(error)
    return _of_runtime_error(error) if isinstance(error, RuntimeError) else None


def _of_os_error(error: OSError) -> str | None:
    number, file, said = error.errno, error.filename, error.strerror
    if number is None:  # torch creates the error of a data worker from its message
        found = _IN_WORKER.findall(str(error))
        if not found:
            # Libraries raise errors without a number about files that they cannot parse.
            return f"a file cannot be used: {error}" if type(error) is OSError and str(error) else None
        number, said, file = int(found[-1][0]), found[-1][1], found[-1][2] or None
    if number == errno.ENOSPC and file is None and _shared_memory_is_full():
        return f"{_SHARED} ({said})"
    shown = "a file" if file is None else str(file) if isinstance(file, int) else os.fsdecode(file)
    if number == errno.EEXIST and os.path.isfile(shown):
        return f"{shown} is a file, where a folder is wanted: move it away, or name another folder"
    if number in _REFUSALS:
        sentence = _REFUSALS[number].format(file=shown).replace(", at a file", "")
        return f"{sentence} ({said})" if said else sentence
    return f"cannot use {shown}: {said or os.strerror(number)}"


def _shared_memory_is_full() -> bool:
    """Whether less than a megabyte is free in /dev/shm."""
    try:
        room = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return False
    return room.f_bavail * room.f_frsize < 2**20


def _of_runtime_error(error: RuntimeError) -> str | None:
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or _NO_GPU_MEMORY.search(text):
        return f"{_ON_GPU}{_LESS}{_first_line(text)}"
    if "device-side assert triggered" in text:
        return (
            "an index was out of range on the GPU, as that of a class or a view in a user-defined data set may be: "
            f"MODEL.DEVICE cpu shows where{_first_line(text)}"
        )
    if "can't allocate memory" in text or "not enough memory: you tried to allocate" in text:
        return f"{_ON_CPU}{_LESS}{_detail(text)}"
    if text == "Could not determine home directory.":  # of pathlib
        return "a path begins with ~ and the name of a user that is not known: write the folder itself"
    if _CUT_OFF.search(text):
        return f"a file could not be written to its end, as when no space is left on the disk: free some{_detail(text)}"
    return None


def _of_name(error: UnicodeEncodeError) -> str:
    shown = error.object.encode("ascii", "backslashreplace").decode("ascii")
    return (
        f"the name or text {shown:.200} cannot be written in {error.encoding}, the encoding of this environment: set "
        "LANG=C.UTF-8 or PYTHONUTF8=1, or rename the file"
    )


def _of_import(error: ImportError) -> str | None:
    if not error.name or error.name.partition(".")[0] == "fastreid":
        return None
    return f"the package {error.name.partition('.')[0]} is missing or broken: install it again with pip ({error})"


def _first_line(text: str) -> str:
    """The first line of an error of CUDA; the others are general hints."""
    return f" ({text.strip().splitlines()[0]:.300})" if text.strip() else ""


def _detail(text: str) -> str:
    lines = text.strip().splitlines()
    return f" ({lines[-1].strip():.300})" if lines else ""
