import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from more_lib.method.localization import (
    KINDS,
    fuse,
    lam,
    min_max,
    multiscale_cam,
    multiscale_lam,
    multiscale_maps,
    patch_affinity,
    spread,
    views_of,
)
from more_lib.method.model import MoReOutput
from tests.method.helpers import drawn, refuses

CLASSES, WIDTH, PATCH = 3, 5, 4
SCALES = (1.0, 0.5, 1.5)


class SmallModel(nn.Module):
    """What the maps ask of a model, with a patch convolution that tells left from right."""

    patch_size = PATCH

    def __init__(self):
        super().__init__()
        self.stem = nn.Parameter(drawn(WIDTH, 3, PATCH, PATCH))
        self.classifier, self.aux_classifier, self.tokens, self.decoder = (
            nn.Parameter(drawn(CLASSES + (seed == 4), WIDTH, seed=seed)) for seed in (1, 2, 3, 4)
        )
        self.batches = []

    def cams(self, images):
        output = self(images)
        return output.cam, output.aux_cam

    def forward(self, images, with_decoder=True):
        assert images.shape[2] % PATCH == 0 and images.shape[3] % PATCH == 0
        self.batches.append(tuple(images.shape))
        features = F.conv2d(images, self.stem.to(images.dtype), stride=PATCH)
        tokens = self.tokens.to(images.dtype) + features.mean((2, 3))[:, None]
        cam, aux_cam, seg_logits = (
            torch.einsum("bdhw,cd->bchw", features, classifier.to(images.dtype))
            for classifier in (self.classifier, self.aux_classifier, self.decoder)
        )
        attention = torch.einsum("bdhw,bcd->bchw", features, tokens).tanh() - 0.3
        logits = cam.amax((2, 3)), aux_cam.amax((2, 3)), seg_logits
        named = tokens.mean(2)
        return MoReOutput(*logits, features, tokens, named, attention, cam, aux_cam)


def random_images(height=16, width=24) -> Tensor:
    return drawn(2, 3, height, width, seed=3)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image, (height, width), mode="bilinear", align_corners=False)


def literal_multiscale(raw_map, images: Tensor, flip: bool, rectified: bool) -> np.ndarray:
    """One image, one view, one class at a time; ``raw_map`` takes a single image."""
    height, width = images.shape[-2:]
    result = []
    for image in images.split(1):
        total = np.zeros((CLASSES, height, width))
        for scale in SCALES:
            rows, columns = int(scale * height), int(scale * width)
            resized = resize(image, rows, columns)
            flipped = torch.from_numpy(resized.numpy()[..., ::-1].copy())
            best = None
            for view in (resized, flipped)[: 1 + flip]:
                whole = view[:, :, : rows - rows % PATCH, : columns - columns % PATCH]
                raw = resize(raw_map(whole), height, width)[0].detach().numpy()
                if view is flipped:
                    raw = raw[..., ::-1]
                best = raw if best is None else np.maximum(best, raw)
            total += np.maximum(best, 0) if rectified else best
        for class_map in total:
            class_map -= class_map.min()
            class_map /= class_map.max() + 1e-5
        result.append(total)
    return np.stack(result)


def test_min_max_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[-4.0, -4.0], [-4.0, -4.0]]])
    expected = torch.tensor([[[0.0, 2.0], [1.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]]) / 4.00001
    torch.testing.assert_close(min_max(maps), expected)
    assert maps[0, 0, 0] == 1  # the argument is left alone
    maps = random_images()  # offset and scale are forgotten up to the small constant
    torch.testing.assert_close(min_max(100 * maps + 7), min_max(maps), rtol=1e-4, atol=1e-5)
    assert min_max(maps).min() == 0 and 0.9999 < min_max(maps).max() < 1


def test_lam_equals_one_product_at_a_time_and_has_gradients():
    features, tokens = drawn(2, 4, 3, 2), drawn(2, 5, 4, seed=1)
    dot, cosine = lam(features, tokens), lam(features, tokens, similarity="cosine")
    assert dot.shape == cosine.shape == (2, 5, 3, 2)
    for b, c, y, x in np.ndindex(2, 5, 3, 2):
        patch, token = features[b, :, y, x], tokens[b, c]
        torch.testing.assert_close(dot[b, c, y, x], patch @ token)
        wanted = patch @ token / (patch.norm() * token.norm())
        torch.testing.assert_close(cosine[b, c, y, x], wanted)
    features, tokens = drawn(1, 3, 2, 2).requires_grad_(), drawn(1, 2, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lam, (features, tokens))
    assert torch.autograd.gradcheck(lambda f, t: lam(f, t, "cosine"), (features, tokens))


def test_lam_refuses_bad_input():
    features, tokens = torch.zeros(2, 4, 3, 3), torch.zeros(2, 5, 4)
    refuses('similarity is "euclid"', lam, features, tokens, similarity="euclid")
    for bad in (tokens[:1], tokens[..., :3], tokens[0]):
        refuses("class_tokens", lam, features, bad)


def test_patch_affinity_by_hand_and_whatever_the_length_of_patches():
    features = torch.tensor([[[[3.0, 0.0, 4.0]], [[0.0, 5.0, 4.0]]]])  # of 0, 90 and 45 degrees
    alike = 0.5**0.5
    scores = torch.tensor([[1, 0, alike], [0, 1, alike], [alike, alike, 1]]) / 0.5
    expected = scores.exp() / scores.exp().sum(1, keepdim=True)
    torch.testing.assert_close(patch_affinity(features, 0.5)[0], expected)
    longer = features * torch.tensor([100.0, 1.0, 0.01])
    torch.testing.assert_close(patch_affinity(longer, 0.5)[0], expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert patch_affinity(features.bfloat16(), 0.5).dtype == torch.float32
    refuses("temperature is 0", patch_affinity, features, 0)
    refuses("features", patch_affinity, features[0], 0.5)


def test_spread_maps_gather_by_rows():
    maps, affinity = drawn(2, 3, 2, 4), drawn(2, 8, 8, seed=1)
    gathered = spread(maps, affinity)
    for b, c, i in np.ndindex(2, 3, 8):
        wanted = sum(affinity[b, i, j] * maps[b, c].flatten()[j] for j in range(8))
        torch.testing.assert_close(gathered[b, c].flatten()[i], wanted)
    constant = torch.full((2, 1, 2, 4), 0.3, dtype=torch.float64)
    kept = spread(constant, patch_affinity(drawn(2, 5, 2, 4), 0.1))
    torch.testing.assert_close(kept, constant)
    refuses("affinity", spread, maps, affinity[:, :7])


def test_fuse_by_hand():
    a = torch.tensor([[[[1.0, 0.5], [0.2, 0.0]]]])
    b = torch.tensor([[[[0.5, 0.4], [0.5, 0.9]]]])
    expected = torch.tensor([[[[0.5, 0.2], [0.1, 0.0]]]]) / 0.50001
    torch.testing.assert_close(fuse(a, b), expected)
    assert not fuse(a, torch.zeros_like(b)).any()


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("size", [(16, 24), (13, 18)])
def test_multiscale_equals_the_literal_transcription(size, similarity, flip):
    model, images = SmallModel(), random_images(*size)
    maps = multiscale_maps(model, images, SCALES, similarity, flip)
    raw_maps = {
        "cam": lambda image: model(image).cam,
        "aux_cam": lambda image: model(image).aux_cam,
        "lam": lambda image: lam(model(image).features, model(image).class_tokens, similarity),
        "attention": lambda image: model(image).attention_scores,
    }
    for name, raw_map in raw_maps.items():
        expected = literal_multiscale(raw_map, images, flip, rectified="cam" in name)
        np.testing.assert_allclose(getattr(maps, name), expected, atol=1e-12, err_msg=name)
        assert (getattr(maps, name).amin((2, 3)) == 0).all() and (getattr(maps, name) <= 1).all()
    if flip:  # alone as in the common pass
        cam, aux_cam = multiscale_cam(model, images, SCALES)
        assert torch.equal(cam, maps.cam) and torch.equal(aux_cam, maps.aux_cam)
        assert torch.equal(multiscale_lam(model, images, SCALES, similarity), maps.lam)


def test_half_precision_maps_are_merged_in_the_images_precision():
    model, images = SmallModel(), random_images().float()
    exact = multiscale_cam(model, images, SCALES)
    cams = model.cams
    model.cams = lambda views: [raw.bfloat16() for raw in cams(views)]
    for rough, fine in zip(multiscale_cam(model, images, SCALES), exact, strict=True):
        assert rough.dtype == torch.float32
        torch.testing.assert_close(rough, fine, rtol=0, atol=0.02)


def test_a_cam_that_is_negative_everywhere_becomes_zero():
    model = SmallModel()
    model.cams = lambda images: (-images.abs()[:, :2, ::4, ::4], images[:, :2, ::4, ::4])
    cam, aux_cam = multiscale_cam(model, random_images(), SCALES)
    assert not cam.any() and aux_cam.any()


def test_a_cam_that_is_known_already_is_not_run_again_and_changes_nothing():
    model, images = SmallModel(), random_images()
    expected, views = multiscale_cam(model, images, SCALES), list(model.batches)
    straight = model.cams(images)
    model.batches.clear()
    for ours, theirs in zip(multiscale_cam(model, images, SCALES, straight), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert views == [(4, 3, 16, 24), (4, 3, 8, 12), (4, 3, 24, 36)]  # with the mirror images
    assert model.batches == [(2, 3, 16, 24), *views[1:]]


@pytest.mark.parametrize("known", [True, False])
def test_with_labels_absent_classes_are_zero_and_present_ones_the_same(known):
    model, images = SmallModel(), random_images(13, 18)
    straight = model.cams(images[..., :12, :16]) if known else None
    every = multiscale_cam(model, images, SCALES, straight)
    for labels in ([[0, 1, 0], [1, 0, 1]], [[0, 0, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]):
        labels = torch.tensor(labels)
        found = multiscale_cam(model, images, SCALES, straight, labels)
        for ours, maps in zip(found, every, strict=True):
            assert torch.equal(ours, maps * labels[:, :, None, None])


def test_a_cpu_runs_few_views_at_once_and_sees_the_same(monkeypatch):
    model, images = SmallModel(), random_images()
    expected = multiscale_cam(model, images, SCALES)
    model.batches.clear()
    monkeypatch.setattr("more_lib.method.localization.AT_ONCE", 30)
    for ours, theirs in zip(multiscale_cam(model, images, SCALES), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    large, usual, small = (1, 3, 24, 36), (1, 3, 16, 24), (4, 3, 8, 12)
    parts = [usual] * 4 + [small] + [large] * 4  # 24, 6 and 54 patches a view
    assert model.batches == parts
    group = (SCALES, True)
    found = views_of(model, images, [group])
    assert model.batches == 2 * parts
    monkeypatch.undo()
    whole = views_of(model, images, [group])
    for name in ("class_logits", "token_logits"):  # of the images as they are, not their mirrors
        torch.testing.assert_close(getattr(found, name), getattr(whole, name))
        assert len(getattr(found, name)) == len(images)
    for kind in KINDS:
        torch.testing.assert_close(found.merged(group, kind), whole.merged(group, kind))


def test_a_similarity_keeps_its_order_where_it_is_negative():
    model, images = SmallModel(), random_images()
    straight, forward = multiscale_maps(model, images, (1.0,)), model.forward

    def shifted(views):
        output = forward(views)
        return output._replace(attention_scores=output.attention_scores - 1000)

    model.forward = shifted
    lower = multiscale_maps(model, images, (1.0,))
    torch.testing.assert_close(lower.attention, straight.attention, rtol=0, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_no_gradient_is_kept_and_the_training_flag_stays(training):
    model = SmallModel().train(training)
    images = random_images().requires_grad_()
    maps = multiscale_maps(model, images, (1.0,))
    assert not any(kind.requires_grad for kind in maps)
    assert model.training is training and torch.is_grad_enabled()
    (maps.cam * images[:, :1]).sum().backward()  # usable as a constant where gradients flow
    assert images.grad is not None


@pytest.mark.parametrize("maps_of", [multiscale_cam, multiscale_lam, multiscale_maps])
def test_bad_input_is_refused(maps_of):
    model, images = SmallModel(), random_images()
    shape = r"images \(3, 16, 24\) must be \(B, 3, H, W\)"
    refuses("scales is empty", maps_of, model, images, ())
    refuses("scale 0.2 makes the images 3x4", maps_of, model, images, (1.0, 0.2))
    refuses(shape, maps_of, model, images[0], SCALES)
    refuses("images are torch.uint8; give floats", maps_of, model, images.byte(), SCALES)


def test_decoder_is_the_mean_of_probabilities_over_views():
    model, images = SmallModel(), random_images()

    def view(scale, mirrored):
        seen = resize(images, int(16 * scale), int(24 * scale))
        logits = model(seen.flip(-1) if mirrored else seen).seg_logits
        maps = resize(logits, 16, 24).softmax(1)
        return maps.flip(-1) if mirrored else maps

    views = [view(scale, mirrored) for scale in (1.0, 0.5) for mirrored in (False, True)]
    decoder = multiscale_maps(model, images, (1.0, 0.5)).decoder
    torch.testing.assert_close(decoder, sum(views) / 4)
    torch.testing.assert_close(decoder.sum(1), torch.ones(2, 16, 24, dtype=torch.float64))
    single = multiscale_maps(model, images, (0.5,), flip=False).decoder
    torch.testing.assert_close(single, view(0.5, False))
    twice = multiscale_maps(model, images, (1.0, 1.0, 0.5)).decoder  # a scale named twice
    once, half = (multiscale_maps(model, images, (scale,)).decoder for scale in (1.0, 0.5))
    torch.testing.assert_close(twice, (2 * once + half) / 3)


GROUPS = [(SCALES, True), ((1.0,), False), ((1.5, 0.5), False), ((0.5,), True)]


def test_groups_of_views_share_what_is_run_and_equal_each_alone():
    model, images = SmallModel(), random_images(13, 18)
    together = views_of(model, images, GROUPS, "cosine")
    assert model.batches == [(4, 3, 12, 16), (4, 3, 4, 8), (4, 3, 16, 24)]  # each scale once
    for group in GROUPS:
        alone = multiscale_maps(model, images, group[0], "cosine", group[1])
        for kind in KINDS:
            torch.testing.assert_close(together.merged(group, kind), getattr(alone, kind))
    model.batches.clear()
    views_of(model, images, [((1.0, 0.5), False), ((0.5,), True)])
    assert model.batches == [(2, 3, 12, 16), (4, 3, 4, 8)]  # mirrored where a group asks for it


def test_logits_are_those_of_the_straight_images_at_scale_1():
    model, images = SmallModel(), random_images()
    views, output = views_of(model, images, [((0.5, 1.0, 1.5), True)], kinds=["cam"]), model(images)
    torch.testing.assert_close(views.class_logits, output.class_logits)
    torch.testing.assert_close(views.token_logits, output.token_logits)
    half = views_of(model, images, [((0.5,), True)])
    assert half.class_logits is half.token_logits is None
    assert multiscale_maps(model, images, (0.5,)).class_logits is None


@pytest.mark.parametrize("kind", ["cam", "aux_cam", "lam", "attention"])
def test_some_classes_of_one_image_are_drawn_as_with_all_the_others(kind):
    model, images, group = SmallModel(), random_images(18, 25), ((1.0, 0.5, 1.5), True)
    every = getattr(multiscale_maps(model, images, group[0]), kind)
    views = views_of(model, images, [group], kinds=[kind])
    assert {tuple(raw) for raw in views.raw.values()} == {(kind,)}
    some = views.merged(group, kind, slice(1, 2), [2, 0])
    torch.testing.assert_close(some, every[1:2, [2, 0]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kinds", "wanted"), [(["lam", "cam"], False), (["lam", "decoder"], True)])
def test_the_decoder_is_run_only_where_it_is_asked_for(kinds, wanted):
    class Told(SmallModel):
        def forward(self, images, with_decoder=True):
            assert with_decoder == wanted
            return super().forward(images)

    views_of(Told(), random_images(), [((1.0,), True)], kinds=kinds)
