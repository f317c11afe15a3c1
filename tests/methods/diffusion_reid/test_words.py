"""Identity words: vectors of the usual length of words, by the person and not by the order of its images."""

import torch

from fastreid.methods.diffusion_reid.words import WordEncoder, WordTable


def encoder(**options):
    torch.manual_seed(0)
    return WordEncoder(4, 2, dim=6, feature_dim=5, hidden=8, length=0.4, **options)


def test_the_mean_feature_counts_not_the_order():
    features, people = torch.randn(9, 5), torch.tensor([0, 1, 2, 3, 0, 1, 2, -1, 0])
    first, second = encoder(), encoder()
    first.set_features(features, people)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    second.set_features(features[order], people[order])
    assert torch.allclose(first.features, second.features, atol=1e-6)
    assert torch.allclose(first.features[3], features[3])
    assert torch.allclose(first.features[0], features[[0, 4, 8]].mean(dim=0), atol=1e-6)


def test_vectors_have_the_length_of_words_and_depend_on_the_person():
    words = encoder()
    words.set_features(torch.randn(4, 5), torch.arange(4))
    found = words(torch.tensor([2, 0]))
    assert found.shape == (2, 2, 6)
    assert torch.allclose(found.norm(dim=2), torch.full((2, 2), 0.4))
    assert not torch.allclose(found[0], found[1])


def test_the_same_person_gets_closer_words_than_others_after_a_fit():
    torch.manual_seed(3)
    centres = torch.randn(6, 32)
    halves = centres.repeat(2, 1) + 0.2 * torch.randn(12, 32)  # of the images of each person
    words = WordEncoder(12, 1, dim=6, feature_dim=32, hidden=32, length=1.0)
    words.set_features(halves, torch.arange(12))
    targets = torch.nn.functional.normalize(torch.randn(6, 6), dim=1)
    optimizer = torch.optim.Adam(words.parameters(), lr=0.01)
    for _ in range(60):
        loss = (words(torch.arange(6))[:, 0] - targets).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = words(torch.arange(12))[:, 0]
    distances = torch.cdist(found[:6], found[6:])
    assert distances.diagonal().max() < distances[~torch.eye(6, dtype=torch.bool)].min()


def test_a_table_begins_at_the_word():
    start = torch.randn(6)
    words = WordTable(3, 2, start)
    assert words(torch.tensor([1, 1])).shape == (2, 2, 6)
    assert (words.vectors - start).norm(dim=2).max() < 0.05 * start.norm()
    assert not torch.equal(words.vectors[0], words.vectors[1])
