"Runs with a number of crops a training image, and evaluation that repeats no work."

import pytest
from shared import count_calls

import npt.study.runs
from npt.study.runs import do_run, set_up
from npt.study.settings import RunSettings
from npt.training.measure import measure_collapse


@pytest.fixture
def settings(noise_folder, tmp_path):
    return RunSettings(dataset="folder", data_root=str(noise_folder), runs_dir=str(tmp_path / "runs"), shots=2, epochs=3,
                       views=2)


def test_views_are_part_of_what_a_run_is(settings, folder):
    published = settings.model_copy(update=dict(views=None))
    assert settings.folder.parent.name == published.folder.parent.name + "-views2"
    metrics = do_run(settings)
    assert do_run(settings) == metrics and len(list(folder.glob("*"))) == 2 + 3, "train, base and novel as tested"
    differ = settings.model_copy(update=dict(views=3))
    settings.folder.parent.rename(differ.folder.parent)
    with pytest.raises(ValueError, match="views: 2 there, 3 asked for"):
        set_up(differ)


@pytest.mark.parametrize("views, dataset", [(0, "dtd"), (-3, "dtd"), (4, "world/textures")])
def test_views_that_cannot_be_are_no_settings(views, dataset):
    with pytest.raises(ValueError, match="views"):
        RunSettings(dataset=dataset, views=views)


@pytest.mark.parametrize("learner", ["coop", "cocoop", "tip_adapter", "ivlp"])
def test_a_run_evaluates_each_image_once_and_measures_the_same_collapse(learner, settings, folder, monkeypatch):
    run = set_up(settings.model_copy(update=dict(learner=learner, views=None, measure_every=0)))
    npt.study.runs.fit_run(run)
    run.clip.kept.clear()
    for file in folder.glob("*"):
        file.unlink()
    frozen, learned = count_calls(monkeypatch, run.clip), []
    through = run.learner.image_features  # of the base classes; the same prompts for the novel ones
    monkeypatch.setattr(type(run.learner), "image_features",
                        lambda self, pixels: learned.append(len(pixels)) or through(pixels))
    metrics = npt.study.runs.measure_run(run, 0.0)
    images = [len(run.data.base.test), len(run.data.novel.test)]
    if run.learner.learns_image:
        assert learned == images
    else:
        assert frozen == images and not learned, "zero-shot CLIP and the learner share the frozen tower's features"
    for when, one in ("before", run.zero_shot), ("after", run.learner):
        assert metrics["collapse"][when].items() >= measure_collapse(one, run.data.base.test).items(), "and angles"
    assert "base_collapse" not in metrics and "base_collapse" not in metrics["zero_shot"]
