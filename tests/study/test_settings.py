"Settings of a run: right or wrong by their values alone, and handed over by a notebook without a word lost."

import re
from itertools import combinations
from pathlib import Path

import pytest
from conftest import ROOT

from npt.objectives.terms import TERMS
from npt.study.grid import expand, read_grid
from npt.study.settings import _NOT_IN_NAMES, RunSettings, _bytes_agreed, check_parameters, notebook_settings

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
    "another world": (dict(pretrained="world-9"), "no pretrained weights of the backbone 'world' called 'world-9'"),
    "a world beside photographs": (dict(dataset="dtd", backbone="world", pretrained="world_2"), "Did you mean 'world-2'"),
    "profile": (dict(profile="linear"), "'exp' or 'step'"),
    "descriptions are no path": (dict(descriptions=7), "descriptions=7"), "descriptions are empty": (dict(descriptions=" "), "no path"),
    "descriptions of a template": (dict(descriptions="t.json", template="ensemble"), "two lists of prompts"),
    "rounding": (dict(rounding="int"), "'half_up' or 'floor'"),
    "views": (dict(dataset="dtd", views=0), "views"),
    "views of what is drawn": (dict(dataset="world/textures", views=4), "views"),
    "misspelt setting": (dict(epoch=3), "no setting is called 'epoch'; did you mean 'epochs'?"),
    "swapped letters": (dict(learner="copo"), "Did you mean 'coop'"),
    "doubled letter": (dict(dataset="dtdd"), "Did you mean 'dtd'"),
    "class_split": (dict(class_split="first"), "class_split"),
    "class_split below 0": (dict(class_split=-1), "greater than or equal to 0"),
    "class_split of all": (dict(class_split=1, classes="all"), "with classes='all' there are none"),
    "a truth value for a number": (dict(shots=True), "shots=True: Input should be a valid integer"),
    "a truth value for tau": (dict(tau=True), "tau=True: Input should be a valid number"),
    "a text for a number": (dict(epochs="3"), "epochs='3': Input should be a valid integer"),
    "a text for a truth value": (dict(prepare="false"), "prepare='false': a dataset is fetched or not: write True, False or the most"),
    "a number for a truth value": (dict(prepare=1), "prepare=1"),
    "a number for a text": (dict(learner=3), "learner=3: Input should be a valid string"),
    "a list for a name": (dict(dataset=["dtd"]), "dataset=['dtd']"),
    "half a character": (dict(runs_dir="a\ud800"), "runs_dir='a\\ud800' holds a character that no file can hold"),
    "half a character inside": (dict(learner="coop", learner_settings='{"ctx_init": "\\ud800"}'), "holds a character that no file can hold"),
    "a long name": (dict(learner="x" * 100_000), "there is no learner 'xxx"),
    "what YAML takes for a text": (dict(lr="1e-4"), "lr='1e-4': Input should be a valid number: write it with a point, such as 1.0e-4"),
    "half a shot": (dict(shots=2.5), "shots=2.5"), "more shots than there are": (dict(shots=10**30), "less than or equal to 1000000"),
    "seed beyond 2^63": (dict(seed=2**63), "less than 9223372036854775808"), "seed below 0": (dict(seed=-1), "seed=-1"),
    "half beyond 2^63": (dict(class_split=2**63), "class_split="), "class_split is a truth value": (dict(class_split=True), "class_split=True"),
    "workers": (dict(workers=10**6), "workers=1000000"), "epochs": (dict(epochs=10**7), "epochs=10000000"),
    "batch_size": (dict(batch_size=0), "batch_size=0"), "clusters": (dict(num_clusters=0), "num_clusters=0"),
    "budget": (dict(memory_budget=float("inf")), "memory_budget=inf"), "lr": (dict(lr=float("inf")), "lr=inf"),
    "tau is no number": (dict(tau=float("nan")), "tau=nan"),
    "empty path": (dict(data_root=""), "data_root='': it is no path: leave it out, or give . for the folder"),
    "blank path": (dict(runs_dir=" "), "runs_dir=' '"), "null in a path": (dict(runs_dir="a\0b"), "it is no path"),
    "empty weights": (dict(pretrained=""), "pretrained=''"), "no such home": (dict(runs_dir="~no-such-user/x"), "nobody here has such a home"),
    "n_ctx": (dict(learner_settings=dict(n_ctx=1.5)), "n_ctx=1.5 of the learner 'maple'"), "depth": (dict(learner_settings=dict(depth="3")), "depth='3'"),
    "alpha": (dict(learner="tip_adapter", learner_settings=dict(alpha=-5)), "alpha=-5"),
    "beta": (dict(learner="tip_adapter", learner_settings='{"beta": Infinity}'), "beta=inf"),
    "class_specific": (dict(learner="coop", learner_settings=dict(class_specific="no")), "class_specific='no'"),
    "deep own settings": (dict(learner_settings="[" * 100_000), "nested too deeply"), "no table": (dict(learner_settings="[]"), "valid dictionary"),
    "all weights zero": (dict(objective="0*ce + 0*lc"), "All weights of ce + lc are zero"),
    "two at once": (dict(tau=2, seed="1"), "tau=2: Input should be less than or equal to 1; seed='1': Input should be a valid integer"),
}


@pytest.mark.parametrize("settings, said", BAD.values(), ids=BAD)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        RunSettings(**settings)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 3000 and "pydantic" not in str(caught.value) and caught.value.__suppress_context__ is True


def test_paths_are_written_out():
    home = Path.home()
    settings = RunSettings(data_root="~/data", runs_dir=home / "runs", pretrained="~/weights.pt", backbone="RN50")
    assert (settings.data_root, settings.runs_dir, settings.pretrained) == (f"{home}/data", f"{home}/runs", f"{home}/weights.pt")
    assert RunSettings(runs_dir="./~odd").runs_dir == "./~odd"


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
              dict(rounding="floor"), dict(descriptions="cupl.json"), dict(descriptions="there/other.json"),
              dict(classes="all"), dict(classes="sessions"), dict(class_split=0), dict(class_split=1), dict(measured_on="val"), dict(views=2), dict(num_clusters=2),
              dict(backbone="RN50", pretrained="none"), dict(backbone="RN50", pretrained="w.pt"), dict(pretrained="w.pt"), dict(pretrained="none"),
              dict(tau=0.1234567), dict(tau=0.12345671), dict(learner="coop", learner_settings=dict(ctx_init="a b", n_ctx=2)),
              dict(learner="coop", learner_settings=dict(ctx_init="a_b", n_ctx=2)), dict(learner="coop", learner_settings=dict(ctx_init="a/b", n_ctx=2)),
              dict(learner="coop", learner_settings=dict(ctx_init="a-b", n_ctx=2)), dict(learner="coop", learner_settings=dict(ctx_init="a,n_ctx=2")),
              dict(learner="coop", learner_settings=dict(ctx_init="None")), dict(learner="coop", learner_settings=dict(ctx_init=None)),
              dict(epochs=3), dict(epochs=4), dict(batch_size=3), dict(lr=0.1), dict(lr=0.01), dict(optimizer="adam"), dict(optimizer="sgd"), dict(weight_decay=0.0),
              dict(template="a {}."), dict(template="the {}."), dict(precision="fp32"), dict(precision="tf32"), dict(precision="bf16"), dict(epochs=3, lr=0.1)]
    folders = [RunSettings(**usual | other).folder for other in ({}, *others)]
    assert all(one != other for one, other in combinations(folders, 2))
    assert {name for other in others for name in other} == RunSettings.model_fields.keys() - _NOT_IN_NAMES - {"dataset"}, "try every setting"


def test_what_changes_no_number_is_no_part_of_the_folder():
    others = [dict(device="cuda"), dict(data_root="there"), dict(prepare=False), dict(workers=2), dict(memory_budget=1.0), dict(graphs=True),
              dict(measure_every=0)]
    assert {RunSettings(**other).folder for other in others} == {RunSettings().folder}
    assert {name for other in others for name in other} == _NOT_IN_NAMES - {"runs_dir"}


def test_a_file_of_descriptions_is_told_by_its_name_wherever_it_lies():
    here, there, other = (RunSettings(descriptions=path).folder for path in ("cupl.json", "there/cupl.json", "there/coprompt.json"))
    assert here == there != other and RunSettings(template="a {}.", descriptions="cupl.json").folder != here


def test_a_default_run_keeps_the_folder_that_it_had():
    assert RunSettings().folder.as_posix() == "runs/world/objects/maple+npt/tau1-shots16/seed1"
    assert RunSettings(dataset="dtd", learner="coop", tau=0.0625).folder.as_posix() == "runs/dtd/coop+npt/tau0.0625-shots16/seed1"
    own = RunSettings(learner="coop", learner_settings=dict(n_ctx=8, ctx_init=None, class_specific=True), profile="step", seed=2)
    assert own.folder.as_posix() == "runs/world/objects/coop,class_specific=True,ctx_init=None,n_ctx=8+npt/tau1-shots16-step/seed2"
    for name, mark in {"world": "", "few_shot": "", "incremental": "", "ablation": "-[0-9a-f]{8}"}.items():  # the last gives lr and epochs
        folders = [task.settings.folder.as_posix() for task in expand(read_grid(ROOT / "workflow" / "grids" / f"{name}.yaml"))]
        assert all(re.search(rf"/tau[\d.]+-shots\d+(-all|-sessions|-val|-half\d+|-clusters\d)*{mark}/seed\d+$", folder) for folder in folders)


def test_classes_in_sessions_are_told_by_the_folder():
    assert RunSettings(learner="coop", classes="sessions", class_split=2).folder.as_posix() == "runs/world/objects/coop+npt/tau1-shots16-sessions-half2/seed1"
    with pytest.raises(ValueError, match="classes='session'"):
        RunSettings(classes="session")


def test_another_clip_of_the_world_is_told_by_its_name_in_the_folder():
    folders = [RunSettings(pretrained=name).folder.as_posix() for name in (None, "world-2", "world-3")]
    assert folders == [f"runs/world/objects/maple+npt{name}/tau1-shots16/seed1" for name in ("", "@world-2", "@world-3")]
    photographs = RunSettings(dataset="dtd", learner="coop", backbone="world", pretrained="world-2", class_split=1).folder.as_posix()
    assert photographs == "runs/dtd/coop+npt@world-2/tau1-shots16-half1/seed1"


def test_long_names_are_cut_and_stay_apart():
    sums = [" + ".join(f"{(number + last) / 1000}*{name}" for number, name in enumerate(TERMS, start=1)) for last in (0, 100)]
    names = [RunSettings(objective=one).folder.parts[3] for one in sums]
    assert names[0] != names[1] and all(100 < len(name) <= 120 for name in names)


SHOWN = ("tau = 1.0\nseeds = [1, 2, 3]  # of the picks\nepochs = None\nrun_dir = None\ntop = 3\noverwrite = False\nbatch = {'coop': 32}\n"
         "targets = None\nrate = 1e-3\nout = 'there'")


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
    (dict(overwrite="false"), "overwrite='false': Input should be a valid boolean: write True or False. Give it by -p overwrite False"),
    (dict(overwrite=0), "overwrite=0"), (dict(overwrite=None), "overwrite=None"), (dict(tau=True), "tau=True"), (dict(epochs=2.0), "epochs=2.0"),
    (dict(seeds=[True]), "seeds=[True]"), (dict(seeds=[-1]), "greater than or equal to 0"), (dict(seeds=[2**63]), "less than 92"),
    (dict(seeds=[]), "at least 1 item"), (dict(top=0), "top=0: Input should be greater than or equal to 1"), (dict(top=10**30), "top=1000"),
    (dict(top=None), "top=None"), (dict(run_dir=""), "run_dir='': it is no path"), (dict(run_dir=["one", "other"]), "run_dir=['one'"),
    (dict(batch={"coop": 0}), "batch={'coop': 0}"), (dict(targets=""), "targets=''"), (dict(targets=3), "targets=3"), (dict(rate=0.0), "rate=0.0"),
    (dict(rate=float("inf")), "rate=inf"), (dict(out=""), "out=''"),
    (dict(seeds="1 2"), "seeds='1 2': Input should be a valid list. Give it by -y 'seeds: [1, 2, 3]'"),
    (dict(seeds=[1, "2"]), "seeds=[1, '2']: Input should be a valid integer"), (dict(top=2.5), "top=2.5: Input should be a valid integer"),
    (dict(top="3"), "top='3'"), (dict(run_dir=3), "run_dir=3: Input should be"), (dict(overwrite="yes"), "overwrite='yes'"),
    (dict(batch={"coop": "32"}), "batch={'coop': '32'}: Input should be a valid integer")], ids=str)
def test_a_value_of_another_kind_is_refused_with_the_name(bad, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_parameters(given(**bad))


def test_values_of_the_right_kind_pass():
    check_parameters(given(tau=1, seeds=[4], epochs=None, run_dir="runs", top=1, overwrite=True, batch={"maple": 4}))
    check_parameters(given(targets=["one", "other"], run_dir="~/one", epochs=2, rate=1, out="~/x"))
    check_parameters({})


def test_what_a_run_may_fetch_is_a_yes_a_no_or_a_size():
    given = {True: 2e9, False: 0, "10GB": 1e10, "1.5 TB": 1.5e12, "300MB": 3e8}
    assert {prepare: _bytes_agreed(RunSettings(prepare=prepare).prepare) for prepare in given} == given
    for wrong in "false", "10", "10gb", "-1GB", "", "9" * 99 + "GB", 1, None, 1e9:
        with pytest.raises(ValueError, match="prepare"):
            RunSettings(prepare=wrong)
