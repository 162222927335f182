"""A teacher: which CLIP it is, that it sees the same pixels, that it is found again by its hash, and what cannot teach."""

import copy
import gc
import hashlib

import pytest
import torch
from random_clip import NAMES, images, random_clip

import npt.learners.teacher
from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip
from npt.learners.base import _frozen_clips, _learners_inside
from npt.learners.build import build_learner
from npt.learners.saving import save_prompts
from npt.learners.teacher import _LOADED, _load_teacher, _teacher_clip

TEMPLATE = "a picture of a {}."


def saved(clip, path, name="ivlp", **settings) -> str:
    "The prompts of a learner that is not as it starts."
    learner = build_learner(name, clip, NAMES, **settings)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5), dtype=parameter.dtype)
    save_prompts(learner, path)
    return str(path)


def test_a_teacher_is_the_zero_shot_clip_in_the_students_template_where_no_prompts_are_given(small):
    teacher, _ = _load_teacher(small, NAMES, TEMPLATE, "random", None, None, None)
    assert teacher.space is small
    expected = small.encode_text([TEMPLATE.replace("{}", name.replace("_", " ")) for name in NAMES])
    assert torch.allclose(teacher.text_features(), expected, atol=1e-12)
    assert torch.allclose(teacher.logits(images()), small.logit_scale * small.encode_image(images()) @ expected.T, atol=1e-9)


@pytest.mark.parametrize("name, settings", [("ivlp", dict(depth=2)), ("maple", dict(depth=2)), ("mmrl", dict(width=16)), ("coop", {})])
def test_finished_prompts_of_any_learner_teach_other_classes_too(small, tmp_path, name, settings):
    teacher, _ = _load_teacher(small, ["dog", "owl"], TEMPLATE, "random", None, saved(small, tmp_path / "prompts.safetensors", name, **settings), None)
    here = build_learner(name, small, NAMES, TEMPLATE, **settings)
    here.load_state_dict(teacher.learner.state_dict())
    at_home, here = teacher.bound_to(NAMES, TEMPLATE), here.eval()
    assert torch.equal(at_home.logits(images()), here.logits(images())) and at_home.learner.home == NAMES
    assert not any(p.requires_grad for p in at_home.learner.parameters()) and not at_home.logits(images()).requires_grad
    assert all(one is other for one, other in zip(teacher.learner.parameters(), at_home.learner.parameters(), strict=True))


def test_another_template_is_the_teachers_too(small):
    teacher, _ = _load_teacher(small, NAMES, TEMPLATE, "random", None, None, None)
    before, other = teacher.text_features(), teacher.bound_to(NAMES, "art of a {}.")
    assert torch.allclose(other.text_features(), build_learner("zero_shot", small, NAMES, "art of a {}.").text_features(), atol=1e-12)
    assert torch.equal(teacher.text_features(), before) and teacher.bound_to(NAMES, TEMPLATE) is teacher is copy.deepcopy(teacher)


def test_a_teacher_is_no_part_of_its_student(small, tmp_path):
    student = build_learner("promptkd", small, NAMES, teacher="random", teacher_prompts=saved(small, tmp_path / "prompts.safetensors"))
    assert not _learners_inside(student) and _frozen_clips(student) == [small]
    assert not [key for key in student.state_dict() if "deep_text" in key or "context" in key]
    assert student.for_classes(["dog"]).taught_by.space is small


def test_students_share_a_clip_that_goes_with_the_last_of_them(monkeypatch, small):
    loads = []
    monkeypatch.setattr(npt.learners.teacher, "load_clip", lambda *args, **more: (loads.append((args, more)), random_clip())[1])
    first, second = (_teacher_clip(small, "ViT-L-14", "openai") for _ in range(2))
    assert first is second and loads == [(("ViT-L-14", "openai"), dict(device=small.device, precision="fp32"))]
    assert _teacher_clip(small, "ViT-L-14", "laion2b_s32b_b82k") is not first and len(loads) == 2
    del first, second
    gc.collect()
    assert not [key for key in _LOADED if key[0] == "ViT-L-14"]


def test_a_hash_is_of_weights_and_prompts(small, tmp_path):
    path = tmp_path / "prompts.safetensors"
    prompts = saved(small, path)
    made = {given: _load_teacher(small, NAMES, TEMPLATE, "random", None, given, None)[1] for given in (None, prompts)}
    assert made[None] == hashlib.sha256(small.fingerprint.encode()).hexdigest()
    assert made[prompts] == hashlib.sha256(small.fingerprint.encode() + hashlib.sha256(path.read_bytes()).digest()).hexdigest()
    for given, one in made.items():
        assert _load_teacher(small, NAMES, TEMPLATE, "random", None, given, one)[1] == one
        other = next(hash for hash in made.values() if hash != one)
        with pytest.raises(ValueError, match=f"has the hash {one}, and teacher_sha256 asks for {other}"):
            _load_teacher(small, NAMES, TEMPLATE, "random", None, given, other)
    altered = random_clip(width=32)
    assert _load_teacher(altered, NAMES, TEMPLATE, "random", None, None, None)[1] != made[None]


def test_a_teacher_must_be_named_and_have_weights(small):
    with pytest.raises(ValueError, match="A student on random needs a teacher: give teacher='ViT-L-14-quickgelu'.*or teacher='random' for its own"):
        build_learner("promptkd", small, NAMES)
    with pytest.raises(ValueError, match="'ViT-L-14' would have random weights: give teacher_pretrained"):
        build_learner("promptkd", small, NAMES, teacher="ViT-L-14")
    with pytest.raises(ValueError, match="ViT-L-13"):
        build_learner("promptkd", small, NAMES, teacher="ViT-L-13", teacher_pretrained="openai")
    world = build_learner("promptkd", load_clip("world"), ["red circle", "blue star"])
    assert world.settings["teacher"] == "world" and world.space is world.clip


def with_pixels(**changes) -> FrozenCLIP:
    clip = random_clip()
    for name, value in changes.items():
        setattr(clip.preprocess_cfg, name, value)
    return clip


@pytest.mark.parametrize("what, value, said", [
    ("size", 64, "input_size"), ("mean", (0.5, 0.5, 0.4), "mean"), ("std", (0.5, 0.3, 0.5), "std"), ("interpolation", "bilinear", "interpolation"),
    ("resize_mode", "squash", "resize_mode")])
def test_a_teacher_of_other_pixels_is_refused(monkeypatch, small, what, value, said):
    monkeypatch.setattr(npt.learners.teacher, "load_clip", lambda *args, **more: with_pixels(**{what: value}))
    with pytest.raises(ValueError, match=f"The teacher random wants pictures of {said} .*{value if what != 'size' else 64}.*and the student random of"):
        _load_teacher(small, NAMES, TEMPLATE, "larger", what, None, None)
    monkeypatch.setattr(npt.learners.teacher, "load_clip", lambda *args, **more: with_pixels(mean=[0.5] * 3))
    assert _load_teacher(small, NAMES, TEMPLATE, "larger", f"{what}, alike", None, None)[0].space is not small


def test_prompts_that_cannot_teach_are_refused(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="no teacher's prompts nowhere.safetensors"):
        _load_teacher(small, NAMES, TEMPLATE, "random", None, "nowhere.safetensors", None)
    with pytest.raises(ValueError, match="'cocoop' of .*cannot teach: its class vectors differ from picture to picture"):
        _load_teacher(small, NAMES, TEMPLATE, "random", None, saved(small, tmp_path / "a.safetensors", "cocoop"), None)
    other = tmp_path / "b.safetensors"
    other.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="b.safetensors"):
        _load_teacher(small, NAMES, TEMPLATE, "random", None, str(other), None)


def test_a_teacher_of_its_own_classes_alone_teaches_those(small, tmp_path):
    prompts = saved(small, tmp_path / "prompts.safetensors", "coop", class_specific=True)
    student = build_learner("promptkd", small, NAMES, teacher="random", teacher_prompts=prompts)
    assert not student.transfers
    with pytest.raises(ValueError, match="belongs to the classes that it was learned for"):
        student.for_classes(["dog"])
