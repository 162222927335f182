"""The cache of Tip-Adapter: its classes, its files, and what is none."""

import pytest
import torch
from every_learner import EveryLearner
from random_clip import NAMES, images, random_clip
from written_out import trained

from npt.clip.frozen import FrozenCLIP
from npt.learners.build import build_learner
from npt.learners.saving import load_prompts, save_prompts


class TestTipAdapter(EveryLearner):
    cases = {name: (name, dict(alpha=3.0, beta=5.5)) for name in ("tip_adapter", "tip_adapter_f")}


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return random_clip()


def test_tip_adapter_tells_classes_of_one_name_apart(clip):
    with pytest.warns(UserWarning, match="More than one class is called"):
        learner = build_learner("tip_adapter", clip, ["crane", "fox", "crane"], alpha=1.0, beta=0.0)
        learner.remember(clip.encode_image(images(5)), torch.tensor([0, 0, 2, 1, 2]))
        assert learner.votes(clip.encode_image(images())).tolist() == [[2.0, 1.0, 2.0]] * 3
        turned = learner.for_classes(["crane", "crane"])
        learner.remember(clip.encode_image(images(4)), torch.tensor([0, 0, 2, 0]))
        again = learner.for_classes(["crane", "crane"])
    assert turned.votes(clip.encode_image(images())).tolist() == [[2.0, 2.0]] * 3, "a cache of its own"
    assert again.votes(clip.encode_image(images())).tolist() == [[3.0, 1.0]] * 3


@pytest.mark.parametrize("name", ["tip_adapter", "tip_adapter_f"])
def test_a_damaged_cache_is_refused_and_changes_nothing(clip, tmp_path, name):
    learner, fresh = trained(clip, name, {}), build_learner(name, clip, NAMES)
    damaged = trained(clip, name, {})
    damaged.labels += 9
    save_prompts(damaged, tmp_path / "prompts.safetensors")
    before = learner.logits(images())
    for one in (learner, fresh):
        with pytest.raises(ValueError, match="prompts.safetensors holds"):
            load_prompts(one, tmp_path / "prompts.safetensors")
    assert torch.equal(learner.logits(images()), before) and fresh.keys is None


def test_tip_adapter_needs_its_training_images_and_refuses_what_is_no_cache(clip):
    learner = build_learner("tip_adapter", clip, NAMES)
    with pytest.raises(RuntimeError, match="call fit"):
        learner.logits(images())
    saved = trained(clip, "tip_adapter", {}).state_dict()
    names = torch.tensor(list(b'[["cat"]]'), dtype=torch.uint8)
    for bad in ({"more": saved["keys"]}, {"labels": saved["labels"].float()}, {"labels": saved["labels"] - 1},
                {"labels": saved["labels"][1:]}, {"keys": saved["keys"][:, :7]}, {"names": names}, {"names": names[:1]},
                {"names": names.long()}, {"names": torch.full((100_000,), ord("["), dtype=torch.uint8)}):
        with pytest.raises(RuntimeError, match="This is no cache"):
            learner.load_state_dict({**saved, **bad})
    assert learner.keys is None
