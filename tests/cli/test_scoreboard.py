"""The command ``evaluate`` behind its options."""

import json

import numpy as np
import pytest
from PIL import Image

from more_lib.cli.scoreboard import export_masks, scoreboard
from more_lib.evaluation.results import Evaluation, format_table, rows
from more_lib.evaluation.scoring import evaluate
from more_lib.recipes import changed
from more_lib.system.errors import InputError
from tests.evaluation import conftest
from tests.evaluation.helpers import ColourModel, set_split, trained_on

recipe, root, no_lattice = conftest.recipe, conftest.root, conftest.no_lattice  # fixtures


@pytest.fixture(autouse=True)
def asked(tmp_path, monkeypatch):
    """The recipes a network was asked for, and what stands in for training."""
    made, kept = [], tmp_path / "kept"
    kept.mkdir()

    def trained(recipe):
        made.append(recipe)
        return trained_on(recipe, kept)

    monkeypatch.setattr("more_lib.cli.scoreboard.train_or_load", trained)
    monkeypatch.setattr("more_lib.cli.scoreboard.cached_folder", lambda recipe: kept)
    return made, trained


def test_without_protocols_every_map_has_its_rows(recipe, asked, tmp_path):
    text = scoreboard(recipe, json_file=tmp_path / "scores.json")
    evaluation = evaluate(ColourModel(), recipe)
    assert text == format_table(rows(evaluation))
    assert text.splitlines()[0].endswith("images 3, image mAP % 91.67, token mAP % 66.67")
    assert (tmp_path / "scores.json").read_text() == evaluation.to_json()
    assert asked[0] == [recipe]


def test_each_protocol_comes_with_what_it_is_and_the_published_number(recipe, root, tmp_path):
    set_split(root, "named", "mistaken", split="train")
    names = ("paper-val-native", "cam-log-native", "lam-train")
    text = scoreboard(recipe, names=names, json_file=tmp_path / "scores.json")
    head, *lines = text.splitlines()
    assert head == "dataset voc, scales 1 + flip"
    assert [line.split()[:9] for line in lines[1:4]] == [
        "paper-val-native lam predicted val – released 3 91.67 66.67".split(),
        "cam-log-native cam true val 0.50 none 3 91.67 66.67".split(),
        "lam-train lam true train 0.50 none 2 100.00 100.00".split(),
    ]
    titles = "protocol map labels split threshold crf images image mAP % token mAP % mIoU %"
    assert " ".join(lines[0].split()).startswith(titles)
    assert (
        "\ncam-log-native: voc val, CAM, true image labels, scales 1 + flip, threshold 0.5, "
        "no CRF\n"
        "  published with it: none; cam-log in our own way, photographs in their own size\n"
    ) in text
    both = scoreboard(recipe, names=["cam-log", "cam-log-native"])
    assert "scales 1 + flip of 96×96, threshold 0.5" in both and "75.0 on VOC val where" in both
    saved = json.loads((tmp_path / "scores.json").read_text())
    assert tuple(saved) == names
    again = Evaluation.from_json(json.dumps(saved["cam-log-native"]))
    assert again.results[0].scores.miou == pytest.approx(0.9125)
    another = scoreboard(recipe, names=["paper-val"], split="train")
    assert "split train" in another and "images 2" in another


def test_masks_and_names_are_missed_before_anything_is_trained(recipe, root, asked):
    (root / "SegmentationClass/missed.png").unlink()
    set_split(root, "missed", split="test")
    for names, split, message in (
        (["paper-val"], "test", "'test' of .* has no pixel masks.*--export"),
        (["paper-val"], "nowhere", "'nowhere' is unknown|nowhere.txt is missing"),
        (["lam-log", "test"], "", "protocol 'test' is unknown; choose from paper-val, decoder-val"),
        ([], "test", "--split goes with --protocol"),
    ):
        with pytest.raises(InputError, match=message):
            scoreboard(recipe, names=names, split=split)
    (root / "ImageSets/Segmentation/val.txt").write_text("named")
    with pytest.raises(InputError, match="evaluation.student is 2"):
        scoreboard(changed(recipe, ["evaluation.student=2"]))
    assert asked[0] == []


def test_bad_images_are_named_at_the_start_or_left_out(recipe, root, asked):
    image = root / "JPEGImages/missed.jpg"
    image.write_bytes(image.read_bytes()[:-20])
    with pytest.raises(InputError, match="1 of 3 images .*missed.jpg.*--skip-bad"):
        scoreboard(recipe)
    made, trained = asked
    text = scoreboard(recipe, skip_bad=True, network=trained)  # its train split is not looked at
    assert "images 2" in text and made[-1].data.skip == ("missed",)


def test_masks_that_show_no_class_are_named_before_a_training_or_left_out(recipe, root, asked):
    mask = np.zeros((8, 8), np.uint8)
    Image.fromarray(mask).save(root / "SegmentationClass/mistaken.png")
    with pytest.raises(InputError, match="no mask of the split 'val' shows dog"):
        scoreboard(recipe)
    made, trained = asked
    assert made == []
    text = scoreboard(recipe, skip_bad=True, network=trained)
    assert "images 2" in text and made[-1].data.skip == ("mistaken",)


def test_export(recipe, root, tmp_path):
    set_split(root, "named", split="test")
    for name in ("Annotations/named.xml", "SegmentationClass/named.png"):
        (root / name).unlink()
    line = export_masks(recipe, ["paper-val-native"], "test", tmp_path / "m.tgz")
    assert line.startswith("1 masks by voc test, LAM, predicted image labels, scales 1 + flip")
    assert line.endswith(f"CRF released: {tmp_path / 'm.tgz'}") and (tmp_path / "m.tgz").is_file()
    for names in ([], ["paper-val", "lam-log"]):
        with pytest.raises(InputError, match="one protocol: name it by --protocol"):
            export_masks(recipe, names, "test", tmp_path / "n.tgz")
