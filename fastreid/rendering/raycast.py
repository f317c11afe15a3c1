"""Ray casting of tapered capsules, each possibly squashed, as a pinhole camera sees them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

F = np.float32
_ROUND = np.eye(3)


class Frame(NamedTuple):
    """Coordinates of a pattern: an origin and two unit vectors [3], around which it is wrapped."""

    origin: np.ndarray
    up: np.ndarray
    front: np.ndarray


class Part(NamedTuple):
    """The hull of two balls: at `start` with radius `r0`, at `end` (elsewhere) with radius `r1`.

    `squash` [3, 3], symmetric, maps the world to the space in which the balls are round. The part
    wears `fabric` up to the share `cut` of its axis and `below` from there on (both numbers in a
    list of fabrics). With `open_end` there is no ball at `end`, as under a skirt.
    """

    start: np.ndarray
    end: np.ndarray
    r0: float
    r1: float
    fabric: int
    frame: Frame
    squash: np.ndarray = _ROUND
    open_end: bool = False
    cut: float = 1.0
    below: int = 0


class Hits(NamedTuple):
    """First hits of rays: ray parameter (inf: none), number of the part (-1: none), position in [0, 1] on its axis."""

    t: np.ndarray
    part: np.ndarray
    along: np.ndarray


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products over the last axes. Not `@`, whose rounding may depend on the number of BLAS threads."""
    return np.einsum("...i,...i->...", a, b)


def squash(direction: np.ndarray, factor: float) -> np.ndarray:
    """The map [3, 3] from a ball squashed by `factor` along `direction` to a round one."""
    direction = np.asarray(direction) / np.linalg.norm(direction)
    return _ROUND + (1 / factor - 1) * np.outer(direction, direction)


@dataclass(frozen=True)
class Pinhole:
    """A camera that looks along `forward` at `target`, `depth` metres away, with focal length `focal` in pixels.

    The ray through the pixel offset (x, y) from the image of `target` is q + t d, with
    d = forward + x/focal right + y/focal down and q on the plane through `target`. Numbers near
    the person stay small, so float32 is enough at any altitude.
    """

    target: np.ndarray
    right: np.ndarray
    down: np.ndarray
    forward: np.ndarray
    depth: float
    focal: float

    @cached_property
    def direction(self) -> np.ndarray:
        """Rows [3, 3] that map (1, x, y) to d."""
        return np.stack([self.forward, self.right / self.focal, self.down / self.focal])

    @cached_property
    def plane(self) -> np.ndarray:
        """Rows [3, 3] that map (1, x, y) to q."""
        return np.stack([self.target, *(self.depth * self.direction[1:])])

    def rays(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points q and directions d, float32 [N, 3], through pixel offsets x, y [N]."""
        x, y = x[:, None], y[:, None]
        return tuple(rows[0] + x * rows[1] + y * rows[2] for rows in (self.plane.astype(F), self.direction.astype(F)))

    def boxes(self, parts: list[Part]) -> np.ndarray:
        """Pixel boxes (left, top, right, bottom) [P, 4] around the images of the parts."""
        points = np.array([(p.start, p.end) for p in parts]) - self.target
        thickest = np.array([1.0 if p.squash is _ROUND else _thickest(p.squash) for p in parts])
        radius = np.array([(p.r0, p.r1) for p in parts]) * thickest[:, None]
        depth = np.maximum(points @ self.forward + self.depth, 0.3)
        centre = self.focal * np.stack([points @ self.right, points @ self.down]) / depth
        reach = 1.05 * self.focal * radius / depth
        return np.concatenate([(centre - reach).min(2), (centre + reach).max(2)]).T


def _thickest(matrix: np.ndarray) -> float:
    """The largest thickness of a squashed part relative to a round one."""
    return 1 / np.linalg.eigvalsh(matrix)[0]


def _product(a: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """<a0 + x a1 + y a2, b0 + x b1 + y b2> on the grid y by x, from rows of vectors [3, 3]."""
    g = (a @ b.T).astype(F)
    column = g[0, 0] + y * (g[0, 2] + g[2, 0] + y * g[2, 2])
    row = x * (g[0, 1] + g[1, 0] + x * g[1, 1])
    return (column[:, None] + row) + ((g[1, 2] + g[2, 1]) * y)[:, None] * x


def _meet(part: Part, camera: Pinhole, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Ray parameter t (inf: none) and position s along the axis, both [len(y), len(x)].

    A tapered capsule is the union of balls around s b of radius r0 + s k, s in [0, 1]. Its side is
    where |p - s b|^2 = (r0 + s k)^2 and the derivative by s vanishes: s = (b.p + k r0) / e with
    e = b.b - k^2, hence |p|^2 - r0^2 - e s^2 = 0, a quadratic in t. The two end balls close it.
    """
    b, k = part.squash @ (part.end - part.start), part.r1 - part.r0
    d, q = camera.direction @ part.squash, camera.plane.copy()
    q[0] -= part.start
    q = q @ part.squash
    bb, e = F(b @ b), F(b @ b - k * k)
    dd, qd, qq = _product(d, d, x, y), _product(q, d, x, y), _product(q, q, x, y)
    bd, bq = ((m[0] + (m[2] * y)[:, None]) + m[1] * x for m in ((a @ b).astype(F) for a in (d, q)))

    s0, s1 = (bq + F(k * part.r0)) / e, bd / e
    a2, a1 = dd - bd * s1, qd - bd * s0
    t = (-a1 - np.sqrt(a1 * a1 - a2 * (qq - F(part.r0**2) - e * s0 * s0))) / a2
    s = s0 + t * s1
    t[~((a2 > 0) & (s >= 0) & (s <= 1))] = np.inf  # also where t is NaN because the ray misses
    for at, radius in ((F(0), part.r0), (F(1), part.r1))[: 1 if part.open_end else 2]:
        half = qd - at * bd
        near = -half - np.sqrt(half * half - dd * (qq - 2 * at * bq + at * bb - F(radius**2)))
        near /= dd
        closer = near < t
        t[closer], s[closer] = near[closer], at
    return t, s


def cast(parts: list[Part], camera: Pinhole, x: np.ndarray, y: np.ndarray) -> Hits:
    """First hits on the grid `y` by `x` of pixel offsets, both float32 and ascending."""
    shape = (len(y), len(x))
    hits = Hits(np.full(shape, np.inf, F), np.full(shape, -1, np.int16), np.zeros(shape, F))
    boxes = camera.boxes(parts)
    left, right = np.searchsorted(x, boxes[:, 0]), np.searchsorted(x, boxes[:, 2])
    top, bottom = np.searchsorted(y, boxes[:, 1]), np.searchsorted(y, boxes[:, 3])
    with np.errstate(invalid="ignore", divide="ignore"):
        for number, part in enumerate(parts):
            rows, columns = slice(top[number], bottom[number]), slice(left[number], right[number])
            window = Hits(*(buffer[rows, columns] for buffer in hits))
            if not window.t.size:
                continue
            t, s = _meet(part, camera, x[columns], y[rows])
            closer = t < window.t
            window.t[closer], window.along[closer] = t[closer], s[closer]
            window.part[closer] = number
    return hits


def normals(parts: list[Part], number: np.ndarray, along: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Outward unit normals [N, 3] at `points` [N, 3] of part `number` [N], position `along` [N]."""
    start = np.array([p.start for p in parts], F)
    axis = np.array([p.end - p.start for p in parts], F)
    matrix = np.array([p.squash @ p.squash for p in parts], F)
    from_axis = points - start[number] - along[:, None] * axis[number]
    normal = np.einsum("nij,nj->ni", matrix[number], from_axis)
    return normal / np.sqrt(dot(normal, normal))[:, None]
