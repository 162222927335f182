"A tiny CLIP of OpenAI's kind as transformers has it, and two backbones of open_clip of its sizes, for weights files of every layout."

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

TOWER = dict(hidden_size=32, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)
SIZES = dict(embed_dim=24, vision_cfg=dict(image_size=32, layers=2, width=32, head_width=8, patch_size=16),
             text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=4, layers=2))
TEXTS = ["a cat", "a photo of a red fox"]


@contextmanager
def tiny_backbones(folder: Path) -> Iterator[None]:
    "open_clip knows 'small', which computes GELU, and 'small-quickgelu' for a while."
    for name, quick in ("small", {}), ("small-quickgelu", dict(quick_gelu=True)):
        (folder / f"{name}.json").write_text(json.dumps(SIZES | quick))
    open_clip.add_model_config(folder)
    yield
    for name in "small", "small-quickgelu":
        del open_clip.factory._MODEL_CONFIGS[name]


def theirs(act: str = "quick_gelu", heads: int = 4, **vision: object) -> CLIPModel:
    "transformers' model with random weights, the same each time."
    tower = TOWER | dict(hidden_act=act, num_attention_heads=heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPModel(CLIPConfig(text_config=tower, vision_config=tower | dict(image_size=32, patch_size=16) | vision, projection_dim=24)).eval()


def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
