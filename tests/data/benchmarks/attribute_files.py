"""PA-100K and Market-1501 with attributes in the form of the published files, with few images."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from fastreid.data.benchmarks.attributes import DUKEMTMC_FIELDS, MARKET1501_FIELDS

NAMES = ["Female", *(f"attribute {number}" for number in range(25))]
COUNTS = {"train": 24, "val": 8, "test": 12}


def cells(values) -> np.ndarray:
    """A column of texts, as Matlab has it."""
    return np.array([[value] for value in values], dtype=object)


def pa100k_content(counts=COUNTS, names=NAMES) -> dict[str, np.ndarray]:
    """Content of annotation.mat; images are numbered from train to test. Women are every other one."""
    draw, content, number = np.random.default_rng(0), {"attributes": cells(names)}, 0
    for split, count in counts.items():
        labels = draw.integers(0, 2, (count, len(names)), dtype=np.uint8)
        labels[:, 0] = np.arange(count) % 2
        files = [f"{number + index:06}.jpg" for index in range(count)]
        content |= {f"{split}_images_name": cells(files), f"{split}_label": labels}
        number += count
    return content


def write_pa100k(root: Path, content=None, place: str = "data") -> Path:
    """Write the tree of PA-100K; women are bright."""
    home, content = root / "PA-100K", pa100k_content() if content is None else content
    (home / place).mkdir(parents=True)
    savemat(home / "annotation.mat", content)
    for split in COUNTS:
        for (name,), row in zip(content[f"{split}_images_name"], content[f"{split}_label"], strict=False):
            Image.new("RGB", (16, 32), (200 if row[0] else 30,) * 3).save(home / place / str(name))
    return home


def market_content(train=(2, 7), test=(1, 3), fields=MARKET1501_FIELDS) -> dict[str, dict]:
    """Content of a file of attributes: all have the lowest value, but for the age, which counts up with people."""
    content = {}
    for split, people in (("train", train), ("test", test)):
        ordered = list(fields) if split == "train" else list(fields)[::-1]
        table: dict = {field: np.ones((1, len(people))) for field in ordered}
        if "age" in fields:
            table["age"] = np.array([[1.0 + index % 4 for index in range(len(people))]])
        table["image_index"] = np.array([[f"{person:04}" for person in people]], dtype=object)
        content[split] = table
    return content


def write_market(root: Path, content=None, place: str = "attribute", people=((2, 7), (1, 3)), each: int = 1) -> Path:
    """Write the tree of Market-1501 with attributes, junk and other people included."""
    home = root / "Market-1501-v15.09.15"
    files = [f"bounding_box_test/{name}_c3s1_000301_01.jpg" for name in ("-1", "0000")]
    for folder, numbers in zip(("bounding_box_train", "bounding_box_test"), people, strict=True):
        files += [f"{folder}/{person:04}_c1s1_{n:06}_01.jpg" for person in numbers for n in range(each)]
    for file in files:
        (home / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32), (90, 60, 30)).save(home / file)
    (home / place).mkdir(parents=True, exist_ok=True)
    content = market_content(*people) if content is None else content
    savemat(home / place / "market_attribute.mat", {"market_attribute": content})
    return home


def write_duke(root: Path, content=None, people=((2, 7), (1, 3)), each: int = 1) -> Path:
    """Write the tree of DukeMTMC-reID with attributes."""
    home = root / "DukeMTMC-reID"
    for folder, numbers in zip(("bounding_box_train", "bounding_box_test"), people, strict=True):
        (home / folder).mkdir(parents=True)
        for person in numbers:
            for n in range(each):
                Image.new("RGB", (16, 32), (90, 60, 30)).save(home / folder / f"{person:04}_c1_f{n:07}.jpg")
    (home / "attribute").mkdir()
    if content is None:
        content = market_content(*people, fields=DUKEMTMC_FIELDS)
        content["test"]["gender"][0, 0] = 2
    savemat(home / "attribute/duke_attribute.mat", {"duke_attribute": content})
    return home
