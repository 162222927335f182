"""MMA: the published method, its adapters' gradients, and the blocks that they are in."""

import pytest
import torch
from backbones import CLASSNAMES, reduced
from every_learner import EveryLearner
from random_clip import NAMES, images, random_clip

from npt.clip.towers import _image_blocks
from npt.learners.build import build_learner


class TestMMA(EveryLearner):
    cases = {
        "as published": ("mma", dict(rank=8)),
        "one block": ("mma", dict(rank=5, layers=1, scale=0.5, ctx_init="a photo of one")),
    }


@pytest.mark.parametrize("layers", [0, 4])
def test_blocks_that_are_not_there_are_refused(layers):
    with pytest.raises(ValueError, match=f"layers={layers} is no number of upper blocks in random, whose lower tower has 4: give 1 to 3"):
        build_learner("mma", random_clip(), NAMES, layers=layers)


def test_two_thirds_of_the_blocks_as_published():
    assert build_learner("mma", random_clip(), NAMES).settings["layers"] == 3
    assert build_learner("mma", random_clip(layers=12), NAMES).settings["layers"] == 3, "the image tower has four"


@pytest.mark.parametrize("scale", [0.0, 1.5])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match="scale"):
        build_learner("mma", random_clip(), NAMES, scale=scale)


def test_a_small_scale_hardly_changes_features_and_does_not_slow_the_learning():
    clip = random_clip()
    norms = []
    for scale in 1e-3, 1e-6:
        learner = build_learner("mma", clip, NAMES, rank=8, scale=scale)
        image = learner.image_features(images())
        assert (image - clip.encode_image(images())).norm() < 100 * scale
        image[:, 0].sum().backward()
        norms.append(learner.image_ends[0].down.weight.grad.norm())
    assert norms[1] == pytest.approx(norms[0].item(), rel=0.01)


@pytest.mark.parametrize("backbone", ["ViT-B-16-SigLIP", "EVA02-B-16"])
def test_an_image_tower_of_timms_takes_adapters_too(backbone):
    clip = reduced(backbone)
    learner = build_learner("mma", clip, CLASSNAMES, rank=8, scale=0.5, layers=1)
    pixels = torch.randn(2, *clip.preprocess_cfg.input_size, generator=torch.Generator().manual_seed(0))
    block, met = _image_blocks(clip.model)[-1], {}
    with block.norm1.register_forward_hook(lambda module, args, out: met.setdefault("seen", out)), \
            block.register_forward_hook(lambda module, args, out: met.setdefault("plain", out)):
        plain = clip.encode_image(pixels)
    ends, shared = learner.image_ends[0], learner.shared[0]
    more = 0.5 * ends.up(shared(ends.down(met["seen"]).relu()).relu())
    with block.register_forward_hook(lambda module, args, out: met["plain"] + more):
        expected = clip.encode_image(pixels)
    made = learner.image_features(pixels)
    assert torch.allclose(made, expected, atol=1e-6) and not torch.allclose(made, plain, atol=1e-3)


@pytest.mark.parametrize("backbone", ["RN50-quickgelu", "convnext_base_w"])
def test_a_tower_without_such_blocks_is_refused(backbone):
    with pytest.raises(ValueError, match="Adapters need the blocks of a vision transformer, and the image tower is a"):
        build_learner("mma", reduced(backbone), CLASSNAMES)
