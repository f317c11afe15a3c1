"""Scalars of training and their writers, at fast-reid's module path."""

from fastreid.utils.event_storage import EventStorage, Record, get_event_storage
from fastreid.utils.event_writers import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "Record",
    "TensorboardXWriter",
    "get_event_storage",
]
