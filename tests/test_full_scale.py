"""The whole way on a VOC-shaped and a COCO-shaped data set, by the commands that a user gives.

Archives as their publishers offer them, preparation, a training that is killed and resumed, two
evaluation protocols, a CRF, predictions: small pictures stand in for the photographs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

from more_lib.cli.commands import app
from more_lib.data.prepare import coco, emoji
from more_lib.data.prepare import voc as voc_prepare
from more_lib.data.prepare.instances import CATEGORY_IDS
from more_lib.data.voc import VocTree
from more_lib.recipes.classes import COCO_CLASSES, VOC_CLASSES

KILLED = """
import os, signal, sys, torch
save, saved = torch.save, []

def killed_at_the_second(state, path):
    save(state, path)
    saved.append(path)
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = killed_at_the_second
from more_lib.cli.commands import app
app(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures to train on and two to judge by, in VOC's layout and with VOC's ids."""
    return emoji.prepare(tmp_path_factory.mktemp("pictures") / "tree", train=6, val=2, dev=1)


def voc_shaped(pictures, folder):
    """VOC 2012 and SBD as archives, two training images segmented by SBD alone; prepared."""
    tree, place = VocTree(pictures), folder / "VOCdevkit" / "VOC2012"
    train = tree.ids("train")
    shutil.copytree(pictures, place)
    (folder / "dataset" / "cls").mkdir(parents=True)
    for image_id in train[4:]:
        mask = place / "SegmentationClass" / f"{image_id}.png"
        values = np.asarray(Image.open(mask)) % 255  # SBD marks no borders
        savemat(folder / f"dataset/cls/{image_id}.mat", {"GTcls": {"Segmentation": values}})
        mask.unlink()
    (place / "ImageSets/Segmentation/train.txt").write_text("\n".join(train[:4]))
    archives = folder / "voc.tar", folder / "sbd.tgz"
    with tarfile.open(archives[0], "w") as file:
        file.add(folder / "VOCdevkit", "VOCdevkit")
    with tarfile.open(archives[1], "w:gz") as file:
        file.add(folder / "dataset", "benchmark_RELEASE/dataset")
    root = folder / "VOC2012"
    for _, do in voc_prepare.steps(root, *archives):
        do()
    voc_prepare.check(root, counts={"train": 4, "val": 2, "train_aug": len(train)})
    assert VocTree(root).ids("val") == tree.ids("val")
    return root, root / "JPEGImages"


def coco_shaped(pictures, folder):
    """COCO 2014 as it unpacks, a box of polygon for each class of a picture; prepared."""
    tree, number = VocTree(pictures), 0
    (folder / "annotations").mkdir(parents=True)
    categories = [{"id": i, "name": n} for i, n in zip(CATEGORY_IDS, COCO_CLASSES, strict=True)]
    for split in ("train", "val"):
        (folder / f"{split}2014").mkdir()
        images, annotations = [], []
        for image_id in tree.ids(split):
            number += 1
            name, mask = f"COCO_{split}2014_{number:012d}.jpg", tree.mask(image_id)
            shutil.copyfile(tree.image_path(image_id), folder / f"{split}2014" / name)
            height, width = mask.shape
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for value in np.unique(mask[(mask > 0) & (mask < 255)]).tolist():
                places = np.argwhere(mask == value)
                (top, left), (bottom, right) = places.min(0).tolist(), (places.max(0) + 1).tolist()
                name = VOC_CLASSES[value - 1].replace("aeroplane", "airplane")  # as COCO spells it
                category = CATEGORY_IDS[COCO_CLASSES.index(name)]
                polygon = [left, top, right, top, right, bottom, left, bottom]
                shape = {"segmentation": [polygon], "area": (right - left) * (bottom - top)}
                ids = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
                annotations.append(ids | shape | {"iscrowd": 0})
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))
    root = coco.prepare(folder / "COCO2014", folder, partial=True)
    return root, root / "images"


def small(root):
    """What makes a profile of hours one of seconds."""
    return f"""
data: {{root: '{root}', crop_size: 32, workers: 0}}
backbone: {{name: mini, decoder_width: 8}}
masks: {{scales: [1.0], dilations: [1, 2]}}
schedule: {{patch_token_contrast: 0, confident_relation: 0, uncertain_relation: 0,
           segmentation: 1, dense_energy: 1, final_cam: 3}}
optimizer: {{iterations: 6, batch_size: 2, warmup_iterations: 2, log_every: 2,
            checkpoint_every: 2, precision: fp32}}
evaluation: {{scales: [1.0]}}
"""


def run(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.parametrize("profile, shaped", [("voc", voc_shaped), ("coco", coco_shaped)])
def test_from_archives_to_masks(profile, shaped, pictures, tmp_path):
    root, photographs = shaped(pictures, tmp_path / "given")
    recipe, folder = tmp_path / "small.yaml", tmp_path / "run"
    recipe.write_text(small(root))
    training = ["train", "--profile", profile, "--recipe", recipe, "--folder", folder, "--resume"]

    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", KILLED, *training], env=os.environ | threads)
    assert killed.returncode == -signal.SIGKILL
    assert "resumes after iteration 2" in run(*training)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in log] == [2, 4, 6]
    assert {"confident_relation", "segmentation", "dense_energy"} <= log[-1].keys()

    scored = ["evaluate", "--profile", profile, "--checkpoint", folder, "--protocol", "paper-val"]
    run(*scored, "--protocol", "decoder-log", "--json", tmp_path / "s.json")
    table = json.loads((tmp_path / "s.json").read_text())
    assert table.keys() == {"paper-val", "decoder-log"}
    assert table["paper-val"]["results"][0]["protocol"]["crf"] == "released"
    for scores in table.values():
        (result,) = scores["results"]
        assert scores["num_images"] == 2 and np.sum(result["matrix"]) > 0

    out = tmp_path / "out"
    two = sorted(photographs.iterdir())[:2]  # with eighty maps each to draw
    run("predict", *two, "--checkpoint", folder, "--crf", "--npz", "--output", out)
    masks = sorted((out / "masks").glob("*.png"))
    assert [mask.stem for mask in masks] == [photograph.stem for photograph in two]
    with Image.open(masks[0]) as mask, Image.open(two[0]) as photograph:
        assert mask.mode == "P" and mask.size == photograph.size
