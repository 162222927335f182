"""Recipes: one for every learner, for real backbones and for the world."""

from dataclasses import replace

import pytest

from npt.learners.build import learner_names
from npt.learners.recipes import _WORLD_RECIPES, RECIPES, recipe
from npt.objectives.objective import REGULARISERS, build_objective


def test_recipes():
    assert set(RECIPES) == set(learner_names()) and set(_WORLD_RECIPES) == set(RECIPES) - {"zero_shot"}
    published = recipe("coop", "ViT-B-16-quickgelu")
    assert (published.batch_size, published.lr, published.epochs, published.objective) == (32, 0.002, 200, "ce")
    assert recipe("coop", "world").settings == dict(n_ctx=16, ctx_init=None)
    with pytest.raises(ValueError, match="coop"):
        recipe("cop", "world")


def test_regularisers_join_the_loss_of_a_method_and_nothing_else_does():
    for method, own in (("coop", "ce"), ("kgcoop", "ce + 8*kg"), ("prograd", "ce | kl"), ("promptsrc", "promptsrc")):
        published = RECIPES[method]
        assert published.objective_for("own") == build_objective(own)
        assert published.objective_for("ce") == build_objective("ce")
        for regulariser in REGULARISERS:
            joined, wanted = published.objective_for(regulariser), dict(build_objective(own).weights)
            assert dict(joined.weights) == wanted | dict(build_objective(regulariser).weights)
            assert joined.guide == build_objective(own).guide
    chosen = replace(RECIPES["kgcoop"], weights={"npt": "ce + 0.5*lc + 3*mi"})
    assert chosen.objective_for("npt") == build_objective("ce + 8*kg + 0.5*lc + 3*mi")
    assert chosen.objective_for("ce + lc") == build_objective("ce + lc")
