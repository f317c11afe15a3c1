"""The records that travel between the parts of the library."""

from fastreid.structures.condition import Condition, ControlMaps
from fastreid.structures.person_features import PersonFeatures
from fastreid.structures.person_image import PersonImage
from fastreid.structures.ranking import Ranking

__all__ = ["Condition", "ControlMaps", "PersonFeatures", "PersonImage", "Ranking"]
