"Objectives: the published weights, sums as text that are read again, and texts that are refused."

from dataclasses import replace

import pytest
import torch
from steps import Case

from npt.objectives.objective import REGULARISERS, Objective, _joined, _label_readers, build_objective
from npt.objectives.terms import NAMED_OBJECTIVES, TERMS


@pytest.mark.parametrize("name", [*NAMED_OBJECTIVES, *TERMS])
def test_every_name_is_an_objective_that_is_written_as_it_is_read(name):
    objective = build_objective(name)
    assert build_objective(str(objective)) == objective and build_objective(objective) is objective
    assert str(objective) == name or name in NAMED_OBJECTIVES


def test_named_objectives_have_the_published_weights():
    weights = {name: dict(build_objective(name).weights) for name in NAMED_OBJECTIVES}
    assert weights["npt"] == {"ce": 1, "lc": 1, "mi": 1}
    assert weights["npt_anchored"] == {"ce": 1, "etf": 1}
    assert weights["npt_open"] == {"ce": 1, "etf_open": 1}
    assert weights["cpt"] == {"ce": 1, "tetf": 0.25, "cc": 0.15, "rs": 0.10}
    assert weights["kgcoop"] == {"ce": 1, "kg": 8}
    assert weights["coprompt"] == {"ce": 1, "con_text": 1, "kg_image": 1}
    assert weights["dekg"] == {"ce": 1, "kg": 8, "hsic": 6}
    assert weights["dept"] == {"ce": 0.3, "head_ce": 0.7}
    assert weights["dpc"] == {"ce": 1, "hard_negatives": 1}
    assert weights["mmrl"] == {"ce": 0.7, "token_ce": 0.3, "kg": 1, "kg_image": 1}
    assert weights["promptkd"] == {"kd": 1000}
    assert weights["promptsrc"] == {"ce": 1, "scl_text": 25, "scl_image": 10, "scl_logits": 1}
    prograd = build_objective("prograd")
    assert dict(prograd.weights) == {"ce": 1} and prograd.guide == build_objective("kl")
    assert set(weights) == {"ce", "npt", "npt_anchored", "npt_open", "cpt", "kgcoop", "dekg", "prograd", "dept", "dpc", "mmrl", "coprompt", "promptkd", "promptsrc"}


def test_a_loss_is_the_weighted_sum_of_what_it_reports():
    step = Case().step()
    loss, values = build_objective("ce + 0.5*lc + 1e-1*mi + 0*kg")(step)
    assert torch.isclose(loss, values["ce"] + 0.5 * values["lc"] + 0.1 * values["mi"])
    assert values["kg"] == TERMS["kg"](step) and list(values) == ["ce", "kg", "lc", "mi"]


@pytest.mark.parametrize("name", REGULARISERS)
def test_a_regulariser_brings_its_terms_and_leaves_the_guide(name):
    joined = _joined(build_objective("prograd"), build_objective(name))
    assert dict(joined.weights) == dict(build_objective(name).weights) and joined.guide == build_objective("kl")


@pytest.mark.parametrize("text, said", [
    ("", "the text ends"), ("ce +", "at character 5"), ("+ ce", "at character 1"), ("ce lc", "found 'lc'"),
    ("-0.5*lc", "at character 1"), ("lc*0.5", "at character 3"), ("ce | kl | kg", "at character 9"), ("ce |", "the text ends"),
    ("ce + lcc", "Did you mean 'lc'"), ("ntp", "named objective 'ntp'"), ("ce + npt", "a whole objective and no term"),
    ("ce + ce", "stands more than once"), ("1e999*lc", "must be finite"),
    ("0*ce", "All weights of ce are zero"), ("0*ce + 0.0*lc", "All weights of ce + lc are zero"), ("1e-999*ce", "are zero"),
    ("ce | 0*kl", "All weights of kl are zero"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused_with_a_sentence(text, said):
    with pytest.raises(ValueError) as caught:
        build_objective(text)
    assert said in str(caught.value)


def test_a_sum_that_is_not_written_as_text_is_checked_too():
    for weights in (), (("lc", -1.0),), (("lc", float("nan")),), (("quux", 1.0),), (("lc", 1.0), ("lc", 2.0)):
        with pytest.raises(ValueError):
            Objective(weights)
    assert Objective((("mi", 1), ("ce", 1))) == build_objective("ce + mi")


@pytest.mark.parametrize("name", list(TERMS))
def test_a_term_reads_labels_where_it_is_said_to(name):
    case, draw = Case(num_classes=4, images=6, dim=5), torch.Generator().manual_seed(1)
    case.anchors = replace(case.anchors, encode_all=lambda: case.template, places=(0, 1, 2, 3))
    parts = dict(
        token_logits=torch.randn(6, 4, generator=draw), head_image=torch.randn(6, 4, generator=draw), head_text=torch.randn(4, 4, generator=draw),
        multipliers=torch.rand(4, generator=draw), moved=torch.rand(4, generator=draw), teacher_logits=torch.randn(6, 4, generator=draw),
        remembered=torch.randn(4, 5, generator=draw), remembered_counts=torch.ones(4, dtype=torch.int64), second_text=torch.randn(4, 5, generator=draw),
        top=torch.tensor(2), begins=torch.tensor(0.0), described=torch.randn(4, 5, generator=draw))
    parts = {part: value.double() if value.is_floating_point() else value for part, value in parts.items()}
    values = []
    for labels in [0, 0, 0, 0, 1, 2], [2, 3, 0, 1, 1, 1]:
        torch.manual_seed(0)
        counts = torch.bincount(torch.tensor(labels), minlength=4) + 1
        values.append(TERMS[name](replace(case.step(), labels=torch.tensor(labels), counts=counts, parts=parts, progress=0.9)))
    assert (values[0] != values[1]) == bool(_label_readers(Objective(((name, 1),)))), "of equal values labels are not read"
