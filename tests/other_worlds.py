"What tests of the CLIPs share that are trained beside the shipped one: a file where one of them belongs, with weights that nobody trained."

from pathlib import Path

import torch

from npt._files import write_bytes
from npt.world.captions import world_vocabulary
from npt.world.clip import _new_world_clip, _pack_world_clip, _world_file


def leave_world(name: str, seed: int) -> Path:
    "Put random weights into the cache as those of a CLIP such as world-2, and give their file."
    torch.manual_seed(seed)
    write_bytes(_pack_world_clip(_new_world_clip(len(world_vocabulary()))), _world_file(name))
    return _world_file(name)
