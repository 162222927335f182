"Confidence against accuracy, and prompts of one run on other datasets: measured once, kept whole, refused where senseless."

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miniature import CLASSNAMES, make_tree

import npt.transfer
from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.data.datasets import DATASETS, find_dataset
from npt.training.calibration import _BINS, calibration_error, reliability_bins
from npt.training.evaluation import evaluate, outputs
from npt.figures.run import reliability, transfer_bars
from npt.learners.build import build_learner
from npt.study.collect import collect_runs
from npt.study.folder import RunFolder
from npt.study.runs import do_run
from npt.study.settings import RunSettings
from npt.study.transfer import _accuracy_among, _collect_transfers, _kind_of, default_targets, read_transfer, transfer
from npt.study.restore import load_run
from npt.world.label_sets import _PER_CLASS

MEASURE, BIND = npt.study.transfer._measure, npt.study.transfer._bind
pytestmark = pytest.mark.filterwarnings("ignore:.*split_zhou.*so a split was made")
COMMON = dict(dataset="world/textures", shots=1, epochs=1, measured_on="val")


@pytest.fixture(scope="module", autouse=True)
def few_pictures():
    "A tenth of the offline world's pictures, which would take a minute to draw."
    with pytest.MonkeyPatch.context() as patch:
        for split in ("test", "val"):
            patch.setitem(_PER_CLASS, split, 8)
        yield


# ---- calibration


def by_hand(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    "ECE in percent, image by image and bin by bin, in 64-bit floats."
    logits = logits.astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    confidence, right = shares.max(1), shares.argmax(1) == labels
    total = 0.0
    for number in range(bins):
        inside = (confidence > number / bins) & (confidence <= (number + 1) / bins)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * total / len(labels)


@pytest.mark.parametrize("seed, images, classes, scale", [(0, 1000, 2, 1), (1, 500, 10, 4), (2, 99, 100, 3), (3, 7, 5, 10)])
def test_calibration_error_is_that_of_numpy(seed, images, classes, scale):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    logits = (scale * rng.normal(size=(images, classes))).astype(np.float32)
    logits[np.arange(images), labels] += scale
    bins = reliability_bins(torch.tensor(logits), torch.tensor(labels))
    assert calibration_error(bins) == pytest.approx(by_hand(logits, labels), abs=1e-4)
    assert bins.images.sum() == images and ((bins.low < bins.confidence) & (bins.confidence <= bins.high + 1e-5)).all()
    accuracy = 100 * (logits.argmax(1) == labels).mean()
    assert np.average(bins.accuracy, weights=bins.images) == pytest.approx(accuracy)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 6))
def test_calibration_error_is_a_share_and_has_no_order(seed, images, classes):
    generator = torch.Generator().manual_seed(seed)
    logits, order = 5 * torch.randn(images, classes, generator=generator), torch.randperm(images, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    error = calibration_error(reliability_bins(logits, labels))
    assert 0 <= error <= 100 and error == pytest.approx(calibration_error(reliability_bins(logits[order], labels[order])))
    assert error == pytest.approx(calibration_error(reliability_bins(logits - 1000, labels)), abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_confidence_at_an_edge_belongs_to_the_lower_bin(dtype):
    for classes, upper in (3, 5), (5, 3), (15, 1), (1, 15):  # classes that are level: a confidence of 1/classes = upper/15
        bins = reliability_bins(torch.full((4, classes), 3.0, dtype=dtype), torch.zeros(4, dtype=torch.int64))
        assert bins.images.tolist() == [4] and bins.high.tolist() == pytest.approx([100 * upper / _BINS])
        assert calibration_error(bins) == pytest.approx(100 - 100 / classes, abs=1e-4)


def test_calibration_of_one_image_and_of_all_right():
    one = reliability_bins(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    assert len(one) == 1 and calibration_error(one) == pytest.approx(100 / (1 + np.exp(-1)))
    sure = 1000 * torch.eye(4)[torch.tensor([0, 1, 2, 3, 3])]
    assert calibration_error(reliability_bins(sure, torch.tensor([0, 1, 2, 3, 3]))) == 0
    assert calibration_error(reliability_bins(sure, torch.tensor([1, 2, 3, 0, 0]))) == 100
    masked = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert not reliability_bins(masked, torch.tensor([0, 0])).isna().any(axis=None)


def test_no_confidence_is_refused():
    with pytest.raises(ValueError, match="1 of 2 images have no confidence"):
        reliability_bins(torch.tensor([[0.0, 1.0], [torch.nan, 1.0]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no images"):
        reliability_bins(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


def test_evaluate_says_how_far_confidence_is_off():
    split = load_dataset("world/textures", shots=1).novel.test
    zero_shot = build_learner("zero_shot", load_clip("world"), split.classnames)
    found = outputs(zero_shot, split)
    assert evaluate(zero_shot, split)["ece"] == pytest.approx(by_hand(found.logits.numpy(), found.labels.numpy()), abs=1e-3)


def test_figures_of_odd_tables():
    one = reliability_bins(torch.tensor([[2.0, 1.0]]), torch.tensor([1]))
    assert len(reliability({"one": one}).data) == 4 and len(reliability({"a": one, "b": one, "c": one}).data) == 12
    row = pd.DataFrame(dict(kind=["source"], accuracy=[0.0], zero_shot=[100.0], difference=[-100.0]), index=["a/" + "long" * 20])
    assert len(transfer_bars(row).data) == 2
    for draw, nothing in (reliability, {}), (transfer_bars, row[:0]):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw(nothing)


# ---- transfer


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    settings = RunSettings(runs_dir=str(tmp_path_factory.mktemp("runs")), **COMMON)
    return settings.folder, do_run(settings)


@pytest.fixture
def run_dir(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def test_metrics_hold_calibration_and_old_ones_are_still_read(trained, tmp_path):
    metrics = trained[1]
    for measured in metrics, metrics["zero_shot"]:
        assert 0 <= measured["base_ece"] <= 100 and 0 <= measured["novel_ece"] <= 100
    for name, old in ("new", False), ("old", True):
        shutil.copytree(trained[0], tmp_path / name)
        if old:
            kept = {key: value for key, value in metrics.items() if "ece" not in key}
            (tmp_path / name / "metrics.json").write_text(json.dumps(kept))
    table = collect_runs(tmp_path)
    assert table.base_ece.isna().tolist() == [False, True] and table.h.nunique() == 1


def test_rows_are_evaluations_and_the_source_is_first(run_dir):
    result = transfer(run_dir, ["world/scenes", "world/shapes-noisy", "world/scenes"])
    assert [(row.target, row.kind) for row in result.rows] == [
        ("world/textures", "source"), ("world/scenes", "dataset"), ("world/shapes-noisy", "dataset")]
    learner = load_run(run_dir)
    for row in result.rows:
        data = load_dataset(row.target).all
        zero_shot = build_learner("zero_shot", learner.clip, data.classnames, find_dataset(row.target).template)
        after, before = (evaluate(one, data.test) for one in (learner.for_classes(data.classnames), zero_shot))
        assert (row.accuracy, row.macro_accuracy, row.ece) == (after["accuracy"], after["macro_accuracy"], after["ece"])
        assert (row.zero_shot, row.zero_shot_macro) == (before["accuracy"], before["macro_accuracy"])
        assert row.difference == row.accuracy - row.zero_shot and row.images == len(data.test)
        assert (row.collapse["nc2_text_equiangularity"] > 0) and set(row.collapse) == set(row.zero_shot_collapse)
    table = result.table()
    assert table.index[-1] == "mean of 2 other datasets" and table.kind.tolist()[-1] == "mean"
    assert table.accuracy.iloc[-1] == pytest.approx(table.accuracy[["world/scenes", "world/shapes-noisy"]].mean())


def test_domains_have_a_mean_of_their_own_and_trained_classes_apart(tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path), **COMMON | dict(dataset="world/shapes-noisy", measured_on="test"))
    metrics = do_run(settings)
    result = transfer(settings.folder, ["world/shapes-sketch", "world/textures"])
    assert [row.kind for row in result.rows] == ["source", "dataset", "domain"]
    assert [row.trained_classes for row in result.rows] == [32, 0, 32]
    assert result.rows[0].trained_accuracy == pytest.approx(metrics["base"], abs=1e-4)
    assert result.rows[1].trained_accuracy is None and result.rows[1].trained_zero_shot is None
    sketch, learner = load_dataset("world/shapes-sketch").base.test, load_run(settings.folder)
    assert result.rows[2].trained_accuracy == pytest.approx(evaluate(learner, sketch)["accuracy"], abs=1e-4)
    assert result.table().index.tolist()[-2:] == ["mean of 1 other datasets", "mean of 1 domains"]


def test_accuracy_among_no_images_is_none():
    split = load_dataset("world/textures", shots=1).all.test
    found = outputs(build_learner("zero_shot", load_clip("world"), split.classnames), split)
    assert _accuracy_among(found, torch.zeros(16, dtype=torch.bool)) is None
    assert _accuracy_among(found, torch.arange(16) == 3) == 100, "one class is always right among itself"


def test_finished_targets_are_found(run_dir, monkeypatch):
    first = transfer(run_dir, ["world/scenes"])
    asked = []
    monkeypatch.setattr(npt.transfer, "measure", lambda *args: asked.append(args[3].record.name) or MEASURE(*args))
    more = transfer(run_dir, ["world/scenes", "world/shapes"])
    assert asked == ["world/shapes"] and all(row in more.rows for row in first.rows)
    monkeypatch.setattr(npt.transfer, "load_run", None)  # nothing left to load
    assert transfer(run_dir, ["world/scenes"]) == first.model_copy(update=dict(versions=more.versions))


def test_other_prompts_have_no_results_yet(trained, run_dir, tmp_path):
    first = transfer(run_dir, ["world/scenes"])
    other = RunSettings(runs_dir=str(tmp_path / "other"), **COMMON | dict(seed=2))
    do_run(other)
    shutil.copy(other.folder / "prompts.safetensors", run_dir)
    again = transfer(run_dir, ["world/scenes"])
    assert again.prompts != first.prompts and again.rows[1].ece != first.rows[1].ece


def test_a_killed_transfer_keeps_what_is_done(run_dir, monkeypatch):
    def killed_at_the_third(learner, bound, zero_shot, split, kind):
        if split.record.name == "world/shapes":
            raise KeyboardInterrupt
        return MEASURE(learner, bound, zero_shot, split, kind)

    monkeypatch.setattr(npt.transfer, "measure", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        transfer(run_dir, ["world/scenes", "world/shapes"])
    kept = read_transfer(run_dir / "transfer.json")
    assert [row.target for row in kept.rows] == ["world/textures", "world/scenes"]
    assert not [path for path in run_dir.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("own", [dict(learner_settings=dict(class_specific=True)), dict(learner="tip_adapter")])
def test_what_belongs_to_its_classes_is_refused(own, tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path), **COMMON | own)
    do_run(settings)
    with pytest.raises(ValueError, match="transfer"):
        transfer(settings.folder, ["world/scenes"])
    assert not (settings.folder / "transfer.json").exists()


def test_bad_requests_are_refused_before_anything_is_measured(run_dir, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'world/scenes'"):
        transfer(run_dir, ["world/shapes", "world/scene"])
    with pytest.raises(ValueError, match="a list of names"):
        transfer(run_dir, "world/scenes")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        transfer(tmp_path / "nowhere")
    (run_dir / "metrics.json").unlink()
    with pytest.raises(ValueError, match="not finished"):
        transfer(run_dir)
    assert not (run_dir / "transfer.json").exists()


@pytest.mark.parametrize("damage", ["{", "[]", '{"source": "a", "prompts": 5}', '{"source": "a", "prompts": "b", "rows": [{}]}'])
def test_damaged_results_are_named(run_dir, damage):
    (run_dir / "transfer.json").write_text(damage)
    with pytest.raises(ValueError, match="transfer.json' is damaged.*delete it"):
        transfer(run_dir, ["world/scenes"])


def test_learners_use_the_templates_of_the_target(run_dir, tmp_path, monkeypatch):
    "A learner with a hand-written prompt of its own is given the target's; a prompt that the user chose stays."
    shapes, asked = DATASETS["world/scenes"], []
    monkeypatch.setattr(npt.transfer, "bind", lambda *given: asked.append(given[2]) or BIND(*given))
    transfer(run_dir, ["world/scenes"])
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps(config | dict(template="a drawing of a {}.")))
    (run_dir / "transfer.json").unlink()
    transfer(run_dir, ["world/scenes"])
    assert asked == [DATASETS["world/textures"].template, shapes.template] + ["a drawing of a {}."] * 2
    adapter = build_learner("clip_adapter", load_clip("world"), ["red striped circle"], template="a photo of a {}.")
    bound, zero_shot = BIND(adapter, load_dataset("world/textures").all.test, "a drawing of a {}.")
    assert torch.equal(bound.text_features(), zero_shot.text_features()) and adapter.template == "a photo of a {}."


# ---- published datasets, in miniature


PLACES = ["dtd", "eurosat", "imagenet_v2", "imagenet_a", "imagenet_r"]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[Path, Path]:
    "A run on a small ImageNet with the offline world's CLIP, and the data_root, where most of the targets are missing."
    root = tmp_path_factory.mktemp("data")
    for name in ["imagenet", *PLACES]:
        make_tree(name, root)
    settings = RunSettings(**COMMON | dict(dataset="imagenet", data_root=str(root), prepare=False,
                                           runs_dir=str(tmp_path_factory.mktemp("runs"))))
    do_run(settings)
    return settings.folder, root


def test_imagenet_to_what_is_there_and_the_rest_is_listed(published):
    run, root = published
    result = transfer(run)
    assert [row.target for row in result.rows] == ["imagenet", "dtd", "eurosat", "imagenet_v2", "imagenet_a", "imagenet_r"]
    assert [row.classes for row in result.rows] == [len(CLASSNAMES[row.target]) for row in result.rows]
    assert set(result.missing) == {name for name in default_targets(find_dataset("imagenet")) if name not in PLACES}
    assert all(name in cause and "prepare.py" in cause for name, cause in result.missing.items())
    names = result.table().index.tolist()
    assert names[-2:] == ["mean of 2 of 10 other datasets", "mean of 3 of 4 domains"]
    shown = _collect_transfers(run.parents[2])
    assert shown.target.tolist() == [row.target for row in result.rows] and (shown.dataset == "imagenet").all()


def test_a_named_target_that_is_missing_is_an_error_and_others_are_kept(published, tmp_path):
    run = Path(shutil.copytree(published[0], tmp_path / "run"))
    (run / "transfer.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"1 of 3 datasets.*\n- food101: .*missing"):
        transfer(run, ["food101", "dtd"])
    kept = read_transfer(run / "transfer.json")
    assert [row.target for row in kept.rows] == ["imagenet", "dtd"] and list(kept.missing) == ["food101"]
    root = tmp_path / "elsewhere"
    make_tree("food101", root)
    result = transfer(run, ["food101", "dtd"], data_root=root)
    assert [row.target for row in result.rows] == ["imagenet", "food101", "dtd"] and not result.missing


def test_broken_images_are_a_cause(published, tmp_path):
    root, run = tmp_path / "data", Path(shutil.copytree(published[0], tmp_path / "run"))
    (run / "transfer.json").unlink(missing_ok=True)
    folder = make_tree("dtd", root)
    make_tree("eurosat", root)
    for image in (folder / "images" / "banded").iterdir():
        image.write_text("not a picture")
    with pytest.raises(FileNotFoundError, match="dtd: [\\s\\S]*cannot be read"):
        transfer(run, ["dtd", "eurosat"], data_root=root)
    assert "eurosat" in [row.target for row in read_transfer(run / "transfer.json").rows]


def test_what_fits_which_source():
    kinds = {name: _kind_of(find_dataset(name), find_dataset("imagenet")) for name in DATASETS}
    assert {name for name, kind in kinds.items() if kind == "domain"} == {f"imagenet_{which}" for which in "v2 sketch a r".split()}
    assert _kind_of(find_dataset("imagenet_a"), find_dataset("dtd")) == "dataset"
    assert len(default_targets(find_dataset("imagenet"))) == 14 and len(default_targets(find_dataset("dtd"))) == 10
    with pytest.raises(ValueError, match="name the targets"):
        default_targets(find_dataset("folder"))


def test_photographs_of_ones_own_as_source(noise_folder, tmp_path):
    settings = RunSettings(**COMMON | dict(dataset="folder", data_root=str(noise_folder), runs_dir=str(tmp_path)))
    do_run(settings)
    result = transfer(settings.folder, ["world/textures"], data_root="nowhere")
    assert [(row.target, row.classes) for row in result.rows] == [("folder", 4), ("world/textures", 16)]
    assert (RunFolder(settings.folder).path / "transfer.json").exists()
