"""Features of many image files."""

import torch

from fastreid.generation import embedding
from fastreid.generation.embedding import embed_many


def test_many_images_are_read_in_parts_and_in_order(monkeypatch):
    calls = []

    def embed(paths, name):
        calls.append((len(paths), name))
        return torch.tensor([[float(path)] for path in paths])

    monkeypatch.setattr(embedding, "_PART", 4)
    found = embed_many(embed, [str(number) for number in range(10)], "judge", "computing features")
    assert found.squeeze(1).tolist() == list(range(10)) and calls == [(4, "judge"), (4, "judge"), (2, "judge")]
    assert embed_many(embed, ["7"], "judge", "computing features").tolist() == [[7.0]]
