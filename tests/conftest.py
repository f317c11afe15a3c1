"""One thread per test process: the tests' tensors are tiny, and threads that wait for each other cost more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where several are asked for, those that wait must not spin: on a busy machine a test took minutes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402

torch.set_num_threads(1)
