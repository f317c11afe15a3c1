"""Every registered protocol on a rendered tree of its layout, against counts that were worked out by hand.

Four people to test, eight images of each. Two views: four images in each, one of them a query, which leaves three for
the gallery. Three views (AG-ReID.v2): three, three and two images, so two, two and one for the gallery. G2APS-ReID has
one unlabelled person more, with four images in each view.

One view (Market-1501 and what is like it): eight images, one of them a query. Market-1501's unlabelled person has
three junk images, three in the gallery and two among the 500,000 distractors. VehicleID: one image of everybody is in
the gallery, all others are queries. CUHK03's classic protocol: all eight are in both.
"""

import pytest

from fastreid.data.benchmarks import BENCHMARK_OF
from fastreid.retrieval.matches import match_images
from fastreid.structures import UNNAMED_PERSON
from tests.data.benchmarks.trees import load
from tests.miniature import rendered

AIR, STREET, WORN = {0}, {1}, {2}
BOTH = AIR | STREET
# name -> images and views of the query, images and views of the gallery, queries with a match
EXPECTED = {
    "CARGO": (8, BOTH, 24, BOTH, 8),
    "CARGO_AA": (4, AIR, 12, AIR, 4),
    "CARGO_GG": (4, STREET, 12, STREET, 4),
    "CARGO_AG": (8, BOTH, 24, BOTH, 8),
    "CARGO_A2G": (4, AIR, 12, STREET, 4),
    "CARGO_G2A": (4, STREET, 12, AIR, 4),
    "AG_ReID_v1": (4, AIR, 12, STREET, 4),
    "AG_ReID_v1_AG": (4, AIR, 12, STREET, 4),
    "AG_ReID_v1_GA": (4, STREET, 12, AIR, 4),
    "AG_ReID_v2": (4, AIR, 8, STREET, 4),
    "AG_ReID_v2_AC": (4, AIR, 8, STREET, 4),
    "AG_ReID_v2_AW": (4, AIR, 4, WORN, 4),
    "AG_ReID_v2_CA": (4, STREET, 8, AIR, 4),
    "AG_ReID_v2_WA": (4, WORN, 8, AIR, 4),
    "LAGPeR": (4, AIR, 12, STREET, 4),
    "LAGPeR_A2G": (4, AIR, 12, STREET, 4),
    "LAGPeR_G2A": (4, STREET, 12, AIR, 4),
    "LAGPeR_G2AG": (4, STREET, 24, BOTH, 4),
    "G2APS_ReID": (4, AIR, 16, STREET, 4),
    "G2APS_ReID_A2G": (4, AIR, 16, STREET, 4),
    "G2APS_ReID_G2A": (4, STREET, 16, AIR, 4),
    "Market1501": (4, STREET, 31, STREET, 4),
    "Market1501_500K": (4, STREET, 33, STREET, 4),
    "DukeMTMC": (4, STREET, 28, STREET, 4),
    "MSMT17": (4, STREET, 28, STREET, 4),
    "CUHK03": (4, STREET, 28, STREET, 4),
    "CUHK03_labeled": (4, STREET, 28, STREET, 4),
    "CUHK03_detected": (4, STREET, 28, STREET, 4),
    "CUHK03_classic_labeled": (32, STREET, 32, STREET, 32),
    "CUHK03_classic_detected": (32, STREET, 32, STREET, 32),
    "VeRi": (4, STREET, 28, STREET, 4),
    "VehicleID": (28, STREET, 4, STREET, 28),
    "SmallVehicleID": (28, STREET, 4, STREET, 28),
    "MediumVehicleID": (28, STREET, 4, STREET, 28),
    "LargeVehicleID": (28, STREET, 4, STREET, 28),
    "VeRiWild": (4, STREET, 28, STREET, 4),
    "SmallVeRiWild": (4, STREET, 28, STREET, 4),
    "MediumVeRiWild": (4, STREET, 28, STREET, 4),
    "LargeVeRiWild": (4, STREET, 28, STREET, 4),
}
# Views of the images to train on; of all others only the street.
TRAINED_VIEWS = {"CARGO": BOTH, "AG_ReID_v1": BOTH, "AG_ReID_v2": BOTH | WORN, "LAGPeR": BOTH, "G2APS_ReID": BOTH}
# Camera ids that a set may have.
CAMERAS = {
    "CARGO": range(13),
    "AG_ReID_v1": range(2),
    "AG_ReID_v2": range(3),
    "LAGPeR": range(1, 22),
    "G2APS_ReID": range(2),
    "Market1501": range(6),
    "DukeMTMC": range(8),
    "MSMT17": range(15),
    "CUHK03": range(2),
    "VeRi": range(20),
    "VehicleID": range(1),
    "VeRiWild": range(1, 25),
}
# People who are in a gallery and are asked for by nobody.
STRANGERS = {"G2APS_ReID": {UNNAMED_PERSON}, "Market1501": {0}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return rendered(tmp_path_factory.getbasetemp())


def test_every_name_is_expected():
    assert EXPECTED.keys() == BENCHMARK_OF.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_counts_cameras_views_and_valid_queries(root, name):
    dataset, benchmark = load(name, root), BENCHMARK_OF[name].name
    queries, query_views, gallery, gallery_views, valid = EXPECTED[name]
    assert (len(dataset.query), len(dataset.gallery)) == (queries, gallery)
    assert {int(image.view) for image in dataset.query} == query_views
    assert {int(image.view) for image in dataset.gallery} == gallery_views
    assert (match_images(dataset.query, dataset.gallery).num_positives > 0).sum() == valid
    assert len(dataset.train) == 64 and len({image.person for image in dataset.train}) == 8
    assert {int(image.view) for image in dataset.train} == TRAINED_VIEWS.get(benchmark, STREET)
    cameras = {image.camera for image in dataset.train}
    # Everybody is seen by three cameras of a view at most: of many cameras eight people may not show all.
    assert cameras == set(CAMERAS[benchmark]) or (len(CAMERAS[benchmark]) > 3 and cameras <= set(CAMERAS[benchmark]))
    if name == "CARGO_AG":
        assert {image.camera for image in dataset.query} == {0, 1}
    people = {image.person for image in dataset.query}
    assert len(people) == 4 and not people & {image.person for image in dataset.train}
    assert {image.person for image in dataset.gallery} - people == STRANGERS.get(benchmark, set())


def test_no_list_file_notes_the_time(root):
    """The same arguments give the same bytes: scipy would write the date into .mat files."""
    mat = (root / "CUHK03/cuhk03_new_protocol_config_labeled.mat").read_bytes()
    assert mat[:116] == b"MATLAB 5.0 MAT-file".ljust(116)


@pytest.mark.parametrize("name", BENCHMARK_OF)
def test_every_protocol_says_what_it_measures(name):
    about = BENCHMARK_OF[name].protocol(name).about
    assert about.endswith(".") and about[0].isupper() and 20 < len(about) < 240
