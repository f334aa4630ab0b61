"""The options of the commands: each with its help, its metavar and what it accepts."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

File, Folder, Name = (partial(Option, metavar=what) for what in ("FILE", "FOLDER", "NAME"))

# What a recipe is made of
_PROFILE = """A named recipe: mini (emoji made on the spot, CPU, minutes; mini-plus with
values of our own, mini-released nearer to the release), photos (hundreds of yours with --data,
CPU, minutes), pets and voc (one GPU), coco (several GPUs, as the released script) or coco-log (as
the published log)."""
Profile = Annotated[str, Name(help=_PROFILE)]
OwnProfile = Annotated[str | None, Name(help=f"{_PROFILE} Without it mini.")]
Changes = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="One value, as optimizer.lr=1e-4. May be repeated."),
]
RecipeFile = Annotated[Path | None, File(help="YAML with the values to change.")]
Data = Annotated[Path | None, Folder(help="Yours: FOLDER/images, /labels.csv; /masks if any.")]
Labels = Annotated[
    Path | None, File(help="With --data: the table elsewhere (image,classes; 1.jpg,cat;dog).")
]
SkipBad = Annotated[bool, Option("--skip-bad", help="Leave out and list images that are damaged.")]

# Which network
_CHECKPOINT = """A folder that `train` made; its recipe counts then, with --set on top. Without
it, the recipe's model, trained first if need be."""
Checkpoint = Annotated[Path | None, Folder(exists=True, file_okay=False, help=_CHECKPOINT)]
_RELEASED = """The authors' checkpoint (a .pth or safetensors file of the released code); with
--profile voc or coco."""
Released = Annotated[Path | None, File(exists=True, dir_okay=False, help=_RELEASED)]

# reproduce and train
Runs = Annotated[Path, Folder(help="Where the folders of runs go.")]
ResumeRun = Annotated[bool, Option(help="Continue the last run: skip what is done and unchanged.")]
Full = Annotated[bool, Option("--full", help="Train all six conditions with three seeds each.")]
TrainFolder = Annotated[Path | None, Folder(help="Train into this new folder.")]
ResumeTraining = Annotated[bool, Option("--resume", help="Go on from the newest checkpoint.")]
Tensorboard = Annotated[bool, Option("--tensorboard", help="Write the log for TensorBoard too.")]

# evaluate
_PROTOCOL = """Score by the protocol of a published number: paper-val, decoder-val,
decoder-val-toco, decoder-log, lam-log, cam-log, cam-one, of which NAME-native takes photographs in
their own size, lam-train, lam-train-crf, cam-train or cam-train-crf; of other methods also
aux-cam-one and seed-train. May be repeated."""
Protocols = Annotated[list[str] | None, Name("--protocol", help=_PROTOCOL)]
ListProtocols = Annotated[bool, Option("--list-protocols", help="Say what each is; score nothing.")]
Split = Annotated[str, Name(help="With --protocol: another split than its own.")]
Export = Annotated[
    Path | None, File(help="Write one --protocol's masks for VOC's server: .tgz or folder.")
]
ScoresFile = Annotated[Path | None, File(help="Save all scores, by class, here.")]

# predict
Images = Annotated[list[Path], Argument(metavar="IMAGES...", help="Images, and folders of them.")]
ImageLabels = Annotated[
    Path | None, File(help="Take the classes of this table, as for `train --labels`.")
]
Output = Annotated[Path, Folder(help="Where masks and overlays go.")]
_MAP = """Made into masks: lam, cam, fused, decoder or attention; of another method what that
draws. Without it LAM, or the method's own."""
MapName = Annotated[str, Name(help=_MAP)]
Crf = Annotated[bool, Option("--crf", help="Refine along the image's edges by a dense CRF.")]
Npz = Annotated[bool, Option("--npz", help="Keep the maps as numbers, too: maps/<image>.npz.")]
ResumePredictions = Annotated[
    bool, Option("--resume", help="Go on after a stop: keep what is done and unchanged.")
]
Force = Annotated[bool, Option("--force", help="Overwrite what is in the output folder.")]

# report, study and bench
RunFolders = Annotated[list[Path], Argument(metavar="RUN", help="Folders, as in runs/mini/.")]
ComparisonFile = Annotated[Path | None, File(help="Where a comparison goes.")]
Results = Annotated[bool, Option("--results", help="Write notebooks/RESULTS.md from a mini run.")]
StudyName = Annotated[
    str,
    Argument(metavar="NAME", help="conditions, variants, plus, backbones, methods or photographs."),
]
StudyProfile = Annotated[str | None, Name(help="A named recipe; without it the study's own.")]
Seeds = Annotated[int, Option(metavar="N", min=1, help="Trainings of each, from the seed on.")]
TrainedOnly = Annotated[bool, Option("--trained-only", help="Score what is trained; train none.")]
StudyFile = Annotated[Path | None, File(help="Save every row and its protocol.")]
_TIMED = "What to time: losses, crf, step, speed, scaling, run or compare."
Timed = Annotated[str, Argument(metavar="WHAT", help=_TIMED)]
_COMPARED = "A run's folder, or two files to compare."
Compared = Annotated[list[Path] | None, Argument(metavar="[PATHS]", help=_COMPARED)]
Shape = Annotated[str, Name(help="Losses: sizes of voc, coco, or all.")]
FullScaling = Annotated[bool, Option("--full", help="scaling: up to 10,000 images, 1,024 pixels.")]
