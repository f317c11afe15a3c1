"""The filters on rendered people, with a re-ID model that is trained for seconds: planted faults are found."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import nn

from fastreid.data.images import read_pixels
from fastreid.generation.filters import RealImages
from fastreid.generation.filters.blur import BlurFilter
from fastreid.generation.filters.near_copy import NearCopyFilter
from fastreid.generation.filters.reid import ReidFilter
from fastreid.generation.journal import Journal
from fastreid.rendering import RenderConfig, RenderRequest, render_person
from fastreid.structures import PersonImage
from tests.generation.filters.toys import ROUNDS, picture_row, rows_of, save, stage

PEOPLE, REAL, HELD, GOOD = 10, 16, 6, 8
REQUEST = RenderRequest("Market1501", PEOPLE, 2, 12, 0, RenderConfig(lookalike_group=1, bystander=0, occlusion=0))


class TinyNet(nn.Module):
    """Two convolutions, the mean of four stripes, a bottleneck."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 1)),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, 48), nn.BatchNorm1d(48),
        )  # fmt: skip
        self.classes = nn.Linear(48, PEOPLE, bias=False)

    def forward(self, images):
        return self.body(images)


def as_input(pixels):
    small = [Image.fromarray(p).resize((16, 32), Image.Resampling.BOX) for p in pixels]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


def trained(images, people, steps=160):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = TinyNet()
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.05)
        for _ in range(steps):
            index = torch.randint(len(images), (64,))
            batch = images[index] * (0.8 + 0.4 * torch.rand(64, 1, 1, 1)) + 0.2 * torch.randn(64, 1, 1, 1)
            batch = torch.where(torch.rand(64, 1, 1, 1) < 0.5, batch.flip(-1), batch)
            cosines = F.normalize(net(batch)) @ F.normalize(net.classes.weight).T
            loss = F.cross_entropy(12 * cosines, people[index], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


def photo(gid, number):
    """Image `number` of a person; each number is another image."""
    cameras = list(REQUEST.cameras.values())
    rng = np.random.default_rng([7, gid, number])
    person = REQUEST.person(gid + 1)
    return render_person(person, cameras[number % len(cameras)], rng, REQUEST.config, REQUEST.look.wardrobe)


def planted(gid, real):
    """The pictures of a person with what is wrong with each."""
    rng = np.random.default_rng([8, gid])
    new = [photo(gid, 100 + number) for number in range(GOOD)]
    found = [("good", pixels) for pixels in new]
    found += [("wrong", photo((gid + 5) % PEOPLE, 120 + number)) for number in range(3)]
    found += [("noise", rng.integers(0, 256, (128, 64, 3)).astype(np.uint8)) for _ in range(3)]
    found += [("copy", pixels) for pixels in real[:2]]
    found += [("mirrored copy", pixels[:, ::-1]) for pixels in real[2:4]]
    found += [("repeated", new[0]), ("repeated", new[1][:, ::-1])]
    blurred = Image.fromarray(new[2]).filter(ImageFilter.GaussianBlur(len(new[2]) / 40))
    return [*found, ("blurred", np.asarray(blurred))]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Kind -> reason -> number of pictures."""
    folder = tmp_path_factory.mktemp("rendered")
    real = {gid: [photo(gid, number) for number in range(REAL)] for gid in range(PEOPLE)}
    held = {gid: [photo(gid, 200 + number) for number in range(HELD)] for gid in range(PEOPLE)}
    everything = [pixels for gid in real for pixels in real[gid]]
    net = trained(as_input(everything), torch.arange(PEOPLE).repeat_interleave(REAL))
    kinds, rows = {}, []
    for gid in range(PEOPLE):
        for number, (kind, pixels) in enumerate(planted(gid, real[gid])):
            kinds[gid, number] = kind
            rows.append(picture_row(gid, number, f"{gid}/{number}.png"))
            save(folder / "pictures" / rows[-1]["file"], pixels)
    with Journal(folder / "pictures").writer() as writer:
        writer.add(*rows)

    def images(which, name):
        found = []
        for gid, pictures in which.items():
            for number, pixels in enumerate(pictures):
                found.append(PersonImage(str(folder / f"{name}/{gid}_{number}.png"), gid, 0))
                save(found[-1].path, pixels)
        return found

    def embed(paths, source):
        with torch.inference_mode():
            return net(as_input([read_pixels(path) for path in paths]))

    filters = {"blur": BlurFilter(), "reid": ReidFilter(), "near_copy": NearCopyFilter()}
    sources = {"A": RealImages(images(real, "real"), images(held, "held"))}
    stage(folder, [], filters, sources=sources, embed=embed).run(ROUNDS)
    found = {}
    for row in rows_of(folder):
        found.setdefault(kinds[row["gid"], row["number"]], Counter())[row["reason"]] += 1
    return found


def share(counts, *reasons):
    return sum(counts[reason] for reason in reasons) / sum(counts.values())


def test_new_images_are_kept(outcome):
    """At least 80 % of 80: all filters together drop a few, and the 5th percentile of 60 held-out images varies."""
    assert share(outcome["good"], "") >= 0.8


def test_pictures_of_other_people_are_dropped(outcome):
    """At least 90 % of 30, all by the re-ID model, and at least 40 % as another known person."""
    assert share(outcome["wrong"], "reid.margin", "reid.identity") >= 0.9
    assert share(outcome["wrong"], "reid.margin") >= 0.4


def test_noise_is_dropped_as_nobody(outcome):
    assert share(outcome["noise"], "reid.identity") >= 0.8


def test_copies_are_dropped_as_copies(outcome):
    """Equal ones by the re-ID model; mirrored ones, whose features may differ, at the latest by their pixels."""
    assert share(outcome["copy"], "reid.copy") == 1
    assert share(outcome["mirrored copy"], "reid.copy", "near_copy.real") >= 0.9
    assert outcome["mirrored copy"][""] == 0


def test_repeated_pictures_are_dropped(outcome):
    """Unless the picture that they repeat was dropped already."""
    assert share(outcome["repeated"], "near_copy.kept") >= 0.7


def test_blurred_pictures_are_dropped(outcome):
    assert share(outcome["blurred"], "blur") == 1
    assert outcome["good"]["blur"] <= 2
