from .config import add_partreid_config
from .dataset import ParkingLot
from .head import PartHead
from .modeling import PartBaseline, build_tiny_backbone
