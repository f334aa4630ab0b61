"""The explorer: views that show what evaluation scores, and a screen that never breaks."""

import datetime
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from time import process_time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from more_lib.classroom import screen as module
from more_lib.classroom.explorer import Explorer, View, views_text
from more_lib.classroom.screen import Screen, show_explorer
from more_lib.data import open_tree
from more_lib.evaluation.masks import SplitImages, segment
from more_lib.evaluation.metrics import confusion_matrix, scores
from more_lib.evaluation.protocols import map_protocol
from more_lib.figures.explorer import HEIGHT, WIDTH, picture_boxes
from more_lib.method.localization import lam
from more_lib.method.model import MoRe
from more_lib.method.pseudo_labels import PixelAdaptiveRefinement
from more_lib.recipes import changed, load_recipe
from more_lib.system.errors import InputError
from more_lib.training import train
from tests.training.helpers import small_recipe

TWICE = ((1.0, 1.5), True)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return small_recipe(tmp_path_factory.mktemp("explorer"), "optimizer.iterations=1")


@pytest.fixture(scope="module")
def networks(recipe):
    """A baseline, MoRe, and a network that counts the classes from the other end; untrained."""
    backwards = f"data.classes=[{','.join(reversed(recipe.data.classes))}]"
    recipes = {"plain": ["graph.use=false"], "more": [], "backwards": [backwards]}
    torch.manual_seed(0)
    networks = {}
    for name, changes in recipes.items():
        own = changed(recipe, changes)
        networks[name] = SimpleNamespace(model=MoRe.from_recipe(own), recipe=own)
    return networks


@pytest.fixture
def explorer(networks):
    return Explorer(networks)


@pytest.fixture
def view(explorer):
    picture = explorer.pictures[0]
    category = explorer.labels(picture)[0]
    return View(picture, category, "more", views=TWICE, patch=(3, 5))


def counted(explorer, name):
    """The inputs that a network's encoder gets from now on."""
    calls = []
    encoder = explorer.networks[name].model.encoder
    encoder.register_forward_pre_hook(lambda _, inputs: calls.append(tuple(inputs[0].shape)))
    return calls


def uploaded(name, content):
    now = datetime.datetime.now()
    return ({"name": name, "type": "", "size": len(content), "content": memoryview(content),
             "last_modified": now},)  # fmt: skip


def file_of(image):
    image.save(buffer := io.BytesIO(), format="png")
    return buffer.getvalue()


def protocols_of(recipe, kinds):
    each = (map_protocol(recipe, kind, "none" if kind == "decoder" else "true") for kind in kinds)
    return [replace(protocol, scales=TWICE[0], flip=TWICE[1]) for protocol in each]


def test_a_view_shows_the_mask_and_the_scores_of_an_evaluation(explorer, recipe):
    protocols = protocols_of(recipe, explorer.maps("more"))
    tree, network = open_tree(recipe.data), explorer.networks["more"]
    images = SplitImages(tree, tree.ids("val"), labels=True, masks=True)
    (batch,) = segment(network.model, recipe, protocols, images, torch.device("cpu"))
    for protocol, masks in zip(protocols, batch.predictions):
        for picture, mask, truth in zip(batch.ids, masks, batch.masks):
            of_all = scores(confusion_matrix(mask, truth, len(recipe.data.classes) + 1))
            for category in explorer.labels(picture):
                row = explorer.see(View(picture, category, "more", protocol.map, 0.5, TWICE))
                assert (row.mask == mask.numpy()).all() and (row.truth == truth.numpy()).all()
                ours = [row.scores["IoU"], row.scores["precision"], row.scores["recall"]]
                each = (of_all.iou, of_all.precision, of_all.recall)
                assert ours == pytest.approx([kind[row.number] for kind in each], nan_ok=True)


def test_a_patch_is_compared_and_gathered_as_the_network_does_it(explorer, view):
    row, model = explorer.see(view), explorer.networks["more"].model
    _, inputs = explorer._inputs(view.picture, "more")
    with torch.no_grad():
        output, before = model(inputs), model(inputs, with_gcr=False)
        patches = output.features[0].flatten(1).T
        graph = model.graph.graph(before.class_tokens, patches[None])
    classes = explorer.classes("more")
    place, count = 3 * 12 + 5, len(classes)
    chosen = patches[place]
    for other in (0, 40, 143):
        cosine = torch.cosine_similarity(chosen, patches[other], dim=0)
        assert row.likeness[divmod(other, 12)] == pytest.approx(cosine.item(), abs=1e-5)
    by_cosine = lam(output.features, output.class_tokens, "cosine")[0, :, 3, 5]
    assert row.tokens == pytest.approx(by_cosine.numpy(), abs=1e-5)
    gathered, framed = np.full(count, np.nan), np.zeros((12, 12), bool)
    for head in range(count):
        for tail, weight in zip(graph.neighbors[0, head].tolist(), graph.weights[0, head]):
            if tail == count + place:  # behind the class tokens
                gathered[head] = weight.item()
            if head == classes.index(view.category) and tail >= count:
                framed[divmod(tail - count, 12)] = True
    assert row.gathered == pytest.approx(gathered, abs=1e-5, nan_ok=True)
    assert (row.neighbors == framed).all()
    assert explorer.see(replace(view, network="plain")).neighbors is None


def test_gathered_weights_are_found_at_the_framed_patches(explorer, view):
    row = explorer.see(view)
    for place in np.ndindex(12, 12):
        weight = explorer.see(replace(view, patch=place)).gathered[row.number - 1]
        assert np.isnan(weight) != row.neighbors[place]


def test_truth_is_counted_in_the_networks_own_numbers(explorer, view):
    own, other = explorer.see(view), explorer.see(replace(view, network="backwards"))
    assert own.number + other.number == 1 + len(explorer.classes("more"))
    assert ((own.truth == own.number) == (other.truth == other.number)).all()
    assert ((own.truth == 255) == (other.truth == 255)).all()


def test_a_network_runs_once_for_a_picture_and_its_scales(explorer, view):
    calls = counted(explorer, "more")
    first = explorer.see(view)
    ran = len(calls)
    for change in ({"map": "cam"}, {"threshold": 0.2}, {"patch": (0, 0)}, {"map": "fused"},
                   {"category": explorer.classes("more")[-1]}):  # fmt: skip
        explorer.see(replace(view, **change))
    assert ran and len(calls) == ran
    explorer.see(replace(view, views=((0.5,), False)))
    assert len(calls) > ran
    assert (explorer.see(view).mask == first.mask).all()


def test_decoder_and_crf_ask_for_no_threshold(explorer, view, monkeypatch):
    monkeypatch.setattr("more_lib.classroom.explorer.dense_crf", lambda image, p, method: p)
    for change in ({"map": "decoder"}, {"crf": True}):
        low, high = (
            explorer.see(replace(view, threshold=threshold, **change)) for threshold in (0.1, 0.9)
        )
        assert (low.mask == high.mask).all()
        assert "threshold" not in replace(view, **change).title
    low, high = (explorer.see(replace(view, threshold=threshold)) for threshold in (0.1, 0.9))
    assert (low.mask > 0).sum() > (high.mask > 0).sum()


def test_the_crf_gets_the_picture_and_scores_and_decides(explorer, view, monkeypatch):
    given = []

    def stand_in(image, probabilities, method):
        given.append((image, probabilities))
        return torch.stack([torch.zeros(96, 96), *torch.ones(len(probabilities) - 1, 96, 96)])

    monkeypatch.setattr("more_lib.classroom.explorer.dense_crf", stand_in)
    row = explorer.see(replace(view, crf=True))
    ((image, probabilities),) = given
    assert (image == row.image).all() and torch.allclose(
        probabilities[0], 1 - probabilities[1:].amax(0)
    )
    assert (row.mask > 0).all()
    assert (row.map == explorer.see(view).map).all()  # the map is shown as it was


def test_maps_are_refined_where_the_recipe_says_so_and_a_crf_refines_alone(
    networks, view, monkeypatch
):
    monkeypatch.setattr("more_lib.classroom.explorer.dense_crf", lambda image, p, method: p)
    plain = networks["more"]
    recipe = changed(plain.recipe, ["evaluation.refinement=par"])
    both = Explorer({"more": plain, "refined": SimpleNamespace(model=plain.model, recipe=recipe)})
    asked = view, replace(view, network="refined")
    before, after = map(both.see, asked)
    masks, picture = recipe.masks, torch.from_numpy(before.image.copy()).permute(2, 0, 1) / 255
    par = PixelAdaptiveRefinement(masks.dilations, masks.refinements)
    expected = par.level(picture[None], torch.from_numpy(before.map)[None, None])[0, 0]
    np.testing.assert_allclose(after.map, expected, atol=1e-4)
    assert not np.allclose(after.map, before.map, atol=1e-2)
    titles = [both.title(each) for each in asked]
    assert ["PAR" in title for title in titles] == [False, True]
    asked = [replace(each, crf=True) for each in asked]
    before, after = map(both.see, asked)
    assert (after.map == before.map).all() and (after.mask == before.mask).all()
    assert not any("PAR" in both.title(each) for each in asked)


def test_a_patch_beyond_the_grid_is_the_last_one(explorer, view):
    assert explorer.see(replace(view, patch=(99, 2))).patch == (11, 2)


def test_a_picture_of_ones_own_has_no_truth_and_predicted_labels(explorer, view):
    photo = Image.effect_noise((140, 90), 90).convert("RGB")
    name = explorer.add_picture("mine.png", file_of(photo))
    assert explorer.add_picture("mine.png", file_of(photo)) == "mine.png (2)"
    row = explorer.see(replace(view, picture=name))
    assert row.truth is None and row.scores == {} and row.mask.shape == (90, 140)
    assert explorer.labels(name) is None and row.likeness.shape == (11, 18)
    assert row.image.shape == (90, 140, 3)


@pytest.mark.parametrize("content", [b"", b"no picture", file_of(Image.new("RGB", (9, 9)))[:40]])
def test_a_broken_file_is_named_and_changes_nothing(explorer, content):
    before = list(explorer.pictures)
    with pytest.raises(InputError, match=r"^mine.png cannot be read \(.*\)$"):
        explorer.add_picture("mine.png", content)
    assert explorer.pictures == before


def test_unusable_questions_are_one_line(explorer, view, tmp_path):
    with pytest.raises(InputError, match="more knows no unicorn; choose another class"):
        explorer.see(replace(view, category="unicorn"))
    with pytest.raises(InputError, match="no network"):
        Explorer({})
    with pytest.raises(InputError, match="recipe"):
        explorer.add_network(tmp_path)
    assert list(explorer.networks) == ["plain", "more", "backwards"]


def test_a_training_of_ones_own_joins_the_networks(explorer, recipe, view, tmp_path):
    train(recipe, tmp_path / "hot")
    name = explorer.add_network(str(tmp_path / "hot"))
    assert name == "hot" and explorer.see(replace(view, network=name)).scores


def test_scales_are_said_as_protocols_say_them():
    assert views_text(TWICE) == "1 1.5 + flip" and views_text(((0.5,), False)) == "0.5"


@pytest.fixture
def screen(explorer, view):
    return Screen(explorer, view, pinned=replace(view, network="plain"))


def rows(screen):
    return [row.png for row in screen.rows]


def test_the_screen_draws_its_view_and_the_pinned_one(screen, explorer, view):
    assert rows(screen) == [explorer.png(view), explorer.png(replace(view, network="plain"))]
    assert [row.text for row in screen.rows] == [view.title, replace(view, network="plain").title]


@pytest.mark.parametrize(
    ("control", "value", "changes"),
    [
        ("threshold", 0.7, {"threshold": 0.7}),
        ("map", "cam", {"map": "cam"}),
        ("views", ((1.0,), False), {"views": ((1.0,), False)}),
        ("network", "backwards", {"network": "backwards"}),
        ("row", 7, {"patch": (7, 5)}),
        ("column", 99, {"patch": (3, 11)}),
    ],
)
def test_each_control_changes_its_part_of_the_view_alone(
    screen, explorer, view, control, value, changes
):
    below = rows(screen)[1]
    getattr(screen, control).value = value
    assert screen.view == replace(view, **changes)
    assert rows(screen)[0] == explorer.png(screen.view)
    shared = "patch" in changes
    assert (rows(screen)[1] == below) == (not shared)


def test_another_picture_brings_a_class_of_its_own_to_both_rows(screen, explorer, view):
    for number, picture in enumerate(explorer.pictures):
        screen.picture.value = number
        labels = explorer.labels(picture)
        assert screen.view.picture == picture and screen.view.category in labels
        marked = {value for label, value in screen.category.options if label.endswith("(here)")}
        assert marked == set(labels)
        assert picture in screen.rows[1].text and screen.view.category in screen.rows[1].text
    absent = next(name for name in explorer.classes("more") if name not in labels)
    screen.category.value = absent  # may be asked for, too
    assert screen.view.category == absent


def test_a_click_chooses_its_patch_and_one_beside_the_pictures_none(screen):
    left, top, width, height = picture_boxes((96, 96))[4]
    screen.rows[1].place = [(left + 8.5 / 12 * width) / WIDTH, (top + 1.5 / 12 * height) / HEIGHT]
    assert screen.view.patch == (1, 8) == (screen.row.value, screen.column.value)
    before = rows(screen)
    screen.rows[0].place = [0.999, 0.5]
    assert screen.view.patch == (1, 8) and rows(screen) == before


def test_a_broken_upload_is_said_and_changes_nothing_and_a_good_one_is_shown(screen):
    before, view = rows(screen), screen.view
    screen.upload.value = uploaded("<b>.png", b"no picture")
    assert "&lt;b&gt;.png cannot be read" in screen.message.value
    assert rows(screen) == before and screen.view == view and screen.upload.value == ()
    screen.upload.value = uploaded("mine.png", file_of(Image.new("RGB", (60, 40), "red")))
    assert screen.view.picture == "mine.png" and screen.message.value == ""
    assert all("mine.png" in row.text for row in screen.rows)


def test_a_folder_without_training_is_said_and_changes_nothing(screen, tmp_path):
    before = rows(screen)
    screen.folder.value = str(tmp_path)
    assert str(tmp_path) in screen.message.value and rows(screen) == before
    screen.threshold.value = 0.3
    assert screen.message.value == "" and rows(screen) != before


def test_a_change_is_drawn_within_300_ms_once_the_maps_are_there(screen):
    """Of a core's time, which no other process takes from it."""
    changes = {"threshold": 0.6, "map": "fused", "row": 9, "column": 2, "network": "backwards"}
    for name, value in {**changes, "picture": 1, "views": ((1.0,), True)}.items():
        control = getattr(screen, name)
        first, control.value = control.value, value  # the network runs where it has to
        control.value = first
        began = process_time()
        control.value = value
        assert process_time() - began < 0.3, name


def test_what_two_threads_hand_over_at_once_is_taken_in_one_after_the_other(screen, monkeypatch):
    """JupyterLab sends what widgets say to a thread of its own, or to the main one."""
    drawing, go_on, png = Event(), Event(), screen.explorer.png

    def slow(view):
        drawing.set()
        assert go_on.wait(60)
        return png(view)

    monkeypatch.setattr(screen.explorer, "png", slow)
    broken = uploaded("broken.png", b"no picture")
    with ThreadPoolExecutor(2) as pool:
        turned = pool.submit(setattr, screen.threshold, "value", 0.7)
        assert drawing.wait(60)
        added = pool.submit(setattr, screen.upload, "value", broken)
        with pytest.raises(TimeoutError):
            added.result(timeout=0.3)  # it waits
        go_on.set()
        turned.result(60), added.result(60)
    assert screen.view.threshold == 0.7 and screen.upload.value == ()
    assert "broken.png cannot be read" in screen.message.value


def test_a_fault_of_our_own_is_said_and_leaves_the_screen_usable(screen, view, monkeypatch):
    monkeypatch.setattr(screen.explorer, "png", lambda view: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        screen.threshold.value = 0.7
    assert "division by zero" in screen.message.value and screen.view == view
    monkeypatch.undo()
    screen.threshold.value = 0.8
    assert screen.message.value == "" and screen.view.threshold == 0.8


def test_thresholds_are_the_hundredths_and_the_one_asked_for(explorer, view):
    assert "0.07" in dict(Screen(explorer, view).threshold.options)
    screen = Screen(explorer, replace(view, threshold=0.333))
    assert screen.view.threshold == 0.333 == screen.threshold.value


def test_pinning_keeps_the_row_and_unpinning_takes_it_away(screen, explorer):
    screen.pin.value = False
    assert rows(screen)[1] == b"" and screen.rows[1].text == ""
    screen.map.value = "cam"
    screen.pin.value = True
    assert rows(screen)[1] == rows(screen)[0]
    screen.map.value = "lam"
    assert rows(screen)[1] == explorer.png(replace(screen.view, map="cam"))


def test_saving_sends_both_rows_one_above_the_other(screen, monkeypatch):
    sent = []
    monkeypatch.setattr(module.Row, "send", lambda row, name, buffers: sent.append((name, buffers)))
    screen.save.click()
    screen.pin.value = False
    screen.save.click()
    sizes = [Image.open(io.BytesIO(buffers[0])).size for _, buffers in sent]
    assert sizes == [(WIDTH, 2 * HEIGHT), (WIDTH, HEIGHT)]
    view = screen.view
    assert sent[0][0] == f"{view.picture}-{view.category}-more-lam.png"


def test_a_screen_is_built_for_a_reader_only(explorer, view, monkeypatch):
    shown = []
    monkeypatch.setattr(module, "display", shown.append)
    for watched, number in (("0", 0), ("1", 1)):
        monkeypatch.setenv("MORE_PROGRESS", watched)
        show_explorer(explorer, view)
        assert len(shown) == number


# The maps that each draws, as they are written on the screen, and how many class tokens it has.
DECODED = ("CAM", "auxiliary CAM", "decoder")
RIVALS = {
    "toco": (DECODED, 1),
    "dupl": (DECODED, 1),
    "mctformer": (("attention", "CAM", "√(attention × CAM)", "seed"), 10),
}
SHORT = """optimizer.iterations=2 optimizer.warmup_iterations=0 optimizer.batch_size=2
optimizer.precision=fp32 loss.dense_energy=0 schedule.segmentation=1 toco.head=[16,8,32]
toco.num_crops=3 dupl.filter_from=1 dupl.least=10""".split()


@pytest.fixture(scope="module")
def rivals(recipe, tmp_path_factory):
    """The folder of a short training of each rival, on MoRe's data."""
    place = tmp_path_factory.mktemp("rivals")
    data = [f"data.root={recipe.data.root}", f"backbone.weights={recipe.backbone.weights}"]
    for name in RIVALS:
        train(load_recipe(name, [*data, *SHORT]), place / name)
    return place


@pytest.mark.parametrize("rival", RIVALS)
def test_a_rivals_own_maps_are_chosen_among_and_pinned_beside_mores(
    rival, rivals, explorer, screen, view
):
    drawn, tokens = RIVALS[rival]
    assert len(screen.map.options) == 5
    screen.pin.value = False
    screen.pin.value = True  # MoRe's LAM
    below = rows(screen)[1]
    screen.folder.value = str(rivals / rival)
    assert screen.message.value == "" and screen.network.value == rival
    assert tuple(name for name, _ in screen.map.options) == drawn
    assert screen.view.map == {"mctformer": "seed"}.get(rival, "decoder")  # LAM it draws none
    assert rows(screen)[1] == below == explorer.png(view)
    shown = set()
    for _, kind in screen.map.options:
        screen.map.value = kind
        assert screen.view.map == kind and rows(screen)[0] == explorer.png(screen.view)
        each = [explorer.see(replace(screen.view, category=c)) for c in explorer.classes(rival)]
        assert all(row.tokens.shape == (tokens,) and row.neighbors is None for row in each)
        shown.add(np.stack([row.map for row in each]).tobytes())
    assert len(shown) == len(drawn)
    screen.map.value, screen.network.value = "cam", "more"  # which draws it, too
    assert screen.view.map == "cam" and len(screen.map.options) == 5


@pytest.mark.parametrize("rival", RIVALS)
def test_a_rivals_view_shows_what_an_evaluation_scores(rival, rivals, explorer, view):
    name = explorer.add_network(rivals / rival)
    network, kinds = explorer.networks[name], explorer.maps(name)
    protocols = protocols_of(network.recipe, kinds)
    images = SplitImages(explorer.tree, explorer.tree.ids("val"), labels=True, masks=True)
    (batch,) = segment(network.model, network.recipe, protocols, images, torch.device("cpu"))
    for kind, masks in zip(kinds, batch.predictions):
        row = explorer.see(replace(view, network=name, map=kind))
        assert (row.mask == masks[batch.ids.index(view.picture)].numpy()).all()
    with pytest.raises(InputError, match=f"{name} draws no LAM × CAM; choose among .*CAM"):
        explorer.see(replace(view, network=name, map="fused"))


def test_a_rivals_patches_are_compared_as_its_classifier_sees_them(rivals, explorer, view):
    name = explorer.add_network(rivals / "mctformer")
    row, model = explorer.see(replace(view, network=name, map="cam")), explorer.networks[name].model
    seen = []
    model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    _, inputs = explorer._inputs(view.picture, name)
    with torch.no_grad():
        tokens = model(inputs).class_tokens[0]
    likeness = torch.cosine_similarity(seen[0], seen[0][:, 3:4, 5:6], dim=0)
    assert row.likeness == pytest.approx(likeness.numpy(), abs=1e-5)
    cosine = torch.cosine_similarity(tokens, seen[0][None, :, 3, 5], dim=1)
    assert row.tokens == pytest.approx(cosine.numpy(), abs=1e-5)
