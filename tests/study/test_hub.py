"What was learned, handed on: a folder with a card, and a hub that gives it back or does not."

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from trained import MEASURED, NAMES, logits, train_a_little

from npt.clip.backbone import find_backbone
from npt.clip.frozen import FrozenCLIP
from npt.learners.build import build_learner, learner_names
from npt.learners.zero_shot import ZeroShot
from npt.study.hub import _model_card, from_pretrained, save_pretrained
from npt.study.predict import predict
from npt.study.restore import _Origin, load_run


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


def test_card_names_backbone_dataset_classes_settings_and_accuracy(trained_dir, tmp_path):
    learner = load_run(trained_dir)
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


def test_card_of_hostile_names_is_nothing_but_text(clip, tmp_path):
    hostile = "mine\n\n<script>alert(1)</script>\n---\nlicense: mit\n```|`\u2028<img src=x>"
    names = ["\n<script>`", "\n---\na: b", "```\n", "cat"]
    learner = ZeroShot(clip, names)
    learner.template = "a photo of\n<script> {}"
    save_pretrained(learner, tmp_path, dataset=hostile, metrics=MEASURED)
    card = ModelCard.load(tmp_path / "README.md")
    assert not [letters for letters in ("<", "\u2028", "\n---", "\nlicense") if letters in card.text]
    assert card.text.count("```") == 4, "those of its two blocks"
    header = (tmp_path / "README.md").read_text().split("\n---\n")[0]
    assert yaml.safe_load(header.removeprefix("---\n"))["model-index"][0]["results"][0]["dataset"]["name"] == hostile
    assert card.data.license is None and json.loads(card.text.rpartition("```json\n")[2].partition("\n```")[0]) == names


def test_card_links_published_weights(clip):
    learner = build_learner("coop", clip, NAMES)
    origin = _Origin(backbone="ViT-B-16-quickgelu", pretrained="openai", dataset="dtd")
    card = ModelCard(_model_card(learner, origin, {}))
    assert card.data.base_model == "timm/vit_base_patch16_clip_224.openai" and "`openai`" in card.text


def test_tag_that_is_none_is_not_saved(clip, tmp_path):
    with pytest.raises(ValueError, match="is no tag of weights for world"):
        save_pretrained(ZeroShot(clip, NAMES), tmp_path, pretrained="weights.pt")
    assert not list(tmp_path.iterdir())


def test_prompts_are_not_put_on_other_weights(clip, tmp_path):
    save_pretrained(build_learner("coop", clip, NAMES), tmp_path)
    record = find_backbone("world")
    model = record.build()
    with torch.no_grad():
        model.visual.proj[0, 0] += 0.5
    other = FrozenCLIP(model, record.tokenizer(), "world")
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
        if path in ("/api/models/prompts/mine/revision/main", f"/api/models/prompts/mine/revision/{self.commit}"):
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
        for module in constants, huggingface_hub.file_download:  # older clients have a copy there
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}", raising=False)
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
    again = from_pretrained("prompts/mine", revision=Hub.commit)
    assert torch.equal(logits(again, pixels), logits(learner, pixels))
    assert sum(path.endswith("/revision/main") for path in hub.asked) == 1, "a commit that is here already is not asked for"
    with pytest.raises(FileNotFoundError, match="'prompts/mine' is neither.*with the revision 'other'"):
        from_pretrained("prompts/mine", revision="other")
    with pytest.raises(ValueError, match="is a folder here, which has no revision 'main'"):
        from_pretrained(tmp_path / "mine", revision="main")


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
