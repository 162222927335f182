"""The published methods written out at full length, token by token and block by block, and learners that were trained a little."""

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from random_clip import NAMES, TOKENIZER, images
from torch import Tensor

from npt.clip.frozen import FrozenCLIP
from npt.learners.base import Learner
from npt.learners.build import build_learner, learner_settings

SEEN = torch.tensor([2, 0, 1, 1, 2])  # labels of the training images
OTHERS = ["dog", "red fox"]  # the second is one of NAMES
PETS = "a photo of a {}, a type of pet."


def trained(clip: FrozenCLIP, name: str, settings: dict, seed: int = 0, steps: float = 0.01, names: list[str] = NAMES) -> Learner:
    "A learner that has seen its training images, and whose parameters have left where they start."
    seeds = dict(seed=seed) if "seed" in learner_settings(name) else {}
    learner = build_learner(name, clip, names, **settings, **seeds)
    learner.remember(clip.encode_image(images(5, seed=3)), SEEN)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter += steps * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return learner.eval()


def literal_text(clip, sentence, context, deep, position="end", blocks=None) -> Tensor:
    "One class: 77 tokens, vector by vector and block by block; `deep` says which vectors enter a block."
    model, name, n = clip.model, sentence[1], len(context)
    tokens = TOKENIZER([f"{sentence[0]} {name}."])
    rest = model.token_embedding(tokens)[0]
    words = len(TOKENIZER.encode(name))
    before = dict(end=n, middle=n // 2, front=0)[position]
    if position == "end":
        x = torch.cat([rest[:1], context, rest[1 + n:]])
    else:
        called, tail = rest[1 + n : 1 + n + words], rest[1 + n + words:]
        x = torch.cat([rest[:1], context[:before], called, context[before:], tail])
    x = (x + model.positional_embedding)[None]
    for number, block in enumerate(blocks or model.transformer.resblocks):
        if number in deep:
            x = torch.cat([x[:, :1], deep[number][None], x[:, 1 + n:]], dim=1)
        x = block(x, attn_mask=model.attn_mask)
    return F.normalize(model.ln_final(x)[0, tokens.argmax()] @ model.text_projection, dim=-1)


def literal_image(clip, pixels, prompts, blocks=None, unit=True) -> Tensor:
    "The vision transformer block by block, prompts last among its tokens."
    tower, n = clip.model.visual, len(prompts[0]) if prompts else 0
    x = tower.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], dim=1) + tower.positional_embedding
    if prompts:
        x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], dim=1)
    x = tower.ln_pre(x)
    for number, block in enumerate(blocks or tower.transformer.resblocks):
        if 1 <= number < len(prompts):
            x = torch.cat([x[:, :-n], prompts[number].expand(len(x), -1, -1)], dim=1)
        x = block(x)
    features = tower.ln_post(x[:, 0]) @ tower.proj
    return F.normalize(features, dim=-1) if unit else features


def in_words(learner) -> list[str]:
    return [text.replace("_", " ") for text in learner.classnames]


def written_text(clip, sentence, blocks=None) -> Tensor:
    "The text feature of a sentence with no learned vectors in it."
    return literal_text(clip, sentence, clip.embed(TOKENIZER(sentence[0]))[0, 1:5], {}, blocks=blocks)


def blended(learner, tower: str, features: Tensor) -> Tensor:
    "CoPrompt's network behind a tower, on features of any length."
    first, second = getattr(learner, f"{tower}_network")[0].weight, getattr(learner, f"{tower}_network")[2].weight
    made, share = (features @ first.T).clamp(min=0) @ second.T, dict(image="ratio", text="ratio_text")[tower]
    return F.normalize(learner.settings[share] * made.clamp(min=0) + (1 - learner.settings[share]) * features, dim=-1)


def literal_prompts(learner, pixels) -> Tensor:
    "CoOp, CoCoOp, VPT, IVLP, MaPLe and CoPrompt."
    clip, name, settings = learner.clip, learner.name, learner.settings
    classes = in_words(learner)
    lead = "a photo of a" if name == "vpt" or settings["ctx_init"] else "X " * settings["n_ctx"]
    deep = list(getattr(learner, "deep_text", []))
    prompts = list(getattr(learner, "image_prompts", []))
    if name in ("maple", "coprompt"):
        text = [learner.context, *deep]
        prompts = [p @ c.weight.T + c.bias for p, c in zip(text, learner.couplings, strict=True)]
    image, scale, deep = literal_image(clip, pixels, prompts), clip.logit_scale, dict(enumerate(deep, start=1))
    where = settings.get("class_token_position", "end")

    def text(context: Tensor) -> Tensor:
        own = context if context.dim() == 3 else [context] * len(classes)
        return torch.stack([literal_text(clip, (lead, called), c, deep, where) for called, c in zip(classes, own)])

    if name == "coprompt":
        image, vectors = (blended(learner, tower, 7 * features) for tower, features in (("image", image), ("text", text(learner.context))))
        return scale * image @ vectors.T
    if name != "cocoop":
        return scale * image @ text(clip.embed(TOKENIZER(lead))[0, 1:5] if name == "vpt" else learner.context).T
    first, _, second = learner.meta_net
    shifts = (image @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    return torch.stack([scale * text(learner.context + shift) @ feature for shift, feature in zip(shifts, image)])


def literal_tcp(learner, pixels) -> Tensor:
    clip, settings = learner.clip, learner.settings
    lead = settings["ctx_init"] or "X " * settings["n_ctx"]
    tail = ", a type of pet" if learner.template == PETS else ""
    ending = tail if settings["after_name"] is None else settings["after_name"].removesuffix(".")
    first, _, second = learner.meta_net
    text = []
    for name in in_words(learner):
        frozen = written_text(clip, ("a photo of a", name + tail))
        hidden = frozen @ first.weight.T + first.bias
        vectors = (hidden * torch.sigmoid(1.702 * hidden)) @ second.weight.T + second.bias
        deep = {settings["layer"]: vectors.reshape(settings["n_ctx"], 64)}
        text.append(literal_text(clip, (lead, name + ending), learner.context, deep))
    return clip.logit_scale * literal_image(clip, pixels, []) @ torch.stack(text).T


def written_classes(learner, blocks=None) -> Tensor:
    return torch.stack([written_text(learner.clip, ("a photo of a", name), blocks) for name in in_words(learner)])


def literal_clip_adapter(learner, pixels) -> Tensor:
    "As published: on features of any length."
    clip, ratio, (first, _, second, _) = learner.clip, learner.settings["ratio"], learner.adapter
    frozen = 7 * literal_image(clip, pixels, [])
    adapted = ((frozen @ first.weight.T).clamp(min=0) @ second.weight.T).clamp(min=0)
    image = F.normalize(ratio * adapted + (1 - ratio) * frozen, dim=-1)
    return clip.logit_scale * image @ written_classes(learner).T


def literal_tip_adapter(learner, pixels) -> Tensor:
    "Image by image, class by class and vote by vote."
    clip, alpha, beta = learner.clip, learner.settings["alpha"], learner.settings["beta"]
    keys = learner.keys if learner.name == "tip_adapter_f" else literal_image(clip, images(5, seed=3), [])
    text, rows = written_classes(learner), []
    for feature in literal_image(clip, pixels, []):
        row = clip.logit_scale * text @ feature
        for key, label in zip(keys, SEEN.tolist(), strict=True):
            voted = torch.tensor([float(name == NAMES[label]) for name in learner.classnames])
            row = row + alpha * torch.exp(-beta * (1 - key @ feature)) * voted
        rows.append(row)
    return torch.stack(rows)


def low_rank_block(block, update, scale):
    "A block with its three projections one by one, their updates beside them, and its heads one by one."
    def run(x: Tensor, attn_mask: Tensor | float = 0.0) -> Tensor:
        attn, normed = block.attn, block.ln_1(x)
        parts = zip(attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3), update.down, update.up, strict=True)
        projected = [normed @ w.T + b + scale * (normed @ down.T) @ up.T for w, b, down, up in parts]
        heads = []
        for q, k, v in zip(*(part.chunk(attn.num_heads, dim=-1) for part in projected), strict=True):
            heads.append((q @ k.mT / q.shape[-1] ** 0.5 + attn_mask).softmax(dim=-1) @ v)
        x = x + torch.cat(heads, dim=-1) @ attn.out_proj.weight.T + attn.out_proj.bias
        return x + block.mlp(block.ln_2(x))

    return run


def literal_lora(learner, pixels) -> Tensor:
    "The updates beside the frozen weights, as published, and never added to them."
    clip, settings, updates = learner.clip, learner.settings, dict(learner.updates.items())
    scale = settings["alpha"] / settings["rank"] ** 0.5
    towers = dict(text=clip.model.transformer, image=clip.model.visual.transformer)
    blocks = {tower: [low_rank_block(block, update, scale)
                      for block, update in zip(towers[tower].resblocks, updates[tower], strict=True)] for tower in updates}
    image = literal_image(clip, pixels, [], blocks.get("image"))
    return clip.logit_scale * image @ written_classes(learner, blocks.get("text")).T


def literal_zero_shot(learner, pixels) -> Tensor:
    return learner.clip.logit_scale * literal_image(learner.clip, pixels, []) @ written_classes(learner).T


def literal_linear_probe(learner, pixels) -> Tensor:
    "Image by image and class by class."
    rows = []
    for feature in literal_image(learner.clip, pixels, []):
        rows.append(torch.stack([learner.clip.logit_scale * (feature @ vector) / vector.square().sum().sqrt() for vector in learner.vectors]))
    return torch.stack(rows)


def literal_step_sizes(features: Tensor, text: Tensor) -> tuple[float, float]:
    "LP++'s, of weights and of blends, by singular values and a loop over the classes."
    seen = features.detach().numpy()
    largest = np.linalg.svd(seen, compute_uv=False)[0] ** 2
    return 4 * len(seen) / largest, len(seen) / (4 * max(sum((seen @ one) ** 2) for one in text.detach().numpy()))


def literal_lp_plus_plus(learner, pixels) -> Tensor:
    "Weights, biases and blends in their own units, image by image and class by class."
    text, rows = written_classes(learner), []
    of_weight, of_alpha = (size**0.5 for size in literal_step_sizes(literal_image(learner.clip, images(5, seed=3), []), text))
    for feature in literal_image(learner.clip, pixels, []):
        row = [of_weight * (w @ feature + b) + of_alpha * a * (t @ feature) for w, b, a, t in zip(learner.weight, learner.bias, learner.alpha, text)]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def literal_turned_etf(text: Tensor) -> Tensor:
    "The simplex ETF nearest to unit vectors: the published formula, turned by the singular vectors of its product with them."
    size, dim = text.shape
    corners = np.zeros((size, dim))
    corners[:, :size] = (size / (size - 1)) ** 0.5 * (np.eye(size) - 1 / size)
    left, _, right = np.linalg.svd(corners.T @ text.detach().numpy())
    return torch.as_tensor(corners @ left @ right)


def literal_etf_head(learner, pixels) -> Tensor:
    "A matrix before class vectors that stay; a random ETF is taken as it was drawn."
    head = literal_turned_etf(written_classes(learner)) if learner.settings["start"] == "zero_shot" else learner.head
    rows = []
    for feature in literal_image(learner.clip, pixels, []):
        changed = torch.stack([row @ feature for row in learner.map.weight])
        rows.append(learner.clip.logit_scale * head @ changed / changed.square().sum().sqrt())
    return torch.stack(rows)


def slowed(x: Tensor, factor: float) -> Tensor:
    "The same numbers, of which the gradient is multiplied by a factor on its way back."
    y = 1.0 * x
    if y.requires_grad:
        y.register_hook(lambda gradient: factor * gradient)
    return y


def adapted_block(block, ends, shared, scale):
    "A block with MMA's adapter beside it: the gradient is made small going out and large going in, as published."
    def run(x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        given = ResidualAttentionBlock.forward(block, x, attn_mask=attn_mask)
        down, up = ends.down, ends.up
        y = block.ln_1(slowed(x, scale)) @ down.weight.T + down.bias
        y = (y.clamp(min=0) @ shared.weight.T + shared.bias).clamp(min=0)
        return given + slowed((y @ up.weight.T + up.bias) * scale, 1 / scale)

    return run


def literal_mma(learner, pixels) -> Tensor:
    clip, settings = learner.clip, learner.settings
    towers = []
    for tower, ends in (clip.model.transformer, learner.text_ends), (clip.model.visual.transformer, learner.image_ends):
        blocks = list(tower.resblocks)
        for i, (pair, shared) in enumerate(zip(ends, learner.shared, strict=True)):
            place = len(blocks) - len(learner.shared) + i
            blocks[place] = adapted_block(blocks[place], pair, shared, settings["scale"])
        towers.append(blocks)
    text = torch.stack([written_text(clip, (settings["ctx_init"], name), towers[0]) for name in in_words(learner)])
    return clip.logit_scale * literal_image(clip, pixels, [], towers[1]) @ text.T


def joined_text(clip, sentence, entering) -> Tensor:
    "One class: 77 tokens, and more from the block on that vectors join."
    model, tokens = clip.model, TOKENIZER([sentence])
    x, n = (model.token_embedding(tokens) + model.positional_embedding), len(next(iter(entering.values())))
    for number, block in enumerate(model.transformer.resblocks):
        if number in entering:
            x = torch.cat([x[:, :1], entering[number][None], x[:, 1 if x.shape[1] == 77 else 1 + n:]], dim=1)
        x = block(x, attn_mask=torch.full((x.shape[1],) * 2, -torch.inf, dtype=x.dtype).triu(1))
    return F.normalize(model.ln_final(x)[0, int(tokens.argmax()) + n] @ model.text_projection, dim=-1)


def joined_image(clip, pixels, entering, projection) -> tuple[Tensor, Tensor]:
    "The two features of MMRL, its tokens behind the class token."
    tower, n = clip.model.visual, len(next(iter(entering.values())))
    x = tower.conv1(pixels).flatten(2).transpose(1, 2)
    x = tower.ln_pre(torch.cat([tower.class_embedding.expand(len(x), 1, -1), x], dim=1) + tower.positional_embedding)
    patches = x.shape[1]
    for number, block in enumerate(tower.transformer.resblocks):
        if number in entering:
            x = torch.cat([x[:, :1], entering[number].expand(len(x), -1, -1), x[:, 1 if x.shape[1] == patches else 1 + n:]], dim=1)
        x = ResidualAttentionBlock.forward(block, x)
    x = tower.ln_post(x)
    return F.normalize(x[:, 0] @ tower.proj, dim=-1), F.normalize(x[:, 1 : 1 + n].mean(dim=1) @ projection, dim=-1)


def literal_mmrl_features(learner, pixels) -> tuple[Tensor, Tensor, Tensor]:  # text, image, and image by the tokens
    clip, layers = learner.clip, len(learner.to_text)

    def entering(maps, blocks):
        return {blocks - layers + i: learner.tokens @ one.weight.T + one.bias for i, one in enumerate(maps)}

    in_text, in_image = (entering(maps, len(tower.resblocks)) for maps, tower in (
        (learner.to_text, clip.model.transformer), (learner.to_image, clip.model.visual.transformer)))
    template = learner.template
    text = torch.stack([joined_text(clip, template.replace("{}", name), in_text) for name in in_words(learner)])
    return text, *joined_image(clip, pixels, in_image, learner.projection)


def literal_mmrl(learner, pixels) -> Tensor:
    text, image, of_tokens = literal_mmrl_features(learner, pixels)
    alpha = learner.settings["alpha"] if learner.classnames == NAMES else 1
    return learner.clip.logit_scale * (alpha * image @ text.T + (1 - alpha) * of_tokens @ text.T)


def literal_promptkd_image(learner, pixels) -> Tensor:
    "PromptKD's features in its teacher's space, number by number of the hidden layer; in training its batch norm sees the batch alone."
    features = literal_image(learner.clip, pixels, list(learner.image_prompts), unit=False)
    first, norm, _, second = learner.projection
    columns = []
    for j, column in enumerate((features @ first.weight.T + first.bias).T):
        mean = sum(column) / len(column) if learner.training else norm.running_mean[j]
        variance = sum((one - mean) ** 2 for one in column) / len(column) if learner.training else norm.running_var[j]
        columns.append((norm.weight[j] * (column - mean) / (variance + 1e-5) ** 0.5 + norm.bias[j]).clamp(min=0))
    projected = torch.stack(columns, dim=1) @ second.weight.T + second.bias
    return projected / projected.square().sum(1, keepdim=True) ** 0.5


def literal_promptkd(learner, pixels) -> Tensor:
    "Of a student of the zero-shot CLIP that it is itself."
    return learner.clip.logit_scale * literal_promptkd_image(learner, pixels) @ written_classes(learner).T


LITERAL = {"linear_probe": literal_linear_probe, "clap": literal_linear_probe, "lp_plus_plus": literal_lp_plus_plus, "etf_head": literal_etf_head,
           "zero_shot": literal_zero_shot, "tcp": literal_tcp, "clip_adapter": literal_clip_adapter, "tip_adapter": literal_tip_adapter,
           "tip_adapter_f": literal_tip_adapter, "lora": literal_lora, "mma": literal_mma, "mmrl": literal_mmrl, "promptkd": literal_promptkd}


def literal_logits(learner, pixels) -> Tensor:
    return LITERAL.get(learner.name, literal_prompts)(learner, pixels)
