"""Runs a stage in forks of this process, kills them at random moments, and then lets one end.

kills.py STAGE KILLS SEED LONGEST_SECONDS KEY VALUE …
"""

import os
import random
import signal
import sys
import time

import torch

from fastreid.config import get_cfg
from fastreid.generation.caption import caption
from fastreid.generation.exporting import export
from fastreid.generation.filtering import filter_pictures, top_up
from fastreid.generation.filters.base import FILTER_REGISTRY
from fastreid.generation.shards import Shard
from fastreid.generation.stages import generate, write_reference
from tests.generation.filters.toys import SharperHalf
from tests.miniature import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import diffperson

FILTER_REGISTRY.register(SharperHalf, name="sharper_half")
STAGES = {
    "train": lambda cfg, shard: diffperson.run(["train", *sys.argv[5:]]),
    "top-up": top_up,
    "caption": caption,
    "reference": write_reference,
    "generate": generate,
    "filter": filter_pictures,
    "export": export,
}


def fork(run) -> int:
    """Run a function in a fork of this process; return its process id."""
    child = os.fork()
    if not child:
        try:
            run()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    return child


def main() -> None:
    """Kill the stage, and let it end; print how many of the forks were killed before they ended by themselves."""
    torch.set_num_threads(1)
    stage, kills, seed, longest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    cfg = get_cfg()
    cfg.merge_from_list(sys.argv[5:])
    cfg.freeze()
    draw, killed = random.Random(seed), 0
    for _ in range(kills):
        child = fork(lambda: STAGES[stage](cfg, Shard()))
        time.sleep(draw.uniform(0.02, longest))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    status = os.waitpid(fork(lambda: STAGES[stage](cfg, Shard())), 0)[1]
    print(f"killed {killed}")
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
