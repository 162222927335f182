"""Prompts in a file: they come back as they were, and what does not belong is refused."""

import json
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import _SIZE, save_file

from npt.clip.load import load_clip
from npt.learners.build import build_learner
from npt.learners.saving import load_prompts, save_prompts

NAMES = ["red circle", "blue_star", "large striped green heart"]


@pytest.fixture(scope="module")
def clip():
    return load_clip()


def trained(clip, **settings):
    coop = build_learner("coop", clip, NAMES, **settings)
    with torch.no_grad():
        coop.context += torch.randn_like(coop.context)
    return coop


def test_prompts_come_back_as_they_were(clip, tmp_path):
    one, other = trained(clip), build_learner("coop", clip, ["pink cross"])
    save_prompts(one, tmp_path / "prompts.safetensors")
    header = load_prompts(other, tmp_path / "prompts.safetensors")
    assert torch.equal(one.context, other.context) and other.classnames == ["pink cross"]
    assert (header["learner"], header["backbone"]) == ("coop", "world")
    assert json.loads(header["classnames"]) == NAMES and json.loads(header["settings"])["n_ctx"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.safetensors"]


def test_prompts_that_do_not_belong_are_refused_and_change_nothing(clip, tmp_path):
    good = tmp_path / "good.safetensors"
    save_prompts(trained(clip), good)
    (tmp_path / "short.safetensors").write_bytes(good.read_bytes()[:-100])
    (tmp_path / "head.safetensors").write_bytes(good.read_bytes()[:5])
    save_file({"context": torch.zeros(4, 128)}, tmp_path / "foreign.safetensors")
    save_prompts(trained(clip, n_ctx=8, ctx_init=None), tmp_path / "eight.safetensors")
    save_prompts(build_learner("zero_shot", clip, NAMES), tmp_path / "zero_shot.safetensors")
    mine = trained(clip)
    before = mine.context.clone()
    for name in "short", "head", "foreign", "eight", "zero_shot":
        with pytest.raises(ValueError, match=f"{name}.safetensors"):
            load_prompts(mine, tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        load_prompts(mine, tmp_path / "none.safetensors")
    assert torch.equal(mine.context, before)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_no_number_is_refused_and_changes_nothing(number, clip, tmp_path):
    one, mine = trained(clip), trained(clip)
    with torch.no_grad():
        one.context[0, 3] = number
    save_prompts(one, tmp_path / "prompts.safetensors")
    before = mine.context.clone()
    with pytest.raises(ValueError, match="prompts.safetensors is damaged: context holds values that are not numbers, or infinite"):
        load_prompts(mine, tmp_path / "prompts.safetensors")
    assert torch.equal(mine.context, before)


@pytest.mark.parametrize("line, text", [("classnames", "["), ("classnames", "{}"), ("classnames", "[" * 100_000), ("settings", "[]"), ("settings", "")])
def test_a_damaged_header_is_named(line, text, clip, tmp_path):
    header = dict(learner="coop", backbone="world", settings="{}", classnames=json.dumps(NAMES)) | {line: text}
    save_file({"context": torch.zeros(4, 128)}, tmp_path / "prompts.safetensors", header)
    with pytest.raises(ValueError, match=f"prompts.safetensors has a damaged header.*{line}"):
        load_prompts(trained(clip), tmp_path / "prompts.safetensors")


def test_equal_prompts_are_equal_files(clip, tmp_path):
    one = trained(clip)
    for number in range(5):
        save_prompts(one, tmp_path / str(number))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_prompts_of_another_backbone_are_refused(clip, tmp_path, monkeypatch):
    save_prompts(trained(clip), tmp_path / "prompts.safetensors")
    monkeypatch.setattr(clip, "name", "ViT-B-16-quickgelu")
    with pytest.raises(ValueError, match="backbone 'world'"):
        load_prompts(build_learner("coop", clip, NAMES), tmp_path / "prompts.safetensors")


def test_a_header_that_takes_long_is_not_followed(clip, tmp_path):
    coop, path = trained(clip), tmp_path / "prompts.safetensors"
    header = dict(learner="coop", backbone="world", settings="{}", classnames="[]")
    many = {f"t{number}": torch.ones(1) for number in range(20_000)}
    start = time.process_time()
    save_file(many, path, header)
    written = time.process_time() - start
    with pytest.raises(ValueError, match="prompts.safetensors was not written by save_prompts"):
        load_prompts(coop, path)
    assert time.process_time() - start < 2 * written + 1
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="prompts.safetensors has a header of 1152921504606846976 bytes"):
        load_prompts(coop, path)
    save_file({f"t{number}": torch.ones(1) for number in range(3000)}, path, header | {"classnames": json.dumps(NAMES)})
    with pytest.raises(ValueError, match="and 2980 more, and this learner needs") as caught:
        load_prompts(coop, path)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, *({torch.complex64} & _SIZE.keys())])  # older safetensors know no complex
def test_prompts_of_another_kind_of_number_are_refused_and_change_nothing(kind, clip, tmp_path):
    save_prompts(trained(clip), tmp_path / "good.safetensors")
    with safe_open(tmp_path / "good.safetensors", "pt") as file:
        header = file.metadata()
    save_file({"context": torch.ones(4, 128).to(kind)}, tmp_path / "other.safetensors", header)
    learner = build_learner("coop", clip, NAMES)
    before = learner.context.clone()
    with pytest.raises(ValueError, match=f"other.safetensors is damaged: context holds {kind}, and this learner needs torch.float32"):
        load_prompts(learner, tmp_path / "other.safetensors")
    assert torch.equal(before, learner.context)


@pytest.mark.parametrize("kind, size", [("F8_E4M3", 4), ("F4", 2)])
def test_floats_that_no_prompts_are_learned_in_are_refused(kind, size, clip, tmp_path):
    words = dict(learner="coop", backbone="world", settings="{}", classnames="[]")
    header = json.dumps({"__metadata__": words, "context": dict(dtype=kind, shape=[4], data_offsets=[0, size])}).encode()
    (tmp_path / "small.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(ValueError, match="small.safetensors .*(context holds torch.float|no safetensors file)"):  # older ones know no F4
        load_prompts(build_learner("coop", clip, NAMES), tmp_path / "small.safetensors")
