"""Settings that the report shows of a run."""

from types import SimpleNamespace

from fastreid.evaluation.report.summary import summary_rows


def test_a_batch_that_was_fitted_to_the_people_is_not_said_to_be_whole():
    solver = {"IMS_PER_BATCH": 32, "FIT_BATCH": True}
    run = SimpleNamespace(config={"SOLVER": solver}, records=[])

    def images():
        return {label: values for label, _, values in summary_rows([run])}["images per batch"]

    assert images() == ["at most 32"]
    solver["FIT_BATCH"] = False
    assert images() == ["32"]
