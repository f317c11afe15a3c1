"""fast-reid's evaluator interface gives the same figures as evaluate_protocols."""

import json

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.evaluation import ReidEvaluator, evaluate_protocols, inference_on_dataset, print_csv_format
from tests.evaluation.toys import CountingModel, build_loader, hash_of, seeded, two_protocols


def cfg(*tests):
    made = get_cfg()
    made.merge_from_list(["MODEL.DEVICE", "cpu", "TEST.METRIC", "euclidean", "DATASETS.TESTS", tests])
    return made


def feed(evaluator, data):
    model = CountingModel().eval()
    with torch.no_grad():
        for batch in build_loader(None, [*data.query, *data.gallery]):
            evaluator.process(batch, model(batch))
    return evaluator.evaluate()


def test_same_figures_as_evaluate_protocols(tmp_path):
    data = two_protocols()[0]
    evaluator = ReidEvaluator(cfg("TOY"), len(data.query), tmp_path)
    expected = evaluate_protocols(cfg(), CountingModel(), [data], build_loader, tmp_path / "protocols")
    assert feed(evaluator, data) == expected["TOY"]
    assert json.loads((tmp_path / "results.json").read_text()) == expected
    evaluator.reset()
    assert feed(evaluator, data) == expected["TOY"]


@pytest.mark.parametrize("num_query", [0, 24, 99])
def test_split_must_leave_both_sides(num_query):
    with pytest.raises(ValueError, match=f"num_query={num_query}"):
        feed(ReidEvaluator(cfg("TOY"), num_query), two_protocols()[0])


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="among 0 images"):
        ReidEvaluator(cfg("TOY"), 3).evaluate()


def test_one_file_for_several_protocols_is_refused(tmp_path):
    with pytest.raises(ValueError, match="names \\('A', 'B'\\)"):
        ReidEvaluator(cfg("A", "B"), 3, tmp_path)


def test_table_needs_results():
    with pytest.raises(ValueError, match="no results"):
        print_csv_format({})


def test_all_files_that_are_asked_for_are_written(tmp_path):
    data, made = two_protocols()[0], cfg("TOY")
    made.merge_from_list(["TEST.BREAKDOWN", ["view"], "TEST.PLOTS", True])
    with pytest.raises(ValueError, match="TEST.PLOTS needs an output_dir"):
        ReidEvaluator(made, 6)
    feed(ReidEvaluator(made, len(data.query), tmp_path), data)
    rows = json.loads((tmp_path / "breakdown.json").read_text())["TOY"]["view"]
    assert {row["gallery"] for row in rows} == {"aerial", "ground"}
    assert (tmp_path / "plots/cmc.png").stat().st_size > 1000


class Sided(CountingModel):
    """A model whose descriptors of images have noise, but not those of mirrored images."""

    def forward(self, batch):
        is_plain = batch["images"][:, :1, 0, 0] < batch["images"][:, :1, 0, -1]
        noise = [torch.randn(8, generator=seeded(hash_of(path))) for path in batch["img_paths"]]
        return super().forward(batch) + 3 * is_plain * torch.stack(noise)


def with_images(loader_of):
    def build(cfg, images):
        batches = loader_of(cfg, images)
        for batch in batches:
            shape = len(batch["targets"]), 3, 4, 2
            batch["images"] = (
                torch.arange(24.0).reshape(1, 3, 4, 2).expand(shape) * batch["targets"][:, None, None, None]
            )
        return batches

    return build


def test_descriptors_of_mirrored_images_are_averaged(tmp_path):
    data, made = two_protocols()[0], cfg("TOY")
    load = with_images(build_loader)
    plain = evaluate_protocols(made, Sided(), [data], load, tmp_path / "plain")["TOY"]
    made.TEST.FLIP.ENABLED = True
    model = Sided()
    flipped = evaluate_protocols(made, model, [data], load, tmp_path / "flipped")["TOY"]
    assert flipped != plain and len(model.seen) == 2 * 24
    evaluator = ReidEvaluator(made, len(data.query))
    loader = load(made, [*data.query, *data.gallery])
    assert inference_on_dataset(Sided().train(), loader, evaluator, flip_test=True) == flipped
    assert inference_on_dataset(Sided().train(), loader, evaluator) == plain
