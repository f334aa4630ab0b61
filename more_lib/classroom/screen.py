"""The explorer's one screen (notebook 09): what is chosen on it makes a view, and that a row."""

from dataclasses import replace
from html import escape
from io import BytesIO
from threading import RLock

import anywidget
import ipywidgets as widgets
import traitlets
from IPython.display import display
from PIL import Image

from more_lib.classroom.explorer import Explorer, View, views_text
from more_lib.evaluation.protocols import MAP_NAMES
from more_lib.figures.explorer import patch_at, png
from more_lib.method.localization import Group
from more_lib.system.errors import InputError
from more_lib.system.progress import interactive

THRESHOLDS = [hundredth / 100 for hundredth in range(5, 96)]
SCALES: tuple[Group, ...] = (((1.0,), False), ((1.0,), True), ((0.5, 1.0, 1.5, 2.0), True))
# Where Voilà serves the notebook alone, its cell alone is shown.
ALONE = """<style>
body[data-voila] .jp-Cell:not(.celltag_screen) { display: none }
body[data-voila] #rendered_cells > div { padding: 0 1ex }
</style>"""


class Row(anywidget.AnyWidget):
    """A picture as wide as there is room, that says where it was clicked and can be saved.

    place: (x, y) of the last click, in [0, 1] from the top left.
    """

    png = traitlets.Bytes().tag(sync=True)
    text = traitlets.Unicode().tag(sync=True)  # for readers who do not see it
    place = traitlets.List(traitlets.Float()).tag(sync=True)
    _esm = """
    const url = (bytes) => URL.createObjectURL(new Blob([bytes], {type: "image/png"}));
    function render({ model, el }) {
      const image = document.createElement("img");
      image.style.cssText = "width: 100%; max-width: 1255px; cursor: crosshair; display: block";
      const show = () => {
        URL.revokeObjectURL(image.src);
        image.alt = model.get("text");
        image.hidden = !model.get("png").byteLength;
        image.src = image.hidden ? "" : url(model.get("png"));
      };
      image.onclick = (event) => {
        const box = image.getBoundingClientRect();
        model.set("place", [(event.clientX - box.left) / box.width,
                            (event.clientY - box.top) / box.height]);
        model.save_changes();
      };
      model.on("change:png", show);
      model.on("msg:custom", (name, buffers) => {
        const link = document.createElement("a");
        link.href = url(buffers[0]);
        link.download = name;
        link.click();
      });
      show();
      el.append(image);
    }
    export default { render };
    """


class Screen:
    """Widgets in ``box``; each change of theirs draws what is now chosen, the pinned row below it.

    view: what is chosen at first; its picture, class and patch are the pinned row's, too, whose
    other settings stay as they were when it was pinned. What cannot be used is said in a line, and
    changes nothing.
    """

    def __init__(self, explorer: Explorer, view: View, pinned: View | None = None) -> None:
        self.explorer, self.view, self.pinned, self._quiet = explorer, view, pinned, False
        self.rows, self._shown = (Row(), Row()), [None, None]
        self._turn = RLock()  # JupyterLab has what widgets say handled by more than one thread
        own = explorer.networks[view.network].recipe.evaluation.scales
        groups = dict.fromkeys([view.views, (tuple(own), True), *SCALES])
        self.picture = widgets.IntSlider(
            explorer.pictures.index(view.picture), 0, len(explorer.pictures) - 1,
            description="picture", layout={"width": "260px"},
        )  # fmt: skip
        self.upload = widgets.FileUpload(description="your picture", accept="image/*")
        self.category = _menu("class", explorer.classes(view.network), view.category)
        self.network = _menu("network", list(explorer.networks), view.network)
        self.folder = widgets.Text(
            placeholder="folder of a training of yours", continuous_update=False,
            layout={"width": "220px"},
        )  # fmt: skip
        self.map = widgets.ToggleButtons(
            options=self._maps(view.network), value=view.map, style={"button_width": "auto"}
        )
        self.threshold = widgets.SelectionSlider(
            options=[(f"{each:.2f}", each) for each in sorted({*THRESHOLDS, view.threshold})],
            value=view.threshold, description="threshold", layout={"width": "250px"},
        )  # fmt: skip
        self.views = _menu("scales", [(views_text(each), each) for each in groups], view.views)
        self.crf = widgets.Checkbox(view.crf, description="CRF", indent=False)
        self.crf.layout.width = "60px"
        self.row, self.column = (
            widgets.BoundedIntText(value, 0, 10**4, description=name, layout={"width": "115px"})
            for name, value in zip(("patch row", "column"), view.patch, strict=True)
        )
        self.pin = widgets.ToggleButton(
            pinned is not None, description="pinned below", icon="thumb-tack"
        )
        self.save = widgets.Button(description="save as PNG", icon="download")
        self.message = widgets.HTML()
        self.box = self._laid_out()
        for control in (*self._chosen(), self.upload, self.folder, self.pin):
            control.style.description_width = "initial"
            control.observe(self._changed, "value")
        self.save.on_click(self._save)
        for row in self.rows:
            row.observe(self._clicked, "place")
        self._settle()

    def _laid_out(self) -> widgets.Widget:
        lines = (
            (self.picture, self.upload, self.network, self.folder),
            (self.category, self.map, self.views, self.crf),
            (self.threshold, self.row, self.column, self.pin, self.save, self.message),
        )
        flow = {"flex_flow": "row wrap", "align_items": "center", "grid_gap": "2px 10px"}
        boxes = [widgets.HBox(line, layout=flow) for line in lines]
        return widgets.VBox([widgets.HTML(ALONE, layout={"display": "none"}), *boxes, *self.rows])

    def _maps(self, network: str) -> tuple[tuple[str, str], ...]:
        return tuple((MAP_NAMES[kind], kind) for kind in self.explorer.maps(network))

    def _chosen(self) -> tuple[widgets.Widget, ...]:
        """The widgets whose values make the view."""
        return (self.picture, self.category, self.network, self.map, self.threshold, self.views,
                self.crf, self.row, self.column)  # fmt: skip

    def _changed(self, change: dict) -> None:
        """Something was chosen: take it in, and draw. What that itself changes is not chosen."""
        with self._turn:
            if self._quiet:
                return
            self.message.value, self._quiet = "CRF …" * self.crf.value, True
            try:
                self._take(change["owner"])
                self._settle()
                self.message.value = ""
            except Exception as error:
                self.message.value = f"<b>{escape(str(error) or type(error).__name__)}</b>"
                if not isinstance(error, InputError):
                    raise  # into the log
            finally:
                self._quiet = False

    def _take(self, control: widgets.Widget) -> None:
        """Take in the picture, the network or the row that a control hands over, if it does."""
        if control is self.upload and self.upload.value:
            file, self.upload.value = self.upload.value[0], ()  # so that it can be chosen again
            self._take_in(file)
        elif control is self.folder and self.folder.value.strip():
            name = self.explorer.add_network(self.folder.value.strip())
            self.network.options = tuple(self.explorer.networks)
            self.network.value = name
        elif control is self.pin:
            self.pinned = self.view if self.pin.value else None

    def _take_in(self, file: dict) -> None:
        name = self.explorer.add_picture(file["name"], bytes(file["content"]))
        self.picture.max = len(self.explorer.pictures) - 1
        self.picture.value = self.explorer.pictures.index(name)

    def _clicked(self, change: dict) -> None:
        """Choose the patch that was clicked."""
        with self._turn:
            size = self.explorer.image(self.view.picture).size[::-1]
            patch = patch_at(*change["new"], size, self.explorer.grid(self.view))
            if patch and patch != self.view.patch:
                self._quiet = True
                self.row.value, self.column.value = patch
                self._quiet = False
                self._changed({"owner": self.column})

    def _settle(self) -> None:
        """Make the view of what is chosen, the rest of the widgets fit it, and draw it."""
        network, picture = self.network.value, self.explorer.pictures[self.picture.value]
        labels = self.explorer.labels(picture) or ()
        known, category = self.explorer.classes(network), self.category.value
        moved = picture != self.view.picture and labels and category not in labels
        if moved or category not in known:
            category = next((name for name in labels if name in known), known[0])
        options = [(f"{name} (here)" if name in labels else name, name) for name in known]
        if self.category.options != tuple(options):
            self.category.options = options
        self.category.value = category
        if self.map.options != (drawn := self._maps(network)):
            kinds, kind = self.explorer.maps(network), self.map.value
            self.map.options = drawn
            self.map.value = kind if kind in kinds else self.explorer.own_map(network)
        view = View(
            picture, category, network, self.map.value, self.threshold.value, self.views.value,
            self.crf.value, (self.row.value, self.column.value),
        )  # fmt: skip
        self.row.max, self.column.max = (side - 1 for side in self.explorer.grid(view))
        view = replace(view, patch=(self.row.value, self.column.value))
        self.threshold.disabled = view.crf or view.map == "decoder"
        self._draw(0, view)
        self.view = view
        shared = {"picture": picture, "category": category, "patch": view.patch}
        self._draw(1, self.pinned and replace(self.pinned, **shared))

    def _draw(self, index: int, view: View | None) -> None:
        if view != self._shown[index]:
            text, drawn = "", b""
            if view:
                text, drawn = self.explorer.title(view), self.explorer.png(view)
            self.rows[index].text, self.rows[index].png = text, drawn
            self._shown[index] = view

    def _save(self, _: widgets.Button) -> None:
        """Hand the browser what is shown, the rows one above the other."""
        pictures = [Image.open(BytesIO(row.png)) for row in self.rows if row.png]
        whole = Image.new("RGB", (pictures[0].width, sum(each.height for each in pictures)))
        for number, each in enumerate(pictures):
            whole.paste(each, (0, number * each.height))
        view = self.view
        name = f"{view.picture}-{view.category}-{view.network}-{view.map}.png"
        self.rows[0].send(name, buffers=[png(whole)])


def show_explorer(explorer: Explorer, view: View, pinned: View | None = None) -> None:
    """The screen, for a reader; like ``figures.widgets.explore`` nothing where nobody watches."""
    if interactive():
        display(Screen(explorer, view, pinned).box)


def _menu(name: str, options: object, value: object) -> widgets.Dropdown:
    width = {"width": "max-content"}
    return widgets.Dropdown(options=options, value=value, description=name, layout=width)
