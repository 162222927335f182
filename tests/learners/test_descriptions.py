"Sentences of classes: what a file may hold, which are a class's, and their features, against one sentence at a time."

import copy
import json

import numpy as np
import pytest
import torch
from random_clip import NAMES
from shared import LOADED

from npt.learners.base import _learners_inside
from npt.learners.build import build_learner, learner_names
from npt.learners.descriptions import (
    _AT_ONCE,
    _MOST_SENTENCES,
    _Described,
    _descriptions_hash,
    _read_descriptions,
    _sentence_features,
)
from npt.learners.recipes import recipe
from npt.learners.zero_shot import _listed, _prompts_of

TEXTS = {"cat": ["A cat has whiskers.", "It purrs."], "Irish Wolfhound": ["A large dog.", "A tall, grey dog.", "It runs."], "dog": ["It barks."]}


def written(tmp_path, table) -> str:
    path = tmp_path / "texts.json"
    path.write_text(table if isinstance(table, str) else json.dumps(table))
    return str(path)


def one_by_one(clip, sentences, unit=True) -> np.ndarray:
    "The mean feature of some sentences at unit length, each encoded by itself, in float64."
    each = [clip.encode_text([sentence], unit=unit)[0].double().numpy() for sentence in sentences]
    mean = sum(each) / len(each)
    return mean / np.linalg.norm(mean)


def test_class_vectors_are_the_means_of_a_classs_own_sentences():
    names = ["dog", "irish_wolfhound", "Cat"]
    learner = build_learner("zero_shot", LOADED, names, TEXTS)
    wanted = [one_by_one(LOADED, TEXTS[key]) for key in ("dog", "Irish Wolfhound", "cat")]
    assert np.abs(learner.text_features().double().numpy() - wanted).max() < 1e-6
    assert torch.allclose(learner.for_classes(["cat"]).text_features()[0], learner.text_features()[2], atol=1e-6)


def test_filled_in_templates_as_sentences_are_those_templates():
    templates = ["a photo of a {}.", "a drawing of a {}."]
    texts = {name: [one.format(name.replace("_", " ")) for one in templates] for name in NAMES}
    said, filled = (build_learner("zero_shot", LOADED, NAMES, one) for one in (texts, templates))
    assert torch.allclose(said.text_features(), filled.text_features(), atol=1e-6)
    assert _prompts_of(_Described(texts), NAMES) == _prompts_of(templates, NAMES)


def test_more_sentences_than_fit_at_once_are_encoded_all():
    sentences = [tuple(f"number {number}" for number in range(start, start + 300)) for start in (0, 300)]
    assert 300 < _AT_ONCE < 600
    features = _sentence_features(LOADED, sentences)
    assert len(features) == 600 and torch.allclose(features[[0, 599]], LOADED.encode_text(["number 0", "number 599"]), atol=1e-5)


@pytest.mark.parametrize("name", ["cat", "CAT", " cat ", "Irish_Wolfhound", "irish  wolfhound"])
def test_underscores_capitals_and_spaces_do_not_matter(name):
    assert _Described(TEXTS).of([name]) == [tuple(TEXTS["cat" if "cat" in name.lower() else "Irish Wolfhound"])]


def test_a_name_as_it_stands_goes_first_and_two_that_differ_are_refused():
    described = _Described({"crane": ["A bird."], "Crane": ["A machine."], "CRANE ": ["A bird."]})
    assert described.of(["crane", "Crane"]) == [("A bird.",), ("A machine.",)]
    with pytest.raises(ValueError, match="'cRane' may be 'crane' or 'Crane' or 'CRANE '"):
        described.of(["cRane"])
    assert _Described({"crane": ["A bird."], "CRANE": ["A bird."]}).of(["Crane"]) == [("A bird.",)]


@pytest.mark.parametrize("name", ["zero_shot", "vpt", "clip_adapter", "tip_adapter", "tcp"])
def test_a_class_of_which_nothing_is_said_is_named_with_the_nearest(name):
    with pytest.raises(ValueError, match="No description of the class 'cats'.*nearest name is 'cat'"):
        build_learner(name, LOADED, ["dog", "cats"], TEXTS)
    learner = build_learner(name, LOADED, ["dog", "cat"], TEXTS)
    if learner.transfers:
        with pytest.raises(ValueError, match="No description of the class 'gull'"):
            learner.for_classes(["gull"])


def test_prompts_that_hold_the_name_themselves_need_no_sentence():
    for name in "coop", "cocoop", "ivlp", "maple":
        told, plain = (build_learner(name, LOADED, ["gull", "crow"], template) for template in (TEXTS, None))
        assert torch.equal(told.text_features(), plain.text_features())


def test_tcp_makes_its_vectors_from_the_sentences_and_writes_the_words_of_the_template():
    texts, after = {name: TEXTS[name] for name in ("cat", "dog")}, "a photo of a {}, a type of pet."
    told = build_learner("tcp", LOADED, ["cat", "dog"], _Described(texts, after))
    plain = build_learner("tcp", LOADED, ["cat", "dog"], after)
    assert torch.equal(told.prompts.tokens, plain.prompts.tokens) and not torch.allclose(told.frozen, plain.frozen)
    assert np.abs(told.frozen.double().numpy() - [one_by_one(LOADED, texts[name]) for name in texts]).max() < 1e-6


@pytest.mark.parametrize("name", learner_names())
def test_every_learner_takes_sentences_or_says_why_not(name):
    texts = {name: TEXTS[name] for name in ("cat", "dog")}
    if name == "lora":
        with pytest.raises(ValueError, match="leave descriptions out"):
            build_learner(name, LOADED, ["cat", "dog"], texts)
        return
    told = build_learner(name, LOADED, ["cat", "dog"], texts, **recipe(name, "world").settings)
    told.remember(LOADED.encode_text(["one", "two"]), torch.tensor([0, 1]))
    assert told.eval().logits(torch.zeros(1, 3, 32, 32)).isfinite().all()
    anchors = [one.template for one in (told, *_learners_inside(told))]
    assert all(one.texts == _Described(texts).texts for one in anchors), "what a fit holds to is made from them"


def test_a_probe_starts_from_the_sentences():
    names = ["cat", "irish_wolfhound"]
    started = build_learner("linear_probe", LOADED, names, TEXTS).text_features().detach().double().numpy()
    assert np.abs(started - [one_by_one(LOADED, TEXTS[key], unit=False) for key in ("cat", "Irish Wolfhound")]).max() < 1e-6


def test_sentences_are_no_templates():
    with pytest.raises(ValueError, match="no place for a class name"):
        _listed(_Described(TEXTS))


def test_lora_reads_sentences_only_where_the_text_tower_stays():
    for towers in "both", "text":
        with pytest.raises(ValueError, match="'lora' cannot read descriptions anew in each step.*towers='image'"):
            build_learner("lora", LOADED, ["cat", "dog"], TEXTS, towers=towers)
    learner = build_learner("lora", LOADED, ["cat", "dog"], TEXTS, towers="image")
    assert torch.equal(learner.text_features(), build_learner("zero_shot", LOADED, ["cat", "dog"], TEXTS).text_features())


def test_a_file_is_read_as_it_was_published(tmp_path):
    assert _read_descriptions(written(tmp_path, {"face": ["\nA face has eyes. "], "Forest": ["Trees."] * 50})) == {
        "face": ("A face has eyes.",), "Forest": ("Trees.",) * 50}


@pytest.mark.parametrize("table, said", [
    ("{", "Expecting"), ("[" * 100_000, "recursion|nested"), ([], "no table"), ({}, "no table"), ("null", "no table"),
    ({"cat": "It purrs."}, "'cat' has 'It purrs.' in place of a list"), ({"cat": {"a": 1}}, "in place of a list"), ({"cat": []}, "0 sentences"),
    ({"cat": ["x"] * (_MOST_SENTENCES + 1)}, "1001 sentences"), ({"cat": ["It purrs.", " \n"]}, "no sentence, of the class 'cat'"),
    ({"cat": [7]}, "7 is no sentence"), ({"cat": [None]}, "None is no sentence"), ({" _": ["It purrs."]}, "no class name"),
    ('{"cat": ["It purrs."], "cat": ["It is soft."]}', "'cat' stands in it twice"), ('{"cat": ["\\ud800"]}', "no sentence"),
], ids=str)
def test_what_is_wrong_with_a_file_is_said(table, said, tmp_path):
    path = written(tmp_path, table)
    with pytest.raises(ValueError, match=f"descriptions={path!r} cannot be used: .*({said})") as caught:
        _read_descriptions(path)
    assert len(str(caught.value)) < 500


def test_a_file_that_is_missing_no_text_or_far_too_large_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="descriptions=.*gone.json' is no file"):
        _read_descriptions(tmp_path / "gone.json")
    (tmp_path / "image.json").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match="cannot be used"):
        _read_descriptions(tmp_path / "image.json")
    monkeypatch.setattr("npt.learners.descriptions._MOST_BYTES", 10)
    with pytest.raises(ValueError, match="at most"):
        _read_descriptions(written(tmp_path, TEXTS))


def test_a_sentence_that_is_too_long_is_shown():
    with pytest.raises(ValueError, match="very very"):
        build_learner("zero_shot", LOADED, ["cat"], {"cat": ["It is " + "very " * 100 + "soft."]})


def test_a_hash_tells_the_sentences_of_the_classes_at_hand_and_nothing_else():
    usual = _descriptions_hash(_Described(TEXTS), ["cat", "dog"])
    assert usual == _descriptions_hash(_Described(TEXTS | {"cow": ["It moos."]}), ["dog", "Cat"])
    for change in {"cat": ["A cat has whiskers."]}, {"cat": TEXTS["cat"][::-1]}, {"dog": ["It barks"]}, {"cat": TEXTS["dog"], "dog": TEXTS["cat"]}:
        assert usual != _descriptions_hash(_Described(TEXTS | change), ["cat", "dog"])
    assert usual != _descriptions_hash(_Described(TEXTS), ["cat"])


def test_sentences_are_not_copied_with_a_learner():
    learner = build_learner("zero_shot", LOADED, ["cat", "dog"], TEXTS)
    assert learner.for_classes(["dog"]).template is learner.template is copy.deepcopy(learner.template)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "texts.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"Müller": ["Eine Mühle."]}, ensure_ascii=False).encode())
    assert _read_descriptions(path) == {"Müller": ("Eine Mühle.",)}


@pytest.mark.parametrize("name", ["zero_shot", "linear_probe", "coprompt"])
def test_a_sentence_that_is_too_long_is_told_with_its_class_and_file(name):
    told = _Described({"cat": ["It purrs."], "dog": ["It barks.", "word " * 200]}, origin="texts.json")
    with pytest.raises(ValueError, match="too long for the .*, of the class 'dog' in 'texts.json': shorten it there"):
        learner = build_learner(name, LOADED, ["cat", "dog"], told)
        learner(torch.zeros(2, 3, 32, 32))
    assert _Described(TEXTS, origin="a.json") == _Described(TEXTS) and _Described(TEXTS).origin is None
