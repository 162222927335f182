"The fifteen published datasets end to end, in miniature: from a server's archives to the metrics of a run."

import json
import warnings
from dataclasses import replace

import pytest
from miniature import CLASSNAMES, PUBLISHED, make_mirror
from server import serve

import npt.data.prepare
from npt.data.datasets import DATASETS, find_dataset
from npt.data.imbalance import long_tail_counts
from npt.data.load import load_dataset
from npt.study.runs import do_run, set_up
from npt.study.settings import RunSettings

FEW_IMAGES = "ignore:.*(fewer than|differ slightly).*"


@pytest.fixture
def published(tmp_path, monkeypatch):
    "Serve a dataset's miniature as if its own hosts did, ImageNet's too; gives a data_root that is still empty."
    with serve(tmp_path / "mirror") as server:
        def publish(name):
            record = make_mirror(name, server.folder)
            here = [replace(download, url=f"{server.url}/{name}/{download.name}") for download in record.downloads]
            record = replace(record, downloads=tuple(here), manual="")
            monkeypatch.setitem(DATASETS, name, record)
            monkeypatch.setitem(npt.data.prepare._PREPARED, name, record)
            return record

        yield publish, tmp_path / "data"


@pytest.mark.filterwarnings(FEW_IMAGES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_from_the_archives_to_a_run(name, published, tmp_path):
    publish, root = published
    record = publish(name)
    learner = "zero_shot" if record.test_only else "coop"
    settings = RunSettings(dataset=name, learner=learner, data_root=str(root), runs_dir=str(tmp_path / "runs"), shots=2, epochs=1)
    metrics = do_run(settings)
    names, base = CLASSNAMES[name], (len(CLASSNAMES[name]) + 1) // 2
    assert metrics["train_counts"] == dict.fromkeys(names[:base], 0 if record.test_only else 2)
    assert 0 <= metrics["base"] <= 100 and 0 <= metrics["novel"] <= 100
    assert len(metrics["base_per_class"]) == base and len(metrics["novel_per_class"]) == len(names) - base
    data = load_dataset(name, root=root, shots=2)
    assert data.all.classnames == tuple(names) and set(data.all.test.counts) == {3}


def test_a_run_fetches_what_is_missing_and_says_so(published, capsys):
    publish, root = published
    publish("dtd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_up(RunSettings(dataset="dtd", data_root=str(root), runs_dir=str(root / "runs"), shots=1))
    said = capsys.readouterr().out
    assert "dtd-r1.0.1.tar.gz" in said and "research" in said
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        set_up(RunSettings(dataset="dtd", data_root=str(root), runs_dir=str(root / "runs"), shots=1))
    assert "dtd-r1.0.1.tar.gz" not in capsys.readouterr().out


def test_a_run_fetches_nothing_when_told_so(published):
    publish, root = published
    publish("dtd")
    with pytest.raises(FileNotFoundError, match="prepare.py dtd"):
        set_up(RunSettings(dataset="dtd", data_root=str(root), prepare=False))
    assert not root.exists()


def test_without_network_a_run_says_what_to_do(tmp_path, monkeypatch):
    record = find_dataset("dtd")
    nowhere = tuple(replace(download, url="http://127.0.0.1:9/" + download.name) for download in record.downloads)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(npt.data.prepare._PREPARED, "dtd", replace(record, downloads=nowhere))
    monkeypatch.setitem(DATASETS, "dtd", replace(record, downloads=nowhere))
    with pytest.raises(ConnectionError) as caught:
        set_up(RunSettings(dataset="dtd", data_root=str(tmp_path / "data")))
    for part in "http://127.0.0.1:9/dtd-r1.0.1.tar.gz", str(tmp_path / "data"), "prepare.py dtd":
        assert part in str(caught.value)


def test_imagenet_is_asked_for_with_its_steps(tmp_path):
    with pytest.raises(FileNotFoundError, match="image-net.org"):
        set_up(RunSettings(dataset="imagenet", data_root=str(tmp_path)))


def test_a_test_set_trains_nothing(tmp_path):
    with pytest.raises(ValueError, match="zero_shot"):
        set_up(RunSettings(dataset="imagenet_a", data_root=str(tmp_path)))


@pytest.mark.filterwarnings(FEW_IMAGES)
@pytest.mark.parametrize("profile", ["exp", "step"])
def test_a_long_tail_trains_on_the_counts_of_the_profile(profile, published, tmp_path):
    publish, root = published
    publish("dtd")
    settings = RunSettings(dataset="dtd", data_root=str(root), runs_dir=str(tmp_path / "runs"), shots=4, tau=0.25, profile=profile,
                           epochs=1)  # fmt: skip
    counts = do_run(settings)["train_counts"]
    assert list(counts.values()) == long_tail_counts(3, 4, tau=0.25, profile=profile)
    assert json.loads((settings.folder / "config.json").read_text())["tau"] == 0.25
