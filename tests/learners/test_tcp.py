"""TCP: the published method, and the block that its vectors enter."""

import pytest
from every_learner import EveryLearner
from random_clip import NAMES, random_clip
from written_out import PETS

from npt.learners.build import build_learner


class TestTCP(EveryLearner):
    cases = {
        "random": ("tcp", dict(layer=2)),
        "words": ("tcp", dict(layer=3, n_ctx=2, ctx_init="a photo of a", template=PETS)),
        "ending": ("tcp", dict(layer=2, after_name=" texture.", template=PETS)),
    }


@pytest.mark.parametrize("layer", [0, 4])
def test_a_block_that_is_not_there_is_refused(layer):
    with pytest.raises(ValueError, match=f"layer={layer} is no block of random's text tower .* from 1 to 3"):
        build_learner("tcp", random_clip(), NAMES, layer=layer)


def test_the_published_block_or_the_last():
    assert build_learner("tcp", random_clip(), NAMES).settings["layer"] == 3
    assert build_learner("tcp", random_clip(layers=12), NAMES).settings["layer"] == 8
