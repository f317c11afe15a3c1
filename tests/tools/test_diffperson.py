"""The command line of tools/diffperson.py: what it refuses, with a sentence."""

import pytest

from tests.miniature import run_tool


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "--dry-run"], "--dry-run is an option of the stage train only; generate is shared by --shard"),
        (["filter", "--num-gpus", "2"], "--num-gpus is an option of the stage train only"),
        (["caption", "--resume"], "--resume is an option of the stage train only"),
        (["train", "--eval-only"], "--eval-only: the generator is not evaluated"),
        (["export", "--shard", "3/2"], "--shard 3/2: the first number must be 1 to 2"),
        (["train", "--shard", "1/2", "DIFFPERSON.LPE.CAPTIONER", "none"], "one model of all people is not trained in"),
        (["generate", "DIFFPERSON.GEN.STEP", "3"], "unknown key DIFFPERSON.GEN.STEP .*did you mean .*STEPS"),
    ],
)
def test_words_that_cannot_be_meant(tmp_path, words, said):
    with pytest.raises(SystemExit, match=said):
        run_tool("tools/diffperson.py", *words, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["tran"]])
def test_the_stages_are_listed(tmp_path, words, capsys):
    with pytest.raises(SystemExit):
        run_tool("tools/diffperson.py", *words, cwd=tmp_path)
    assert "caption" in (said := capsys.readouterr().err) or "stage" in said
