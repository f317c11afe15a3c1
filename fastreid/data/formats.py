"""The image formats that are read: their suffixes, and their names in Pillow."""

from __future__ import annotations

from PIL import Image

# Pillow's name of a format -> suffixes of its files. Other formats are not decoded: a PostScript file, for example, is
# a program that Pillow would run with Ghostscript.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),  # where the user has registered the opener of pillow-heif
}


def readable_formats() -> tuple[str, ...]:
    """The formats of the table that the installed Pillow can read; some need optional libraries."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def image_suffixes() -> frozenset[str]:
    """Suffixes of image files that can be read, in lower case, with the dot."""
    return frozenset(suffix for name in readable_formats() for suffix in FORMATS[name])


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height in the header of a WebP file; None for other files.

    Pillow allocates the canvas of a WebP file when it opens the file, before its size can be checked.
    """
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return None
    kind, head = content[12:16], content[20:30]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[4:7], "little"), 1 + int.from_bytes(head[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF
    return None
