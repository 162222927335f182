"Device and precision are chosen where a run leaves them open, and said in one line."

import os

import pytest
import torch
from pretend import pretend

import npt.study.runs
from npt.learners.recipes import recipe
from npt.study.machine import (
    _choices_said,
    _idle_cores,
    _multiplying,
    _on_this_machine,
    _usual_device,
    _usual_precision,
    _usual_threads,
)
from npt.study.runs import do_run
from npt.study.settings import RunSettings


def machine(monkeypatch, cuda: bool, mps: bool = False, bf16: bool = True) -> None:
    "Pretend that this machine has a GPU, or none."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("npt.study.machine._mps_works", lambda: mps)
    monkeypatch.setattr("npt.study.machine._check_is_there", torch.device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: bf16)
    monkeypatch.setattr(torch.cuda, "device", lambda _: torch.inference_mode(False))  # any context


@pytest.mark.parametrize("cuda, mps, bf16, expected", [
    (True, False, True, ("cuda", "bf16")), (True, True, False, ("cuda", "fp32")),
    (False, True, True, ("mps", "fp32")), (False, False, True, ("cpu", "fp32")),
])
def test_the_quickest_device_and_precision_are_taken(cuda, mps, bf16, expected, monkeypatch):
    machine(monkeypatch, cuda, mps, bf16)
    chosen = _on_this_machine(RunSettings(dataset="dtd"))
    assert (chosen.device, chosen.precision) == (_usual_device(), _usual_precision(_usual_device())) == expected


def test_what_is_given_is_kept_and_a_run_goes_on_as_it_was_begun(monkeypatch):
    machine(monkeypatch, cuda=True)
    given = RunSettings(dataset="dtd", device="cpu", precision="fp16")
    assert _on_this_machine(given) == given
    assert _on_this_machine(RunSettings(device="cpu"), begun_in="bf16").precision == "bf16"
    assert _on_this_machine(RunSettings(precision="fp32"), begun_in="bf16").precision == "fp32"
    for device in "cpu", "mps":
        for asked in dict(settings=RunSettings(device=device, precision="tf32")), dict(settings=RunSettings(device=device), begun_in="tf32"):
            with pytest.raises(ValueError, match=f"^precision='tf32' is how a CUDA GPU multiplies.*{device!r}: use precision='fp32'$"):
                _on_this_machine(**asked)


def test_tf32_is_on_while_a_run_is_at_work_and_off_after_it(tmp_path, monkeypatch):
    on, fit = [], npt.study.runs.fit
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a pretended GPU")
    monkeypatch.setattr("npt.study.runs.fit", lambda *given, **more: on.append(torch.backends.cuda.matmul.allow_tf32) or fit(*given, **more))
    for name in "max_memory_allocated", "reset_peak_memory_stats":
        monkeypatch.setattr(torch.cuda, name, lambda _: 0)
    with pretend("cuda:0"):
        for precision in "tf32", "fp32":
            settings = RunSettings(dataset="world/textures", learner="zero_shot", shots=1, device="cuda:0", precision=precision, runs_dir=str(tmp_path))
            assert do_run(settings, progress=False)["versions"]["precision"] == precision and not torch.backends.cuda.matmul.allow_tf32
    assert on == [True, False]
    with pytest.raises(ZeroDivisionError), _multiplying("tf32"):
        1 / 0
    assert not torch.backends.cuda.matmul.allow_tf32


def test_the_line_says_what_was_chosen_and_why(monkeypatch):
    machine(monkeypatch, cuda=True)
    said = []
    for given in RunSettings(dataset="dtd"), RunSettings(dataset="dtd", backbone="world", device="cpu", epochs=3):
        there = _on_this_machine(given)
        said.append(_choices_said(given, there, recipe(there.learner, there.backbone, epochs=given.epochs), torch.get_num_threads()))
    assert "ViT-B-16-quickgelu with OpenAI's weights (the usual one" in said[0] and "cuda (a GPU was found) in bf16" in said[0]
    assert "world with its own weights (as given)" in said[1] and "cpu (as given)" in said[1] and "3 epochs" in said[1]


@pytest.fixture
def four_cores(monkeypatch):
    "This machine has four cores, of which this process may use three, and PyTorch takes as many."
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 3}, raising=False)
    torch.set_num_threads(3)
    yield lambda *percent: monkeypatch.setattr("npt.study.machine.psutil.cpu_percent", lambda *_, **__: list(percent))
    torch.set_num_threads(before)


@pytest.mark.parametrize("percent, free", [((0, 2, 100, 5), 3), ((0, 90, 0, 10), 2), ((100, 100, 0, 98), 1)])
def test_threads_are_those_that_nobody_else_uses(percent, free, four_cores):
    four_cores(*percent)
    assert _idle_cores() == free
    given = RunSettings(dataset="dtd", device="cpu", precision="fp32")
    assert _usual_threads(given) == free
    said = _choices_said(given, given, recipe(given.learner, given.backbone), free)
    assert (f"on {free} of 3 threads" in said) == (free < 3) and torch.get_num_threads() == 3


def test_where_threads_were_decided_nobody_looks(four_cores, monkeypatch):
    monkeypatch.setattr("npt.study.machine._idle_cores", lambda: pytest.fail("looked"))
    assert _usual_threads(RunSettings(device="cpu")) == 1, "the backbone's"
    assert _usual_threads(RunSettings(dataset="dtd", device="cuda")) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert _usual_threads(RunSettings(dataset="dtd", device="cpu")) == 3
