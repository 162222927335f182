"""Recipes: one for every learner, for real backbones and for the world."""

from dataclasses import replace

import pytest

from npt.learners.build import learner_names
from npt.learners.recipes import _WORLD_RECIPES, RECIPES, _Tuned, recipe
from npt.objectives.objective import REGULARISERS, build_objective


def test_recipes():
    assert set(RECIPES) == set(learner_names()) and set(_WORLD_RECIPES) == set(RECIPES) - {"zero_shot"}
    published = recipe("coop", "ViT-B-16-quickgelu")
    assert (published.batch_size, published.lr, published.epochs, published.objective) == (32, 0.002, 200, "ce")
    assert recipe("tcp", "world").settings["layer"] == 1 and recipe("tcp", "ViT-B-16-quickgelu").settings == {}
    with pytest.raises(ValueError, match="coop"):
        recipe("cop", "world")


def test_regularisers_join_the_loss_of_a_method_and_nothing_else_does():
    for method, own in (("coop", "ce"), ("kgcoop", "ce + 8*kg"), ("prograd", "ce | kl"), ("dekg", "ce + 8*kg + 6*hsic"), ("promptsrc", "promptsrc")):
        published = RECIPES[method]
        assert published.objective_for("own") == build_objective(own)
        assert published.objective_for("ce") == build_objective("ce")
        for regulariser in REGULARISERS:
            joined, wanted = published.objective_for(regulariser), dict(build_objective(own).weights)
            assert dict(joined.weights) == wanted | dict(build_objective(regulariser).weights)
            assert joined.guide == build_objective(own).guide
    chosen = replace(RECIPES["kgcoop"], tuned={"npt": _Tuned(0.5, 7, "ce + 0.5*lc + 3*mi")})
    assert chosen.objective_for("npt") == build_objective("ce + 8*kg + 0.5*lc + 3*mi")
    assert chosen.objective_for("ce + lc") == build_objective("ce + lc")


def test_a_rate_and_epochs_belong_to_an_objective_and_what_is_given_takes_their_place(monkeypatch):
    monkeypatch.setitem(_WORLD_RECIPES, "coop", replace(RECIPES["coop"], lr=0.3, epochs=5, tuned={"npt": _Tuned(0.5, 7, "ce + 0.5*lc + 3*mi")}))
    found = {objective: recipe("coop", "world", objective) for objective in ("own", "npt", "cpt", "ce + lc", build_objective("npt"))}
    assert [(one.lr, one.epochs) for one in found.values()] == [(0.3, 5), (0.5, 7), (0.3, 5), (0.3, 5), (0.3, 5)]
    given = recipe("coop", "world", "npt", lr=0.9, batch_size=None)
    assert (given.lr, given.epochs, given.batch_size) == (0.9, 7, 32)
    assert (recipe("coop", "ViT-B-16-quickgelu", "npt").lr, recipe("coop", "ViT-B-16-quickgelu", "npt").epochs) == (0.002, 200)


def test_a_sum_is_trained_as_the_regulariser_whose_terms_it_has(monkeypatch):
    monkeypatch.setitem(_WORLD_RECIPES, "kgcoop", replace(RECIPES["kgcoop"], lr=0.3, tuned={"npt": _Tuned(0.5, 7, "ce + 0.5*lc + 3*mi")}))
    same = "ce + 8*kg + 0.5*lc + 3*mi"
    for objective in "npt", same, build_objective(same):
        assert (recipe("kgcoop", "world", objective).lr, recipe("kgcoop", "world", objective).epochs) == (0.5, 7)
    assert {recipe("kgcoop", "world", other).lr for other in ("own", "ce", "ce + 0.5*lc + 3*mi", "ce + 8*kg", "cpt")} == {0.3}
    with pytest.raises(ValueError, match="nptt"):
        recipe("kgcoop", "world", "nptt")


@pytest.mark.parametrize("wrapper, around, own", [
    ("dept", None, "0.3*ce + 0.7*head_ce"), ("dept", "coop", "0.3*ce + 0.7*head_ce"), ("dept", "kgcoop", "0.3*ce + 2.4*kg + 0.7*head_ce"),
    ("dept", "promptsrc", "0.3*ce + 7.5*scl_text + 3*scl_image + 0.3*scl_logits + 0.7*head_ce"), ("dpc", "tcp", "ce + 8*kg + hard_negatives"),
    ("dept", "prograd", "0.3*ce + 0.7*head_ce | kl"), ("dpc", "dekg", "ce + 8*kg + 6*hsic + hard_negatives"),
])
def test_a_wrapper_leaves_the_learner_inside_its_loss(wrapper, around, own):
    found = recipe(wrapper, "ViT-B-16-quickgelu", around=around)
    assert found.objective_for("own") == build_objective(own)
    assert dict(found.objective_for("npt").weights).items() >= dict(build_objective(own).weights).items() | {"lc": 1, "mi": 1}.items()
    assert (found.lr, found.epochs) == (RECIPES[wrapper].lr, RECIPES[wrapper].epochs)


def test_a_wrapper_gives_the_learner_inside_the_settings_of_its_recipe_here():
    assert recipe("dept", "world", around="tcp").settings == {"around_settings": {"layer": 1}}
    assert recipe("dpc", "ViT-B-16-quickgelu", around="tcp").settings == {"around_settings": {}}
    assert recipe("maple", "world", around="tcp") == recipe("maple", "world"), "which goes around nothing"
