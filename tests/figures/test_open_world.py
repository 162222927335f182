"What base and novel classes cost each other: the numbers drawn are the numbers given, and what was not measured is refused."

from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT

from npt.figures.captions import open_world_in_words
from npt.figures.open_world import bias_curves, detection_bars, joint_confusion, open_world_table
from npt.training.open_world import _bias_curve, joint_measures

NAMES = ["disc", "square", "cross", "star", "ring"]
SIZES = torch.tensor([8, 3, 5, 9, 2])  # pictures of each class, so that a mean over classes is not one over pictures
LABELS = torch.arange(5).repeat_interleave(SIZES)


def logits_of(seed: int) -> torch.Tensor:
    "Logits over two base and three novel names."
    return torch.randn(len(LABELS), 5, generator=torch.Generator().manual_seed(seed)) + 1.2 * torch.eye(5)[LABELS]


def measured(seed: int) -> dict:
    scores = {f"{score}_{name}": 60.0 + seed + place + 10 * number for number, score in enumerate(("mcm", "max_logit", "energy", "neco"))
              for place, name in enumerate(("auroc", "fpr95", "aupr"))}
    return joint_measures(logits_of(seed), LABELS, 2) | scores | dict(h=70.0, base_per_class=[1.0] * 2, novel_per_class=[1.0] * 3)


THREE = {name: measured(seed) for seed, name in enumerate(("zero-shot", "own loss", "NPT"))}


def test_curves_are_the_points_that_were_given():
    fig = bias_curves(THREE)
    assert [trace.name for trace in fig.data[::2]] == [f"{name} (AUSUC {each['ausuc']:.1f} %)" for name, each in THREE.items()]
    for line, each in zip(fig.data[::2], THREE.values()):
        curve = each["joint_curve"]
        assert (list(line.x), list(line.y), list(line.customdata)) == (curve["novel"], curve["base"], curve["bias"])
    assert fig.layout.width <= 780 and fig.data[0].line.color == fig.data[1].marker.color != fig.data[2].line.color


@pytest.mark.parametrize("seed", range(5))
def test_the_dot_is_where_the_whole_curve_has_no_bias(seed):
    "By classes of different sizes, where accuracy over pictures would be another point."
    line, dot = bias_curves({"NPT": measured(seed)}).data
    whole = _bias_curve(logits_of(seed), LABELS, 2)
    place = max(number for number, bias in enumerate(whole["bias"]) if bias < 0)
    assert dot.x[0] == pytest.approx(whole["novel"][place]) and dot.y[0] == pytest.approx(whole["base"][place])
    guesses = logits_of(seed).argmax(1).numpy()
    each = [100 * np.mean(guesses[LABELS.numpy() == label] == label) for label in range(5)]
    assert (dot.y[0], dot.x[0]) == pytest.approx((np.mean(each[:2]), np.mean(each[2:])))


def test_a_class_without_pictures_does_not_move_the_dot():
    one = dict(joint_confusion=[[0, 0, 3], [0, 2, 1], [2, 2, 4]], joint_curve=dict(bias=[0], base=[1], novel=[2]), ausuc=1.0)
    dot = bias_curves({"NPT": one | dict(base_per_class=[1.0, None], novel_per_class=[1.0, None])}).data[1]
    assert (dot.y[0], dot.x[0]) == (75.0, 100.0)


def test_the_confusion_is_that_of_the_guesses():
    fig = joint_confusion(THREE, NAMES, 2)
    counts = np.zeros((5, 5), int)
    np.add.at(counts, (LABELS.numpy(), logits_of(2).argmax(1).numpy()), 1)
    assert fig.data[5].customdata.tolist() == counts.tolist() and len(fig.data) == 6
    assert f"{len(LABELS) - counts.trace()} of {len(LABELS)} pictures wrong" in fig.layout.annotations[2].text
    assert fig.data[5].z[0, 3] == round(100 * counts[0, 3] / 8, 1) and "5 base and novel classes" in fig.layout.title.text
    lines = [(shape.x0, shape.x1, shape.y0, shape.y1) for shape in fig.layout.shapes]
    assert sorted(set(lines)) == [(0, 1, 1.5, 1.5), (1.5, 1.5, 0, 1)] and len(lines) == 6


def test_of_many_classes_the_line_stands_between_the_halves_of_those_that_are_drawn():
    pairs = [[place, place, 5] for place in range(120)] + [[place, place + 60, 2] for place in range(0, 60, 3)]
    fig = joint_confusion({"NPT": dict(joint_confusion=pairs)}, [f"class {i}" for i in range(120)], 60)
    assert "the 50 worst of 120" in fig.layout.title.text
    (edge,) = {shape.x0 for shape in fig.layout.shapes if shape.x0 == shape.x1}
    places = {place: int(name.removeprefix("class ")) for place, name in zip(fig.layout.xaxis.tickvals, fig.layout.xaxis.ticktext)}
    assert fig.data[0].z.shape == (50, 50) and len(places) > 10
    assert all((number < 60) == (place < edge) for place, number in places.items())


def test_no_line_is_drawn_where_one_half_alone_is():
    pairs = [[place, (place + 1) % 50, 2] for place in range(50)]
    fig = joint_confusion({"NPT": dict(joint_confusion=pairs)}, [f"class {i}" for i in range(60)], 50)
    assert not fig.layout.shapes and fig.data[0].z.shape == (50, 50)


def test_bars_are_the_aurocs_that_were_given():
    fig = detection_bars(THREE)
    for bar, (name, each) in zip(fig.data, THREE.items()):
        assert bar.name == name and list(bar.x) == ["MCM", "max logit", "energy", "NECO"]
        assert list(bar.y) == [each[f"{score}_auroc"] for score in ("mcm", "max_logit", "energy", "neco")]
    assert fig.layout.shapes[0].y0 == fig.layout.shapes[0].y1 == 50 and fig.layout.yaxis.range[0] == 0


@pytest.mark.parametrize("nothing", [{}, dict(neco_auroc=None), dict(neco_auroc=np.nan)])
def test_a_score_that_is_no_number_has_no_bar_and_a_dash(nothing):
    kept = {key: value for key, value in THREE["NPT"].items() if not key.startswith("neco")}
    (bar,) = detection_bars({"NPT": kept | nothing}).data
    assert len([value for value in bar.y if np.isfinite(value)]) == 3
    table = open_world_table({"NPT": kept | nothing})
    assert ("NECO: AUROC" in table.index) == bool(nothing) and (not nothing or table.loc["NECO: AUROC", "NPT"] == "–")


def test_the_table_has_every_number_and_the_differences():
    table = open_world_table(THREE)
    assert len(table) == 8 + 12 and list(table) == [*THREE, "NPT − zero-shot", "NPT − own loss"]
    keys = {"H, among all names": "joint_h", "base images with a novel name ↓": "base_as_novel", "novel images with a base name ↓": "novel_as_base",
            "OpenworldAUC": "openworld_auc", "max logit: FPR95 ↓": "max_logit_fpr95", "NECO: AUPR": "neco_aupr"}
    for title, key in keys.items():
        values = [each[key] for each in THREE.values()]
        expected = [*(f"{value:.1f}" for value in values), f"{values[2] - values[0]:+.1f}", f"{values[2] - values[1]:+.1f}"]
        assert [text.replace("−", "-") for text in table.loc[title]] == expected


@pytest.mark.parametrize("draw", [bias_curves, detection_bars, open_world_table, lambda named: joint_confusion(named, NAMES, 2)])
def test_what_was_not_measured_is_refused_by_name(draw):
    for named in {}, dict.fromkeys("abcde", THREE["NPT"]):
        with pytest.raises(ValueError, match="1 to 4 names"):
            draw(named)
    with pytest.raises(ValueError, match="metrics of own loss have no .*leave it out"):
        draw({"zero-shot": THREE["zero-shot"], "own loss": dict(base=50.0, novel=None, h=None)})


@pytest.mark.parametrize("names, num_base, fault", [
    (NAMES, 0, "from 1 to 4 are base, not 0"), (NAMES, 5, "from 1 to 4 are base, not 5"), (NAMES[:4], 2, "5 classes does not go with 4 class names"),
])  # fmt: skip
def test_names_that_do_not_go_with_the_confusion_are_refused(names, num_base, fault):
    with pytest.raises(ValueError, match=fault):
        joint_confusion(THREE, names, num_base)


def among_all_names(accuracies: dict, classes: str) -> dict:
    "The figures that train.ipynb makes of some metrics in its section of that name."
    cells = [cell for cell in nbformat.read(ROOT / "nbs" / "train.ipynb", as_version=4).cells if cell.cell_type == "code"]
    first = next(place for place, cell in enumerate(cells) if cell.source.startswith("among = {"))
    data = SimpleNamespace(base=SimpleNamespace(classnames=NAMES[:2]), novel=SimpleNamespace(classnames=NAMES[2:]))
    namespace = dict(accuracies=accuracies, classes=classes, figures={}, run=SimpleNamespace(data=data), open_world_in_words=open_world_in_words)
    draw = dict(open_world_table=open_world_table, bias_curves=bias_curves, joint_confusion=joint_confusion, detection_bars=detection_bars)
    namespace |= draw
    for cell in cells[first : first + 2]:
        exec(cell.source, namespace)
    return namespace["figures"]


def test_train_shows_those_that_were_measured_and_says_why_others_were_not(monkeypatch, capsys):
    monkeypatch.setattr("plotly.graph_objects.Figure.show", lambda figure: None)
    assert set(among_all_names(THREE, "base")) == {"bias", "detection", "joint_confusion"}
    assert capsys.readouterr().out == open_world_in_words(THREE) + "\n"
    own = {"zero-shot": THREE["zero-shot"], "own loss": dict(base=80.0, novel=None, h=None)}
    assert among_all_names(own, "base")["bias"].data[0].name.startswith("zero-shot")
    assert "Not measured here: own loss. What was learned means nothing for novel names." in capsys.readouterr().out
    assert among_all_names({"zero-shot": dict(accuracy=50.0), "NPT": dict(accuracy=60.0)}, "all") == {}
    assert "Not measured here: zero-shot, NPT. All classes are trained on" in capsys.readouterr().out
