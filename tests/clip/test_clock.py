"""Each second of training belongs to one part of it, on a processor and on a GPU; what is not training is not told as such.

Time stands still here but for naps, so that a nap is found where it was taken, and nowhere else.
"""

import pytest
import torch
from pretend import pretend
from random_clip import random_clip
from shared import killed_after

from npt.clip.clock import _by_clock, _Clock, _each, _epoch_noted, _part, _pass_through, _times
from npt.data.images import Images
from npt.data.load import load_dataset
from npt.learners.base import Learner
from npt.learners.build import build_learner
from npt.training.fit import fit

CPU = torch.device("cpu")
SHORT = dict(epochs=2, batch_size=4, lr=0.01, objective="ce", progress=False)  # four steps in all, of four images each


class Naps:
    "Takes the place of Python's `time`."

    now = 0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def naps(monkeypatch) -> Naps:
    naps = Naps()
    monkeypatch.setattr("npt.clip.clock.time", naps)
    monkeypatch.setattr("pretend.time", naps)
    return naps


@pytest.fixture(scope="module")
def few():
    return load_dataset("world/textures", shots=2).base.train.of_labels(range(4))


def slow_clip(naps: Naps, text: int = 0, image: int = 0, **more):
    "A CLIP that naps in each pass through a tower, in the tower itself."
    clip = random_clip(dtype=torch.float32, layers=2, width=32, heads=2, **more)
    clip.model.visual.conv1.register_forward_pre_hook(lambda *_: naps.sleep(image))
    clip.model.ln_final.register_forward_pre_hook(lambda *_: naps.sleep(text))
    return clip


def fitted(clip, train, name: str, **settings) -> dict[str, float]:
    "What the clock tells of a fit."
    learner = build_learner(name, clip, train.classnames)
    with _by_clock(clip, _Clock(clip.device)):
        fit(learner, train, **SHORT | dict(measure_every=0) | settings)
        return _times(clip.clock)


def told(text: float = 0, image: float = 0, loading: float = 0, measuring: float = 0, images: int = 16, training: float | None = None) -> dict:
    "What a clock is to tell; training took as long as its parts unless it is said."
    return dict(text_seconds=text, image_seconds=image, loading_seconds=loading, measuring_seconds=measuring,
                images_per_second=round(images / (training or text + image + loading), 3))


# ---- the clock alone


def test_a_second_counts_for_the_innermost_part(naps):
    clock = _Clock(CPU)
    with _epoch_noted(clock, 15):
        naps.sleep(1)
        with _part(clock, "loading"):
            naps.sleep(2)
            with _pass_through(clock, "image"):
                naps.sleep(4)
            naps.sleep(8)
    naps.sleep(100)
    assert clock.seconds == dict(training=1, loading=10, image=4) and not clock.inside
    assert _times(clock) == told(image=4, loading=10, images=15, training=15)


def test_what_is_done_with_a_thing_is_not_spent_on_getting_it(naps):
    clock = _Clock(CPU)
    for number in _each(clock, "loading", (naps.sleep(1) or number for number in range(3))):
        naps.sleep(10)
    assert number == 2 and clock.seconds["loading"] == 3


def test_a_part_that_fails_is_over(naps):
    clock = _Clock(CPU)
    with pytest.raises(ZeroDivisionError), _epoch_noted(clock, 8), _part(clock, "loading"):
        1 / 0
    assert not clock.inside and _times(clock) == {"measuring_seconds": 0}


def test_a_tower_counts_in_training_alone(naps):
    clip = slow_clip(naps, text=1)
    before = dict(clip.clock.seconds)
    clip.encode_text(["a cat"])
    with _part(clip.clock, "measuring"):
        clip.encode_text(["a cat"])
    assert before == {} and clip.clock.seconds == dict(measuring=1)
    with _part(clip.clock, "training"):
        clip.encode_text(["a cat"])
    assert clip.clock.seconds == dict(measuring=1, training=0, text=1)


# ---- of a fit


@pytest.mark.parametrize("name, text, image", [("coop", 4, 0), ("cocoop", 4, 0), ("maple", 4, 4), ("ivlp", 4, 4), ("vpt", 0, 4), ("lora", 4, 4)])
def test_the_passes_of_each_step_are_the_towers(name, text, image, naps, few):
    clip = slow_clip(naps, text=1, image=10)
    if not image:
        fitted(clip, few, name)  # so that the features are there
    assert fitted(clip, few, name) == told(text=text, image=10 * image)


def test_an_objective_of_frozen_image_features_passes_once_more_for_each_picture(naps, few, folder):
    assert fitted(slow_clip(naps, image=1), few, "vpt", objective="ce + scl_image") == told(image=4 + 1), "of all eight pictures at once"


def test_features_that_are_computed_for_training_are_the_image_towers(naps, few, folder):
    assert fitted(slow_clip(naps, text=1, image=10), few, "coop") == told(text=4, image=10)
    assert fitted(slow_clip(naps, text=1, image=10), few, "coop") == told(text=4), "the second fit finds them on disk"


def test_where_images_are_not_there_loading_is_long(naps, few, monkeypatch):
    fetch = Images.__getitems__
    monkeypatch.setattr(Images, "__getitems__", lambda self, draws: naps.sleep(3) or fetch(self, draws))
    assert fitted(slow_clip(naps, image=1), few, "vpt", workers=0) == told(image=4, loading=12)


def test_a_measure_of_collapse_is_told_apart(naps, few):
    assert fitted(slow_clip(naps, image=1), few, "vpt", measure_every=1) == told(image=4, measuring=2)


def test_a_fit_that_goes_on_knows_its_own_epochs(naps, few, tmp_path):
    clip = slow_clip(naps, text=1)
    with killed_after(1):
        fitted(clip, few, "coop", epochs=3, run_dir=tmp_path)
    assert fitted(clip, few, "coop", epochs=3, run_dir=tmp_path) == told(text=4)


@pytest.mark.parametrize("name", ["zero_shot", "tip_adapter"])
def test_where_nothing_is_trained_nothing_is_told_of_it(name, naps, few):
    assert fitted(slow_clip(naps, text=1, image=1), few, name) == {"measuring_seconds": 0}


class Own(Learner):
    "Learns a shift of its class vectors, and looks at images itself."

    name = "own"

    def __init__(self, clip, classnames):
        super().__init__(clip)
        self.shift = torch.nn.Parameter(torch.zeros(clip.embed_dim))
        self.prepare(classnames)

    def text_features(self):
        return torch.nn.functional.normalize(self.clip.encode_text(self.classnames) + self.shift, dim=-1)

    def image_features(self, pixels):
        return self.clip.encode_image(pixels)


def test_a_learner_of_ones_own_is_told_by_what_its_clip_does(naps, few):
    clip = slow_clip(naps, text=1, image=10)
    fit(Own(clip, few.classnames), few, measure_every=0, **SHORT)
    assert _times(clip.clock) == told(text=4, image=40)


# ---- a GPU, pretended


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
def test_a_gpus_towers_are_told_by_its_own_time_and_waited_for_once_an_epoch(device, naps, few):
    with pretend(device) as gpu:
        assert fitted(slow_clip(naps, text=1, image=10, device=device), few, "ivlp") == told(text=4, image=40)
    assert sum(times for (what, _), times in gpu.waits.items() if what == "a note") == 2


def test_a_note_that_is_read_too_early_is_an_error(naps):
    with pretend("cuda:0"):
        clock = _Clock(torch.device("cuda:0"))
        with _part(clock, "training"), _pass_through(clock, "text"):
            naps.sleep(1)
        (_, before, after), = clock.unread
        with pytest.raises(RuntimeError, match="wait for it first"):
            before.elapsed_time(after)


def test_what_is_captured_gets_no_notes(naps, monkeypatch):
    with pretend("cuda:0"):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        clock = _Clock(torch.device("cuda:0"))
        with _epoch_noted(clock, 4), _pass_through(clock, "text"):
            naps.sleep(1)
        assert not clock.unread and _times(clock)["text_seconds"] == 0


def test_apples_gpu_tells_no_towers(naps, few):
    with pretend("mps:0"):
        assert fitted(slow_clip(naps, text=1, device="mps:0"), few, "coop") == dict(
            measuring_seconds=0, loading_seconds=0, images_per_second=4)
