"Device and precision are chosen where a run leaves them open, and said in one line."

import pytest
import torch

from npt.learners.recipes import recipe
from npt.study.machine import _choices_said, _on_this_machine, _usual_device, _usual_precision
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


def test_the_line_says_what_was_chosen_and_why(monkeypatch):
    machine(monkeypatch, cuda=True)
    said = []
    for given in RunSettings(dataset="dtd"), RunSettings(dataset="dtd", backbone="world", device="cpu", epochs=3):
        there = _on_this_machine(given)
        said.append(_choices_said(given, there, recipe(there.learner, there.backbone, epochs=given.epochs)))
    assert "ViT-B-16-quickgelu with OpenAI's weights (the usual one" in said[0] and "cuda (a GPU was found) in bf16" in said[0]
    assert "world with its own weights (as given)" in said[1] and "cpu (as given)" in said[1] and "3 epochs" in said[1]
