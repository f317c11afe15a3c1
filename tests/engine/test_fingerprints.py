"""Fingerprints of the images of a split."""

import hashlib
import os

import pytest

from fastreid.engine.fingerprints import split_fingerprint
from fastreid.structures import PersonImage


def images(root, people=(1, 2)):
    return [PersonImage(f"{root}/Cam{c}/p{person}.jpg", person, c, c % 2) for person in people for c in (1, 2)]


def test_a_fingerprint_depends_on_names_and_ids_only():
    first = split_fingerprint(images("/data/CARGO/train"))
    assert (first["images"], first["people"], first["cameras"], first["views"]) == (4, 2, 2, 2)
    assert split_fingerprint(reversed(images("elsewhere/train"))) == first
    lines = "Cam1/p1.jpg\t1\t1\t1\nCam1/p2.jpg\t2\t1\t1\nCam2/p1.jpg\t1\t2\t0\nCam2/p2.jpg\t2\t2\t0"
    assert first["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        images("/d", people=(1, 3)),
        images("/d")[:-1],
        [PersonImage("/d/Cam1/p1.jpg", 1, 1, 0), *images("/d")[1:]],
        [],
        [PersonImage("/only/one.jpg", 1, 1)],
        [PersonImage("/a.jpg", 1, 1), PersonImage("b.jpg", 1, 1)],
    ],
)
def test_other_images_have_another_fingerprint(other):
    assert split_fingerprint(other)["sha256"] != split_fingerprint(images("/d"))["sha256"]


def test_a_name_that_is_not_utf_8_has_the_fingerprint_of_its_bytes():
    found = split_fingerprint([PersonImage(os.fsdecode(b"/d/\xff.jpg"), 1, 1)])
    assert found["sha256"] == hashlib.sha256(b"\xff.jpg\t1\t1\t0").hexdigest()
