"Places on GPUs: the emptiest card first, and a place that is given back."

import threading

import pytest
import torch

from npt.clip.frozen import free_memory
from npt.study.places import _gpu_place, _job_device, _places_folder, _take_place, _whole_gpu


def test_the_first_places_of_all_cards_come_before_any_second(tmp_path):
    taken = [_take_place(3, 2, tmp_path) for _ in range(7)]
    assert [place[1] for place in taken[:6]] == ["cuda:0", "cuda:1", "cuda:2"] * 2 and taken[6] is None
    taken[1][0].release()
    with _gpu_place(3, 2, tmp_path) as again:
        assert again == "cuda:1"


def test_jobs_that_see_other_cards_look_into_another_folder(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    first = _places_folder()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert _places_folder() != first


def test_a_machine_without_a_card_has_no_places(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="shows no GPU"), _job_device("cuda", 4):
        pass
    with _job_device("cpu", None) as device:
        assert device == "cpu"


@pytest.fixture
def gpu(monkeypatch, tmp_path) -> torch.device:
    "A card of which others have 10,000 bytes, and this process has 5,000 in use and 3,000 of a run that is over."
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (62_000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 8_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5_000)
    monkeypatch.setattr("npt.study.places._places_folder", lambda: tmp_path)
    return torch.device("cuda:0")


def test_jobs_that_share_a_gpu_share_its_memory(gpu):
    assert free_memory(gpu) == 65_000, "what a run has left to the next is free"
    with _job_device("cuda", 4) as device:
        assert device == "cuda:0" and free_memory(gpu) == 80_000 // 4 - 5_000
    assert free_memory(gpu) == 65_000, "a job that has ended has left nothing behind"


def test_a_job_alone_on_a_gpu_has_all_of_it_whatever_it_inherited(gpu, monkeypatch):
    monkeypatch.setenv("NPT_GPU_SHARE", "0.25")
    with _job_device("cuda", 4, whole=True) as device:
        assert device == "cuda:0" and free_memory(gpu) == 65_000
    assert free_memory(gpu) == 80_000 // 4 - 5_000


def test_a_whole_gpu_is_taken_when_the_last_other_job_has_left(monkeypatch, tmp_path):
    monkeypatch.setattr("npt.study.places._PATIENCE", 0.01)
    taken, got = _take_place(1, 2, tmp_path), []

    def take():
        with _whole_gpu(1, 2, tmp_path) as gpu:
            got.append((gpu, _take_place(1, 2, tmp_path)))

    thread = threading.Thread(target=take)
    thread.start()
    thread.join(0.2)
    assert not got and thread.is_alive()
    taken[0].release()
    thread.join(10)
    assert got == [("cuda:0", None)]
