"The registry: every record is whole, and a name that is not there is answered."

import re
from pathlib import PurePosixPath

import pytest

from npt.data.datasets import _ELEVEN, _VARIANTS, DATASETS, TEMPLATE_ENSEMBLE, find_dataset
from npt.data.folder import _photographs
from npt.data.formats import FORMATS
from npt.world.label_sets import LABEL_SETS

PUBLISHED = [record for record in DATASETS.values() if record.folder]
FIFTEEN = [*_ELEVEN, *_VARIANTS]  # of the prompt-tuning literature; there may be more


def test_fifteen_are_published_seven_are_drawn_and_one_is_yours():
    assert len(FIFTEEN) == 15 and all(find_dataset(record.name) is record for record in FIFTEEN)
    assert sum(record.drawn for record in DATASETS.values()) == len(LABEL_SETS) == 7
    assert FORMATS["folder"] is _photographs and "folder" in DATASETS and sum(record.test_only for record in FIFTEEN) == 4


@pytest.mark.parametrize("name", DATASETS)
def test_every_record_can_be_used(name):
    record = find_dataset(name)
    assert record.name == name and record.format in FORMATS and record.template.count("{}") == 1
    assert hash(record) == hash(find_dataset(name)), "a record is a key of what is remembered"
    if record.drawn:
        things = LABEL_SETS[record.label_set].things
        assert record.num_classes == len(things) and record.crop is None and not record.downloads
        assert (record.family == "objects") == (things == LABEL_SETS["objects"].things)


@pytest.mark.parametrize("record", PUBLISHED, ids=lambda record: record.name)
def test_files_are_put_below_the_folder_and_every_one_can_be_had(record):
    assert record.licence and record.homepage.startswith("https://") and record.downloads
    for download in record.downloads:
        made = PurePosixPath(download.makes)
        assert made.is_relative_to(record.folder) and made.is_relative_to(download.into) and ".." not in made.parts
        assert download.addresses or record.manual
        assert all(url.startswith("https://") for url in download.addresses)
        assert download.md5 is None or len(bytes.fromhex(download.md5)) == 16
        assert download.sha256 is None or len(bytes.fromhex(download.sha256)) == 32
        assert download.git is None or len(bytes.fromhex(download.git)) == 20
    assert record.num_classes and record.num_images
    images = PurePosixPath(record.folder, record.images)
    assert any(PurePosixPath(download.makes).is_relative_to(images) for download in record.downloads if download.needed)


def test_every_file_but_imagenets_has_a_second_source():
    for record in FIFTEEN:
        split = [download for download in record.downloads if download.name.startswith("split_zhou_")]
        assert len(split) == bool(record.split)
        for download in split:
            github, drive = download.addresses
            assert "linzhiqiu/cross_modal_adaptation" in github and "drive.google.com" in drive
            assert github.endswith(f"/splits/split_zhou_{record.split}.json")
    assert [record.name for record in FIFTEEN if not record.whole] == ["imagenet"]
    wholes = [record.whole for record in FIFTEEN if record.whole]
    assert len({whole.url for whole in wholes}) == 14 and all("/zhengli97/prompt_learning_dataset/" in w.url for w in wholes)
    assert find_dataset("dtd").whole.sha256.startswith("5ba4d300")


def test_what_is_fetched_is_known_by_a_checksum():
    "Beside what each user makes for a mirror, only two files have none, and of those the size is known."
    downloads = [download for record in FIFTEEN for download in record.downloads]
    assert [d.name for d in downloads if not d.sums] == ["train.tar", "val.tar", "classnames.txt", "UCF-101-midframes.zip"]
    assert {d.name for d in downloads if d.sums and not d.sha256} == {
        "caltech-101.zip", "fgvc-aircraft-2013b.tar.gz", "split_zhou_Food101.json", "split_zhou_SUN397.json"}
    assert sum(d.sha256 is not None for d in downloads) == 26


def test_what_the_hub_and_github_serve_is_of_one_commit():
    addresses = [url for record in FIFTEEN for each in (*record.downloads, record.whole) if each for url in each.addresses]
    served = [url for url in addresses if "huggingface.co" in url or "githubusercontent.com" in url]
    loose = [url for url in served if not re.search(r"/[0-9a-f]{40}/", url)]
    assert len(served) > 20 and [url.rpartition("/")[2] for url in loose] == ["imagenetv2-matched-frequency.tar.gz"], "it has a SHA-256"



@pytest.mark.parametrize("wrong, near", {"world/shape": "world/shapes", "Caltech": "caltech101", "flowers": "oxford_flowers"}.items())
def test_an_unknown_name_is_answered_with_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=f"no dataset '{wrong}'. Did you mean '{near}'"):
        find_dataset(wrong)


def test_the_ensemble_has_eighty_templates():
    assert len(set(TEMPLATE_ENSEMBLE)) == 80 and all(template.count("{}") == 1 for template in TEMPLATE_ENSEMBLE)
