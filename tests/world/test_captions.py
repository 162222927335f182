"Captions are made of a known list of words, and their tokens are those of open_clip's tokenizer."

import random

import torch

from npt.world.captions import _caption_tokens, caption, tokenizer, world_vocabulary
from npt.world.pictures import OBJECTS, PAIRS, PATTERNS, make_scenes


def captions(things, seed: int = 0) -> list[str]:
    scenes, chance = make_scenes(things, torch.arange(len(things))), random.Random(seed)
    return [caption(scenes.objects[row].tolist(), int(scenes.relation[row]), row % 5, chance) for row in range(len(things))]


def test_tokens_are_those_of_open_clips_tokenizer():
    texts = [text for things in (OBJECTS, PATTERNS, PAIRS) for text in captions(things)]
    ours, theirs = _caption_tokens(texts), tokenizer()(texts)
    assert torch.equal(ours, theirs[:, :ours.shape[1]]) and not theirs[:, ours.shape[1]:].any()


def test_every_class_name_and_caption_is_in_the_vocabulary():
    texts = [text for things in (OBJECTS, PATTERNS, PAIRS) for text in [*captions(things), *(thing.name for thing in things)]]
    assert torch.isin(_caption_tokens(texts), world_vocabulary()).all()
    assert torch.equal(world_vocabulary(), world_vocabulary().unique())


def test_a_caption_of_a_pair_holds_from_either_side():
    pair = next(thing for thing in PAIRS if thing.name == "star above circle")
    told = [text for seed in range(60) for text in captions([pair], seed)]
    assert any("below" in text or "under" in text for text in told)
    for text in told:
        star, circle = text.find("star"), max(text.find("circle"), text.find("disc"))
        if min(star, circle) >= 0:
            assert (star > circle) == any(word in text for word in ("below", "under")), text


def test_captions_follow_the_stream_of_chance():
    assert captions(OBJECTS, seed=3) == captions(OBJECTS, seed=3) != captions(OBJECTS, seed=4)
