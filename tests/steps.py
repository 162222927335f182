"Random training steps, and what each of their terms asked for."

import numpy as np
import torch
import torch.nn.functional as F

from npt.objectives.anchors import Anchors
from npt.objectives.terms import StepFeatures

SCALE = 20.0


def unit(draw, *shape):
    "Random vectors of unit length in float64."
    return F.normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


class Case:
    "Random tuned and frozen features, a step made of them, and a list of what was computed."

    def __init__(self, num_classes=7, images=9, dim=8, seed=0, num_clusters=None):
        draw = torch.Generator().manual_seed(seed)
        self.text, self.template, self.ensemble = (unit(draw, num_classes, dim) for _ in range(3))
        self.image, self.frozen_image = (unit(draw, images, dim) for _ in range(2))
        self.labels = torch.randint(num_classes, (images,), generator=draw)
        self.asked = []
        self.anchors = Anchors(lambda: self.note("template"), lambda: self.note("ensemble"), num_clusters=num_clusters)

    def note(self, what):
        self.asked.append(what)
        return self.frozen_image if what == "image" else getattr(self, what)

    def step(self, text=None, image=None):
        text, image = (self.text if text is None else text), (self.image if image is None else image)
        return StepFeatures(text, image, self.labels, SCALE * image @ text.T, logit_scale=SCALE, anchors=self.anchors,
                            encode_image=lambda: self.note("image"))

    def arrays(self):
        "Text, template, ensemble, image and frozen image features, and labels, for NumPy."
        tensors = self.text, self.template, self.ensemble, self.image, self.frozen_image, self.labels
        return tuple(x.numpy() for x in tensors)


def per_class_mean(values, labels):
    "Mean over classes of the mean over their images."
    return np.mean([values[labels == k].mean() for k in np.unique(labels)])
