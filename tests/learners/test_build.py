"""Building a learner by name: mistakes are named, one of your own joins by its name, and on any CLIP it works or says why not."""

import pytest
import torch
from backbones import (
    NO_IMAGE_PROMPTS,
    SMALL_IMAGE,
    assert_a_sentence,
    images,
    on_backbone,
    reduced,
    train_a_step,
    why_not,
)
from torch import Tensor, nn

from npt.clip.load import load_clip
from npt.learners.base import LEARNERS, Learner, register_learner
from npt.learners.build import build_learner
from npt.learners.zero_shot import ZeroShot

IMAGE_PROMPTS = {"vpt", "ivlp", "maple", "coprompt", "promptkd"}  # the learners that need a place for them
NAMES = ["red circle", "blue_star", "large striped green heart"]


@pytest.fixture(scope="module")
def clip():
    return load_clip()


@pytest.mark.parametrize("settings, words", [
    (dict(name="coopp"), ["coop"]),
    (dict(name="coop", nctx=4), ["n_ctx", "seed"]),
    (dict(name="coop", classnames=[]), ["empty"]),
    (dict(name="coop", classnames="cat"), ["list"]),
    (dict(name="coop", classnames=["cat", 3]), ["3"]),
], ids=str)
def test_mistakes_are_named(clip, settings, words):
    with pytest.raises(ValueError) as caught:
        build_learner(**dict(clip=clip, classnames=NAMES) | settings)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("name, settings, said", [
    ("coop", dict(n_ctx=1.5), "n_ctx=1.5 of the learner 'coop' cannot be used: Input should be a valid integer"),
    ("coop", dict(n_ctx=True), "valid integer"), ("coop", dict(n_ctx="4"), "valid integer"), ("coop", dict(n_ctx=0, ctx_init=None), "n_ctx=0"),
    ("coop", dict(n_ctx=10**9, ctx_init=None), "less than or equal to 4096"), ("coop", dict(ctx_init=4), "valid string"),
    ("coop", dict(class_specific="no"), "class_specific='no'"), ("coop", dict(class_specific=1), "valid boolean"),
    ("coop", dict(seed=2**63), "seed=9223372036854775808"), ("coop", dict(seed=-1), "seed=-1"), ("cocoop", dict(seed=1.0), "seed=1.0"),
    ("maple", dict(depth="3"), "depth='3'"), ("maple", dict(depth=0), "depth"), ("ivlp", dict(n_ctx_image=-1), "-1"),
    ("vpt", dict(n_ctx_image=10**9), "4096"), ("tcp", dict(layer=2.0), "layer=2.0"),
    ("tip_adapter", dict(alpha=-5), "alpha=-5"), ("tip_adapter_f", dict(beta=float("inf")), "beta=inf"),
    ("tip_adapter", dict(beta=-0.1), "beta=-0.1"), ("tip_adapter", dict(beta=float("nan")), "beta=nan"), ("lora", dict(alpha=-5), "alpha=-5"),
    ("lora", dict(rank=0), "rank=0"), ("lora", dict(rank=10**6), "rank=1000000"), ("clip_adapter", dict(ratio=True), "ratio=True"),
    ("clip_adapter", dict(ratio=float("nan")), "ratio=nan"), ("clip_adapter", dict(reduction=2.0), "reduction=2.0"),
], ids=str)
def test_a_setting_is_of_its_kind_and_within_its_bounds(clip, name, settings, said):
    with pytest.raises(ValueError) as caught:
        build_learner(name, clip, NAMES, **settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_whole_numbers_are_numbers_and_settings_of_ones_own_are_held_to_their_words(clip):
    assert build_learner("clip_adapter", clip, NAMES, ratio=1).settings["ratio"] == 1

    @register_learner("typed")
    class Typed(ZeroShot):
        def __init__(self, clip, classnames, template="a {}.", *, anything=1, kind: "Unheard" = None, sizes: tuple[int, ...] = (1, 2)):  # noqa: F821
            super().__init__(clip, classnames, template, anything=anything, kind=kind, sizes=sizes)

    try:
        assert build_learner("typed", clip, NAMES, anything="what", kind=3, sizes=[3]).settings["sizes"] == (3,)
        Typed.__init__.__annotations__["kind"] = int
        with pytest.raises(ValueError, match="sizes=.'3',. of the learner 'typed'"):
            build_learner("typed", clip, NAMES, sizes=["3"])
    finally:
        del LEARNERS["typed"]


def test_two_classes_of_one_name_are_a_warning(clip):
    with pytest.warns(UserWarning, match="red circle"):
        build_learner("zero_shot", clip, ["red circle", "star", "red_circle"])


def test_a_learner_of_ones_own_joins_by_name(clip):
    @register_learner("half_coop")
    class HalfCoOp(LEARNERS["coop"]):
        def text_features(self):
            return super().text_features() / 2

    try:
        mine = build_learner("half_coop", clip, NAMES, n_ctx=2, ctx_init=None)
        assert isinstance(mine, Learner) and mine.name == "half_coop"
        assert torch.allclose(mine.text_features().norm(dim=-1), torch.full((3,), 0.5))
        assert LEARNERS["coop"].name == "coop"
    finally:
        del LEARNERS["half_coop"]


@pytest.fixture(scope="module", params=SMALL_IMAGE)
def reduced_clip(request):
    return reduced(request.param)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_works_or_says_in_a_sentence_why_not(reduced_clip, name):
    try:
        made = on_backbone(name, reduced_clip)
    except ValueError as error:
        assert_a_sentence(str(error))
        assert why_not(name, reduced_clip) == str(error)
        pooled = {"ViT-B-16-SigLIP", *(["coca_ViT-B-32"] if name == "mmrl" else [])}  # towers that read no class token alone
        assert name in {*IMAGE_PROMPTS, "lora", "mma", "mmrl"} and reduced_clip.name in {*NO_IMAGE_PROMPTS, *pooled}
        assert (name, reduced_clip.name) != ("mma", "EVA02-B-16"), "which has blocks, and adapters need no more"
        if name in IMAGE_PROMPTS:
            assert NO_IMAGE_PROMPTS[reduced_clip.name] in str(error)
        return
    assert name not in IMAGE_PROMPTS or reduced_clip.name not in NO_IMAGE_PROMPTS
    logits = train_a_step(made)
    assert logits.shape == (3, 3) and logits.isfinite().all()
    for key, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    assert all(p.grad is None for p in reduced_clip.model.parameters()), "CLIP stays as it is"
    for features in made.text_features(), made.image_features(images(reduced_clip)):
        assert torch.allclose(features.norm(dim=-1), torch.ones(3), atol=1e-5)
    try:
        novel = made.for_classes(["annual_crop_land", "dog"])
    except ValueError as error:
        assert_a_sentence(str(error))
        return
    assert all(one is other for one, other in zip(made.parameters(), novel.parameters(), strict=True))
    assert novel.logits(images(reduced_clip)).shape == (3, 2) and made.logits(images(reduced_clip)).shape == (3, 3)


def test_a_learner_that_does_not_learn_is_found_out():
    class Broken(ZeroShot):
        def __init__(self, clip, classnames, template="a photo of a {}."):
            super().__init__(clip, classnames, template)
            self.used, self.unused = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

        def text_features(self) -> Tensor:
            return self.features * self.used * factor

    register_learner("broken")(Broken)
    try:
        clip = reduced("ViT-B-32-quickgelu")
        for factor, words in (1.0, r"\['unused'\]"), (float("nan"), "used"):
            with pytest.raises(ArithmeticError, match=f"broken on ViT-B-32-quickgelu.*{words}"):
                why_not("broken", clip)
    finally:
        del LEARNERS["broken"]
