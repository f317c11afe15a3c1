"""Render a whole benchmark into a folder, with several processes."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.context import BaseContext
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from fastreid.utils.cores import usable_cores
from fastreid.utils.differences import differences
from fastreid.utils.errors import UserError, first_line_of
from fastreid.utils.folders import atomic_folder, put_back
from fastreid.utils.lock import path_lock
from fastreid.utils.text import TextError, read_json

from .config import RenderConfig
from .domains import PLAIN
from .layouts import get_layout
from .plan import RenderRequest
from .render import render_person

logger = logging.getLogger(__name__)

MANIFEST = "render.json"


@dataclass(frozen=True)
class RenderSummary:
    """A rendered benchmark.

    Attributes:
        folder: its folder.
        request: its parameters.
        images: number of images in each split.
        seconds: duration of the rendering; 0 if it was reused.
        reused: whether it existed already.
    """

    folder: Path
    request: RenderRequest
    images: dict[str, int]
    seconds: float
    reused: bool


def _render_identity(folder: Path, request: RenderRequest, pid: int) -> Counter[str]:
    """Write all images of one person, and return their number in each split."""
    layout, person = get_layout(request.name), request.person(pid)
    counts: Counter[str] = Counter()
    for shot in request.shots(pid):
        rng = request.rng(shot)
        picture = render_person(person, request.cameras[shot.camera], rng, request.config, request.look.wardrobe)
        low, high = request.config.jpeg_quality_low, request.config.jpeg_quality_high
        quality = int(rng.integers(low, high, endpoint=True))
        for name in (layout.path(shot), *layout.copies(shot)):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, quality=quality)
        counts[shot.split] += 1
    return counts


def _begin_process() -> None:
    """In a process of a pool: leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()  # a pool notices the death of a process, but not that of the parent
        os._exit(1)


def _process_context() -> BaseContext:
    """Start processes by forkserver, which imports this once. Not by fork, as the caller may run threads."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@contextmanager
def _parallel_map(workers: int) -> Iterator[Callable]:
    """A `map` over `workers` new processes (1: none); an error cancels work that has not begun.

    Raises:
        UserError: a process was killed.
    """
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers, _process_context(), _begin_process)
    try:
        yield partial(pool.map, chunksize=4)
    except (BrokenExecutor, ConnectionError, EOFError) as error:
        raise UserError(
            f"one of {workers} processes that render was killed, as when the memory is full: lower the number of "
            f"workers, and run this again ({first_line_of(error)})"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _with_progress(results: Iterable, total: int, what: str) -> Iterator:
    """Yield `results`, with a progress bar on a terminal, else a log line every ten seconds."""
    if sys.stderr.isatty():
        yield from tqdm(results, what, total, unit="id")
        return
    start = logged = time.monotonic()
    for done, result in enumerate(results, 1):
        yield result
        now = time.monotonic()
        if now - logged > 10:
            logged, left = now, (now - start) * (total - done) / done
            logger.info("%s: %d of %d ids, about %.0f s left", what, done, total, left)


def _already_there(target: Path, request: RenderRequest, overwrite: bool) -> dict[str, int] | None:
    """The counts in `target` if it is the requested benchmark; raises if the folder must not be replaced."""
    if not target.exists():
        return None
    try:
        found = read_json(target / MANIFEST)
        images, had = found["images"], {"domain": PLAIN, **found["request"]}  # earlier versions had no domain
    except (FileNotFoundError, NotADirectoryError):
        raise FileExistsError(
            f"{target} exists and was not rendered (it has no {MANIFEST}), so it is never "
            "overwritten; choose another root or move it away"
        ) from None
    except (TextError, TypeError, KeyError) as error:
        if overwrite:
            return None
        raise FileExistsError(
            f"{target} was rendered, but its {MANIFEST} is damaged ({error}); ask to overwrite it, or delete the folder"
        ) from error
    wanted = request.manifest()
    if had == wanted:
        return images
    if overwrite:
        return None
    changes = differences(had, wanted)
    raise FileExistsError(
        f"{target} was rendered with other parameters ({'; '.join(changes)}); "
        "choose another root or ask to overwrite it"
    )


def render_benchmark(
    root: str | os.PathLike[str],
    name: str = "CARGO",
    *,
    train_ids: int = 300,
    test_ids: int = 100,
    images_per_id: int = 10,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    config: RenderConfig | None = None,
    domain: str = PLAIN,
) -> RenderSummary:
    """Render benchmark `name` into `root/name`; the same arguments give the same bytes.

    The folder appears when it is complete. A folder that was rendered with the same arguments is kept; a folder that
    was not rendered is never replaced.

    Args:
        root: folder of the benchmarks.
        name: name of the benchmark.
        train_ids: number of training people.
        test_ids: number of test people.
        images_per_id: number of images of each person.
        seed: seed of the benchmark.
        workers: number of processes, the usable cores by default; it does not change the result.
        overwrite: replace a folder that was rendered with other arguments.
        config: parameters of the benchmark.
        domain: name of the look of its places, cameras and clothes, a key of `DOMAINS`.

    Raises:
        ValueError: an unknown name or domain, or an impossible count.
        FileExistsError: `root/name` has other content.
        DiskError: the disk is full or failed.
    """
    request = RenderRequest(name, train_ids, test_ids, images_per_id, seed, config or RenderConfig(), domain)
    workers = usable_cores() if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers is {workers}; give at least 1, or None for all usable cores")
    target = Path(root).expanduser() / name
    with path_lock(target, wait=True):  # another process may be rendering the same
        return _render_if_absent(target, request, workers, overwrite)


def _render_if_absent(target: Path, request: RenderRequest, workers: int, overwrite: bool) -> RenderSummary:
    put_back(target)
    images = _already_there(target, request, overwrite)
    if images is not None:
        logger.info("%s is already rendered with these parameters: nothing to do", target)
        return RenderSummary(target, request, images, 0.0, reused=True)
    start = time.monotonic()
    images = _render_into(target, request, workers)
    return RenderSummary(target, request, images, time.monotonic() - start, reused=False)


def _render_into(target: Path, request: RenderRequest, workers: int) -> dict[str, int]:
    """Write the benchmark, and return the number of images in each split."""
    people = request.people
    images: Counter[str] = Counter()
    with atomic_folder(target) as folder:
        with _parallel_map(min(workers, len(people))) as parallel_map:
            results = parallel_map(partial(_render_identity, folder, request), people)
            for counts in _with_progress(results, len(people), f"rendering {target.name}"):
                images += counts
        shots = [shot for pid in people for shot in request.shots(pid)]
        layout = get_layout(request.name)
        for name, content in layout.lists.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content(layout, shots))
        manifest = {"request": request.manifest(), "images": dict(images)}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return dict(images)
