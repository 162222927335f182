"What was learned, used: loaded from a folder or the hub, asked about pictures of every kind, refused where damaged."

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import npt.use
from npt.clip.load import load_clip
from npt.data.images import make_loader
from npt.data.load import load_dataset
from npt.data.datasets import DATASETS, TEMPLATE_ENSEMBLE
from npt._files import write_tensors, write_text
from npt.learners.base import Learner
from npt.learners.zero_shot import ZeroShot
from npt.learners.build import build_learner, learner_names
from npt.learners.saving import _read_prompts, save_prompts
from npt.study.runs import set_up
from npt.study.settings import RunSettings
from npt.training.fit.fit import fit
from npt.study.hub import from_pretrained, save_pretrained
from npt.study.predict import predict
from npt.study.restore import _Origin, load_run
from npt.learners.words import _known_tokens, _token_word, nearest_words
from npt.world.label_sets import WorldImage, draw_images

MEASURED = {"base": 91.25, "novel": 80.5, "h": 85.54, "base_per_class": [91.25], "seconds": 1.5}
NAMES = ["red striped pattern", "blue dotted pattern", "green solid pattern"]


@pytest.fixture(scope="module")
def clip():
    return load_clip("world")


@pytest.fixture(scope="module")
def pixels():
    split = load_dataset("world/textures", shots=1).base.test
    return next(iter(make_loader(split, load_clip("world").preprocess_cfg, batch_size=16)))[0]


def train_a_little(folder: Path, **settings) -> tuple[Path, Learner]:
    "Leave a run's folder behind, without the time that measuring takes; give it and the learner that was trained."
    run = set_up(RunSettings(**{**dict(dataset="world/textures", shots=1, runs_dir=str(folder)), **settings}))
    fit(run.learner, run.data.base.train, objective=run.settings.objective, epochs=1)
    save_prompts(run.learner, run.folder.prompts)
    write_text(json.dumps(MEASURED), run.folder.metrics)
    return run.folder.path, run.learner.eval()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return train_a_little(tmp_path_factory.mktemp("runs"))[0]


@pytest.fixture
def run_dir(finished, tmp_path) -> Path:
    "A copy of a finished run that a test may damage."
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def pictures(tmp_path) -> Path:
    "Pictures in several formats and folders, and what is none."
    folder = tmp_path / "pictures"
    for number, name in enumerate(("b.png", "a.JPG", "deep/er/c.webp", "deep/d.gif", ".hidden/e.png", "._a.jpg")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40 + number, 30), 80).convert("RGB").save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    return folder


def logits(learner: Learner, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return learner.logits(pixels)


@pytest.mark.parametrize("name", learner_names())
def test_every_learner_comes_back_from_its_run_and_from_a_shared_folder(name, tmp_path, pixels):
    folder, trained = train_a_little(tmp_path / "runs", learner=name)
    loaded = load_run(folder)
    assert type(loaded) is type(trained) and loaded.settings == trained.settings
    assert loaded.classnames == list(trained.classnames) and loaded.template == trained.template
    assert torch.equal(logits(loaded, pixels), logits(trained, pixels))
    save_pretrained(loaded, tmp_path / "shared", dataset="world/textures")
    shared = from_pretrained(tmp_path / "shared")
    assert torch.equal(logits(shared, pixels), logits(trained, pixels))
    table = predict(shared, Image.effect_noise((40, 30), 80), top=100)
    assert len(table) == 8 and table["probability"].sum() == pytest.approx(100, abs=1e-3)


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


def test_run_is_loaded_without_its_dataset_or_objective(run_dir, pixels):
    before = load_run(run_dir)
    config = json.loads((run_dir / "config.json").read_text())
    config |= dict(dataset="dtd", data_root="gone", objective="no longer known", device="cuda:7", precision="bf16", later=1)
    (run_dir / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(load_run(run_dir), pixels), logits(before, pixels))
    assert load_run(run_dir).template == DATASETS["dtd"].template


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


def test_unknown_device_is_refused(finished):
    with pytest.raises(ValueError, match="gpu"):
        load_run(finished, device="gpu")


def test_folder_gives_sorted_pictures_and_leaves_the_rest_alone(finished, pictures):
    table = predict(load_run(finished), pictures, top=2)
    assert table["image"].tolist() == [name for name in ("a.JPG", "b.png", "deep/d.gif", "deep/er/c.webp") for _ in range(2)]
    assert table["rank"].tolist() == [1, 2] * 4 and list(table.columns) == ["image", "rank", "class", "probability"]
    assert str(pictures) not in table.to_string()


def test_paths_and_pillow_images_in_one_list(finished, pictures):
    learner = load_run(finished)
    path = pictures / "b.png"
    images = [str(path), path, Image.open(path), Image.open(path).copy()]
    table = predict(learner, images, top=8)
    assert table["image"].tolist() == [str(path)] * 24 + ["picture 4"] * 8
    for number, image in enumerate(images):
        together, alone = table.iloc[8 * number : 8 * number + 8], predict(learner, iter([image]), top=8)
        assert together["class"].tolist() == alone["class"].tolist() == table["class"][:8].tolist()
        assert together["probability"].tolist() == pytest.approx(alone["probability"].tolist(), abs=1e-3)


def test_probabilities_are_those_of_the_logits(clip):
    learner = ZeroShot(clip, NAMES)
    drawn = draw_images([WorldImage("textures", "test", label, 0) for label in range(3)]).permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(picture) for picture in drawn]
    table = predict(learner, images, top=3)
    expected = 100 * logits(learner, torch.stack([clip.preprocess(image) for image in images])).softmax(dim=1)
    for image, rows in enumerate(expected.tolist()):
        found = table[table["image"] == f"picture {image + 1}"]
        assert dict(zip(found["class"], found["probability"])) == pytest.approx(dict(zip(NAMES, rows)), abs=1e-3)
        assert found["probability"].is_monotonic_decreasing


def test_batches_change_nothing(finished, pictures, monkeypatch):
    learner = load_run(finished)
    together = predict(learner, pictures)
    monkeypatch.setattr(npt.use, "PICTURES_AT_ONCE", 3)
    monkeypatch.setattr(npt.use, "LOGITS_BATCH", 1)
    apart = predict(learner, pictures)
    assert together["class"].tolist() == apart["class"].tolist()
    assert (together["probability"] - apart["probability"]).abs().max() < 1e-3


def test_photographs_are_turned_upright(clip, tmp_path):
    upright = Image.effect_noise((40, 30), 80).convert("RGB")
    upright.paste("red", (0, 0, 40, 8))
    upright.save(tmp_path / "upright.png")
    sideways = Image.Exif()
    sideways[0x0112] = 6  # to be turned a quarter clockwise when shown
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "sideways.png", exif=sideways)
    plain = predict(ZeroShot(clip, NAMES), tmp_path / "upright.png")
    for turned in tmp_path / "sideways.png", Image.open(tmp_path / "sideways.png"):
        assert (predict(ZeroShot(clip, NAMES), turned)["probability"] - plain["probability"]).abs().max() < 1e-3


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "I;16", "LA", "F"])
def test_pillow_images_of_every_mode(clip, mode):
    image = Image.effect_noise((40, 30), 80).convert(mode if mode != "LA" else "RGBA")
    table = predict(ZeroShot(clip, NAMES), image.convert(mode))
    assert table["image"].tolist() == ["picture 1"] * 3


def test_pictures_that_cannot_be_read_are_named(clip, pictures):
    learner, whole = ZeroShot(clip, NAMES), (pictures / "b.png").read_bytes()
    (pictures / "deep" / "broken.png").write_bytes(whole[: len(whole) // 2])
    for images in pictures, pictures / "deep" / "broken.png", [Image.open(pictures / "deep" / "broken.png")]:
        with pytest.raises(OSError, match="broken.png' cannot be read as a picture") as caught:
            predict(learner, images)
        assert "dataset" not in str(caught.value)
    with pytest.raises(OSError, match="notes.txt"):
        predict(learner, pictures / "notes.txt")


def test_what_is_no_picture_is_refused(clip, pictures, tmp_path):
    learner = ZeroShot(clip, NAMES)
    (tmp_path / "empty").mkdir()
    for images, error, said in [
        (tmp_path / "nowhere", FileNotFoundError, "nowhere"),
        ([pictures / "b.png", tmp_path / "gone.png"], FileNotFoundError, "gone.png"),
        (tmp_path / "empty", ValueError, "holds no pictures"), ([pictures], ValueError, "is a folder"),
        ([], ValueError, "no pictures"),
        (torch.zeros(2, 3, 32, 32), TypeError, "Tensor"), ([None], TypeError, "NoneType"), (3, TypeError, "int"),
    ]:
        with pytest.raises(error, match=said):
            predict(learner, images)
    with pytest.raises(ValueError, match="top=0"):
        predict(learner, pictures, top=0)


def test_other_class_names(finished, pictures):
    learner = load_run(finished)
    table = predict(learner.for_classes(NAMES), pictures)
    assert set(table["class"]) == set(NAMES) and len(table) == 4 * 3
    assert set(predict(learner, pictures)["class"]) <= set(learner.classnames)


def test_card_names_backbone_dataset_classes_settings_and_accuracy(finished, tmp_path):
    learner = load_run(finished)
    save_pretrained(learner, tmp_path, dataset="world/textures", metrics=MEASURED)
    card = ModelCard.load(tmp_path / "README.md")
    assert {"clip", "prompt-tuning", "coop"} <= set(card.data.tags) and card.data.pipeline_tag == "image-classification"
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert measured == {"base classes": 91.25, "novel classes": 80.5, "harmonic mean H": 85.54}
    for said in "`world`", "`world/textures`", json.dumps(learner.settings), *learner.classnames:
        assert said in card.text
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "config.json", "prompts.safetensors"}


def test_card_of_odd_names_is_still_a_card(clip, tmp_path):
    odd = ['a "quoted" `name`', "```", "---\nlicense: mit", "{braces}", "cafe\u0301 \u732b"]
    metrics = {"accuracy": 12.5, "per_class": [1.0]}
    save_pretrained(ZeroShot(clip, odd), tmp_path, dataset="one: [of, mine]\n---", metrics=metrics)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license is None and card.data.eval_results[0].dataset_name == "one: [of, mine]\n---"
    assert from_pretrained(tmp_path).classnames == odd


def test_card_links_published_weights(clip):
    learner = build_learner("coop", clip, NAMES)
    origin = _Origin(backbone="ViT-B-16-quickgelu", pretrained="openai", dataset="dtd")
    card = ModelCard(npt.study.hub._model_card(learner, origin, {}))
    assert card.data.base_model == "timm/vit_base_patch16_clip_224.openai" and "`openai`" in card.text


def test_tag_that_is_none_is_not_saved(clip, tmp_path):
    with pytest.raises(ValueError, match="is no tag of weights for world"):
        save_pretrained(ZeroShot(clip, NAMES), tmp_path, pretrained="weights.pt")
    assert not list(tmp_path.iterdir())


def test_prompts_are_not_put_on_other_weights(clip, tmp_path):
    save_pretrained(build_learner("coop", clip, NAMES), tmp_path)
    other = load_clip("world")
    with torch.no_grad():
        other.model.visual.proj[0, 0] += 0.5
    with pytest.raises(ValueError, match="other weights of world"):
        from_pretrained(tmp_path, clip=other)
    assert from_pretrained(tmp_path, clip=clip).clip is clip


class Hub(BaseHTTPRequestHandler):
    "Answers as the hub does for one repository, prompts/mine, whose files lie in the server's folder."

    commit = "0123456789abcdef0123456789abcdef01234567"

    def answer(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), "X-Repo-Commit": self.commit, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        files, path = self.server.files, self.path.partition("?")[0]
        if path == "/api/models/prompts/mine/revision/main":
            about = dict(_id="1", id="prompts/mine", sha=self.commit, siblings=[{"rfilename": name} for name in files])
            self.answer(json.dumps(about).encode(), Content_Type="application/json")
        elif path == f"/api/models/prompts/mine/tree/{self.commit}":
            tree = [dict(type="file", path=name, size=len(content), oid=hashlib.sha1(content).hexdigest())
                    for name, content in files.items()]
            self.answer(json.dumps(tree).encode(), Content_Type="application/json")
        elif path.startswith(f"/prompts/mine/resolve/{self.commit}/") and Path(path).name in files:
            content = files[Path(path).name]
            self.answer(content, ETag=f'"{hashlib.sha1(content).hexdigest()}"')
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[ThreadingHTTPServer]:
    "A hub of this machine's own, that the hub's client is turned to, with an empty cache."
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files, server.asked = {}, []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server
        server.shutdown()


def test_prompts_are_fetched_from_the_hub(hub, clip, tmp_path, pixels):
    learner = build_learner("coop", clip, NAMES, n_ctx=2)
    save_pretrained(learner, tmp_path / "mine")
    hub.files = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()} | {"large.bin": b"not asked for"}
    fetched = from_pretrained("prompts/mine")
    assert torch.equal(logits(fetched, pixels), logits(learner, pixels))
    got = {Path(path).name for path in hub.asked if "/resolve/" in path}
    assert got == {"config.json", "prompts.safetensors"}


def test_what_the_hub_has_not_is_said(hub):
    with pytest.raises(FileNotFoundError, match="'prompts/none' is neither a folder here nor a repository"):
        from_pretrained("prompts/none")
    with pytest.raises(FileNotFoundError, match="'not/a/name' is neither a folder"):
        from_pretrained("not/a/name")


def test_hub_that_cannot_be_reached(hub, monkeypatch):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ConnectionError, match="'prompts/mine' is no folder here, and could not be fetched"):
        from_pretrained("prompts/mine")


def test_nearest_words_of_words_are_themselves(clip):
    table = nearest_words(build_learner("coop", clip, NAMES), top=3)
    nearest = table[table["rank"] == 1]
    assert nearest["word"].tolist() == ["a", "photo", "of", "a"] and (nearest["distance"] == 0).all()
    assert nearest["context vector"].tolist() == [1, 2, 3, 4] and len(table) == 12
    assert list(table.columns) == ["context vector", "rank", "word", "distance"]
    assert table.groupby("context vector")["distance"].apply(lambda group: group.is_monotonic_increasing).all()


def test_nearest_words_agree_with_distances_one_by_one(clip):
    learner = build_learner("coop", clip, NAMES, n_ctx=2, ctx_init=None, seed=3)
    with torch.no_grad():
        learner.context.mul_(20)
    table = nearest_words(learner, top=1)
    for vector, word, distance in table[["context vector", "word", "distance"]].itertuples(index=False):
        away = (clip.embed(_known_tokens(clip)) - learner.context[vector - 1]).detach().norm(dim=1)
        assert distance == pytest.approx(float(away.min()), rel=1e-5)
        assert word == _token_word(clip, int(_known_tokens(clip)[away.argmin()]))


def test_nearest_words_of_every_learner(clip, tmp_path):
    for name in learner_names():
        learner = set_up(RunSettings(dataset="world/textures", shots=1, learner=name, runs_dir=str(tmp_path))).learner
        if isinstance(getattr(learner, "context", None), torch.Tensor):
            assert nearest_words(learner, top=2)["word"].str.len().min() > 0
        else:
            with pytest.raises(ValueError, match=f"'{name}' has no context vectors"):
                nearest_words(learner)


def test_class_specific_contexts_have_their_class(clip):
    table = nearest_words(build_learner("coop", clip, NAMES, class_specific=True), top=1)
    assert table["class"].tolist() == [name for name in NAMES for _ in range(4)]
    assert table["word"].tolist() == ["a", "photo", "of", "a"] * 3


def test_words_of_a_tokenizer_from_transformers(clip):
    "A stand-in with the two methods of theirs that are used; its backbone has padded rows without a word."
    class Words:
        def decode(self, tokens): return f" word{tokens[0]}"
        def __len__(self): return 50

    class Wrapped:
        tokenizer = Words()

    learner = build_learner("coop", load_clip("world"), NAMES, n_ctx=1)
    learner.clip.name, learner.clip.tokenizer = "another", Wrapped()
    with torch.no_grad():
        learner.context.copy_(learner.clip.embed(torch.tensor([49])))
    table = nearest_words(learner, top=100)
    assert table["word"][0] == "word49" and table["distance"][0] == 0 and len(table) == 50


def test_no_words_are_refused(clip):
    with pytest.raises(ValueError, match="top=0"):
        nearest_words(build_learner("coop", clip, NAMES), top=0)
