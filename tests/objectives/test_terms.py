"The table of terms: what each is called and says of itself, and that a name which is taken stays taken."

import pytest
from steps import Case

from npt.objectives import objective
from npt.objectives.terms import NAMED_OBJECTIVES, TERMS, term

ROOMS = {"cross_entropy", "fidelity", "npt_terms", "own_terms"}


@pytest.fixture(autouse=True)
def table_as_before(monkeypatch):
    "What a test registers is gone after it."
    for table in TERMS, NAMED_OBJECTIVES:
        for name, value in table.items():
            monkeypatch.setitem(table, name, value)
    names = set(TERMS)
    yield
    for name in set(TERMS) - names:
        del TERMS[name]


def own(step):
    "A term of one's own."
    return step.logits.mean()


@pytest.mark.parametrize("name", list(TERMS))
def test_every_term_says_what_it_is_in_one_line(name):
    said = TERMS[name].__doc__
    assert said and said.endswith(".") and "\n" not in said and len(said) < 130


def test_whoever_imports_the_objective_has_all_terms():
    assert {function.__module__ for function in TERMS.values()} == {f"npt.objectives.{room}" for room in ROOMS}
    assert objective.TERMS is TERMS


@pytest.mark.parametrize("name", ["ce", "lc", "mi", "kg", "ldam", *sorted(set(NAMED_OBJECTIVES) - {"ce"})])
def test_a_name_that_is_taken_is_refused(name):
    before = TERMS.get(name)
    with pytest.raises(ValueError, match=f"The name '{name}' is taken; choose another for own"):
        term(name)(own)
    assert TERMS.get(name) is before


@pytest.mark.parametrize("name", ["", "no spaces", "1lc", "lc*2", "a+b", "a-b"])
def test_a_name_that_no_objective_can_be_written_with_is_refused(name):
    with pytest.raises(ValueError, match="made of letters, digits and underscores"):
        term(name)(own)


def test_a_cell_may_be_run_twice_and_another_function_may_not_take_its_place():
    assert term("own")(own) is own and term("own")(own) is own and TERMS["own"] is own

    def another(step):
        "Another term."

    with pytest.raises(ValueError, match="is taken"):
        term("own")(another)
    assert objective.build_objective("ce + 0.5*own")(Case().step())[1].keys() == {"ce", "own"}


def test_many_terms_share_what_they_ask_for():
    case = Case()
    anchored = "ce + etf + kg + kl + scl_text + scl_image + scl_logits + tetf + cc + rs"
    for _ in range(3):
        objective.build_objective(anchored)(case.step())
    assert sorted(case.asked) == ["ensemble", "image", "image", "image", "template"], "once a fit, and once a step"
