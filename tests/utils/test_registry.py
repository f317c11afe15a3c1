"""The registry answers with what it has, or with a sentence that helps."""

import pytest

from fastreid.utils.registry import Registry, RegistryError


@pytest.fixture
def heads():
    registry = Registry("head")

    @registry.register
    class EmbeddingHead:
        pass

    registry.register(len, name="PartHead")
    return registry


def test_decorator_call_and_name(heads):
    assert heads.get("EmbeddingHead").__name__ == "EmbeddingHead"
    assert heads.get("PartHead") is len

    @heads.register(name="Renamed")
    def make():
        pass

    assert heads.get("Renamed") is make
    assert list(heads) == ["EmbeddingHead", "PartHead", "Renamed"]
    assert len(heads) == 3 and "PartHead" in heads and "parthead" not in heads


def test_missing_name_gets_near_matches_and_full_list(heads):
    with pytest.raises(RegistryError) as error:
        heads.get("EmbedingHead")
    assert str(error.value) == (
        "unknown head 'EmbedingHead'; did you mean 'EmbeddingHead'? Legal: EmbeddingHead, PartHead"
    )
    assert isinstance(error.value, KeyError)


def test_a_name_is_not_taken_twice_but_the_same_object_may_come_again(heads):
    heads.register(len, name="PartHead")
    with pytest.raises(RegistryError, match="head 'PartHead' is registered already"):
        heads.register(max, name="PartHead")


def test_nameless_object_is_refused(heads):
    with pytest.raises(RegistryError, match="has no __name__"):
        heads.register(3)
