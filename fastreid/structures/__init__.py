"""The records that travel between the parts of the library."""

from fastreid.structures.batch import Batch
from fastreid.structures.condition import Condition, ControlMaps
from fastreid.structures.person_features import PersonFeatures
from fastreid.structures.person_image import JUNK_PERSON, UNNAMED_PERSON, PersonImage
from fastreid.structures.ranking import Ranking
from fastreid.structures.view import View

__all__ = [
    "JUNK_PERSON",
    "UNNAMED_PERSON",
    "Batch",
    "Condition",
    "ControlMaps",
    "PersonFeatures",
    "PersonImage",
    "Ranking",
    "View",
]
