"CoPrompt: the published method, its loss written out, and the sentences that its steps draw."

import pytest
import torch
from every_learner import EveryLearner
from random_clip import NAMES, images
from shared import LOADED, assert_same_fit, killed_after
from written_out import in_words, literal_image, literal_logits, trained, written_text

from npt.data.load import load_dataset
from npt.learners.base import seeded
from npt.learners.build import build_learner
from npt.learners.coprompt import _sentences_of
from npt.learners.descriptions import _Described
from npt.objectives.objective import build_objective
from npt.objectives.terms import StepFeatures
from npt.training.fit import fit

LEADS = [f"a {kind} photo of" for kind in ("good", "bad", "large", "small")]
WORDS = [name.replace("_", " ") for name in NAMES]
TEXTS = {name: [f"{lead} {words}." for lead in LEADS] for name, words in zip(NAMES, WORDS)}
LABELS = torch.tensor([2, 0, 1])


class TestCoPrompt(EveryLearner):
    cases = {
        "as published": ("coprompt", dict(depth=3)),
        "shallow, random, other shares": ("coprompt", dict(depth=1, n_ctx=3, ctx_init=None, ratio=0.4, ratio_text=0.7, reduction=3)),
    }


def seen(learner, seed: int) -> StepFeatures:
    "A training step of three images."
    with seeded(seed):
        text, image, logits, own = learner.train()(images())
    return StepFeatures(text, image, LABELS, logits, parts=own, encode_image=lambda: learner.clip.encode_image(images()))


@pytest.mark.parametrize("seed", range(3))
def test_its_loss_and_gradients_are_those_of_the_method_written_out(seed, small):
    learner = trained(small, "coprompt", dict(depth=3, template=TEXTS))
    step = seen(learner, seed)
    loss, _ = build_objective("coprompt")(step)
    sentences = torch.stack([torch.stack([written_text(small, (lead, words)) for words in in_words(learner)]) for lead in LEADS])
    place = [(step.own("described") - some).abs().max().item() < 1e-9 for some in sentences].index(True)  # one, the same for each class
    frozen, logits = literal_image(small, images(), []), literal_logits(learner, images())
    text, image = learner.text_features(), learner.image_features(images())
    written = -sum(row.log_softmax(0)[label] for row, label in zip(logits, LABELS)) / 3
    for tuned, still in (text, sentences[place]), (image, frozen):
        written = written + 1 - sum(one @ other for one, other in zip(tuned, still)) / 3
    assert (loss - written).abs() < 1e-6
    parameters = list(learner.parameters())
    for one, other in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(written, parameters), strict=True):
        assert other.norm() > 1e-6 and torch.allclose(one, other, atol=1e-6, rtol=1e-6)


def test_every_sentence_is_drawn_as_often_and_of_a_class_with_fewer_each_more_often():
    sentences = _sentences_of(LOADED, _Described({"cat": ["one", "two", "three", "four"], "dog": ["five", "six"], "red fox": ["seven"]}), ["cat", "dog", "red fox"])
    with seeded(1):
        drawn = torch.stack([sentences.draw() for _ in range(800)])
    each = [torch.cdist(drawn[:, k], sentences.features[first : first + count]).argmin(1)
            for k, (first, count) in enumerate(zip(sentences.first.tolist(), sentences.count.tolist()))]
    assert torch.equal(each[1], each[0] // 2), "half of the way through one list is half of the way through another"
    assert (torch.bincount(each[0], minlength=4) - 200).abs().max() < 60 and not each[2].any()


def test_without_sentences_it_is_held_to_its_templates(small):
    for template, leads in ("a good photo of {}.", LEADS[:1]), ([f"{lead} {{}}." for lead in LEADS[:2]], LEADS[:2]):
        learner = build_learner("coprompt", small, NAMES, template)
        drawn = {tuple(seen(learner, seed).own("described")[0].tolist()) for seed in range(12)}
        wanted = torch.stack([written_text(small, (lead, WORDS[0])) for lead in leads])
        assert len(drawn) == len(leads)
        assert all((torch.tensor(one, dtype=torch.float64) - wanted).abs().amax(1).min() < 1e-9 for one in drawn)


def test_a_class_of_which_nothing_is_said_is_named_at_once_and_needs_nothing_said_when_tested():
    with pytest.raises(ValueError, match="No description of the class 'gull'"):
        build_learner("coprompt", LOADED, ["cat", "gull"], {"cat": ["It purrs."]})
    learner = build_learner("coprompt", LOADED, ["cat", "dog"], {"cat": ["It purrs."], "dog": ["It barks."]})
    novel = learner.for_classes(["gull", "crow", "red fox"]).eval()
    assert novel.text_features().shape == (3, LOADED.embed_dim) and not novel(torch.zeros(1, 3, 32, 32)).own


def test_a_seed_draws_the_same_sentences_and_an_interrupted_fit_goes_on(tmp_path):
    base = load_dataset("world/textures", shots=1).base
    texts = {name: [f"{lead} {name}." for lead in LEADS] for name in base.classnames}

    def fitted(template, **more):
        learner = build_learner("coprompt", LOADED, base.classnames, template, seed=1)
        return learner, fit(learner, base.train, objective="own", epochs=2, batch_size=4, lr=0.01, measure_every=0, **more)

    with killed_after(1):
        fitted(texts, run_dir=tmp_path)
    whole, resumed, plain = fitted(texts), fitted(texts, run_dir=tmp_path), fitted(None)
    assert_same_fit(whole, resumed)
    assert not torch.equal(whole[0].context, plain[0].context)


@pytest.mark.parametrize("settings, said", [(dict(ratio=-0.1), "ratio=-0.1 must be from 0"), (dict(ratio_text=2.0), "ratio=2.0 must be from 0"),
                                            (dict(reduction=0), "no width"), (dict(depth=99), "depth 99")], ids=str)
def test_mistakes_are_named(settings, said, small):
    with pytest.raises(ValueError, match=said):
        build_learner("coprompt", small, NAMES, **settings)
