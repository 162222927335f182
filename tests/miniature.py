"""The fifteen datasets in miniature: a few classes and tiny pictures, in the true folders, label files and archives."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from npt._files import write_bytes, write_text
from npt.data.datasets import DATASETS, DatasetRecord, Download
from npt.data.download import _digest

PUBLISHED = [name for name, record in DATASETS.items() if record.folder]
PER_CLASS = 10  # pictures of a class: 5 to train, 2 to validate, 3 to test where the split is made from them
CLASSES = {
    "caltech101": ["BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "accordion", "airplanes", "barrel"],
    "food101": ["apple_pie", "baby_back_ribs", "baklava", "beef_carpaccio"],
    "dtd": ["banded", "blotchy", "braided", "bubbly", "bumpy"],
    "eurosat": ["AnnualCrop", "Forest", "HerbaceousVegetation", "SeaLake"],
    "oxford_flowers": {"1": "pink primrose", "2": "hard-leaved pocket orchid", "3": "canterbury bells", "4": "sweet pea"},
    "oxford_pets": ["Abyssinian", "american_bulldog", "Egyptian_Mau", "great_pyrenees"],
    "stanford_cars": ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi TT Hatchback 2011",
                      "Ram C/V Cargo Van Minivan 2012"],
    "fgvc_aircraft": ["707-320", "737-200", "A300B4", "Cessna 172"],
    "sun397": ["/a/abbey", "/a/apartment_building/outdoor", "/c/church/indoor", "/z/zen_garden"],
    "ucf101": ["ApplyEyeMakeup", "BoxingPunchingBag", "YoYo", "HandstandPushups"],
    "imagenet": ["n01440764", "n01443537", "n01484850", "n02012849"],
    "imagenet_v2": ["0", "1", "2", "10"],
    "imagenet_sketch": ["n01440764", "n01443537", "n01484850", "n02012849"],
    "imagenet_a": ["n01498041", "n01531178", "n01534433", "n01558993"],
    "imagenet_r": ["n01443537", "n01484850", "n01494475", "n01498041"],
}
CLASSNAMES = {  # what CoOp's loaders make of them, in the order of the labels
    "caltech101": ["face", "leopard", "accordion", "airplane", "barrel"],
    "food101": CLASSES["food101"],
    "dtd": CLASSES["dtd"],
    "eurosat": ["Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Sea or Lake"],
    "oxford_flowers": list(CLASSES["oxford_flowers"].values()),
    "oxford_pets": ["abyssinian", "american_bulldog", "egyptian_mau", "great_pyrenees"],
    "stanford_cars": ["2000 AM General Hummer SUV", "2012 Acura RL Sedan", "2011 Audi TT Hatchback",
                      "2012 Ram C/V Cargo Van Minivan"],
    "fgvc_aircraft": CLASSES["fgvc_aircraft"],
    "sun397": ["abbey", "outdoor apartment_building", "indoor church", "zen_garden"],
    "ucf101": ["Apply_Eye_Makeup", "Boxing_Punching_Bag", "Yo_Yo", "Handstand_Pushups"],
    "imagenet": ["tench", "goldfish", "great white shark", "crane bird"],
    "imagenet_v2": ["tench", "goldfish", "great white shark", "brambling"],
    "imagenet_sketch": ["tench", "goldfish", "great white shark", "crane bird"],
    "imagenet_a": ["stingray", "goldfinch", "junco", "American robin"],
    "imagenet_r": ["goldfish", "great white shark", "hammerhead shark", "stingray"],
}  # fmt: skip


def picture(label: int, number: int) -> bytes:
    "A small JPEG whose colour tells its class."
    pixels = np.random.default_rng([label, number]).integers(0, 60, (24, 32, 3), np.uint8)
    pixels[..., label % 3] += np.uint8(60 + 40 * (label // 3))
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return data.getvalue()


def write_pictures(folder: Path, label: int, pattern: str = "image_{:04d}.jpg", count: int = PER_CLASS) -> list[str]:
    "Write the pictures of one class; gives their names."
    names = [pattern.format(number) for number in range(1, count + 1)]
    for number, name in enumerate(names):
        write_bytes(picture(label, number), folder / name)
    return names


def class_folders(record: DatasetRecord, folder: Path) -> None:
    for label, name in enumerate(CLASSES[record.name]):
        write_pictures(folder / record.images / name, label)
    write_text("not a class", folder / record.images / ".DS_Store")


def flowers(record: DatasetRecord, folder: Path) -> None:
    names = CLASSES[record.name]
    labels = np.array([[1 + number % len(names) for number in range(PER_CLASS * len(names))]], np.uint8)
    for number, label in enumerate(labels[0], start=1):
        write_bytes(picture(int(label), number), folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": labels})
    write_text(json.dumps(dict(reversed(names.items()))), folder / "cat_to_name.json")


def pets(record: DatasetRecord, folder: Path) -> None:
    lists = {"trainval.txt": [], "test.txt": []}
    for label, name in enumerate(CLASSES[record.name], start=1):
        for place, image in enumerate(write_pictures(folder / "images", label, name + "_{}.jpg")):
            lists["trainval.txt" if place < 7 else "test.txt"].append(f"{image[:-4]} {label} {1 + label % 2} {label}")
    for name, lines in lists.items():
        write_text("\n".join(lines) + "\n", folder / "annotations" / name)


def cars(record: DatasetRecord, folder: Path) -> None:
    names = CLASSES[record.name]
    kind = [(field, object) for field in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for split, images in ("train", 7), ("test", 3):
        annotations = np.zeros((1, images * len(names)), kind)
        for number in range(annotations.size):
            label, file = number % len(names) + 1, f"{number + 1:05d}.jpg"
            write_bytes(picture(label, number), folder / f"cars_{split}" / file)
            annotations[0, number] = (1, 1, 9, 9, label, file)
        (folder / "devkit").mkdir(exist_ok=True)
        path = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        savemat(folder / path, {"annotations": annotations})
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([names], object)})


def aircraft(record: DatasetRecord, folder: Path) -> None:
    lists = {"train": [], "val": [], "test": []}
    for label, name in enumerate(CLASSES[record.name]):
        for place, image in enumerate(write_pictures(folder / "images", label, f"{label:03d}" + "{:04d}.jpg")):
            lists["train" if place < 5 else "val" if place < 7 else "test"].append(f"{image[:-4]} {name}")
    for split, lines in lists.items():
        write_text("\n".join(lines) + "\n", folder / f"images_variant_{split}.txt")
    write_text("\n".join(CLASSES[record.name]) + "\n", folder / "variants.txt")


def sun(record: DatasetRecord, folder: Path) -> None:
    lists = {"Training_01.txt": [], "Testing_01.txt": []}
    for label, name in enumerate(CLASSES[record.name]):
        for place, image in enumerate(write_pictures(folder / "SUN397" / name[1:], label, "sun_a{:07d}.jpg")):
            lists["Training_01.txt" if place < 7 else "Testing_01.txt"].append(f"{name}/{image}")
    for name, lines in {**lists, "ClassName.txt": CLASSES[record.name]}.items():
        write_text("\n".join(lines) + "\n", folder / name)


def ucf(record: DatasetRecord, folder: Path) -> None:
    lists = {"trainlist01.txt": [], "testlist01.txt": []}
    for label, (name, words) in enumerate(zip(CLASSES[record.name], CLASSNAMES[record.name])):
        frames = write_pictures(folder / record.images / words, label, f"v_{name}_g" + "{:02d}_c01.jpg")
        videos = [f"{name}/{frame[:-4]}.avi" for frame in frames]
        lists["trainlist01.txt"] += [f"{video} {label + 1}" for video in videos[:7]]
        lists["testlist01.txt"] += videos[7:]
    lists["classInd.txt"] = [f"{label} {name}" for label, name in enumerate(CLASSES[record.name], start=1)]
    for name, lines in lists.items():
        write_text("\r\n".join(lines) + "\r\n", folder / "ucfTrainTestlist" / name)


def imagenet(record: DatasetRecord, folder: Path) -> None:
    for label, number in enumerate(CLASSES[record.name]):
        write_pictures(folder / "images" / "train" / number, label, number + "_{}.JPEG", 5)
        write_pictures(folder / "images" / "val" / number, label, "ILSVRC2012_val_{:08d}.JPEG", 3)


def imagenet_variant(record: DatasetRecord, folder: Path) -> None:
    for label, number in enumerate(CLASSES[record.name]):
        write_pictures(folder / record.images / number, label, "{}.jpg", 3)
    if record.name in ("imagenet_a", "imagenet_r"):
        write_text("about these pictures", folder / record.images / "README.txt")


WRITERS = dict(class_folders=class_folders, flowers=flowers, pets=pets, cars=cars, aircraft=aircraft, sun=sun, ucf=ucf,
               imagenet=imagenet, imagenet_variant=imagenet_variant)  # fmt: skip


def make_tree(name: str, root: Path) -> Path:
    "Write a dataset's miniature under a data_root, as it lies there when all is unpacked; gives its folder."
    record, folder = DATASETS[name], root / DATASETS[name].folder
    folder.mkdir(parents=True)
    if record.format == "imagenet_v2":
        for label, number in enumerate(CLASSES[name]):
            write_pictures(folder / record.images / number, label, "{:040x}.jpeg", 3)
    else:
        WRITERS[record.format](record, folder)
    return folder


def members(download: Download, record: DatasetRecord, root: Path) -> Iterator[tuple[Path, str]]:
    "The files of a tree that come out of one archive, with their names in it."
    made, into = root / download.makes, root / download.into
    several = download.pick or download.name == "Partitions.zip"  # archives of more than one file or folder
    top = [path for path in into.iterdir() if path != into / record.images or download.pick] if several else [made]
    for path in sorted(file for start in top for file in (start, *start.rglob("*")) if file.is_file()):
        yield path, (Path(download.pick) / path.relative_to(into)).as_posix()


def pack(download: Download, record: DatasetRecord, root: Path, archive: Path) -> None:
    "Write one download as it is published: an archive with its true inner names, or the file itself."
    archive.parent.mkdir(parents=True, exist_ok=True)
    if download.inner:
        inner = archive.with_name("inner-" + Path(download.inner).name)
        pack(replace(download, inner=""), record, root, inner)
        with zipfile.ZipFile(archive, "w") as file:
            file.write(inner, download.inner)
        inner.unlink()
    elif archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path, name in members(download, record, root):
                file.write(path, name)
    elif ".t" in archive.name:
        with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as file:
            for path, name in members(download, record, root):
                file.add(path, name)
    else:
        shutil.copy(root / download.makes, archive)


def make_mirror(name: str, mirror: Path) -> DatasetRecord:
    "Pack a dataset's miniature into MIRROR/<dataset>/; gives the record of these archives, with their sizes and checksums."
    record, root, downloads = DATASETS[name], mirror / f".tree-{name}", []
    make_tree(name, root)
    for download in record.downloads:
        if not (root / download.makes).exists():  # split files and the like, which are not needed
            continue
        archive = mirror / name / download.name
        pack(download, record, root, archive)
        sums = {kind: _digest(archive, kind) for kind in download.sums}
        downloads.append(replace(download, size=archive.stat().st_size, also=(), **sums))
    shutil.rmtree(root)
    kept = {download.name: download for download in downloads}
    return replace(miniature_record(name), downloads=tuple(kept.get(d.name, d) for d in miniature_record(name).downloads))


def miniature_record(name: str) -> DatasetRecord:
    "A dataset's record with the numbers that its miniature has, and one address a file: no test asks the true sources."
    record = DATASETS[name]
    images = 8 if name == "imagenet" else 3 if record.test_only else PER_CLASS
    return replace(record, num_classes=len(CLASSNAMES[name]), num_images=images * len(CLASSNAMES[name]), whole=None,
                   downloads=tuple(replace(download, also=()) for download in record.downloads))


def pack_whole(name: str, archive: Path, below: str = "") -> None:
    "Write the archive of a whole dataset's miniature, in CoOp's layout under the folder `below`, with what macOS adds."
    archive.parent.mkdir(parents=True, exist_ok=True)
    tree = archive.with_name(f".tree-{name}")
    folder = make_tree(name, tree)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            file.write(path, f"{below}{folder.name}/{path.relative_to(folder).as_posix()}")
            file.writestr(f"__MACOSX/{below}{folder.name}/{path.relative_to(folder).parent.as_posix()}/._{path.name}", b"x")
    shutil.rmtree(tree)
