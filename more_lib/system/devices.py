"""What the kit runs on: devices, processes, precision, and the memory that it took."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from more_lib.system.errors import InputError


def start_accelerator(wanted_precision: str) -> Accelerator:
    """What to train on, in which precision; started by ``torchrun``, together with the others.

    Raises ``InputError`` where there are fewer GPUs than processes, or none that can do that.
    """
    precision = resolved_precision(wanted_precision)
    check_processes()
    wanted, any_gpu = _processes("WORLD_SIZE"), torch.accelerator.is_available()
    AcceleratorState._reset_state()  # else a second training could not choose another precision
    # A stage of training may leave a part of the network without a loss; buffers never change.
    options = {"find_unused_parameters": True, "broadcast_buffers": False}
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        # Of itself it takes several processes on a machine without GPUs for as many single ones.
        cpu=wanted > 1 and not any_gpu,
        kwargs_handlers=[DistributedDataParallelKwargs(**options)],
    )
    if accelerator.num_processes < wanted:
        raise InputError(
            f"{wanted} processes were started, but on {accelerator.device} they cannot train "
            "together; start one"
        )
    return accelerator


def check_processes() -> None:
    """Raise ``InputError`` where more processes were started than have a GPU each, or a CPU."""
    wanted, here = _processes("WORLD_SIZE"), _processes("LOCAL_WORLD_SIZE")
    if torch.cuda.is_available() and here > torch.cuda.device_count():
        raise InputError(
            f"{here} processes were started here for {torch.cuda.device_count()} GPU(s); start as "
            "many as there are, as with torchrun --nproc-per-node gpu"
        )
    alone = "ACCELERATE_DYNAMO_BACKEND" in os.environ and not torch.accelerator.is_available()
    if wanted > 1 and alone:  # that variable is accelerate's own
        raise InputError(
            f"accelerate launch started {wanted} processes for as many GPUs, and there is none "
            f"here; on CPUs start them with torchrun --nproc-per-node {here}"
        )


def _processes(variable: str) -> int:
    """What a launcher says of how many processes it started."""
    return int(os.environ.get(variable, 1))


def best_device() -> torch.device:
    """The accelerator if there is one, of several processes each its own; else the CPU."""
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device("cpu")


def precision_of(accelerator: Accelerator) -> str:
    """The precision that "auto" came to."""
    return accelerator.mixed_precision.replace("no", "fp32")


def peak_memory(device: torch.device) -> float | None:
    """GB that this process held at most, on its GPU or else in main memory; None if unknown."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
    held = held_at_most()
    return None if held is None else round(held / 1e9, 2)


def held_at_most() -> int | None:
    """Bytes of main memory that this process held at most; None if unknown."""
    with suppress(OSError, StopIteration):  # Linux; its rusage begins with what the parent held
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    with suppress(ImportError):
        import resource  # not on Windows

        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return held * (1 if sys.platform == "darwin" else 1024)
    return None


def say(line: str) -> None:
    """Print a line once, however many processes are at work."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(line, flush=True)


def resolved_precision(wanted: str) -> str:
    """The precision to run in: "auto" as bf16 where this hardware multiplies it, else as fp32.

    Raises ``InputError`` for fp16 without a CUDA GPU.
    """
    if wanted == "fp16" and not torch.cuda.is_available():
        raise InputError("optimizer.precision fp16 needs a CUDA GPU; use bf16 or fp32 here")
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"
