"The weights that the package ships, and the world they were trained in."

import torch

from npt.clip.load import load_clip
from npt.data.load import load_dataset
from npt.training.evaluation import base_to_novel
from npt.learners.build import build_learner
from npt.world.label_sets import LABEL_SETS, WorldImage, draw_images
from npt.world.pictures import OBJECTS, make_scenes, render


def test_shipped_weights_recognise_what_they_were_trained_on():
    clip = load_clip("world")
    things, per_class = OBJECTS[::15], 20
    labels = torch.arange(len(things)).repeat_interleave(per_class)
    images = render(make_scenes([things[k] for k in labels], 3 * 10**9 + torch.arange(len(labels))))
    text = clip.encode_text([f"a photo of a {thing.name}." for thing in things])
    right = ((clip.encode_image((images - 0.5) / 0.25) @ text.T).argmax(1) == labels).float() * 100
    seen = torch.tensor([thing.seen for thing in things])[labels]
    assert len(things) == 32 and right[seen].mean() > 80 and right[~seen].mean() > 70


def test_zero_shot_on_the_default_dataset_leaves_room():
    data = load_dataset("world/shapes")
    zero_shot = build_learner("zero_shot", load_clip("world"), data.base.classnames, template=data.record.template)
    measured = base_to_novel(zero_shot, data)
    assert 45 <= measured["base"] <= 75 and 45 <= measured["novel"] <= 75, measured


def test_images_do_not_depend_on_the_batch_or_on_when_they_are_drawn():
    for name, label_set in LABEL_SETS.items():
        images = [WorldImage(name, split, label, number) for split in ("train", "test")
                  for label in range(0, len(label_set.things), 5) for number in (0, 7)]
        drawn = draw_images(images)
        for index in (0, len(images) // 2, len(images) - 1):
            assert torch.equal(drawn[index], draw_images([images[index]])[0])
        assert len({image.numpy().tobytes() for image in drawn}) == len(images), "no two pictures are alike"


def test_splits_share_no_image():
    data = load_dataset("world/shapes", shots=16)
    images = [{item.image for item in split.items} for split in (data.all.train, data.all.val, data.all.test)]
    assert not images[0] & images[1] and not images[1] & images[2] and not images[0] & images[2]
    assert min(data.all.test.counts) >= 100
