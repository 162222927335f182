"""Records of backbones: the world's says how it differs, every other name is open_clip's."""

from npt.clip.backbone import Backbone, find_backbone


def test_only_the_world_has_a_record_of_its_own():
    world = find_backbone("world")
    assert (world.recipes, world.threads) == ("world", 1)
    assert world.build().logit_scale.exp() > 1 and world.tokenizer()(["a cat"]).shape[0] == 1 and world.vocabulary().dim() == 1
    assert find_backbone("ViT-B-32") == Backbone("ViT-B-32")
