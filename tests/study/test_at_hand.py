"A finished run is taken only where it was made from the images and weights that are at hand."

import shutil

import pytest
from other_worlds import leave_world
from workflows import small_grid

from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.learners.build import build_learner
from npt.learners.saving import save_prompts
from npt.study import at_hand
from npt.study.at_hand import _inputs_at_hand, _refuse_other_inputs, _was_fetched
from npt.study.collect import do_runs
from npt.study.grid import Task, expand, read_grid
from npt.study.jobs import do_task
from npt.study.plan import make_plan
from npt.study.restore import load_run
from npt.study.settings import RunSettings


@pytest.fixture
def photographs(noise_folder, tmp_path):
    return shutil.copytree(noise_folder, tmp_path / "photographs")


@pytest.fixture
def grid(photographs, tmp_path):
    "A grid of four runs on photographs, two of each choice of images."
    axes = dict(dataset="folder", learner="clip_adapter", objective=["own", "npt"], seed=[1, 2], shots=1, epochs=1)
    return read_grid(small_grid(**axes) | dict(runs_dir=str(tmp_path / "runs"), data_root=str(photographs)))


def test_replaced_pictures_are_found_by_all_that_find_finished_runs(grid, photographs, monkeypatch):
    tasks = expand(grid)
    settings = [task.settings for task in tasks]
    do_runs(settings)
    looked = []
    monkeypatch.setattr(at_hand, "_inputs_at_hand", lambda *given: looked.append(given) or _inputs_at_hand(*given))
    assert not make_plan(grid).unfinished() and len(looked) == 2, "once for each choice of images, and not for each run"
    whole = {picture: picture.read_bytes() for picture in (photographs / "frog").iterdir()}
    for picture in whole:
        shutil.copy(photographs / "cat" / picture.name, picture)
    for find in (lambda: make_plan(grid)), (lambda: do_runs(settings)):
        with pytest.raises(ValueError, match="tau1-shots1-\\w+/seed1' holds a finished run that was made from other things.*'frog' has other images"
                                             ".*and so do 3 other folders.*delete the folder and the run is done again"):
            find()
    assert "'frog' has other images" in do_task(tasks[0]) and tasks[0].folder.finished
    for picture, content in whole.items():
        picture.write_bytes(content)
    assert do_task(tasks[0]) is None and not make_plan(grid).unfinished()
    broken = next((photographs / "bird").iterdir())
    broken.write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="taken as they are, since its images cannot be read: .*bird"):
        make_plan(grid)
    photographs.rename(photographs.with_name("elsewhere"))
    assert not make_plan(grid).unfinished(), "where they are not at hand, the plan is made"


def test_other_weights_are_found_and_absent_ones_stop_nothing(finished, clip, monkeypatch):
    settings = finished[0]
    _refuse_other_inputs([settings])
    monkeypatch.setattr(clip, "fingerprint", "0" * 64)
    monkeypatch.setattr(at_hand, "_load_quietly", lambda settings: clip)
    with pytest.raises(ValueError, match="the weights are others"):
        _refuse_other_inputs([settings])
    assert "the weights are others" in do_task(Task(settings))
    Task(settings).failed.unlink()  # other tests share this run
    for gone in dict(pretrained="no_such_file.pt"), dict(pretrained="openai"):
        _refuse_other_inputs([settings.model_copy(update=dict(backbone="ViT-B-16-quickgelu") | gone)])


def test_a_clip_of_the_world_that_was_trained_again_is_another_and_one_that_is_gone_stops_nothing(tmp_path, monkeypatch, few_pictures):
    monkeypatch.setenv("NPT_CACHE", str(tmp_path / "cache"))
    settings = RunSettings(dataset="world/textures", learner="zero_shot", pretrained="world-2", shots=1, runs_dir=str(tmp_path))
    path = leave_world("world-2", seed=1)
    do_runs([settings])
    learner = load_run(settings.folder)
    assert learner.clip.fingerprint == load_clip("world", "world-2").fingerprint != load_clip("world").fingerprint
    _refuse_other_inputs([settings])
    leave_world("world-2", seed=2)
    with pytest.raises(ValueError, match="@world-2/.*the weights are others"):
        _refuse_other_inputs([settings])
    path.unlink()
    _refuse_other_inputs([settings])
    with pytest.raises(FileNotFoundError, match="-p world 2 trains it. Where they were moved"):
        load_run(settings.folder)


def test_weights_of_the_hub_are_looked_for_where_they_are_kept(monkeypatch):
    asked = []
    monkeypatch.setattr(at_hand, "try_to_load_from_cache", lambda *given: asked.append(given))
    assert not _was_fetched("ViT-B-16", "laion2b_s34b_b88k") and all(repository == asked[0][0] for repository, _ in asked)
    assert asked[0][0] == "laion/CLIP-ViT-B-16-laion2B-s34B-b88K" and len(asked) == 2
    monkeypatch.setattr(at_hand, "try_to_load_from_cache", lambda repository, file: "there" if file.endswith(".safetensors") else None)
    assert _was_fetched("ViT-B-16", "laion2b_s34b_b88k") and RunSettings(dataset="dtd").pretrained == "openai"


def test_another_teacher_in_a_file_of_the_same_name_is_found(tmp_path):
    prompts, clip = tmp_path / "prompts.safetensors", load_clip("world")
    names = load_dataset("world/textures", shots=1, seed=1).base.classnames
    save_prompts(build_learner("coop", clip, names, seed=1), prompts)
    settings = RunSettings(dataset="world/textures", learner="promptkd", learner_settings=dict(teacher_prompts=str(prompts)), objective="own",
                           shots=1, epochs=1, batch_size=8, measured_on="val", measure_every=0, runs_dir=str(tmp_path / "runs"))
    do_runs([settings])
    do_runs([settings])
    save_prompts(build_learner("coop", clip, names, ctx_init="a drawing of a"), prompts)
    with pytest.raises(ValueError, match="the file of teacher_prompts holds something else"):
        do_runs([settings])
