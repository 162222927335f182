"Prompts of one run on other datasets: measured once, kept whole, refused where senseless."

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import papermill
import pytest
import torch
from conftest import ROOT
from miniature import CLASSNAMES, make_tree
from PIL import Image
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from tiny import tiny_backbones
from trained import write_texts

import npt.study.transfer
from npt.clip.load import load_clip
from npt.data.datasets import DATASETS, find_dataset
from npt.data.features import split_features
from npt.data.load import load_dataset
from npt.learners.base import Learner
from npt.learners.build import build_learner
from npt.study.collect import collect_runs
from npt.study.folder import RunFolder
from npt.study.restore import load_run
from npt.study.results import Results, read_results, write_results
from npt.study.runs import do_run
from npt.study.settings import RunSettings
from npt.study.transfer import (
    _accuracy_among,
    _collect_transfers,
    _kind_of,
    _known_by,
    _refuse_bound,
    _told_apart,
    _write_transfer,
    default_targets,
    read_transfer,
    transfer,
)
from npt.training.evaluation import evaluate, outputs
from npt.world.label_sets import _PER_CLASS

MEASURE, BIND = npt.study.transfer._measure, npt.study.transfer._bind
pytestmark = [pytest.mark.filterwarnings("ignore:.*split_zhou.*so a split was made"),
              pytest.mark.filterwarnings("ignore:a run without SHA256SUMS")]
COMMON = dict(dataset="world/textures", learner="coop", backbone="world", shots=1, epochs=1, measured_on="val")


@pytest.fixture(scope="module", autouse=True)
def few_pictures():
    "A tenth of the offline world's pictures, which would take a minute to draw."
    with pytest.MonkeyPatch.context() as patch:
        for split in ("test", "val"):
            patch.setitem(_PER_CLASS, split, 8)
        yield


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
            (tmp_path / name / "SHA256SUMS").unlink()
    table = collect_runs(tmp_path)
    assert table.base_ece.isna().tolist() == [False, True] and table.h.nunique() == 1


def test_rows_are_evaluations_and_the_source_is_first(run_dir):
    result = transfer(run_dir, targets=["world/scenes", "world/objects-noisy", "world/scenes"])
    assert [(row.target, row.kind) for row in result.rows] == [
        ("world/textures", "source"), ("world/scenes", "dataset"), ("world/objects-noisy", "dataset")]
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
    assert table.accuracy.iloc[-1] == pytest.approx(table.accuracy[["world/scenes", "world/objects-noisy"]].mean())


def test_a_run_that_was_told_its_own_classes_asks_others_by_their_template(tmp_path):
    told = RunSettings(runs_dir=str(tmp_path / "told"), descriptions=write_texts(tmp_path / "texts.json"), **COMMON)
    plain = RunSettings(runs_dir=str(tmp_path / "plain"), **COMMON)
    do_run(told), do_run(plain)
    of_told, of_plain = ({row.target: row.zero_shot for row in transfer(one.folder, targets=["world/shapes", "world/textures"]).rows}
                         for one in (told, plain))
    assert of_told["world/shapes"] == of_plain["world/shapes"] and of_told["world/textures"] != of_plain["world/textures"]


@pytest.mark.parametrize("class_split", ["half", 3])
def test_domains_have_a_mean_of_their_own_and_trained_classes_apart(class_split, tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path), **COMMON | dict(dataset="world/objects", measured_on="test", class_split=class_split))
    metrics = do_run(settings)
    result = transfer(settings.folder, targets=["world/objects-sketch", "world/textures"])
    assert [row.kind for row in result.rows] == ["source", "dataset", "domain"]
    assert [row.trained_classes for row in result.rows] == [10, 0, 10]
    assert result.rows[0].trained_accuracy == pytest.approx(metrics["base"], abs=1e-4)
    assert result.rows[1].trained_accuracy is None and result.rows[1].trained_zero_shot is None
    sketch, learner = load_dataset("world/objects-sketch", class_split=class_split).base.test, load_run(settings.folder)
    assert result.rows[2].trained_accuracy == pytest.approx(evaluate(learner, sketch)["accuracy"], abs=1e-4)
    assert result.table().index.tolist()[-2:] == ["mean of 1 other datasets", "mean of 1 domains"]


def test_accuracy_among_no_images_is_none():
    split = load_dataset("world/textures", shots=1).all.test
    seen = outputs(build_learner("zero_shot", load_clip("world"), split.classnames), split)
    assert _accuracy_among(seen, torch.zeros(16, dtype=torch.bool)) is None
    assert _accuracy_among(seen, torch.arange(16) == 3) == 100, "one class is always right among itself"


def test_finished_targets_are_found(run_dir, monkeypatch):
    first = transfer(run_dir, targets=["world/scenes"])
    asked = []
    monkeypatch.setattr(npt.study.transfer, "_measure", lambda *args: asked.append(args[3].record.name) or MEASURE(*args))
    more = transfer(run_dir, targets=["world/scenes", "world/shapes"])
    assert asked == ["world/shapes"] and all(row in more.rows for row in first.rows)
    monkeypatch.setattr(npt.study.transfer, "load_run", None)  # nothing left to load
    assert transfer(run_dir, targets=["world/scenes"]) == first.model_copy(update=dict(versions=more.versions))


def test_other_prompts_have_no_results_yet(trained, run_dir, tmp_path):
    first = transfer(run_dir, targets=["world/scenes"])
    other = RunSettings(runs_dir=str(tmp_path / "other"), **COMMON | dict(seed=2))
    do_run(other)
    shutil.copy(other.folder / "prompts.safetensors", run_dir)
    with pytest.raises(ValueError, match="prompts.safetensors' is damaged .it is not as the run wrote it"):
        transfer(run_dir, targets=["world/scenes"])
    (run_dir / "SHA256SUMS").unlink()
    again = transfer(run_dir, targets=["world/scenes"])
    assert again.prompts != first.prompts and again.rows[1].ece != first.rows[1].ece


def test_a_killed_transfer_keeps_what_is_done(run_dir, monkeypatch, capfd):
    def killed_at_the_third(learner, bound, zero_shot, split, *more):
        if split.record.name == "world/shapes":
            raise KeyboardInterrupt
        return MEASURE(learner, bound, zero_shot, split, *more)

    monkeypatch.setattr(npt.study.transfer, "_measure", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        transfer(run_dir, targets=["world/scenes", "world/shapes"])
    assert capfd.readouterr().err.splitlines()[-1].startswith("Interrupted: the targets that are measured are kept")
    kept = read_transfer(run_dir / "transfer.json")
    assert [row.target for row in kept.rows] == ["world/textures", "world/scenes"]
    assert not [path for path in run_dir.iterdir() if path.name.startswith(".") and path.name != ".lock"]


@pytest.mark.parametrize("own", [dict(learner_settings=dict(class_specific=True)), dict(learner="tip_adapter")])
def test_what_belongs_to_its_classes_is_refused(own, tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path), **COMMON | own)
    do_run(settings)
    with pytest.raises(ValueError, match="transfer"):
        transfer(settings.folder, targets=["world/scenes"])
    assert not (settings.folder / "transfer.json").exists()


def test_bad_requests_are_refused_before_anything_is_measured(run_dir, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'world/scenes'"):
        transfer(run_dir, targets=["world/shapes", "world/scene"])
    with pytest.raises(ValueError, match="a list of names"):
        transfer(run_dir, targets="world/scenes")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        transfer(tmp_path / "nowhere")
    (run_dir / "metrics.json").unlink()
    with pytest.raises(ValueError, match="not finished"):
        transfer(run_dir)
    assert not (run_dir / "transfer.json").exists()


def test_a_result_on_a_dataset_that_is_no_more_is_kept(run_dir):
    first, path = transfer(run_dir, targets=["world/scenes"]), run_dir / "transfer.json"
    gone = first.rows[1].model_copy(update=dict(target="world/shapes-sketch"))
    _write_transfer(first.model_copy(update=dict(rows=(*first.rows, gone))), path)
    more = transfer(run_dir, targets=["world/shapes"])
    assert [row.target for row in more.rows] == ["world/textures", "world/shapes"]
    assert [row.target for row in read_transfer(path).rows] == ["world/textures", "world/shapes", "world/scenes", "world/shapes-sketch"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"source": "a", "prompts": 5}', '{"source": "a", "prompts": "b", "rows": [{}]}'])
def test_damaged_results_are_named(run_dir, damage):
    (run_dir / "transfer.json").write_text(damage)
    with pytest.raises(ValueError, match="transfer.json' is damaged.*delete it"):
        transfer(run_dir, targets=["world/scenes"])


def test_an_edited_number_is_seen(run_dir):
    first, path = transfer(run_dir, targets=["world/scenes"]), run_dir / "transfer.json"
    assert read_transfer(path) == first
    written = path.read_text()
    path.write_text(written.replace(f'"zero_shot": {first.rows[1].zero_shot}', '"zero_shot": 99.5'))
    assert path.read_text() != written
    for read in lambda: read_transfer(path), lambda: transfer(run_dir, targets=["world/scenes"]), lambda: _collect_transfers(run_dir):
        with pytest.raises(ValueError, match="transfer.json' is damaged .it is not as it was written.*delete it"):
            read()
    older = json.loads(written)
    del older["checksum"]
    path.write_text(json.dumps(older))
    assert read_transfer(path) == first


def test_learners_use_the_templates_of_the_target(run_dir, tmp_path, monkeypatch):
    "A learner with a hand-written prompt of its own is given the target's; a prompt that the user chose stays."
    scenes, asked = DATASETS["world/scenes"], []
    monkeypatch.setattr(npt.study.transfer, "_bind", lambda *given: asked.append(given[2]) or BIND(*given))
    transfer(run_dir, targets=["world/scenes"])
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps(config | dict(template="a drawing of a {}.")))
    (run_dir / "SHA256SUMS").unlink()
    (run_dir / "transfer.json").unlink()
    transfer(run_dir, targets=["world/scenes"])
    assert asked == [DATASETS["world/textures"].template, scenes.template] + ["a drawing of a {}."] * 2
    adapter = build_learner("clip_adapter", load_clip("world"), ["red striped circle"], template="a photo of a {}.")
    bound, zero_shot = BIND(adapter, load_dataset("world/textures").all.test, "a drawing of a {}.", adapter.template)
    assert torch.equal(bound.text_features(), zero_shot.text_features()) and adapter.template == "a photo of a {}."


def scores_by_hand(image, logits, scale, train, labels) -> dict:
    "The four scores, in NumPy; the span is that of the class means by their pairwise differences."
    logits, scale = logits.double().numpy(), float(scale)
    softmax = np.exp(logits / scale - (logits / scale).max(1, keepdims=True))
    means = np.stack([train.double().numpy()[labels == label].mean(0) for label in np.unique(labels)])
    basis, apart = np.linalg.qr((means[1:] - means[0]).T)[0], image.double().numpy() - means.mean(0)
    top = logits.max(1)
    return dict(mcm=(softmax / softmax.sum(1, keepdims=True)).max(1), max_logit=top, energy=top + np.log(np.exp(logits - top[:, None]).sum(1)),
                neco=np.linalg.norm(apart @ basis, axis=1) / np.linalg.norm(apart, axis=1))


def detection_by_hand(learner, part, on, target) -> dict:
    "Detection of a target's images by a learner of frozen image features, with scikit-learn."
    train, labels = (tensor.cpu() for tensor in split_features(learner.clip, part.train))
    with torch.no_grad():
        text = learner.text_features()
        made = [(image, learner.logit_scale * image @ text.T) for image in (split_features(learner.clip, split)[0] for split in (getattr(part, on), target))]
    known, unknown = (scores_by_hand(image, logits, learner.logit_scale, train, labels.numpy()) for image, logits in made)
    truth, found = np.r_[np.ones(len(made[0][0])), np.zeros(len(made[1][0]))], {}
    for name in known:
        values = np.r_[known[name], unknown[name]]
        fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
        for what, value in dict(auroc=roc_auc_score(truth, values), fpr95=fpr[np.argmax(tpr >= 0.95)], aupr=average_precision_score(truth, values)).items():
            found[f"{name}_{what}"] = 100 * value
    return found


@pytest.mark.parametrize("classes, on", [("base", "val"), ("all", "test")])
def test_detection_is_that_of_the_trained_names_by_hand(classes, on, tmp_path):
    settings = RunSettings(runs_dir=str(tmp_path), **COMMON | dict(dataset="world/objects", shots=2, classes=classes, measured_on=on))
    do_run(settings)
    result = transfer(settings.folder, targets=["world/scenes", "world/objects-noisy"])
    learner, part = load_run(settings.folder), getattr(load_dataset("world/objects", shots=2), classes)
    zero_shot = build_learner("zero_shot", learner.clip, part.classnames, template=find_dataset("world/objects").template)
    assert result.rows[0].detection is None and result.rows[0].zero_shot_detection is None and len(result.rows) == 3
    for row in result.rows[1:]:
        for one, measured in (learner, row.detection), (zero_shot, row.zero_shot_detection):
            by_hand = detection_by_hand(one, part, on, load_dataset(row.target).all.test)
            assert measured.keys() == by_hand.keys() and len(measured) == 12
            assert all(measured[key] == pytest.approx(by_hand[key], abs=0.3 if "fpr" in key else 0.05) for key in by_hand), "ties in float32 may part"
    noisy, scenes = (next(row for row in result.rows if row.kind == kind) for kind in ("domain", "dataset"))
    table = result.detection_table()
    assert table.index.tolist() == ["world/scenes", "world/objects-noisy", "mean of 1 other datasets", "mean of 1 domains"]
    assert table.columns.tolist() == ["kind", *scenes.detection, *(f"zero_shot_{key}" for key in scenes.detection)]
    assert table.loc["mean of 1 domains", "mcm_auroc"] == noisy.detection["mcm_auroc"]
    assert table.loc["world/scenes", "zero_shot_neco_aupr"] == scenes.zero_shot_detection["neco_aupr"]


def test_means_of_detection_say_what_they_are_taken_over(run_dir):
    first = transfer(run_dir, targets=["world/scenes", "world/shapes"])
    rows = [row.model_copy(update=dict(detection=dict(mcm_auroc=value, neco_auroc=nan))) for row, value, nan in zip(first.rows[1:], (60.0, 80.0), (50.0, np.nan))]
    table = first.model_copy(update=dict(rows=(first.rows[0], *rows))).detection_table()
    assert table.loc["mean of 2 other datasets", "mcm_auroc"] == 70 and np.isnan(table.loc["mean of 2 other datasets", "neco_auroc"])
    lacking = rows[1].model_copy(update=dict(detection=None, zero_shot_detection=None))
    table = first.model_copy(update=dict(rows=(first.rows[0], rows[0], lacking), missing={"world/objects": "why"})).detection_table()
    assert table.index.tolist() == [rows[0].target, "mean of 1 of 3 other datasets"]
    assert first.only(["world/textures"]).detection_table().empty


def test_the_known_side_is_computed_once_and_only_for_other_datasets(run_dir, monkeypatch):
    asked = []
    known = npt.study.transfer._known_by
    monkeypatch.setattr(npt.study.transfer, "_known_by", lambda *given: asked.append(given[0].name) or known(*given))
    transfer(run_dir, targets=[])
    assert not asked
    transfer(run_dir, targets=["world/scenes", "world/shapes"])
    assert asked == ["coop", "zero_shot"]
    transfer(run_dir, targets=["world/scenes", "world/shapes"])
    assert len(asked) == 2


def test_results_from_before_detection_are_read_and_kept(run_dir, monkeypatch):
    first, path = transfer(run_dir, targets=["world/scenes"]), run_dir / "transfer.json"
    old = json.loads(path.read_text())
    del old["checksum"]
    old["rows"] = [{key: value for key, value in row.items() if "detection" not in key} for row in old["rows"]]
    old["checksum"] = hashlib.sha256(json.dumps(old, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
    path.write_text(json.dumps(old))
    found = read_transfer(path)
    assert found.rows == tuple(row.model_copy(update=dict(detection=None, zero_shot_detection=None)) for row in first.rows)
    more = transfer(run_dir, targets=["world/scenes", "world/shapes"])
    assert [(row.target, row.detection is not None) for row in more.rows] == [("world/textures", False), ("world/shapes", True), ("world/scenes", False)]
    assert read_transfer(path).rows == more.rows
    old["rows"][1]["accuracy"] += 1
    path.write_text(json.dumps(old))
    with pytest.raises(ValueError, match="its checksum is another"):
        read_transfer(path)


def test_detection_that_is_not_a_number_survives_and_an_edited_one_is_seen(run_dir):
    first, path = transfer(run_dir, targets=["world/scenes"]), run_dir / "transfer.json"
    row = first.rows[1].model_copy(update=dict(detection=first.rows[1].detection | dict(neco_auroc=float("nan"))))
    _write_transfer(first.model_copy(update=dict(rows=(first.rows[0], row))), path)
    found = read_transfer(path).rows[1].detection
    assert np.isnan(found["neco_auroc"]) and found["mcm_auroc"] == row.detection["mcm_auroc"]
    path.write_text(path.read_text().replace(f'"mcm_auroc": {row.detection["mcm_auroc"]}', '"mcm_auroc": 99.5'))
    with pytest.raises(ValueError, match="its checksum is another"):
        read_transfer(path)


class Swaying(Learner):
    "An image tower whose features turn with the number of names, or not, and that counts the images it sees."

    name, learns_image = "swaying", True

    def __init__(self, clip, classnames, turns):
        super().__init__(clip, turns=turns)
        self.seen = []
        self.prepare(classnames)

    def text_features(self):
        return build_learner("zero_shot", self.clip, self.classnames).text_features()

    def image_features(self, pixels):
        self.seen.append(len(pixels))
        return self.clip.encode_image(pixels).roll(len(self.classnames) if self.turns else 0, 1)


@pytest.mark.parametrize("turns", [False, True])
def test_features_that_follow_the_names_are_those_of_the_trained_ones(turns):
    part, target = load_dataset("world/textures", shots=2).base, load_dataset("world/scenes").all.test
    learner = Swaying(load_clip("world"), part.classnames, turns)
    made = outputs(learner.for_classes(target.classnames), target)
    known = _known_by(learner, part, "test")
    learner.seen.clear()
    found = _told_apart(known, target, made)
    assert (sum(learner.seen) >= len(target)) == turns and sum(learner.seen) < 2 * len(target)
    plain = build_learner("zero_shot", learner.clip, part.classnames)
    if not turns:
        assert found == pytest.approx(_told_apart(_known_by(plain, part, "test"), target, outputs(plain.for_classes(target.classnames), target)), abs=0.3)
    frozen = split_features(learner.clip, target)[0]
    given = _told_apart(known, target, replace(made, image=frozen.roll(len(part.classnames) if turns else 0, 1)))
    assert found == pytest.approx(given, abs=0.3), "whatever names the outputs were made with"
    assert not turns or (made.image - frozen.roll(len(part.classnames), 1)).abs().max() > 0.1


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
    assert {"seed", "backbone", "pretrained", "class_split"} <= set(shown), "what tells units apart"
    assert all(row.detection.keys() == row.zero_shot_detection.keys() for row in result.rows[1:]) and result.rows[0].detection is None
    assert shown.mcm_auroc.tolist()[1:] == [row.detection["mcm_auroc"] for row in result.rows[1:]] and shown.zero_shot_mcm_fpr95.isna().sum() == 1
    assert result.detection_table().index.tolist()[-2:] == names[-2:]


def test_files_of_a_grid_keep_detection(run_dir, tmp_path):
    result = transfer(run_dir, targets=["world/scenes"])
    runs = collect_runs(run_dir)
    write_results(Results(runs.assign(finished=True), runs, _collect_transfers(run_dir), runs[:0]), tmp_path / "tables")
    again = read_results(tmp_path / "tables").transfers
    assert again.energy_auroc[1] == pytest.approx(result.rows[1].detection["energy_auroc"], rel=1e-6) and np.isnan(again.energy_auroc[0])
    assert "detection" not in again


def test_without_the_sources_images_there_is_no_detection_and_targets_are_measured(published, tmp_path):
    run, root = Path(shutil.copytree(published[0], tmp_path / "run")), tmp_path / "elsewhere"
    (run / "transfer.json").unlink(missing_ok=True)
    make_tree("dtd", root)
    with pytest.warns(UserWarning, match="detection is left out, .*not at hand .*imagenet"), pytest.raises(FileNotFoundError, match="1 of 2"):
        transfer(run, targets=["dtd"], data_root=root)
    row, = read_transfer(run / "transfer.json").rows
    assert (row.target, row.detection, row.zero_shot_detection) == ("dtd", None, None)


def test_a_named_target_that_is_missing_is_an_error_and_others_are_kept(published, tmp_path):
    run = Path(shutil.copytree(published[0], tmp_path / "run"))
    (run / "transfer.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"1 of 3 datasets.*\n- food101: .*missing"):
        transfer(run, targets=["food101", "dtd"])
    kept = read_transfer(run / "transfer.json")
    assert [row.target for row in kept.rows] == ["imagenet", "dtd"] and list(kept.missing) == ["food101"]
    root = tmp_path / "elsewhere"
    make_tree("food101", root)
    result = transfer(run, targets=["food101", "dtd"], data_root=root)
    assert [row.target for row in result.rows] == ["imagenet", "food101", "dtd"] and not result.missing


def test_broken_images_are_a_cause(published, tmp_path):
    root, run = tmp_path / "data", Path(shutil.copytree(published[0], tmp_path / "run"))
    (run / "transfer.json").unlink(missing_ok=True)
    folder = make_tree("dtd", root)
    make_tree("eurosat", root)
    for image in (folder / "images" / "banded").iterdir():
        image.write_text("not a picture")
    with pytest.raises(FileNotFoundError, match="dtd: [\\s\\S]*cannot be read"):
        transfer(run, targets=["dtd", "eurosat"], data_root=root)
    assert "eurosat" in [row.target for row in read_transfer(run / "transfer.json").rows]


def test_what_fits_which_source():
    kinds = {name: _kind_of(find_dataset(name), find_dataset("imagenet")) for name in DATASETS}
    assert {name for name, kind in kinds.items() if kind == "domain"} == {f"imagenet_{which}" for which in "v2 sketch a r".split()}
    assert _kind_of(find_dataset("imagenet_a"), find_dataset("dtd")) == "dataset"
    kinds = {name: _kind_of(find_dataset(name), find_dataset("world/objects")) for name in default_targets(find_dataset("world/objects"))}
    domains = {f"world/objects-{how}": "domain" for how in ("sketch", "inverted", "noisy")}
    assert kinds == dict.fromkeys(["world/shapes", "world/textures", "world/scenes"], "dataset") | domains
    assert {_kind_of(find_dataset(name), find_dataset("world/shapes")) for name in default_targets(find_dataset("world/shapes"))} == {"dataset"}
    assert len(default_targets(find_dataset("imagenet"))) == 14 and len(default_targets(find_dataset("dtd"))) == 10
    with pytest.raises(ValueError, match="name the targets"):
        default_targets(find_dataset("folder"))


def test_photographs_of_ones_own_as_source(noise_folder, tmp_path):
    settings = RunSettings(**COMMON | dict(dataset="folder", data_root=str(noise_folder), runs_dir=str(tmp_path)))
    do_run(settings)
    result = transfer(settings.folder, targets=["world/textures"], data_root="nowhere")
    assert [(row.target, row.classes) for row in result.rows] == [("folder", 4), ("world/textures", 16)]
    assert (RunFolder(settings.folder).path / "transfer.json").exists()


@pytest.fixture
def own(noise_folder, tmp_path) -> tuple[Path, Path]:
    "Photographs of one's own, and a run on them."
    root = Path(shutil.copytree(noise_folder, tmp_path / "photographs"))
    settings = RunSettings(**COMMON | dict(dataset="folder", data_root=str(root), runs_dir=str(tmp_path / "runs")))
    do_run(settings)
    return root, settings.folder


def turn(root: Path) -> None:
    for path in (root / "cat").iterdir():
        Image.open(path).rotate(90, expand=True).save(path)


def test_a_target_that_has_changed_is_measured_again(own, run_dir, monkeypatch):
    root, run = own
    asked = []
    monkeypatch.setattr(npt.study.transfer, "_measure", lambda *args: asked.append(args[3].record.name) or MEASURE(*args))
    for _ in range(2):
        transfer(run, targets=["world/textures"])
        transfer(run_dir, targets=["folder"], data_root=root)
    assert asked == ["folder", "world/textures", "world/textures", "folder"]
    turn(root)
    with pytest.warns(UserWarning, match="folder has other test images"):
        transfer(run_dir, targets=["folder"], data_root=root)
    assert asked[4:] == ["folder"]
    shutil.rmtree(root)
    for place in run, run_dir:
        assert len(transfer(place, targets=["world/textures"]).rows) == (2 if place is run else 1), "nobody can tell, so what was measured stays"
    with pytest.raises(FileNotFoundError, match="folder: .*photographs"):
        transfer(run_dir, targets=["folder"], data_root=root)


@pytest.mark.parametrize("measured_before", [False, True])
def test_a_source_of_other_pictures_is_refused_with_what_differs(measured_before, own):
    root, run = own
    before = transfer(run, targets=[]).rows if measured_before else ()
    kept = {path: path.read_bytes() for path in root.glob("*/*")}
    turn(root)
    with pytest.warns(UserWarning, match="'folder' is not what the prompts were learned and measured on"):
        with pytest.raises(FileNotFoundError, match="base val: 'cat' has other images than before"):
            transfer(run, targets=[])
    assert not read_transfer(run / "transfer.json").rows
    for path, content in kept.items():
        path.write_bytes(content)
    assert not before or transfer(run, targets=[]).rows == before


def test_no_detection_against_other_pictures_of_the_source(own):
    root, run = own
    turn(root)
    with pytest.warns(UserWarning, match="detection is left out"), pytest.raises(FileNotFoundError, match="1 of 2"):
        transfer(run, targets=["world/textures"])
    row, = read_transfer(run / "transfer.json").rows
    assert row.target == "world/textures" and row.detection is None


def test_no_detection_with_other_training_images(run_dir):
    inputs = json.loads((run_dir / "inputs.json").read_text())
    name = next(iter(inputs["images"]["base train"]))
    inputs["images"]["base train"][name] = [1, "0" * 16]
    (run_dir / "inputs.json").write_text(json.dumps(inputs))
    (run_dir / "SHA256SUMS").unlink()
    with pytest.warns(UserWarning, match="training images of 'world/textures' are not those of the run"):
        result = transfer(run_dir, targets=["world/scenes"])
    assert [row.detection for row in result.rows] == [None, None]


def test_the_place_of_ones_own_photographs_may_be_given(own, run_dir, tmp_path):
    root, run = own
    rows = transfer(run, targets=[]).rows
    other = Path(shutil.copytree(root, tmp_path / "other"))
    (other / "cat").rename(other / "zebra")
    with pytest.warns(UserWarning, match="novel class 'zebra' is new"), pytest.raises(FileNotFoundError, match="'cat' is missing"):
        transfer(run, targets=["folder"], data_root=other)
    moved = root.rename(tmp_path / "moved")
    for targets in [], ["folder"]:
        assert transfer(run, targets=targets, data_root=moved).rows == rows


def test_weights_that_were_moved_are_taken(tmp_path):
    path = tmp_path / "weights.safetensors"
    with tiny_backbones(tmp_path):
        save_file(open_clip.create_model("small-quickgelu").state_dict(), path)
        settings = RunSettings(**COMMON | dict(backbone="small-quickgelu", pretrained=str(path), runs_dir=str(tmp_path / "runs")))
        do_run(settings)
        moved = path.rename(tmp_path / "moved.safetensors")
        with pytest.raises(FileNotFoundError, match="pretrained=PATH"):
            transfer(settings.folder, targets=[])
        assert len(transfer(settings.folder, targets=[], pretrained=moved).rows) == 1


def execute(parameters: dict, tmp_path: Path) -> Path:
    "Run the notebook as Papermill does; gives the executed copy."
    papermill.execute_notebook(ROOT / "nbs/transfer.ipynb", tmp_path / "out.ipynb", parameters=parameters, kernel_name="python3",
                               cwd=tmp_path, progress_bar=False)
    return tmp_path / "out.ipynb"


def test_the_notebook_takes_a_run_as_text(run_dir, tmp_path):
    inputs = json.loads((run_dir / "inputs.json").read_text())
    (run_dir / "inputs.json").write_text(json.dumps(inputs | dict(images={})))  # the notebook's process draws all pictures
    (run_dir / "SHA256SUMS").unlink()
    text = execute(dict(run_dir=str(run_dir), targets=["world/textures"]), tmp_path).read_text()
    assert "source world/textures" in text and (run_dir / "figures" / "transfer.html").exists() and not (tmp_path / "runs").exists()
    assert [row.target for row in read_transfer(run_dir / "transfer.json").rows] == ["world/textures"]


@pytest.mark.parametrize("learner, settings, said", [
    ("linear_probe", {}, "what this 'linear_probe' learned belongs to the classes .*: train a learner of prompts"),
    ("coop", dict(class_specific=True), "what this 'coop' learned belongs to the classes .*: train with class_specific=False"),
    ("tip_adapter", {}, "remembers images of the classes that it was trained on, and is zero-shot CLIP"), ("dpc", {}, None), ("coop", {}, None),
])
def test_what_cannot_be_transferred_is_refused_for_its_own_reason(learner, settings, said):
    made = build_learner(learner, load_clip("world"), ["red circle", "blue star"], **settings)
    if said is None:
        assert _refuse_bound(made) is None
        return
    with pytest.raises(ValueError, match=said):
        _refuse_bound(made)
