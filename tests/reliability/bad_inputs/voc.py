"""Trees in VOC's layout: parts that are missing, lists and annotations that are hostile."""

from tests.reliability.bad_inputs.building import Build, Case, case, folder, gone, write

TRAIN = (
    "train --recipe small.yaml --set data.dataset=voc --set data.root=voc "
    "--set data.classes=[cat,dog] --folder out"
)
XML, LIST = "voc/Annotations/v1.xml", "voc/ImageSets/Segmentation/train.txt"
BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {name} "{10 * f"&{inner};"}">'
        for inner, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><annotation><object><name>&i;</name></object></annotation>"
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    "<annotation><object><name>&e;</name></object></annotation>"
)
DEEP = f"<annotation>{'<part>' * 300_000}{'</part>' * 300_000}</annotation>"


def xml(name: str, content: str | bytes, *said: str) -> Case:
    return case(f"annotation, {name}", TRAIN, write(XML, content), XML, *said)


def objects(name: str, inside: str, *said: str) -> Case:
    return xml(name, f"<annotation><object>{inside}</object></annotation>", *said)


def listed(name: str, content: str | bytes, *said: str) -> Case:
    return case(f"VOC list, {name}", TRAIN, write(LIST, content), LIST, *said)


def tree(name: str, build: Build, *said: str) -> Case:
    return case(f"VOC tree, {name}", TRAIN, build, *said)


CASES = [
    tree("not there", gone("voc"), "voc is missing", "data.root"),
    tree("no photographs", gone("voc/JPEGImages"), "voc/JPEGImages", "missing"),
    tree("no lists", gone("voc/ImageSets"), "voc/ImageSets/Segmentation", "missing"),
    tree("no annotations", gone("voc/Annotations"), "voc/Annotations", "missing"),
    tree("a file for annotations", write("voc/Annotations", "x"), "voc/Annotations"),
    tree("one photograph missing", gone("voc/JPEGImages/v1.jpg"), "v1.jpg", "--skip-bad"),
    tree("one annotation missing", gone(XML), XML, "missing"),
    tree("no list of the split", gone(LIST), LIST, "splits here: val"),
    tree("a folder for an annotation", folder(XML), XML),
    xml("empty", "", "no readable annotation"),
    xml("cut short", "<annotation><object><na", "no readable annotation"),
    xml("no XML", "cat 1 2 3 4\n", "no readable annotation"),
    xml("no UTF-8", b"<annotation><object><name>c\xe4t</name></object></annotation>"),
    xml("an unknown encoding", '<?xml version="1.0" encoding="klingon"?><annotation/>'),
    xml("a bomb of entities", BOMB, "DOCTYPE"),
    xml("a file from outside", OUTSIDE, "DOCTYPE"),
    xml("300,000 elements deep", DEEP),
    xml("no object", "<annotation></annotation>", "no object", "out of the split"),
    objects("an object without a name", "<pose>left</pose>", "''", "classes are"),
    objects("an unknown class", "<name>unicorn</name>", "'unicorn'", "classes are"),
    objects("none of the chosen classes", "<name>horse</name>", "horse", "data.classes"),
    listed("empty", "", "one image id a line"),
    listed("labels behind ids", "v1 1\nv2 -1\n", "'v1 1'", "one image id a line"),
    listed("a path", "../../../etc/passwd\n", "'../../../etc/passwd'", "id"),
    listed("no UTF-8", b"v1\n\xff\xfe\xfa\n", "UTF-8"),
    listed("UTF-16 without a mark", "v1\nv2\n".encode("utf-16-le"), "UTF-8"),
    tree("a list with an unknown id", write(LIST, "v1\nv9\n"), "v9", "missing"),
    tree("a list with an id of 300 letters", write(LIST, "v" * 300 + "\n"), "vvv"),
    listed("NUL bytes", b"v1\nv\x002\n", "no text"),
    case(
        "VOC, a class that is none of the twenty",
        f"{TRAIN} --set data.classes=[cat,unicorn]",
        None,
        "data.classes",
        "unicorn",
    ),
    case(
        "VOC without masks",
        "evaluate --recipe small.yaml --set data.dataset=voc --set data.root=voc "
        "--set data.classes=[cat,dog]",
        gone("voc/SegmentationClass"),
        "split 'val'",
        "no pixel masks",
        "predict",
    ),
]
