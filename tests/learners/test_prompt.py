"""Prompts with room for vectors: they start at words or at random, fit or are named, and at their words are the sentence."""

import pytest
import torch
from backbones import CLASSNAMES, SMALL_IMAGE, TEXTS, images, open_clips, reduced
from shared import LOADED

from npt.learners.build import build_learner
from npt.learners.prompt import Prompts, context_vectors

WORDS = "a photo of a"


@pytest.mark.parametrize("backbone", SMALL_IMAGE)
def test_a_learned_context_at_its_words_is_the_hand_written_prompt(backbone):
    "Whatever the tokenizer: SigLIP's has no token before the first word, and pads with the end of text."
    clip = reduced(backbone)
    features, expected = build_learner("coop", clip, CLASSNAMES).text_features(), open_clips(clip, images(clip), TEXTS)[1]
    assert features.shape == expected.shape and (features - expected).abs().max() < 1e-5
    assert clip.start_length == (0 if backbone == "ViT-B-16-SigLIP" else 1)


def test_the_words_that_vectors_do_not_replace_stay():
    prompts = Prompts.around(LOADED, CLASSNAMES, 2, WORDS)
    assert prompts.words == 2 and prompts.name_lengths == [len(LOADED.tokenizer.encode(name)) for name in CLASSNAMES]
    features = prompts.features(LOADED, context_vectors(LOADED, 2, WORDS))
    assert torch.allclose(features, LOADED.encode_text(TEXTS), atol=1e-5)


@pytest.mark.parametrize("n_ctx, words, said", [(5, WORDS, "'a photo of a' has 4 tokens, but n_ctx=5"), (0, None, "n_ctx=0 must be at least 1")])
def test_vectors_that_cannot_be_are_refused(n_ctx, words, said):
    with pytest.raises(ValueError, match=said):
        context_vectors(LOADED, n_ctx, words)


@pytest.mark.parametrize("classnames, n_ctx, said", [(["cat", "dog " * 40], 4, "'dog dog.*4 context vectors do not fit in the 32 tokens"),
                                                     (["cat"], 31, "'cat' and 31 context vectors")])
def test_a_class_name_that_does_not_fit_is_named(classnames, n_ctx, said):
    with pytest.raises(ValueError, match=said):
        Prompts.around(LOADED, classnames, n_ctx, None)
