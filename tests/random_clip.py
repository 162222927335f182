"A CLIP with random weights, for tests to the last bit, and its images and class names."

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from npt.clip.frozen import FrozenCLIP
from npt.world.captions import _Remembering

NAMES = ["cat", "hand-held_computer", "red fox"]
TOKENIZER = _Remembering()  # which takes a while to read its merges


def random_clip(cls: type = CLIP, resnet: bool = False, dtype: torch.dtype = torch.float64, device: str = "cpu", **text) -> FrozenCLIP:
    "A CLIP with random weights, four blocks in each tower; in double precision unless asked otherwise."
    torch.manual_seed(0)
    vision = dict(layers=(1, 1, 1, 1), width=16) if resnet else dict(layers=4, width=32, head_width=16, patch_size=8)
    model = cls(embed_dim=48, vision_cfg=CLIPVisionCfg(image_size=32, **vision),
                text_cfg=CLIPTextCfg(**dict(width=64, heads=4, layers=4) | text), quick_gelu=True)
    open_clip.model.set_model_preprocess_cfg(model, dict(size=32, mean=(0.5,) * 3, std=(0.5,) * 3))
    return FrozenCLIP(model, TOKENIZER, "random", device, dtype)


def images(count: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
