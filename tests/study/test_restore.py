"A run that is loaded again, or refused where it is damaged or from elsewhere."

import json
import shutil
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_backbones
from trained import logits, train_a_little, write_texts

from npt._files import write_tensors
from npt.data.datasets import DATASETS, TEMPLATE_ENSEMBLE
from npt.learners.saving import _read_prompts
from npt.study.hub import from_pretrained, save_pretrained
from npt.study.restore import _Origin, load_run

pytestmark = pytest.mark.filterwarnings("ignore:a run without SHA256SUMS")


@pytest.fixture
def run_dir(trained_dir, tmp_path) -> Path:
    "A copy of a finished run that a test may damage; it has no checksums, which would tell that before anything else is looked at."
    (Path(shutil.copytree(trained_dir, tmp_path / "run")) / "SHA256SUMS").unlink()
    return tmp_path / "run"


def test_names_of_templates():
    assert _Origin(backbone="world", template="ensemble", dataset="dtd").prompts == TEMPLATE_ENSEMBLE
    assert _Origin(backbone="world", template=["a {}.", "the {}."]).prompts == ("a {}.", "the {}.")
    assert _Origin(backbone="world", dataset="dtd").prompts == DATASETS["dtd"].template


@pytest.mark.parametrize("template, expected", [(None, "a photo of a {}."), ("a sketch of a {}.", "a sketch of a {}.")])
def test_template_of_the_run(template, expected, tmp_path, pixels):
    folder, trained = train_a_little(tmp_path / "runs", learner="zero_shot", template=template)
    loaded = load_run(folder)
    save_pretrained(loaded, tmp_path / "shared")
    shared = from_pretrained(tmp_path / "shared", clip=loaded.clip)
    assert loaded.template == shared.template == expected
    assert torch.equal(logits(shared, pixels), logits(trained, pixels))


@pytest.mark.parametrize("learner", ["zero_shot", "coop", "tcp"])
def test_sentences_of_a_run_are_found_again_or_missed(learner, tmp_path, pixels):
    path = write_texts(tmp_path / "texts.json")
    folder, trained = train_a_little(tmp_path / "runs", learner=learner, descriptions=path)
    loaded = load_run(folder)
    assert loaded.template == trained.template and torch.equal(logits(loaded, pixels), logits(trained, pixels))
    save_pretrained(loaded, tmp_path / "shared")
    Path(path).rename(tmp_path / "moved.json")
    assert torch.equal(logits(from_pretrained(tmp_path / "shared"), pixels), logits(trained, pixels))
    with pytest.raises(FileNotFoundError, match="texts.json' is no file.*load_run\\(folder, descriptions=PATH\\)"):
        load_run(folder)
    assert torch.equal(logits(load_run(folder, descriptions=tmp_path / "moved.json"), pixels), logits(trained, pixels))
    with pytest.raises(ValueError, match="says something else of the classes"):
        load_run(folder, descriptions=write_texts(tmp_path / "others.json", "This is no {}."))


def test_a_run_without_sentences_takes_none_and_what_is_shared_reads_no_file(trained_dir, tmp_path):
    with pytest.raises(ValueError, match="says something else of the classes"):
        load_run(trained_dir, descriptions=write_texts(tmp_path / "texts.json"))
    save_pretrained(load_run(trained_dir), tmp_path / "shared")
    config = json.loads((tmp_path / "shared" / "config.json").read_text())
    (tmp_path / "shared" / "config.json").write_text(json.dumps(config | dict(descriptions=str(tmp_path / "texts.json"))))
    assert from_pretrained(tmp_path / "shared").template == load_run(trained_dir).template


def test_run_is_loaded_without_its_dataset_or_objective(run_dir, pixels):
    before = load_run(run_dir)
    config = json.loads((run_dir / "config.json").read_text())
    config |= dict(dataset="dtd", data_root="gone", objective="no longer known", device="cuda:7", precision="bf16", later=1)
    (run_dir / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(load_run(run_dir), pixels), logits(before, pixels))
    assert load_run(run_dir).template == DATASETS["dtd"].template


def test_an_edit_that_makes_sense_is_found_by_the_checksums(trained_dir, tmp_path):
    folder = Path(shutil.copytree(trained_dir, tmp_path / "run"))
    path = folder / "prompts.safetensors"
    tensors, header = _read_prompts(path)
    tensors["context"][0, 0] += 1e-3
    write_tensors(tensors, path, header)
    for load in load_run, from_pretrained:
        with pytest.raises(ValueError, match="prompts.safetensors' is damaged .it is not as the run wrote it"):
            load(folder)


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def cut(folder):
    path = folder / "prompts.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def other_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))
    return change


def other_header(**changes):
    def change(folder):
        path = folder / "prompts.safetensors"
        tensors, header = _read_prompts(path)
        write_tensors(tensors, path, header | changes)
    return change


DAMAGE = {
    "gone": (shutil.rmtree, FileNotFoundError, "There is no folder"),
    "no config": (remove("config.json"), FileNotFoundError, "config.json"),
    "no inputs": (remove("inputs.json"), ValueError, "inputs.json.* is missing, so nobody knows what the run was made from"),
    "no prompts": (remove("prompts.safetensors"), FileNotFoundError, "prompts.safetensors"),
    "unfinished": (remove("metrics.json"), ValueError, "not finished"),
    "cut short": (cut, ValueError, "prompts.safetensors"),
    "damaged config": (write("config.json", "{"), ValueError, "config.json.* is damaged"),
    "not text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"), ValueError, "config.json"),
    "other JSON": (write("config.json", "[1, 2]"), ValueError, "config.json"),
    "foreign config": (write("config.json", '{"model_type": "clip"}'), ValueError, "backbone: Field required"),
    "no template": (write("config.json", '{"backbone": "world"}'), ValueError, "neither template nor dataset"),
    "unknown dataset": (other_config(dataset="dtdd"), ValueError, "'dtd'"),
    "unknown backbone": (other_config(backbone="ViT-B-61"), ValueError, "ViT-B-16"),
    "weights elsewhere": (other_config(backbone="RN50", pretrained="gone.pt"), FileNotFoundError, "gone.pt"),
    "foreign prompts": (lambda folder: write_tensors({}, folder / "prompts.safetensors", {"format": "pt"}),
                        ValueError, "not written by save_prompts"),
    "other backbone": (other_header(backbone="ViT-B-16"), ValueError, "'ViT-B-16'"),
    "unknown learner": (other_header(learner="coopp"), ValueError, "'coop'"),
    "unknown setting": (other_header(settings='{"n_context": 4}'), ValueError, "n_ctx"),
    "bad setting": (other_header(settings='{"n_ctx": "four"}'), ValueError, "prompts.safetensors.*four"),
    "settings damaged": (other_header(settings="{"), ValueError, "prompts.safetensors.*damaged header"),
    "settings no table": (other_header(settings="[]"), ValueError, "damaged header"),
    "class names damaged": (other_header(classnames="red"), ValueError, "damaged header"),
    "class names no list": (other_header(classnames='"red"'), ValueError, "damaged header"),
    "class names no names": (other_header(classnames="[1, 2]"), ValueError, "1 is not a class name"),
    "no class names": (other_header(classnames="[]"), ValueError, "at least one class"),
    "other shape": (other_header(settings='{"n_ctx": 3}'), ValueError, "prompts.safetensors.*build it with"),
}


@pytest.mark.parametrize("damage, error, said", DAMAGE.values(), ids=DAMAGE)
def test_damaged_run_is_refused(damage, error, said, run_dir):
    damage(run_dir)
    with pytest.raises(error, match=f"(?s){said}"):
        load_run(run_dir)


def test_unknown_device_is_refused(trained_dir):
    with pytest.raises(ValueError, match="gpu"):
        load_run(trained_dir, device="gpu")


def test_weights_that_were_moved_are_taken_and_others_refused(tmp_path, pixels):
    path, other = tmp_path / "weights.safetensors", tmp_path / "other.safetensors"
    with tiny_backbones(tmp_path):
        model = open_clip.create_model("small-quickgelu")
        save_file(model.state_dict(), path)
        save_file(model.state_dict() | {"visual.proj": model.visual.proj.detach() + 0.01}, other)
        folder, trained = train_a_little(tmp_path / "runs", backbone="small-quickgelu", pretrained=str(path))
        moved, elsewhere = path.rename(tmp_path / "moved.safetensors"), Path(shutil.move(folder, tmp_path / "run"))
        with pytest.raises(FileNotFoundError, match=r"give their place: load_run\(folder, pretrained=PATH\)"):
            load_run(elsewhere)
        assert torch.equal(logits(load_run(elsewhere, pretrained=moved), pixels), logits(trained, pixels))
        with pytest.raises(ValueError, match="other weights of small-quickgelu"):
            load_run(elsewhere, pretrained=other)
