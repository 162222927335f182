"""A fit whose text side is replayed gives the numbers of one that computes it, and is refused or stopped where it would not.

On a GPU that is pretended, where recorded operations are replayed with the dangers of real graphs (`replayed.py`), and on a real one where
there is one.
"""

import gc
import weakref
from collections.abc import Iterator
from copy import copy
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from pretend import pretend
from random_clip import NAMES, random_clip
from replayed import replaying
from shared import fresh, in_world, killed_after
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import npt.clip.cut
import npt.clip.packing
import npt.clip.rows
from npt.clip.frozen import FrozenCLIP
from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.data.split import Split
from npt.learners.build import build_learner
from npt.learners.coop import CoOp
from npt.training.anchors import _CONSISTENCY_TEMPLATES
from npt.training.fit import fit
from npt.training.graphs import _captured, _check_graphs, _TextGraph
from npt.training.measure import measure_collapse

CACHES = npt.clip.packing._pack, npt.clip.cut._cut, npt.clip.rows._rows
SHORT = dict(epochs=2, batch_size=4, lr=0.01, progress=False, measure_every=0)
RUNS = [("coop", "npt", torch.float32), ("kgcoop", "own", torch.bfloat16), ("prograd", "own", torch.float32), ("prograd", "own", torch.float16),
        ("tcp", "own", torch.float32), ("promptsrc", "own", torch.float16), ("maple", "npt", torch.float32), ("lora", "ce", torch.float32)]
OWN = {"prograd": dict(ctx_init=None)}  # words that are the template leave nothing to guide


@pytest.fixture(autouse=True)
def no_packing_is_left() -> Iterator[None]:
    yield
    for remembered in CACHES:
        remembered.cache_clear()


@pytest.fixture(autouse=True)
def few_templates(monkeypatch):
    monkeypatch.setattr("npt.training.anchors._CONSISTENCY_TEMPLATES", _CONSISTENCY_TEMPLATES[:2])


@pytest.fixture(autouse=True)
def no_search_for_circles(request, monkeypatch):
    "Python takes a while to go through all that the tests hold."
    if "nothing_of_a_graph" not in request.node.name:
        monkeypatch.setattr("npt.training.fit.gc", SimpleNamespace(collect=lambda: None))


@pytest.fixture(scope="module")
def train() -> Split:
    return load_dataset("world/textures", shots=2).base.train.of_labels(range(4))


@cache
def loaded(dtype: torch.dtype, device: str) -> FrozenCLIP:
    return random_clip(dtype=dtype, device=device, layers=2, width=32, heads=2)


def tiny(dtype: torch.dtype = torch.float32, device: str = "cuda:0") -> FrozenCLIP:
    "A small CLIP that remembers nothing."
    clip = copy(loaded(dtype, device))
    clip.kept = {}
    return clip


def learned(learner: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().cpu() for parameter in learner.parameters()]


def same(one: nn.Module, other: nn.Module) -> bool:
    "Whether two learners have learned the same to the last bit."
    return all(map(torch.equal, learned(one), learned(other)))


# ---- a replayed fit is an eager one


@pytest.mark.parametrize("name, objective, dtype", RUNS, ids=str)
def test_a_replayed_fit_gives_the_numbers_of_an_eager_one(name, objective, dtype, train):
    with replaying("cuda:0") as (_, recorder):
        clip = tiny(dtype)
        learners = [build_learner(name, clip, train.classnames, **OWN.get(name, {})) for _ in range(2)]
        histories = [fit(learner, train, objective=objective, graphs=graphs, **SHORT) for learner, graphs in zip(learners, (False, True))]
        steps, passes = 2 * -(-len(train) // 4), 4 if name == "prograd" else 2
        compared = 4 + 2 * 4  # before the first step, and after each epoch
        assert recorder.captures == 1 and recorder.replays == steps * passes + compared
        start = build_learner(name, clip, train.classnames, **OWN.get(name, {}))
        assert histories[0].equals(histories[1]) and same(*learners) and not same(start, learners[0])


def test_a_step_launches_little_and_waits_for_nothing(train):
    def counted(graphs):
        inside, hook = [], register_optimizer_step_post_hook(lambda *_: (inside.append((sum(gpu.launches.values()), dict(gpu.waits))), gpu.forget()))
        try:
            fit(build_learner("coop", clip, train.classnames), train, objective="ce", graphs=graphs, **SHORT | dict(epochs=1, batch_size=2))
        finally:
            hook.remove()
        return inside[1:]

    with replaying("cuda:0") as (gpu, _):
        clip = tiny()
        eager, replayed = counted(False), counted(True)
    assert len(replayed) == 3 and not any(waits for _, waits in replayed)
    assert max(launches for launches, _ in replayed) < min(launches for launches, _ in eager) - 50, "two blocks of 28 launches"


def test_a_replayed_fit_goes_on_from_an_eager_ones_checkpoint_and_back(train, tmp_path):
    with replaying("cuda:0"):
        clip = tiny()
        whole, *resumed = [build_learner("maple", clip, train.classnames) for _ in range(3)]
        history = fit(whole, train, **SHORT)
        for learner, first in zip(resumed, (True, False)):
            settings = dict(SHORT, run_dir=tmp_path / str(first))
            with killed_after(1):
                fit(learner, train, graphs=first, **settings)
            assert fit(learner, train, graphs=not first, **settings).equals(history) and same(learner, whole)


def test_nothing_of_a_graph_is_left_after_a_fit_or_an_error(train, monkeypatch):
    made = []

    def noted(graph: _TextGraph) -> _TextGraph:
        made.append(weakref.ref(graph.replay.__self__))  # PyTorch's part, a class that holds itself
        return graph

    monkeypatch.setattr("npt.training.fit._captured", lambda learner: noted(_captured(learner)))
    with replaying("cuda:0"):
        learner = build_learner("coop", tiny(), train.classnames)
        before = learner.__dict__.keys() | learner.state_dict().keys()
        for stopped in False, True:
            hook = learner.register_forward_pre_hook(lambda *_: 1 / 0) if stopped else None
            try:
                fit(learner, train, graphs=True, **SHORT)
            except ZeroDivisionError:
                hook.remove()
            if stopped:
                gc.collect()  # the error held all that was at work
            assert made.pop()() is None and learner.__dict__.keys() | learner.state_dict().keys() == before


# ---- what makes a graph dangerous is in the stand-in, and not in a fit


class Bare(_TextGraph):
    "A graph whose outcome is handed on as it comes."

    def __call__(self) -> torch.Tensor:
        return self.replay(*self.parameters)


@pytest.mark.parametrize("bare", [False, True])
def test_class_vectors_stay_when_the_next_are_made_as_they_would_not_without_a_copy(bare):
    with replaying("cuda:0"):
        graph = _captured(build_learner("coop", tiny(), NAMES))
        graph.__class__ = Bare if bare else _TextGraph
        first = graph()
        values = first.detach().clone()
        with torch.no_grad():
            graph.parameters[0].mul_(2)
        second = graph()
        assert not torch.equal(values.cpu(), second.detach().cpu())
        assert torch.equal(values.cpu(), first.detach().cpu()) is not bare


def test_without_copies_prograd_would_learn_something_else(train, monkeypatch):
    bare, captured = [], _captured

    def uncopied(learner: nn.Module) -> _TextGraph:
        bare.append(graph := captured(learner))
        graph.__class__ = Bare
        return graph

    with replaying("cuda:0"):
        clip = tiny()
        learners = [build_learner("prograd", clip, train.classnames, ctx_init=None) for _ in range(2)]
        fit(learners[0], train, objective="own", **SHORT)
        monkeypatch.setattr("npt.training.fit._captured", uncopied)
        with pytest.raises(FloatingPointError):  # the second backward pass finds nothing of the forward pass
            fit(learners[1], train, objective="own", graphs=True, **SHORT)
    assert bare


def test_gradients_of_one_backward_pass_stay_in_the_next():
    with replaying("cuda:0"):
        graph = _captured(build_learner("maple", tiny(), NAMES))
        text = graph()
        along = torch.ones_like(text)
        first = torch.autograd.grad(text, graph.parameters, along, retain_graph=True)
        values = [one.clone().cpu() for one in first]
        second = torch.autograd.grad(text, graph.parameters, 2 * along)
        for one, value, other in zip(first, values, second):
            assert torch.equal(one.cpu(), value) and torch.equal(other.cpu(), 2 * value) and value.abs().sum() > 0


@pytest.mark.parametrize("held", [True, False])
def test_what_a_graph_reads_is_there_although_every_cache_is_emptied(held):
    with replaying("cuda:0"):
        graph = _captured(build_learner("coop", tiny(), NAMES))
        expected = graph().detach().clone()
        if not held:
            graph.read = ()  # and so nothing is watched
        for remembered in CACHES:
            remembered.cache_clear()
        gc.collect()
        if held:
            assert torch.equal(graph().detach().cpu(), expected.cpu())
        else:
            with pytest.raises(RuntimeError, match="memory that was freed"):
                graph()


def test_a_backward_pass_after_an_update_is_refused():
    with replaying("cuda:0"):
        graph = _captured(build_learner("coop", tiny(), NAMES))
        text = graph()
        with torch.no_grad():
            graph.parameters[0].add_(1)
        with pytest.raises(RuntimeError, match="changed between the forward and the backward pass"):
            text.sum().backward()


def test_a_parameter_that_lies_elsewhere_is_refused():
    x = nn.Parameter(torch.ones(2))
    graph = _TextGraph("own", [x], lambda x: x * 1)
    graph().sum().backward()
    assert x.grad.tolist() == [1, 1]
    x.data = torch.zeros(2)
    with pytest.raises(RuntimeError, match="change parameters in place"):
        graph()


# ---- who is refused


@pytest.mark.parametrize("name, reason", [("cocoop", "its own class_logits"), ("tip_adapter_f", "its own class_logits"),
                                          ("vpt", "nothing that it learns"), ("clip_adapter", "nothing that it learns")])
def test_a_learner_whose_class_vectors_cannot_be_replayed_is_refused(name, reason, train):
    with replaying("cuda:0") as (_, recorder):
        with pytest.raises(ValueError, match=f"{name}.*{reason}.*Set graphs=False"):
            fit(build_learner(name, tiny(), train.classnames), train, graphs=True, **SHORT)
        assert not recorder.captures


@pytest.mark.parametrize("name", ["zero_shot", "tip_adapter"])
def test_where_nothing_is_trained_there_is_nothing_to_replay(name, train):
    with replaying("cuda:0") as (_, recorder):
        assert fit(build_learner(name, tiny(), train.classnames), train, graphs=True, **SHORT).empty
        assert not recorder.captures


def test_a_device_without_graphs_is_refused(train):
    for device in "cpu", "mps:0":
        with pretend("mps:0"), pytest.raises(ValueError, match=f"CUDA GPU alone, and its CLIP is on {device}. Set graphs=False"):
            fit(build_learner("coop", tiny(device=device), train.classnames), train, graphs=True, **SHORT)


@pytest.mark.parametrize("graphs", ["yes", 1, None])
def test_graphs_are_wanted_or_not(graphs):
    with pytest.raises(ValueError, match=f"graphs={graphs!r} must be True or False"):
        _check_graphs(graphs, in_world("coop", fresh(), NAMES))


class Drawing(CoOp):
    def text_features(self):
        return torch.dropout(super().text_features(), 0.1, self.training)


class Asking(CoOp):
    def text_features(self):
        return super().text_features() * (1 if self.context.sum().item() else 1)


class Counting(CoOp):
    "Class vectors that change with what a learner has met."
    met = 0

    def adapt(self, frozen):
        self.met += 1
        return frozen

    def text_features(self):
        vectors = super().text_features()
        return torch.nn.functional.normalize(vectors + 0.1 * self.met * vectors.roll(1, 0), dim=-1)


class Centring(CoOp):
    "Class vectors without a mean of image features that is kept up to date in each step."

    def prepare(self, classnames):
        super().prepare(classnames)
        self.register_buffer("mean", torch.zeros(self.clip.embed_dim, device=self.clip.device), persistent=False)

    def adapt(self, frozen):
        self.mean.lerp_(frozen.detach().mean(0), 0.5)
        return frozen

    def text_features(self):
        return torch.nn.functional.normalize(super().text_features() - self.mean, dim=-1)


class Hidden(Centring):
    "The same, where PyTorch does not count the changes."

    def adapt(self, frozen):
        self.mean.data.lerp_(frozen.detach().mean(0), 0.5)
        return frozen


class Late(CoOp):
    "A vector for each class that begins to enter with the value 0."

    def prepare(self, classnames):
        super().prepare(classnames)
        self.steps, self.more = 0, nn.Parameter(torch.zeros(self.clip.embed_dim, device=self.clip.device))

    def adapt(self, frozen):
        self.steps += 1
        return frozen @ (torch.eye(len(self.more), device=self.more.device) + 0 * self.more)

    def text_features(self):
        vectors = super().text_features()
        return vectors + self.more if self.steps > 1 else vectors


def test_a_tensor_changed_unnoticed_by_pytorch_is_read_when_an_eager_step_would(train):
    with replaying("cuda:0"):
        clip = tiny()
        learners = [Hidden(clip, train.classnames) for _ in range(2)]
        histories = [fit(learner, train, objective="ce", graphs=graphs, **SHORT) for learner, graphs in zip(learners, (False, True))]
        assert histories[0].equals(histories[1]) and same(*learners) and learners[0].mean.abs().sum() > 0


@pytest.mark.parametrize("cls, error, said", [(Centring, RuntimeError, "a tensor of shape.*of 'coop'.*changed in place.*graphs=False"),
                                              (Late, RuntimeError, "'coop' depend on other parameters.*more.*graphs=False"),
                                              (Drawing, ValueError, "draws at random in text_features"),
                                              (Asking, RuntimeError, "cannot be captured.*not permitted when stream is capturing.*graphs=False"),
                                              (Counting, RuntimeError, "class vectors.*by a CUDA graph are off by.*graphs=False")])
def test_a_learner_of_ones_own_that_cannot_be_replayed_stops_the_fit(cls, error, said, train, monkeypatch):
    with replaying("cuda:0"):
        learner = cls(tiny(), train.classnames)
        before = learner.context.detach().clone()
        if cls is Drawing:  # the pretended device has no generator of its own
            monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.get_rng_state())
        with pytest.raises(error, match=said):
            fit(learner, train, objective="ce", graphs=True, **SHORT)
        assert torch.equal(learner.context.cpu(), before.cpu())


def test_what_would_be_computed_twice_is_not_captured(train):
    with replaying("cuda:0") as (_, recorder):
        clip = tiny()
        clip.memory_budget = 0
        learner = build_learner("coop", clip, train.classnames)
        with pytest.raises(RuntimeError, match="cannot be captured.*memory_budget.*computed twice.*graphs=False"):
            fit(learner, train, graphs=True, **SHORT)
        assert not recorder.captures
        assert len(fit(learner, train, **SHORT)) == 2


def test_too_little_memory_for_a_capture_is_told_as_for_a_step(train, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with replaying("cuda:0"):
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", full)
        with pytest.raises(torch.OutOfMemoryError, match="no room for 2.00 GiB.*try a batch_size below 4"):
            fit(build_learner("coop", tiny(), train.classnames), train, graphs=True, **SHORT)


# ---- on a GPU


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["coop", "kgcoop", "prograd", "tcp", "ivlp", "promptsrc", "maple", "lora"])
def test_on_a_gpu_a_replayed_fit_gives_the_numbers_of_an_eager_one(name, precision):
    train = load_dataset("world/textures", shots=4).base.train
    clip = load_clip("world", device="cuda", precision=precision)
    learners = [build_learner(name, clip, train.classnames, **OWN.get(name, {})) for _ in range(2)]
    losses = [fit(learner, train, objective="own", graphs=graphs, **SHORT | dict(batch_size=8)).loss.values
              for learner, graphs in zip(learners, (False, True))]
    close = dict(fp32=1e-3, bf16=5e-2, fp16=1e-2)[precision]
    assert losses[1] == pytest.approx(losses[0], rel=close)
    for one, other in zip(*map(learned, learners)):
        assert (one - other).norm() <= close * one.norm()
    assert measure_collapse(learners[1], train).keys() == measure_collapse(learners[0], train).keys()
