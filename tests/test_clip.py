"""Loading a CLIP, and the learners and files that hang on it: what is frozen, what is shared, what is refused."""

import json
import pickle
import sys
import warnings
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file

from npt.clip.load import _build_model, load_clip
from npt.learners.build import build_learner, learner_names
from npt.learners.recipes import RECIPES, _WORLD_RECIPES, recipe
from npt.learners.saving import load_prompts, save_prompts
from npt.prompts import LEARNERS, Learner, learner

NAMES = ["red circle", "blue_star", "large striped green heart"]


@pytest.fixture(scope="module")
def clip():
    return load_clip("world")


# ---- a frozen CLIP

def test_nothing_of_it_learns(clip):
    assert not clip.model.training
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert clip.encode_text(["a star"]).shape == (1, clip.embed_dim)
    assert clip.logit_scale.shape == () and not clip.logit_scale.requires_grad


def test_features_are_the_models_own_and_of_unit_length(clip):
    photo = Image.new("RGB", (50, 40), (200, 30, 30))
    pixels = torch.stack([clip.preprocess(photo)] * 2)
    features = clip.encode_image(pixels)
    assert torch.allclose(features, clip.model.encode_image(pixels, normalize=True), atol=1e-6)
    texts = ["a photo of a red circle.", "a drawing of a blue star above a green heart."]
    expected = clip.model.encode_text(clip.tokenize(texts), normalize=True)
    assert torch.allclose(clip.encode_text(texts), expected, atol=1e-5)
    for found in features, clip.encode_text(texts):
        assert torch.allclose(found.norm(dim=-1), torch.ones(2), atol=1e-5)


def test_a_text_that_does_not_fit_is_named_and_one_that_just_fits_is_not(clip):
    fits = "cat " * (clip.context_length - 2)  # SOT and EOT take the other two
    assert clip.tokenize([fits])[0, -1] == SimpleTokenizer().eot_token_id
    with pytest.raises(ValueError, match="cat dog"):
        clip.tokenize(["a cat", fits + "dog"])


def test_random_weights_are_announced_and_the_same_each_time():
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="chance"):
        one = _build_model("RN50-quickgelu", None).visual.conv1.weight
    torch.manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(one, _build_model("RN50-quickgelu", None).visual.conv1.weight)
    untouched = torch.randn(1, generator=torch.Generator().manual_seed(2))
    assert torch.randn(1) == untouched, "the caller's seed is left alone"


# ---- refusals, before anything is downloaded or built

@pytest.mark.parametrize("backbone, tag, right", [
    ("ViT-B-16", "openai", "ViT-B-16-quickgelu"),
    ("ViT-L-14", "dfn2b", "ViT-L-14-quickgelu"),
    ("RN50", "openai", "RN50-quickgelu"),
])
def test_a_quick_gelu_mismatch_is_an_error_naming_the_right_backbone(monkeypatch, backbone, tag, right):
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("a model was built"))
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_, **__: pytest.fail("weights were downloaded"))
    with pytest.raises(ValueError, match=f"QuickGELU.*Use '{right}'"):
        load_clip(backbone, pretrained=tag)


@pytest.mark.parametrize("settings, error, words", [
    (dict(backbone="ViT-B-17"), ValueError, ["ViT-B-1", "list_models"]),
    (dict(backbone="ViT-B-32", pretrained="openia"), ValueError, ["openai", "laion2b_e16"]),
    (dict(backbone="ViT-B-32", pretrained="no/such.safetensors"), FileNotFoundError, ["no/such.safetensors"]),
    (dict(backbone="world", pretrained="openai"), ValueError, ["own weights"]),
    (dict(backbone="world", device="cuda:64"), ValueError, ["cuda:64", "cpu"]),
    (dict(backbone="world", device="gpu"), ValueError, ["gpu", "cpu"]),
    (dict(backbone="world", memory_budget=0), ValueError, ["memory_budget=0", "gigabytes"]),
    (dict(backbone="world", precision="fp8"), ValueError, ["fp16", "fp32"]),
], ids=str)
def test_what_cannot_be_is_said_at_once(settings, error, words):
    with pytest.raises(error) as caught:
        load_clip(**settings)
    assert all(word in str(caught.value) for word in words)


def test_a_failing_download_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match="weights 'openai' of ViT-B-32-quickgelu.*network.*pretrained"):
        load_clip("ViT-B-32-quickgelu", pretrained="openai")
    with pytest.raises(ConnectionError, match="tokenizer of ViT-B-16-SigLIP could not.*network"):
        load_clip("ViT-B-16-SigLIP")
    with pytest.raises(ConnectionError, match="text tower of roberta-ViT-B-32, 'roberta-base', could not.*network"):
        load_clip("roberta-ViT-B-32")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for backbone in "ViT-B-16-SigLIP", "roberta-ViT-B-32":
        with pytest.raises(ImportError, match=f"{backbone}.*transformers: install it"):
            load_clip(backbone)


# ---- weights from a file

@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    "The smallest CLIP that open_clip has, as a safetensors file with a mark in it."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = _build_model("ViT-S-32", None).state_dict()
    state["logit_scale"] = torch.tensor(3.0)
    path = tmp_path_factory.mktemp("weights") / "vit_s_32.safetensors"
    save_file(state, path)
    return path


def test_weights_from_a_safetensors_file(weights, monkeypatch):
    monkeypatch.setenv("HOME", str(weights.parent))
    loaded = load_clip("ViT-S-32", pretrained=f"~/{weights.name}")
    assert loaded.logit_scale == torch.tensor(3.0).exp() and loaded.prefix_sharing is True


def test_weights_from_a_checkpoint_of_open_clips_training(weights, tmp_path):
    "It holds the optimiser too, and after training on several machines every name begins with 'module.'."
    state = load_file(weights)
    for prefix in "", "module.":
        held = {prefix + name: weight for name, weight in state.items()}
        optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
        torch.save({"epoch": 3, "name": "run", "state_dict": held, "optimizer": optimizer}, tmp_path / "epoch_3.pt")
        loaded = load_clip("ViT-S-32", pretrained=str(tmp_path / "epoch_3.pt")).model.state_dict()
        assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_that_are_no_weights_are_refused(weights, tmp_path):
    trace = tmp_path / "ran"
    torch.save({"logit_scale": Hostile(trace)}, tmp_path / "hostile.pt")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(Hostile(trace)))
    (tmp_path / "short.safetensors").write_bytes(weights.read_bytes()[:10_000])
    (tmp_path / "text.bin").write_text("not weights at all")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    torch.save({}, tmp_path / "empty.pt")
    for name in "hostile.pt", "pickled.pt", "short.safetensors", "text.bin", "other.safetensors", "empty.pt":
        with pytest.raises(ValueError, match=f"{name}.*safetensors"):
            load_clip("ViT-S-32", pretrained=str(tmp_path / name))
    assert not trace.exists(), "a program in a weights file was run"


# ---- learners

def test_coop_at_its_words_is_zero_shot(clip):
    coop, zero_shot = build_learner("coop", clip, NAMES), build_learner("zero_shot", clip, NAMES)
    assert (coop.text_features() - zero_shot.text_features()).abs().max() < 1e-5


def test_a_learner_holds_only_what_it_learns(clip):
    coop = build_learner("coop", clip, NAMES, n_ctx=16, ctx_init=None)
    assert {name: tuple(t.shape) for name, t in coop.state_dict().items()} == {"context": (16, 128)}
    assert [name for name, _ in coop.named_parameters()] == ["context"]
    assert not build_learner("zero_shot", clip, NAMES).state_dict()
    assert not coop.learns_image


def test_the_gradient_reaches_the_context_and_nothing_else(clip):
    coop = build_learner("coop", clip, NAMES)
    logits = coop.logits(torch.randn(4, 3, 32, 32))
    assert logits.shape == (4, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert coop.context.grad.norm() > 0
    assert all(p.grad is None for p in clip.model.parameters())


def test_other_classes_share_the_prompts(clip):
    coop = build_learner("coop", clip, NAMES, n_ctx=8, ctx_init=None)
    other = coop.for_classes(["pink cross"])
    assert other.context is coop.context and other.clip is coop.clip
    with torch.no_grad():
        coop.context.normal_(generator=torch.Generator().manual_seed(5))
    fresh = build_learner("coop", clip, ["pink cross"], n_ctx=8, ctx_init=None)
    fresh.load_state_dict(coop.state_dict())
    assert torch.equal(other.text_features(), fresh.text_features())
    assert coop.classnames == NAMES and other.classnames == ["pink cross"]
    assert coop.text_features().shape == (3, clip.embed_dim)


def test_random_context_comes_from_its_seed(clip):
    def context(seed):
        return build_learner("coop", clip, NAMES, n_ctx=20, ctx_init=None, seed=seed).context

    torch.manual_seed(0)
    first = context(1)
    torch.manual_seed(1)
    assert torch.equal(first, context(1)) and not torch.equal(first, context(2))
    assert 0.018 < first.std() < 0.022


@pytest.mark.parametrize("settings, words", [
    (dict(name="coopp"), ["coop"]),
    (dict(name="coop", nctx=4), ["n_ctx", "seed"]),
    (dict(name="coop", n_ctx=5), ["n_ctx=5", "4 tokens"]),
    (dict(name="coop", n_ctx=0, ctx_init=None), ["at least 1"]),
    (dict(name="coop", classnames=[]), ["empty"]),
    (dict(name="coop", classnames="cat"), ["list"]),
    (dict(name="coop", classnames=["cat", 3]), ["3"]),
    (dict(name="coop", classnames=["cat", "dog " * 40]), ["dog dog", "32 tokens"]),
    (dict(name="coop", classnames=["cat"], n_ctx=31, ctx_init=None), ["'cat'", "31 context vectors"]),
    (dict(name="zero_shot", classnames=["cat", "dog " * 40]), ["dog dog"]),
    (dict(name="zero_shot", template="a photo"), ["{}"]),
    (dict(name="zero_shot", template=[]), ["template"]),
], ids=str)
def test_mistakes_are_named(clip, settings, words):
    with pytest.raises(ValueError) as caught:
        build_learner(**dict(clip=clip, classnames=NAMES) | settings)
    assert all(word in str(caught.value) for word in words)


def test_two_classes_of_one_name_are_a_warning(clip):
    with pytest.warns(UserWarning, match="red circle"):
        build_learner("zero_shot", clip, ["red circle", "star", "red_circle"])


def test_a_learner_of_ones_own_joins_by_name(clip):
    @learner("half_coop")
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


def test_recipes(clip):
    assert set(RECIPES) == set(learner_names()) and set(_WORLD_RECIPES) == set(RECIPES) - {"zero_shot"}
    published = recipe("coop", "ViT-B-16-quickgelu")
    assert (published.batch_size, published.lr, published.epochs, published.objective) == (32, 0.002, 200, "ce")
    assert recipe("coop", "world").settings == dict(n_ctx=16, ctx_init=None)
    with pytest.raises(ValueError, match="coop"):
        recipe("cop", "world")


# ---- prompts in a file

def trained(clip, **settings):
    coop = build_learner("coop", clip, NAMES, **settings)
    with torch.no_grad():
        coop.context += torch.randn_like(coop.context)
    return coop


def test_prompts_come_back_as_they_were(clip, tmp_path):
    one, other = trained(clip), build_learner("coop", clip, ["pink cross"])
    save_prompts(one, tmp_path / "prompts.safetensors")
    header = load_prompts(other, tmp_path / "prompts.safetensors")
    assert torch.equal(one.context, other.context) and other.classnames == ["pink cross"]
    assert (header["learner"], header["backbone"]) == ("coop", "world")
    assert json.loads(header["classnames"]) == NAMES and json.loads(header["settings"])["n_ctx"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.safetensors"]


def test_prompts_that_do_not_belong_are_refused_and_change_nothing(clip, tmp_path):
    good = tmp_path / "good.safetensors"
    save_prompts(trained(clip), good)
    (tmp_path / "short.safetensors").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "head.safetensors").write_bytes(good.read_bytes()[:5])
    save_file({"context": torch.zeros(4, 128)}, tmp_path / "foreign.safetensors")
    save_prompts(trained(clip, n_ctx=8, ctx_init=None), tmp_path / "eight.safetensors")
    save_prompts(build_learner("zero_shot", clip, NAMES), tmp_path / "zero_shot.safetensors")
    mine = trained(clip)
    before = mine.context.clone()
    for name in "short", "head", "foreign", "eight", "zero_shot":
        with pytest.raises(ValueError, match=f"{name}.safetensors"):
            load_prompts(mine, tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        load_prompts(mine, tmp_path / "none.safetensors")
    assert torch.equal(mine.context, before)


def test_prompts_of_another_backbone_are_refused(clip, tmp_path, monkeypatch):
    save_prompts(trained(clip), tmp_path / "prompts.safetensors")
    monkeypatch.setattr(clip, "name", "ViT-B-16-quickgelu")
    with pytest.raises(ValueError, match="backbone 'world'"):
        load_prompts(build_learner("coop", clip, NAMES), tmp_path / "prompts.safetensors")
