"""Recipes: files that are none, values of the wrong kind, values that no machine can serve."""

from tests.reliability.bad_inputs.building import Case, case, copy, sparse, write

FILE = "train --recipe bad.yaml --folder out"
TRAIN = "train --recipe small.yaml --data photos --folder out"


def file(name: str, content: str | bytes, *said: str) -> Case:
    """A recipe file of this content."""
    return case(f"recipe file, {name}", FILE, write("bad.yaml", content), "bad.yaml", *said)


def value(change: str, *said: str) -> Case:
    """A single change of a recipe that works."""
    return case(f"--set {change}", f"{TRAIN} --set '{change}'", None, *said)


LAUGHS = ["&a [lol, lol, lol, lol, lol, lol, lol, lol, lol]"] + [
    f"&{name} [{', '.join(9 * [f'*{inner}'])}]"
    for inner, name in zip("abcdefgh", "bcdefghi", strict=True)
]

CASES = [
    case("no recipe file", "train --recipe absent.yaml", None, "absent.yaml", "no such file"),
    case("a folder for a recipe", "train --recipe photos", None, "recipe photos", "directory"),
    case(
        "a photograph for a recipe",
        FILE,
        copy("photos/images/a.jpg", "bad.yaml"),
        "bad.yaml",
        "no valid YAML",
    ),
    case("a recipe of 4 GB", FILE, sparse("bad.yaml", 2**32), "bad.yaml"),
    case("an endless recipe", "train --recipe /dev/zero", None, "/dev/zero"),
    file("a list", "- seed: 3\n", "sections such as"),
    file("bare text", "optimizer\n", "sections such as"),
    file("no UTF-8", b"seed: \x80\n", "no valid YAML"),
    file("NUL bytes", b"seed: 1\x00\n", "no valid YAML"),
    file("tabs", "optimizer:\n\titerations: 3\n", "no valid YAML", "line 2"),
    file("an open list", "evaluation: {scales: [1, 2}\n", "no valid YAML", "line 1"),
    file("a key twice", "seed: 1\nseed: 2\n", "seed", "twice"),
    file("a section twice", "optimizer: {lr: 1}\noptimizer: {power: 1}\n", "optimizer", "twice"),
    file("billion laughs as a seed", f"seed: [{', '.join(LAUGHS)}]\n", "seed", "whole number"),
    file("billion laughs as a section", f"laughs: [{', '.join(LAUGHS)}]\n", "laughs", "unknown"),
    file("nested without end", "seed: " + "[" * 100_000, "no valid YAML", "recursion"),
    file("an alias of itself", "seed: &a [*a]\n", "seed"),
    file("an unknown alias", "seed: *a\n", "no valid YAML", "alias"),
    file("code in a tag", "seed: !!python/object/apply:os.mkdir [hacked]\n", "no valid YAML"),
    file("two documents", "seed: 1\n---\nseed: 2\n", "no valid YAML"),
    file("an endless number", f"seed: {'9' * 5000}\n", "no valid YAML"),
    file("a date that is none", "seed: 2012-99-99\n", "no valid YAML"),
    file("a key that is a list", "? [a, b]\n: 3\n", "no valid YAML"),
    file("a key that is a number", "1: 2\n", "'1'", "unknown"),
    file("an unknown section", "optimiser: {lr: 1}\n", "'optimiser'", "did you mean optimizer"),
    file("an unknown key", "optimizer: {iteration: 3}\n", "did you mean optimizer.iterations"),
    file("a key outside its section", "lr: 1\n", "did you mean optimizer.lr"),
    file("a section that is a number", "optimizer: 3\n", "optimizer is 3", "section of"),
    file("a section that is empty", "optimizer:\n", "optimizer is None", "section of"),
    file("another profile", "profile: voc\n", "'voc'", "'mini'"),
    file("text for a number", "optimizer: {iterations: ten}\n", "iterations is 'ten'", "whole"),
    file("a part of an iteration", "optimizer: {iterations: 1.5}\n", "iterations", "whole"),
    file("truth for a number", "optimizer: {iterations: true}\n", "iterations", "whole"),
    file("no iterations", "optimizer: {iterations: 0}\n", "iterations is 0", "greater"),
    file("a learning rate of NaN", "optimizer: {lr: .nan}\n", "optimizer.lr is nan", "finite"),
    file("NaN in quotes", "optimizer: {lr: 'nan'}\n", "optimizer.lr", "finite"),
    file("an infinite weight", "loss: {segmentation: .inf}\n", "loss.segmentation", "finite"),
    file("a negative weight", "loss: {segmentation: -1}\n", "loss.segmentation is -1", "greater"),
    file("a number for truth", "graph: {use: 1}\n", "graph.use is 1", "true or false"),
    file("a seed below 0", "seed: -1\n", "seed is -1"),
    file("a seed of 33 bits", "seed: 4294967296\n", "seed is 4294967296", "less than"),
    file("no classes", "data: {classes: []}\n", "data.classes"),
    file("a class twice", "data: {classes: [cat, cat]}\n", "data.classes", "distinct"),
    file("a class that is a number", "data: {classes: [3]}\n", "data.classes[0] is 3", "text"),
    file("a class that is NaN", "data: {classes: [.nan]}\n", "data.classes[0]", "text"),
    file("classes in one text", "data: {classes: cat}\n", "data.classes", "list"),
    file("a class without a name", "data: {classes: ['']}\n", "data.classes[0]", "character"),
    file("thresholds exchanged", "masks: {final: [0.2, 0.8]}\n", "masks.final", "[high, low]"),
    file("one threshold of two", "masks: {final: [0.5]}\n", "masks.final"),
    file("a share above 1", "evaluation: {threshold: 50}\n", "evaluation.threshold is 50"),
    file("an unknown precision", "optimizer: {precision: fp8}\n", "precision is 'fp8'", "'bf16'"),
    file("an unknown data set", "data: {dataset: imagenet}\n", "data.dataset", "'folder'"),
    file("a folder without a root", "data: {dataset: folder}\n", "data.root", "your images"),
    file("a root that is a number", "data: {root: 3}\n", "data.root is 3", "text"),
    case("--set without a value", f"{TRAIN} --set seed", None, "'seed'", "key=value"),
    case("--set without a key", f"{TRAIN} --set =3", None, "'=3'", "key=value"),
    value("seed=", "seed", "whole number"),
    value("optimizer=3", "optimizer is 3", "section of"),
    value("optimizer.lr=[1, 2]", "optimizer.lr", "number"),
    value("optimizer.lr.x=3", "optimizer.lr", "number"),
    value("optimizer..lr=1", "'optimizer.'", "unknown"),
    value("data.classes=[cat", "data.classes=[cat", "no valid YAML"),
    value("lr=1", "did you mean optimizer.lr"),
    value("data.workers=1000000", "data.workers is 1000000", "less"),
    value("data.crop_size=1000000", "data.crop_size is 1000000", "less"),
    value("backbone.depth=100", "backbone.depth", "6"),
    value("backbone.aux_layer=99", "backbone.aux_layer", "6"),
    value("backbone.num_registers=1000000000", "backbone.num_registers", "less"),
    value("backbone.decoder_width=1000000000", "backbone.decoder_width", "less"),
    value("masks.scales=[1e9]", "masks.scales", "less"),
    value("masks.scales=[1e-9]", "masks.scales", "greater"),
    value("lir.kernel_size=1000000", "lir.kernel_size", "less"),
    value("data.crop_size=50", "data.crop_size is 50", "give 48"),
    value("data.crop_size=3", "data.crop_size is 3", "give 8"),
    value("masks.scales=[0.1]", "masks.scales holds 0.1", "drop it"),
    value("optimizer.lr=1e38", "optimizer.lr", "less"),
    value("data.numbering=[cat,cat]", "data.numbering", "distinct"),
    value("data.mask_orientation=upside", "data.mask_orientation", "'stored'"),
    value("backbone.name=resnet50", "backbone", "vit_"),
    value("backbone.name=vit_bse_patch16_224", "backbone.name", "did you mean"),
    value("backbone.name=vit_base_patch16_224.none", "backbone.name", "vit_base_patch16_224"),
    value("data.train_split=absent", "absent.txt", "splits here: train, val"),
    value("data.train_split=../val", "../val"),
    value("data.skip=[a, b, c]", "data.skip", "no image"),
    value("data.classes=[cat, horse]", "horse"),
]
