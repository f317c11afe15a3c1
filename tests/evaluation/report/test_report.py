"""The report has every figure and picture, and needs no other file."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fastreid.data.images import read_image
from fastreid.evaluation.report import ReportError, make_report
from fastreid.evaluation.report import failed as failed_module
from fastreid.evaluation.report import page as page_module
from fastreid.evaluation.report.runs import read_run
from fastreid.evaluation.report.thumbnails import thumbnail
from tests.evaluation.report.fake_runs import PROTOCOLS, write_run, write_runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return (folder, table, page) of a report on two toy runs."""
    folder = tmp_path_factory.mktemp("report")
    stages = write_runs(folder)
    table = make_report(named(stages), folder / "report.html", folder / "results.json")
    return folder, table, (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def runs(tmp_path):
    return write_runs(tmp_path)


def report_of(stages):
    folder = stages[0].parent
    return make_report(named(stages), folder / "report.html", folder / "results.json")


def named(folders):
    return {folder.name: folder for folder in folders}


class Outline(HTMLParser):
    """Parser that collects tags with their attributes and checks that they nest."""

    VOID = {"meta", "img"}

    def __init__(self, page):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_table_has_a_row_for_each_run_and_chance(made):
    folder, table, page = made
    results = json.loads((folder / "results.json").read_text())
    lists = json.loads((folder / "stage1" / "ranked_lists.json").read_text())
    lines = table.splitlines()
    assert "ALL" in lines[0] and "A↔G" in lines[0]
    assert [line[:7].strip() for line in lines[-3:]] == ["stage 1", "stage 2", "chance"]
    rows = [results["stage1"], results["stage2"], {p: lists[p]["chance"] for p in PROTOCOLS}]
    for line, row in zip(lines[-3:], rows, strict=True):
        figures = [f"{row[p][name]:.2f}" for p in PROTOCOLS for name in ("Rank-1", "mAP", "mINP")]
        assert line.split()[-6:] == figures
        assert all(f">{figure}<" in page for figure in figures)


def test_joined_results_are_those_of_the_runs(made):
    folder, _, _ = made
    joined = json.loads((folder / "results.json").read_text())
    assert list(joined) == ["stage1", "stage2"]
    for stage, results in joined.items():
        assert results == json.loads((folder / stage / "results.json").read_text())


def test_page_is_well_formed_and_self_contained(made):
    outline = Outline(made[2])
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[^\"]+", "", made[2]))
    links = [a[k] for _, a in outline.tags for k in ("src", "href", "xlink:href") if k in a]
    assert links and all(link.startswith(("#", "data:image/jpeg;base64,")) for link in links)
    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link[0] == "#"} <= set(ids)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in outline.tags}


def test_frames_are_styled(made):
    style = re.search(r"<style>(.*?)</style>", made[2], re.DOTALL)[1]
    for frame, look in (("right", "var(--right)"), ("wrong", "dashed")):
        rules = re.findall(rf"\.{frame} \.frame {{([^}}]*)}}", style)
        assert any(look in rule for rule in rules)
    assert style.count("--right:") == style.count("--wrong:") == 2  # light and dark


def test_every_protocol_shows_framed_lists_of_both_stages(made):
    folder, _, page = made
    sections = re.split(r'<section id="(\w+)">', page)
    by_id = dict(zip(sections[1::2], sections[2::2], strict=True))
    for protocol in PROTOCOLS:
        shown = [
            query
            for stage in ("stage1", "stage2")
            for query in json.loads((folder / stage / "ranked_lists.json").read_text())[protocol]["queries"]
        ]
        matches = [image["match"] for query in shown for image in query["gallery"]]
        text = by_id[protocol].partition("<details>")[0]
        assert text.count('class="list"') == len(shown) == 12  # 6 queries a stage
        assert text.count('class="shot right"') == text.count('<b class="badge">✓') == sum(matches)
        wrong = len(matches) - sum(matches)
        assert text.count('class="shot wrong"') == text.count('<b class="badge">✗') == wrong
        assert all(f"AP {query['AP']:.1f}" in text for query in shown)
        assert "aerial" in text and "ground" in text and "cam&nbsp;" in text
        assert "Cameras are numbered" in page
        for kind in ("Best", "Median", "Worst"):
            assert f"<h3>{kind} queries</h3>" in text


def test_config_and_curves_are_there_and_escaped(made):
    page = made[2]
    assert "&lt;Toy&gt;" in page and "<Toy>" not in page
    rows = dict(re.findall(r'<th scope="row" title="([^"]+)">.*?</th>(.*?)</tr>', page))
    assert re.findall("<td>(.*?)</td>", rows["SOLVER.BASE_LR"]) == ["0.001", "0.001"] and "0.250" in page
    # Other keys are shown if the runs differ in them.
    assert re.findall("<td>(.*?)</td>", rows["MODEL.SDMODEL.UNET_CONFIG.PRETRAINED_PATH"]) == ["", "assets/unet"]
    assert "MODEL.SDMODEL.TARGET" not in rows
    assert page.count("<svg ") == 2 and "loss triplet" in page and "mAP in percent" in page
    assert "var(--series-1)" in page and "#0a0b" not in page and "#010203" not in page


def test_same_runs_give_the_same_page(made):
    folder, _, page = made
    make_report(named([folder / "stage1", folder / "stage2"]), folder / "b.html", folder / "b.json")
    assert (folder / "b.html").read_text(encoding="utf-8") == page


def test_other_protocol_names_print_as_they_are(tmp_path):
    table = report_of(write_runs(tmp_path, names=("MY_SET", "CARGO_AG")))
    assert table.splitlines()[0].split()[1:] == ["MY_SET", "A↔G"]


def test_sentences_are_those_of_the_benchmarks(made):
    assert "Every query against the whole gallery." in made[2]
    assert "an aerial query must find ground images of its person" in made[2]


def test_one_run_alone(tmp_path):
    table = report_of([write_run(tmp_path, "alone", 1.0)])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Outline(page) and "<tfoot>" not in page and "of them better than" not in page
    assert [line.split()[0] for line in table.splitlines()[-2:]] == ["alone", "chance"]
    assert page.count("<svg ") == 1 and page.count("Best queries") == 2


def test_three_runs_are_compared_with_the_first(tmp_path):
    names = ("stage1", 'my "<i>method</i>"', "method 3")
    folders = {name: write_run(tmp_path, f"run{i}", 1.5 - i / 3) for i, name in enumerate(names)}
    table = make_report(folders, tmp_path / "report.html", tmp_path / "results.json")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    outline = Outline(page)
    ids = [a["id"] for _, a in outline.tags if "id" in a]
    assert len(ids) == len(set(ids)) and "i" not in {tag for tag, _ in outline.tags}
    assert page.count("of them better than") == 2 * len(PROTOCOLS) and page.count(" − stage 1</th>") == 2
    assert [line[:8].strip() for line in table.splitlines()[-4:]] == ["stage 1", 'my "<i>m', "method 3", "chance"]
    assert list(json.loads((tmp_path / "results.json").read_text())) == list(names)
    text = page[page.index("<h2>ALL") : page.index("<h2>A↔G")].partition("<details>")[0]
    assert text.count("(stage 1: ") == 12 and text.count("<h4>") == 9  # each query has its AP in the other runs


def test_no_run(tmp_path):
    with pytest.raises(ReportError, match="at least one run"):
        make_report({}, tmp_path / "report.html", tmp_path / "results.json")


@pytest.mark.parametrize("name", ["results.json", "ranked_lists.json", "config.yaml"])
@pytest.mark.parametrize("stage", [0, 1])
def test_missing_input_names_the_file_and_its_command(runs, stage, name):
    (runs[stage] / name).unlink()
    with pytest.raises(ReportError) as error:
        report_of(runs)
    assert f"{runs[stage] / name} is missing" in str(error.value)
    recipe = "CONFIG_OF_THE_RUN" if name == "config.yaml" else runs[stage] / "config.yaml"
    command = f"tools/train_net.py --config-file {recipe} --resume OUTPUT_DIR {runs[stage]}"
    assert str(error.value).endswith(command)
    assert not list(runs[0].parent.glob("re*"))  # no partial files


def test_broken_file_is_named(runs):
    (runs[0] / "metrics.json").write_text('{"iteration": 20}\n{"itera')
    with pytest.raises(ReportError, match="metrics.json is broken"):
        report_of(runs)


def test_a_file_that_is_not_text_must_be_written_again(runs):
    (runs[0] / "metrics.json").write_bytes(b'{"iteration": 20}\n\xff\xfe')
    with pytest.raises(ReportError, match="metrics.json is not text in UTF-8.*write it again with") as error:
        report_of(runs)
    assert "save the file" not in str(error.value)


def test_the_error_says_what_ranked_lists_lack(runs):
    change(runs[1] / "ranked_lists.json", lambda lists: lists["CARGO"]["ap_by_query"].popitem())
    with pytest.raises(ReportError, match=r"ranked_lists.json of stage 2 has no query .*\.jpg, which .*evaluate both"):
        report_of(runs)


def test_the_error_says_what_results_lack(runs):
    change(runs[0] / "results.json", lambda results: results["CARGO"].pop("valid_queries"))
    with pytest.raises(ReportError, match=r"have no valid_queries\)") as error:
        report_of(runs)
    assert "Error" not in str(error.value)


def test_missing_picture_is_named(runs):
    (runs[0].parent / "images" / "0_0.jpg").unlink()
    with pytest.raises(ReportError, match="0_0.jpg, which ranked_lists.json names"):
        report_of(runs)


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_runs_must_have_the_same_protocols(runs):
    change(runs[1] / "results.json", lambda results: results.pop("CARGO"))
    with pytest.raises(ReportError, match="results.json is about"):
        report_of(runs)
    change(runs[1] / "ranked_lists.json", lambda lists: lists.pop("CARGO"))
    with pytest.raises(ReportError, match="same DATASETS.TESTS"):
        report_of(runs)


def test_runs_must_have_the_same_chance(runs):
    change(runs[1] / "ranked_lists.json", lambda lists: lists["CARGO"]["chance"].update(mAP=50.0))
    with pytest.raises(ReportError, match="CARGO: stage 1 and stage 2 .* different images"):
        report_of(runs)


def test_a_run_that_was_never_trained_has_no_curves(runs):
    (runs[0] / "metrics.json").unlink()  # --eval-only
    (runs[1] / "metrics.json").write_text("")
    report_of(runs)
    assert "No training was recorded" in (runs[0].parent / "report.html").read_text()
    assert read_run("stage1", runs[0]).records == []


# Failed queries, thresholds


def section_of(page, name):
    return page.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def test_all_failed_queries_are_folded_with_who_is_taken_for_whom(made):
    folder, _, page = made
    for protocol in PROTOCOLS:
        _, failed, confused = section_of(page, protocol).split("<details>")
        lists = [json.loads((folder / s / "ranked_lists.json").read_text())[protocol] for s in ("stage1", "stage2")]
        assert lists[0]["failed"]
        counts = [f"stage {n} {len(each['failed'])} of 6" for n, each in enumerate(lists, start=1)]
        assert f"<summary>Failed queries: {', '.join(counts)}</summary>" in failed
        shown = [query for each in lists for query in each["failed"]]
        assert failed.count('class="list"') == len(shown)
        assert all(f"first match at rank {query['first_match_rank']}" in failed for query in shown)
        assert all(f'title="{image["path"]}"' in failed for query in shown for image in query["gallery"])
        rows = re.findall("<tr><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", confused)
        assert rows == [
            (str(row["person"]), str(row["taken_for"]), f"{row['times']} of {row['queries']}")
            for each in lists
            for row in each["confusions"]
        ]


def test_failed_queries_beyond_the_limit_are_listed_by_file(runs, monkeypatch):
    monkeypatch.setattr(page_module, "SHOWN_FAILURES", 0)
    monkeypatch.setattr(page_module, "LEAST_FAILURES", 1)
    monkeypatch.setattr(failed_module, "SHOWN_PAIRS", 1)
    change(runs[0] / "ranked_lists.json", repeat_failures)
    report_of(runs)
    text = section_of((runs[0].parent / "report.html").read_text(encoding="utf-8"), "CARGO")
    _, failed, confused = text.split("<details>")
    assert failed.partition('class="files"')[0].count('class="list"') == 1
    assert "4 more, by the names of their files" in failed and failed.count("<li>") >= 4
    assert re.search(r'<li><span title="/.*/images/\d_0.jpg">\d_0.jpg</span>: \d is taken for', failed)
    assert "ranked_lists.json has 4 more pairs" in confused


def repeat_failures(lists):
    for protocol in lists.values():
        for key in ("failed", "confusions"):
            protocol[key] = (protocol[key] * 5)[:5]


def test_without_failed_queries_there_is_no_such_list(tmp_path):
    run = write_run(tmp_path, "good", 0.01)
    report_of([run])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Failed queries" not in page and "taken for" not in page


def test_a_run_of_one_view_names_no_view(tmp_path):
    run = write_run(tmp_path, "one", 1.5, views=False)
    report_of([run])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for protocol in PROTOCOLS:
        text = re.sub("<p>.*?</p>", "", section_of(page, protocol), flags=re.DOTALL)  # sentences on the protocol
        assert "id&nbsp;" in text and "aerial" not in text and "ground" not in text


def test_names_stand_instead_of_numbers(tmp_path):
    run = write_run(
        tmp_path, "named", 1.5, people={n: f"person-{n}" for n in range(6)}, cameras=dict(enumerate("abcd"))
    )
    report_of([run])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<figcaption><span>person-" in page and "<span>b</span></figcaption>" in page
    assert "id&nbsp;" not in page and "cam&nbsp;" not in page and "Cameras are numbered" not in page
    assert re.search(r"<tr><td>person-\d</td><td>person-\d</td><td>1 of 1</td></tr>", page)


def test_thresholds_are_shown_if_there_are_any(made, tmp_path):
    assert "Thresholds" not in made[2]
    run = write_run(tmp_path, "alone", 1.0, keys=["TEST.ROC.ENABLED", True])
    report_of([run])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    Outline(page)
    text = section_of(page, "thresholds")
    points = [p for of in json.loads((run / "thresholds.json").read_text()).values() for p in of["points"]]
    assert len(points) == 10 and text.count("false matches &lt;= 0.1 % (needs 1,000 wrong pairs, there are 90)") == 2
    for point in points:
        shown = "none" if point["threshold"] is None else f"{point['threshold']:.4f}"
        assert f"<td>{shown}</td><td>{point['true_match_rate']:.2f}</td>" in text


# Thumbnails and names


def test_thumbnails_are_read_as_the_model_reads_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.full((40, 20), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (20, 40), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    for name in ("turned.jpg", "deep.png", "clear.png"):
        shown = decoded(thumbnail(str(tmp_path / name)))
        seen = read_image(str(tmp_path / name))
        assert shown.size == seen.size == (20, 40)
        assert np.abs(np.asarray(shown, dtype=int) - np.asarray(seen)).max() <= 3
    assert decoded(thumbnail(str(tmp_path / "deep.png"))).getpixel((5, 5))[0] == pytest.approx(40_000 >> 8, abs=3)


def decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_a_postscript_program_is_not_read_as_an_image(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(ReportError, match="x.jpg, which ranked_lists.json names .not an image, or of an unknown kind"):
        thumbnail(str(tmp_path / "x.jpg"))


HOSTILE = ("csv:/a_$b_$c.csv", '<script>alert("&amp;")</script> id="x" url(#y) #010203 _\udcff')


def test_names_are_text_everywhere(tmp_path):
    stages = write_runs(tmp_path, HOSTILE)
    for stage in stages:
        change(stage / "ranked_lists.json", rename_people)
    table = report_of(stages)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    outline = Outline(page)
    assert not {"script", "b1"} & {tag for tag, _ in outline.tags} and "<script" not in page
    assert "&lt;script&gt;" in page and "csv:/a_$b_$c.csv" in page and "csv:/a_$b_$c.csv" in table
    (curves, *_) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    legend = re.findall(r"<text[^>]*>(.*?)</text>", curves)
    assert "csv:/a_$b_$c.csv" in legend
    assert any('id="x" url(#y) #010203 _\\udcff' in text for text in legend)  # not taken for ids and colours
    assert "<figcaption><span>&lt;b1&gt;$x$</span>" in page
    assert list(json.loads((tmp_path / "results.json").read_text())["stage1"]) == list(HOSTILE)


def rename_people(lists):
    for protocol in lists.values():
        for query in protocol["queries"]:
            query["query"]["person_name"] = "<b1>$x$"
