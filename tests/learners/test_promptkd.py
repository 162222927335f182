"""PromptKD: the published student and its loss, in training and after, in a teacher's space of another width, and what it refuses."""

import open_clip
import pytest
import torch
from every_learner import EveryLearner
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from random_clip import NAMES, TOKENIZER, images
from shared import assert_same_fit, killed_after
from written_out import literal_image, literal_promptkd_image, literal_text, trained, written_classes

import npt.learners.teacher
from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.learners.saving import load_prompts, save_prompts
from npt.objectives.objective import build_objective
from npt.objectives.terms import StepFeatures
from npt.training.batches import _epoch_draws, _image_batches
from npt.training.evaluation import evaluate
from npt.training.fit import fit

LABELS = torch.tensor([2, 0, 1])


class TestPromptKD(EveryLearner):
    cases = {
        "taught by its own CLIP": ("promptkd", dict(teacher="random")),
        "shallow": ("promptkd", dict(teacher="random", n_ctx_image=2, depth=1)),
    }


@pytest.fixture(scope="module")
def wide() -> FrozenCLIP:
    "A larger CLIP, whose features have 72 numbers and whose towers have six and three blocks."
    torch.manual_seed(1)
    model = CLIP(embed_dim=72, vision_cfg=CLIPVisionCfg(image_size=32, layers=6, width=48, head_width=16, patch_size=8),
                 text_cfg=CLIPTextCfg(width=80, heads=4, layers=3), quick_gelu=True)
    open_clip.model.set_model_preprocess_cfg(model, dict(size=32, mean=(0.5,) * 3, std=(0.5,) * 3))
    return FrozenCLIP(model, TOKENIZER, "wide", "cpu", torch.float64)


@pytest.fixture(scope="module")
def teacher(wide, tmp_path_factory):
    "PromptSRC's prompts on it, and where they are."
    learner = trained(wide, "ivlp", dict(depth=3, depth_image=4), steps=0.05)
    path = tmp_path_factory.mktemp("teacher") / "prompts.safetensors"
    save_prompts(learner, path)
    return learner, dict(teacher="wide", teacher_pretrained="its own", teacher_prompts=str(path))


@pytest.fixture
def student(small, wide, teacher, monkeypatch):
    monkeypatch.setattr(npt.learners.teacher, "load_clip", lambda *args, **more: wide)
    learner = trained(small, "promptkd", dict(teacher[1], depth=3))
    with torch.no_grad():  # as if it had met pictures
        learner.projection[1].running_mean += 0.3 * torch.randn(72, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        learner.projection[1].running_var *= torch.linspace(0.5, 2, 72, dtype=torch.float64)
    return learner


def written_teacher(clip, learner, names, pixels):
    "The teacher's class vectors and logits, token by token and block by block."
    deep = dict(enumerate(learner.deep_text, start=1))
    text = torch.stack([literal_text(clip, ("a photo of a", name.replace("_", " ")), learner.context, deep) for name in names])
    return text.detach(), (clip.logit_scale * literal_image(clip, pixels, list(learner.image_prompts)) @ text.T).detach()


@pytest.mark.parametrize("training", [True, False], ids=["as trained", "as tested"])
def test_logits_loss_and_gradients_are_those_of_the_method_written_out(small, wide, teacher, student, training):
    student.train(training)
    text, taught = written_teacher(wide, teacher[0], NAMES, images())
    written = small.logit_scale * literal_promptkd_image(student, images()) @ text.T
    seen = student(images())
    assert (seen.logits - written).abs().max() < 1e-6 and torch.allclose(seen.text, text, atol=1e-9) and seen.image.shape == (3, 72)
    assert set(seen.own) == ({"teacher_logits"} if training else set())
    mine, _ = build_objective("promptkd")(StepFeatures(seen.text, seen.image, LABELS, seen.logits, parts={"teacher_logits": student.taught_by.logits(images())}))
    loss = sum(p * (p.log() - q) for p, q in zip(taught.softmax(1).flatten(), written.log_softmax(1).flatten(), strict=True)) * 1000 / 9
    assert (mine - loss).abs() < 1e-6
    parameters = dict(student.named_parameters())
    mine, written = (torch.autograd.grad(one, list(parameters.values()), retain_graph=True) for one in (mine, loss))
    for name, one, other in zip(parameters, mine, written, strict=True):
        assert other.norm() > 1e-6 or training and name == "projection.0.bias", f"{name} must matter"
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-6), name


def test_what_its_batch_norm_has_met_is_a_tenth_of_each_batch(small, student):
    hidden = literal_image(small, images(), list(student.image_prompts), unit=False) @ student.projection[0].weight.T + student.projection[0].bias
    norm = student.projection[1]
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    student.train()(images())
    assert torch.allclose(norm.running_mean, 0.9 * mean + 0.1 * hidden.mean(0), atol=1e-9)
    assert torch.allclose(norm.running_var, 0.9 * variance + 0.1 * hidden.var(0), atol=1e-9)


def test_it_comes_back_with_its_teacher_and_what_its_batch_norm_has_met(small, teacher, student, tmp_path):
    save_prompts(student, tmp_path / "prompts.safetensors")
    fresh = build_learner("promptkd", small, ["dog", "owl"], **student.settings)
    load_prompts(fresh, tmp_path / "prompts.safetensors")
    assert torch.equal(fresh.for_classes(NAMES).eval().logits(images()), student.logits(images()))
    with pytest.raises(ValueError, match="teacher_sha256 asks for"):
        build_learner("promptkd", small, NAMES, **student.settings | dict(teacher_prompts=None))


def test_class_sets_share_what_the_batch_norm_meets_later(wide, teacher, student, small):
    novel = student.for_classes(["dog", "red fox", "owl", "gnu"])
    student.train()(images())
    student.eval()
    text, _ = written_teacher(wide, teacher[0], novel.classnames, images())
    expected = small.logit_scale * literal_promptkd_image(student, images()) @ text.T
    assert torch.allclose(novel.eval().logits(images()), expected, atol=1e-6)
    assert torch.allclose(novel.for_classes(NAMES).logits(images()), student.logits(images()), atol=1e-12)


def test_a_batch_of_one_image_is_refused_in_training_and_served_in_tests(student):
    assert student.logits(images()[:1]).shape == (1, 3)
    with pytest.raises(ValueError, match="batch of one image: choose a batch_size of at least 2"):
        student.train()(images()[:1])
    clip, data = load_clip("world"), load_dataset("world/shapes", shots=1, seed=1)
    learner, count = build_learner("promptkd", clip, data.base.classnames), len(data.base.train)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    with pytest.raises(ValueError, match="leave one image alone, and the batch norm of 'promptkd'"):
        fit(learner, data.base.train, objective="own", epochs=1, batch_size=count - 1, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items()), "statistics included"


@pytest.fixture(scope="module")
def world():
    return load_clip("world"), load_dataset("world/shapes", shots=2, seed=1)


def test_its_loss_reads_no_labels(world):
    clip, data = world
    learners = []
    for train in data.base.train, data.base.train.of_labels(range(len(data.base.classnames))):
        if learners:  # every image under another class
            train.labels[:] = train.labels.flip(0)
        learners.append(build_learner("promptkd", clip, data.base.classnames))
        fit(learners[-1], train, objective="own", epochs=2, measure_every=0, progress=False)
    assert all(torch.equal(*pair) for pair in zip(learners[0].state_dict().values(), learners[1].state_dict().values(), strict=True))


@pytest.fixture(scope="module")
def taller(world):
    "A teacher of another width for the offline world's CLIP, in float32."
    clip, _ = world
    torch.manual_seed(2)
    size = clip.preprocess_cfg.input_size[-1]
    model = CLIP(embed_dim=72, vision_cfg=CLIPVisionCfg(image_size=size, layers=2, width=32, head_width=16, patch_size=8),
                 text_cfg=CLIPTextCfg(width=64, heads=4, layers=2), quick_gelu=True)
    prepared = {name: getattr(clip.preprocess_cfg, name) for name in ("size", "mean", "std", "interpolation", "resize_mode")}
    open_clip.model.set_model_preprocess_cfg(model, prepared)
    return FrozenCLIP(model, TOKENIZER, "taller")


@pytest.mark.parametrize("objective", ["own", "npt", "npt_anchored", "cpt", "200*kd + 0.1*kg + 0.1*kg_image + 0.1*scl_logits"])
def test_objectives_run_in_a_space_of_another_width_and_text_terms_stand_still(world, taller, monkeypatch, objective):
    clip, data = world
    monkeypatch.setattr(npt.learners.teacher, "load_clip", lambda *args, **more: taller)
    monkeypatch.setattr("npt.training.anchors._CONSISTENCY_TEMPLATES", ["a {}.", "one {}."])
    learner = build_learner("promptkd", clip, data.base.classnames, teacher="taller", teacher_pretrained="its own")
    history = fit(learner, data.base.train, objective=objective, epochs=3, lr=1e-4, progress=False)
    assert not history.isna().any().any() and history.term_kd[2] < history.term_kd[0]
    for still in {"term_lc", "term_tetf", "term_rs", "term_kg"} & set(history):
        assert history[still][0] == pytest.approx(history[still][1], rel=1e-5), still
    few = data.novel.test.take(range(0, len(data.novel.test), 20))
    assert few.labels.unique().tolist() == list(range(len(data.novel.classnames)))
    measured = evaluate(learner.for_classes(data.novel.classnames), few, collapse=True)
    assert 0 <= measured["accuracy"] <= 100


def test_a_frozen_image_feature_is_the_teachers(world, taller, monkeypatch):
    clip, data = world
    monkeypatch.setattr(npt.learners.teacher, "load_clip", lambda *args, **more: taller)
    learner = build_learner("promptkd", clip, data.base.classnames, teacher="taller", teacher_pretrained="its own")
    batch = next(iter(_image_batches(learner, data.base.train, _epoch_draws(data.base.train.labels, "plain", 4, 1, 0, 1))))
    assert torch.allclose(batch.encode_image(), taller.encode_image(batch.given), atol=1e-5)


def test_an_interrupted_fit_goes_on_with_what_the_batch_norm_had_met(world, tmp_path):
    clip, data = world

    def fitted(**more):
        learner = build_learner("promptkd", clip, data.base.classnames, seed=1)
        return learner, fit(learner, data.base.train, objective="npt", epochs=2, lr=0.01, measure_every=0, **more)

    with killed_after(1):
        fitted(run_dir=tmp_path)
    whole, resumed = fitted(), fitted(run_dir=tmp_path)
    assert_same_fit(whole, resumed)
    assert torch.equal(whole[0].projection[1].running_mean, resumed[0].projection[1].running_mean)


@pytest.mark.parametrize("settings, said", [(dict(depth=5), "depth 5 do not fit in the image tower"), (dict(n_ctx_image=0), "at least 1 context vector"),
                                            (dict(teacher=3), "teacher=3"), (dict(teacher_sha256="0" * 64), "asks for 0000")], ids=str)
def test_mistakes_are_named(small, settings, said):
    with pytest.raises(ValueError, match=said):
        build_learner("promptkd", small, NAMES, **dict(teacher="random") | settings)


def test_class_vectors_are_the_zero_shot_ones_without_prompts(small):
    learner = build_learner("promptkd", small, NAMES, teacher="random")
    assert torch.allclose(learner.text_features(), written_classes(learner), atol=1e-9)
