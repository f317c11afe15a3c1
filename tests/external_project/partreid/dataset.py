import glob
import os.path as osp
import re

from fastreid.data.datasets import DATASET_REGISTRY
from fastreid.data.datasets.bases import ImageDataset

__all__ = ["ParkingLot"]


@DATASET_REGISTRY.register()
class ParkingLot(ImageDataset):
    dataset_dir = "parking_lot"
    dataset_name = "parkinglot"

    def __init__(self, root="datasets", **kwargs):
        self.root = root
        self.dataset_dir = osp.join(self.root, self.dataset_dir)
        self.train_dir = osp.join(self.dataset_dir, "train")
        self.query_dir = osp.join(self.dataset_dir, "query")
        self.gallery_dir = osp.join(self.dataset_dir, "gallery")
        self.check_before_run([self.dataset_dir, self.train_dir, self.query_dir, self.gallery_dir])

        train = self.process_dir(self.train_dir)
        query = self.process_dir(self.query_dir, is_train=False)
        gallery = self.process_dir(self.gallery_dir, is_train=False)
        super().__init__(train, query, gallery, **kwargs)

    def process_dir(self, dir_path, is_train=True):
        pattern = re.compile(r"([-\d]+)_c(\d)")
        data = []
        for img_path in sorted(glob.glob(osp.join(dir_path, "*.jpg"))):
            pid, camid = map(int, pattern.search(osp.basename(img_path)).groups())
            camid -= 1
            if is_train:
                pid = self.dataset_name + "_" + str(pid)
                camid = self.dataset_name + "_" + str(camid)
            data.append((img_path, pid, camid))
        return data
