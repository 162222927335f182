"""Loading a CLIP: the world's without a word, weights from tags and files, and what is refused before anything is built."""

import inspect
import pickle
import sys
import time
import warnings
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_backbones

from npt.clip.load import _build_model, load_clip


def test_without_arguments_it_is_the_worlds():
    clip = load_clip()
    assert clip.name == "world" and (clip.device, clip.dtype) == (torch.device("cpu"), torch.float32)
    kinds = {name: parameter.kind for name, parameter in inspect.signature(load_clip).parameters.items()}
    by_place = [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert by_place == ["backbone", "pretrained"], "how it is computed is said by keyword"


def test_random_weights_are_announced_and_the_same_each_time():
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="chance"):
        one = _build_model("RN50-quickgelu", None).visual.conv1.weight
    torch.manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(one, _build_model("RN50-quickgelu", None).visual.conv1.weight)
    untouched = torch.randn(1, generator=torch.Generator().manual_seed(2))
    assert torch.randn(1) == untouched, "the caller's seed is left alone"


# ---- refusals, before anything is downloaded or built

@pytest.mark.parametrize("backbone, tag, right", [
    ("ViT-B-16", "openai", "ViT-B-16-quickgelu"),
    ("ViT-L-14", "dfn2b", "ViT-L-14-quickgelu"),
    ("RN50", "openai", "RN50-quickgelu"),
])
def test_a_quick_gelu_mismatch_is_an_error_naming_the_right_backbone(monkeypatch, backbone, tag, right):
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("a model was built"))
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_, **__: pytest.fail("weights were downloaded"))
    with pytest.raises(ValueError, match=f"QuickGELU.*Use '{right}'"):
        load_clip(backbone, pretrained=tag)


@pytest.mark.parametrize("settings, error, words", [
    (dict(backbone="ViT-B-17"), ValueError, ["ViT-B-1", "list_models"]),
    (dict(backbone="ViT-B-32", pretrained="openia"), ValueError, ["openai", "laion2b_e16"]),
    (dict(backbone="ViT-B-32", pretrained="no/such.safetensors"), FileNotFoundError, ["no/such.safetensors"]),
    (dict(backbone="world", pretrained="openai"), ValueError, ["own weights"]),
    (dict(backbone="world", device="cuda:64"), ValueError, ["cuda:64", "cpu"]),
    (dict(backbone="world", device="gpu"), ValueError, ["gpu", "cpu"]),
    (dict(backbone="world", memory_budget=0), ValueError, ["memory_budget=0", "gigabytes"]),
    (dict(backbone="world", memory_budget="1"), ValueError, ["memory_budget='1'", "a number above 0, in gigabytes"]),
    (dict(backbone="world", memory_budget=True), ValueError, ["memory_budget=True", "a number above 0, in gigabytes"]),
    (dict(backbone="world", precision="fp8"), ValueError, ["fp16", "fp32"]),
], ids=str)
def test_what_cannot_be_is_said_at_once(settings, error, words):
    with pytest.raises(error) as caught:
        load_clip(**settings)
    assert all(word in str(caught.value) for word in words)


def test_a_failing_download_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match="weights 'openai' of ViT-B-32-quickgelu.*network.*pretrained"):
        load_clip("ViT-B-32-quickgelu", pretrained="openai")
    with pytest.raises(ConnectionError, match="tokenizer of ViT-B-16-SigLIP could not.*network"):
        load_clip("ViT-B-16-SigLIP")
    with pytest.raises(ConnectionError, match="text tower of roberta-ViT-B-32, 'roberta-base', could not.*network"):
        load_clip("roberta-ViT-B-32")


def test_without_a_network_the_hub_is_asked_once(monkeypatch, tmp_path):
    hub = huggingface_hub.constants
    for name, value in dict(HF_HUB_OFFLINE=False, ENDPOINT="http://127.0.0.1:9", HF_HUB_CACHE=str(tmp_path)).items():
        monkeypatch.setattr(hub, name, value)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("nobody waits"))
    with pytest.raises(ConnectionError, match="weights 'openai' of ViT-B-32-quickgelu could not be fetched.*-p backbone world"):
        load_clip("ViT-B-32-quickgelu", "openai")
    assert hub.HF_HUB_OFFLINE is False, "the next call asks again"
    held = tmp_path / "models--me--small"
    (held / "snapshots" / "1").mkdir(parents=True)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text("1")
    with tiny_backbones(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", {"mine": dict(hf_hub="me/small/")})
        save_file(_build_model("small", None).state_dict(), held / "snapshots" / "1" / "open_clip_model.safetensors")
        assert load_clip("small", "mine").embed_dim, "what is on this machine is used"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for backbone in "ViT-B-16-SigLIP", "roberta-ViT-B-32":
        with pytest.raises(ImportError, match=f"{backbone}.*transformers: install it"):
            load_clip(backbone)


# ---- weights from a file

@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    "The smallest CLIP that open_clip has, as a safetensors file with a mark in it."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = _build_model("ViT-S-32", None).state_dict()
    state["logit_scale"] = torch.tensor(3.0)
    path = tmp_path_factory.mktemp("weights") / "vit_s_32.safetensors"
    save_file(state, path)
    return path


def test_weights_from_a_safetensors_file(weights, monkeypatch):
    monkeypatch.setenv("HOME", str(weights.parent))
    loaded = load_clip("ViT-S-32", pretrained=f"~/{weights.name}")
    assert loaded.logit_scale == torch.tensor(3.0).exp() and loaded.prefix_sharing is True


def test_weights_from_a_checkpoint_of_open_clips_training(weights, tmp_path):
    "It holds the optimiser too, and after training on several machines every name begins with 'module.'."
    state = load_file(weights)
    for prefix in "", "module.":
        held = {prefix + name: weight for name, weight in state.items()}
        optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
        torch.save({"epoch": 3, "name": "run", "state_dict": held, "optimizer": optimizer}, tmp_path / "epoch_3.pt")
        loaded = load_clip("ViT-S-32", pretrained=str(tmp_path / "epoch_3.pt")).model.state_dict()
        assert loaded.keys() == state.keys() and all(torch.equal(loaded[name], state[name]) for name in state)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_files_that_are_no_weights_are_refused(weights, tmp_path):
    trace = tmp_path / "ran"
    torch.save({"logit_scale": Hostile(trace)}, tmp_path / "hostile.pt")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(Hostile(trace)))
    (tmp_path / "short.safetensors").write_bytes(weights.read_bytes()[:10_000])
    (tmp_path / "text.bin").write_text("not weights at all")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    torch.save({}, tmp_path / "empty.pt")
    for name in "hostile.pt", "pickled.pt", "short.safetensors", "text.bin", "other.safetensors", "empty.pt":
        with pytest.raises(ValueError, match=f"{name}.*safetensors"):
            load_clip("ViT-S-32", pretrained=str(tmp_path / name))
    assert not trace.exists(), "a program in a weights file was run"


def test_a_mismatch_names_the_first_of_each_kind_and_counts_them(weights, tmp_path):
    state = load_file(weights)
    for name in list(state):
        if name.startswith("visual.transformer.resblocks.11."):
            del state[name]
    state |= {"visual.proj": torch.zeros(384, 7), "head.weight": torch.zeros(10, 384), "head.bias": torch.zeros(10)}
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ValueError) as caught:
        load_clip("ViT-S-32", pretrained=tmp_path / "other.safetensors")
    for words in ("missing (12, first 'visual.transformer.resblocks.11.ln_1.weight' (384,))", "unexpected (2, first 'head.bias' (10,))",
                  "of another shape (1, first 'visual.proj' (384, 7) where the model has (384, 384))"):
        assert words in str(caught.value)


def test_a_number_that_is_none_is_refused_by_name(weights, tmp_path):
    state = load_file(weights)
    state["text_projection"][3, 4] = float("nan")
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="broken.safetensors.*NaN.*'text_projection'"):
        load_clip("ViT-S-32", pretrained=str(tmp_path / "broken.safetensors"))


def test_filled_weights_are_not_called_random(weights, caplog):
    load_clip("ViT-S-32", pretrained=weights)
    assert not [record for record in caplog.records if "No pretrained weights" in record.getMessage()]
    _build_model("ViT-S-32", None)
    assert [record for record in caplog.records if "No pretrained weights" in record.getMessage()]
