"""Weights of transformers' CLIPModel: the logits are its own in every form it is saved in, and its configuration is believed."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform_v2
from PIL import Image
from safetensors.torch import load_file
from tiny import TEXTS, pixels, theirs, tiny_backbones
from transformers import CLIPImageProcessor

from npt.clip.hugging_face import _config_differences, _fitting_backbones, _from_processor
from npt.clip.load import load_clip


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory) -> Iterator[None]:
    with tiny_backbones(tmp_path_factory.mktemp("configurations")):
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    "A folder of it as transformers writes it."
    folder = tmp_path_factory.mktemp("hub")
    theirs().save_pretrained(folder)
    return folder


def change(folder: Path, to: Path, **tables: dict) -> Path:
    "The same weights beside another configuration."
    to.mkdir()
    (to / "model.safetensors").hardlink_to(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_bytes())
    for name, table in tables.items():
        config[name] = config[name] | table if isinstance(table, dict) else table
    (to / "config.json").write_text(json.dumps(config))
    return to


@pytest.mark.parametrize("form", ["folder", "file", "file elsewhere", "bin", "shards"])
@pytest.mark.parametrize("act, backbone", [("quick_gelu", "small-quickgelu"), ("gelu", "small")])
@pytest.mark.filterwarnings("ignore:.*does not say whether")
def test_logits_are_those_of_transformers(tmp_path, form, act, backbone):
    model = theirs(act)
    model.save_pretrained(tmp_path, **{"max_shard_size": "2MB"} if form == "shards" else {})
    path = tmp_path / "model.safetensors" if form.startswith("file") else tmp_path
    if form == "file elsewhere":
        (tmp_path / "config.json").unlink()
    if form == "bin":
        torch.save(model.state_dict() | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, tmp_path / "pytorch_model.bin")
        path.joinpath("model.safetensors").unlink()
    assert form != "shards" or len(list(tmp_path.glob("*.safetensors"))) > 1
    clip, images = load_clip(backbone, path), pixels()
    with torch.no_grad():
        expected = model(input_ids=clip.tokenize(TEXTS), pixel_values=images).logits_per_image
        logits = clip.logit_scale * clip.encode_image(images) @ clip.encode_text(TEXTS).T
    assert (logits - expected).abs().max() < 1e-5 < expected.std()


def test_the_other_activation_is_told_by_the_configuration(saved):
    with pytest.raises(ValueError, match="hidden_act 'quick_gelu'.*'small' computes GELU.*Use 'small-quickgelu'"):
        load_clip("small", saved)


@pytest.mark.parametrize("tables, words", [
    (dict(vision_config=dict(num_attention_heads=8)), r"image head_width 4 \(the backbone has 8\)"),
    (dict(text_config=dict(num_attention_heads=8)), r"text heads 8 \(the backbone has 4\)"),
    (dict(text_config=dict(layer_norm_eps=1e-6)), "text norm_kwargs"),
    (dict(text_config=dict(hidden_size=64), projection_dim=512), "text width 64.*embed_dim 512"),
    (dict(vision_config=dict(hidden_act="gelu")), "'gelu' and 'quick_gelu'"),
    (dict(vision_config=dict(hidden_act="relu"), text_config=dict(hidden_act="relu")), "hidden_act.*'relu'"),
    (dict(model_type="siglip"), "kind 'siglip'"),
    (dict(vision_config=dict(num_attention_heads=0)), "cannot compute"),
], ids=str)
def test_a_configuration_of_another_model_says_where_it_differs(saved, tmp_path, tables, words):
    with pytest.raises(ValueError, match=words):
        load_clip("small-quickgelu", change(saved, tmp_path / "other", **tables))


def test_a_broken_configuration_is_named(saved, tmp_path):
    folder = change(saved, tmp_path / "broken")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json.*JSON"):
        load_clip("small-quickgelu", folder)


def test_early_files_override_and_leave_out():
    assert _fitting_backbones({}) == ["ViT-B-32-quickgelu"], "transformers' defaults"
    large = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14)
    text = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    config = {"vision_config": {}, "text_config": None, "vision_config_dict": large, "text_config_dict": text, "projection_dim": 768}
    assert "ViT-L-14-quickgelu" in _fitting_backbones(config) and _config_differences(config, "ViT-B-32-quickgelu")


def test_pictures_are_prepared_as_the_folder_says(saved, tmp_path, capsys):
    folder = change(saved, tmp_path / "other")
    CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=2, size=32, crop_size=32).save_pretrained(folder)
    config = load_clip("small-quickgelu", folder).preprocess_cfg
    assert (config.mean, config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)) and config.size in (32, (32, 32))
    assert (config.interpolation, config.resize_mode) == ("bilinear", "shortest")
    assert "preprocessor_config.json" in capsys.readouterr().out


def test_the_words_of_a_processor():
    squashed = {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}}
    assert _from_processor(squashed | {"do_normalize": False}, 32) == dict(mean=(0, 0, 0), std=(1, 1, 1), resize_mode="squash")
    assert _from_processor({}, 32) == {} and _from_processor({"size": 32, "crop_size": 32}, 32) == dict(resize_mode="shortest")
    with pytest.raises(ValueError, match="number 5"):
        _from_processor({"resample": 5}, 32)


@pytest.mark.parametrize("words, named", [
    (dict(size=256, crop_size=224), "size 256, where open_clip resizes pictures to 224 pixels"), (dict(size={"shortest_edge": 256}), 'size {"shortest_edge": 256}'),
    (dict(size=224, crop_size={"height": 192, "width": 192}), 'crop_size {"height": 192, "width": 192}'), (dict(size={"height": 224, "width": 320}), "size"),
    (dict(size={"shortest_edge": 224, "longest_edge": 300}), "longest_edge"), (dict(size=224, do_center_crop=False), "do_center_crop false"),
    (dict(do_rescale=False), "do_rescale false"), (dict(do_resize=False), "do_resize false"), (dict(rescale_factor=1 / 127.5), "rescale_factor 0.0078"),
    (dict(do_pad=True), "do_pad true"),
])
def test_what_open_clip_does_not_do_to_pictures_is_refused(words, named):
    with pytest.raises(ValueError, match="preprocessor_config.json.*Write what is nearest into that file") as caught:
        _from_processor(dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=3) | words, 224)
    assert named in str(caught.value)


@pytest.mark.parametrize("words", [dict(), dict(size={"height": 32, "width": 32})])
def test_pictures_are_what_transformers_makes_of_them(words, saved, tmp_path):
    folder = change(saved, tmp_path / "other")
    processor = CLIPImageProcessor(**dict(size=32, crop_size=32) | words)
    processor.save_pretrained(folder)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    ours = image_transform_v2(load_clip("small-quickgelu", folder).preprocess_cfg, is_train=False)(picture)
    assert (ours - torch.as_tensor(processor(picture, return_tensors="np")["pixel_values"][0])).abs().mean() < 0.03


def test_every_weight_is_mapped(saved):
    from npt.clip.hugging_face import _from_hugging_face

    named = _from_hugging_face(load_file(saved / "model.safetensors"))
    assert not [name for name in named if "_model." in name or "layer_norm" in name or "q_proj" in name]
