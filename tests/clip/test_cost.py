"""The model of time tells the work of a path as it is counted, and chooses as the device wants it."""

import pytest
import torch
from launches import Launches
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from random_clip import TOKENIZER

from npt.clip.blocks import _make_lean
from npt.clip.cost import _Blocks, _blocks_of, _cut_work, _faster_path, _packed_work, _Prompted, _rows_work
from npt.clip.cut import _cut_text_features
from npt.clip.rows import _rows_text_features
from npt.clip.towers import _full_text_features, _shared_text_features

B16 = _Blocks(12, 512, 2048, 4)


@pytest.fixture(scope="module")
def deep_tower():
    "A text tower as deep as ViT-B/16's and narrow: how many operations there are does not depend on the width."
    model = CLIP(16, CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32), CLIPTextCfg(width=32, heads=2, layers=12),
                 quick_gelu=True)
    return _make_lean(model.eval().requires_grad_(False))


def prompts(K: int) -> tuple[torch.Tensor, _Prompted]:
    tokens = TOKENIZER(["X X X X " + " ".join(["cat"] * (1 + place % 7)) + "." for place in range(K)])
    return tokens, _Prompted(5, tuple((tokens.argmax(-1) + 1 - 5).tolist()))


def counted(model, way, tokens, contexts=(), **more) -> Launches:
    prefix, suffix = torch.randn(*contexts, 5, 32, requires_grad=True), torch.randn(len(tokens), int(tokens.argmax(-1).max()) - 4, 32)
    for _ in range(2):  # the first call makes what is remembered
        with Launches() as launches:
            way(model, prefix, suffix, tokens, **more).sum().backward()
    return launches


WAYS = pytest.mark.parametrize("way, work", [(_shared_text_features, _packed_work), (_cut_text_features, _cut_work), (_rows_text_features, _rows_work)])


@pytest.mark.parametrize("K", [10, 300])
@WAYS
def test_operations_are_as_many_as_told(deep_tower, way, work, K):
    tokens, prompted = prompts(K)
    real, told = counted(deep_tower, way, tokens, at_once=10**6).count, work(_blocks_of(deep_tower), prompted).launches
    assert 0.85 < told / real < 1.15, (told, real)


@pytest.mark.parametrize("K", [100, 1000])
@WAYS
def test_as_much_is_read_and_written_as_told(deep_tower, way, work, K):
    tokens, prompted = prompts(K)
    real, told = counted(deep_tower, way, tokens, at_once=10**6).bytes, work(_blocks_of(deep_tower), prompted).bytes
    assert 0.88 < told / real < 1.12, (told, real)


@pytest.mark.parametrize("K", [10, 100, 1000])
@pytest.mark.parametrize("way", [_cut_text_features, _rows_text_features])
def test_a_gpu_is_given_few_operations_for_any_number_of_classes(deep_tower, way, K):
    assert counted(deep_tower, way, prompts(K)[0], at_once=32768).count <= 450


@pytest.mark.parametrize("contexts, deep", [((4,), {}), ((), {block: (4, 32) for block in range(1, 9)}), ((), {8: (20, 4, 32)})],
                         ids=["cocoop", "maple", "tcp"])
def test_deep_prompts_and_several_contexts_take_hardly_more_than_the_full_length(deep_tower, contexts, deep):
    tokens, deep = prompts(20)[0], {block: torch.randn(*shape, requires_grad=True) for block, shape in deep.items()}
    ways = [_cut_text_features] if any(vectors.dim() == 3 for vectors in deep.values()) else [_cut_text_features, _rows_text_features]
    full = counted(deep_tower, _full_text_features, tokens, contexts, deep=deep).count
    assert all(counted(deep_tower, way, tokens, contexts, deep=deep).count <= 1.3 * full for way in ways)


@pytest.mark.parametrize("device, dtype, K, path", [
    ("cpu", torch.float32, 10, "packed"), ("cpu", torch.float32, 1000, "packed"), ("cuda", torch.bfloat16, 3, "cut"),
    ("cuda", torch.bfloat16, 1000, "rows"), ("cuda", torch.float32, 1000, "rows"), ("mps", torch.float32, 100, "rows")])
def test_each_device_gets_its_path(device, dtype, K, path):
    assert _faster_path(B16, prompts(K)[1], torch.device(device), dtype) == path


def test_prompts_of_each_class_are_never_written_into_rows():
    for device in "cpu", "cuda":
        own = _Prompted(5, (3, 4, 5) * 100, own_prefix=True)
        assert _faster_path(B16, own, torch.device(device), torch.float32) in ("packed", "cut")
