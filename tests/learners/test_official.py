"""Files as the official trainers write them come back as the same logits, and nothing in any file is ever run."""

import os
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from random_clip import NAMES, images, random_clip
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR

from npt.clip.frozen import FrozenCLIP
from npt.learners.base import Learner
from npt.learners.build import build_learner
from npt.learners.official import load_official
from npt.learners.saving import load_prompts, save_prompts

RANDOM = dict(ctx_init=None)
PETS, TEXTURES, DOING = "a photo of a {}, a type of pet.", "a photo of a {}, a type of texture.", "a photo of a person doing"
CASES = {  # method: learner, its settings, what must be said in loading
    "CoOp": ("coop", dict(), dict()),
    "CoOp, 16 random": ("coop", dict(n_ctx=16, **RANDOM), dict()),
    "CoOp, middle": ("coop", dict(n_ctx=5, class_token_position="middle", **RANDOM), dict(class_token_position="middle")),
    "CoOp, front": ("coop", dict(class_token_position="front"), dict(class_token_position="front")),
    "CoOp, own contexts": ("coop", dict(n_ctx=3, class_specific=True, **RANDOM), dict()),
    "KgCoOp": ("coop", dict(), dict()),
    "ProGrad": ("coop", dict(), dict()),
    "DeKg": ("coop", dict(), dict()),
    "CoCoOp": ("cocoop", dict(), dict()),
    "CoCoOp, 6 random": ("cocoop", dict(n_ctx=6, **RANDOM), dict()),
    "MaPLe": ("maple", dict(depth=3), dict()),
    "MaPLe, shallow": ("maple", dict(depth=1), dict()),
    "MaPLe, random": ("maple", dict(n_ctx=2, depth=4, **RANDOM), RANDOM),
    "MaPLe, 6 random": ("maple", dict(n_ctx=6, depth=2, **RANDOM), dict()),
    "CoPrompt": ("coprompt", dict(depth=3), dict()),
    "CoPrompt, shallow": ("coprompt", dict(depth=1, reduction=3), dict()),
    "IVLP": ("ivlp", dict(depth=3, depth_image=2, n_ctx_image=3), dict()),
    "IVLP, shallow": ("ivlp", dict(depth=1, depth_image=1, n_ctx=2), dict()),
    "PromptSRC": ("ivlp", dict(depth=4, depth_image=4), dict()),
    "PromptKD's teacher": ("ivlp", dict(depth=3, depth_image=4), dict()),
    "VPT": ("vpt", dict(depth=4, n_ctx_image=5), dict()),
    "VPT, shallow": ("vpt", dict(depth=1), dict()),
    "TCP": ("tcp", dict(), dict()),
    "TCP, pets": ("tcp", dict(layer=2, template=PETS), dict(layer=2, template=PETS)),
    "TCP, textures": ("tcp", dict(after_name=" texture.", template=TEXTURES), dict(after_name=" texture.", template=TEXTURES)),
    "TCP, cars": ("tcp", dict(after_name=", a type of car"), dict(after_name=", a type of car")),
    "TCP, actions": ("tcp", dict(ctx_init=DOING, template=f"{DOING} {{}}."), dict(ctx_init=DOING, template=f"{DOING} {{}}.")),
    "TCP, one vector": ("tcp", dict(n_ctx=1), dict()),
    "CoCoOp, one vector": ("cocoop", dict(n_ctx=1, **RANDOM), dict()),
    "DeKg with TCP": ("tcp", dict(template=PETS), dict(template=PETS)),
    "MMA": ("mma", dict(rank=8, layers=3), dict()),
    "MMA, one block": ("mma", dict(rank=4, layers=1, scale=0.5), dict(scale=0.5)),
    "MMRL": ("mmrl", dict(width=24), dict()),
    "MMRL, pets": ("mmrl", dict(width=12, n_tokens=2, layers=1, alpha=0.5, template=PETS), dict(template=PETS, alpha=0.5)),
    "PromptKD": ("promptkd", dict(teacher="random", depth=3, n_ctx_image=3), dict(teacher="random")),
    "DePT": ("dept", dict(around_settings=dict(n_ctx=6, **RANDOM)), dict()),
    "DePT, front": ("dept", dict(around_settings=dict(class_token_position="front"), weight=0.4, length=7.5),
                    dict(class_token_position="front", weight=0.4, length=7.5)),
    "DePT with KgCoOp": ("dept", dict(), dict()),
    "DePT with MaPLe": ("dept", dict(around="maple", around_settings=dict(depth=3)), dict()),
    "DePT with CoCoOp": ("dept", dict(around="cocoop"), dict()),
    "DePT without scales": ("dept", dict(), dict()),
    "CLAP": ("clap", dict(template=PETS), dict(learner="clap", template=PETS)),
    "ZS-LP": ("linear_probe", dict(), dict(learner="linear_probe")),
}
AFTER_NAME = {"TCP, pets": ", a type of pet.", "TCP, textures": " texture.", "TCP, cars": ", a type of car", "DeKg with TCP": ", a type of pet."}
FOLDERS = {"coop": "prompt_learner", "cocoop": "prompt_learner", "tcp": "prompt_learner", "vpt": "prompt_learner",
           "maple": "MultiModalPromptLearner", "dept": "PromptLearner", "clap": "adapter", "linear_probe": "adapter", "ivlp": "VLPromptLearner",
           "coprompt": "MultiModalPromptLearner", "mma": "adapter_learner", "promptkd": "VLPromptLearner", "mmrl": "MultiModalRepresentationLearner"}


@pytest.fixture(scope="module")
def clip() -> FrozenCLIP:
    return random_clip()


def trained(clip: FrozenCLIP, name: str, settings: dict, method: str = "") -> Learner:
    "A learner whose numbers are random, and such that half precision holds them."
    learner = build_learner(name, clip, NAMES, **settings)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.copy_((parameter + torch.randn(parameter.shape, generator=generator) * 0.05).half())
        if name == "dept" and method == "DePT without scales":
            learner.head.scale.fill_(1.0), learner.head.shift.zero_()
        for statistics in learner.buffers():
            if statistics.is_floating_point() and name == "promptkd":
                statistics.copy_((statistics + 0.2 * torch.rand(statistics.shape, generator=generator)).half())
    return learner


def dept_state(learner: Learner, method: str) -> dict[str, Tensor]:
    "The state of a whole model with DePT's head: `film_lp_*` and `linear_probe_proj` beside the prompt learner and CLIP."
    state, clip, head = official_state(learner.inner, method.removeprefix("DePT with ")), learner.clip, learner.head
    if learner.inner.name != "maple":  # whose own trainer saves the whole model as well
        state = {f"prompt_learner.{key}": value for key, value in state.items()}
        state |= {f"image_encoder.{key}": value for key, value in clip.model.visual.state_dict().items()} | {"logit_scale": torch.tensor(4.6)}
    if method == "DePT with KgCoOp":  # which has an adapter that nothing calls, and half a meta-net twice
        state |= {"adapter.fc.0.weight": torch.ones(128, 512), "adapter.fc.2.weight": torch.ones(512, 128), "meta_net.linear1.bias": torch.ones(512)}
    if method != "DePT without scales":
        state |= {f"film_lp_{tower}.{kind}": values[i] for i, tower in enumerate(("text", "img"))
                  for kind, values in (("scale", head.scale), ("bias", head.shift))}
    return state | {f"linear_probe_proj.{key}": value for key, value in head.classifier.state_dict().items()}


def inside_state(learner: Learner) -> dict[str, Tensor]:
    "The state of MMA's adapters, and of MMRL's whole model."
    clip = learner.clip
    tokens = clip.tokenize([learner.template.replace("{}", name.replace("_", " ")) for name in NAMES])
    if learner.name == "mma":
        state, last = {"token_embedding": clip.embed(tokens), "tokenized_prompts": tokens}, 4
        for i, (text, image, shared) in enumerate(zip(learner.text_ends, learner.image_ends, learner.shared, strict=True)):
            place = last - learner.layers + i + 1
            for kind in "weight", "bias":
                for tower, ends in ("text", text), ("visual", image):
                    state[f"{tower}_adapter.{place}.down.0.{kind}"] = getattr(ends.down, kind)
                    state[f"{tower}_adapter.{place}.up.{kind}"] = getattr(ends.up, kind)
                state[f"shared_adapter.{place}.0.{kind}"] = getattr(shared, kind)
        return state
    state = {"prompt_embeddings": clip.embed(tokens), "representation_learner.compound_rep_tokens": learner.tokens, "logit_scale": torch.tensor(4.6)}
    for tower, maps in ("t", learner.to_text), ("v", learner.to_image):
        for i, one in enumerate(maps):
            state |= {f"representation_learner.compound_rep_tokens_r2{tower}proj.{i}.{kind}": getattr(one, kind) for kind in ("weight", "bias")}
    state |= {f"image_encoder.{key}": value for key, value in clip.model.visual.state_dict().items()}
    return state | {"image_encoder.proj_rep": learner.projection, "text_encoder.text_projection": clip.model.text_projection}


def official_state(learner: Learner, method: str) -> dict[str, Tensor]:
    "The state that the official model of this method has, in half precision."
    state, name = {}, learner.name
    if name in ("mma", "mmrl"):
        return {key: value.detach() if value.dtype == torch.int64 else value.detach().half() for key, value in inside_state(learner).items()}
    if name == "dept":
        return {key: value.detach().half() for key, value in dept_state(learner, method).items()}
    if name in ("linear_probe", "clap"):
        return {key: value.detach().half() for key, value in
                dict(prototypes=learner.vectors, base_text_features=learner.written, logit_scale=torch.tensor(4.6)).items()}
    if name not in ("vpt", "promptkd"):
        n, words = learner.context.shape[-2], learner.settings["ctx_init"] or "X " * learner.context.shape[-2]
        prompts = [f"{words} {called.replace('_', ' ')}{AFTER_NAME.get(method, '.')}" for called in NAMES]
        vectors = learner.clip.embed(learner.clip.tokenize(prompts))
        state |= dict(ctx=learner.context, token_prefix=vectors[:, :1], token_suffix=vectors[:, 1 + n :])
    if method == "PromptKD's teacher":  # base and novel classes apart
        state |= dict(token_prefix2=state["token_prefix"][2:], token_suffix2=state["token_suffix"][2:])
        state |= dict(token_prefix=state["token_prefix"][:2], token_suffix=state["token_suffix"][:2])
    if method == "KgCoOp":
        state |= {"bias_vectors": torch.ones(1, 512), "meta_net.linear1.weight": torch.ones(512, 512),
                  "meta_net.linear1.bias": torch.ones(512)}
    if method == "DeKg":  # its prompt learner holds a whole image tower
        state |= {f"image_encoder.{key}": value for key, value in learner.clip.model.visual.state_dict().items()}
        state["bias_vectors"] = torch.ones(1, 512)
    if name in ("cocoop", "tcp"):
        for number, layer in ((1, learner.meta_net[0]), (2, learner.meta_net[2])):
            state |= {f"meta_net.linear{number}.weight": layer.weight, f"meta_net.linear{number}.bias": layer.bias}
    if name in ("maple", "coprompt"):
        first, *later = learner.couplings
        state |= {"proj.weight": first.weight, "proj.bias": first.bias}
        state |= {f"compound_prompts_text.{number}": vectors for number, vectors in enumerate(learner.deep_text)}
        for number, layer in enumerate(later):
            state |= {f"compound_prompt_projections.{number}.weight": layer.weight,
                      f"compound_prompt_projections.{number}.bias": layer.bias}
    tower, text = learner.clip.model.visual.state_dict(), learner.clip.model.state_dict()
    if method == "PromptSRC":
        state |= {f"ZS_image_encoder.{key}": value for key, value in tower.items()}
    if name in ("maple", "coprompt", "ivlp", "vpt"):  # the whole model is saved
        state = {f"prompt_learner.{key}": value for key, value in state.items()}
        state |= {f"image_encoder.{key}": value for key, value in tower.items()}
        state |= {f"text_encoder.{key}": text[key] for key in text if key.startswith(("transformer.", "ln_final."))}
        state |= {f"text_encoder.{key}": text[key] for key in ("positional_embedding", "text_projection")}
        state["logit_scale"] = torch.tensor(4.6)
    if name == "coprompt":
        state |= {f"adapter_{part}.fc.{n}.weight": getattr(learner, f"{part}_network")[n].weight for part in ("image", "text") for n in (0, 2)}
        state |= {f"model_distill.{key}": value for key, value in learner.clip.model.state_dict().items()}
    if name == "promptkd":  # its projection is a pair of convolutions over one place
        layers = {key.replace("projection", "VPT_image_trans.conv1"): value for key, value in learner.state_dict().items() if "proj" in key}
        layers = {key: value[..., None, None] if value.dim() == 2 else value for key, value in layers.items()}
        state |= {f"image_encoder.{key}": value for key, value in tower.items()} | layers | {"logit_scale": torch.tensor(4.6)}
        state["VPT_image_trans.conv1.1.num_batches_tracked"] = torch.tensor(120)
    if name in ("ivlp", "vpt", "promptkd"):
        shallow, *deep = learner.image_prompts
        state["image_encoder.VPT"] = shallow
        state |= {f"image_encoder.transformer.resblocks.{n}.VPT_shallow": vectors for n, vectors in enumerate(deep, start=1)}
    if name == "ivlp":
        text = enumerate(learner.deep_text, start=1)
        state |= {f"text_encoder.transformer.resblocks.{n}.VPT_shallow": vectors for n, vectors in text}
    return {key: value.detach() if value.dtype == torch.int64 else value.detach().half() for key, value in state.items()}


class ConstantWarmup(LRScheduler):
    "A schedule that holds another, as Dassl's does: its state is its `__dict__`, and the other goes in as an object."

    def __init__(self, optimizer: Optimizer, successor: LRScheduler):
        self.successor, self.warmup_epoch, self.cons_lr = successor, 1, 1e-5
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        warm = self.last_epoch >= self.warmup_epoch
        return self.successor.get_last_lr() if warm else [self.cons_lr for _ in self.base_lrs]


def checkpoint(state: dict[str, Tensor], optimizer=SGD, schedule=lambda o: CosineAnnealingLR(o, 5.0)) -> dict:
    "What Dassl saves after two epochs: with momentum, on parameters that share their numbers with the state."
    parameters = [nn.Parameter(value) for value in state.values() if value.is_floating_point()]
    optimizer = optimizer(parameters, lr=0.002) if optimizer is not SGD else SGD(parameters, 0.002, 0.9, weight_decay=5e-4)
    scheduler = ConstantWarmup(optimizer, schedule(optimizer))
    before = [parameter.detach().clone() for parameter in parameters]
    for _ in range(2):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        scheduler.step()
    for parameter, value in zip(parameters, before, strict=True):
        parameter.data.copy_(value)
    return {"state_dict": OrderedDict(state), "epoch": 2, "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.state_dict(), "val_result": None}


def write(content: object, path: Path, **how) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.save(content, path, **how)
    return path


@pytest.fixture
def coop(clip) -> Learner:
    return trained(clip, "coop", dict())


@pytest.fixture
def good(coop) -> dict:
    return checkpoint(official_state(coop, "CoOp"))


@pytest.mark.parametrize("method", CASES)
def test_what_an_official_trainer_saved_gives_the_same_logits(clip, tmp_path, method):
    name, settings, said = CASES[method]
    learner = trained(clip, name, settings, method)
    content = checkpoint(official_state(learner, method))
    assert all(value.dtype == torch.float16 for value in content["state_dict"].values() if value.is_floating_point())
    if method == "ProGrad":
        del content["val_result"]
    path = write(content, tmp_path / FOLDERS[name] / "model.pth.tar-2")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_official(path, clip, NAMES, **said)
    before = {key: value.clone() for key, value in loaded.state_dict().items()}
    learner.eval()
    assert loaded.name == name
    for key, value in learner.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert torch.allclose(loaded.logits(images()), learner.logits(images()), atol=1e-6, rtol=0), "as it is tested, from the first call on"
    assert not loaded.training and all(torch.equal(value, before[key]) for key, value in loaded.state_dict().items())
    started = build_learner(name, clip, NAMES, **settings).eval()
    assert not torch.allclose(started.logits(images()), learner.logits(images()), atol=1e-3), "the file must matter"
    if not settings.get("class_specific") and learner.transfers:
        others = ["dog", "annual crop land"]
        novel = loaded.for_classes(others) if name == "dept" else load_official(path, clip, others, **said).eval()
        assert torch.allclose(novel.logits(images()), learner.for_classes(others).logits(images()), atol=1e-6)


def test_parameters_are_float32_and_can_be_trained_on(good, tmp_path):
    single = random_clip()
    single = FrozenCLIP(single.model.float(), single.tokenizer, "random")
    loaded = load_official(write(good, tmp_path / "a"), single, NAMES)
    assert loaded.context.dtype == torch.float32 and loaded.context.requires_grad
    assert loaded.logits(images().float()).dtype == torch.float32


@pytest.mark.parametrize("method", ["CoOp", "MMA", "MaPLe"])
def test_a_model_saved_on_several_gpus_is_the_same(clip, tmp_path, method):
    name, settings, _ = CASES[method]
    learner = trained(clip, name, settings, method)
    state = official_state(learner, method)
    path = write({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "model.pth.tar-2")
    loaded = load_official(path, clip, NAMES)
    assert all(torch.equal(value, learner.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_what_stands_in_a_file_twice_and_alike_is_taken_once(good, coop, clip, tmp_path):
    good["state_dict"]["prompt_learner.ctx"] = good["state_dict"]["ctx"].clone()
    assert torch.equal(load_official(write(good, tmp_path / "a"), clip, NAMES).context, coop.context)


@pytest.mark.parametrize("optimizer, schedule", [
    (Adam, lambda o: StepLR(o, step_size=2)),
    (AdamW, lambda o: MultiStepLR(o, milestones=[1, 3])),
    (RMSprop, lambda o: CosineAnnealingLR(o, 5.0)),
    ("RAdam", lambda o: CosineAnnealingLR(o, 5.0)),
])
def test_all_that_dassl_trains_with_can_be_opened(clip, coop, tmp_path, monkeypatch, optimizer, schedule):
    if optimizer == "RAdam":  # Dassl's own class, known here by its name only
        optimizer = type("RAdam", (SGD,), dict(__module__="dassl.optim.radam"))
        for name in ("dassl", "dassl.optim", "dassl.optim.radam"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["dassl.optim.radam"].RAdam = optimizer
    path = write(checkpoint(official_state(coop, "CoOp"), optimizer, schedule), tmp_path / "model-best.pth.tar")
    for name in [name for name in sys.modules if name.startswith("dassl")]:
        monkeypatch.delitem(sys.modules, name)
    assert torch.equal(load_official(path, clip, NAMES).context, coop.context)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_file_from_a_gpu_is_read_without_one(clip, coop, good, tmp_path, monkeypatch, zipped):
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    path = write(good, tmp_path / "model.pth.tar-2", _use_new_zipfile_serialization=zipped)
    assert b"cuda:0" in path.read_bytes()
    assert torch.equal(load_official(path, clip, NAMES).context, coop.context)


def test_a_folder_with_one_checkpoint_is_enough_and_with_more_they_are_named(clip, coop, good, tmp_path):
    folder = tmp_path / "prompt_learner"
    write(good, folder / "model.pth.tar-50")
    (folder / "checkpoint").write_text("model.pth.tar-50\n")
    assert torch.equal(load_official(folder, clip, NAMES).context, coop.context)
    write(good, folder / "model.pth.tar-5")
    write(good, folder / "model-best.pth.tar")
    with pytest.raises(ValueError, match=r"model\.pth\.tar-5, model\.pth\.tar-50, model-best\.pth\.tar"):
        load_official(str(folder), clip, NAMES)
    with pytest.raises(FileNotFoundError, match="MultiModalPromptLearner"):
        load_official(tmp_path, clip, NAMES)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_official(folder / "model.pth.tar-6", clip, NAMES)


class Call:
    "An object that calls a function as it is unpickled."

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def in_the_state(content: dict, evil: object) -> None:
    content["state_dict"]["ctx"] = evil


def beside_the_state(content: dict, evil: object) -> None:
    content["val_result"] = evil


def in_the_schedule(content: dict, evil: object) -> None:
    content["scheduler"]["successor"].base_lrs = [evil]


def in_the_schedules_optimizer(content: dict, evil: object) -> None:
    content["scheduler"]["successor"].optimizer.defaults["lr"] = evil


def as_a_key_of_momenta(content: dict, evil: object) -> None:
    content["scheduler"]["successor"].optimizer.state[evil] = 1


PLACES = [in_the_state, beside_the_state, in_the_schedule, in_the_schedules_optimizer, as_a_key_of_momenta]


@pytest.mark.parametrize("kind, place, zipped", [
    *(("os.system", place, True) for place in PLACES),
    *(("os.system", place, False) for place in PLACES),  # as before torch 1.6
    ("exec", in_the_state, True),
    ("open", in_the_state, True),
])
def test_a_hostile_file_is_refused_and_does_not_run(clip, good, tmp_path, kind, place, zipped):
    mark = tmp_path / "it_ran"
    place(good, {"os.system": Call(os.system, f"touch {mark}"), "open": Call(open, str(mark), "w"),
                 "exec": Call(exec, f"import os; os.mkdir({str(mark)!r})")}[kind])
    path = write(good, tmp_path / "model.pth.tar-2", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="holds the Python object .* refused") as refusal:
        load_official(path, clip, NAMES)
    assert refusal.value.__suppress_context__, "PyTorch's message advises to open the file all the same"
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the payload works wherever a file is believed"


def test_stand_ins_stand_for_nothing_else_and_leave_no_trace(clip, good, tmp_path):
    before = set(torch.serialization.get_safe_globals())  # torch keeps a set, and lists it in any order
    good["val_result"] = Call(getattr, CosineAnnealingLR, "step")
    with pytest.raises(ValueError, match="getattr"):
        load_official(write(good, tmp_path / "a"), clip, NAMES)
    good["val_result"] = Call(dict, [("a", 1)])  # allowed by name, as what `defaultdict` makes, but not to be called
    with pytest.raises(ValueError, match="cut short, or is no checkpoint"):
        load_official(write(good, tmp_path / "b"), clip, NAMES)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a", weights_only=True)


def test_files_that_are_broken_or_something_else_are_refused_in_a_sentence(clip, good, tmp_path):
    path = write(good, tmp_path / "model.pth.tar-2")
    whole = path.read_bytes()
    contents = [whole[:size] for size in (0, 1, 100, len(whole) // 2, len(whole) - 10)]
    contents += [b"a text", pickle.dumps({"state_dict": {}}, 2), pickle.dumps(Call(os.system, "exit 1"), 2)]
    damaged = bytearray(whole)
    damaged[60:400] = bytes(340)
    for content in [*contents, bytes(damaged)]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.pth\.tar-2 (is cut short|has no|holds)"):
            load_official(path, clip, NAMES)
    for content in (good["state_dict"], [1], dict(good, state_dict=None), dict(good, state_dict={1: torch.ones(1)})):
        with pytest.raises(ValueError, match="no 'state_dict'"):
            load_official(write(content, path), clip, NAMES)


def replaced(**new: object):
    return lambda state: state | {key.replace("__", "."): value for key, value in new.items()}


def without(key: str):
    return lambda state: {name: value for name, value in state.items() if not name.endswith(key)}


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize("method, change, said, message", [
    ("CoOp", replaced(ctx=torch.ones(4, 512)), {}, "with a text tower of width 512, and that of random has 64"),
    ("MaPLe", replaced(prompt_learner__proj__weight=torch.ones(768, 64)), {}, "image tower of width 768, .* random has 32"),
    ("IVLP", replaced(image_encoder__VPT=torch.ones(4, 768)), {}, "with an image tower of width 768"),
    ("CoCoOp", replaced(meta_net__linear1__weight=torch.ones(3, 512)), {}, "image feature of width 512, .* random has 48"),
    ("CoCoOp", replaced(meta_net__linear1__bias=torch.ones(9)), {}, r"meta_net\.0\.bias has the shape \(9,\) in place of"),
    ("CoOp", replaced(ctx=torch.full((4, 64), torch.nan)), {}, "'ctx' is not a matrix of finite real numbers"),
    ("CoOp", replaced(ctx=torch.ones(4, 64, dtype=torch.int64)), {}, "'ctx' is not a matrix"),
    ("CoOp", replaced(ctx=torch.ones(64)), {}, "'ctx' is not a matrix"),
    ("CoOp", replaced(ctx=torch.ones(0, 64)), {}, "'ctx' is not a matrix"),
    ("CoOp", replaced(ctx="a photo"), {}, "'ctx' is not a matrix"),
    ("CoOp", replaced(ctx=torch.ones(1).expand(10**9, 64)), {}, "'ctx' is not a matrix"),
    ("CoOp", replaced(ctx=torch.ones(4, 64).to_sparse()), {}, "'ctx' is not a matrix"),
    ("CoOp", replaced(ctx=torch.full((4, 64), 1e300, dtype=torch.float64)), {}, r"'ctx' has numbers up to 1e\+300, which are too large for float32"),
    ("CoOp", replaced(prompt_learner__ctx=torch.ones(4, 64)), {}, "holds both 'ctx' and 'prompt_learner.ctx', and they differ: leave one out"),
    ("CoOp", lambda state: {f"module.{key}": value for key, value in state.items()} | {"ctx": torch.ones(4, 64)}, {}, "it holds 'module"),
    ("MMA", lambda state: {f"adapter_learner.{key}": value for key, value in state.items()}, {}, "saves its adapter_learner alone, so give that file"),
    ("CoPrompt", replaced(adapter_image__fc__0__weight=torch.ones(96, 48)), {}, "tar-2 cannot be used: its networks are 96 numbers wide inside and 48"),
    ("CoOp", replaced(ctx=torch.ones(90, 64)), {}, "90 context vectors do not fit"),
    ("CoOp", replaced(weight=torch.ones(4, 64)), {}, "'weight', which none of"),
    ("CoOp", without("ctx"), {}, "exactly nothing"),
    ("CoCoOp", without("linear2.weight"), {}, r"its meta_net\.2\.weight has the shape None"),
    ("MaPLe", without("compound_prompts_text.0"), {}, "cannot be used: it was read as 'maple'"),
    ("IVLP", without("image_encoder.VPT"), {}, "cannot be used: it was read as 'ivlp'"),
    ("IVLP", lambda state: {k: v for k, v in state.items() if "VPT" not in k or "text" in k}, {}, "context, deep_text"),
    ("IVLP", replaced(text_encoder__transformer__resblocks__0__VPT_shallow=torch.ones(4, 64)), {}, "read as 'ivlp'"),
    ("CoOp", dict, dict(n_ctx=4), "'n_ctx' cannot be given for 'coop'"),
    ("MaPLe", dict, dict(class_token_position="end"), "'class_token_position' cannot be given for 'maple'"),
    ("CoOp", dict, dict(class_token_position="left"), "there is no class_token_position 'left'"),
    ("VPT", dict, dict(ctx_init=None), "'ctx_init' cannot be given for 'vpt'"),
    ("CoCoOp", dict, dict(layer=2), "'layer' cannot be given for 'cocoop'"),
    ("TCP", dict, dict(layer=4), "layer=4 is no block"),
    ("PromptKD", replaced(VPT_image_trans__conv1__0__weight=torch.ones(48, 512, 1, 1)), dict(teacher="random"), "image feature of width 512, .* random has 48"),
    ("PromptKD", replaced(VPT_image_trans__conv1__0__weight=torch.ones(48, 48, 3, 3)), dict(teacher="random"), "conv1.0.weight' is not a matrix"),
    ("PromptKD", replaced(VPT_image_trans__conv1__1__running_var=torch.full((48,), torch.nan)), dict(teacher="random"), "running_var' is not a vector"),
    ("PromptKD", replaced(VPT_image_trans__conv1__1__running_var=torch.full((72,), -2.0)), dict(teacher="random"), "running_var' has -2, and a variance is at least 0"),
    ("PromptKD", replaced(VPT_image_trans__conv1__3__weight=torch.ones(72, 48, 1, 1)), dict(teacher="random"), r"projection\.3\.weight has the shape \(72, 48\)"),
    ("PromptKD", without("running_mean"), dict(teacher="random"), r"its projection\.1\.running_mean has the shape None"),
    ("PromptKD", dict, dict(teacher="random", depth=2), "'depth' cannot be given for 'promptkd'"),
    ("PromptKD", dict, dict(), "A student on random needs a teacher"),
    ("DePT", replaced(linear_probe_proj__weight=torch.ones(3, 512)), {}, "'film_lp_text.scale' has 48 numbers, and its classifier takes 512"),
    ("DePT without scales", replaced(linear_probe_proj__weight=torch.ones(3, 512)), {}, "image feature of width 512, .* random has 48"),
    ("DePT", replaced(linear_probe_proj__weight=torch.ones(4, 48)), {}, "each of its 4 classes has a row of the head, and there are 3 classnames.*for_classes"),
    ("DePT", replaced(linear_probe_proj__bias=torch.ones(4)), {}, r"its head\.classifier\.bias has the shape \(4,\) in place of \(3,\)"),
    ("DePT", replaced(film_lp_img__bias=torch.ones(47)), {}, "'film_lp_img.bias' has 47 numbers, and its classifier takes 48"),
    ("DePT", replaced(film_lp_img__scale=torch.ones(1, 48)), {}, "'film_lp_img.scale' is not a vector"),
    ("DePT", without("film_lp_text.scale"), {}, "'film_lp_text.scale' is missing"),
    ("DePT", without("linear_probe_proj.weight"), {}, "no 'linear_probe_proj.weight'. Only a head of the type 'linear'"),
    ("DePT", without("prompt_learner.ctx"), {}, "no learner here has exactly head"),
    ("DePT", dict, dict(n_ctx=4), "'n_ctx' cannot be given for 'dept' around 'coop'.*all but class_token_position, ctx_init, length, weight"),
    ("DePT", dict, dict(learner="coop"), "read as 'dept', and learner='coop' was given"),
    ("CoOp", dict, dict(learner="dpc"), "read as 'coop', and learner='dpc' was given.*first="),
    ("CLAP", dict, dict(), "give learner='linear_probe' or 'clap'"),
    ("CLAP", dict, dict(learner="nosuch"), "read as 'linear_probe' or 'clap', and learner='nosuch' was given: give one of the two"),
    ("CLAP", replaced(prototypes=torch.ones(4, 48)), dict(learner="clap"), "each of its 4 classes has a vector, and there are 3 classnames"),
    ("CLAP", replaced(prototypes=torch.ones(3, 512)), dict(learner="clap"), "image feature of width 512"),
    ("CLAP", replaced(cache_keys=torch.ones(9, 48)), dict(learner="clap"), "'cache_keys', which none of"),
    ("TCP", replaced(meta_net__linear1__weight=torch.ones(12, 512)), {}, "image feature of width 512, .* random has 48"),
    ("TCP", replaced(meta_net__linear2__weight=torch.ones(192, 12)), {}, r"read as 'tcp', but its meta_net\.2\.weight has the shape \(192, 12\)"),
])
def test_what_fits_neither_method_nor_backbone_is_refused_in_a_sentence(clip, tmp_path, method, change, said, message):
    name, settings, _ = CASES[method]
    state = change(official_state(trained(clip, name, settings), method))
    path = write({"state_dict": OrderedDict(state), "epoch": 2}, tmp_path / "model.pth.tar-2")
    with pytest.raises(ValueError, match=message):
        load_official(path, clip, NAMES, **said)


def test_prompts_deeper_than_the_tower_and_contexts_of_other_classes_are_refused(clip, tmp_path):
    state = official_state(trained(clip, "vpt", dict(depth=4)), "VPT")
    state["image_encoder.transformer.resblocks.4.VPT_shallow"] = torch.ones(8, 32)
    with pytest.raises(ValueError, match="depth 5 do not fit in the image tower"):
        load_official(write({"state_dict": state}, tmp_path / "a"), clip, NAMES)
    state = official_state(trained(clip, "coop", dict(class_specific=True)), "CoOp")
    with pytest.raises(ValueError, match="each of its 3 classes has a context of its own, and there are 2 classnames"):
        load_official(write({"state_dict": state}, tmp_path / "b"), clip, NAMES[:2])


def test_another_backbone_of_the_same_width_and_other_words_are_noticed(clip, good, tmp_path):
    good["state_dict"]["token_prefix"] = good["state_dict"]["token_prefix"].roll(1, dims=-1)
    with pytest.warns(UserWarning, match="the backbone was not random"):
        load_official(write(good, tmp_path / "a"), clip, NAMES)
    state = official_state(trained(clip, "maple", dict(ctx_init=None, depth=2)), "MaPLe")
    with pytest.warns(UserWarning, match="the prompt did not begin with 'a photo of a'"):
        load_official(write({"state_dict": state}, tmp_path / "b"), clip, NAMES)


def tcp_file(clip, path: Path, method: str) -> Path:
    name, settings, _ = CASES[method]
    return write({"state_dict": official_state(trained(clip, name, settings), method)}, path)


@pytest.mark.filterwarnings("ignore:.*the prompt did not begin with")  # which may be said too
@pytest.mark.parametrize("method, said", [
    ("TCP, pets", dict()),
    ("TCP, pets", dict(template=PETS, after_name=".")),
    ("TCP", dict(template=PETS)),
    ("TCP, textures", dict(template=TEXTURES)),
    ("TCP, cars", dict()),
    ("TCP, actions", dict()),
    ("TCP", dict(ctx_init=DOING)),
])
def test_other_words_around_the_names_are_noticed_in_tcp(clip, tmp_path, method, said):
    path = tcp_file(clip, tmp_path / "a", method)
    with pytest.warns(UserWarning, match="the words around the class names were not those of"):
        load_official(path, clip, NAMES, **said)


@pytest.mark.parametrize("method", ["TCP, pets", "TCP, actions", "TCP"])
@pytest.mark.parametrize("classnames", [["dog"], ["dog", "blue whale", "annual crop land"], NAMES[:1], NAMES[::-1]])
def test_other_classes_are_no_other_words(clip, tmp_path, method, classnames):
    path, (_, _, said) = tcp_file(clip, tmp_path / "a", method), CASES[method]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_official(path, clip, classnames, **said).text_features().shape == (len(classnames), 48)


def test_tcp_in_another_place_of_the_tower_is_another_learner(clip, tmp_path):
    path = tcp_file(clip, tmp_path / "a", "TCP, pets")
    one, other = (load_official(path, clip, NAMES, template=PETS, layer=layer) for layer in (2, 3))
    assert (one.layer, other.layer) == (2, 3) and not torch.allclose(one.text_features(), other.text_features(), atol=1e-3)


def test_adapters_elsewhere_than_in_the_uppermost_blocks_are_refused(clip, tmp_path):
    state = official_state(trained(clip, "mma", dict(rank=4, layers=2)), "MMA")  # in the blocks 3 and 4 of four
    lower = {key.replace("er.4.", "er.2."): value for key, value in state.items()}
    gap = {key.replace("er.3.", "er.1."): value for key, value in state.items()}
    for held, said in (lower, "its highest adapter is in block 3"), (gap, r"its adapters are in the blocks \[1, 4\]"):
        path = write(checkpoint(held), tmp_path / "adapter_learner" / "model.pth.tar-5")
        with pytest.raises(ValueError, match=f"{said}.*"):
            load_official(path, clip, NAMES)


def test_the_classes_of_mmrls_training_are_its_home_and_no_others(clip, tmp_path):
    path = write(checkpoint(official_state(trained(clip, "mmrl", dict(width=24)), "MMRL")), tmp_path / "model.pth.tar-5")
    assert load_official(path, clip, NAMES).home == NAMES
    for other in load_official(path, clip, NAMES[::-1]), load_official(path, clip, NAMES, PETS):
        assert other.home == [] and other.for_classes(NAMES).home == []
        save_prompts(other, tmp_path / "prompts.safetensors")
        again = build_learner("mmrl", clip, NAMES, width=24)
        load_prompts(again, tmp_path / "prompts.safetensors")
        assert again.home == []


@pytest.mark.parametrize("method", ["DePT", "DePT with MaPLe"])
def test_classes_that_are_not_those_of_a_heads_training_are_refused_by_name(clip, tmp_path, method):
    name, settings, _ = CASES[method]
    path = write(checkpoint(official_state(trained(clip, name, settings), method)), tmp_path / "model.pth.tar-10")
    with pytest.raises(ValueError, match=f"its class 0 was not {NAMES[2]!r}.*for_classes"):
        load_official(path, clip, NAMES[::-1])
    with pytest.raises(ValueError, match="its class 2 was not 'dog'"):
        load_official(path, clip, [*NAMES[:2], "dog"])


def test_a_probe_whose_vectors_began_elsewhere_is_noticed(clip, tmp_path):
    name, settings, said = CASES["CLAP"]
    path = write(checkpoint(official_state(trained(clip, name, settings), "CLAP")), tmp_path / "model.pth.tar-300")
    with pytest.warns(UserWarning, match=f"its vector for {NAMES[2]!r} started from other text features"):
        load_official(path, clip, NAMES[::-1], **said)
    with pytest.warns(UserWarning, match="If the template 'a photo of a {}.' is"):
        load_official(path, clip, NAMES, learner="linear_probe")


def dpc_files(folder: Path, clip: FrozenCLIP, position: str = "end", **settings) -> tuple[Learner, Path, Path]:
    "A DPC, the file of its first prompt, which is CoOp's, and that of its second, which has the same names."
    generator, learner = torch.Generator().manual_seed(9), trained(clip, "coop", dict(class_token_position=position, **settings))
    first = write(checkpoint(official_state(learner, "CoOp")), folder / "first" / "model.pth.tar-20")
    before = learner.context.detach().clone()
    with torch.no_grad():
        learner.context += torch.randn(before.shape, generator=generator).half() * 0.5
        learner.context.copy_(learner.context.half())
    second = write(checkpoint(official_state(learner, "CoOp")), folder / "second" / "model.pth.tar-20")
    dpc = build_learner("dpc", clip, NAMES, around_settings=dict(class_token_position=position, **settings), weight=0.5)
    with torch.no_grad():
        dpc.inner.context.copy_(before)
        dpc.offsets["context"].copy_(learner.context - before)
    return dpc.eval(), first, second


@pytest.mark.parametrize("settings", [dict(), dict(n_ctx=3, class_specific=True, **RANDOM)])
def test_dpc_is_read_from_the_files_of_both_its_prompts(clip, tmp_path, settings):
    expected, first, second = dpc_files(tmp_path, clip, position="middle", **settings)
    given = dict(first=first, class_token_position="middle")
    loaded = load_official(second, clip, NAMES, weight=0.5, **given).eval()
    assert loaded.name == "dpc" and loaded.settings["weight"] == 0.5 and loaded.home == NAMES
    assert torch.allclose(loaded.logits(images()), expected.logits(images()), atol=1e-6, rtol=0)
    alone = load_official(second, clip, NAMES, class_token_position="middle").eval()
    whole = load_official(second.parent, clip, NAMES, weight=1.0, **given).eval()
    assert alone.name == "coop" and torch.allclose(whole.logits(images()), alone.logits(images()), atol=1e-5)
    assert not torch.allclose(loaded.logits(images()), alone.logits(images()), atol=1e-3), "the first prompt must matter"
    if not settings:
        earlier = load_official(first, clip, ["dog", "red fox"], class_token_position="middle").eval()
        assert torch.allclose(loaded.for_classes(["dog", "red fox"]).logits(images()), earlier.logits(images()), atol=1e-6)


def test_files_that_are_no_two_prompts_of_one_dpc_are_refused(clip, tmp_path):
    _, first, second = dpc_files(tmp_path, clip)
    other = write(checkpoint(official_state(trained(clip, "coop", dict(n_ctx=5, **RANDOM)), "CoOp")), tmp_path / "other" / "model.pth.tar-20")
    deep = write(checkpoint(official_state(trained(clip, "maple", dict(depth=3)), "MaPLe")), tmp_path / "deep" / "model.pth.tar-5")
    for one, begun, classnames, said in (
        (second, other, NAMES, r"shape \(4, 64\) and that of the first prompt \(5, 64\)"),
        (second, deep, NAMES, "the file of the first prompt was read as 'maple'"),
        (deep, first, NAMES, "it was read as 'maple', and DPC is read around 'coop' alone"),
        (second, first, NAMES[:2], "it was trained with 3 classes, and there are 2 classnames"),
        (second, first, NAMES[::-1], f"its class 0 was not {NAMES[2]!r}"),
    ):
        with pytest.raises(ValueError, match=said):
            load_official(one, clip, classnames, first=begun)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_official(second, clip, NAMES, first=tmp_path / "none")
