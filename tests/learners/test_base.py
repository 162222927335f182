"""The contract of a learner: what users write works, or is refused in a sentence, and one path uses all that they override."""

import copy
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from random_clip import random_clip
from torch import nn

from npt.clip.load import load_clip
from npt.data.images import make_loader
from npt.data.load import load_dataset
from npt.geometry.collapse import collapse_metrics
from npt.geometry.etf import simplex_etf
from npt.learners.base import LEARNERS, Learner, register_learner, seeded
from npt.learners.build import build_learner, learner_names, learner_settings
from npt.learners.prompt import Prompts, context_vectors
from npt.learners.saving import _read_prompts, load_prompts, save_prompts
from npt.learners.tip_adapter import TipAdapter
from npt.learners.zero_shot import ZeroShot
from npt.study.predict import predict
from npt.study.transfer import _bind
from npt.training.evaluation import base_to_novel, evaluate, outputs
from npt.training.fit import fit
from npt.training.measure import learned_features, measure_collapse

CLIP = load_clip("world")
DATA = load_dataset("world/shapes", shots=2, seed=1)
BASE, NOVEL = list(DATA.base.classnames), list(DATA.novel.classnames)
SMALL = dict(epochs=1, batch_size=16, lr=0.05, progress=False)


@pytest.fixture(autouse=True)
def registry():
    "A test's learners are gone when it ends."
    before = dict(LEARNERS)
    yield
    LEARNERS.clear()
    LEARNERS.update(before)


def made(cls: type[Learner], classnames=BASE, **settings) -> Learner:
    "A user's learner as `build_learner` makes it; a class of its own is registered, so that the given one keeps its name."
    register_learner("mine")(type(cls.__name__, (cls,), {}))
    return build_learner("mine", CLIP, classnames, **settings)


class Bare(Learner):
    "The class vectors of the bare names, moved by a vector that is learned."

    def __init__(self, clip, classnames, *template, **settings):
        super().__init__(clip, *template, **settings)
        self.shift = nn.Parameter(torch.zeros(clip.embed_dim))
        self.prepare(classnames)

    def text_features(self):
        return F.normalize(self.clip.encode_text(self.classnames) + self.shift, dim=-1)


def unit(count: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, CLIP.embed_dim, generator=torch.Generator().manual_seed(count)), dim=-1)


# ---- eight idioms

class Ported(Learner):
    "CoOp's own way of keeping what depends on the classes."

    def __init__(self, clip, classnames, *template, n_ctx=4, seed=0):
        super().__init__(clip, *template, n_ctx=n_ctx, seed=seed)
        with seeded(seed):
            self.ctx = nn.Parameter(context_vectors(clip, n_ctx, "a photo of a"))
        self.prepare(classnames)

    def prepare(self, classnames):
        super().prepare(classnames)
        prompts = Prompts.around(self.clip, self.classnames, len(self.ctx), "a photo of a")
        self.register_buffer("token_prefix", prompts.start)
        self.register_buffer("token_suffix", prompts.suffix)
        self.register_buffer("tokens", prompts.tokens)

    def text_features(self):
        return self.clip.text_features_from(torch.cat([self.token_prefix, self.ctx]), self.token_suffix, self.tokens)


def test_buffers_of_the_classes_stay_a_learners_own():
    mine = made(Ported)
    fit(mine, DATA.base.train, objective="ce", **SMALL)
    before = evaluate(mine, DATA.base.test)["accuracy"]
    both = base_to_novel(mine, DATA)
    assert evaluate(mine, DATA.base.test)["accuracy"] == before == both["base"]
    fresh = build_learner("mine", CLIP, NOVEL)
    fresh.ctx.data.copy_(mine.ctx.data)
    assert evaluate(fresh, DATA.novel.test)["accuracy"] == both["novel"]


def test_buffers_of_the_classes_do_not_come_along_in_a_file(tmp_path):
    mine, other = made(Ported), made(Ported, BASE[::-1])  # as many classes, so that every tensor fits
    with torch.no_grad():
        mine.ctx += 0.1
    save_prompts(mine, tmp_path / "prompts.safetensors")
    parameter = other.ctx
    load_prompts(other, tmp_path / "prompts.safetensors")
    assert other.ctx is parameter and torch.equal(other.ctx, mine.ctx) and other.classnames == BASE[::-1]
    assert torch.allclose(other.text_features(), mine.text_features().flip(0), atol=1e-6)


class WithNet(Learner):
    "A network from each class's own feature to a change of it, and a module that holds tensors of the classes."

    def __init__(self, clip, classnames, *template, hidden=8, seed=0):
        super().__init__(clip, *template, hidden=hidden, seed=seed)
        with seeded(seed):
            self.net = nn.Sequential(nn.Linear(clip.embed_dim, hidden), nn.ReLU(), nn.Linear(hidden, clip.embed_dim))
        self.written = nn.Module()
        self.prepare(classnames)

    def prepare(self, classnames):
        super().prepare(classnames)
        self.written.register_buffer("features", self.clip.encode_text(self.classnames))

    def text_features(self):
        return F.normalize(self.written.features + 0.1 * self.net(self.written.features), dim=-1)


def test_a_submodule_shares_its_parameters_and_nothing_else():
    mine = made(WithNet)
    before = mine.text_features()
    other = mine.for_classes(NOVEL)
    assert all(a is b for a, b in zip(mine.parameters(), other.parameters(), strict=True)) and other.net is not mine.net
    assert torch.equal(mine.text_features(), before)
    fit(mine, DATA.base.train, objective="npt", **SMALL)
    assert torch.equal(other.text_features(), mine.for_classes(NOVEL).text_features()), "what one learned the other knows"
    assert not torch.equal(mine.text_features(), before)


class OwnImages(Bare):
    "Looks at the mirrored picture, and moves its feature by a vector that is learned."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, classnames, *template)
        self.turn = nn.Parameter(torch.zeros(clip.embed_dim))

    def image_features(self, pixels):
        return F.normalize(self.clip.encode_image(pixels.flip(-1)) + self.turn, dim=-1)


def pixels_of(split) -> torch.Tensor:
    return torch.cat([pixels for pixels, _ in make_loader(split, CLIP.preprocess_cfg)])


def pictures(pixels: torch.Tensor) -> list[Image.Image]:
    "Random pictures, and not the split's: `predict` opens pictures by itself."
    return [Image.fromarray((255 * torch.rand(40, 40, 3, generator=torch.Generator().manual_seed(i))).byte().numpy())
            for i in range(len(pixels))]


@torch.no_grad()
def assert_one_path(mine: Learner, logits) -> None:
    "Evaluation and `predict` agree with logits that are made by hand from pixels."
    pixels, split = pixels_of(DATA.base.val), DATA.base.val
    right = (logits(pixels).argmax(1) == split.labels).double().mean() * 100
    assert evaluate(mine, split)["accuracy"] == pytest.approx(float(right))
    some = pictures(pixels[:4])
    best = logits(torch.stack([CLIP.preprocess(one) for one in some])).argmax(1)
    assert list(predict(mine, some, top=1)["class"]) == [BASE[k] for k in best]


def test_an_image_path_of_ones_own_is_used_by_all():
    mine = made(OwnImages)
    assert mine.learns_image
    fit(mine, DATA.base.train, objective="ce", **SMALL)
    assert mine.turn.abs().max() > 0, "training went through it"
    with torch.no_grad():
        by_hand = F.normalize(CLIP.encode_image(pixels_of(DATA.base.val).flip(-1)) + mine.turn, dim=-1)
        assert torch.allclose(learned_features(mine, DATA.base.val)[0], by_hand, atol=1e-5)
        expected = collapse_metrics(mine.text_features(), by_hand, DATA.base.val.labels)
    assert measure_collapse(mine, DATA.base.val) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert_one_path(mine, lambda pixels: F.normalize(CLIP.encode_image(pixels.flip(-1)) + mine.turn, dim=-1) @ mine.text_features().T)


def test_a_mixed_in_image_path_is_used_by_training():
    class Mirrored:
        def image_features(self, pixels):
            return F.normalize(self.clip.encode_image(pixels.flip(-1)) + self.turn, dim=-1)

    class Mixed(Mirrored, Bare):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.turn = nn.Parameter(torch.zeros(clip.embed_dim))

    mine = made(Mixed)
    fit(mine, DATA.base.train, objective="ce", **SMALL)
    assert mine.learns_image and mine.turn.abs().max() > 0


class OwnLogits(Bare):
    "Prefers the class that is farthest, by a scale that nothing else uses."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, classnames, *template)
        self.scale = nn.Parameter(torch.tensor(-50.0))

    def logits(self, pixels):
        return self.scale * self.image_features(pixels) @ self.text_features().T


def test_own_logits_are_used_by_all():
    mine = made(OwnLogits)
    fit(mine, DATA.base.train, objective="ce", **SMALL)
    assert mine.scale != -50, "training went through them"
    assert_one_path(mine, lambda pixels: -CLIP.encode_image(pixels) @ mine.text_features().T)
    with torch.no_grad():
        image, labels = learned_features(mine, DATA.base.val)
        expected = collapse_metrics(mine.text_features(), image, labels)
    assert evaluate(mine, DATA.base.val, collapse=True)["collapse"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_state_made_in_prepare_is_not_shared():
    class Table(Bare):
        def __init__(self, clip, classnames, *template):
            self.table, self.order = {}, []
            super().__init__(clip, classnames, *template)

        def prepare(self, classnames):
            super().prepare(classnames)
            self.table.clear()
            self.order[:] = self.classnames
            self.table.update(zip(self.order, self.clip.encode_text(self.order)))

        def text_features(self):
            return F.normalize(torch.stack([self.table[name] for name in self.order]) + self.shift, dim=-1)

    mine = made(Table)
    before = mine.text_features()
    other = mine.for_classes(NOVEL)
    assert torch.equal(mine.text_features(), before) and list(mine.table) == BASE and list(other.table) == NOVEL
    assert other.clip is mine.clip


class ClassVectors(Learner):
    "Learns the class vectors themselves."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, *template)
        self.prepare(classnames)
        self.vectors = nn.Parameter(clip.encode_text(self.classnames))

    def text_features(self):
        return F.normalize(self.vectors, dim=-1)


def test_what_belongs_to_classes_is_refused_for_others(tmp_path):
    class Said(ClassVectors):
        transfers = False

    mine = made(Said)
    fit(mine, DATA.base.train, objective="ce", **SMALL)
    with pytest.raises(ValueError, match="'mine' learned belongs to the classes"):
        mine.for_classes(NOVEL)
    assert mine.for_classes(BASE).vectors is mine.vectors
    result = base_to_novel(mine, DATA)
    assert result["base"] > 0 and math.isnan(result["novel"])
    save_prompts(mine, tmp_path / "prompts.safetensors")
    other = build_learner("mine", CLIP, BASE[::-1])
    with pytest.raises(ValueError, match="belongs to the classes"):
        load_prompts(other, tmp_path / "prompts.safetensors")


def test_who_forgets_to_say_so_is_told():
    for names in BASE, BASE[:2], BASE[:1]:
        with pytest.raises(ValueError, match="does not follow from the class names.*transfers = False"):
            made(ClassVectors, names)
    for others in BASE[::-1], NOVEL[:-1], NOVEL[:1]:
        with pytest.raises(ValueError, match="does not follow from the class names"):
            ClassVectors(CLIP, BASE).for_classes(others)


class Around(Learner):
    "Shifts the class vectors of another learner."

    def __init__(self, clip, classnames, *template, of="coop"):
        super().__init__(clip, *template, of=of)
        self.inner = build_learner(of, clip, classnames, *template)
        self.shift = nn.Parameter(torch.zeros(clip.embed_dim))
        self.prepare(classnames)

    def prepare(self, classnames):
        super().prepare(classnames)
        self.inner = self.inner.for_classes(classnames)

    def text_features(self):
        return F.normalize(self.inner.text_features() + self.shift, dim=-1)


@pytest.mark.parametrize("of", ["coop", "tcp"])
def test_a_learner_around_another(of):
    mine = made(Around, of=of)
    fit(mine, DATA.base.train, objective="ce", **SMALL)
    before = mine.text_features()
    other = mine.for_classes(NOVEL)
    assert torch.equal(mine.text_features(), before) and mine.inner.classnames == BASE
    assert all(a is b for a, b in zip(mine.parameters(), other.parameters(), strict=True))
    expected = F.normalize(mine.inner.for_classes(NOVEL).text_features() + mine.shift, dim=-1)
    assert torch.equal(other.text_features(), expected) and other.inner.classnames == NOVEL


def test_an_inner_learner_that_keeps_its_classes_is_refused():
    class Stale(Around):
        def prepare(self, classnames):
            Learner.prepare(self, classnames)

    with pytest.raises(ValueError, match="a learner inside"):
        made(Stale).for_classes(BASE[::-1])


def test_a_name_belongs_to_one_class():
    def cell():
        class Again(Bare):
            pass
        return Again

    first, again = cell(), cell()
    register_learner("mine")(first)
    assert register_learner("mine")(again) is again and LEARNERS["mine"] is again, "the same cell once more"
    for cls in Ported, type("Again", (Bare,), {}):
        with pytest.raises(ValueError, match="The name 'mine' is taken by .*Again"):
            register_learner("mine")(cls)
    for name in "coop", "kgcoop", "promptsrc":  # the last two are other names of classes
        with pytest.raises(ValueError, match=f"The name '{name}' is taken by npt.learners"):
            register_learner(name)(Bare)
    assert LEARNERS["mine"] is again and Bare.name == ""


# ---- what training and evaluation refuse

BAD = {
    "length": (lambda text: text / 2, "is not of unit length"),
    "too many": (lambda text: torch.cat([text, text[:1]]), rf"shape \({len(BASE) + 1}, {CLIP.embed_dim}\)"),
    "too wide": (lambda text: F.pad(text, (0, 1)), rf"shape \({len(BASE)}, {CLIP.embed_dim + 1}\)"),
    "one vector": (lambda text: text[0], rf"shape \({CLIP.embed_dim},\)"),
    "not a number": (lambda text: text + torch.nan, "not finite"),
    "nothing": (lambda text: None, "shape NoneType"),
}


@pytest.mark.parametrize("spoil, words", BAD.values(), ids=BAD)
def test_class_vectors_are_refused_at_the_first_step_and_by_evaluate(spoil, words):
    class Spoilt(Bare):
        def text_features(self):
            return spoil(super().text_features())

    mine = made(Spoilt)
    with pytest.raises(ValueError, match=f"'mine' gives as text_features.*{words}"):
        fit(mine, DATA.base.train, objective="ce", **SMALL)
    assert mine.shift.abs().max() == 0, "no step was taken"
    with pytest.raises(ValueError, match=f"'mine' gives as text_features.*{words}"):
        evaluate(mine, DATA.base.val)


@pytest.mark.parametrize("method", ["adapt", "image_features"])
def test_image_features_are_refused_by_the_method_that_gives_them(method):
    mine = made(type("Spoilt", (Bare,), {method: lambda self, given: 2 * getattr(super(Bare, self), method)(given)}))
    for use in lambda: fit(mine, DATA.base.train, objective="ce", **SMALL), lambda: evaluate(mine, DATA.base.val):
        with pytest.raises(ValueError, match=f"'mine' gives as {method} is not of unit length"):
            use()


def test_logits_of_another_shape_are_refused():
    mine = made(type("Spoilt", (Bare,), {"logits": lambda self, pixels: self.class_logits(self.image_features(pixels))[1][:, 1:]}))
    for use in lambda: fit(mine, DATA.base.train, objective="ce", **SMALL), lambda: evaluate(mine, DATA.base.val):
        with pytest.raises(ValueError, match="'mine' gives logits of the shape"):
            use()


# ---- what registration refuses

def no_default(self, clip, classnames, *template, rank):
    "A setting without a default."


def a_taken_setting(self, clip, classnames, *template, train=True):
    "A setting that would hide a method."


def a_positional_setting(self, clip, classnames, n_ctx=4):
    "A setting that the template would be taken for."


def no_template(self, clip, classnames):
    "No place for the template."


REFUSED = {
    "no learner": (nn.Linear, "derives from Learner"),
    "a function": (fit, "derives from Learner"),
    "no class vectors": (type("Bad", (Learner,), {}), "no text_features"),
    "nothing to remember with": (type("Bad", (Bare,), {"remembers": True}), "no remember"),
    "images by halves": (type("Bad", (OwnImages,), {"learns_image": False}), "image_features would never be called"),
    "logits by halves": (type("Bad", (OwnLogits,), {"learns_image": False}), "logits would never be called"),
    "memory by halves": (type("Bad", (TipAdapter,), {"remembers": False}), "remember would never be called"),
    "a parameter of the class": (type("Bad", (Bare,), {"shift": nn.Parameter(torch.zeros(2))}), "shift would be one for all"),
    "a scale that is called": (type("Bad", (Bare,), {"logit_scale": lambda self: 1}), "logit_scale must be a property"),
    "forward": (type("Bad", (Bare,), {"forward": lambda self, pixels: 0}), "overrides forward"),
    "all at once and logits": (type("Bad", (OwnImages,), {"see": lambda self, given, text=None: 0, "logits": lambda self, pixels: 0}),
                               "see and logits, of which the second would never be called"),
    "all at once without image features": (type("Bad", (Bare,), {"see": lambda self, given, text=None: 0}), "not image_features"),
    "no text": (type("Bad", (Bare,), {"class_logits": lambda self, image: 0}), r"takes \(self, image_features, text\)"),
    "an argument more": (type("Bad", (Bare,), {"text_features": lambda self, image: 0}), r"text_features must be .*\(self\)"),
    "a property": (type("Bad", (Bare,), {"text_features": property(lambda self: 0)}), "text_features is no method"),
    "no default": (type("Bad", (Bare,), {"__init__": no_default}), "'rank' has no default"),
    "a taken setting": (type("Bad", (Bare,), {"__init__": a_taken_setting}), "'train' has the name"),
    "a positional setting": (type("Bad", (Bare,), {"__init__": a_positional_setting}), "'n_ctx' must be keyword-only"),
    "no template": (type("Bad", (Bare,), {"__init__": no_template}), r"must take \(self, clip, classnames, \*template\)"),
}


@pytest.mark.parametrize("cls, words", REFUSED.values(), ids=REFUSED)
def test_a_class_that_cannot_work_is_refused(cls, words):
    with pytest.raises(ValueError, match=f"cannot be the learner 'mine': it.*{words}"):
        register_learner("mine")(cls)
    assert "mine" not in LEARNERS


@pytest.mark.parametrize("name", ["", Bare])
def test_a_learner_needs_a_name(name):
    with pytest.raises(ValueError, match="is no name"):
        register_learner(name)


# ---- what building and binding refuse

def test_a_learner_without_classes_is_refused_when_it_is_built():
    class Unbound(Bare):
        def prepare(self, classnames):
            pass

    with pytest.raises(ValueError, match=r"self.prepare\(classnames\)"):
        made(Unbound)


def test_clips_own_weights_are_not_a_learners():
    class Holder(Bare):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.encoder = clip.model.visual

    with pytest.raises(ValueError, match="CLIP's own weights as 'encoder"):
        made(Holder)


@pytest.mark.parametrize("keep, words", [
    (lambda self: {"scaled": 2 * self.shift}, "computed from its parameters"),
    (lambda self: {"words": (word for word in self.classnames)}, "cannot be copied"),
    (lambda self: {"more": nn.Parameter(torch.zeros(3))}, "makes parameters in prepare"),
], ids=["history", "generator", "parameter"])
def test_what_prepare_may_not_keep_is_refused_for_other_classes(keep, words):
    class Keeper(Bare):
        def prepare(self, classnames):
            super().prepare(classnames)
            for name, value in keep(self).items():
                setattr(self, name, value)

    with pytest.raises(ValueError, match=words):
        made(Keeper)
    with pytest.raises(ValueError, match=words):
        Keeper(CLIP, BASE).for_classes(NOVEL)

    class Kept(Keeper):
        transfers = False

    del LEARNERS["mine"]
    assert made(Kept).classnames == BASE, "nobody will ask it for other classes"


def test_one_name_is_not_a_list_of_names():
    with pytest.raises(ValueError, match="list of names"):
        made(Bare).for_classes("cat")


def test_a_second_clip_is_not_copied():
    class Taught(Bare):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.teacher, self.others = copy.copy(clip), {"also": [copy.copy(clip)]}

    mine = made(Taught)
    other = mine.for_classes(NOVEL)
    assert other.teacher is mine.teacher and other.others is not mine.others and other.others["also"][0] is mine.others["also"][0]


LOOSE = {
    "a tensor": ("loose", lambda: torch.zeros(2, requires_grad=True)),
    "a list": ("loose[1]", lambda: [torch.zeros(2), nn.Parameter(torch.zeros(2))]),
    "a table of modules": ("loose['a'][0]", lambda: {"a": (nn.Linear(2, 2),)}),
    "a plain object": ("loose.deep[0].v", lambda: SimpleNamespace(deep=[SimpleNamespace(v=nn.Parameter(torch.zeros(2)))])),
    "a record": ("loose.start", lambda: Prompts(nn.Parameter(torch.zeros(2)), *4 * [None])),
}


@pytest.mark.parametrize("name, make", LOOSE.values(), ids=LOOSE)
def test_what_no_optimiser_finds_is_refused(name, make):
    class Loose(Bare):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.loose = make()

    words = re.escape(f"its {name} asks for gradients where no optimiser finds it") + ".*ParameterList"
    with pytest.raises(ValueError, match=words):
        made(Loose)
    with pytest.raises(ValueError, match=words):
        fit(Loose(CLIP, BASE), DATA.base.train, objective="ce", **SMALL)


def test_a_list_of_what_is_found_elsewhere_is_fine_and_so_is_what_asks_for_nothing():
    class Listed(Bare):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.same, self.still = self.shift, {"zeros": torch.zeros(2), "parts": [self.shift]}

    mine = made(Listed)
    other = mine.for_classes(NOVEL)
    assert other.still["parts"][0] is other.same is mine.shift


def test_a_parameter_of_two_names_is_learned_once_and_saved(tmp_path):
    class Tied(Bare):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.same = self.shift

    mine, again = made(Tied), made(Tied)
    fit(mine, DATA.base.train, objective="ce", **SMALL)
    save_prompts(mine, tmp_path / "prompts.safetensors")
    load_prompts(again, tmp_path / "prompts.safetensors")
    assert again.same is again.shift and torch.equal(again.shift, mine.shift) and mine.shift.abs().max() > 0


def test_what_cannot_be_prepared_for_other_classes_is_told_when_it_is_built():
    class Inside(Around):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.inner = build_learner("coop", clip, classnames, *template, class_specific=True)

    with pytest.raises(ValueError, match="cannot be prepared for other classes: set transfers = False.*'coop' learned belongs"):
        made(Inside)


@pytest.mark.parametrize("module", [nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2, affine=False)).eval().append(nn.Dropout())])
def test_a_module_that_nobody_tells_of_the_test_is_refused(module):
    class Listed(Bare):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.loose = [SimpleNamespace(part=module)]

    with pytest.raises(ValueError, match=re.escape("its loose[0].part is a module that is not told when training ends")):
        made(Listed)
    module.eval()
    other = build_learner("mine", CLIP, BASE).for_classes(NOVEL)
    assert other.loose[0].part is not module, "one that was told by hand is copied like all else"


def test_prepare_may_not_overwrite_what_was_learned():
    class Restarted(Bare):
        def prepare(self, classnames):
            super().prepare(classnames)
            self.shift.data.zero_()

    assert made(Restarted).shift.abs().max() == 0, "nothing is lost yet"
    mine = Restarted(CLIP, BASE)
    mine.shift.data[:3] = torch.tensor([1.0, torch.nan, torch.inf])
    with pytest.raises(ValueError, match="overwrites its parameter 'shift' in prepare"):
        mine.for_classes(NOVEL)
    assert mine.shift[0] == 1 and mine.shift[1].isnan()
    unchanged = Bare(CLIP, BASE)
    unchanged.shift.data[:3] = mine.shift.data[:3]
    assert unchanged.for_classes(NOVEL).shift is unchanged.shift, "what is not a number may stay what it is"


# ---- whose class vectors are measured

class Turned(Bare):
    "Compares pictures with turned class vectors, at a temperature of its own."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, classnames, *template)
        self.turn = nn.Parameter(torch.eye(clip.embed_dim).roll(1, dims=0))
        self.logit_scale = nn.Parameter(torch.tensor(20.0))

    def class_logits(self, image_features, text=None):
        text = F.normalize((self.text_features() if text is None else text) @ self.turn, dim=-1)
        return text, self.to_logits(image_features @ text.T)


def test_class_vectors_of_class_logits_are_those_of_loss_and_collapse(tmp_path):
    mine = made(Turned)
    fit(mine, DATA.base.train, objective="ce + lc", **SMALL)
    image, labels = learned_features(mine, DATA.base.val)
    seen = mine(image)
    made_of = outputs(mine, DATA.base.val)
    assert torch.equal(made_of.text, seen.text) and not torch.allclose(seen.text, mine.text_features())
    expected = collapse_metrics(seen.text.detach(), image, labels)
    assert evaluate(mine, DATA.base.val, collapse=True)["collapse"] == measure_collapse(mine, DATA.base.val) == expected
    assert mine.logit_scale != 20 and mine.for_classes(NOVEL).logit_scale is mine.logit_scale
    save_prompts(mine, tmp_path / "prompts.safetensors")
    again = build_learner("mine", CLIP, NOVEL)
    load_prompts(again, tmp_path / "prompts.safetensors")
    assert torch.equal(again.logit_scale, mine.logit_scale) and isinstance(again.logit_scale, nn.Parameter)


class Shifting(Bare):
    "Class vectors that every picture moves a little."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, classnames, *template)
        self.share = nn.Parameter(torch.tensor(0.1))

    def class_logits(self, image_features, text=None):
        text = self.text_features() if text is None else text
        each = F.normalize(text + self.share * image_features[:, None], dim=-1)
        return F.normalize(each.mean(0), dim=-1), self.to_logits(torch.einsum("bd,bkd->bk", image_features, each))


def test_a_learner_says_that_its_class_vectors_follow_the_picture():
    unsaid = made(Shifting)
    for use in evaluate, measure_collapse:
        with pytest.raises(ValueError, match="differ from picture to picture: give their mean, and set conditional = True"):
            use(unsaid, DATA.base.val)
    del LEARNERS["mine"]
    mine = made(type("Said", (Shifting,), {"conditional": True}))
    fit(mine, DATA.base.train, objective="ce", **SMALL)
    assert torch.equal(outputs(mine, DATA.base.val).text, mine.text_features())


def test_class_vectors_of_each_picture_are_refused_everywhere():
    class Each(Bare):
        def class_logits(self, image_features, text=None):
            text = self.text_features().expand(len(image_features), -1, -1)
            return text, self.to_logits(torch.einsum("bd,bkd->bk", image_features, text))

    mine = made(Each)
    for use in (lambda: fit(mine, DATA.base.train, objective="ce", **SMALL), lambda: evaluate(mine, DATA.base.val),
                lambda: predict(mine, [Image.new("RGB", (32, 32))])):
        with pytest.raises(ValueError, match=r"class_logits has the shape .* set conditional = True"):
            use()


UNFIT = {
    "only logits": ({"class_logits": lambda self, image, text=None: image @ self.text_features().T}, "must give two tensors"),
    "double precision": ({"text_features": lambda self: Bare.text_features(self).double()}, "in torch.float64 and image features in torch.float32"),
    "length": ({"text_features": lambda self: 2 * Bare.text_features(self)}, "text_features is not of unit length"),
    "not a number": ({"adapt": lambda self, frozen: frozen * torch.nan}, "adapt holds values that are not finite"),
    "too many": ({"logits": lambda self, pixels: torch.zeros(len(pixels), 99)}, r"logits of the shape \(\d+, 99\) in place of"),
}


@pytest.mark.parametrize("own, words", UNFIT.values(), ids=UNFIT)
def test_fit_evaluate_and_predict_refuse_the_same(own, words):
    mine = made(type("Unfit", (Bare,), own))
    for use in (lambda: fit(mine, DATA.base.train, objective="ce", **SMALL), lambda: evaluate(mine, DATA.base.val),
                lambda: predict(mine, [Image.new("RGB", (32, 32))])):
        with pytest.raises(ValueError, match=words):
            use()


# ---- what the loss does not reach

class Unused(Bare):
    "Moves the features of the images, which nobody asks for where it has an image path of its own."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, classnames, *template)
        self.move = nn.Parameter(torch.zeros(clip.embed_dim))

    def adapt(self, frozen):
        return F.normalize(frozen + self.move, dim=-1)


def test_a_parameter_that_the_loss_does_not_reach_is_named_before_a_step():
    class Blind(Unused):
        def image_features(self, pixels):
            return self.clip.encode_image(pixels)

    mine = made(Blind)
    for objective in "ce", "npt":
        with pytest.raises(ValueError, match="no gradient to move of the learner 'mine'.*adapt where image_features is overridden"):
            fit(mine, DATA.base.train, objective=objective, **SMALL)
    assert mine.shift.abs().max() == 0, "no step was taken"
    mine.move.requires_grad_(False)
    fit(mine, DATA.base.train, objective="ce", **SMALL)


@pytest.mark.parametrize("objective", ["lc", "lc | ce"])
def test_an_objective_without_logits_may_leave_a_parameter_alone(objective):
    mine = made(Unused)
    with pytest.warns(UserWarning, match="gives no gradient to move of the learner 'mine': they will stay") as told:
        fit(mine, DATA.base.train, objective=objective, **SMALL | {"epochs": 2})
    assert len(told) == 1 and mine.move.abs().max() == 0 < mine.shift.abs().max()


# ---- flags of an instance

def test_an_instance_that_is_handed_features_is_tested_as_it_was_trained():
    class Either(OwnImages):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.learns_image = False

        def image_features(self, pixels):
            return F.normalize(torch.ones(len(pixels), self.clip.embed_dim), dim=-1)

    assert_one_path(made(Either), lambda pixels: CLIP.encode_image(pixels) @ CLIP.encode_text(BASE).T)


def test_logits_from_pixels_need_pixels():
    class Blind(OwnLogits):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template)
            self.learns_image = False

    with pytest.raises(ValueError, match="makes logits from pixels and sets learns_image = False"):
        made(Blind)


# ---- memories

class Remembering(Bare):
    "Moves every feature by the mean of the training images."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, classnames, *template)
        self.register_buffer("mean", None)
        self.register_buffer("seen", torch.empty(0, clip.embed_dim))

    def remember(self, features, labels):
        self.mean, self.seen = features.mean(0), features[torch.randperm(len(features))[:3]]

    def adapt(self, frozen):
        return F.normalize(frozen - 0.5 * self.mean + 0 * self.seen.sum(), dim=-1)


class AroundCache(Learner):
    "Tip-Adapter, and class vectors that are moved."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, *template)
        self.inner = build_learner("tip_adapter_f", clip, classnames, *template)
        self.shift = nn.Parameter(torch.zeros(clip.embed_dim))
        self.prepare(classnames)

    def prepare(self, classnames):
        super().prepare(classnames)
        self.inner = self.inner.for_classes(classnames)

    def remember(self, features, labels):
        self.inner.remember(features, labels)

    def text_features(self):
        return F.normalize(self.inner.text_features() + self.shift, dim=-1)

    def class_logits(self, image_features, text=None):
        text, logits = super().class_logits(image_features, text)
        return text, logits + self.inner.votes(image_features)


@pytest.mark.parametrize("cls", [Remembering, AroundCache])
def test_what_was_remembered_comes_back_from_a_file(cls, tmp_path):
    mine, again, elsewhere = made(cls), made(cls), made(cls, BASE[::-1])
    fit(mine, DATA.base.train, objective="ce", **SMALL)
    save_prompts(mine, tmp_path / "prompts.safetensors")
    for one in again, elsewhere:
        load_prompts(one, tmp_path / "prompts.safetensors")
    given = unit(5)
    assert torch.equal(again(given).logits, mine(given).logits)
    assert torch.allclose(elsewhere(given).logits.flip(1), mine(given).logits, atol=1e-4)
    assert all(p.requires_grad for p in again.parameters()) and again.state_dict().keys() == mine.state_dict().keys()


def test_a_file_that_is_refused_leaves_an_empty_place_empty(tmp_path):
    mine, again = made(Remembering), made(Remembering)
    mine.remember(unit(4), torch.zeros(4))
    mine.shift = nn.Parameter(torch.zeros(3))
    save_prompts(mine, tmp_path / "prompts.safetensors")
    with pytest.raises(ValueError, match="this learner needs"):
        load_prompts(again, tmp_path / "prompts.safetensors")
    assert again.mean is None and again.seen.shape == (0, CLIP.embed_dim) and list(again.state_dict()) == ["shift", "seen"]


def test_a_learner_around_one_that_remembers_must_hand_images_on():
    class Deaf(AroundCache):
        remembers, remember = False, Learner.remember

    with pytest.raises(ValueError, match="holds the learner 'tip_adapter_f', which remembers training images: hand them on"):
        made(Deaf)


# ---- a learner inside gets the template of the target

def test_another_template_reaches_the_learner_inside():
    class Pair(Around):
        def __init__(self, clip, classnames, *template):
            super().__init__(clip, classnames, *template, of="tcp")
            self.fixed = nn.ModuleList([build_learner("zero_shot", clip, classnames, "a sketch of a {}.")])

    mine = made(Pair)
    bound, _ = _bind(mine, DATA.novel.test, "a drawing of a {}.", given=mine.template)
    fresh = build_learner("mine", CLIP, NOVEL, "a drawing of a {}.")
    assert torch.equal(bound.text_features(), fresh.text_features()) and bound.inner.template == "a drawing of a {}."
    assert mine.template == mine.inner.template == "a photo of a {}." and bound.fixed[0].template == "a sketch of a {}."


class Sketching(Bare):
    "Writes its own prompt, whatever it is given."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, classnames, "a sketch of a {}.")


def test_a_template_of_ones_own_is_kept():
    bound, zero_shot = _bind(made(Sketching), DATA.novel.test, "a drawing of a {}.", given="a photo of a {}.")
    assert bound.template == "a sketch of a {}." and zero_shot.template == "a drawing of a {}."

    class Default(Bare):
        def __init__(self, clip, classnames, template="a sketch of a {}."):
            super().__init__(clip, classnames, template)

    del LEARNERS["mine"]
    assert made(Default).template == "a sketch of a {}."
    assert build_learner("mine", CLIP, BASE, "a drawing of a {}.").template == "a drawing of a {}."


# ---- settings and recipes

def test_settings_of_a_parent_are_those_of_its_child(tmp_path):
    class Child(Ported):
        def __init__(self, clip, classnames, *template, seed=3, strength=1.0, **more):
            super().__init__(clip, classnames, *template, seed=seed, **more)

    mine = made(Child, n_ctx=2)
    assert len(mine.ctx) == 2 and mine.settings == dict(n_ctx=2, seed=3, strength=1.0) == learner_settings("mine") | dict(n_ctx=2)
    with pytest.raises(ValueError, match="no setting of the learner 'mine' called 'depth'"):
        build_learner("mine", CLIP, BASE, depth=2)


def test_a_parents_setting_that_a_child_sets_by_itself_is_refused():
    class Child(Ported):
        def __init__(self, clip, classnames, *template, **more):
            super().__init__(clip, classnames, *template, n_ctx=2, **more)

    with pytest.raises(ValueError, match="sets its parent's setting 'n_ctx' by itself: take it as a keyword of its own"):
        made(Child)


def test_a_fit_needs_no_recipe_where_three_numbers_are_given():
    mine = made(Bare)
    for missing in "epochs", "batch_size", "lr":
        with pytest.raises(ValueError, match="no recipe for the learner 'mine'.*Give epochs, batch_size and lr"):
            fit(mine, DATA.base.train, objective="ce", **SMALL | {missing: None})
    assert len(fit(mine, DATA.base.train, objective="own", **SMALL)) == 1 and mine.shift.abs().max() > 0


def test_settings_are_recorded_and_read_back(tmp_path):
    class Silent(ZeroShot):
        def __init__(self, clip, classnames, *template, strength=2.0, words=("a", "b")):
            super().__init__(clip, classnames, *template)  # hands nothing on

    mine, path = made(Silent, strength=3.0), tmp_path / "prompts.safetensors"
    assert mine.settings == dict(strength=3.0, words=("a", "b"))
    deep = build_learner("maple", CLIP, BASE, n_ctx=3)
    assert deep.settings["depth"] == 3 and build_learner("tcp", CLIP, BASE).settings["layer"] == 2
    for learner in mine, deep:
        save_prompts(learner, path)
        header = _read_prompts(path)[1]
        again = build_learner(header["learner"], CLIP, json.loads(header["classnames"]), **json.loads(header["settings"]))
        assert again.settings == learner.settings, "with the tuple that JSON has not"
        load_prompts(again, path)
        assert torch.equal(again.text_features(), learner.text_features())
    with pytest.raises(ValueError, match="does not know its settings strength, words"):
        save_prompts(Silent(CLIP, BASE), tmp_path / "prompts.safetensors")
    with pytest.raises(ValueError, match="does not know its name"):
        save_prompts(ClassVectors(CLIP, BASE), tmp_path / "prompts.safetensors")


def test_a_setting_that_no_file_can_hold_is_refused():
    class Typed(Bare):
        def __init__(self, clip, classnames, *template, kind=None):
            super().__init__(clip, classnames, *template, kind=kind)

    for kind, words in (torch.float16, "is no text"), ((1, 2), r"would come back as \[1, 2\]"), ({1: 2}, "would come back as"):
        with pytest.raises(ValueError, match=f"'kind' of the learner 'mine' cannot be written.*{words}"):
            made(Typed, kind=kind)
    assert math.isnan(made(Typed, kind=math.nan).settings["kind"])


@pytest.mark.parametrize("name", learner_names())
def test_every_learner_is_built_by_its_name_alone_and_trains(name):
    data = load_dataset("world/shapes", shots=1, seed=1)
    for objective in "own", "npt":
        learner = build_learner(name, load_clip("world"), data.base.classnames)
        history = fit(learner, data.base.train, objective=objective, epochs=1, batch_size=64, progress=False)
        assert len(history) == bool(list(learner.parameters())) and learner.settings.keys() == build_learner(
            name, CLIP, BASE).settings.keys()
        assert torch.isfinite(learner.text_features()).all() and not history.isna().any().any()


@pytest.mark.parametrize("name, setting", [("vpt", "depth"), ("ivlp", "depth"), ("ivlp", "depth_image"), ("promptsrc", "depth"),
                                           ("maple", "depth"), ("tcp", "layer")])
def test_a_depth_that_is_asked_for_must_be_there(name, setting):
    deepest = build_learner(name, CLIP, BASE).settings[setting]
    for value in deepest + 1, 99, 0:
        with pytest.raises(ValueError, match=f"(depth {value}|layer={value}) "):
            build_learner(name, CLIP, BASE, **{setting: value})


class BiasedClasses(ZeroShot):
    "A bias for each class, whose author forgot to say that it does not transfer."

    name = "biased"

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, classnames, *template)
        self.bias = nn.Parameter(torch.arange(len(classnames), dtype=torch.float32))

    def class_logits(self, image_features, text=None):
        text, logits = super().class_logits(image_features, text)
        return text, logits + self.bias


def test_a_bias_of_each_class_is_refused_for_as_many_other_classes():
    biased = BiasedClasses(load_clip("world"), ["red solid circle", "blue dotted star", "green striped heart"])
    with pytest.raises(ValueError, match="does not follow from the class names"):
        biased.for_classes(["pink solid ring", "brown zigzag cross", "orange faded arrow"])


class Simplex(ZeroShot):
    "Class vectors of a simplex ETF, which needs two classes at least."

    name = "simplex"

    def prepare(self, classnames):
        super().prepare(classnames)
        self.register_buffer("etf", simplex_etf(len(self.classnames), self.clip.embed_dim))

    def text_features(self):
        return self.etf


def test_an_etf_of_the_classes_is_bound_to_others():
    simplex = Simplex(load_clip("world"), ["red solid circle", "blue dotted star", "green striped heart"])
    other = simplex.for_classes(["pink solid ring", "brown zigzag cross", "orange faded arrow"])
    assert other.text_features().shape == simplex.text_features().shape
    assert len(simplex.for_classes(["pink solid ring", "brown zigzag cross"]).text_features()) == 2


# ---- terms of a learner's own, one pass that gives all, and the classes that it was made for

class Telling(Bare):
    "Tells how far its class vectors have moved, and its home."

    def text_features(self):
        return F.normalize(self.clip.encode_text(self.classnames) + self.shift, dim=-1)

    def for_terms(self, text, image):
        return {"moved": self.shift.square().sum()}


def test_what_a_learner_gives_its_own_terms_reaches_them_in_training_alone(monkeypatch):
    from npt.objectives.terms import TERMS, term

    monkeypatch.setitem(TERMS, "moved", None)
    del TERMS["moved"]

    @term("moved")
    def moved(step):
        "The squared length of what is learned."
        return step.own("moved")

    learner = made(Telling)
    with torch.no_grad():
        learner.shift += 0.01
    before = float(learner.shift.square().sum().detach())
    history = fit(learner, DATA.base.train, objective="ce + 0.1*moved", **SMALL)
    assert 0 < history.term_moved[0] < 2 * before
    assert not learner.eval()(torch.zeros(1, CLIP.embed_dim)).own
    with pytest.raises(ValueError, match="needs 'moved', which this learner does not give"):
        fit(build_learner("coop", CLIP, BASE), DATA.base.train, objective="ce + moved", **SMALL)
    del TERMS["moved"]


class AtOnce(Bare):
    "All of a batch from one pass, of which the passes are counted."

    passes = 0

    def text_features(self):
        return F.normalize(self.clip.encode_text(self.classnames) + self.shift, dim=-1)

    def image_features(self, pixels):
        type(self).passes += 1
        return self.clip.encode_image(pixels)

    def see(self, given, text=None):
        from npt.learners.base import Seen

        image, text = self.image_features(given), self.text_features() if text is None else text
        return Seen(text, image, self.to_logits(image @ text.T) + 1)


def test_a_learner_that_gives_all_from_one_pass_is_asked_once():
    learner = made(AtOnce)
    assert learner.learns_image
    pixels, _ = next(iter(make_loader(DATA.base.test, CLIP.preprocess_cfg)))
    plain = CLIP.encode_image(pixels)
    assert torch.allclose(learner.logits(pixels), learner.to_logits(plain @ learner.text_features().T) + 1)
    passes = type(learner).passes
    made_of = outputs(learner, DATA.base.test)
    batches = type(learner).passes - passes
    assert len(made_of.logits) == len(DATA.base.test) and batches <= -(-len(DATA.base.test) // 16)
    assert torch.allclose(made_of.logits[: len(pixels)], learner.logits(pixels), atol=1e-4)


def test_a_learner_knows_the_classes_that_it_was_made_for(tmp_path):
    learner = made(Telling)
    novel = learner.for_classes(NOVEL)
    assert novel.home == learner.home == BASE and novel.classnames == NOVEL and novel.for_classes(BASE).home == BASE
    save_prompts(novel, tmp_path / "novel.safetensors")
    save_prompts(learner, tmp_path / "base.safetensors")
    for file in "novel", "base":
        other = build_learner("mine", CLIP, NOVEL)
        load_prompts(other, tmp_path / f"{file}.safetensors")
        assert (other.home, other.classnames) == (BASE, NOVEL)


class Taught(Learner):
    "A learner whose features lie in the space of another CLIP, which it names or does not."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, *template)
        self.other = random_clip(dtype=torch.float32)
        self.prepare(classnames)
        self.project = nn.Sequential(nn.Linear(clip.embed_dim, self.other.embed_dim), nn.BatchNorm1d(self.other.embed_dim))

    def text_features(self):
        return self.other.encode_text(self.classnames)

    def adapt(self, frozen):
        return F.normalize(self.project(frozen), dim=-1)


class InItsSpace(Taught):
    space = property(lambda self: self.other)


def test_features_are_as_wide_as_the_space_that_a_learner_names():
    assert build_learner("coop", CLIP, BASE).space is CLIP
    with pytest.raises(ValueError, match=rf"in place of \(\d+, {CLIP.embed_dim}\)"):
        Taught(CLIP, BASE)(torch.zeros(2, CLIP.embed_dim))
    history = fit(made(InItsSpace), DATA.base.train, objective="ce + 0.1*kg", **SMALL)
    assert history.term_kg[0] < 0.3, "the anchors are of that space too"


def test_class_sets_share_what_a_batch_norm_has_met():
    learner = made(InItsSpace)
    other = learner.for_classes(["gull", "crow"])
    learner.train()(torch.randn(4, CLIP.embed_dim))
    norms = learner.project[1], other.project[1]
    assert norms[0].running_mean.any() and norms[1].running_mean is norms[0].running_mean and norms[1].running_var is norms[0].running_var


# ---- what a learner may give beside class vectors, given wrongly

class Headed(Bare):
    "Has a part that learns faster."

    def __init__(self, clip, classnames, *template):
        super().__init__(clip, classnames, *template)
        self.head = nn.Linear(clip.embed_dim, 2)


WRONG_FACTORS = {
    "no such part": ({"heads": 5.0}, "rate_factors name 'heads', which none of its parameters has: name one of shift, head"),
    "half a name": ({"hea": 5.0}, "rate_factors name 'hea'"),
    "negative": ({"head": -1.0}, "rate_factors have -1.0 for 'head': give a finite number above 0"),
    "zero": ({"head": 0}, r"rate_factors have 0 for 'head'.*requires_grad_\(False\)"),
    "a word": ({"head": "fast"}, "rate_factors have 'fast' for 'head'"),
    "yes": ({"head": True}, "rate_factors have True for 'head'"),
    "not a number": ({"head": math.nan}, "rate_factors have nan for 'head'"),
    "a list": (["head"], r"rate_factors=\['head'\] is no table of part to factor"),
}


@pytest.mark.parametrize("factors, words", WRONG_FACTORS.values(), ids=WRONG_FACTORS)
def test_factors_on_the_rate_are_looked_at_before_training(factors, words):
    with pytest.raises(ValueError, match=f"The learner 'mine' cannot be used: its {words}"):
        made(type("Headed", (Headed,), {"rate_factors": factors}))
    mine = made(Headed)
    mine.rate_factors = factors
    with pytest.raises(ValueError, match=f"The learner 'mine' cannot be used: its {words}"):
        fit(mine, DATA.base.train, objective="ce", **SMALL)
    mine.rate_factors = {"head": 6.5, "head.bias": 2, "shift": 0.5}
    assert mine.shift.abs().max() == 0, "no step was taken"
    with pytest.raises(ValueError, match="gives no gradient to head.weight"):
        fit(mine, DATA.base.train, objective="ce", **SMALL)


WRONG_OWN = {
    "None": (None, "is a NoneType in place of a table of tensors"),
    "a list": ([torch.zeros(2)], "is a list in place of a table"),
    "a tensor": (torch.zeros(2), "is a Tensor in place of a table"),
    "a number": ({"h": 3}, "has 3 as 'h', and should have a tensor under a name: give torch.as_tensor"),
    "no name": ({3: torch.zeros(2)}, "has .* as 3, and should have a tensor under a name"),
}


@pytest.mark.parametrize("own, words", WRONG_OWN.values(), ids=WRONG_OWN)
def test_what_own_terms_need_is_looked_at_at_the_first_step(own, words):
    from npt.learners.base import Seen

    def see(self, given, text=None):
        text, image = self.text_features(), self.image_features(given)
        return Seen(text, image, self.to_logits(image @ text.T), own)

    telling = made(type("Wrong", (Bare,), {"for_terms": lambda self, text, image: own}))
    seeing = type("Wrong", (Bare,), {"see": see, "image_features": lambda self, pixels: self.clip.encode_image(pixels)})(CLIP, BASE)
    seeing.name = "mine"
    for mine, what in (telling, "for_terms"), (seeing, "own of its Seen"):
        with pytest.raises(ValueError, match=f"'mine' gives as {what} {words}"):
            fit(mine, DATA.base.train, objective="ce", **SMALL)
        assert mine.shift.abs().max() == 0, "no step was taken"


NO_SEEN = {"tuple": tuple, "dict": lambda seen: seen._asdict(), "Tensor": lambda seen: seen.logits, "NoneType": lambda seen: None}


@pytest.mark.parametrize("kind", NO_SEEN)
def test_a_see_that_gives_no_seen_is_refused_by_all(kind):
    class Wrong(AtOnce):
        def see(self, given, text=None):
            return NO_SEEN[kind](super().see(given, text))

    mine = Wrong(CLIP, BASE)
    mine.name = "mine"
    for use in (lambda: fit(mine, DATA.base.train, objective="ce", **SMALL), lambda: evaluate(mine, DATA.base.val),
                lambda: predict(mine, [Image.new("RGB", (32, 32))])):
        with pytest.raises(ValueError, match=f"The see of the learner 'mine' gives a {kind} in place of a Seen: return Seen"):
            use()


def test_a_home_that_follows_every_binding_is_refused():
    class Moving(Bare):
        def prepare(self, classnames):
            super().prepare(classnames)
            self.home = list(classnames)

    for use in lambda: made(Moving), lambda: Moving(CLIP, BASE).for_classes(NOVEL):
        with pytest.raises(ValueError, match="sets home=.* in prepare, which was .*: leave home alone there"):
            use()
