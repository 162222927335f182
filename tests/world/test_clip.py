"The weights that the package ships: what they recognise, and that packing keeps them."

import pytest
import torch
from other_worlds import leave_world

from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.training.evaluation import base_to_novel
from npt.world.captions import tokenizer, world_vocabulary
from npt.world.clip import _OTHER_WORLDS, _new_world_clip, _pack_world_clip, _world_file, load_world_clip
from npt.world.pictures import OBJECTS, make_scenes, render


def test_shipped_weights_recognise_what_they_were_trained_on():
    clip = load_clip("world")
    things, per_class = OBJECTS[::15], 20
    labels = torch.arange(len(things)).repeat_interleave(per_class)
    images = render(make_scenes([things[k] for k in labels], 3 * 10**9 + torch.arange(len(labels))))
    text = clip.encode_text([f"a photo of a {thing.name}." for thing in things])
    right = ((clip.encode_image((images - 0.5) / 0.25) @ text.T).argmax(1) == labels).float() * 100
    seen = torch.tensor([thing.seen for thing in things])[labels]
    assert len(things) == 32 and right[seen].mean() > 80 and right[~seen].mean() > 70


def test_zero_shot_on_the_default_dataset_leaves_room():
    data = load_dataset("world/shapes")
    zero_shot = build_learner("zero_shot", load_clip("world"), data.base.classnames, template=data.record.template)
    measured = base_to_novel(zero_shot, data)
    assert 45 <= measured["base"] <= 75 and 45 <= measured["novel"] <= 75, measured


def test_packing_keeps_half_precision_and_unknown_words_come_from_a_seed(tmp_path):
    torch.manual_seed(3)
    model = _new_world_clip(len(world_vocabulary()))
    path = tmp_path / "clip.safetensors"
    path.write_bytes(_pack_world_clip(model))
    loaded = load_world_clip(str(path))
    state = loaded.state_dict()
    rows = state.pop("token_embedding.weight")
    assert torch.equal(rows[world_vocabulary()], model.token_embedding.weight.half().float())
    assert all(torch.equal(value, model.state_dict()[name].half().float()) for name, value in state.items())
    assert not loaded.training and len(rows) == tokenizer().vocab_size
    unknown = torch.ones(len(rows), dtype=torch.bool)
    unknown[world_vocabulary()] = False
    assert torch.equal(rows[unknown], load_world_clip().token_embedding.weight[unknown])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.safetensors"):
        load_world_clip(str(tmp_path / "nothing.safetensors"))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> None:
    "No weights are in the cache."
    monkeypatch.setenv("NPT_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", _OTHER_WORLDS)
def test_a_clip_that_nobody_trained_is_missing_with_the_command_that_trains_it(name, cache):
    command = f"papermill nbs/experiments/pretrain_world.ipynb out.ipynb -p world {name[-1]} trains it"
    for load in lambda: load_world_clip(name), lambda: load_clip("world", pretrained=name):
        with pytest.raises(FileNotFoundError) as error:
            load()
        assert str(error.value) == f"there is no CLIP of the offline world in {str(_world_file(name))!r}: {command}."


def test_a_clip_in_the_cache_is_loaded_by_its_name_and_is_another(cache, tmp_path):
    paths = [leave_world(name, seed) for seed, name in enumerate(_OTHER_WORLDS)]
    assert [path.parent for path in paths] == [tmp_path / "worlds"] * 2
    clips = [load_clip("world", pretrained=name) for name in (None, *_OTHER_WORLDS)]
    assert len({clip.fingerprint for clip in clips}) == 3 and {clip.name for clip in clips} == {"world"}
    assert load_clip("world", pretrained="world-2").fingerprint == clips[1].fingerprint
    assert torch.equal(load_world_clip("world-2").visual.proj, load_world_clip(str(paths[0])).visual.proj)


@pytest.mark.parametrize("name", ["world-9", "world-1", "world", "none", "openai"])
def test_a_name_that_is_no_clip_of_the_world_is_refused_with_those_that_are(name, cache):
    with pytest.raises(ValueError, match="leave out pretrained or take one of world-2, world-3"):
        load_clip("world", pretrained=name)
