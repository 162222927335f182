"""Damaged and hostile files: every parser gives a value or one sentence that names the file, and writes nothing outside its folder.

Hypothesis draws what is changed, from fixed seeds. `NPT_FUZZ=60 pytest -n 0 -s tests/test_fuzz.py` goes on for about 60 seconds in all.
"""

import json
import os
import shutil
import time
import warnings
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import tar, zipped
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from miniature import make_tree, miniature_record
from PIL import Image
from random_clip import NAMES, random_clip
from safetensors.torch import save

from npt.clip.archive import read_archive
from npt.clip.layouts import _read_tensors
from npt.clip.load import load_clip
from npt.data.formats import _list_rows, _read_split_file
from npt.data.label_table import _labelled_by_table
from npt.data.opening import _open_image
from npt.data.unpack import _unpack
from npt.learners.build import build_learner
from npt.learners.official import load_official
from npt.learners.saving import load_prompts, save_prompts
from npt.objectives.objective import build_objective
from npt.study.folder import RunFolder, read_metrics
from npt.study.grid import expand, read_grid
from npt.study.restore import _read_origin
from npt.study.results import read_results
from npt.study.settings import RunSettings

SECONDS = float(os.environ.get("NPT_FUZZ", 0))  # in all; 0: a few changes of each file
FEW = 8
SENTENCES = {ValueError, OSError, FileNotFoundError, NotADirectoryError, IsADirectoryError}


# ---- files in order, and who reads them

def split_file(folder: Path) -> tuple[Path, Callable]:
    path = folder / "split_zhou_X.json"
    rows = [[f"{name}/{number}.jpg", label, name] for label, name in enumerate(("cat", "dog")) for number in range(2)]
    path.write_text(json.dumps(dict(train=rows, val=[], test=rows)))
    return path, lambda: _read_split_file(path)


def label_list(name: str, file: str) -> Callable:
    def make(folder: Path) -> tuple[Path, Callable]:
        make_tree(name, folder)
        record = miniature_record(name)
        for split in (folder / record.folder).glob("split_*"):
            split.unlink()
        return folder / record.folder / file, lambda: _list_rows(record, folder)

    return make


def label_table(folder: Path) -> tuple[Path, Callable]:
    path = folder / "labels.csv"
    path.write_text("path,label,split\na/1.jpg,cat,train\na/2.jpg,dog,test\n\"b,c/3.jpg\",dog,val\n")
    return path, lambda: _labelled_by_table(folder, "labels.csv", ["a/1.jpg", "a/2.jpg", "b,c/3.jpg"])


def config(folder: Path) -> tuple[Path, Callable]:
    path = folder / "config.json"
    path.write_text(json.dumps(dict(backbone="world", dataset="dtd", precision="fp32", template="a {}", preprocess={"size": 32})))
    return path, lambda: _read_origin(path)


def metrics(folder: Path) -> tuple[Path, Callable]:
    path = folder / "metrics.json"
    path.write_text(json.dumps(dict(
        zero_shot={"base": 90.1}, base=91.5, h=80.0, objective="ce", train_counts={"cat": 4, "dog": 4}, seconds=2.5,
        versions={"npt": "0.1"}, collapse={"base": {"nc1": 0.5, "nc2": None}})))
    return path, lambda: read_metrics(RunFolder(folder))


def results(folder: Path) -> tuple[Path, Callable]:
    path = folder / "runs.csv"
    path.write_text("learner,objective,seed,seconds,folder,h,tau\ncoop,npt,1,3.5,a,80.1,1.0\nmaple,own,2,,b,,0.1\n")
    return path, lambda: read_results(folder)


def grid(folder: Path) -> tuple[Path, Callable]:
    path = folder / "grid.yaml"
    path.write_text("runs_dir: runs\ngroup: 2\nexperiments:\n  main:\n    dataset: world/shapes\n    learner: [coop, maple]\n"
                    "    objective: [own, npt, 'ce + 0.5*lc']\n    seed: [1, 2]\n    learner_settings: {n_ctx: 4}\n    tau: 0.5\n")
    return path, lambda: expand(read_grid(path))


def prompts(folder: Path) -> tuple[Path, Callable]:
    path, learner = folder / "prompts.safetensors", build_learner("coop", load_clip("world"), NAMES)
    save_prompts(learner, path)
    return path, lambda: load_prompts(learner, path)


def weights(folder: Path) -> tuple[Path, Callable]:
    path = folder / "model.safetensors"
    path.write_bytes(save({"logit_scale": torch.ones(()), "visual.proj": torch.ones(4, 3)}))
    return path, lambda: _read_tensors(path)


def pickled_weights(folder: Path) -> tuple[Path, Callable]:
    path = folder / "model.pt"
    torch.save({"state_dict": {"logit_scale": torch.ones(()), "visual.proj": torch.ones(4, 3)}}, path)
    return path, lambda: _read_tensors(path)


def index(folder: Path) -> tuple[Path, Callable]:
    path = folder / "model.safetensors.index.json"
    (folder / "1.safetensors").write_bytes(save({"logit_scale": torch.ones(())}))
    path.write_text(json.dumps(dict(metadata={}, weight_map={"logit_scale": "1.safetensors"})))
    return path, lambda: _read_tensors(path)


def archive(folder: Path) -> tuple[Path, Callable]:
    path = folder / "archive.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).eval(), torch.ones(2, 3)).save(path)
    return path, lambda: read_archive(path)


def official(folder: Path) -> tuple[Path, Callable]:
    path, clip = folder / "model.pth.tar-5", random_clip()
    torch.save({"state_dict": {"prompt_learner.ctx": torch.ones(4, 64)}, "epoch": 5, "val_result": 80.5}, path)
    return path, lambda: load_official(path, clip, NAMES)


def packed(name: str, content: bytes) -> Callable:
    def make(folder: Path) -> tuple[Path, Callable]:
        path, into = folder / name, folder / "in"
        path.write_bytes(content)

        def unpack() -> None:
            shutil.rmtree(into, ignore_errors=True)
            _unpack(path, into, max_bytes=10**6)

        return path, unpack

    return make


def picture(kind: str, **how: object) -> Callable:
    def make(folder: Path) -> tuple[Path, Callable]:
        path = folder / f"picture.{kind.lower()}"
        Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path, kind, **how)
        return path, lambda: _open_image(path, upright=True)

    return make


MEMBERS = ("dtd/images/a.jpg", b"a picture" * 20), ("dtd/b.txt", b"b"), ("c", bytes(600))
PARSERS = {
    "split": split_file, "label table": label_table, "config": config, "metrics": metrics, "results": results, "grid": grid,
    **{f"list of {name}": label_list(name, file) for name, file in {
        "oxford_pets": "annotations/test.txt", "fgvc_aircraft": "variants.txt", "sun397": "Training_01.txt",
        "ucf101": "ucfTrainTestlist/classInd.txt", "stanford_cars": "devkit/cars_meta.mat"}.items()},
    "prompts": prompts, "weights": weights, "pickled weights": pickled_weights, "index": index, "archive": archive, "official": official,
    "tar": packed("a.tar", tar(*MEMBERS, mode="w")), "tar.gz": packed("a.tar.gz", tar(*MEMBERS)), "zip": packed("a.zip", zipped(*MEMBERS)),
    **{kind: picture(kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000")},
}


SLOW = {"list of stanford_cars": 2}  # each time, a process reads three MATLAB files


# ---- what is changed

WORDS = [b"", b"[", b"]", b"{", b"}", b'"', b"'", b",", b":", b"\n", b"\r", b"\t", b"-", b"0", b"null", b"true", b"NaN", b"-1", b"1e999",
         b"9" * 400, b"[" * 3000, b'{"a":' * 3000, b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", "\u2028".encode(), "\u202e".encode(),
         b"../", b"/etc/", b"C:\\", b"%s", b"&a [*a]", b"<<: *a", b"!!python/object/apply:os.system [echo]", b"? [", b"\xed\xa0\x80",
         b"a" * 5000, b"*", b"|", b"__proto__"]
CHANGE = st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(["set", "insert", "delete", "cut", "repeat"]), st.integers(0, 255),
                   st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from(WORDS)))


def changed(content: bytes, changes: list[tuple]) -> bytes:
    "A file's content after some changes, each at a part of its length."
    for where, kind, length, put in changes:
        at = int(where * len(content))
        if kind == "cut":
            content = content[:at]
        elif kind == "repeat":
            content = content[:at] + content[at:at + length] * 2 + content[at + length:]
        else:
            gone = dict(set=len(put), insert=0, delete=length)[kind]
            content = content[:at] + (b"" if kind == "delete" else put) + content[at + gone:]
    return content


def wrong_about(error: BaseException, path: Path, folder: Path) -> str:  # "" where nothing is
    "What is not as it should be about the answer to a damaged file."
    if type(error) not in SENTENCES:
        return f"a raw {type(error).__module__}.{type(error).__name__}"
    said = str(error)
    if path.name not in said and str(folder) not in said and not said.startswith("the grid cannot be used. "):  # which has one name
        return "it does not name the file"
    return "" if len(said.splitlines()) == 1 and len(said) < 30_000 else f"{len(said.splitlines())} lines, {len(said)} characters"


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def fuzz(check: Callable[[list], None], share: int, most: int = 100) -> None:
    "Call a check with changes: a few, or `most` and again with other seeds until the time is over, of which each parser has its share."
    until, most = time.monotonic() + SECONDS / share, most if SECONDS else min(FEW, most)
    for number in count():
        quiet = [*HealthCheck]
        seed(number)(settings(max_examples=most, deadline=None, database=None, suppress_health_check=quiet,
                              phases=[Phase.generate], report_multiple_bugs=False)(
            given(st.lists(CHANGE, min_size=1, max_size=3))(check)))()
        if time.monotonic() >= until:
            break


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_gives_a_value_or_one_sentence(parser: str, tmp_path: Path):
    folder, tried, refused = tmp_path / "own", 0, 0
    folder.mkdir()
    path, read = PARSERS[parser](folder)
    read()  # in order, it can be read
    good, beside = path.read_bytes(), everything_in(tmp_path) - {"own/in"}

    def check(changes: list) -> None:
        nonlocal tried, refused
        path.write_bytes(changed(good, changes))
        tried, start = tried + 1, time.process_time()
        try:
            read()
        except Exception as error:
            refused += 1
            wrong = wrong_about(error, path, folder)
            assert not wrong, f"{wrong}: {error!r:.1000} of {path.read_bytes()[:2000]!r}"
        assert time.process_time() - start < 5, "it takes long"
        assert {each for each in everything_in(tmp_path) if not each.startswith("own/in")} <= beside | {"own/in"}, "a file is left outside"

    fuzz(check, len(PARSERS) + 1, SLOW.get(parser, 100))
    print(f"{parser}: {tried} files, {refused} refused")


@pytest.mark.filterwarnings("ignore")
def test_an_objective_is_built_or_refused_in_one_sentence():
    tried = 0

    def check(changes: list) -> None:
        nonlocal tried
        tried += 1
        text = changed(b"ce + 0.5*lc + 1e-1*mi | kl", changes).decode(errors="replace")
        try:
            str(build_objective(text))
        except ValueError as error:
            assert type(error) is ValueError and len(str(error).splitlines()) == 1 and len(str(error)) < 60_000, f"{error!r:.500}"

    fuzz(check, len(PARSERS) + 1)
    print(f"objective: {tried} texts")


# ---- settings of a run

WILD = st.sampled_from([
    True, False, None, 0, 1, -1, 2, 2.0, 1.5, 10**30, -10**30, 2**63, 1e-300, float("inf"), float("-inf"), float("nan"), "", " ", "0", "1", "true",
    "no", "None", "~", "~/x", "~nobody-here/x", "..", "/", "a/../b", "a\0b", "a\nb", "\ud800", "<b>", "x" * 5000, [], [1], {}, {"n_ctx": 1.5}, {"depth": "3"},
    {"alpha": -5}, {"": 0}, "{}", "[]", "{", "[" * 5000, '{"n_ctx": 2, "n_ctx": 3}', '{"beta": NaN}', b"bytes", (1, 2), {1}, 1j, object, Path("x")])
GOOD = {
    "dataset": ["world/shapes", "dtd", "folder"], "learner": ["coop", "maple", "zero_shot", "tip_adapter_f"], "objective": ["npt", "ce + 0.5*lc", "own"],
    "tau": [0.5, 1], "profile": ["step"], "rounding": ["floor"], "shots": [4], "classes": ["all"], "class_split": [3], "seed": [7], "epochs": [2], "lr": [0.01],
    "precision": ["bf16"], "prepare": ["10GB"], "views": [2], "learner_settings": [{"n_ctx": 2}, '{"n_ctx": 2}'], "backbone": ["world", "RN50"],
    "pretrained": ["none", "openai"], "runs_dir": ["runs"], "sampler": ["square_root"], "measured_on": ["val"], "device": ["cuda:1"]}
SETTINGS = st.dictionaries(st.sampled_from([*RunSettings.model_fields, "epoch", ""]), WILD, max_size=2).flatmap(
    lambda wild: st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in GOOD.items()}).map(lambda good: good | wild))


def test_settings_are_right_or_refused_in_one_sentence():
    tried, refused, rounds = 0, 0, count()
    until, most = time.monotonic() + SECONDS / 6, 500 if SECONDS else 60

    def check(given: dict) -> None:
        nonlocal tried, refused
        tried += 1
        try:
            run = RunSettings(**given)
        except ValueError as error:
            refused += 1
            said = str(error)
            assert type(error) is ValueError and len(said.splitlines()) == 1 and len(said) < 5000 and "pydantic" not in said, f"{error!r:.1000}"
            return
        assert RunSettings(**json.loads(run.model_dump_json())) == run, "what is written down is what was meant"
        assert ".." not in run.folder.relative_to(run.runs_dir).parts and max(map(len, run.folder.parts[-4:])) < 256

    while not tried or time.monotonic() < until:
        seed(next(rounds))(settings(max_examples=most, deadline=None, database=None, suppress_health_check=[*HealthCheck],
                                    phases=[Phase.generate])(given(SETTINGS)(check)))()
    assert 0 < refused < tried
    print(f"settings: {tried} tried, {refused} refused")
