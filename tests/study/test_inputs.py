"What a run was made from is told class by class, and a run on anything else is refused with what differs."

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from miniature import write_pictures
from other_worlds import leave_world

from npt._files import write_text
from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.learners.descriptions import _Described
from npt.study.inputs import _check_inputs, _differing_inputs, _files_named, _read_inputs, _run_inputs
from npt.study.runs import do_run, set_up
from npt.study.settings import RunSettings
from npt.training.checkpoint import _CHECKPOINT
from npt.training.sessions import load_sessions


@pytest.fixture
def one(tmp_path: Path) -> Path:
    "A folder of four classes of six photographs."
    for label, name in enumerate(["bird", "cat", "dog", "frog"]):
        write_pictures(tmp_path / "one" / name, label, "{}.jpg", 6)
    return tmp_path / "one"


def made_from(root: Path, clip: FrozenCLIP, template: str = "a photo of a {}.", **settings):
    settings = RunSettings(dataset="folder", data_root=str(root), backbone="world", shots=2, **settings)
    return _run_inputs(settings, load_dataset("folder", root=root, shots=2), clip, template)


def test_a_moved_folder_is_the_same_and_comes_back_from_a_file(one, clip, tmp_path):
    here, moved = made_from(one, clip), made_from(Path(shutil.copytree(one, tmp_path / "deep" / "moved")), clip)
    write_text(here.model_dump_json(), tmp_path / "inputs.json")
    assert here == moved == _read_inputs(tmp_path / "inputs.json")
    _check_inputs(tmp_path / "inputs.json", moved)


def replaced(root: Path) -> None:
    content = (root / "cat" / "1.jpg").read_bytes()
    for path in (root / "dog").iterdir():
        path.write_bytes(content + path.name.encode())


def renamed(root: Path) -> None:
    (root / "frog").rename(root / "toad")


def one_more(root: Path) -> None:
    write_pictures(root / "dog", 2, "more{}.jpg", 6)


@pytest.mark.parametrize("change, said", [
    (replaced, "'dog' has other images than before"),
    (renamed, "novel class 'toad' is new"),
    (one_more, "images, and had"),
], ids=lambda one: getattr(one, "__name__", ""))
def test_what_differs_is_named(change, said, one, clip, tmp_path):
    before = made_from(one, clip)
    change(one)
    assert any(said in phrase for phrase in _differing_inputs(before, made_from(one, clip)))


def test_template_weights_and_pixels_count(one, clip):
    inputs = made_from(one, clip)
    others = [made_from(one, clip, "a {}."), inputs.model_copy(update=dict(weights="1" * 64)),
              inputs.model_copy(update=dict(preprocess=inputs.preprocess | dict(mean=[0, 0, 0])))]
    assert [len(_differing_inputs(inputs, other)) for other in others] == [1, 1, 1]
    assert made_from(one, clip, classes="all").images.keys() == {"all train", "all test"}


def test_descriptions_count_by_what_they_say_of_the_classes_at_hand(one, clip):
    texts = {name: [f"A {name}.", "It moves."] for name in ("bird", "cat", "dog", "frog")}
    usual, plain = made_from(one, clip, _Described(texts)), made_from(one, clip)
    assert usual == made_from(one, clip, _Described(texts | {"cow": ["It moos."]})) and plain.descriptions is None
    assert (usual.template, len(usual.descriptions)) == ("a photo of a {}.", 64)
    for other in made_from(one, clip, _Described(texts | {"frog": ["It hops."]})), plain:
        differ, = _differing_inputs(other, usual)
        assert differ == f"the descriptions are {usual.descriptions[:12]}, and were {(other.descriptions or 'none')[:12]}"
    with pytest.raises(ValueError, match="No description of the class 'frog'"):
        made_from(one, clip, _Described({name: texts[name] for name in ("bird", "cat", "dog")}))


def test_two_clips_of_the_world_are_told_apart_by_their_weights(one, clip, tmp_path, monkeypatch):
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    for seed, name in enumerate(("world-2", "world-3")):
        leave_world(name, seed)
    inputs = [made_from(one, clip)] + [made_from(one, load_clip("world", name), pretrained=name) for name in ("world-2", "world-3")]
    for number, other in enumerate(inputs):
        assert [bool(_differing_inputs(before, other)) for before in inputs] == [number != before for before in range(3)]
    assert "the weights are others" in _differing_inputs(*inputs[1:])[0]


def test_a_damaged_file_is_named(tmp_path):
    write_text("{}", tmp_path / "inputs.json")
    with pytest.raises(ValueError, match="inputs.json.*damaged"):
        _read_inputs(tmp_path / "inputs.json")


def test_another_folder_of_photographs_never_gets_the_first_ones_numbers(one, tmp_path):
    other = Path(shutil.copytree(one, tmp_path / "other"))
    replaced(other)
    settings = [RunSettings(dataset="folder", data_root=str(root), backbone="world", learner="coop", shots=1, epochs=1,
                            measure_every=0, runs_dir=str(tmp_path / "runs")) for root in (one, other)]
    do_run(settings[0], progress=False)
    for _ in "finished", "interrupted":
        with pytest.raises(ValueError, match="made from other things .*'dog' has other images"):
            set_up(settings[1])
        (settings[0].folder / "metrics.json").unlink(missing_ok=True)
        (settings[0].folder / _CHECKPOINT).touch()
    write_pictures(one / "cat", 1, "new{}.jpg", 1)
    with pytest.raises(ValueError, match="'cat' has"):
        set_up(settings[0])
    assert set_up(settings[1], overwrite=True).folder.path == settings[0].folder


def test_a_run_in_sessions_is_made_from_the_images_of_the_novel_classes_too(one, clip):
    "One photograph more in a novel class changes which ones are picked, of the training images that a run on the base classes never meets."
    settings = [RunSettings(dataset="folder", data_root=str(one), backbone="world", learner="coop", shots=2, classes=classes) for classes in ("base", "sessions")]
    data = load_sessions("folder", root=one, shots=2)
    fewer = replace(data, novel=replace(data.novel, train=data.novel.train.take(range(1, len(data.novel.train)))))
    before, after = ([_run_inputs(each, some, clip, "a {}.") for each in settings] for some in (data, fewer))
    assert list(before[1].images) == ["base train", "novel train", "base test", "novel test"]
    assert not _differing_inputs(before[0], after[0])
    assert [phrase.split(":")[0] for phrase in _differing_inputs(before[1], after[1])] == ["novel train"]


def test_a_file_that_is_called_like_the_learner_inside_is_no_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maple").write_text("notes")
    (tmp_path / "prompts").write_text("prompts")
    assert _files_named(RunSettings(learner="dept", learner_settings=dict(around="maple"))) == {}
    assert _files_named(RunSettings(learner="promptkd", learner_settings=dict(teacher_prompts="prompts"))).keys() == {"teacher_prompts"}
