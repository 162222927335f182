"Settings of a run: right or wrong by their values alone, and handed over by a notebook without a word lost."

import re
from itertools import combinations

import pytest

from npt.objectives.terms import TERMS
from npt.study.settings import RunSettings, _bytes_agreed, check_parameters, notebook_settings

BAD = {
    "dataset": (dict(dataset="world/shpaes"), "world/shapes"),
    "learner": (dict(learner="coopp"), "'coop'"),
    "objective": (dict(objective="ce + lcc"), "lc"),
    "backbone": (dict(backbone="ViT-B-61"), "ViT-B-16"),
    "tau": (dict(tau=0.0), "greater than 0"),
    "tau above 1": (dict(tau=1.2), "less than or equal to 1"),
    "shots": (dict(shots=0), "greater than or equal to 1"),
    "precision": (dict(precision="fp8"), "fp8"),
    "device": (dict(device="gpu"), "is no device's name"),
    "own setting": (dict(learner_settings=dict(n_contexts=3)), "Did you mean 'n_ctx'"),
    "own settings": (dict(learner_settings="n_ctx=8"), "is no JSON text"),
    "quickgelu": (dict(backbone="ViT-B-16", pretrained="openai"), "ViT-B-16-quickgelu"),
    "profile": (dict(profile="linear"), "'exp' or 'step'"),
    "views": (dict(dataset="dtd", views=0), "views"),
    "views of what is drawn": (dict(dataset="world/textures", views=4), "views"),
    "misspelt setting": (dict(epoch=3), "no setting is called 'epoch'; did you mean 'epochs'?"),
    "swapped letters": (dict(learner="copo"), "Did you mean 'coop'"),
    "doubled letter": (dict(dataset="dtdd"), "Did you mean 'dtd'"),
    "class_split": (dict(class_split="first"), "class_split"),
    "class_split below 0": (dict(class_split=-1), "greater than or equal to 0"),
    "class_split of all": (dict(class_split=1, classes="all"), "with classes='all' there are none"),
}


@pytest.mark.parametrize("settings, said", BAD.values(), ids=BAD)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        RunSettings(**settings)


@pytest.mark.parametrize("settings", [dict(device="cuda:3"), dict(device="mps"), dict(backbone="RN50", pretrained="gone.pt"),
                                      dict(dataset="folder", data_root="nowhere"), dict(dataset="dtd", data_root="nowhere")],
                         ids=str)
def test_what_another_machine_may_have_is_no_matter_of_the_settings(settings):
    read = RunSettings(**settings)
    assert RunSettings.model_validate_json(read.model_dump_json()) == read


def test_settings_that_change_a_number_change_the_folder():
    usual = dict(dataset="dtd")
    others = [dict(tau=0.25), dict(shots=1), dict(seed=2), dict(objective="ce"), dict(objective="ce + lc"), dict(learner="coop"),
              dict(learner_settings=dict(n_ctx=8)), dict(sampler="class_balanced"), dict(profile="step"), dict(order="random"),
              dict(classes="all"), dict(class_split=0), dict(class_split=1), dict(measured_on="val"), dict(views=2), dict(num_clusters=2),
              dict(backbone="RN50", pretrained="none")]
    folders = [RunSettings(**usual | other).folder for other in ({}, *others)]
    assert all(one != other for one, other in combinations(folders, 2))


def test_long_names_are_cut_and_stay_apart():
    sums = [" + ".join(f"{(number + last) / 1000}*{name}" for number, name in enumerate(TERMS, start=1)) for last in (0, 100)]
    names = [RunSettings(objective=one).folder.parts[3] for one in sums]
    assert names[0] != names[1] and all(100 < len(name) <= 120 for name in names)


SHOWN = "tau = 1.0\nseeds = [1, 2, 3]  # of the picks\nepochs = None\nrun_dir = None\ntop = 3\noverwrite = False\nbatch = {'coop': 32}"


def given(**parameters) -> dict:
    "What a notebook's `globals()` hold when its parameters cell and Papermill's have run."
    injected = "".join(f"{name} = {value!r}\n" for name, value in parameters.items())
    return parameters | {"In": ["", SHOWN, "# Parameters\n" + injected, "import torch\nunrelated = 1"]}


def test_a_notebook_hands_over_what_it_was_given():
    namespace = dict(learner="maple", unrelated=1) | given(tau=0.25, overwrite=True)
    assert notebook_settings(namespace) == RunSettings(tau=0.25, learner="maple")
    assert notebook_settings(given(sampler="class_balanced")).sampler == "class_balanced", "a setting that is not shown"


@pytest.mark.parametrize("name, said", [("epoch", "no setting is called 'epoch'; did you mean 'epochs'?"),
                                        ("overwrit", "did you mean 'overwrite'?"), ("q", "no setting is called 'q' (there are")])
@pytest.mark.parametrize("check", [check_parameters, notebook_settings])
def test_a_parameter_that_nobody_knows_is_refused(check, name, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check(given(**{name: 2}))


def test_a_notebook_takes_no_more_than_it_shows():
    with pytest.raises(ValueError, match="no setting is called 'sampler'"):
        check_parameters(given(sampler="plain"))


@pytest.mark.parametrize("bad, said", [
    (dict(epochs="two"), "epochs='two': Input should be a valid integer"), (dict(tau=4), "tau=4: Input should be less"),
    (dict(seeds="1 2"), "seeds='1 2': Input should be a valid list. Give it by -y 'seeds: [1, 2, 3]'"),
    (dict(seeds=[1, "2"]), "seeds=[1, '2']: Input should be a valid integer"), (dict(top=2.5), "top=2.5: Input should be a valid integer"),
    (dict(top="3"), "top='3'"), (dict(run_dir=3), "run_dir=3: Input should be"), (dict(overwrite="yes"), "overwrite='yes'"),
    (dict(batch={"coop": "32"}), "batch={'coop': '32'}: Input should be a valid integer")], ids=str)
def test_a_value_of_another_kind_is_refused_with_the_name(bad, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_parameters(given(**bad))


def test_values_of_the_right_kind_pass():
    check_parameters(given(tau=1, seeds=[4], epochs=None, run_dir="runs", top=1, overwrite=True, batch={"maple": 4}))
    check_parameters(given(run_dir=["one", "other"], epochs=2))
    check_parameters({})


def test_what_a_run_may_fetch_is_a_yes_a_no_or_a_size():
    given = {True: 2e9, False: 0, "10GB": 1e10, "1.5 TB": 1.5e12, "300MB": 3e8}
    assert {prepare: _bytes_agreed(RunSettings(prepare=prepare).prepare) for prepare in given} == given
    for wrong in "false", "10", "10gb", "-1GB", "", "9" * 99 + "GB", 1, None, 1e9:
        with pytest.raises(ValueError, match="prepare"):
            RunSettings(prepare=wrong)
