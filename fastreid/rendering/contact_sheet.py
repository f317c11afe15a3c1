"""A labelled picture of a rendered benchmark: people in rows, cameras in columns."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from fastreid.data.picture_grid import CELL, fitted
from fastreid.structures import View

from .plan import RenderRequest
from .render import render_person

MARGIN = (40, 34)


def contact_sheet(request: RenderRequest, pids: list[int]) -> Image.Image:
    """A picture of the people `pids` of a benchmark under every camera.

    Each crop is enlarged to its cell, so small crops from high altitudes look coarse.
    """
    cameras = request.cameras
    size = (MARGIN[0] + len(cameras) * CELL[0], MARGIN[1] + len(pids) * CELL[1])
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, pid in enumerate(pids):
        draw.text((4, MARGIN[1] + row * CELL[1] + CELL[1] // 2), f"id {pid}", "black")
    for column, (number, camera) in enumerate(cameras.items()):
        left = MARGIN[0] + column * CELL[0]
        label = f"Cam{number}\n{View(camera.view).name.lower()} {camera.altitude:.3g} m"
        draw.multiline_text((left + 2, 4), label, "black")
        for row, pid in enumerate(pids):
            rng = np.random.default_rng([request.seed, 5, pid, number])
            crop = render_person(request.person(pid), camera, rng, request.config, request.look.wardrobe)
            sheet.paste(fitted(Image.fromarray(crop)), (left, MARGIN[1] + row * CELL[1]))
    return sheet
