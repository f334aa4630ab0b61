"""What a training starts on: as many processes as GPUs, one of which speaks."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
import torch

from more_lib.system.devices import peak_memory, say, start_accelerator
from more_lib.system.errors import InputError


def test_fewer_gpus_than_processes_is_an_error(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"4 processes were started here for 2 GPU\(s\)"):
        start_accelerator("fp32")


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_accelerate_launch_for_gpus_without_any_is_an_error(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "ACCELERATE_DYNAMO_BACKEND": "no"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="there is none here; on CPUs start them with torchrun"):
        start_accelerator("fp32")


def test_only_the_first_process_speaks(monkeypatch, capsys):
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        say(f"from {rank}")
    assert capsys.readouterr().out == "from 0\n"


@pytest.mark.slow
def test_peak_memory_is_the_processs_own_and_not_its_parents():
    cpu, much = torch.device("cpu"), torch.ones(400_000_000)  # 1.6 GB
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        theirs = pool.submit(peak_memory, cpu).result()
    held = peak_memory(cpu)
    del much
    assert held > 1.6 > 1.2 > theirs > 0.05
    assert peak_memory(cpu) > held - 0.1  # the peak, not what is left; the kernel rounds it
