"""Options that contradict each other, outputs in the way, runs and notebooks that are none."""

from pathlib import Path

from tests.reliability.bad_inputs.building import (
    Build,
    Case,
    case,
    change,
    copy,
    cut,
    folder,
    gone,
    mask,
    picture,
    write,
)

TRAIN = "train --recipe small.yaml --data photos --folder out"
EVALUATE = "evaluate --checkpoint model"
PREDICT = "predict photos/images --checkpoint model"
MANIFEST = "run/manifest.json"
LABELS = "table.csv"
LONG = 300 * "n"
ROWS = "".join(f"{name}.jpg,cat\n" for name in "abcd")


def labelled(name: str, content: str | bytes, *said: str) -> Case:
    """``predict`` with a table of labels of this content."""
    command = f"{PREDICT} --output out --labels {LABELS}"
    return case(f"predict --labels, {name}", command, write(LABELS, content), LABELS, *said)


def manifest(name: str, content: str | bytes, *said: str) -> Case:
    return case(f"report, {name}", "report run", write(MANIFEST, content), MANIFEST, *said)


def notebook(words: str, build: Build | None, *said: str) -> Case:
    """A notebook's cells with parameters that are of no use."""
    what = words if build is None else f"{words}, {' '.join(said)}"
    return case(f"notebook {what}", f"notebook {words}", build, *said)


def mixed(place: Path) -> None:
    """Validation photographs of two sizes, which do not fit in one batch."""
    picture("mixed/images/a.jpg")(place)
    picture("mixed/images/b.jpg", (40, 48))(place)
    mask("mixed/masks/a.png", 0, 1)(place)
    mask("mixed/masks/b.png", 0, 2, size=(40, 48))(place)
    write("mixed/labels.csv", "image,classes\na.jpg,cat\nb.jpg,dog\n")(place)


def other(place: Path) -> None:
    """A second run, which began later."""
    write("other/manifest.json", (place / MANIFEST).read_bytes())(place)


CASES = [
    # usage
    case("no such command", "evalute", None, "evalute"),
    case("no such option", "train --lr 3", None, "--lr"),
    case("an option without its value", "train --recipe", None, "--recipe"),
    case("predict without images", "predict", None, "images"),
    case("report without a run", "report", None, "run"),
    case("study without a name", "study", None, "name"),
    case("study with no seed", "study variants --seeds 0", None, "--seeds", "1"),
    case("study with half a seed", "study variants --seeds 1.5", None, "--seeds", "integer"),
    case("doctor with a word", "doctor everything", None, "everything"),
    case("no such profile", "train --profile maxi", None, "'maxi'", "profiles: mini"),
    case("a profile like one", "train --profile cocolog", None, "did you mean coco-log"),
    case("train, an empty folder", TRAIN.replace("out", "''"), None, "--folder", "variable"),
    case("evaluate, an empty file", f"{EVALUATE} --json ''", None, "--json", "variable"),
    case("a script's empty folder", "prepare_coco.py --folder ''", None, "--folder", "variable"),
    # evaluate
    case("two networks", f"{EVALUATE} --released small.yaml", None, "--checkpoint", "--released"),
    case("an unknown protocol", f"{EVALUATE} --protocol best", None, "'best'", "paper-val"),
    case("--split alone", f"{EVALUATE} --split val", None, "--split", "--protocol"),
    case("--export alone", f"{EVALUATE} --export m.tgz", None, "--export", "--protocol"),
    case(
        "--export over a file",
        f"{EVALUATE} --protocol paper-val --export small.yaml",
        None,
        "small.yaml",
    ),
    case(
        "a split that is not there",
        f"{EVALUATE} --protocol paper-val --split nowhere",
        None,
        "nowhere.txt",
        "train, val",
    ),
    case(
        "a split out of the folder",
        f"{EVALUATE} --protocol paper-val --split ../train",
        None,
        "../train",
    ),
    case("--json onto a folder", f"{EVALUATE} --json photos", None, "photos", "folder"),
    case("--json below a file", f"{EVALUATE} --json small.yaml/s.json", None, "small.yaml", "file"),
    case("--json where nothing can be", f"{EVALUATE} --json /proc/s.json", None, "/proc/s.json"),
    case("--json of 300 letters", f"{EVALUATE} --json {300 * 'j'}", None, "jjj", "name"),
    case("labels of no scale", f"{EVALUATE} --set evaluation.scales=[0]", None, "scales[0] is 0"),
    case(
        "a threshold in per cent",
        f"{EVALUATE} --set evaluation.threshold=50",
        None,
        "evaluation.threshold is 50",
    ),
    case(
        "a scale beyond memory",
        f"{EVALUATE} --set evaluation.scales=[1e6]",
        None,
        "evaluation.scales",
    ),
    case(
        "a scale below a pixel",
        f"{EVALUATE} --set evaluation.scales=[1e-9]",
        None,
        "evaluation.scales",
    ),
    case(
        "a batch of several sizes",
        f"{EVALUATE} --data mixed --set evaluation.batch_size=2",
        mixed,
        "evaluation.batch_size",
    ),
    case(
        "data of other classes",
        f"{EVALUATE} --data photos",
        change("photos/labels.csv", "dog", "horse"),
        "horse",
    ),
    # predict
    case("predict, no such image", "predict absent.jpg --checkpoint model", None, "absent.jpg"),
    case(
        "predict, an empty folder",
        "predict here --checkpoint model",
        folder("here"),
        "here",
        "no image",
    ),
    case("predict, a text", "predict small.yaml --checkpoint model", None, "small.yaml"),
    case("predict, an unknown map", f"{PREDICT} --map gradcam", None, "'gradcam'", "lam"),
    case(
        "predict, two images of one name",
        "predict photos/images a.jpg --checkpoint model",
        copy("photos/images/b.jpg", "a.jpg"),
        "a.png",
        "rename",
    ),
    case("predict, a file for the output", f"{PREDICT} --output small.yaml", None, "small.yaml"),
    case(
        "predict, an output below a file",
        f"{PREDICT} --output small.yaml/out",
        None,
        "small.yaml",
        "file",
    ),
    case("predict, an output where nothing can be", f"{PREDICT} --output /proc/out", None, "/proc"),
    case(
        "predict, an output in use",
        f"{PREDICT} --output out",
        write("out/masks/a.png", "mine"),
        "out",
        "--force",
    ),
    case(
        "predict, an output that is the data",
        f"{PREDICT} --output photos --force",
        None,
        "photos",
        "--output",
    ),
    case(
        "predict, masks of another data set",
        f"{PREDICT} --output voc --force",
        copy("small.yaml", "voc/labels.csv"),
        "voc",
        "--output",
    ),
    case("predict, a scale of NaN", f"{PREDICT} --set evaluation.scales=[.nan]", None, "scales"),
    case(
        "predict --labels, missing", f"{PREDICT} --labels absent.csv", None, "absent.csv", "missing"
    ),
    case("predict --resume --force", f"{PREDICT} --resume --force", None, "--resume", "--force"),
    case(
        "predict --resume over other files",
        f"{PREDICT} --output out --resume",
        write("out/masks/a.png", "mine"),
        "out",
        "--force",
    ),
    labelled("empty", "", "image,classes"),
    labelled("no UTF-8", b"image,classes\na.jpg,\xe4\n", "UTF-8"),
    labelled("an image without a row", "image,classes\na.jpg,cat\n", "b.jpg", "row"),
    labelled(
        "an unknown class", f"image,classes\n{ROWS}".replace("cat", "horse"), "'horse'", "cat, dog"
    ),
    labelled("an image twice", f"image,classes\n{ROWS}a.jpg,dog\n", "a.jpg", "more than one row"),
    # train, study and bench
    case("train, a file for the folder", TRAIN.replace("out", "small.yaml"), None, "small.yaml"),
    case(
        "train, a folder below a file",
        TRAIN.replace("out", "small.yaml/out"),
        None,
        "small.yaml",
        "file",
    ),
    case("train, where nothing can be", TRAIN.replace("out", "/proc/out"), None, "/proc/out"),
    case("train --tensorboard without it", f"{TRAIN} --tensorboard", None, "tensorboard", "pip"),
    case(
        "MORE_DATA below a file", TRAIN.replace("--folder out", ""), write("data", "x"), "MORE_DATA"
    ),
    case("an unknown study", "study everything", None, "'everything'", "variants"),
    case(
        "a study of nothing",
        "study conditions --trained-only --recipe small.yaml",
        None,
        "--recipe",
    ),
    case(
        "a study with nothing trained",
        "study conditions --trained-only "
        "--set data.dataset=voc --set data.root=voc --set data.classes=[cat,dog]",
        None,
        "--trained-only",
    ),
    case("an unknown bench", "bench speeds", None, "'speeds'", "losses, crf, step"),
    case("an unknown shape", "bench losses --shape huge", None, "huge", "voc"),
    # report
    case("report, no such run", "report absent", None, "absent", "runs/"),
    case("report, a file", "report run/manifest.json", None, "is a file"),
    case("report, no run", "report photos", None, "photos", "manifest.json"),
    case("report, a folder of runs", "report .", None, "give one of them", "run"),
    case("report, a run twice", "report run run", None, "given twice"),
    case("report, one run and an output", "report run --output x.html", None, "two"),
    case("report, results of two", "report run run --results", None, "--results"),
    case(
        "report, results that are not whole",
        "report run --results",
        write("run/metrics.json", "{}"),
        "run",
        "lacks",
    ),
    case(
        "report, an output in the way",
        "report run other --output photos",
        other,
        "photos",
        "folder",
    ),
    case("report, metrics cut short", "report run", cut("run/metrics.json"), "metrics.json"),
    case(
        "report, metrics that are a list",
        "report run",
        write("run/metrics.json", "[1]"),
        "metrics.json",
    ),
    case("report, no manifest", "report run", gone(MANIFEST), "run", "manifest.json"),
    case("report, a folder for a manifest", "report run", folder(MANIFEST), "manifest.json"),
    manifest("a manifest that is empty", "", "damaged"),
    manifest("a manifest that is a list", "[1, 2]", "list"),
    manifest("a manifest that is no text", b"\x80\x81", "damaged"),
    manifest("a manifest nested without end", "[" * 200_000, "damaged"),
    manifest("a manifest without fields", '{"profile": "mini"}', "no usable"),
    case(
        "report, a manifest with NaN",
        "report run",
        change(MANIFEST, '"threads": ', '"threads": NaN, "was": '),
        MANIFEST,
        "threads",
    ),
    # names that no disk takes
    *(
        case(f"a name of 300 letters, {command}", command.format(LONG), None, LONG, "too long")
        for command in (
            "train --recipe {}",
            "train --data {}",
            "train --recipe small.yaml --data photos --folder {}",
            f"{EVALUATE} --protocol paper-val --split {{}}",
            f"{EVALUATE} --protocol paper-val --export {{}}",
            "predict {} --checkpoint model",
            f"{PREDICT} --output {{}}",
            "report {}",
            "prepare_coco.py --coco {}",
            "prepare_pets.py --folder {}",
            "prepare_voc.py --voc {}",
            "make_emoji_voc.py --folder {}",
        )
    ),
    # reproduce and notebooks
    case("reproduce, no such profile", "reproduce --profile maxi", None, "'maxi'"),
    case("reproduce, an unknown key", "reproduce --set lir.tau=1", None, "'lir.tau'"),
    case("reproduce, a wrong value", "reproduce --set seed=x", None, "seed is 'x'"),
    case(
        "reproduce, a change with a blank",
        "reproduce --set 'evaluation.scales=[1, 2]'",
        None,
        "without spaces",
    ),
    case(
        "reproduce, data that is not there",
        "reproduce --profile voc",
        None,
        "VOC2012",
        "prepare_voc.py",
    ),
    case(
        "reproduce, a file for the runs",
        "reproduce --set data.dataset=voc --set data.root=voc "
        "--set data.classes=[cat,dog] --runs small.yaml",
        None,
        "small.yaml",
    ),
    case(
        "reproduce, runs where nothing can be",
        "reproduce --set data.dataset=voc "
        "--set data.root=voc --set data.classes=[cat,dog] --runs /proc/runs",
        None,
        "/proc/runs",
    ),
    notebook("00 profile=maxi", None, "'maxi'", "profiles: mini"),
    notebook("01 overrides=lr=1", None, "'lr'", "did you mean optimizer.lr"),
    notebook("05 'overrides=seed=1 seed'", None, "'seed'", "key=value"),
    notebook("06 overrides=evaluation.threshold=50", None, "evaluation.threshold is 50"),
    notebook("08 folder=absent", None, "absent", "missing"),
    notebook("08 folder=photos", gone("photos/labels.csv"), "photos/labels.csv", "missing"),
    notebook("08 folder=photos", write("photos/labels.csv", "a.jpg,cat\n"), "photos/labels.csv"),
]
