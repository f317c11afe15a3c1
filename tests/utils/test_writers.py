"""Records on the console, in metrics.json and in TensorBoard files."""

import json
import logging
import time
from types import SimpleNamespace

import pytest

from fastreid.utils.writers import ConsoleWriter, JSONWriter, TensorboardWriter

TRAINING = {
    "iteration": 20, "epoch": 1, "lr": 0.008, "total_loss": 6.25, "loss_identity": 6.0,
    "data_time": 0.01, "time": 0.5, "eta_seconds": 90.0,
}  # fmt: skip
EVALUATION = {"iteration": 20, "epoch": 1, "CARGO/mAP": 50.0}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_console_line(caplog):
    writer = ConsoleWriter(max_iter=200, max_epoch=10)
    with caplog.at_level(logging.INFO, logger="fastreid"):
        writer.write(TRAINING)
        writer.write(EVALUATION)
    writer.close()
    (record,) = caplog.records
    assert record.getMessage() == (
        "epoch 2/10  iter 20/200  eta 1:30  total_loss: 6.25  loss_identity: 6  lr: 0.008  time: 0.500 s  data: 0.010 s"
    )


def test_console_bar_on_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    writer = ConsoleWriter(max_iter=200, max_epoch=10, start_iter=10)
    with caplog.at_level(logging.INFO, logger="fastreid"):
        writer.write(TRAINING)
    assert writer._bar.n == 20 and writer._bar.total == 200
    assert "6.250" in str(writer._bar)
    assert not caplog.records  # the bar says it
    writer.close()


def test_json_lines_are_on_disk_at_once(tmp_path):
    path = tmp_path / "run" / "metrics.json"
    writer = JSONWriter(path)
    writer.write(TRAINING)
    assert lines(path) == [TRAINING]
    writer.write(EVALUATION)
    writer.close()
    assert lines(path) == [TRAINING, EVALUATION]


def test_json_drops_what_will_be_lived_again_and_half_lines(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 10}\n{"iteration": 20}\n{"iteration": 30}\n{"iterat')
    writer = JSONWriter(path, start_iter=20)
    writer.write({"iteration": 25})
    writer.close()
    assert [line["iteration"] for line in lines(path)] == [10, 20, 25]


def test_json_of_a_fresh_run_starts_empty(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 10}\n')
    JSONWriter(path).close()
    assert path.read_text() == ""


def test_tensorboard_has_every_number(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = TensorboardWriter(tmp_path)
    writer.write(TRAINING)
    writer.write(EVALUATION)
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"lr", "total_loss", "loss_identity", "CARGO/mAP"} <= set(events.Tags()["scalars"])
    (scalar,) = events.Scalars("total_loss")
    assert (scalar.step, scalar.value) == (20, 6.25)


def test_an_evaluation_that_is_done_again_is_there_once(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps(record) + "\n" for record in (TRAINING, EVALUATION)))
    writer = JSONWriter(path, start_iter=20)
    assert writer.last_records() == [TRAINING, EVALUATION]
    assert writer.last_records(evaluations=False) == [TRAINING]
    again = EVALUATION | {"CARGO/mAP": 51.0}
    writer.write(again)
    assert lines(path) == [TRAINING, again]
    later = [TRAINING | {"iteration": 40}, EVALUATION | {"iteration": 40}]
    for record in later:
        writer.write(record)
    writer.close()
    assert lines(path) == [TRAINING, again, *later]


def test_a_last_line_without_its_end_is_not_glued_to_the_next(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 10}\n{"iteration": 20}')
    writer = JSONWriter(path, start_iter=20)
    writer.write({"iteration": 25, "lr": 1})
    writer.close()
    assert [line["iteration"] for line in lines(path)] == [10, 20, 25]


def scalars(folder, name):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [(event.step, event.value) for event in EventAccumulator(str(folder)).Reload().Scalars(name)]


@pytest.mark.parametrize("is_again", [True, False])
def test_tensorboard_of_a_resumed_run_has_everything_once(tmp_path, is_again):
    first = TensorboardWriter(tmp_path)
    for record in (TRAINING | {"iteration": 10}, TRAINING, EVALUATION, TRAINING | {"iteration": 30}):
        first.write(record)  # what is written is flushed; a killed process closes nothing
    resumed = TensorboardWriter(tmp_path, start_iter=20, written=[TRAINING] if is_again else [TRAINING, EVALUATION])
    assert scalars(tmp_path, "lr")[-1][0] == 20  # at once: the run may be killed before its next record
    if is_again:
        resumed.write(EVALUATION)
    resumed.write(TRAINING | {"iteration": 40})
    resumed.close()
    assert scalars(tmp_path, "lr") == [
        (10, pytest.approx(0.008)),
        (20, pytest.approx(0.008)),
        (40, pytest.approx(0.008)),
    ]
    assert scalars(tmp_path, "CARGO/mAP") == [(20, 50.0)]
    first.close()


def test_tensorboard_of_a_run_that_is_resumed_within_a_second_is_read_in_its_order(tmp_path, monkeypatch):
    from tensorboard.summary.writer import event_file_writer

    # The name of an event file ends with a count, and 10 is read before 9 of the same second.
    monkeypatch.setattr(event_file_writer, "_global_uid", SimpleNamespace(get=iter([9, 10, 11]).__next__))
    while time.time() % 1 > 0.5:
        time.sleep(0.1)
    first = TensorboardWriter(tmp_path)
    for iteration in (10, 20, 30):
        first.write(TRAINING | {"iteration": iteration})
    first.close()
    resumed = TensorboardWriter(tmp_path, start_iter=20, written=[TRAINING])
    resumed.write(TRAINING | {"iteration": 40})
    resumed.close()
    assert [step for step, _ in scalars(tmp_path, "lr")] == [10, 20, 40]
