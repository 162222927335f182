"The pretended device counts what a GPU would make one wait for, and refuses what a GPU refuses."

import copy

import pytest
import torch
import torch.nn.functional as F
from pretend import Mixed, pretend
from torch import nn

GPUS = "cuda:0", "cuda:1", "mps:0"
WAITS = {
    "a number": lambda x: x.sum().item(),
    "a truth": lambda x: bool(x.isfinite().all()),
    "a list": lambda x: x.tolist(),
    "a copy to the processor": lambda x: x.cpu(),
    "a copy that should not wait": lambda x: x.to("cpu", non_blocking=True),
    "a mask": lambda x: x[x > 1],
    "what is under a mask, changed": lambda x: x.masked_fill(x > 1, 0).index_put_((x > 1,), x[0, 0]),
    "unique": lambda x: x.unique(),
    "nonzero": lambda x: x.nonzero(),
    "bincount": lambda x: torch.bincount(x.flatten().long()),
    "equal": lambda x: torch.equal(x, x),
    "repeats": lambda x: x[0].repeat_interleave(torch.ones_like(x[0]).long()),
    "an index from elsewhere": lambda x: x[torch.tensor([1, 0])],
    "a copy to the device": lambda x: torch.ones(2).to(x.device),
    "a tensor of numbers": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a copy into a tensor": lambda x: x.copy_(torch.ones(2, 2)),
}
GOES_ON = {
    "sums": lambda x: (x @ x).sum(),
    "a number from elsewhere": lambda x: x + torch.tensor(1.0),
    "an index": lambda x: x[torch.arange(2, device=x.device)],
    "a mask that keeps the size": lambda x: x.where(x > 1, 0),
    "what looks like another": lambda x: torch.zeros_like(x).to(x),
    "a number that is written": lambda x: x.fill_(3.0),
}


@pytest.fixture(params=GPUS)
def gpu(request):
    with pretend(request.param) as device:
        yield device


def square(gpu) -> torch.Tensor:
    made = torch.arange(4.0).view(2, 2).to(gpu.device)
    gpu.forget()
    return made


@pytest.mark.parametrize("name", WAITS)
def test_what_one_waits_for_is_counted_with_its_line(gpu, name):
    WAITS[name](square(gpu))
    lines = {line for _, line in gpu.waits}
    assert len(lines) == 1 and lines.pop().startswith("test_pretend.py:") and not gpu.handed


@pytest.mark.parametrize("name", GOES_ON)
def test_what_nobody_waits_for_is_not(gpu, name):
    GOES_ON[name](square(gpu))
    assert not gpu.waits and not gpu.handed


def test_a_copy_that_does_not_block_is_counted_apart(gpu):
    x = square(gpu)
    torch.ones(2, 2).to(gpu.device, non_blocking=True)
    x.copy_(torch.ones(2, 2), non_blocking=True)
    assert not gpu.waits and sum(gpu.handed.values()) == 2


def test_a_product_is_one_launch_and_another_look_is_none(gpu):
    x = square(gpu)
    x @ x
    assert [(name, times) for (name, _), times in gpu.launches.items()] == [("mm", 1)]
    gpu.forget()
    x.T.reshape(4)[1:].view(3, 1).expand(3, 5).detach()
    assert sum(gpu.launches.values()) == 1, "only reshape has something to write"
    torch.empty(5, device=gpu.device)
    assert sum(gpu.launches.values()) == 1


def test_devices_do_not_mix(gpu):
    x, other = square(gpu), torch.ones(2, 2)
    for mix in (lambda: x + other, lambda: x @ other, lambda: torch.cat([x, other]), lambda: F.embedding(torch.tensor([0]), x),
                lambda: other[x.long()]):
        with pytest.raises(Mixed):
            mix()
    with pytest.raises(TypeError, match="Tensor.cpu"):
        x.numpy()


def test_only_one_of_them_has_float64(gpu):
    x = square(gpu)
    if gpu.device.type == "mps":
        with pytest.raises(TypeError, match="no float64"):
            x.double()
    else:
        assert x.double().dtype == torch.float64


def test_the_numbers_are_those_of_the_processor(gpu):
    torch.manual_seed(0)
    here = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2))
    there, x, y = copy.deepcopy(here).to(gpu.device), torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    for model, given, labels in (here, x, y), (there, x.to(gpu.device), y.to(gpu.device)):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(given), labels).backward()
            optimizer.step()
    for one, same in zip(there.parameters(), here.parameters(), strict=True):
        assert one.device == gpu.device and torch.equal(one.cpu(), same)
    assert torch.equal(copy.deepcopy(there)(x.to(gpu.device)).cpu(), here(x))


def test_afterwards_there_is_no_such_device():
    with pretend("cuda:0") as gpu:
        left = square(gpu)
        assert torch.cuda.device_count() == 1
    with pytest.raises(RuntimeError, match="after the device was gone"):
        left + 1
