"""What a training step asks of a GPU, counted without one: kernels, and where the host waits.

The step is the released recipe's, all terms on, by the loop that trains: ViT-B's twelve blocks, but
narrow, and images of 112 pixels, as neither changes what is counted.
"""

from collections import Counter
from pathlib import Path

import torch
from accelerate import PartialState
from timm.models.vision_transformer import VisionTransformer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from more_lib.method.gcr import GraphCategoryRepresentation
from more_lib.method.model import MoRe
from more_lib.method.vit import ClassTokenViT
from more_lib.recipes.loading import load_recipe
from more_lib.system.devices import start_accelerator
from more_lib.training.log import TrainingLog
from more_lib.training.loop import fit, start

SETTINGS = """data.crop_size=112 data.workers=0 optimizer.batch_size=2 optimizer.iterations=3
    optimizer.warmup_iterations=0 optimizer.log_every=100 optimizer.checkpoint_every=0
    schedule.patch_token_contrast=0 schedule.confident_relation=0 schedule.uncertain_relation=0
    schedule.segmentation=0 schedule.dense_energy=0 schedule.final_cam=0"""
NO_KERNEL = ("detach", "alias", "empty", "new_empty", "lift_fresh", "_unsafe_view", "_local_scalar")


class Calls(TorchDispatchMode):
    """Counts operators below autograd that start a kernel: neither views nor allocations.

    One of a list of tensors counts once, though a GPU takes some hundred blocks a kernel; what is
    done to labels on the CPU counts, too. ``waits`` notes what makes the host wait for a device
    that is not the CPU: numbers that are made on the host and copied, as by ``new_tensor``; what
    reads values fails on the meta device, which has none. ``copies`` notes sizes of tensors that
    go there without a wait.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.waits: list[str] = []
        self.copies: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **(kwargs or {})), func.__name__
        starts = func.namespace == "aten" and not func.is_view
        self.kernels[name] += starts and not name.startswith(NO_KERNEL)
        given, made = ({t.device.type for t in _tensors(x)} - {"cpu"} for x in (args, result))
        if name.startswith("lift_fresh") and made:
            self.waits.append(name)
        if name.startswith(("_to_copy", "copy_")) and made and _tensors(args)[-1].is_cpu:
            self.copies += [tuple(_tensors(args)[-1].shape)]
            self.waits += [name] * (name.startswith("copy_") or not kwargs.get("non_blocking"))
        if name.startswith(("index.", "index_put")) and given:
            self.waits += [name] * any(t.dtype == torch.bool for t in _tensors(args[1]))
        return result


def _tensors(values) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def calls_of_a_step(folder: Path, precision: str, device: str) -> Calls:
    """What the loop calls in its second iteration, the log's part included.

    On "cpu" AdamW is that of a GPU, fused. "meta" goes through all that a GPU would and holds no
    values.
    """
    recipe = load_recipe("voc", SETTINGS.split())
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=112, patch_size=16, embed_dim=48, depth=12, num_heads=3, num_classes=0
    )
    model = MoRe(ClassTokenViT(vit, 20), 8, GraphCategoryRepresentation(48))
    PartialState().device = torch.device(device)
    accelerator = start_accelerator(precision)
    log, counts = TrainingLog(folder, recipe, accelerator), [Calls() for _ in range(4)]
    run = start(accelerator, model, recipe, log)
    for group in run.optimizer.param_groups:
        group["fused" if device == "cpu" else "foreach"] = True
    write = log.write

    def next_one(*given) -> None:
        write(*given)
        counts[run.iteration].__exit__(None, None, None)
        counts[run.iteration + 1].__enter__()

    log.write = next_one
    labels = torch.eye(20)[0] + torch.eye(20)[1]
    image = torch.rand(3, 112, 112).sub(0.5).to(torch.float32)
    images = [{"image": image, "labels": labels, "id": str(n)} for n in range(6)]
    counts[0].__enter__()
    try:
        fit(run, images, recipe, folder, {})
    finally:
        counts[run.iteration].__exit__(None, None, None)
        log.close()
        accelerator.state._reset_state(True)
    return counts[1]
