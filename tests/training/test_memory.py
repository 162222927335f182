"Who runs out of memory is told how much was asked for, what is free, and what to change."

import pytest
import torch
from shared import fresh, in_world

from npt.data.load import load_dataset
from npt.training.evaluation import evaluate
from npt.training.fit import fit
from npt.training.memory import _asked, _memory_told

PYTORCHS = ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.06 GiB is free. "
            "If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True.")


def test_what_was_asked_for_is_read_from_pytorchs_words():
    assert _asked(torch.OutOfMemoryError(PYTORCHS)) == "2.50 GiB"
    assert _asked(torch.OutOfMemoryError("in other words")) == "what was asked for"


@pytest.mark.parametrize("batch_size, said", [(32, "try a batch_size below 32, a memory_budget below 4 gigabytes"),
                                              (None, "try a memory_budget below 4 gigabytes")])
def test_one_sentence_names_what_to_change(batch_size, said, monkeypatch):
    clip = fresh()
    clip.memory_budget = 4e9
    monkeypatch.setattr("npt.training.memory.free_memory", lambda device: 1.06e9)
    with pytest.raises(torch.OutOfMemoryError) as caught, _memory_told(clip, batch_size):
        raise torch.OutOfMemoryError(PYTORCHS)
    assert str(caught.value) == f"cpu has no room for 2.50 GiB, and 1.1 GB are free: {said}, or fewer jobs_per_gpu where several runs share it"
    assert str(caught.value.__cause__) == PYTORCHS


def test_a_learner_that_remembers_is_told_too(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError(PYTORCHS)

    train = load_dataset("world/textures", shots=1).base.train
    monkeypatch.setattr("npt.training.fit._training_features", full)
    with pytest.raises(torch.OutOfMemoryError, match="^cpu has no room for 2.50 GiB.*memory_budget"):
        fit(in_world("tip_adapter", fresh(), train.classnames), train)


def test_apples_gpu_is_told_alike_although_its_error_is_like_any_other(monkeypatch):
    said = ("MPS backend out of memory (MPS allocated: 17.50 GiB, other allocations: 384.00 KiB, max allowed: 18.13 GiB). Tried to allocate "
            "2.00 GiB on private pool. Use PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations.")

    def full(*_):
        raise RuntimeError(said)

    train = load_dataset("world/textures", shots=1).base.train
    learner = in_world("coop", fresh(), train.classnames)
    monkeypatch.setattr(type(learner), "text_features", full)
    for work in (lambda: fit(learner, train, objective="ce", progress=False)), (lambda: evaluate(learner, train)):
        with pytest.raises(torch.OutOfMemoryError, match="^cpu has no room for 2.00 GiB.*memory_budget") as caught:
            work()
        assert str(caught.value.__cause__) == said


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_any_other_error_is_left_as_it_is(kind):
    error = kind("of another kind")
    with pytest.raises(kind) as caught, _memory_told(fresh()):
        raise error
    assert caught.value is error
