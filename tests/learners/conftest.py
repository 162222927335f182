"What the tests of every learner ask for."

import pytest
from random_clip import random_clip

from npt.clip.frozen import FrozenCLIP


@pytest.fixture(scope="session")
def small() -> FrozenCLIP:
    "A CLIP with random weights, in double precision."
    return random_clip()
