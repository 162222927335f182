"""Small models in double precision, and prompts for them, on which the paths through the towers are compared."""

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn

from npt.clip.towers import _trim
from npt.world.captions import _Remembering

KNOWS_EOS = pytest.mark.skipif("eos_id" not in CLIPTextCfg.__dataclass_fields__, reason="this open_clip reads a text at no given EOT")
LAYERS, WIDTH, IMAGE_WIDTH = 4, 64, 32
WORDS = "cat", "dog", "red", "flat-coated", "annual crop land", "smartphone", "irish wolfhound", "of", "satellite"
TOKENIZER = _Remembering()


def small(cls=CLIP, vision=None, embed_dim=48, **text) -> nn.Module:
    "A frozen model in double precision with random weights, four blocks in each tower."
    torch.manual_seed(0)
    small_vision = dict(layers=LAYERS, width=IMAGE_WIDTH, head_width=16, patch_size=8, image_size=32)
    vision = CLIPVisionCfg(**small_vision | (vision or {}))
    text = CLIPTextCfg(**dict(width=WIDTH, heads=4, layers=LAYERS) | text)
    return cls(embed_dim=embed_dim, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval().requires_grad_(False).double()


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1


def prompts_for(model: nn.Module, names: list[str], n: int, contexts: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    "Prefix (SOT and n context vectors, or several such), suffix and tokens."
    tokens = TOKENIZER(["X " * n + name + "." for name in names])
    embedded = getattr(model, "text", model).token_embedding(tokens)
    lead = () if contexts is None else (contexts,)
    prefix = torch.cat([embedded[0, :1].expand(*lead, 1, -1), drawn(*lead, n, WIDTH, seed=n).to(embedded)], dim=-2)
    return prefix, embedded[:, 1 + n : _trim(tokens).shape[1]], tokens
