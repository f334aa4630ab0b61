"""A course folder for nbgrader: its configuration, the header, and all exercises as assignments."""

import re
from pathlib import Path

import nbformat
from nbformat import v4

from more_lib.system.errors import InputError
from more_lib.system.files import CHECKOUT, absolute, atomic_folder

MASTERS = CHECKOUT / "notebooks" / "exercises"
CONFIG = '''"""nbgrader's configuration of this course."""

from pathlib import Path

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = {name!r}
c.IncludeHeaderFooter.header = "source/header.ipynb"

# An exchange of the course's own. On a JupyterHub name the folder that all users share instead.
c.Exchange.root = str(Path(__file__).parent / "exchange")

# Seconds after which a cell of a submission is interrupted and counts as failed.
c.Execute.timeout = 60
# Seconds that its output may then take to arrive: nbgrader's 4 are too few on a busy machine.
c.Execute.iopub_timeout = 60

# Tests that a student has deleted come back.
c.OverwriteCells.add_missing_cells = True

# zip_collect reads downloaded/ASSIGNMENT/archive/: notebooks, or a zip of them, that are named
# STUDENT_NOTEBOOK.ipynb as in alice_03_gcr.ipynb. A learning platform puts more into names: say so.
c.FileNameCollectorPlugin.named_regexp = r".*/(?P<student_id>[^/_]+)_(?P<file_id>[^/]+)"
'''
HEADER = """**Before you hand this in:** restart the kernel and run all cells from the top.

Write where a cell holds `raise NotImplementedError()` or "YOUR ANSWER HERE", and put your name \
below. Cells of checks are locked: whatever is changed in them is put back before grading.

`seed`, in the first cell of the exercises, chooses the random cases that the visible checks take. \
Grading takes others as well."""
NAMES = 'NAME = ""\nCOLLABORATORS = ""'
NEXT = """wrote {course}: {count} assignments. In it, with `.venv` active, for each in source/:
nbgrader generate_assignment ASSIGNMENT   students' copies into release/
nbgrader release_assignment ASSIGNMENT    into the exchange; or hand release/ASSIGNMENT out
nbgrader zip_collect ASSIGNMENT           from downloaded/ASSIGNMENT/archive/ to submitted/
nbgrader autograde ASSIGNMENT             runs what students wrote, with your rights: see
                                          `python -m more_lib classroom grade --help`
nbgrader generate_feedback ASSIGNMENT     pages into feedback/
nbgrader export                           grades.csv"""


def new_course(course: str | Path, masters: Path = MASTERS) -> str:
    """Write a course folder; returns what to do next.

    course: a folder that is not there yet. masters: where exercises lie. Raises ``InputError``
    where there are none, or something is in the way.
    """
    course = absolute(course)
    sources = sorted(masters.glob("*.ipynb"))
    if not sources:
        raise InputError(f"no exercises in {masters}: make a course from a checkout")
    if course.exists() or course.is_symlink():
        raise InputError(f"{course} is there already: name a folder that is not")
    name = re.sub(r"\W+", "-", course.name).strip("-") or "more"
    with atomic_folder(course) as folder:
        (folder / "nbgrader_config.py").write_text(CONFIG.format(name=name), encoding="utf-8")
        (folder / "source").mkdir()
        cells = [v4.new_markdown_cell(HEADER, id="header"), v4.new_code_cell(NAMES, id="names")]
        metadata = nbformat.read(sources[0], as_version=4).metadata
        header = v4.new_notebook(cells=cells, metadata=metadata)
        nbformat.write(header, folder / "source" / "header.ipynb")
        for source in sources:
            (folder / "source" / source.stem).mkdir()
            nbformat.write(_alone(source), folder / "source" / source.stem / source.name)
    return NEXT.format(course=course, count=len(sources))


def _alone(source: Path) -> nbformat.NotebookNode:
    """A master whose links to notebooks that students do not get are names."""
    book = nbformat.read(source, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\[([^]]+)\]\(\.\./([\w.]+)\)", r"\1 (`\2`)", cell.source)
    return book
