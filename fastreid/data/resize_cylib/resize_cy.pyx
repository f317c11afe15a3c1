# Pillow's bicubic resize, compiled.
# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""resize.h on NumPy arrays."""
from functools import lru_cache

from libc.stdint cimport uint8_t

import numpy as np

cdef extern from "resize.h" nogil:
    ctypedef struct weighing:
        pass
    ctypedef struct window:
        int top
        int left
        int height
        int width
        int mirrored
    int make_weighing(int in_size, int size, weighing* to)
    void free_weighing(weighing* to)
    int resize_window(const uint8_t* source, int height, int width, const weighing* columns, const weighing* rows,
                      int rows_first, window kept, int portably, uint8_t* out)


cdef class _Weighing:
    """Weights from `in_size` to `size` pixels."""
    cdef weighing of

    def __cinit__(self, int in_size, int size):
        if make_weighing(in_size, size, &self.of):
            raise MemoryError(f"no memory for the weights of {in_size} -> {size} pixels")

    def __dealloc__(self):
        free_weighing(&self.of)


_weighing = lru_cache(1024)(_Weighing)


def resize(const uint8_t[:, :, ::1] pixels, size, kept, *, bint mirrored=False, bint rows_first=False, bint portably=False):
    """Resize by Pillow's bicubic filter, then crop.

    Args:
        pixels: uint8 [h, w, 3], with h and w above 0.
        size: (height, width) of the resized image.
        kept: (top, left, height, width) of the crop; black outside of the image.
        mirrored: mirror the crop from left to right.
        rows_first: resize rows before columns, which gives other bits.
        portably: use no optional instructions of the processor; gives the same bits.

    Returns:
        uint8 [3, height, width].
    """
    cdef _Weighing rows = _weighing(pixels.shape[0], size[0]), columns = _weighing(pixels.shape[1], size[1])
    cdef window part = window(kept[0], kept[1], kept[2], kept[3], mirrored)
    cdef int failed, height = pixels.shape[0], width = pixels.shape[1]
    out = np.empty((3, part.height, part.width), np.uint8)
    cdef uint8_t[:, :, ::1] target = out
    with nogil:
        failed = resize_window(&pixels[0, 0, 0], height, width, &columns.of, &rows.of, rows_first, part, portably,
                               &target[0, 0, 0])
    if failed:
        raise MemoryError(f"no memory to resize {height} x {width} pixels")
    return out
