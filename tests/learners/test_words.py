"The words nearest to learned vectors are those of the smallest distances, whatever the tokenizer."

import pytest
import torch

from npt.clip.load import load_clip
from npt.learners.build import build_learner, learner_names
from npt.learners.words import _known_tokens, _token_word, nearest_words
from npt.study.runs import set_up
from npt.study.settings import RunSettings

NAMES = ["red striped pattern", "blue dotted pattern", "green solid pattern"]


@pytest.fixture(scope="module")
def clip():
    return load_clip("world")


def test_nearest_words_of_words_are_themselves(clip):
    table = nearest_words(build_learner("coop", clip, NAMES), top=3)
    nearest = table[table["rank"] == 1]
    assert nearest["word"].tolist() == ["a", "photo", "of", "a"] and (nearest["distance"] == 0).all()
    assert nearest["context vector"].tolist() == [1, 2, 3, 4] and len(table) == 12
    assert list(table.columns) == ["context vector", "rank", "word", "distance"]
    assert table.groupby("context vector")["distance"].apply(lambda group: group.is_monotonic_increasing).all()


def test_nearest_words_agree_with_distances_one_by_one(clip):
    learner = build_learner("coop", clip, NAMES, n_ctx=2, ctx_init=None, seed=3)
    with torch.no_grad():
        learner.context.mul_(20)
    table = nearest_words(learner, top=1)
    for vector, word, distance in table[["context vector", "word", "distance"]].itertuples(index=False):
        away = (clip.embed(_known_tokens(clip)) - learner.context[vector - 1]).detach().norm(dim=1)
        assert distance == pytest.approx(float(away.min()), rel=1e-5)
        assert word == _token_word(clip, int(_known_tokens(clip)[away.argmin()]))


def test_nearest_words_of_every_learner(clip, tmp_path):
    for name in learner_names():
        learner = set_up(RunSettings(dataset="world/textures", shots=1, learner=name, runs_dir=str(tmp_path))).learner
        if isinstance(getattr(learner, "context", None), torch.Tensor):
            assert nearest_words(learner, top=2)["word"].str.len().min() > 0
        else:
            with pytest.raises(ValueError, match=f"'{name}' has no context vectors"):
                nearest_words(learner)


def test_class_specific_contexts_have_their_class(clip):
    table = nearest_words(build_learner("coop", clip, NAMES, class_specific=True), top=1)
    assert table["class"].tolist() == [name for name in NAMES for _ in range(4)]
    assert table["word"].tolist() == ["a", "photo", "of", "a"] * 3


def test_words_of_a_tokenizer_from_transformers(clip):
    "A stand-in with the two methods of theirs that are used; its backbone has padded rows without a word."
    class Words:
        def decode(self, tokens):
            return f" word{tokens[0]}"

        def __len__(self):
            return 50

    class Wrapped:
        tokenizer = Words()

    learner = build_learner("coop", load_clip("world"), NAMES, n_ctx=1)
    learner.clip.name, learner.clip.tokenizer = "another", Wrapped()
    with torch.no_grad():
        learner.context.copy_(learner.clip.embed(torch.tensor([49])))
    table = nearest_words(learner, top=100)
    assert table["word"][0] == "word49" and table["distance"][0] == 0 and len(table) == 50


def test_no_words_are_refused(clip):
    with pytest.raises(ValueError, match="top=0"):
        nearest_words(build_learner("coop", clip, NAMES), top=0)
