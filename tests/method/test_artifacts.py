import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from more_lib.method import artifacts
from more_lib.method.backbones import mini_vit
from more_lib.method.losses import patch_token_contrast_loss
from more_lib.method.vit import ClassTokenViT
from more_lib.system.errors import InputError

MASK = torch.tensor([[[1, 1, 0], [0, 255, 0], [2, 0, 0]]])
MAPS = torch.tensor(
    [
        [
            [[1.0, 0.5, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.5]],
            [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]],
            [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]],
        ]
    ]
)


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


class TestMassOutside:
    def test_by_hand_without_what_is_not_known(self):
        # Class 1: 0.5 of 2 outside, the 9 lies on 255. Class 2: 1.5 of 2. Class 3 is not there.
        result = artifacts.mass_outside(MAPS, MASK)
        torch.testing.assert_close(
            result, torch.tensor([[0.25, 0.75, math.nan]]), equal_nan=True, rtol=0, atol=1e-6
        )

    def test_a_map_that_knows_nothing_scores_the_area_outside(self):
        masks = torch.randint(0, 3, (4, 8, 8), generator=torch.Generator().manual_seed(1))
        constant = artifacts.mass_outside(torch.full((4, 2, 2, 2), 0.3), masks)
        torch.testing.assert_close(constant, artifacts.area_outside(masks, 2))
        shares = torch.stack([(masks != c).float().mean((1, 2)) for c in (1, 2)], 1)
        torch.testing.assert_close(constant, shares)

    def test_the_object_itself_scores_nothing_and_its_complement_all(self):
        here = (MASK[:, None] == torch.tensor([1, 2])[:, None, None]).float()
        assert torch.equal(artifacts.mass_outside(here, MASK), torch.zeros(1, 2))
        assert torch.equal(artifacts.mass_outside(1 - here, MASK), torch.ones(1, 2))

    def test_scale_does_not_matter_and_small_maps_are_resized_as_in_the_evaluation(self):
        maps, masks = random(2, 2, 3, 3), torch.ones(2, 12, 12, dtype=torch.int64)
        masks[:, :, 6:] = 2
        result = artifacts.mass_outside(maps, masks)
        torch.testing.assert_close(artifacts.mass_outside(7 * maps, masks), result)
        large = F.interpolate(maps, (12, 12), mode="bilinear", align_corners=False)
        torch.testing.assert_close(artifacts.mass_outside(large, masks), result)

    def test_a_map_without_mass_has_no_value(self):
        assert artifacts.mass_outside(torch.zeros(1, 1, 3, 3), MASK).isnan().all()


class TestPatches:
    def test_class_share_by_hand(self):
        mask = torch.tensor([[[1, 1, 0, 2], [1, 0, 2, 255], [255, 255, 0, 0], [255, 255, 0, 0]]])
        share = artifacts.class_share(mask, 2, (2, 2))
        expected = [[[0.75, 0], [math.nan, 0]], [[0, 2 / 3], [math.nan, 0]]]
        torch.testing.assert_close(share, torch.tensor([expected]), equal_nan=True)

    def test_artifacts_are_active_and_show_nothing_of_the_class(self):
        maps = torch.tensor([[[[0.9, 0.9, 0.4, 0.9]]]])
        share = torch.tensor([[[[0.0, 0.1, 0.0, math.nan]]]])
        found = artifacts.artifact_patches(maps, share, 0.5)
        assert found.flatten().tolist() == [True, False, False, False]
        assert float(artifacts.artifact_rate(maps, share, 0.5)) == pytest.approx(1 / 3)
        assert artifacts.artifact_rate(maps, share, 0.95).isnan().all()

    def test_isolated_by_hand(self):
        active = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
        alone = artifacts.isolated_patches(active, fewer_than=1)
        assert alone.nonzero().tolist() == [[0, 4]]
        few = artifacts.isolated_patches(active)
        assert few.nonzero().tolist() == [[0, 4], [2, 3], [2, 4]]
        rate = artifacts.isolated_rate(active.float(), 0.5)
        assert float(rate) == 0.5

    def test_isolated_matches_counting_one_by_one(self):
        active = random(2, 3, 6, 7) > 0.6
        wanted = torch.zeros_like(active)
        for b, c, y, x in active.nonzero().tolist():
            window = active[b, c, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            wanted[b, c, y, x] = window.sum() - 1 < 3
        assert torch.equal(artifacts.isolated_patches(active, 3), wanted)

    def test_a_mirrored_map_has_the_same_rate_and_an_empty_one_none(self):
        maps = random(2, 3, 6, 7)
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
        assert float(artifacts.pixel_deviation(image, (1, 2))[0, 0, 1]) == pytest.approx(
            0.5 * math.sqrt(2 / 3)
        )

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
        two_and_two = torch.tensor([[2.0, 0], [1, 0], [0, 3], [0, 1]])
        assert float(artifacts.patch_similarity(two_and_two)) == pytest.approx(4 / 12)
        assert float(artifacts.patch_similarity(torch.ones(5, 3))) == pytest.approx(1)
        assert float(artifacts.patch_similarity(torch.eye(4))) == pytest.approx(0, abs=1e-6)
        opposite = torch.tensor([[1.0, 0], [-1, 0]])
        assert float(artifacts.patch_similarity(opposite)) == pytest.approx(-1)

    def test_patch_similarity_is_the_mean_over_all_pairs(self):
        tokens = random(2, 3, 7, 4) - 0.4
        unit = F.normalize(tokens, dim=-1)
        cosines = unit @ unit.mT
        pairs = ~torch.eye(7, dtype=torch.bool)
        wanted = cosines[..., pairs].mean(-1)
        torch.testing.assert_close(artifacts.patch_similarity(tokens), wanted)

    def test_class_means_leave_out_absent_classes(self):
        values = torch.tensor([[1.0, math.nan, math.nan], [0.0, 0.5, math.nan]])
        torch.testing.assert_close(
            artifacts.class_means(values), torch.tensor([0.5, 0.5, math.nan]), equal_nan=True
        )

    def test_object_tokens_by_hand(self):
        features = torch.tensor([[[[2.0, 0.0, 5.0]], [[0.0, 4.0, 5.0]]]])
        share = torch.tensor([[[[1.0, 0.0, math.nan]], [[0.5, 0.0, 0.0]], [[0.0, 0.0, 0.0]]]])
        tokens = artifacts.object_tokens(features, share)
        mean = [2.4, 3.6]  # (0.5 * 2 + 0 + 5) / 2.5 and (4 + 5) / 2.5
        third = [-7 / 3, -3.0]
        wanted = torch.tensor([[[2.0, -4.0], [2 - mean[0], -mean[1]], third]])
        torch.testing.assert_close(tokens, wanted)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return ClassTokenViT(mini_vit(), num_classes=3, num_registers=2).eval()


class TestBlockTokens:
    def test_the_last_block_normed_is_the_output(self, encoder):
        images = random(2, 3, 32, 48)
        tokens = artifacts.block_tokens(encoder, images)
        with torch.no_grad():
            output = encoder(images)
        assert tokens.class_tokens.shape == (6, 2, 3, 192)
        assert tokens.patch_tokens.shape == (6, 2, 24, 192)
        torch.testing.assert_close(encoder.norm(tokens.patch_tokens[-1]), output.patch_tokens)
        torch.testing.assert_close(encoder.norm(tokens.class_tokens[-1]), output.class_tokens)
        aux = tokens.patch_tokens[encoder.aux_block]
        torch.testing.assert_close(aux, output.aux_patch_tokens)

    def test_leaves_no_hook_behind_even_after_an_error(self, encoder):
        with pytest.raises(InputError, match="multiple"):
            artifacts.block_tokens(encoder, random(1, 3, 30, 48))
        assert not any(block._forward_hooks for block in encoder.blocks)


class Network(torch.nn.Module):
    """Patches of one pixel; the first class token wants red, the second what is not."""

    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Parameter(torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))

    def forward(self, images):
        tokens = self.tokens.expand(len(images), -1, -1)
        return SimpleNamespace(features=images, class_tokens=tokens)


class TestSurvey:
    def test_two_images_by_hand(self):
        red = torch.zeros(2, 3, 4, 4)
        red[:, 0, :2, :2] = 1
        mask = torch.zeros(2, 4, 4, dtype=torch.int64)
        mask[0, :2, :2], mask[1, :1, :2] = 1, 1
        batch = {"image": red, "mask": mask, "labels": torch.tensor([[1, 0], [1, 0]])}
        found = artifacts.survey(Network(), [batch, batch], 0.5)
        assert found.maps.shape == found.share.shape == (4, 2, 4, 4)
        assert not found.maps.requires_grad
        nan = math.nan
        for measure, values in {
            "mass_outside": [0, 0.5],
            "artifact_rate": [0, 0.5],
            "isolated_rate": [0, 0],
            "probe_rate": [0, 0.5],
        }.items():
            wanted = torch.tensor([[value, nan] for value in values + values])
            result = getattr(found, measure)
            torch.testing.assert_close(result, wanted, equal_nan=True, rtol=0, atol=1e-5)
        assert found.patch_similarity.tolist() == pytest.approx([4 * 3 / (16 * 15)] * 4)
        assert found.token_logits[0].tolist() == pytest.approx([1 / 3, -1 / 3])


ONES, NUMBERS = torch.ones(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("measure", "given", "reason"),
    [
        (artifacts.mass_outside, (-MAPS, MASK), "negative"),
        (artifacts.mass_outside, (MAPS * math.nan, MASK), "non-finite"),
        (artifacts.mass_outside, (MAPS[0], MASK), "must be"),
        (artifacts.mass_outside, (MAPS, MASK.repeat(2, 1, 1)), "must be"),
        (artifacts.mass_outside, (MAPS, MASK.float()), "integers"),
        (artifacts.mass_outside, (MAPS, MASK > 0), "integers"),
        *(
            (artifacts.class_share, (NUMBERS, 2, g), "not divided")
            for g in [(3, 2), (0, 2), (8, 8)]
        ),
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
    with pytest.raises(InputError, match=reason):
        measure(*given)


def test_patch_token_contrast_does_not_know_class_tokens():
    """Notebook 02 §6: no class token in the loss, so no gradient reaches one."""
    tokens = random(1, 3, 4).requires_grad_()
    features = random(1, 4, 2, 2, seed=1).requires_grad_()
    loss = patch_token_contrast_loss(features, torch.tensor([[[0, 1], [1, 0]]]))
    to_tokens, to_patches = torch.autograd.grad(loss, (tokens, features), allow_unused=True)
    assert to_tokens is None and to_patches.norm() > 0
