"""TorchScript archives: their weights are those that PyTorch reads, their program never runs, and what lies is refused."""

import json
import pickle
import random
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from torch import Tensor, nn

from npt.clip.archive import _describe_pickle, _is_archive, read_archive
from npt.clip.load import _build_model, load_clip, random_model

EXTRAS = dict(input_resolution=32, context_length=77, vocab_size=49408)
TINY = dict(embed_dim=32, vision_cfg=dict(image_size=32, layers=2, width=32, head_width=16, patch_size=16),
            text_cfg=dict(context_length=77, vocab_size=49408, width=32, heads=2, layers=2))


# ---- archives that PyTorch wrote

class Like(nn.Module):
    "Parameters and buffers under given names, to be archived; the program is beside the point."

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        inner = {}
        for name, weight in weights.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = weight
            elif weight.is_floating_point():
                self.register_parameter(first, nn.Parameter(weight))
            else:
                self.register_buffer(first, weight)
        for name, held in inner.items():
            self.add_module(name, Like(held))

    def forward(self, x):
        return x


def openai(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    "As OpenAI wrote them: half precision but for the scale, and three numbers more."
    halves = {name: w.half() if w.dim() and w.is_floating_point() else w for name, w in weights.items()}
    return halves | {name: torch.tensor(value) for name, value in EXTRAS.items()}


def archive(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module.eval(), torch.zeros(1)).save(path)
    return path


def jit_state_dict(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path).state_dict()


def same(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    assert weights.keys() == expected.keys()
    return all(weights[n].dtype == w.dtype and torch.equal(weights[n], w) for n, w in expected.items())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Iterator[None]:
    "Two backbones known to open_clip for a while: 'tiny', and 'tiny-quickgelu'."
    folder = tmp_path_factory.mktemp("configurations")
    for name, quick in ("tiny", {}), ("tiny-quickgelu", dict(quick_gelu=True)):
        (folder / f"{name}.json").write_text(json.dumps(TINY | quick))
    open_clip.add_model_config(folder)
    yield
    for name in "tiny", "tiny-quickgelu":
        del open_clip.factory._MODEL_CONFIGS[name]


@pytest.fixture(scope="module")
def tiny_archive(tiny, tmp_path_factory) -> Path:
    return archive(Like(openai(random_model("tiny-quickgelu").state_dict())), tmp_path_factory.mktemp("a") / "tiny.pt")


class Mixed(nn.Module):
    "Every kind of attribute that an archive can hold beside weights."

    def __init__(self, tied: bool):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Flatten()).half()
        self.net[0].weight.data = self.net[0].weight.data.to(memory_format=torch.channels_last)
        whole = torch.arange(12.0).reshape(3, 4)
        self.part, self.turned = nn.Parameter(whole[1:, 2:]), nn.Parameter(whole.T)
        if tied:
            self.tied = self.part
        self.scale = nn.Parameter(torch.tensor(4.6))
        self.register_buffer("kept", torch.tensor([1, 2], dtype=torch.int32))
        self.register_buffer("computed", torch.ones(2, dtype=torch.bfloat16), persistent=False)
        self.mask, self.sizes, self.names, self.nothing = torch.ones(4), [1, 2], ["a"], None
        self.table, self.rate, self.size = {"a": 1}, 0.5, 2**40
        self.frozen = nn.Parameter(torch.full((3,), 2.0, dtype=torch.float64), requires_grad=False)

    def forward(self, x):
        return self.scale * x + self.mask.sum() + self.sizes[0] + len(self.names) + self.table["a"] + self.rate + self.size


@pytest.mark.parametrize("way", ["script", "trace"])
def test_weights_are_those_that_pytorch_reads(tmp_path, way):
    mixed = Mixed(tied=way == "script").eval()  # a traced module must not share its weights
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (torch.jit.script(mixed) if way == "script" else torch.jit.trace(mixed, torch.zeros(1))).save(tmp_path / "mixed.pt")
    weights = read_archive(tmp_path / "mixed.pt")
    assert _is_archive(tmp_path / "mixed.pt") and same(weights, jit_state_dict(tmp_path / "mixed.pt"))
    assert {"part", "turned", "kept", "net.1.num_batches_tracked"} <= weights.keys() and "mask" not in weights


def test_a_scripted_clip_of_open_clip(tiny, tmp_path):
    model = random_model("tiny-quickgelu").half()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model.eval()).save(tmp_path / "clip.pt")
    assert same(read_archive(tmp_path / "clip.pt"), jit_state_dict(tmp_path / "clip.pt"))
    loaded = _build_model("tiny-quickgelu", str(tmp_path / "clip.pt"))  # its attention mask is no weight and is left out
    assert same({n: w.half() for n, w in loaded.state_dict().items()}, model.state_dict())


# ---- as a backbone's weights

def test_an_archive_loads(tiny, tiny_archive):
    clip, expected = load_clip("tiny-quickgelu", pretrained=str(tiny_archive)), jit_state_dict(tiny_archive)
    assert same(read_archive(tiny_archive), expected) and EXTRAS.keys() <= expected.keys()
    assert same(clip.model.state_dict(), {n: w.float() for n, w in expected.items() if n not in EXTRAS})
    assert clip.encode_text(["a cat"]).shape == (1, 32)


def test_an_archive_in_a_backbone_that_computes_gelu_names_the_right_one(tiny, tiny_archive, monkeypatch):
    monkeypatch.setattr("npt.clip.load.random_model", lambda _: pytest.fail("a model was built"))
    with pytest.raises(ValueError, match="QuickGELU.*'tiny' computes GELU.*Use 'tiny-quickgelu'"):
        load_clip("tiny", pretrained=str(tiny_archive))


def test_an_archive_of_another_backbone_names_its_own(tiny, tiny_archive, tmp_path):
    with pytest.raises(ValueError, match="tiny.pt.*fits none of OpenAI's"):
        load_clip("ViT-S-32", pretrained=str(tiny_archive))
    with torch.device("meta"):
        state = open_clip.create_model("RN50-quickgelu", device="meta").state_dict()
    zeros = openai({name: torch.zeros(w.shape, dtype=torch.half if w.dim() else w.dtype) for name, w in state.items()})
    path = archive(Like(zeros), tmp_path / "RN50.pt")
    for backbone, why in ("tiny-quickgelu", "another backbone than 'tiny-quickgelu', where"), ("ViT-L-14", "computes GELU"):
        with pytest.raises(ValueError, match=f"RN50.pt.*{why}.*Use 'RN50-quickgelu'"):
            load_clip(backbone, pretrained=str(path))


# ---- archives that lie

def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def value(held: object) -> bytes:
    "A number, a tuple of numbers or the like, as pickle writes it."
    return pickle.dumps(held, protocol=2)[2:-1]


def called(name: str, *arguments: bytes) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def tensor(key="0", numel=6, offset=0, size=(2, 3), stride=(3, 1), kind="torch FloatStorage", storage="storage") -> bytes:
    named = b"c" + kind.replace(" ", "\n").encode() + b"\n"
    place = b"(" + text(storage) + named + text(key) + text("cpu") + value(numel) + b"tQ"
    return called("torch._utils _rebuild_tensor_v2", place, value(offset), value(size), value(stride), value(False),
                  called("collections OrderedDict"))


def module(name="__torch__ M", **attributes: bytes) -> bytes:
    items = b"".join(text(key) + held for key, held in attributes.items())
    return b"c" + name.replace(" ", "\n").encode() + b"\n)\x81}(" + items + b"ub"


CODE = 'class M(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n  training : bool\n'
NUMBERS = torch.arange(6.0).numpy().tobytes()


def write(path: Path, pickled: bytes, packed=(), without=(), **others: bytes | str) -> Path:
    members = {"data.pkl": b"\x80\x02" + pickled + b".", "data/0": NUMBERS, "constants.pkl": b"\x80\x02).",
               "code/__torch__.py": CODE, "version": "3"} | others
    with zipfile.ZipFile(path, "w") as file:
        for name, held in members.items():
            if name not in without:
                file.writestr(f"a/{name}", held, zipfile.ZIP_DEFLATED if name in packed else zipfile.ZIP_STORED)
    return path


def test_what_is_written_here_by_hand_can_be_read(tmp_path):
    path = write(tmp_path / "good.pt", module(w=tensor(), training=value(False), sizes=value([1, 2])))
    assert same(read_archive(path), {"w": torch.arange(6.0).reshape(2, 3)})
    path = write(tmp_path / "turned.pt", module(w=tensor(size=(2, 2), stride=(1, 3), offset=1), other=tensor()))
    assert same(read_archive(path), {"w": torch.tensor([[1.0, 4.0], [2.0, 5.0]])})
    path = write(tmp_path / "old.pt", module(w=tensor()), **{"code/__torch__.py": CODE.replace("  __buffers__ = []\n", "")})
    assert same(read_archive(path), {"w": torch.arange(6.0).reshape(2, 3)}), "PyTorch wrote no list of buffers at first"


def test_the_other_byte_order(tmp_path):
    other = {"little": "big", "big": "little"}[sys.byteorder]
    swapped = torch.arange(6.0).numpy().byteswap().tobytes()
    path = write(tmp_path / "other.pt", module(w=tensor()), **{"data/0": swapped, "byteorder": other})
    assert same(read_archive(path), {"w": torch.arange(6.0).reshape(2, 3)})


@pytest.mark.parametrize("wrong, words", [
    (dict(size=(3, 3)), r"\(3, 3\) does not lie inside"),
    (dict(offset=1), "does not lie inside"),
    (dict(offset=-1), "does not lie inside"),
    (dict(stride=(-3, 1)), "does not lie inside"),
    (dict(stride=(4, 1)), "does not lie inside"),
    (dict(stride=(0, 0), size=(2**20, 2**20)), "does not lie inside"),
    (dict(size=(1, 6), stride=(2**70, 1)), "does not lie inside"),
    (dict(size=(0, 2**70), stride=(0, 0)), "does not lie inside"),
    (dict(size=(-2, -3)), "does not lie inside"),
    (dict(size=(6,)), "does not lie inside"),
    (dict(size=(1,) * 99, stride=(1,) * 99), "does not lie inside"),
    (dict(size=("2", 3)), "calls what no weights need"),
    (dict(numel=7), "length of 7 numbers"),
    (dict(numel=2**40, size=(2**40,), stride=(1,)), "length of 1099511627776 numbers"),
    (dict(numel=-6, size=(), stride=()), "does not lie inside|length of"),
    (dict(numel=12, kind="torch HalfStorage", key="1"), "lacks the member 'data/1'"),
    (dict(kind="torch DoubleStorage"), "length of 6 numbers"),
    (dict(key="../data/0"), "lacks the member"),
    (dict(key="/etc/passwd"), "lacks the member"),
    (dict(kind="torch QInt8Storage"), "QInt8Storage"),
    (dict(storage="file"), "storage of an unknown kind"),
], ids=str)
def test_a_tensor_that_is_not_where_it_should_be_is_refused(tmp_path, wrong, words):
    with pytest.raises(ValueError, match=f"lying.pt.*({words}).*safetensors"):
        read_archive(write(tmp_path / "lying.pt", module(w=tensor(**wrong))))


@pytest.mark.parametrize("pickled, change, words", [
    (module(w=tensor()), dict(without=["data/0"]), "lacks the member 'data/0'"),
    (module(w=tensor()), dict(without=["data.pkl"]), "no data.pkl"),
    (module(w=tensor()), dict(without=["code/__torch__.py"]), "lacks the member 'code/__torch__.py'"),
    (module("__torch__ Other", w=tensor()), dict(), "no class '__torch__ Other'"),
    (module("__torch__...etc.passwd M", w=tensor()), dict(), "lacks the member"),
    (module(w=tensor()), dict(packed=["data/0"]), "packed"),
    (module(w=tensor()), {"code/__torch__.py": b"0" * 70_000_000, "packed": ["code/__torch__.py"]}, "unpacks to too much"),
    (module(w=tensor()), {"byteorder": b"\xff"}, "decode"),
    (module(m=b"c__torch__\nM\n)\x81q\x00}(" + text("m") + b"h\x00ub"), dict(), "too many"),
    (b"c__torch__\nM\n)\x81" + b"q\x00}(" + text("m") + b"h\x00" + text("n") + b"h\x00ub", dict(), "too many"),
    (value({"w": 1}), dict(), "no module"),
    (module(w=tensor()) + b"0", dict(), "instruction POP"),
    (b"", dict(), "IndexError|pop from"),
    (b"t", dict(), "pop from"),
    (b"r\xff\xff\xff\x7f", dict(), "out of range"),
    (b"h\x07", dict(), "7"),
    (value("a") + value(1) + b"s", dict(), "IndexError|out of range|pop"),
    (value([]) + value("a") + value(1) + b"s", dict(), "no dictionary"),
    (value({}) + value(1) + b"a", dict(), "no list"),
    (value(1) + value({}) + b"b", dict(), "no module"),
    (module() + value(1) + b"b", dict(), "no module"),
    (b"c__torch__\nM\n" + value((1,)) + b"\x81", dict(), "no module"),
    (value("os system") + b")R", dict(), "calls what"),
    (value("torch FloatStorage") + b")\x81", dict(), "no module"),
    (b"X\xff\xff\xff\xffabc", dict(), "expected"),
], ids=lambda value: repr(value)[:40])
def test_what_does_not_fit_together_is_refused(tmp_path, pickled, change, words):
    with pytest.raises(ValueError, match=f"lying.pt.*({words}).*safetensors"):
        read_archive(write(tmp_path / "lying.pt", pickled, **change))


def test_a_member_twice_is_refused(tmp_path):
    path = write(tmp_path / "twice.pt", module(w=tensor()))
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("a/data/0", NUMBERS)
    with pytest.raises(ValueError, match="twice"):
        read_archive(path)


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", range(6))
def test_a_program_in_the_pickle_does_not_run(tiny, tiny_archive, tmp_path, protocol):
    trace, other = tmp_path / "ran", tmp_path / "would_run"
    pickle.loads(pickle.dumps(Hostile(other), protocol))
    assert other.exists(), "unpickled, it would run"
    with zipfile.ZipFile(tiny_archive) as good, zipfile.ZipFile(tmp_path / "hostile.pt", "w") as bad:
        for name in good.namelist():
            hostile = pickle.dumps(Hostile(trace), protocol) if name.endswith("/data.pkl") else good.read(name)
            bad.writestr(name, hostile)
    for backbone in "tiny-quickgelu", "tiny":
        with pytest.raises(ValueError, match="hostile.pt.*run any program"):
            load_clip(backbone, pretrained=str(tmp_path / "hostile.pt"))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["os system", "builtins eval", "builtins getattr", "torch load", "torch.jit load",
                                  "torch._utils _rebuild_parameter", "copyreg _reconstructor", "operator attrgetter"])
def test_no_name_is_looked_up(name):
    with pytest.raises(ValueError, match=name):
        _describe_pickle(b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n.")


def test_a_pickle_cannot_take_forever():
    "A tuple of twice a tuple of twice a tuple ... has 2^200 leaves; hashed, it would take as long."
    deep = value(1)
    for number in range(200):
        deep += b"q" + bytes([number]) + b"h" + bytes([number]) + b"\x86"
    assert _describe_pickle(b"\x80\x02}" + deep + value(1) + b"s.") == {}


def nested(length: int, name_length: int) -> bytes:
    "A module that holds itself under a long name, and so many attributes that the file has about that length."
    many = b"".join(text(f"a{number}") + b"N" for number in range(length // 10))
    return b"c__torch__\nM\n)\x81q\x00}(" + text("m" * name_length) + b"h\x00" + many + b"ub"


def shared(modules: int, attributes: int) -> bytes:
    "Very many modules that are all given one dictionary of very many attributes."
    held = b"}q\x00(" + b"".join(text(f"a{number}") + b"N" for number in range(attributes)) + b"u"
    inner = b"".join(text(f"m{number}") + b"c__torch__\nM\n)\x81h\x00b" for number in range(modules))
    return b"c__torch__\nM\n)\x81}(" + text("first") + held + inner + b"ub"


@pytest.mark.parametrize("pickled, members", [
    (nested(300, 600), {}),
    (nested(10**6, 10), {}),
    (shared(20_000, 20_000), {}),
    (module(w=tensor()), {"code/__torch__.py": b"0" * 3_000_000, "packed": ["code/__torch__.py"]}),
    (tensor(size=(1,) * 30_000) + tensor() * 3000, {}),
], ids=["a long name", "many attributes", "one dictionary", "packed text", "a long tuple"])
def test_reading_takes_time_as_the_file_is_long(tmp_path: Path, pickled: bytes, members: dict):
    path = write(tmp_path / "slow.pt", pickled, **members)
    start = time.process_time()
    with pytest.raises(ValueError, match="slow.pt"):
        read_archive(path)
    assert time.process_time() - start < 0.5 + 5 * path.stat().st_size / 10**6


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_member_that_is_packed_as_pytorch_never_does_is_refused(tmp_path: Path, kind: int):
    path = write(tmp_path / "lzma.pt", module(w=tensor()), without=["code/__torch__.py"])
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/code/__torch__.py", CODE, kind)
    with pytest.raises(ValueError, match="lzma.pt.*packed in a way that PyTorch does not use"):
        read_archive(path)


def test_bytes_changed_at_random_give_weights_or_a_value_error(tiny_archive, tmp_path):
    good = write(tmp_path / "good.pt", module(w=tensor(), m=module(w=tensor(size=(6,), stride=(1,))))).read_bytes()
    chance, refused = random.Random(0), 0
    for _ in range(600):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 3)):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        (tmp_path / "bad.pt").write_bytes(bad[: chance.choice([len(bad), chance.randrange(len(bad))])])
        _is_archive(tmp_path / "bad.pt")
        try:
            read_archive(tmp_path / "bad.pt")
        except ValueError:
            refused += 1
    assert refused > 400
