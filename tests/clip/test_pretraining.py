"""What weights were trained with: the activation and the preparation of pictures are found out, and said where they are not sure."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file
from tiny import tiny_backbones
from torch import Tensor

from npt.clip import pretraining
from npt.clip.load import load_clip, random_model
from npt.clip.pretraining import (
    _by_tags,
    _check_preprocess,
    _checksums,
    _lookalikes,
    _preparation,
    _prepared_for,
    _Pretraining,
    _shapes_of,
    _tags_of,
    _twin,
    _uses_quick_gelu,
)

OPENAI = _preparation(asdict(PreprocessCfg()))
AS_THEY_ARE = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="bilinear", resize_mode="shortest")


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory) -> Iterator[None]:
    with tiny_backbones(tmp_path_factory.mktemp("configurations")):
        yield


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_model("small").state_dict()


@pytest.fixture
def file(weights, tmp_path) -> Path:
    save_file(weights, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


# ---- how pictures are prepared

@pytest.mark.parametrize("backbone", [name for name in open_clip.list_models() if open_clip.list_pretrained_tags_by_model(name)])
def test_a_file_of_a_tower_is_prepared_as_its_tags_are(backbone):
    "MobileCLIP-S1, whose tag says 0 and 1, among them; where tags do not agree that is said."
    tags = {str(prepared) for prepared in _tags_of(backbone).values()}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        prepared, by = _prepared_for(_Pretraining(), backbone, {})
    assert str(prepared) in tags and "open_clip's tag" in by
    assert bool(said) == (len(tags) > 1) == (backbone in ("ViT-L-14", "ViT-H-14-quickgelu"))
    assert backbone != "MobileCLIP-S1" or prepared == AS_THEY_ARE


def test_the_values_of_the_tag_arrive_in_the_model_and_are_said(file, monkeypatch, capsys):
    monkeypatch.setitem(_PRETRAINED, "small", {"mobile": AS_THEY_ARE | dict(url="", hf_hub="")})
    clip = load_clip("small", file)
    assert _preparation(asdict(clip.preprocess_cfg)) == AS_THEY_ARE
    said = capsys.readouterr().out
    assert "mine.safetensors" in said and "'mobile'" in said and "mean=(0.0, 0.0, 0.0)" in said and said.count("\n") == 1
    clip = load_clip("small", file, preprocess=dict(std=[0.5, 0.5, 0.5], resize_mode="squash"))
    assert _preparation(asdict(clip.preprocess_cfg)) == AS_THEY_ARE | dict(std=(0.5, 0.5, 0.5), resize_mode="squash")
    assert "from what was given and open_clip's tag 'mobile'" in capsys.readouterr().out


def test_tags_that_do_not_agree_are_named_unless_the_answer_is_given():
    with pytest.warns(UserWarning, match=r"ViT-L-14 do not agree.*'laion2b_s32b_b82k' has preprocess=dict\(mean=\(0.5, 0.5, 0.5\)"):
        assert _by_tags("ViT-L-14", {})[0] == OPENAI
    halves = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _by_tags("ViT-L-14", halves)[0] == OPENAI | halves


def test_without_tags_it_is_openais_or_the_same_towers_and_said():
    assert _by_tags("small", {}) == (OPENAI, "OpenAI's weights (open_clip has no tag of small)")
    if "ViT-L-14-worldwide-quickgelu" in open_clip.list_models():  # the oldest versions have not
        assert "of ViT-L-14-quickgelu" in _by_tags("ViT-L-14-worldwide-quickgelu", {})[1]


def test_a_configuration_of_open_clips_is_believed(weights, tmp_path):
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    config = dict(model_cfg=dict(quick_gelu=False), preprocess_cfg=AS_THEY_ARE | dict(size=32))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in tmp_path, tmp_path / "open_clip_model.safetensors":
            assert _preparation(asdict(load_clip("small", path).preprocess_cfg)) == AS_THEY_ARE
    with pytest.raises(ValueError, match="quick_gelu false in its open_clip_config.json.*Use 'small'"):
        load_clip("small-quickgelu", tmp_path)


@pytest.mark.parametrize("preprocess, words", [
    (dict(means=(0, 0, 0)), "'means'. Did you mean 'mean'"), (dict(mean=0.5), "mean=0.5.*three numbers"),
    (dict(std=(1, 1, 0)), "three numbers above 0"), (dict(mean=(0, 0, float("nan"))), "three"),
    (dict(interpolation="cubic"), "'cubic'.*bicubic"), (dict(resize_mode=3), "resize_mode"), ("openai", "table such as dict"),
], ids=str)
def test_values_that_cannot_be(preprocess, words):
    with pytest.raises(ValueError, match=words):
        load_clip("ViT-S-32", preprocess=preprocess)


def test_given_values_go_before_those_of_tags_and_random_weights():
    with pytest.warns(UserWarning, match="random weights"):
        clip = load_clip("small", preprocess=dict(mean=(0, 0, 0), interpolation="bilinear"))
    assert _preparation(asdict(clip.preprocess_cfg)) == OPENAI | dict(mean=(0.0, 0.0, 0.0), interpolation="bilinear")
    assert _check_preprocess(None) == {}
    with pytest.raises(ValueError, match="own weights and pictures"):
        load_clip("world", preprocess=dict(mean=(0, 0, 0)))


# ---- the activation

def test_backbones_and_their_twins():
    for name in open_clip.list_models():
        assert (twin := _twin(name)) is None or (_twin(twin) == name and _uses_quick_gelu(name) != _uses_quick_gelu(twin))
    assert _twin("ViT-B-32") == "ViT-B-32-quickgelu" and _twin("ViT-S-32") is None


def test_openais_numbers_in_a_table_of_tensors_give_it_away(weights, tmp_path):
    torch.save(weights | {name: torch.tensor(32) for name in ("input_resolution", "context_length", "vocab_size")}, tmp_path / "from.pt")
    with pytest.raises(ValueError, match="from.pt.*QuickGELU, but 'small' computes GELU.*Use 'small-quickgelu'"):
        load_clip("small", tmp_path / "from.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_clip("small-quickgelu", tmp_path / "from.pt").embed_dim == 24


def test_a_file_that_open_clip_knows_by_its_checksum(file, monkeypatch):
    known = _checksums()
    assert known["af8dbd0c"] == ("ViT-B-32", "laion2b_e16") and {len(digest) for digest in known} == {8, 64}
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for name, backbone in (digest, "ViT-B-16-quickgelu"), (digest[:8], "ViT-L-14-336-quickgelu"):
        monkeypatch.setattr(pretraining, "_checksums", lambda: {name: (backbone, "openai")})
        with pytest.raises(ValueError, match=f"open_clip's 'openai' of {backbone} by its SHA-256.*Use 'small-quickgelu'"):
            load_clip("small", file)


def test_where_it_cannot_be_known_there_is_one_line(file, weights, tmp_path):
    for backbone, other in ("small", "small-quickgelu"), ("small-quickgelu", "small"):
        with pytest.warns(UserWarning, match=f"mine.safetensors.*does not say.*use '{other}'") as said:
            load_clip(backbone, file)
        assert len(said) == 1 and "\n" not in str(said[0].message)
    mixed = {name: weight if "ln_" in name or not weight.dim() else weight.half() for name, weight in weights.items()}
    save_file(mixed, tmp_path / "mixed.safetensors")
    with pytest.warns(UserWarning, match="half-precision matrices"):
        load_clip("small", tmp_path / "mixed.safetensors")


def test_the_right_backbone_is_told_by_sizes():
    assert _lookalikes(_shapes_of("ViT-B-32"), "ViT-B-16") == "Its sizes are those of 'ViT-B-32' and 'ViT-B-32-quickgelu'."
    assert _lookalikes(_shapes_of("ViT-B-32"), "ViT-B-32").startswith("Give the weights of this backbone")
    assert _lookalikes(_shapes_of("RN50"), "ViT-B-32").startswith("Give the weights of this backbone")


def test_a_configuration_nested_without_end_is_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="config.json', which lies beside the weights, is no table in JSON: it is nested too deeply"):
        pretraining._beside(tmp_path, "config.json")
