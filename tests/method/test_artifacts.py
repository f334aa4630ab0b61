import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from more_lib.method import artifacts
from more_lib.method.backbones import mini_vit
from more_lib.method.vit import ClassTokenViT
from tests.method.helpers import refuses, uniform

MASK = torch.tensor([[[1, 1, 0], [0, 255, 0], [2, 0, 0]]])
MAPS = torch.ones(1, 3, 3, 3)
MAPS[0, 0] = torch.tensor([[1.0, 0.5, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.5]])
MAPS[0, 1] = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])

assert_close = partial(torch.testing.assert_close, equal_nan=True)


class TestMassOutside:
    def test_by_hand_without_what_is_not_known(self):
        # Class 1: 0.5 of 2 outside, the 9 lies on 255. Class 2: 1.5 of 2. Class 3 is not there.
        assert_close(artifacts.mass_outside(MAPS, MASK), torch.tensor([[0.25, 0.75, math.nan]]))
        here = (MASK[:, None] == torch.tensor([1, 2])[:, None, None]).float()
        assert torch.equal(artifacts.mass_outside(here, MASK), torch.zeros(1, 2))
        assert torch.equal(artifacts.mass_outside(1 - here, MASK), torch.ones(1, 2))
        assert artifacts.mass_outside(torch.zeros(1, 1, 3, 3), MASK).isnan().all()

    def test_a_map_that_knows_nothing_scores_the_area_outside(self):
        masks = torch.randint(0, 3, (4, 8, 8), generator=torch.Generator().manual_seed(1))
        constant = artifacts.mass_outside(torch.full((4, 2, 2, 2), 0.3), masks)
        torch.testing.assert_close(constant, artifacts.area_outside(masks, 2))
        shares = torch.stack([(masks != c).float().mean((1, 2)) for c in (1, 2)], 1)
        torch.testing.assert_close(constant, shares)

    def test_scale_does_not_matter_and_small_maps_are_resized_as_in_the_evaluation(self):
        maps, masks = uniform(2, 2, 3, 3), torch.ones(2, 12, 12, dtype=torch.int64)
        masks[:, :, 6:] = 2
        result = artifacts.mass_outside(maps, masks)
        torch.testing.assert_close(artifacts.mass_outside(7 * maps, masks), result)
        large = F.interpolate(maps, (12, 12), mode="bilinear", align_corners=False)
        torch.testing.assert_close(artifacts.mass_outside(large, masks), result)


class TestPatches:
    def test_class_share_by_hand(self):
        mask = torch.tensor([[[1, 1, 0, 2], [1, 0, 2, 255], [255, 255, 0, 0], [255, 255, 0, 0]]])
        share = artifacts.class_share(mask, 2, (2, 2))
        expected = [[[0.75, 0], [math.nan, 0]], [[0, 2 / 3], [math.nan, 0]]]
        assert_close(share, torch.tensor([expected]))

    def test_artifacts_are_active_and_show_nothing_of_the_class(self):
        maps = torch.tensor([[[[0.9, 0.9, 0.4, 0.9]]]])
        share = torch.tensor([[[[0.0, 0.1, 0.0, math.nan]]]])
        found = artifacts.artifact_patches(maps, share, 0.5)
        assert found.flatten().tolist() == [True, False, False, False]
        assert float(artifacts.artifact_rate(maps, share, 0.5)) == pytest.approx(1 / 3)
        assert artifacts.artifact_rate(maps, share, 0.95).isnan().all()

    def test_isolated_by_hand(self):
        active = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
        assert artifacts.isolated_patches(active, fewer_than=1).nonzero().tolist() == [[0, 4]]
        few = artifacts.isolated_patches(active)
        assert few.nonzero().tolist() == [[0, 4], [2, 3], [2, 4]]
        assert float(artifacts.isolated_rate(active.float(), 0.5)) == 0.5

    def test_isolated_matches_counting_one_by_one(self):
        active = uniform(2, 3, 6, 7) > 0.6
        wanted = torch.zeros_like(active)
        for b, c, y, x in active.nonzero().tolist():
            window = active[b, c, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            wanted[b, c, y, x] = window.sum() - 1 < 3
        assert torch.equal(artifacts.isolated_patches(active, 3), wanted)

    def test_a_mirrored_map_has_the_same_rate_and_an_empty_one_none(self):
        maps = uniform(2, 3, 6, 7)
        rate = artifacts.isolated_rate(maps, 0.7)
        torch.testing.assert_close(artifacts.isolated_rate(maps.flip(-1), 0.7), rate)
        torch.testing.assert_close(artifacts.isolated_rate(maps.mT, 0.7), rate)
        assert artifacts.isolated_rate(maps, 1.0).isnan().all()


class TestTokens:
    def test_pixel_deviation_by_hand(self):
        image = torch.zeros(1, 3, 2, 4)
        image[0, :, :, 2:] = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
        deviation = artifacts.pixel_deviation(image, (1, 2))
        assert deviation.tolist() == [[[0.0, 0.5]]]
        image[0, 0] = 0  # one of three channels falls silent
        rest = float(artifacts.pixel_deviation(image, (1, 2))[0, 0, 1])
        assert rest == pytest.approx(0.5 * math.sqrt(2 / 3))

    def test_low_information_by_hand(self):
        deviation = torch.tensor([[[4.0, 1.0], [3.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
        low = artifacts.low_information(deviation, 0.5)
        assert low.tolist() == [[[False, True], [False, True]], [[True, True], [True, True]]]

    def test_norm_outliers_by_hand_and_at_any_scale(self):
        tokens = torch.tensor([[[3.0, 4.0], [0.0, 5.0], [5.0, 0.0], [6.0, 8.0], [0.0, 10.1]]])
        wanted = [[False, False, False, False, True]]  # median 5; 10 is not above twice that
        assert artifacts.norm_outliers(tokens).tolist() == wanted
        assert artifacts.norm_outliers(0.01 * tokens).tolist() == wanted
        assert not artifacts.norm_outliers(torch.ones(2, 5, 3)).any()

    def test_lift_by_hand(self):
        chosen = torch.tensor([1, 1, 0, 0, 0, 0, 0, 0]).bool()
        kind = torch.tensor([1, 0, 1, 0, 0, 0, 0, 0]).bool()
        assert artifacts.lift(chosen, kind) == pytest.approx(2)  # (1/2) / (2/8)
        assert artifacts.lift(chosen, torch.ones_like(kind)) == pytest.approx(1)
        assert artifacts.lift(chosen, ~chosen) == 0
        nothing = torch.zeros_like(kind)
        assert math.isnan(artifacts.lift(nothing, kind))
        assert math.isnan(artifacts.lift(chosen, nothing))

    def test_patch_similarity_by_hand(self):
        for tokens, similarity in (
            ([[2.0, 0], [1, 0], [0, 3], [0, 1]], 4 / 12),
            (torch.ones(5, 3), 1),
            (torch.eye(4), 0),
            ([[1.0, 0], [-1, 0]], -1),
        ):
            result = float(artifacts.patch_similarity(torch.as_tensor(tokens)))
            assert result == pytest.approx(similarity, abs=1e-6)

    def test_patch_similarity_is_the_mean_over_all_pairs(self):
        tokens = uniform(2, 3, 7, 4) - 0.4
        unit = F.normalize(tokens, dim=-1)
        wanted = (unit @ unit.mT)[..., ~torch.eye(7, dtype=torch.bool)].mean(-1)
        assert_close(artifacts.patch_similarity(tokens), wanted)

    def test_class_means_leave_out_absent_classes(self):
        values = torch.tensor([[1.0, math.nan, math.nan], [0.0, 0.5, math.nan]])
        assert_close(artifacts.class_means(values), torch.tensor([0.5, 0.5, math.nan]))

    def test_object_tokens_by_hand(self):
        features = torch.tensor([[[[2.0, 0.0, 5.0]], [[0.0, 4.0, 5.0]]]])
        share = torch.tensor([[[[1.0, 0.0, math.nan]], [[0.5, 0.0, 0.0]], [[0.0, 0.0, 0.0]]]])
        mean = [2.4, 3.6]  # (0.5 * 2 + 0 + 5) / 2.5 and (4 + 5) / 2.5
        wanted = torch.tensor([[[2.0, -4.0], [2 - mean[0], -mean[1]], [-7 / 3, -3.0]]])
        assert_close(artifacts.object_tokens(features, share), wanted)


@torch.no_grad()
def test_the_last_block_normed_is_the_output_and_no_hook_stays_even_after_an_error():
    torch.manual_seed(0)
    encoder, images = ClassTokenViT(mini_vit(), 3, num_registers=2).eval(), uniform(2, 3, 32, 48)
    (classes, patches), output = artifacts.block_tokens(encoder, images), encoder(images)
    assert classes.shape == (6, 2, 3, 192) and patches.shape == (6, 2, 24, 192)
    assert_close(encoder.norm(patches[-1]), output.patch_tokens)
    assert_close(encoder.norm(classes[-1]), output.class_tokens)
    assert_close(patches[encoder.aux_block], output.aux_patch_tokens)
    refuses("multiple", artifacts.block_tokens, encoder, images[:, :, :30])
    assert not any(block._forward_hooks for block in encoder.blocks)


class Network(torch.nn.Module):
    """Patches of one pixel; the first class token wants red, the second what is not."""

    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Parameter(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))

    def forward(self, images):
        tokens = self.tokens.expand(len(images), -1, -1)
        return SimpleNamespace(features=images, class_tokens=tokens)


def test_a_survey_of_two_images_by_hand():
    red, mask = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64)
    red[:, 0, :2, :2] = 1
    mask[0, :2, :2], mask[1, :1, :2] = 1, 1
    batch = {"image": red, "mask": mask, "labels": torch.tensor([[1, 0], [1, 0]])}
    found = artifacts.survey(Network(), [batch, batch], 0.5)
    assert found.maps.shape == found.share.shape == (4, 2, 4, 4)
    assert not found.maps.requires_grad
    for measure, second in dict(mass_outside=0.5, artifact_rate=0.5, probe_rate=0.5).items():
        wanted = torch.tensor([[value, math.nan] for value in [0, second] * 2])
        assert_close(getattr(found, measure), wanted, rtol=0, atol=1e-5)
    assert_close(found.isolated_rate, torch.tensor([[0, math.nan]] * 4))
    assert found.patch_similarity.tolist() == pytest.approx([4 * 3 / (16 * 15)] * 4)


ONES, ZEROS = torch.ones(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("measure", "given", "reason"),
    [
        (artifacts.mass_outside, (-MAPS, MASK), "negative"),
        (artifacts.mass_outside, (MAPS * math.nan, MASK), "non-finite"),
        (artifacts.mass_outside, (MAPS[0], MASK), "must be"),
        (artifacts.mass_outside, (MAPS, MASK.repeat(2, 1, 1)), "must be"),
        (artifacts.mass_outside, (MAPS, MASK.float()), "integers"),
        (artifacts.mass_outside, (MAPS, MASK > 0), "integers"),
        *((artifacts.class_share, (ZEROS, 2, g), "not divided") for g in ((3, 2), (0, 2), (8, 8))),
        (artifacts.artifact_patches, (ONES, ONES[0], 0.5), "maps .*, share .* must be"),
        (artifacts.isolated_patches, (ONES,), "bool"),
        (artifacts.isolated_patches, (ONES > 0, 0), "fewer_than is 0"),
        (artifacts.isolated_patches, (ONES > 0, 9), "fewer_than is 9"),
        (artifacts.pixel_deviation, (ONES.byte(), (2, 2)), "float"),
        (artifacts.pixel_deviation, (ONES, (3, 2)), "not divided"),
        (artifacts.low_information, (ONES[0], 0), "share is 0"),
        (artifacts.low_information, (ONES[0], 1.1), "share is 1.1"),
        (artifacts.norm_outliers, (ONES, 1), "factor is 1"),
        (artifacts.lift, (ONES > 0, ONES), "bool"),
        (artifacts.lift, (ONES > 0, ONES[0] > 0), "one shape"),
        (artifacts.patch_similarity, (torch.ones(3),), "must be"),
        (artifacts.patch_similarity, (torch.ones(1, 3),), "N at least 2"),
        (artifacts.class_means, (torch.ones(3),), "values"),
        (artifacts.object_tokens, (ONES, ONES[..., :2]), "share"),
        (artifacts.survey, (Network(), [], 0.5), "no images"),
    ],
)
def test_bad_input_is_refused(measure, given, reason):
    refuses(reason, measure, *given)
