"""MCTformer+ against golden values, literal transcriptions, hand cases and bad input."""

import json
import math

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from more_lib.method.losses import classification_loss
from more_lib.method.mctformer import (
    MCTformer,
    block_attention,
    fused_maps,
    layer_contrast_loss,
    rank_pooling,
    spread,
)
from tests.method.helpers import (
    assert_full_precision,
    assert_golden,
    drawn,
    drawn_weights,
    golden,
    images,
    randomized,
    reached,
    refuses,
    uniform,
)

SEEDS = (421, 422)
GOLDEN = golden("rivals_mctformer")


def stored(name: str, seed: int) -> Tensor:
    return torch.from_numpy(GOLDEN[f"{name}_{seed}"])


def small_vit(**options) -> VisionTransformer:
    sizes = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0)
    return randomized(VisionTransformer(**sizes | options))


def golden_model(seed: int) -> MCTformer:
    weights = drawn_weights(json.loads(str(GOLDEN[f"shapes_{seed}"])), seed)
    five = ("cls_token", "pos_embed_cls", "pos_embed_pat", "patch_embed.proj.weight", "head.weight")
    factors = {key: 5 if key in five else 3 if key.endswith("qkv.weight") else 1 for key in weights}
    weights = {key: factors[key] * weight for key, weight in weights.items()}
    tokens = weights.pop("cls_token") + weights.pop("pos_embed_cls")
    ours = {"encoder.class_tokens": tokens, "encoder.register_tokens": torch.zeros(1, 0, 48)}
    ours["encoder.patch_position"] = weights.pop("pos_embed_pat")
    ours |= {f"classifier.{kind}": weights.pop(f"head.{kind}") for kind in ("weight", "bias")}
    ours |= {f"encoder.{key}": weight for key, weight in weights.items()}
    vit = small_vit(img_size=96, patch_size=16, embed_dim=48)
    model = MCTformer(vit, 5, decay=0.98).eval()
    model.load_state_dict(ours)
    return model


def golden_scores(seed: int) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng([seed, 4])
    scores = generator.standard_normal((2, 5, 12, 12)).astype(np.float32)
    tokens = generator.standard_normal((3, 2, 5, 32)).astype(np.float32)
    tokens = tokens + generator.standard_normal((3, 2, 1, 32)).astype(np.float32)
    return torch.from_numpy(scores).requires_grad_(), torch.from_numpy(tokens).requires_grad_()


@pytest.mark.parametrize("seed", SEEDS)
def test_golden_forward_and_maps(seed):
    model = golden_model(seed)
    with torch.no_grad():
        output = model(images(seed, (2, 3, 96, 96)))
        wide = model(images(seed + 1000, (1, 3, 64, 128)))
    assert_golden(output.tokens[..., ::4], GOLDEN[f"class_tokens_{seed}"])
    for name in ("class_logits", "patch_logits"):
        assert_golden(getattr(output, name), GOLDEN[f"{name}_{seed}"])
    assert_golden(output.patch_cam.relu(), GOLDEN[f"patchcam_last3_{seed}"])
    assert_golden(output.affinity, GOLDEN[f"patch_affinity_{seed}"])
    for last in (2, 3):
        seen = output.class_attention[-last:].mean(dim=0)
        fused = fused_maps(output.class_attention, output.patch_cam, last)
        assert_golden(seen, GOLDEN[f"mct_last{last}_{seed}"])
        assert_golden(fused, GOLDEN[f"fused_last{last}_{seed}"])
        assert_golden(spread(fused, output.affinity), GOLDEN[f"refined_last{last}_{seed}"])
    assert_golden(fused_maps(wide.class_attention, wide.patch_cam), GOLDEN[f"fused_64x128_{seed}"])


@pytest.mark.parametrize("decay", [0.996, 0.9784, 0.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_golden_pooling_and_its_gradient(seed, decay):
    scores, _ = golden_scores(seed)
    pooled = rank_pooling(scores, decay)
    loss = classification_loss(pooled, stored("labels", seed))
    loss.backward()
    assert_golden(pooled, GOLDEN[f"gwrp_{decay}_{seed}"])
    assert_golden(loss, GOLDEN[f"gwrp_loss_{decay}_{seed}"])
    assert_golden(scores.grad, GOLDEN[f"gwrp_grad_{decay}_{seed}"])


@pytest.mark.parametrize("last", [3, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_golden_layer_contrast_and_its_gradient(seed, last):
    _, tokens = golden_scores(seed)
    loss = layer_contrast_loss(tokens[-last:], stored("labels", seed))
    loss.backward()
    assert_golden(loss, GOLDEN[f"cct_last{last}_{seed}"])
    assert_golden(tokens.grad, GOLDEN[f"cct_grad_last{last}_{seed}"])


def test_pooling_by_hand_and_at_its_ends():
    scores = torch.tensor([[1.0, 4.0, 2.0], [0.0, 0.0, -7.0]])[None]
    expected = [(4 + 2 / 2 + 1 / 4) / 1.75, -7 / 4 / 1.75]
    assert rank_pooling(scores, 0.5)[0].tolist() == pytest.approx(expected)
    scores = drawn(2, 3, 4, 5)
    torch.testing.assert_close(rank_pooling(scores, 1), scores.mean(dim=(2, 3)))
    torch.testing.assert_close(rank_pooling(scores, 1e-12), scores.amax(dim=(2, 3)))


@pytest.mark.parametrize("seed", range(3))
def test_layer_contrast_equals_its_transcription(seed):
    tokens, labels = drawn(4, 3, 5, 8, seed=seed), (uniform(3, 5, seed=seed) < 0.5).long()
    labels[0] = 0
    expected = 0
    for layer in tokens:
        for image, present in zip(layer, labels.tolist(), strict=True):
            u = [token / token.norm() for token in image]
            for c in range(5):
                total = sum((u[c] @ other).exp() for other in u)
                term = -((u[c] @ u[c]).exp() / total).log().item()
                expected += present[c] * term / (sum(present) + 1e-8) / 12
    assert layer_contrast_loss(tokens, labels).item() == pytest.approx(expected)


def test_layer_contrast_of_equal_and_of_orthogonal_tokens_and_without_classes():
    ones = torch.ones(2, 3, 20, 24)
    labels = torch.ones(3, 20)
    assert layer_contrast_loss(ones, labels).item() == pytest.approx(math.log(20), rel=1e-6)
    apart = torch.eye(20, 24).expand(2, 3, 20, 24)
    assert layer_contrast_loss(apart, labels).item() == pytest.approx(2.08, abs=5e-3)
    tokens = drawn(2, 3, 20, 24, dtype=torch.float32).requires_grad_()
    loss = layer_contrast_loss(tokens, torch.zeros(3, 20))
    loss.backward()
    assert loss.item() == 0 and not tokens.grad.any()
    assert_full_precision(lambda: layer_contrast_loss(tokens.detach(), labels))


def test_identical_tokens_get_no_gradient_from_the_contrast():
    tokens = drawn(1, 1, 1, 8).expand(2, 3, 5, 8).clone().requires_grad_()
    layer_contrast_loss(tokens, torch.ones(3, 5)).backward()
    assert tokens.grad.abs().max() < 1e-12


def test_attention_is_what_the_block_mixes_values_with():
    vit, x = small_vit(), drawn(2, 9, 24, dtype=torch.float32)
    block = vit.blocks[1]
    attention = block.attn
    normed, heads = block.norm1(x), []
    for head in range(3):
        part = slice(8 * head, 8 * head + 8)
        weight = [w[part] for w in attention.qkv.weight.chunk(3)]
        bias = [b[part] for b in attention.qkv.bias.chunk(3)]
        q, k, _ = (normed @ w.T + b for w, b in zip(weight, bias, strict=True))
        heads.append((q @ k.mT / 8**0.5).softmax(dim=2))
    expected = sum(heads) / 3
    torch.testing.assert_close(block_attention(block, x), expected)
    torch.testing.assert_close(expected.sum(dim=2), torch.ones(2, 9))


@pytest.mark.parametrize("options", [{}, {"class_token": True, "reg_tokens": 2}])
def test_maps_rest_on_each_others_rows_and_columns(options):
    model = MCTformer(small_vit(**options), 4).eval()
    output = model(drawn(2, 3, 32, 48, dtype=torch.float32))
    assert output.tokens.shape == (3, 2, 4, 24)
    assert output.class_attention.shape == (3, 2, 4, 4, 6)
    assert output.patch_cam.shape == (2, 4, 4, 6) and output.affinity.shape == (2, 24, 24)
    between = output.affinity.sum(dim=2)  # of three rows that add up to 1
    assert (between < 3).all() and (between > 0).all()
    assert torch.equal(output.logits, (output.class_logits + output.patch_logits) / 2)
    torch.testing.assert_close(output.class_logits, output.tokens[-1].mean(dim=2))


def test_class_tokens_start_identical_and_so_do_their_maps():
    output = MCTformer(small_vit(), 3).eval()(drawn(1, 3, 32, 32, dtype=torch.float32))
    torch.testing.assert_close(output.tokens[:, :, 0], output.tokens[:, :, 2])
    torch.testing.assert_close(output.class_attention[:, :, 0], output.class_attention[:, :, 2])


def test_losses_need_no_attention_and_no_final_norm():
    model, pictures = MCTformer(small_vit(), 3), drawn(2, 3, 32, 32, dtype=torch.float32)
    short, whole = model(pictures, with_attention=False), model(pictures)
    for name in ("tokens", "class_logits", "patch_logits", "patch_cam"):
        assert torch.equal(getattr(short, name), getattr(whole, name))
    assert short.class_attention.shape == (0, 2, 3, 4, 4) and not short.affinity.any()
    names = reached(model, short.class_logits.sum() + short.patch_logits.square().sum())
    unused = {name for name, parameter in model.named_parameters() if parameter.numel()} - names
    assert unused == {"encoder.norm.weight", "encoder.norm.bias"}


def test_who_learns_from_which_logits():
    model = MCTformer(small_vit(), 3)
    output = model(drawn(2, 3, 32, 32, dtype=torch.float32), with_attention=False)
    heads = {"classifier.weight", "classifier.bias"}
    assert heads <= reached(model, output.patch_logits.square().sum())
    output = model(drawn(2, 3, 32, 32, dtype=torch.float32), with_attention=False)
    names = reached(model, output.class_logits.square().sum())
    assert not heads & names and "encoder.class_tokens" in names


def test_positions_are_repeated_to_a_larger_training_grid():
    vit = small_vit()
    position = vit.pos_embed[0, 1:].detach().unflatten(0, (4, 4))
    encoder = MCTformer(vit, 3, grid=(8, 12)).encoder
    given = encoder.patch_position.unflatten(1, (8, 12))[0]
    for row in range(8):
        for column in range(12):
            assert torch.equal(given[row, column], position[row // 2, column // 3])
    assert encoder.patch_position.requires_grad
    assert MCTformer(small_vit(), 3, grid=(4, 4)).encoder.patch_position.shape == (1, 16, 24)


def test_fused_and_spread_by_hand():
    attention = torch.tensor([[0.9, 0.1], [0.2, 0.4], [0.4, 0.0]]).reshape(3, 1, 1, 1, 2)
    cam = torch.tensor([3.0, -2.0]).reshape(1, 1, 1, 2)
    assert fused_maps(attention, cam, 2).flatten().tolist() == pytest.approx([0.9**0.5, 0])
    assert fused_maps(attention, cam).flatten().tolist() == pytest.approx([1.5**0.5, 0])
    maps = torch.tensor([1.0, 10.0]).reshape(1, 1, 1, 2)
    affinity = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])  # rows are queries
    assert spread(maps, affinity).flatten().tolist() == [21, 43]


def test_mctformer_refuses_bad_input():
    refuses(r"decay is 0; it must be in \(0, 1\]", rank_pooling, torch.zeros(1, 2, 3), 0)
    refuses("tokens .* labels", layer_contrast_loss, torch.zeros(1, 2, 3, 4), torch.ones(2, 2))
    attention, cam = torch.zeros(3, 1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    refuses("class_attention .* patch_cam", fused_maps, attention, cam[:, :1])
    refuses("last is 0; take 1", fused_maps, attention, cam, 0)
    refuses("maps .* affinity", spread, cam, torch.zeros(1, 15, 15))
    refuses(r"grid \(6, 8\) is no whole multiple", MCTformer, small_vit(), 3, grid=(6, 8))
    refuses("image size 33x32", MCTformer(small_vit(), 3), torch.zeros(1, 3, 33, 32))
