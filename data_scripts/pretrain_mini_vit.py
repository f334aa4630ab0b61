"""Pretrain the mini backbone from image labels alone, and write its record.

    python data_scripts/pretrain_mini_vit.py
    python data_scripts/pretrain_mini_vit.py --backbone mini_w96

The second is half as wide, mini_w48 a quarter, for the study of backbones (notebook 07 §6).

The mini ViT stands in for an ImageNet ViT. It learns which classes an image shows, read out twice:
from the class token and from the best patches of a class map. No mask is opened in training; masks
of EmojiVOC's validation split only measure the finished backbone.

Two stages. The first runs on EmojiVOC at 64 pixels, where images are seen more than twice as fast.
With its 4,000 images the validation mAP then stands still while the loss goes on falling,
so the second runs at 96 pixels on 20,000 further compositions of the same training glyphs.
"""

import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate
from torchvision.transforms import v2
from typer import Option

from more_lib.data.prepare import emoji
from more_lib.data.voc import VocImages, VocTree
from more_lib.evaluation.metrics import average_precision, confusion_matrix, scores
from more_lib.method.backbones import build_backbone
from more_lib.method.localization import multiscale_cam
from more_lib.method.losses import classification_loss
from more_lib.method.pseudo_labels import foreground_mask
from more_lib.method.weight_files import MINI_WIDTHS, mini_weights
from more_lib.recipes.constants import IMAGENET_MEAN, IMAGENET_STD
from more_lib.system.devices import resolved_precision
from more_lib.system.errors import InputError
from more_lib.system.files import data_folder, readable_disk_errors, sha256, write_json
from more_lib.system.progress import progress_bar
from more_lib.system.usage import run
from more_lib.system.weights import save_weights

CAM_THRESHOLD = 0.5


@dataclass(frozen=True)
class Stage:
    """A stretch of the pretraining: its images, their side, its own optimizer and schedule."""

    images: str  # "EmojiVOC" or "further compositions"
    pixels: int
    iterations: int
    cosine: int  # iterations in which a cosine takes the learning rate from its peak down
    lr: float  # peak
    final_lr: float


STAGES = (
    Stage("EmojiVOC", 64, 4480, 6400, 7e-4, 7e-6),  # stops before the cosine ends, at 1.5e-4
    Stage("further compositions", 96, 2400, 2400, 5e-4, 5e-6),
)


class ReadOut(nn.Module):
    """The mini ViT with two linear read-outs, of its class token and of its patches."""

    def __init__(self, num_classes: int, backbone: str = "mini") -> None:
        super().__init__()
        self.vit = build_backbone(backbone)
        self.token_head = nn.Linear(self.vit.embed_dim, num_classes)
        self.patch_head = nn.Linear(self.vit.embed_dim, num_classes)
        self.patch_size = 8

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of the class token and of the mean over each class's best patches."""
        tokens = self.vit.forward_features(images)
        maps = self.patch_head(tokens[:, 1:])
        best = maps.topk(max(1, maps.shape[1] // 24), dim=1).values.mean(1)
        return self.token_head(tokens[:, 0]).float(), best.float()

    def cams(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class maps (B, C, h, w) of the patch read-out, without its bias."""
        tokens = self.vit.forward_features(images)[:, 1:]
        maps = F.linear(tokens, self.patch_head.weight).mT
        maps = maps.unflatten(2, [side // self.patch_size for side in images.shape[-2:]])
        return maps, maps


def load_split(tree: VocTree, split: str) -> tuple[Tensor, Tensor]:
    """All images (n, 3, H, W) uint8 and labels (n, C) float32 of one split."""
    whole = default_collate(list(VocImages(tree, split, v2.PILToTensor())))
    return whole["image"], whole["labels"]


def augment(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Zoom, shift, mirror and recolour a batch of uint8 images; (B, 3, size, size), normalised."""

    def draw(low: float, high: float) -> Tensor:
        return torch.empty(len(images)).uniform_(low, high, generator=generator)

    zoom, mirror = draw(0.65, 1.15), draw(0, 1).sub(0.5).sign()
    slack = (1 - zoom).abs()
    affine = torch.zeros(len(images), 2, 3)
    affine[:, 0, 0], affine[:, 1, 1] = zoom * mirror, zoom
    affine[:, 0, 2], affine[:, 1, 2] = slack * draw(-1, 1), slack * draw(-1, 1)
    grid = F.affine_grid(affine, (len(images), 3, size, size), align_corners=False)
    pictures = images.float() / 255
    pictures = F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    light, contrast, colour = (draw(0.7, 1.3).view(-1, 1, 1, 1) for _ in range(3))
    grey = pictures.mean(1, keepdim=True)
    pictures = grey + (pictures - grey) * colour
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return normalize(((pictures - mean) * contrast + mean * light).clamp(0, 1))


def normalize(pictures: Tensor) -> Tensor:
    """ImageNet mean and standard deviation, as everywhere in the kit."""
    normal = v2.functional.normalize(pictures, IMAGENET_MEAN, IMAGENET_STD)
    return normal.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def measure(model: ReadOut, images: Tensor, labels: Tensor, tree: VocTree | None = None) -> dict:
    """Mean average precision of both read-outs; with a tree also the CAM's mIoU against masks."""
    batches = normalize(images.float() / 255).split(50)
    read_outs = (torch.cat(part) for part in zip(*map(model, batches), strict=True))
    means = (float(average_precision(logits, labels).mean()) for logits in read_outs)
    result = dict(zip(("token_map", "patch_map"), means, strict=True))
    if tree is not None:
        cams = torch.cat([multiscale_cam(model, batch, (1.0,))[0] for batch in batches])
        masks = torch.stack([torch.as_tensor(tree.mask(name)).long() for name in tree.ids("val")])
        predicted = foreground_mask(cams, labels, CAM_THRESHOLD)
        matrix = confusion_matrix(predicted, masks, labels.shape[1] + 1)
        result["cam_miou"] = float(scores(matrix).miou)
    return result


def stage_tree(stage: Stage) -> VocTree:
    """The images of a stage; further compositions show training glyphs and backgrounds only."""
    further = dict(
        folder=data_folder() / "EmojiVOC-pretraining", seed=1, train=20_000, val=1, dev=1
    )
    tree = emoji.prepare(**({} if stage.images == "EmojiVOC" else further))
    return VocTree(tree, emoji.EMOJI_CLASSES)


def run_stage(
    model: ReadOut, stage: Stage, batch_size: int, val: tuple[Tensor, Tensor], seed: int
) -> list[dict]:
    """Train the model for one stage; returns ten points of its learning curve."""
    images, labels = load_split(stage_tree(stage), "train")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), stage.lr, weight_decay=0.05)
    warmup = max(1, stage.cosine // 20)
    schedule = CosineLRScheduler(
        optimizer, stage.cosine, stage.final_lr, warmup_t=warmup, warmup_lr_init=stage.final_lr
    )
    # bf16 where this CPU multiplies it; elsewhere it would be emulated, many times slower.
    precision, curve, running = resolved_precision("auto"), [], 0.0
    bar = progress_bar(total=stage.iterations, description=f"{stage.pixels} pixels")
    for step in range(stage.iterations):
        schedule.step(step)
        chosen = torch.randint(len(images), (batch_size,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            read_outs = model(augment(images[chosen], stage.pixels, generator))
        loss = sum(classification_loss(logits, labels[chosen]) for logits in read_outs)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
        bar.update()
        if (step + 1) % max(1, stage.iterations // 10) == 0:
            point = {"pixels": stage.pixels, "iteration": step + 1, "loss": round(running, 4)}
            curve.append(point | {k: round(v, 4) for k, v in measure(model, *val).items()})
            bar.write(json.dumps(curve[-1]))
    return curve


def main(
    backbone: Annotated[str, Option(help=f"Which of {', '.join(MINI_WIDTHS)}.")] = "mini",
    shorter: Annotated[
        int, Option(help="Divide the iterations of every stage by this, for a trial.", min=1)
    ] = 1,
    batch_size: Annotated[int, Option(min=2)] = 32,
    seed: Annotated[int, Option()] = 0,
    out: Annotated[
        Path | None, Option(help="Weights to write, record beside them; else the shipped file.")
    ] = None,
) -> None:
    """Pretrain a mini ViT on image labels (an hour on 2 CPU cores at full width)."""
    if backbone not in MINI_WIDTHS:
        raise InputError(f"--backbone {backbone!r} is unknown; there are: {', '.join(MINI_WIDTHS)}")
    if shorter > 1 and out is None:
        raise InputError("--shorter is for a trial: name by --out another file than the shipped")
    if shorter > min(min(each.iterations, each.cosine) for each in STAGES):
        raise InputError(f"--shorter {shorter} leaves no iteration of a stage")
    out = out or mini_weights(backbone)
    with readable_disk_errors(out):  # not after an hour
        out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tree = VocTree(emoji.prepare(), emoji.EMOJI_CLASSES)
    val = load_split(tree, "val")
    model = ReadOut(len(tree.classes), backbone).to(memory_format=torch.channels_last)
    started, stages, curve = time.perf_counter(), [], []
    for number, full in enumerate(STAGES):
        lengths = {"iterations": full.iterations // shorter, "cosine": full.cosine // shorter}
        stage = replace(full, **lengths)
        curve += run_stage(model, stage, batch_size, val, seed + number)
        stages.append(asdict(stage) | {"data_sha256": stage_tree(stage).fingerprint(("train",))})
    minutes = (time.perf_counter() - started) / 60
    model.half().float()  # measure what is shipped
    validation = {name: round(value, 4) for name, value in measure(model, *val, tree).items()}
    save_weights(model.vit, out, dtype=torch.float16)
    record = {
        "task": "image labels, read out from the class token and from the best patches",
        "stages": stages,
        "batch_size": batch_size,
        "seed": seed,
        "minutes": round(minutes, 1),
        "hardware": f"cpu ({platform.machine()}), threads: {torch.get_num_threads()}, "
        f"{resolved_precision('auto')}",
        "parameters": sum(p.numel() for p in model.vit.parameters()),
        "curve": curve,
        "validation": {
            "protocol": "EmojiVOC val, after fp16 rounding; CAM: true labels, scale 1 with flip, "
            f"threshold {CAM_THRESHOLD}",
            **validation,
        },
        "sha256": sha256(out),
    }
    write_json(record, out.with_suffix(".json"))
    print(json.dumps(record["validation"], indent=1))


if __name__ == "__main__":
    run(main)
