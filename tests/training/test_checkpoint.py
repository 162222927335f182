"A checkpoint brings back all that a fit depends on, and one that is damaged or of another fit is refused."

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shared import LOADED, in_world

from npt.data.load import load_dataset
from npt.training.checkpoint import _CHECKPOINT, _load_checkpoint, _save_checkpoint
from npt.training.fit import _OPTIMIZERS, fit


@pytest.fixture(scope="module")
def train():
    return load_dataset("world/textures", shots=1).base.train


def stepped(kind, train, steps, seed):
    "A learner and its optimiser after steps along made-up gradients."
    learner, draw = in_world("ivlp", LOADED, train.classnames), torch.Generator().manual_seed(seed)
    optimizer = _OPTIMIZERS[kind](learner.parameters(), lr=0.1)
    for _ in range(steps):
        for p in learner.parameters():
            p.grad = torch.randn(p.shape, generator=draw)
        optimizer.step()
    return learner, optimizer


@pytest.mark.parametrize("kind, slots", [("sgd", {"momentum_buffer"}), ("adam", {"step", "exp_avg", "exp_avg_sq"}),
                                         ("adamw", {"step", "exp_avg", "exp_avg_sq"})])
def test_every_slot_of_an_optimizer_comes_back(kind, slots, train, tmp_path):
    path, (learner, optimizer) = tmp_path / _CHECKPOINT, stepped(kind, train, 3, 1)
    average = {name: torch.randn_like(p) for name, p in learner.named_parameters()}
    history = [{"epoch": 0, "loss": 0.1, "test_nc1": float("nan")}, {"epoch": 1, "loss": 1 / 3}]
    _save_checkpoint(path, learner, optimizer, average, "this", history)

    again, restored = stepped(kind, train, 0, 2)
    sums = {name: torch.zeros_like(p) for name, p in again.named_parameters()}
    assert str(_load_checkpoint(path, again, restored, sums, "this")) == str(history)
    for (name, p), q in zip(learner.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q) and torch.equal(average[name], sums[name])
        assert set(optimizer.state[p]) == set(restored.state[q]) == slots
        assert all(torch.equal(optimizer.state[p][slot], restored.state[q][slot]) for slot in slots)
        assert all(optimizer.state[p][slot].dtype == restored.state[q][slot].dtype for slot in slots)


def test_a_parameter_without_a_step_has_no_slots(train, tmp_path):
    learner, optimizer = stepped("sgd", train, 0, 1)
    _save_checkpoint(tmp_path / _CHECKPOINT, learner, optimizer, {}, "this", [])
    again, restored = stepped("sgd", train, 0, 2)
    assert _load_checkpoint(tmp_path / _CHECKPOINT, again, restored, {}, "this") == [] and not restored.state


@pytest.mark.parametrize("other", [dict(lr=0.01), dict(epochs=3), dict(batch_size=2), dict(seed=2), dict(objective="npt"),
                                   dict(sampler="square_root"), dict(optimizer="adam"), dict(weight_decay=0.1), dict(measure_every=1)], ids=str)
def test_a_checkpoint_of_another_plan_is_refused(other, train, tmp_path):
    settings = dict(objective="ce", epochs=1, batch_size=4, lr=0.1, measure_every=0, progress=False, run_dir=tmp_path)
    fit(in_world("coop", LOADED, train.classnames), train, **settings)
    before = (tmp_path / _CHECKPOINT).read_bytes()
    learner = in_world("coop", LOADED, train.classnames)
    start = learner.context.clone()
    with pytest.raises(ValueError, match="belongs to another fit, coop by ce with sgd.*delete it or choose another run_dir"):
        fit(learner, train, **settings | other)
    assert torch.equal(learner.context, start) and (tmp_path / _CHECKPOINT).read_bytes() == before


def test_other_images_are_another_fit(train, tmp_path):
    settings = dict(objective="ce", epochs=1, batch_size=4, measure_every=0, progress=False, run_dir=tmp_path)
    fit(in_world("coop", LOADED, train.classnames), train, **settings)
    with pytest.raises(ValueError, match=f"on {len(train)} images.*on {len(train) - 1} images"):
        fit(in_world("coop", LOADED, train.classnames), train.take(range(len(train) - 1)), **settings)


@pytest.mark.parametrize("history", ["", "{", "[]x", "{}", '[{"epoch": 1}]', '[{"epoch": 0}, {"epoch": 0}]', "[1]", "[" * 100_000])
def test_a_damaged_history_is_named(history, train, tmp_path):
    learner, optimizer = stepped("sgd", train, 1, 1)
    tensors = {f"prompt.{name}": p.detach() for name, p in learner.named_parameters()}
    save_file(tensors, tmp_path / _CHECKPOINT, {"fitted": "this", "history": history})
    with pytest.raises(ValueError, match="checkpoint '.*' is damaged .*delete it to start the run afresh"):
        _load_checkpoint(tmp_path / _CHECKPOINT, learner, optimizer, {}, "this")


@pytest.mark.parametrize("change", [lambda tensors: tensors.pop("prompt.context"), lambda tensors: tensors.update({"prompt.other": torch.zeros(1)}),
                                    lambda tensors: tensors.update({"prompt.context": torch.zeros(1, 1)}),
                                    lambda tensors: tensors.update({"buffer.gone": torch.zeros(1)}),
                                    lambda tensors: tensors.update({"optimizer.gone:step": torch.zeros(1)})])
def test_a_checkpoint_with_other_tensors_is_refused_and_changes_nothing(change, train, tmp_path):
    settings = dict(objective="ce", epochs=1, batch_size=4, measure_every=0, progress=False, run_dir=tmp_path)
    fit(in_world("coop", LOADED, train.classnames), train, **settings)
    with safe_open(tmp_path / _CHECKPOINT, "pt") as file:
        header = file.metadata()
    tensors = load_file(tmp_path / _CHECKPOINT)
    change(tensors)
    save_file(tensors, tmp_path / _CHECKPOINT, header)
    learner = in_world("coop", LOADED, train.classnames)
    start = learner.context.clone()
    with pytest.raises(ValueError, match="is damaged .*delete it to start the run afresh"):
        fit(learner, train, **settings)
    assert torch.equal(learner.context, start)


def test_a_damaged_file_and_one_of_another_kind_are_refused(train, tmp_path):
    path, (learner, optimizer) = tmp_path / _CHECKPOINT, stepped("sgd", train, 1, 1)
    _save_checkpoint(path, learner, optimizer, {}, "this", [])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="cannot be read .*delete it to start the run afresh"):
        _load_checkpoint(path, learner, optimizer, {}, "this")
    save_file({"features": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="belongs to another fit, which left no word of it, and this one is this"):
        _load_checkpoint(path, learner, optimizer, {}, "this")
