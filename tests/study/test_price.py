"What a run is told to do is what it does, and a grid has a price before anything of it is there."

import time
from types import SimpleNamespace

import open_clip
import pytest
import torch
import torch.nn.functional as F
from launches import Launches
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from random_clip import TOKENIZER
from torch.utils.flop_counter import FlopCounterMode
from workflows import GRIDS, small_grid

import npt.clip.frozen
import npt.study.price as price
from npt.clip.frozen import FrozenCLIP
from npt.data.datasets import DATASETS
from npt.data.load import load_dataset
from npt.learners.build import build_learner, learner_names
from npt.learners.recipes import RECIPES, recipe
from npt.study.grid import Task, expand, read_grid
from npt.study.price import _CORE, _H100, _KINDS, _Case, _case_and_course, _has_price, _price_line, _price_of, _step_of
from npt.study.settings import RunSettings
from npt.training.anchors import _frozen_anchors
from npt.training.batches import _Batch, _feature_batch
from npt.training.fit import _Plan, _start, _train_epoch
from npt.training.measure import _measured_epochs

TOWERS = dict(layers=12, width=64, heads=2), dict(layers=12, width=96, head_width=32, patch_size=8, image_size=32)
K, B = 20, 4
LEARNERS = [name for name in _KINDS if recipe(name, "ViT-B-16-quickgelu").epochs]


@pytest.fixture(scope="module")
def narrow():
    "A CLIP as deep as ViT-B/16 and narrow."
    torch.manual_seed(0)
    text, image = TOWERS
    model = CLIP(48, CLIPVisionCfg(**image), CLIPTextCfg(**text), quick_gelu=True)
    open_clip.model.set_model_preprocess_cfg(model, dict(size=32, mean=(0.5,) * 3, std=(0.5,) * 3))
    return FrozenCLIP(model, TOKENIZER, "narrow")


@pytest.fixture(autouse=True)
def narrow_is_known(monkeypatch):
    known = price._tower_settings
    monkeypatch.setattr(price, "_tower_settings", lambda backbone: TOWERS if backbone == "narrow" else known(backbone))


def batches(learner, number):
    "Random ones."
    labels, draw = torch.arange(B), torch.Generator().manual_seed(1)
    for _ in range(number):
        pixels = torch.randn(B, 3, 32, 32, generator=draw)
        frozen = F.normalize(torch.randn(B, 48, generator=draw), dim=-1)
        yield _Batch(pixels, labels, lambda: learner.clip.encode_image(pixels)) if learner.learns_image else _feature_batch(frozen, labels)


def counted(clip, name, objective="own") -> tuple[int, int]:
    "Operations and arithmetic of the second step of a training; the first makes what is remembered."
    settings = dict(teacher=clip.name) if name == "promptkd" else {}
    learner, own = build_learner(name, clip, IMAGENET_CLASSNAMES[:K], **settings), recipe(name, "ViT-B-16-quickgelu")
    if learner.remembers:
        learner.remember(F.normalize(torch.randn(K, 48), dim=-1), torch.arange(K))
    plan = _Plan(own.objective_for(objective), own.optimizer, own.average, 3, B, 1e-3, 1, "plain", None, 0, None, None)
    standing, seen = dict(counts=torch.ones(K, dtype=torch.int64), anchors=_frozen_anchors(learner)), []
    with FlopCounterMode(display=False) as flops, Launches() as launches:
        bar = SimpleNamespace(update=lambda *_: seen.append((launches.count, flops.get_total_flops())), set_postfix=lambda **_: None)
        _train_epoch(learner, batches(learner, 2), plan, _start(learner, plan), standing, 0, bar)
    return tuple(after - before for before, after in zip(*seen))


def told(name, objective="own", path=None):
    own = recipe(name, "ViT-B-16-quickgelu")
    sums = own.objective_for(objective)
    terms = tuple(term for one in (sums, sums.guide) if one for term, _ in one.weights)
    return _step_of(_Case(name, "narrow", "imagenet", K, B, terms, sums.guide is not None, own.optimizer, False, path=path), _CORE).whole


@pytest.mark.parametrize("name, objective, path", [
    *((name, "own", None) for name in LEARNERS), ("coop", "npt", "rows"), ("cocoop", "own", "rows"), ("tcp", "npt_anchored", "cut"),
    ("maple", "npt", "cut")])
def test_a_step_does_what_is_told(narrow, monkeypatch, name, objective, path):
    monkeypatch.setattr("npt.training.anchors._CONSISTENCY_TEMPLATES", ("a photo of a {}.",))  # of which there are sixty
    if path:
        monkeypatch.setattr(npt.clip.frozen, "_faster_path", lambda *_: path)
    work, (launches, flops) = told(name, objective, path), counted(narrow, name, objective)
    assert 0.75 < work.launches / launches < 1.25, (work.launches, launches)
    if _KINDS[name].text or _KINDS[name].image:  # an adapter's arithmetic is told to be nothing
        assert 0.75 < work.flops / flops < 1.25, (work.flops, flops)


def test_fresh_crops_are_a_forward_pass_and_features_that_are_there_are_none(narrow):
    with FlopCounterMode(display=False) as flops, Launches() as launches:
        narrow.encode_image(torch.randn(B, 3, 32, 32))
    crops, there = (_step_of(_Case("coop", "narrow", "imagenet", K, B, fresh=fresh), _CORE).image for fresh in (True, False))
    assert 0.75 < crops.launches / launches.count < 1.25 and 0.75 < crops.flops / flops.get_total_flops() < 1.25
    assert there.launches == there.flops == 0


def test_every_learner_and_every_dataset_is_known():
    assert set(_KINDS) == set(RECIPES) and set(_KINDS) <= set(learner_names())
    assert all(price._test_images(record) and record.num_classes for name, record in DATASETS.items() if name != "folder")


@pytest.mark.parametrize("learner", ["maple", "coop"])
@pytest.mark.parametrize("given", [dict(tau=0.25, shots=8), dict(classes="all", measure_every=2, epochs=7)])
def test_steps_images_and_measures_are_those_of_the_run(learner, given):
    settings = RunSettings(dataset="world/textures", learner=learner, backbone="world", **given)
    picks = dict(shots=settings.shots, tau=settings.tau)
    data = load_dataset(settings.dataset, **picks)
    case, course = _case_and_course(Task(settings, ("world/scenes",)))
    trained, plan = getattr(data, settings.classes), recipe(learner, "world", epochs=settings.epochs)
    tests = [data.base, data.novel] if settings.classes == "base" else [data.all]
    assert (case.classes, case.batch) == (len(trained.classnames), plan.batch_size)
    assert (course.images, course.epochs) == (len(trained.train), plan.epochs)
    assert course.measures == len(_measured_epochs(SimpleNamespace(learns_image=learner == "maple"), plan.epochs, settings.measure_every))
    assert course.tests == (*(("world/textures", len(part.classnames), len(part.test)) for part in tests), ("world/scenes", 32, 3200))


def test_every_model_of_open_clip_has_sizes_or_none():
    sizes = {name: price._sizes_of(name, 4) for name in ("world", *open_clip.list_models())}
    assert (sizes["world"].text.count, sizes["world"].tokens, sizes["ViT-L-14"].image.count, sizes["ViT-L-14"].tokens) == (3, 17, 24, 257)
    assert sizes["RN50"] is sizes["ViT-B-16-SigLIP"] is sizes["roberta-ViT-B-32"] is None and sum(map(bool, sizes.values())) > 30


def test_full_precision_costs_more():
    half, whole = (_price_of(expand(read_grid(dict(runs_dir="runs", experiments=dict(one=dict(dataset="dtd", learner="lora", precision=precision))))))
                   for precision in ("bf16", "fp32"))
    assert whole.most > 3 * half.most and whole.core == half.core


def test_what_is_not_known_has_no_price_and_is_counted():
    experiments = dict(known=dict(dataset="dtd", learner="coop"), resnet=dict(dataset="dtd", learner="coop", backbone="RN50-quickgelu", pretrained="openai"),
                       own=dict(dataset="folder", learner="coop"),
                       contexts=dict(dataset="dtd", learner="coop", learner_settings=dict(class_specific=True)))
    tasks = expand(read_grid(dict(runs_dir="runs", experiments=experiments)))
    assert [_has_price(task) for task in tasks] == [True, False, False, False]
    said, alone = _price_line(tasks, "some"), _price_line(tasks[:1], "some")
    assert said == alone.replace("1 run,", "4 runs,") + "; 3 without a price"
    assert _price_line(tasks[1:], "others") == "others: 3 runs, 3 without a price"


def test_crops_that_are_met_again_are_paid_for_once():
    def of(**more):
        return _price_of(expand(read_grid(dict(runs_dir="runs", experiments=dict(one=dict(dataset="dtd", learner="coop") | more)))))

    fresh, kept, twice, seeds = of(), of(views=8), of(views=8, objective=["own", "npt"]), of(views=8, seed=[1, 2])
    assert fresh.opening > 10 * kept.opening and twice.opening == kept.opening < seeds.opening
    assert fresh.most > kept.most and kept.most < twice.most < 2 * kept.most


def test_a_learner_of_the_image_tower_decodes_once_and_crops_in_each_epoch():
    def photographs(**more):
        tasks = expand(read_grid(dict(runs_dir="runs", experiments=dict(one=dict(dataset="dtd", learner="maple", views=8) | more))))
        whole = sum((bill for _, bill in price._bills_of(tasks, gpu=True)), price._shared_photographs(tasks))
        return whole.decoded, whole.cropped

    images, tested = 24 * 16, 1692
    once = 2 * images + tested  # training images whole and as tested, and test images as tested
    assert photographs(epochs=5) == (once + tested, 5 * images + images + tested + tested), "and test images for the frozen tower"
    more, crops = photographs(epochs=10, objective=["own", "npt"], learner=["maple", "vpt"], precision=["fp32", "bf16"])
    assert (more, crops) == (once + tested, 8 * 10 * images + images + tested + tested)


def test_fresh_crops_are_cut_from_photographs_that_are_decoded_once_and_views_are_not():
    def opening(**more):
        settings = dict(dataset="dtd", learner="coop") | more
        return _price_of(expand(read_grid(dict(runs_dir="runs", experiments=dict(one=settings))))).opening

    images, tested = 24 * 16, 1692 * 3.6e-3
    assert opening(epochs=10) == pytest.approx(tested + images * (1.2e-3 + 10 * 2.4e-3))
    assert opening(epochs=10, views=8) == pytest.approx(tested + 8 * images * 3.6e-3) == opening(epochs=8, views=20)


def test_the_papers_grid_is_priced_in_seconds_and_the_chosen_paths_halve_it():
    tasks = expand(read_grid(GRIDS / "paper.yaml"))
    started = time.process_time()
    now = _price_of(tasks)
    assert time.process_time() - started < 10, "it takes two seconds on an idle core"
    before = _price_of(tasks, "packed")
    assert before.most > 2 * now.most and now.least < 60 * 3600 and before.core == now.core


def test_one_gpu_day_fits_into_a_day():
    tasks = expand(read_grid(GRIDS / "one_gpu_day.yaml"))
    loading, day = 3 * len(tasks), 24 * 3600  # seconds
    cost = _price_of(tasks)
    assert all(map(_has_price, tasks)) and 1.2 * cost.most + loading < day and cost.opening < 8 * day
    assert {task.settings.tau for task in tasks} == {1, 0.25, 0.0625} and len({task.settings.dataset for task in tasks}) == 11


def test_the_price_of_all_is_that_of_the_parts():
    one, two = (expand(read_grid(small_grid(seed=seed))) for seed in (1, [1, 2]))
    shared = price._shared_bill(one, _H100)
    assert price._shared_bill(two, _H100) == shared and price._shared_photographs(two) == price._Bill()
    alone = _H100.speed.seconds(shared.work)
    assert _price_of(two).most - alone == pytest.approx(2 * (_price_of(one).most - alone))


def test_classes_in_sessions_have_no_price_rather_than_a_wrong_one():
    assert [_has_price(Task(RunSettings(learner="coop", classes=classes))) for classes in ("base", "all", "sessions")] == [True, True, False]
