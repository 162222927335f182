"""On a GPU that is pretended: every learner by every objective passes from its build to its transfer, and no step waits for the device.

Where the numbers are compared, it is with the same run on the processor.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from pretend import pretend
from random_clip import NAMES, images, random_clip
from safetensors import safe_open
from shared import killed_after
from torch.optim.optimizer import register_optimizer_step_post_hook

import npt.clip.packing
from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.learners.build import build_learner, learner_names
from npt.learners.saving import load_prompts, save_prompts
from npt.objectives.objective import REGULARISERS
from npt.study.machine import _usual_precision
from npt.training.anchors import _CONSISTENCY_TEMPLATES
from npt.training.evaluation import evaluate
from npt.training.fit import _backward, fit
from npt.training.samplers import SAMPLERS

TINY = dict(layers=2, width=32, heads=2)
OBJECTIVES = "own", "ce", "npt", "npt_anchored", "cpt", "ldam_drw"
DTYPES = torch.float32, torch.bfloat16, torch.float16
TRAINED = [name for name in learner_names() if name not in ("zero_shot", "tip_adapter")]
COLUMNS = range(3) if os.environ.get("NPT_DEVICE") == "whole" else (0, 1)  # of the precisions; each learner takes one half precision by default
RUNS = [(name, OBJECTIVES[(row + column) % 6], DTYPES[column and (row + column) % 2 + 1], f"cuda:{(row + column) % 2}")
        for row, name in enumerate(learner_names()) for column in COLUMNS]
TAUGHT = {"promptkd": dict(teacher="random")}  # by its own CLIP
OF_ITS_OWN = {"mmrl": "0.3*token_ce", "dept": "0.7*head_ce", "dpc": "hard_negatives"}  # terms without which a part is never learned
SHORT = dict(epochs=2, batch_size=4, lr=0.01, progress=False)


def in_full(name: str, objective: str) -> str:
    "An objective for a learner, with the terms of its own in a sum that is not joined to its loss."
    joined = name not in OF_ITS_OWN or objective == "own" or objective in REGULARISERS
    return objective if joined else f"{objective} + {OF_ITS_OWN[name]}"


@pytest.fixture(autouse=True)
def few_templates(monkeypatch):
    monkeypatch.setattr("npt.training.anchors._CONSISTENCY_TEMPLATES", _CONSISTENCY_TEMPLATES[:2])


@pytest.fixture(autouse=True)
def no_packing_is_left():
    "What is remembered of a device's name must not meet a real one of that name."
    yield
    for remembered in npt.clip.packing._pack, npt.clip.cut._cut, npt.clip.rows._rows:
        remembered.cache_clear()


@pytest.fixture(scope="module")
def few():
    "Two pictures to train on of each of four base classes, and one to be tested on; and as much of novel ones."
    data = load_dataset("world/textures", shots=2)
    return [(part.train.of_labels(range(4)), part.test.of_labels(range(4)).take(range(0, 400, 100))) for part in (data.base, data.novel)]


@contextmanager
def steps_counted(gpu) -> Iterator[list]:
    "What each step but the first of an epoch waits for and hands over, from one update of the parameters to the next."
    counted = []

    def note(*_):
        counted.append((dict(gpu.waits), sum(gpu.handed.values())))
        gpu.forget()

    hook = register_optimizer_step_post_hook(note)
    try:
        yield counted
    finally:
        hook.remove()


def waits_within(counted: list, train, settings: dict) -> tuple[dict, int]:
    "Of all steps that are neither the first of an epoch nor of a fit."
    an_epoch = -(-len(train) // settings["batch_size"])
    inside = [step for number, step in enumerate(counted) if number % an_epoch]
    assert len(inside) == settings["epochs"] * (an_epoch - 1) > 0
    return {wait: times for waits, _ in inside for wait, times in waits.items()}, max(handed for _, handed in inside)


# ---- no step waits


@pytest.mark.parametrize("name", TRAINED)
def test_no_step_of_any_learner_by_any_objective_waits(name, few):
    settings = SHORT | dict(epochs=1)
    with pretend("cuda:0") as gpu:
        clip, (train, _) = random_clip(dtype=torch.float32, device="cuda:0", **TINY), few[0]
        for objective in OBJECTIVES:
            learner = build_learner(name, clip, train.classnames, **TAUGHT.get(name, {}))
            with steps_counted(gpu) as counted:
                fit(learner, train, objective=in_full(name, objective), measure_every=0, **settings)
            waits, handed = waits_within(counted, train, settings)
            assert not waits, objective
            assert handed <= (3 if learner.learns_image else 0), "pixels, labels, and where frozen features stand"


@pytest.mark.parametrize("settings", [dict(class_token_position="middle"), dict(class_specific=True)], ids=str)
def test_no_step_waits_wherever_the_name_stands(settings, few):
    with pretend("cuda:0") as gpu:
        train = few[0][0]
        learner = build_learner("coop", random_clip(dtype=torch.float32, device="cuda:0", **TINY), train.classnames, **settings)
        with steps_counted(gpu) as counted:
            fit(learner, train, objective="ce", measure_every=0, **SHORT)
    assert waits_within(counted, train, SHORT) == ({}, 0)


@pytest.mark.parametrize("name", ["coop", "promptsrc"])
def test_no_step_waits_for_crops_samplers_or_a_checkpoint(name, noise_folder, folder, tmp_path):
    with pretend("cuda:1") as gpu:
        clip = random_clip(dtype=torch.float32, device="cuda:1", **TINY)
        train = load_dataset("folder", root=noise_folder, shots=3).base.train
        for views, sampler in zip((None, 2, None, 2), SAMPLERS, strict=True):
            settings = dict(SHORT, views=views, sampler=sampler, optimizer="adamw", measure_every=0, workers=0, batch_size=2)
            learner = build_learner(name, clip, train.classnames, **TAUGHT.get(name, {}))
            with killed_after(1):
                fit(learner, train, run_dir=tmp_path / sampler, **settings)
            with steps_counted(gpu) as counted:
                fit(learner, train, run_dir=tmp_path / sampler, **settings)
            waits, _ = waits_within(counted, train, settings | dict(epochs=1))
            assert not waits, (views, sampler)


# ---- from build to transfer


# From words that are the template, the guide's gradient is rounding and nothing else, and ProGrad takes its direction out of the step.
OWN = {"prograd": dict(ctx_init=None)} | TAUGHT


def a_run(name: str, objective: str, dtype: torch.dtype, device: str, few, path) -> dict:
    "Build, fit, be killed, resume, evaluate with collapse, save, load and transfer; gives what was measured."
    (train, test), (_, novel) = few
    clip = random_clip(dtype=dtype, device=device, **TINY)
    learner, again = (build_learner(name, clip, train.classnames, **OWN.get(name, {})) for _ in range(2))
    settings = dict(SHORT, objective=in_full(name, objective), test=test, measure_every=2)
    if list(learner.parameters()) or name == "tip_adapter_f":
        with killed_after(1):
            fit(learner, train, run_dir=path, **settings)
    history = fit(learner, train, run_dir=path, **settings)
    save_prompts(learner, path / "prompts.safetensors")
    load_prompts(again, path / "prompts.safetensors")
    measured = [evaluate(learner, test, counts=train.counts, collapse=True), evaluate(again, test, counts=train.counts, collapse=True)]
    assert measured[0] == measured[1], "what is loaded is what was saved"
    there = {str(tensor.device) for tensor in learner.state_dict().values()}
    assert there <= {device}
    elsewhere = evaluate(learner.for_classes(novel.classnames), novel)["accuracy"] if learner.transfers else None
    return dict(history=history, measured=measured[0], novel=elsewhere)


@pytest.mark.parametrize("name, objective, dtype, device", RUNS, ids=lambda value: str(value).removeprefix("torch."))
def test_a_run_passes_on_a_gpu_and_gives_the_processors_numbers(name, objective, dtype, device, few, folder, tmp_path):
    with pretend(device):
        there = a_run(name, objective, dtype, device, few, tmp_path / "there")
    if dtype == torch.float32:
        here = a_run(name, objective, dtype, "cpu", few, tmp_path / "here")
        assert there["history"].columns.equals(here["history"].columns)
        for column in here["history"]:
            one_image = 100 / len(few[0][0]) if column == "accuracy" else None  # two paths through the text tower round differently
            assert there["history"][column].values == pytest.approx(here["history"][column].values, rel=1e-2, abs=one_image, nan_ok=True), column
        assert there["novel"] == here["novel"]
        assert there["measured"]["collapse"] == pytest.approx(here["measured"]["collapse"], rel=1e-2)


@pytest.mark.parametrize("name", learner_names())
def test_a_run_passes_on_apples_gpu_which_has_no_float64(name, few, folder, tmp_path):
    with pretend("mps:0"):
        a_run(name, OBJECTIVES[3:][len(name) % 3], torch.float32, "mps:0", few, tmp_path)


# ---- what is not finite


def test_the_first_step_that_is_not_finite_is_named_although_it_is_read_late(few, tmp_path):
    train = few[0][0]
    with pretend("cuda:0"):
        learner = build_learner("coop", random_clip(dtype=torch.float32, device="cuda:0", **TINY), train.classnames)
        before, taken = learner.context.detach().clone(), []

        def spoil(*_):
            taken.append(None)
            if len(taken) == 6:  # the second of four steps in the second epoch
                learner.context.data.fill_(float("nan"))

        hook = register_optimizer_step_post_hook(spoil)
        try:
            with pytest.raises(FloatingPointError, match="became nan at step 2 of epoch 1; the checkpoint of the epoch before is kept"):
                fit(learner, train, run_dir=tmp_path, **SHORT | dict(batch_size=2))
        finally:
            hook.remove()
        assert len(taken) == 8, "the epoch went on, and what came of it is thrown away"
        assert torch.equal(learner.context, before)
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as kept:
        assert len(json.loads(kept.metadata()["history"])) == 1 and kept.get_tensor("prompt.context").isfinite().all()


def test_the_bar_shows_the_loss_also_where_it_is_read_late(few, capfd):
    train = few[0][0]
    with pretend("cuda:0"):
        learner = build_learner("coop", random_clip(dtype=torch.float32, device="cuda:0", **TINY), train.classnames)
        history = fit(learner, train, **SHORT | dict(progress=True))
    assert "loss=" in capfd.readouterr().err and len(history) == 2


def test_a_long_epoch_is_read_before_its_end(few, monkeypatch):
    monkeypatch.setattr("npt.training.fit._READ_AT_ONCE", 3)
    train, taken = few[0][0], []
    with pretend("cuda:0"):
        learner = build_learner("coop", random_clip(dtype=torch.float32, device="cuda:0", **TINY), train.classnames)

        def spoil(*_):
            taken.append(learner.context.data.fill_(float("nan")))

        hook = register_optimizer_step_post_hook(spoil)
        try:
            with pytest.raises(FloatingPointError, match="at step 1 of epoch 0"):
                fit(learner, train, **SHORT | dict(batch_size=1))
        finally:
            hook.remove()
    assert len(taken) == 2, "the third step was read before it was taken"


# ---- half precision


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["coop", "cocoop", "maple", "lora"])
def test_a_small_loss_has_the_gradient_of_a_large_one_in_fp16(name, guided):
    def gradient(dtype, size, scaled):
        torch.manual_seed(3)
        learner = build_learner(name, random_clip(dtype=dtype, **TINY), NAMES)
        for parameter in learner.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        seen = learner(images().float() if learner.learns_image else F.normalize(torch.randn(3, 48), dim=1))
        loss, guide = (size * F.cross_entropy(seen.logits, labels) for labels in (torch.arange(3), torch.tensor([1, 1, 0])))
        _backward(loss, guide if guided else None, list(learner.parameters()), seen if scaled else ())
        return torch.cat([parameter.grad.flatten() for parameter in learner.parameters()]) / size

    exact = gradient(torch.float32, 1, scaled=False)
    assert not gradient(torch.float16, 1e-7, scaled=False).any(), "it vanishes"
    for size in 1, 1e-5, 1e-7:
        assert (gradient(torch.float16, size, scaled=True) - exact).norm() < 0.02 * exact.norm(), size


def test_a_fit_in_half_precision_learns_what_one_in_float32_does(few):
    def losses(precision):
        learner = build_learner("coop", load_clip("world", precision=precision), few[0][0].classnames)
        return fit(learner, few[0][0], objective="npt", measure_every=0, **SHORT | dict(epochs=4)).loss.values

    exact, bf16, fp16 = map(losses, ("fp32", "bf16", "fp16"))
    assert exact[-1] < exact[0] and abs(fp16 - exact).max() < 0.01 and abs(bf16 - exact).max() < 0.05


def test_a_gpu_gets_bf16_where_nothing_else_is_asked_for():
    for device, usual in ("cpu", "fp32"), ("cuda:1", "bf16"), ("mps", "fp32"):
        with pretend("mps:0" if device == "mps" else "cuda:1"):
            assert _usual_precision(device) == usual


# ---- memory


def test_who_runs_out_of_memory_is_told_what_to_change(few, monkeypatch, tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has a total capacity of 15.00 GiB.")

    (train, test), _ = few
    with pretend("cuda:1"):
        learner = build_learner("coop", random_clip(dtype=torch.float32, device="cuda:1", **TINY), train.classnames)
        before = learner.context.detach().clone()
        monkeypatch.setattr(type(learner), "text_features", full)
        with pytest.raises(torch.OutOfMemoryError, match="^cuda:1 has no room for 2.00 GiB, and 8.0 GB are free: try a batch_size below 4, "
                                                         "a memory_budget below 4 gigabytes, or fewer jobs_per_gpu"):
            fit(learner, train, run_dir=tmp_path, **SHORT)
        assert torch.equal(learner.context, before)
        with pytest.raises(torch.OutOfMemoryError, match="8.0 GB are free: try a memory_budget"):
            evaluate(learner, test)
