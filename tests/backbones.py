"""Nine CLIPs with random weights that are reduced from open_clip's own, and what a learner does with one."""

import copy
import math

import open_clip
import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP, set_model_preprocess_cfg
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg
from torch import Tensor

from npt.clip.frozen import FrozenCLIP
from npt.learners.base import Learner, seeded
from npt.learners.build import build_learner

DEPTH = 3  # blocks of a reduced transformer
VIT = dict(layers=DEPTH, width=32, head_width=16)
SMALL_IMAGE = {  # open_clip's name of the backbone to what its image tower is cut to
    "ViT-B-16-quickgelu": dict(VIT, image_size=32),
    "ViT-B-32-quickgelu": dict(VIT, image_size=64),
    "ViT-L-14-quickgelu": dict(VIT, image_size=28),
    "RN50-quickgelu": dict(layers=[1] * 4, width=16, image_size=64),
    "ViT-B-16-SigLIP": dict(timm_model_name="test_vit3", image_size=160),
    "EVA02-B-16": dict(timm_model_name="eva02_tiny_patch14_224", image_size=224),
    "coca_ViT-B-32": dict(VIT, image_size=64),
    "MobileCLIP-S1": dict(timm_model_name="fastvit_t8", image_size=64),
    "convnext_base_w": dict(timm_model_name="test_convnext", image_size=64),
}
NO_IMAGE_PROMPTS = {  # the backbones whose image tower has no place for prompts, and a part of the reason
    "RN50-quickgelu": "a ResNet has no sequence of tokens",
    "EVA02-B-16": "rotates keys by their place",
    "MobileCLIP-S1": "the image tower is a FastVit",
    "convnext_base_w": "the image tower is a ConvNeXt",
}
SMALL_TEXT = dict(layers=DEPTH, width=64, heads=4)
SMALL_SPACE = 96  # dimensions that text and images share
CLASSNAMES = ["cat", "red fox", "hand-held computer"]
TEXTS = [f"a photo of a {name}." for name in CLASSNAMES]


class WithoutStart(SimpleTokenizer):
    "CLIP's tokens in SigLIP's manner: no start of text, and 1 for both its end and the padding."

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Tensor:  # (K, L) int64
        length = context_length or self.context_length
        texts = [texts] if isinstance(texts, str) else texts
        rows = torch.ones(len(texts), length, dtype=torch.int64)
        for row, text in zip(rows, texts):
            words = torch.tensor([2 + token for token in self.encode(text)][: length - 1], dtype=torch.int64)
            row[: len(words)] = words
        return rows


def reduced(
    backbone: str,  # a key of `SMALL_IMAGE`
) -> FrozenCLIP:
    "A backbone of the same kind as open_clip's, small and with random weights, the same each time."
    config = copy.deepcopy(open_clip.get_model_config(backbone)) | dict(embed_dim=SMALL_SPACE)
    make = WithoutStart if "hf_tokenizer_name" in config["text_cfg"] else SimpleTokenizer
    tokenizer = make(context_length=config["text_cfg"]["context_length"])
    config["vision_cfg"] |= SMALL_IMAGE[backbone]
    config["text_cfg"] |= dict(SMALL_TEXT, vocab_size=tokenizer.vocab_size + 2)
    if "multimodal_cfg" in config:  # CoCa's decoder, which no feature comes from
        config["multimodal_cfg"] |= dict(SMALL_TEXT, layers=1)
    custom = config.pop("custom_text", False)
    with seeded(0):
        model = (CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP)(**config)
    if hasattr(trunk := getattr(model.visual, "trunk", None), "blocks"):  # the smallest transformers of timm are deep
        del trunk.blocks[DEPTH:]
    set_model_preprocess_cfg(model, vars(PreprocessCfg(size=model.visual.image_size)))
    return FrozenCLIP(model, tokenizer, backbone)


def train_a_step(
    learner: Learner,  # of the three `CLASSNAMES`
) -> Tensor:  # logits (3, 3), of one picture of noise a class
    "Run a learner forward and backward. Raises ArithmeticError where a number that must be finite is not."
    pixels = torch.randn(3, *learner.clip.preprocess_cfg.input_size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(3)
    learner.remember(learner.clip.encode_image(pixels), labels)
    seen = learner.train()(pixels if learner.learns_image else learner.clip.encode_image(pixels))
    logits = learner.eval().logits(pixels)  # later, since what a batch norm has met must not change before the backward pass
    parameters = dict(learner.named_parameters())
    if parameters:
        own = sum(part.square().mean() for part in seen.own.values() if part.is_floating_point())
        (F.cross_entropy(logits, labels) + F.cross_entropy(seen.logits, labels) + own).backward()
    wrong = [name for name, p in parameters.items() if p.grad is None or not p.grad.isfinite().all()]
    size = sum(float(p.grad.norm()) for name, p in parameters.items() if name not in wrong)
    if wrong or not logits.isfinite().all() or (parameters and not 0 < size < math.inf):
        raise ArithmeticError(f"{learner.name} on {learner.clip.name}: no finite gradient for {wrong}, their sum is {size}")
    return logits.detach()


def on_backbone(name: str, clip: FrozenCLIP) -> Learner:
    "A learner of the three `CLASSNAMES`; one that needs a teacher has its own CLIP for one. Raises ValueError where it cannot be."
    return build_learner(name, clip, CLASSNAMES, **{"teacher": clip.name} if name == "promptkd" else {})


def why_not(
    name: str,  # a registered learner
    clip: FrozenCLIP,  # as `reduced` makes it
) -> str | None:  # the reason in a sentence, or None where it works
    "Say why a learner cannot be used on a backbone, after trying."
    try:
        train_a_step(on_backbone(name, clip))
    except ValueError as error:
        return str(error)
    return None


def assert_a_sentence(reason: str) -> None:
    assert reason[0].isupper() and reason.endswith(".") and "\n" not in reason and ". " not in reason, reason


def images(clip: FrozenCLIP, count: int = 3) -> Tensor:
    return torch.randn(count, *clip.preprocess_cfg.input_size, generator=torch.Generator().manual_seed(1))


def open_clips(clip: FrozenCLIP, pixels: Tensor, texts: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    "Image features, text features and logits by the model's own calls; SigLIP's logits have a bias."
    model = clip.model
    with torch.no_grad():
        image = F.normalize(model.encode_image(pixels), dim=-1)
        text = F.normalize(model.encode_text(clip.tokenizer(texts)), dim=-1)
        if hasattr(model, "get_logits"):
            return image, text, model.get_logits(pixels, clip.tokenizer(texts))[0]
        return image, text, model.logit_scale.exp() * image @ text.T
