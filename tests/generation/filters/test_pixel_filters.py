"""Filters that look at pixels: near-copies, blur, several people."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from fastreid.generation.filters.base import FilterError, Source, WrittenPerson
from fastreid.generation.filters.blur import BlurFilter
from fastreid.generation.filters.near_copy import KEPT, REAL, NearCopyFilter
from fastreid.generation.filters.pixels import correlation, small_grey
from fastreid.generation.filters.several_people import SeveralPeopleFilter, people_in, torchvision_detector
from fastreid.rendering import RenderConfig, RenderRequest, render_person

PEOPLE, IMAGES = 8, 6
REQUEST = RenderRequest("Market1501", PEOPLE, 2, 12, 0, RenderConfig())


@pytest.fixture(scope="module")
def rendered():
    """Images of rendered people, [PEOPLE][IMAGES + 1]; the last one is new."""
    cameras = list(REQUEST.cameras.values())

    def image(pid, number):
        camera, rng = cameras[number % len(cameras)], np.random.default_rng([3, pid, number])
        return Image.fromarray(render_person(REQUEST.person(pid), camera, rng, REQUEST.config, REQUEST.look.wardrobe))

    return [[image(pid, number) for number in range(IMAGES + 1)] for pid in range(1, PEOPLE + 1)]


def person(written, real=(), numbers=None, paths=()):
    empty = Source("A", torch.zeros(0, 0), torch.zeros(0), torch.zeros(0, 0), torch.zeros(0))
    pixels = [np.asarray(image) for image in written]
    found = WrittenPerson(0, empty, numbers or range(len(written)), pixels, torch.zeros(len(written), 0), list(paths))
    if real:
        found.__dict__["real_pixels"] = [np.asarray(image) for image in real]
    return found


def judge(judge_filter, *args, kept=None, **options):
    which = person(*args, **options)
    return judge_filter.judge(which, kept or [True] * len(which.numbers), {})


def reasons(*args, **options):
    return [verdict.reason for verdict in judge(*args, **options)]


def recompressed(image):
    out = io.BytesIO()
    image.save(out, "JPEG", quality=50)
    return Image.open(out).convert("RGB")


def brighter(image):
    return Image.fromarray(np.clip(np.asarray(image) * 1.15 + 8, 0, 255).astype(np.uint8))


def noisy(image):
    noise = np.random.default_rng(0).normal(0, 8, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


COPIES = {
    "equal": lambda image: image,
    "recompressed": recompressed,
    "enlarged": lambda image: image.resize((256, 512), Image.Resampling.BICUBIC),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "brighter": brighter,
    "noisy": noisy,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "cropped": lambda image: image.crop((1, 1, image.width - 1, image.height - 1)),
}


@pytest.mark.parametrize("change", COPIES)
def test_near_copies_of_real_images_are_found_by_the_default(rendered, change):
    """All of them; new images of the same people never."""
    for images in rendered:
        copies = [COPIES[change](image) for image in images[:3]]
        assert reasons(NearCopyFilter(), [*copies, images[-1]], images[:-1]) == [REAL] * 3 + [""]


def test_of_equal_pictures_the_first_is_kept(rendered):
    a, b, c = (images[0] for images in rendered[:3])
    written = [a, b, COPIES["mirrored"](a), recompressed(b), c]
    assert reasons(NearCopyFilter(), written, [rendered[4][0]]) == ["", "", KEPT, KEPT, ""]
    # A picture that another filter dropped makes no other one a copy.
    kept = [False, True, True, True, True]
    assert reasons(NearCopyFilter(), written, [rendered[4][0]], kept=kept) == ["", "", "", KEPT, ""]


def test_nothing_is_a_copy_at_the_greatest_threshold(rendered):
    images = rendered[0]
    assert reasons(NearCopyFilter(max_correlation=1.0), [*images, images[0]], images) == [""] * (len(images) + 1)


def test_correlations_by_hand():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 32, 16)).astype(float)
    found = correlation(np.stack([a, b]), np.stack([a[:, ::-1], 255 - a, a * 0.5 + 20, np.full_like(a, 128)]))
    assert found[0, 0] == pytest.approx(1) and found[0, 2] == pytest.approx(1)
    assert found[0, 1] < 0.3 and found[0, 3] == 0
    assert abs(found[1]).max() < 0.3
    shifted = np.roll(a, (1, -1), (0, 1))
    assert correlation(a[None], shifted[None])[0, 0] == pytest.approx(1)


def test_small_pictures_are_means_of_areas():
    pixels = np.zeros((64, 32, 3), np.uint8)
    pixels[:2, :2] = 200
    small = small_grey([pixels])
    assert small.shape == (1, 32, 16) and small[0, 0, 0] == 200 and small.sum() == 200


def test_pictures_without_any_real_image_are_compared_with_each_other(rendered):
    verdicts = judge(NearCopyFilter(), [rendered[0][0], rendered[0][0]])
    assert [verdict.reason for verdict in verdicts] == ["", KEPT] and verdicts[0].scores[REAL] == -1


def test_a_damaged_real_image_is_left_out(tmp_path, caplog):
    (tmp_path / "bad.png").write_bytes(b"no image")
    Image.new("RGB", (8, 16), "red").save(tmp_path / "good.png")
    found = person([], paths=[str(tmp_path / name) for name in ("bad.png", "good.png")])
    assert len(found.real_pixels) == 1 and "bad.png" in caplog.text


def test_blurred_pictures_are_dropped_and_real_ones_are_kept(rendered):
    """Of new images none, of those blurred by a Gaussian of a fortieth of their height all."""
    for images in rendered:
        blurred = [i.filter(ImageFilter.GaussianBlur(i.height / 40)) for i in images[:3]]
        assert reasons(BlurFilter(), [*blurred, images[-1]], images[:-1]) == ["blur"] * 3 + [""]


def test_sharpness_is_a_share_of_the_median_of_the_real_images():
    plain = np.full((128, 64, 3), 100, np.uint8)
    weak, strong = plain.copy(), plain.copy()
    weak[::8], strong[::8] = 110, 140
    verdicts = judge(BlurFilter(min_sharpness=0.1), [weak, plain, strong], [strong, strong, plain])
    assert [v.scores["blur"] for v in verdicts] == pytest.approx([1 / 16, 0, 1])
    assert [v.reason for v in verdicts] == ["blur", "blur", ""]
    assert reasons(BlurFilter(), [plain], [plain]) == [""]  # nothing to compare with


def boxes(*rows):
    """What a detector gives: rows (left, top, right, bottom, label, score)."""
    found = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": found[:, :4], "labels": found[:, 4].long(), "scores": found[:, 5]}


@pytest.mark.parametrize(("found", "count"), [
    (boxes(), 0),
    (boxes((0, 0, 10, 20, 1, 0.9)), 1),
    (boxes((0, 0, 10, 20, 1, 0.9), (9, 0, 19, 20, 1, 0.8)), 2),
    (boxes((0, 0, 10, 20, 1, 0.9), (9, 0, 19, 20, 1, 0.6)), 1),  # not sure
    (boxes((0, 0, 10, 20, 1, 0.9), (9, 0, 19, 20, 27, 0.9)), 1),  # a backpack
    (boxes((0, 0, 10, 20, 1, 0.9), (9, 0, 12, 5, 1, 0.9)), 1),  # in the background
])  # fmt: skip
def test_people_are_counted(found, count):
    assert people_in(found, min_score=0.7, min_share=0.25) == count


def test_pictures_of_several_people_are_dropped():
    """The toy detector finds a person for each white quarter of the picture."""

    def detector(images):
        (image,) = images
        assert image.dtype == torch.float32 and image.shape == (3, 20, 40) and image.max() <= 1
        return [boxes(*((10 * n, 0, 10 * n + 10, 20, 1, 0.9) for n in range(4) if image[0, 0, 10 * n] == 1))]

    pictures = [np.zeros((20, 40, 3), np.uint8) for _ in range(3)]
    pictures[1][:, :10] = pictures[2][:, 10:30] = 255
    verdicts = judge(SeveralPeopleFilter(detector), pictures)
    assert [v.reason for v in verdicts] == ["", "", "several_people"]
    assert [v.scores["several_people"] for v in verdicts] == [0, 1, 2]


def test_a_detector_of_torchvision_is_read_from_a_file(tmp_path):
    from torchvision.models import get_model

    name = "ssdlite320_mobilenet_v3_large"
    with pytest.raises(FilterError, match="DETECTOR_WEIGHTS to a file.*it is empty"):
        torchvision_detector(name, "")
    with pytest.raises(FilterError, match="there is no file"):
        torchvision_detector(name, str(tmp_path / "none.pth"))
    with pytest.raises(FilterError, match="'yolo' is none of .*fasterrcnn"):
        torchvision_detector("yolo", "")
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(FilterError, match="does not fit the detector ssdlite320"):
        torchvision_detector(name, str(path))
    torch.save(get_model(name, weights=None, weights_backbone=None).state_dict(), path)
    detector = torchvision_detector(name, str(path))
    (verdict,) = judge(SeveralPeopleFilter(detector), [np.zeros((64, 32, 3), np.uint8)])
    assert verdict.scores["several_people"] >= 0
