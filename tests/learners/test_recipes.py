"""Recipes: one for every learner, for real backbones and for the world."""

import pytest

from npt.learners.build import learner_names
from npt.learners.recipes import _WORLD_RECIPES, RECIPES, recipe


def test_recipes():
    assert set(RECIPES) == set(learner_names()) and set(_WORLD_RECIPES) == set(RECIPES) - {"zero_shot"}
    published = recipe("coop", "ViT-B-16-quickgelu")
    assert (published.batch_size, published.lr, published.epochs, published.objective) == (32, 0.002, 200, "ce")
    assert recipe("coop", "world").settings == dict(n_ctx=16, ctx_init=None)
    with pytest.raises(ValueError, match="coop"):
        recipe("cop", "world")
