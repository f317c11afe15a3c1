"""The closed form that diffusion works around."""

import torch

from fastreid.methods.sd_reid.linear_mean import LinearMean

TOKENS, DIM, VIEWS = 2, 6, 3


def world(people: int = 200, each: int = 6):
    """Images whose conditions and latents are noisy linear functions of who is shown, in views 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    identity = torch.randn(people, DIM, generator=generator).repeat_interleave(each, dim=0)
    images = len(identity)
    views = torch.arange(images) % 2
    mix = torch.randn(DIM, TOKENS * DIM, generator=generator)
    conditions = identity @ mix + 0.3 * torch.randn(images, TOKENS * DIM, generator=generator)
    latents = identity * (1 + views[:, None]) + 2.0 + 0.3 * torch.randn(images, DIM, generator=generator)
    return conditions.view(images, TOKENS, DIM), latents, torch.arange(people).repeat_interleave(each), views


def test_it_predicts_unseen_people_in_each_view():
    conditions, latents, people, views = world()
    train, test = people < 150, people >= 150
    mean = LinearMean(TOKENS, DIM, VIEWS)
    mean.fit(conditions[train], latents[train], people[train], views[train])
    error = (mean(conditions[test], views[test]) - latents[test]).square().mean()
    assert error < 0.25  # the latents' own noise is 0.09, their variance 2.5
    assert (mean(conditions[test], 1 - views[test]) - latents[test]).square().mean() > 2 * error


def test_it_is_the_ridge_regression_on_the_persons_other_images():
    conditions, latents, people, views = world(people=9, each=5)
    mean = LinearMean(TOKENS, DIM, VIEWS)
    mean.fit(conditions, latents, people, views)
    for view in (0, 1):
        targets = []
        for i in range(len(people)):
            others = (people == people[i]) & (views == view)
            others[i] = False
            targets.append(latents[others].mean(dim=0))
        inputs, targets = conditions.flatten(1), torch.stack(targets)
        centred = inputs - inputs.mean(dim=0)
        covariance = centred.T @ centred / len(inputs)
        ridge = LinearMean.RIDGE * covariance.diagonal().mean() * torch.eye(TOKENS * DIM)
        weight = torch.linalg.inv(covariance + ridge) @ centred.T @ targets / len(inputs)
        expected = centred @ weight + targets.mean(dim=0)
        torch.testing.assert_close(mean(conditions, torch.full_like(views, view)), expected, atol=1e-3, rtol=1e-3)


def test_it_is_zero_before_it_is_fitted_and_for_views_nobody_was_seen_in():
    conditions, latents, people, views = world(people=9, each=5)
    mean = LinearMean(TOKENS, DIM, VIEWS)
    assert not mean(conditions, views).any()
    mean.fit(conditions, latents, people, views)
    assert mean(conditions, views).any() and not mean(conditions, torch.full_like(views, 2)).any()
