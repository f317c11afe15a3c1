"""Formats of image files: one table for the scan of folders, which goes by suffixes, and for the decoder."""

from __future__ import annotations

from PIL import Image

# Pillow's name of a format -> suffixes of its files. Formats that are not here are not decoded: PostScript, for
# example, is a program, and Pillow would start Ghostscript to run it.
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
    """Those of the table that Pillow can read on this machine; some depend on libraries it was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def image_suffixes() -> frozenset[str]:
    """Suffixes of files that are read, in lower case, with the dot."""
    return frozenset(suffix for name in readable_formats() for suffix in FORMATS[name])


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP file states; None of other files.

    Pillow allocates a WebP's canvas when it opens the file, before it looks at the size.
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
