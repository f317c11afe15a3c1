#!/usr/bin/env python
"""Breaks training runs on purpose and compares what they end with to a run that nobody broke.

    python benchmarks/faults.py [--kills 50] [--others 3] [--workers 2] [--folder DIR] [KEY VALUE ...]

A rendered benchmark of a few people and a tiny random UNet, both stages. For each fault: how often, how it was made, in
how many cases the weights and figures at the end were the very same bits, and what was lost. Processes are forked from
this one, so that a run costs seconds and not the time to import torch. Unix only.
"""

import argparse
import contextlib
import errno
import itertools
import json
import os
import random
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fastreid.engine  # noqa: F401 - imported once, for all forks
from fastreid.modeling.meta_arch import SDReIDStage1, SDReIDStage2

import torch
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("stage1", "stage2")


@dataclass
class Tally:
    """Of one fault and one stage."""

    how: str
    times: int = 0
    same: int = 0
    lost: list[str] = field(default_factory=list)


class Lab:
    """A folder with data, assets and an unbroken run of each stage."""

    def __init__(self, folder: Path, workers: int, keys: list[str]) -> None:
        self.folder, self.workers, self.keys = folder, workers, keys
        few = ["--train-ids", "8", "--test-ids", "4", "--images-per-id", "8", "--workers", "1"]
        self.tool("tools/render_benchmark.py", "--root", "data", *few)
        self.tool("tools/make_assets.py", "--size", "tiny", "--output", "pretrained/random-tiny")
        self.seconds = {}
        for stage in STAGES:
            start = time.perf_counter()
            self.train(stage, f"whole/{stage}")
            self.seconds[stage] = time.perf_counter() - start
            if not (folder / f"whole/{stage}/model_final.pth").exists():
                raise RuntimeError(f"{stage} does not train: see {folder}/log.txt")

    def tool(
        self,
        name: str,
        *words: str,
        during: Callable[[int], None] | None = None,
        inject: Callable[[], None] | None = None,
    ) -> int:
        """Run a tool in a fork of this process, after `inject` there; its exit status, negative for a signal."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.setsid()
            os.chdir(self.folder)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = [name, *words]
            status = 1
            try:
                if inject:
                    inject()
                runpy.run_path(str(ROOT / name), run_name="__main__")
                status = 0
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else int(error.code is not None)
                print(error)
            except BaseException as error:  # noqa: BLE001 - a fork must not come back
                print(f"{type(error).__name__}: {error}")
                status = 1
            finally:
                sys.stdout.flush()
                os._exit(status or 0)
        if during:
            during(child)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def train(self, stage: str, output: str, *keys: str, options: Sequence[str] = (), **broken: Any) -> int:
        """`broken`: `during` and `inject` of `tool`."""
        words = ["--config-file", str(ROOT / f"configs/quickstart/{stage}.yml"), "--resume", *options]
        words += ["MODEL.DEVICE", "cpu", "DATASETS.ROOT", "data", "OUTPUT_DIR", output]
        words += ["SOLVER.MAX_EPOCH", "4", "SOLVER.IMS_PER_BATCH", "16", "SOLVER.CHECKPOINT_PERIOD", "1"]
        words += ["TEST.EVAL_PERIOD", "2", "DATALOADER.NUM_WORKERS", str(self.workers)]
        if stage == "stage2":
            words += ["MODEL.WEIGHTS", "whole/stage1/model_final.pth"]
        return self.tool("tools/train_net.py", *words, *keys, *self.keys, **broken)

    def said_since(self, position: int) -> str:
        """What all runs printed after the log had so many bytes."""
        return self.log.read_bytes()[position:].decode(errors="replace")

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def is_same(self, stage: str, output: str, whole: str = "") -> str:
        """ "" if a run ended as the unbroken one did, else what differs."""
        whole, mine = self.folder / (whole or f"whole/{stage}"), self.folder / output
        if not (mine / "model_final.pth").exists():
            return "it did not end"
        expected, found = (torch.load(run / "model_final.pth", weights_only=True)["model"] for run in (whole, mine))
        for name, value in expected.items():
            if not torch.equal(value, found[name]):
                return f"{name} differs"
        figures = [json.loads((run / "results.json").read_text()) for run in (whole, mine)]
        return "" if figures[0] == figures[1] else "figures differ"


def kill_after(seconds: float, number: int) -> Callable[[int], None]:
    """Signal the whole process group, workers too, some time after it began."""

    def kill(child: int) -> None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, number) if number == signal.SIGKILL else os.kill(child, number)

    return kill


def signalled(lab: Lab, stage: str, number: int, times: int, dice: random.Random) -> Tally:
    """Killed at a random moment, up to three times in a row, then left to finish."""
    tally = Tally(f"{signal.Signals(number).name} at random moments, up to three a run, then --resume")
    while tally.times < times:
        output = f"broken/{stage}"
        shutil.rmtree(lab.folder / output, ignore_errors=True)
        for _ in range(min(dice.randint(1, 3), times - tally.times)):
            status = lab.train(stage, output, during=kill_after(dice.uniform(0.2, lab.seconds[stage]), number))
            tally.times += status != 0  # a run may be done before
        lab.train(stage, output)
        told = lab.is_same(stage, output)
        tally.same += not told
        tally.lost += [told] if told else []
    return tally


def damaged(lab: Lab, stage: str, how: str, damage: Callable[[Path], None], times: int, dice: random.Random) -> Tally:
    """The newest checkpoint of a run that was killed late is broken; the one before must take over."""
    tally = Tally(f"{how}, then --resume")
    while tally.times < times:
        output = f"broken/{stage}"
        shutil.rmtree(lab.folder / output, ignore_errors=True)
        shutil.copytree(lab.folder / f"whole/{stage}", lab.folder / output)
        for name in ("model_final.pth", "results.json"):
            (lab.folder / output / name).unlink()
        newest = sorted((lab.folder / output).glob("model_0*.pth"))[-1]
        (lab.folder / output / "last_checkpoint").write_text(newest.name)
        damage(newest)
        lab.train(stage, output)
        told = lab.is_same(stage, output)
        tally.times += 1
        tally.same += not told
        tally.lost += [told] if told else []
    return tally


def stopped(
    lab: Lab, stage: str, how: str, sentence: str, times: int, begin: Callable[[], dict[str, Any]], whole: str = ""
) -> Tally:
    """A fault that must stop the run with a sentence; when it is mended, the run goes on.

    `begin` makes the fault: what `Lab.train` is given, and under "mend" what undoes it.
    """
    tally = Tally(f"{how}: the run stops and says so; then --resume")
    while tally.times < times:
        output = f"broken/{stage}"
        shutil.rmtree(lab.folder / output, ignore_errors=True)
        fault, position = begin(), lab.log.stat().st_size
        mend, keys = fault.pop("mend", lambda: None), fault.pop("keys", ())
        status = lab.train(stage, output, *keys, **fault)
        mend()
        said = lab.said_since(position)
        tally.times += 1
        told = "" if status and sentence in said else f"it ended with {status} and did not say {sentence!r}"
        again = [word for word in fault.get("options", ()) if word != "--timeout" and word != "0.2"]
        lab.train(stage, output, options=again)
        told = told or lab.is_same(stage, output, whole)
        tally.same += not told
        tally.lost += [told] if told else []
    return tally


def kill_a_child(seconds: float, number: int, *, which: int = -1) -> Callable[[int], None]:
    """Signal one process that the run has started, as soon after that time as it has any."""

    def kill(child: int) -> None:
        time.sleep(seconds)
        children = Path(f"/proc/{child}/task/{child}/children")
        with contextlib.suppress(OSError, ProcessLookupError):
            while not (numbers := children.read_text().split()):
                time.sleep(0.05)
            os.kill(int(numbers[which]), number)

    return kill


def loss_is_nan_at(number: int) -> Callable[[], None]:
    """In the training pass of that number, counted from 1."""

    def inject() -> None:
        for model in (SDReIDStage1, SDReIDStage2):
            model.forward = _spoilt(model.forward, number)

    return inject


def _spoilt(forward: Callable[..., Any], number: int) -> Callable[..., Any]:
    passes = itertools.count(1)

    def spoilt(self: Any, batch: Any) -> Any:
        result = forward(self, batch)
        if not self.training or next(passes) != number:
            return result
        return {name: loss * float("nan") for name, loss in result.items()}

    return spoilt


def disk_is_full_at(number: int) -> Callable[[], None]:
    """When the checkpoint of that number, counted from 1, is half written."""

    def inject() -> None:
        save, calls = torch.save, itertools.count(1)

        def full(content: Any, file: Any) -> None:
            if next(calls) != number:
                save(content, file)
                return
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        torch.save = full

    return inject


def image_is_cut(lab: Lab, dice: random.Random) -> dict[str, Any]:
    """One training image loses its second half."""
    path = dice.choice(sorted((lab.folder / "data/CARGO/train").rglob("*.jpg")))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return {"mend": lambda: path.write_bytes(whole)}


def stops(lab: Lab, stage: str, times: int, dice: random.Random) -> Iterator[Tally]:
    """The faults that a run must not survive, one after the other."""
    seconds, last = lab.seconds[stage], 12
    yield stopped(
        lab, stage, "a data worker killed at a random moment", "a data worker died", times,
        lambda: {"during": kill_a_child(dice.uniform(0.2, seconds / 2), signal.SIGKILL)},
    )  # fmt: skip
    yield stopped(
        lab, stage, "a training image cut in half", "cannot read image", times, lambda: image_is_cut(lab, dice)
    )
    yield stopped(
        lab, stage, "the disk full while a checkpoint is written", "the disk is full", times,
        lambda: {"inject": disk_is_full_at(dice.randint(1, 3))},
    )  # fmt: skip
    yield stopped(
        lab, stage, "a loss NaN at a random iteration, SOLVER.MAX_NONFINITE 0", "non-finite loss", times,
        lambda: {"inject": loss_is_nan_at(dice.randint(2, last)), "keys": ("SOLVER.MAX_NONFINITE", "0")},
    )  # fmt: skip
    whole, two = f"whole/two_{stage}", ("--num-gpus", "2")
    start = time.perf_counter()
    lab.train(stage, whole, options=two)
    seconds = time.perf_counter() - start
    yield stopped(
        lab, stage, "one of two processes killed at a random moment", "terminated with signal SIGKILL", times,
        lambda: {"options": two, "during": kill_a_child(dice.uniform(seconds / 2, seconds * 0.9), signal.SIGKILL)},
        whole,
    )  # fmt: skip
    yield stopped(
        lab, stage, "one of two processes stopped for good (--timeout 0.2 minutes)", "waited 0.2 minutes", times,
        lambda: {
            "options": (*two, "--timeout", "0.2"),
            "during": kill_a_child(dice.uniform(seconds / 2, seconds * 0.8), signal.SIGSTOP),
        },
        whole,
    )  # fmt: skip


def truncate(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)


def flip_a_bit(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def faults(lab: Lab, stage: str, args: argparse.Namespace, dice: random.Random) -> Iterator[Tally]:
    """All faults of one stage, one after the other."""
    yield signalled(lab, stage, signal.SIGKILL, -(-args.kills // len(STAGES)), dice)
    yield signalled(lab, stage, signal.SIGTERM, args.others, dice)
    yield signalled(lab, stage, signal.SIGINT, args.others, dice)
    yield damaged(lab, stage, "newest checkpoint cut to two thirds", truncate, args.others, dice)
    yield damaged(lab, stage, "a bit of the newest checkpoint flipped", flip_a_bit, args.others, dice)
    yield damaged(lab, stage, "newest checkpoint deleted", Path.unlink, args.others, dice)
    yield from stops(lab, stage, args.others, dice)


def main() -> None:
    """Parse the command line, break, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs, over both stages")
    parser.add_argument("--others", type=int, default=3, help="times of each other fault and stage")
    parser.add_argument("--workers", type=int, default=2, help="data workers of the runs")
    parser.add_argument("--folder", type=Path, help="work here and leave it; a temporary one if not given")
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
        for stage in STAGES:
            for tally in faults(lab, stage, args, dice):
                runs = tally.same + len(tally.lost)
                rows.append(
                    [stage, tally.how, tally.times, f"{tally.same} of {runs}", ", ".join(tally.lost) or "nothing"]
                )
                print(tabulate(rows[-1:], tablefmt="plain"), flush=True)
        print()
        print(tabulate(rows, ["stage", "fault", "times", "runs that ended with the same bits", "lost"]))


if __name__ == "__main__":
    main()
