"What a drawing calls learned is what its learner learns, where it says, and the files that are kept are those that the code draws."

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import open_clip
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from random_clip import NAMES, TOKENIZER

from npt.clip.frozen import FrozenCLIP
from npt.figures.drawings import (
    _AXES,
    _BOXES,
    _LONG,
    _ONE_RUN,
    _SKETCHES,
    _TERM_PLACES,
    _drawings,
    _learner_drawing,
    _own_terms,
    _piece_of,
    _with_indices,
)
from npt.learners.build import build_learner, learner_names
from npt.learners.recipes import RECIPES
from npt.objectives.objective import build_objective
from npt.objectives.terms import TERMS, StepFeatures
from npt.study.settings import RunSettings

SVG = "{http://www.w3.org/2000/svg}"
ROWS = {"words", "offset", "patches", "tokens", "text blocks", "image blocks"}  # places of vectors, which can be counted
each_learner = pytest.mark.parametrize("name", _SKETCHES)


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    "Random weights, and twelve blocks in each tower, as the drawings have; text, images and features are of three widths."
    torch.manual_seed(0)
    model = CLIP(48, CLIPVisionCfg(layers=12, width=32, head_width=16, patch_size=8, image_size=32), CLIPTextCfg(width=64, heads=4, layers=12), quick_gelu=True)
    open_clip.model.set_model_preprocess_cfg(model, dict(size=32, mean=(0.5,) * 3, std=(0.5,) * 3))
    return FrozenCLIP(model, TOKENIZER, "random", "cpu", torch.float64)


def built(name: str, clip: FrozenCLIP):
    "A learner as it is by default, with random numbers added to all that it learns, so that nothing is hidden behind a zero."
    learner = build_learner(name, clip, NAMES, **{"teacher": clip.name} if name == "promptkd" else {})
    draw = torch.Generator().manual_seed(1)
    if learner.remembers:
        learner.remember(F.normalize(torch.randn(6, clip.embed_dim, generator=draw, dtype=torch.float64), dim=1), torch.arange(6) % 3)
    with torch.no_grad():
        for values in learner.parameters():
            values += 0.1 * torch.randn(values.shape, generator=draw, dtype=values.dtype)
    return learner.eval()


def test_every_learner_with_something_to_train_has_a_drawing(clip):
    assert {name for name in learner_names() if list(built(name, clip).parameters())} == _SKETCHES.keys()


@each_learner
def test_what_a_drawing_calls_learned_are_the_parameters(clip, name):
    sketch, found = _SKETCHES[name], {}
    for key, values in built(name, clip).named_parameters():
        piece = _piece_of(key, sketch.pieces)
        assert piece.kind == "learned"
        found.setdefault(piece, {})[key] = values
    assert found.keys() == {piece for piece in sketch.pieces if piece.begins}
    assert all((piece.kind == "learned") == bool(piece.begins) == bool(piece.moves) for piece in sketch.pieces)
    for piece, parameters in found.items():
        if piece.blocks:
            places = {match[0] for key in parameters if (match := re.match(r"\d+", key.removeprefix(piece.begins)))}
            assert len(places) == len(piece.blocks), f"{piece.place} of {name}: {len(piece.blocks)} blocks are drawn, {len(places)} learn"
        if piece.place in ROWS:
            assert {values.shape[0] for values in parameters.values()} == {piece.count}


def seen(learner, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    given = pixels if learner.learns_image else learner.clip.encode_image(pixels)
    with torch.no_grad():
        all_of_it = learner.see(given)
    return dict(text=all_of_it.text, image=all_of_it.image, logits=all_of_it.logits)


@each_learner
def test_what_moves_is_what_the_drawing_says(clip, name):
    learner, pixels = built(name, clip), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = seen(learner, pixels)
    expected = dict(text={"text", "logits"}, image={"image", "logits"}, both={"text", "image", "logits"}, logits={"logits"})
    for piece in _SKETCHES[name].pieces:
        mine = [values for key, values in learner.named_parameters() if piece.begins and _piece_of(key, _SKETCHES[name].pieces) == piece]
        kept = [values.detach().clone() for values in mine]
        with torch.no_grad():
            for values in mine:
                values += 0.3 * torch.randn(values.shape, generator=torch.Generator().manual_seed(3), dtype=values.dtype)
            after = seen(learner, pixels)
            for values, old in zip(mine, kept):
                values.copy_(old)
        moved = {part for part in before if not torch.allclose(before[part], after[part], rtol=0, atol=1e-9)}
        assert moved == (expected[piece.moves] if mine else set()), f"{piece.place} of {name}"


def test_a_parameter_that_no_drawing_has_is_named():
    with pytest.raises(ValueError, match="'another.weight' stands in no drawing"):
        _piece_of("another.weight", _SKETCHES["coop"].pieces)


OF_A_STEP = [name for name, place in _TERM_PLACES.items() if place in ("text", "image", "both", "logits")
             and name not in ("clap", "hard_negatives", "kd", "token_ce")]  # which read what only their learners have


@pytest.mark.parametrize("name", OF_A_STEP)
def test_a_term_reads_where_its_label_hangs(name):
    "Its gradient reaches that, and nothing else."
    draw = torch.Generator().manual_seed(0)
    text, image, held = (F.normalize(torch.randn(4, 8, generator=draw, dtype=torch.float64), dim=1) for _ in range(3))
    logits = torch.randn(4, 4, generator=draw, dtype=torch.float64)
    inputs = dict(text=text, image=image, logits=logits)
    for values in inputs.values():
        values.requires_grad_()
    step = StepFeatures(text, image, torch.arange(4), logits, logit_scale=10.0, anchors=SimpleNamespace(text=held, ensemble=held),
                        encode_image=lambda: held, parts=dict(described=held))
    gradients = torch.autograd.grad(TERMS[name](step), list(inputs.values()), allow_unused=True)
    read = {part for part, gradient in zip(inputs, gradients) if gradient is not None and gradient.abs().max() > 0}
    assert read == ({"text", "image"} if _TERM_PLACES[name] == "both" else {_TERM_PLACES[name]})


@each_learner
def test_all_terms_of_the_own_loss_are_drawn_and_no_others(name):
    own = RECIPES[name].objective_for("own")
    terms = {term for part in (own, own.guide) if part for term, _ in part.weights}
    assert set(_own_terms(name)) == terms
    written = re.findall(r'fill="#FFFFFF"[^>]*>([a-z_]+)</text>', _learner_drawing(name).svg)  # white letters stand in dark labels
    assert sorted(set(written)) == sorted(terms | {"mi"})  # and in the legend


@pytest.mark.parametrize("name, drawing", _drawings().items(), ids=list(_drawings()))
class TestDrawing:
    def test_the_kept_file_is_what_the_code_draws(self, name, drawing):
        assert (ROOT / "docs" / "drawings" / f"{name}.svg").read_text() == drawing.svg, "write them anew, see nbs/figures/drawings.ipynb"

    def test_it_says_in_words_what_it_shows(self, name, drawing):
        root = ElementTree.fromstring(drawing.svg)
        assert root.get("role") == "img" and [child.tag for child in root[:2]] == [f"{SVG}title", f"{SVG}desc"]
        assert len(root[0].text) > 10 and root[1].text.endswith(".")
        assert drawing._repr_svg_() == drawing.svg and repr(drawing) == root[0].text

    def test_it_can_be_read_on_any_page(self, name, drawing):
        "White ground, letters of a size, and nothing outside the frame."
        root = ElementTree.fromstring(drawing.svg)
        width, height = int(root.get("width")), int(root.get("height"))
        assert width <= 780 and root[2].get("fill") == "#FFFFFF" and float(root[2].get("width")) == width - 1
        for text in root.iter(f"{SVG}text"):
            size, said = float(text.get("font-size")), "".join(text.itertext())
            long = 0.45 * size * len(said)
            left = float(text.get("x")) - long * {"start": 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
            assert size >= 9.5 and 10 <= left and left + long <= width - 10 and 0 < float(text.get("y")) < height, said


def test_the_folder_holds_nothing_else():
    assert {path.name for path in (ROOT / "docs" / "drawings").iterdir()} == {f"{name}.svg" for name in _drawings()}


def test_labels_fit_their_boxes():
    for sketch in _SKETCHES.values():
        for piece in sketch.pieces:
            if piece.place in _BOXES or piece.place in _LONG:
                width = _BOXES[piece.place][2] if piece.place in _BOXES else 20 * len(piece.blocks) + 214 * (piece.blocks[0] == 1)
                assert all(6.4 * len(line) <= width for line in piece.label.split("|")), f"{piece.label!r} of {sketch.name}"


def test_only_symbols_are_set_as_formulas():
    assert _with_indices("kg_image + 10*scl_image + 25*scl_text") == "kg_image + 10*scl_image + 25*scl_text"
    assert _with_indices("<b>") == "&lt;b&gt;" and "italic" in _with_indices("*h*") and 'font-size="75%">12<' in _with_indices("v_{12}")


def test_the_axes_hold_what_there_is_and_one_run_of_them():
    for learner in _AXES["learner"][1]:
        assert learner in learner_names()
    for objective in _AXES["objective"][1]:
        assert objective == "own" or build_objective(objective)
    data = dict(line.split(": ") for line in _AXES["data"][1])
    given = {name: int(value) if value.isdigit() else float(value) if name == "tau" else value for name, value in data.items()}
    for backbone in _AXES["backbone"][1]:
        assert RunSettings(**_ONE_RUN | given | dict(backbone=backbone)).backbone == backbone
    assert all(_ONE_RUN[axis] in _AXES[axis][1] for axis in _ONE_RUN) and _AXES.keys() == {*_ONE_RUN, "data"}
