#!/usr/bin/env python
"""Disturbs training runs by faults and compares their files with those of an undisturbed run.

    python benchmarks/faults.py [--kills 50] [--others 3] [--workers 2] [--folder DIR] [KEY VALUE ...]

It trains both stages on a rendered benchmark of a few people, with a tiny random UNet. It prints for each fault: the
stage, the fault, how often it happened, how many runs left the same files (checkpoints bit by bit; without times and
the log), and what was lost. Processes are forked from this one, so that a run costs seconds and not the time to import
torch. Unix only; real full disks need the right to mount a tmpfs.
"""

import argparse
import contextlib
import itertools
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastreid  # noqa: F401

import torch
from tabulate import tabulate

from fault_lab import (
    STAGES,
    Lab,
    at_event,
    can_mount,
    has_ended,
    kill_a_child,
    kill_after,
    loss_is_nan_at,
    make_room,
    mount_small_disk,
    size_of,
    unmount,
)

YEAR = 365 * 24 * 3600
# Attempts in which a run may end before its fault.
MAX_LATE = 20


@dataclass
class Tally:
    """Counts for one fault and one stage."""

    how: str
    times: int = 0
    same: int = 0
    lost: list[str] = field(default_factory=list)

    def note(self, lost: str) -> None:
        """Count a run that was disturbed and then finished; `lost` is "" if it ended like the undisturbed one."""
        self.same += not lost
        self.lost += [lost] if lost else []


def fresh(lab: Lab, stage: str) -> str:
    """Return an empty folder for a run, relative to that of the lab."""
    output = f"broken/{stage}"
    shutil.rmtree(lab.folder / output, ignore_errors=True)
    return output


def signalled(
    lab: Lab,
    stage: str,
    number: int,
    times: int,
    dice: random.Random,
    *,
    how: str = "",
    group: bool = False,
    afterwards: Callable[[Path], None] = lambda folder: None,
) -> Tally:
    """Signals at random moments, up to three times in a row; then the run is finished."""
    tally = Tally(how or f"{signal.Signals(number).name} at random moments, up to three a run, then --resume")
    while tally.times < times:
        output = fresh(lab, stage)
        for _ in range(min(dice.randint(1, 3), times - tally.times)):
            kill = kill_after(dice.uniform(0.2, lab.pace * lab.seconds[stage]), number, group=group)
            tally.times += lab.train(stage, output, during=kill) != 0  # the run may finish before
            afterwards(lab.folder / output)
        lab.train(stage, output)
        tally.note(lab.what_differs(output, f"whole/{stage}"))
    return tally


def clock_jumps(dice: random.Random) -> Callable[[Path], None]:
    """Set the dates of all files to random times within a year."""

    def jump(folder: Path) -> None:
        for path in folder.rglob("*"):
            date = time.time() + dice.uniform(-YEAR, YEAR)
            os.utime(path, (date, date))

    return jump


def killed_at_files(lab: Lab, stage: str, times: int, dice: random.Random) -> Tally:
    """Kills at file events spread over a whole run, including saves and evaluations."""
    tally = Tally("SIGKILL when a file of a save or an evaluation is renamed to its final name, then --resume")
    step = lab.events[stage] / max(1, times)
    for part in range(times):
        output, number = fresh(lab, stage), int(step * (part + dice.random()))
        tally.times += lab.train(stage, output, inject=lambda: at_event(number)) != 0  # noqa: B023
        lab.train(stage, output)
        tally.note(lab.what_differs(output, f"whole/{stage}"))
    return tally


def damaged(lab: Lab, stage: str, how: str, damage: Callable[[Path], None], times: int, name: str = "") -> Tally:
    """Damages a file of a run that was killed late: the newest checkpoint, or the named one."""
    tally = Tally(f"{how}, then --resume")
    for _ in range(times):
        output = fresh(lab, stage)
        folder = lab.folder / output
        shutil.copytree(lab.folder / f"whole/{stage}", folder)
        for done in ("model_final.pth", "results.json"):
            (folder / done).unlink()
        newest = sorted(folder.glob("model_0*.pth"))[-1]
        (folder / "last_checkpoint").write_text(newest.name)
        damage(folder / name if name else newest)
        lab.train(stage, output)
        tally.times += 1
        tally.note(lab.what_differs(output, f"whole/{stage}"))
    return tally


def stopped(
    lab: Lab,
    stage: str,
    how: str,
    sentence: str,
    times: int,
    begin: Callable[[str], dict[str, Any]],
    *,
    whole: str = "",
    extra: Collection[str] = (),
    ignored: Collection[str] = (),
) -> Tally:
    """A fault that must stop the run with an error message; when it is removed, the run is resumed.

    `begin` makes the fault for a run in that folder: what `Lab.train` is given, under "mend" what undoes it, and under
    "end" what cleans up after the comparison.
    """
    tally, late = Tally(f"{how}: the run stops and says so; then --resume"), 0
    while tally.times < times:
        output = fresh(lab, stage)
        fault, position = begin(output), lab.log.stat().st_size
        mend, end, keys = fault.pop("mend", _nothing), fault.pop("end", _nothing), fault.pop("keys", ())
        is_late = watch(fault, lab.folder / output / "model_final.pth")
        try:
            status = lab.train(stage, output, *keys, **fault)
            mend()
            # The training was over before the signal, or the killed worker had given its last batch: the fault came
            # too late to stop anything. Try an earlier moment.
            had_no_effect = not status and "during" in fault and not lab.what_differs(output, whole or f"whole/{stage}")
            if (is_late() or had_no_effect) and late < MAX_LATE:
                late, lab.pace = late + 1, 0.7 * lab.pace
                continue
            said = lab.said_since(position)
            tally.times += 1
            lost = "" if status and sentence in said else f"it ended with {status} and did not say {sentence!r}"
            lost = lost or ("a traceback" if "Traceback (most recent" in said else "")
            again = [word for word in fault.get("options", ()) if word not in ("--timeout", "0.2")]
            lab.train(stage, output, options=again)
            tally.note(lost or lab.what_differs(output, whole or f"whole/{stage}", extra=extra, ignored=ignored))
        finally:
            end()
    return tally


def watch(fault: dict[str, Any], last_file: Path) -> Callable[[], bool]:
    """Return a function that says whether the training was over when the signal of a fault was sent.

    Args:
        fault: keywords of `Lab.train`; its `during` is replaced.
        last_file: the file that is written when the training is over.
    """
    seen: list[bool] = []
    if during := fault.get("during"):

        def watched(child: int) -> None:
            during(child)
            seen.append(last_file.exists())

        fault["during"] = watched
    return lambda: any(seen)


def _nothing() -> None:
    pass


def two_at_once(lab: Lab, stage: str, times: int, dice: random.Random) -> Tally:
    """A second run in the same folder raises an error, and the first one is not affected."""
    tally = Tally("a second run in the same folder while the first one runs: it stops with an error")
    for _ in range(times):
        output, position, ended = fresh(lab, stage), lab.log.stat().st_size, []

        def second(child: int) -> None:
            moment = lab.folder / output / f"model_{dice.randrange(2):04d}.pth"  # noqa: B023
            while not (moment.exists() or has_ended(child)):
                time.sleep(0.02)
            ended.append(lab.train(stage, output))  # noqa: B023

        lab.train(stage, output, during=second)
        tally.times += 1
        is_refused = ended[0] and "is in use by" in lab.said_since(position)
        lost = "" if is_refused else f"the second one ended with {ended[0]}"
        tally.note(lost or lab.what_differs(output, f"whole/{stage}"))
    return tally


def image_is_cut(lab: Lab, dice: random.Random) -> dict[str, Any]:
    """Truncate a training image to its first half."""
    path = dice.choice(sorted((lab.folder / "data/CARGO/train").rglob("*.jpg")))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return {"mend": lambda: path.write_bytes(whole)}


def disk_is_small(lab: Lab, stage: str, output: str, dice: random.Random) -> dict[str, Any]:
    """OUTPUT_DIR is on a disk that becomes full during the run."""
    folder = lab.folder / output
    mount_small_disk(folder, int(dice.uniform(0.02, 0.9) * size_of(lab.folder / f"whole/{stage}")))
    return {"mend": lambda: make_room(folder), "end": lambda: unmount(folder)}


def stops(lab: Lab, stage: str, times: int, dice: random.Random) -> Iterator[Tally]:
    """All faults that must stop a run."""
    seconds, last = lab.seconds[stage], 12
    yield stopped(
        lab, stage, "a data worker killed at a random moment", "a data worker died", times,
        lambda output: {"during": kill_a_child(lab.pace * dice.uniform(0.2, seconds / 2), signal.SIGKILL)},
    )  # fmt: skip
    yield stopped(
        lab, stage, "a training image cut in half", "cannot read image", times,
        lambda output: image_is_cut(lab, dice),
    )  # fmt: skip
    if can_mount(lab.folder / "disk"):
        yield stopped(
            lab, stage, "a disk (tmpfs) that gets full at some file", "the disk is full", times,
            lambda output: disk_is_small(lab, stage, output, dice),
        )  # fmt: skip
    else:
        yield Tally("a disk that gets full: not tried, no tmpfs can be mounted here")
    yield stopped(
        lab, stage, "a loss NaN at a random iteration, SOLVER.MAX_NONFINITE 0", "non-finite loss", times,
        lambda output: {"inject": loss_is_nan_at(dice.randint(2, last)), "keys": ("SOLVER.MAX_NONFINITE", "0")},
        extra=("model_before_nonfinite.pth",), ignored=("nonfinite_steps", "SOLVER.MAX_NONFINITE", "config_yaml"),
    )  # fmt: skip
    yield from stops_of_two(lab, stage, times, dice)


def stops_of_two(lab: Lab, stage: str, times: int, dice: random.Random) -> Iterator[Tally]:
    """Faults of a run of two processes, compared with an undisturbed run of two."""
    whole, two = f"whole/two_{stage}", ("--num-gpus", "2")
    start = time.perf_counter()
    lab.train(stage, whole, options=two)
    seconds = time.perf_counter() - start
    yield stopped(
        lab, stage, "one of two processes killed at a random moment", "terminated with signal SIGKILL", times,
        lambda output: {
            "options": two,
            "during": kill_a_child(lab.pace * dice.uniform(seconds / 2, seconds * 0.9), signal.SIGKILL),
        },
        whole=whole,
    )  # fmt: skip
    yield stopped(
        lab, stage, "SIGTERM to the group of two processes and their workers", "stopped by a signal", times,
        lambda output: {
            "options": two,
            "during": kill_after(lab.pace * dice.uniform(seconds / 2, seconds * 0.8), signal.SIGTERM, group=True),
        },
        whole=whole,
    )  # fmt: skip
    yield stopped(
        lab, stage, "one of two processes suspended (--timeout 0.2 minutes)", "waited 0.2 minutes", times,
        lambda output: {
            "options": (*two, "--timeout", "0.2"),
            "during": kill_a_child(lab.pace * dice.uniform(seconds / 2, seconds * 0.8), signal.SIGSTOP),
        },
        whole=whole,
    )  # fmt: skip


def cut(dice: random.Random) -> Callable[[Path], None]:
    """Truncate a file."""

    def damage(path: Path) -> None:
        with open(path, "r+b") as file:
            file.truncate(dice.randrange(path.stat().st_size))

    return damage


def flip_a_bit(dice: random.Random) -> Callable[[Path], None]:
    """Flip a bit anywhere in a file; every other time in the last 2,000 bytes, where the archive has its directory."""
    turns = itertools.count()

    def damage(path: Path) -> None:
        size = path.stat().st_size
        position = dice.randrange(size if next(turns) % 2 else min(2000, size))
        with open(path, "r+b") as file:
            file.seek(-1 - position, os.SEEK_END)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1 << dice.randrange(8)]))

    return damage


def faults(lab: Lab, stage: str, args: argparse.Namespace, dice: random.Random) -> Iterator[Tally]:
    """All faults of one stage."""
    kills, others = -(-args.kills // len(args.stages)), args.others
    yield signalled(lab, stage, signal.SIGKILL, kills, dice)
    yield killed_at_files(lab, stage, kills, dice)
    yield signalled(lab, stage, signal.SIGTERM, others, dice)
    yield signalled(lab, stage, signal.SIGINT, others, dice)
    how = "SIGTERM to the whole process group at random moments, up to three a run, then --resume"
    yield signalled(lab, stage, signal.SIGTERM, others, dice, how=how, group=True)
    how = "SIGKILL at random moments, then dates of all files a year ahead or back, then --resume"
    yield signalled(lab, stage, signal.SIGKILL, others, dice, how=how, afterwards=clock_jumps(dice))
    yield damaged(lab, stage, "newest checkpoint cut at a random byte", cut(dice), others)
    yield damaged(lab, stage, "a bit of the newest checkpoint flipped, anywhere", flip_a_bit(dice), others)
    yield damaged(lab, stage, "newest checkpoint deleted", Path.unlink, others)
    yield damaged(lab, stage, "a bit of model_best.pth flipped, anywhere", flip_a_bit(dice), others, "model_best.pth")
    yield damaged(lab, stage, "last_checkpoint deleted", Path.unlink, others, "last_checkpoint")
    yield two_at_once(lab, stage, others, dice)
    yield from stops(lab, stage, others, dice)


def main() -> None:
    """Parse the command line, run all faults, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kills", type=int, default=50, help="SIGKILLs over both stages, at random moments and at files"
    )
    parser.add_argument("--others", type=int, default=3, help="times of each other fault and stage")
    parser.add_argument("--workers", type=int, default=2, help="data workers of the runs")
    parser.add_argument("--folder", type=Path, help="work here and leave it; a temporary one if not given")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, help="that are disturbed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("keys", nargs="*", metavar="KEY VALUE", help="config keys of all runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dice = random.Random(args.seed)
    with contextlib.ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        lab = Lab(folder.resolve(), args.workers, args.keys)
        rows = []
        for stage in args.stages:
            for tally in faults(lab, stage, args, dice):
                runs = tally.same + len(tally.lost)
                lost = "; ".join(tally.lost) or "nothing"
                rows.append([stage, tally.how, tally.times, f"{tally.same} of {runs}", lost])
                print(tabulate(rows[-1:], tablefmt="plain"), flush=True)
        print()
        print(tabulate(rows, ["stage", "fault", "times", "runs that left the same files", "lost"]))


if __name__ == "__main__":
    main()
