"""Making a table of a user's own images: from the paths of image files, or from videos with boxes."""

from fastreid.data.tables.inference import infer_pattern
from fastreid.data.tables.make import Table, TableOptions, has_content, make_table, write_table
from fastreid.data.tables.pattern import PathPattern, PatternError
from fastreid.data.tables.video import VideoError, crop_videos

__all__ = [
    "PathPattern",
    "PatternError",
    "Table",
    "TableOptions",
    "VideoError",
    "crop_videos",
    "has_content",
    "infer_pattern",
    "make_table",
    "write_table",
]
