"""The class-token ViT against timm's own forward and slow transcriptions, and what it refuses."""

from functools import cache, partial

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer

from more_lib.method.backbones import mini_vit
from more_lib.method.vit import ClassTokenViT, resize_position
from tests.method.helpers import drawn, randomized, refuses

MODELS = {  # patch size, and how many tokens of its own the model has beside the class token
    "vit_tiny_patch16_224": (16, 0),
    "deit_tiny_patch16_224": (16, 0),
    "deit_tiny_distilled_patch16_224": (16, 1),
    "vit_small_patch14_dinov2": (14, 0),
    "vit_small_patch14_reg4_dinov2": (14, 4),
}
GRID = (3, 4)
CLASSES, REGISTERS = 5, 2
KINDS = ("class_tokens", "patch_tokens", "aux_patch_tokens", "attention_scores")

assert_close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)


@cache
def timm_model(name: str) -> VisionTransformer:
    """A model of ``MODELS`` made for images of ``GRID``, or the mini one; shared, so unchanged."""
    if name == "mini":
        return randomized(mini_vit())
    img_size = tuple(length * MODELS[name][0] for length in GRID)
    return randomized(timm.create_model(name, img_size=img_size, num_classes=0))


def small_vit(**options) -> VisionTransformer:
    """Three narrow blocks for images of 32x48 pixels, 4x6 patches."""
    sizes = dict(img_size=(32, 48), patch_size=8, embed_dim=24, depth=3, num_heads=3)
    return randomized(VisionTransformer(**sizes | {"num_classes": 0} | options))


def small_encoder(num_classes: int = CLASSES, num_registers: int = REGISTERS, **options):
    return ClassTokenViT(small_vit(), num_classes, num_registers, **options).eval()


def random_images(height: int, width: int, count: int = 2) -> torch.Tensor:
    return drawn(count, 3, height, width, seed=1, dtype=torch.float32)


def watched(encoder: ClassTokenViT, images: torch.Tensor):
    """The encoder's output, the sequence that enters the last block, and the one after it."""
    seen = []
    last = encoder.blocks[-1].register_forward_hook(
        lambda _, given, left: seen.extend(given + (left,))
    )
    with last, torch.no_grad():
        return encoder(images), *seen


def block_output(vit: VisionTransformer, images: torch.Tensor, block: int) -> torch.Tensor:
    """The patch tokens that timm says one block leaves."""
    how = dict(output_fmt="NLC", intermediates_only=True)
    return vit.forward_intermediates(images, [block], **how)[0]


def own_tokens(vit: VisionTransformer) -> list[torch.Tensor]:
    """What the model has beside its class token, as it stands in the state dict."""
    names = [name for name in ("dist_token", "reg_token") if getattr(vit, name, None) is not None]
    return [getattr(vit, name) for name in names]


def literal_resize(position: torch.Tensor, old, new) -> torch.Tensor:
    """One channel at a time, through the scale (new + 0.1) / old."""
    channels = []
    for channel in position[0].T:
        plane = channel.reshape(1, 1, *old)
        if old != new:
            scale = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
            plane = F.interpolate(plane, scale_factor=scale, mode="bicubic")
        channels.append(plane.flatten())
    return torch.stack(channels, 1)[None]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, "mini"])
def test_with_one_class_and_no_register_it_is_timms_own_forward(name):
    vit = timm_model(name)
    encoder = ClassTokenViT(vit, 1, num_registers=0, aux_layer=-3).eval()
    height, width = (length * encoder.patch_size for length in encoder.grid_size)
    images = random_images(height, width)
    output, _, after_blocks = watched(encoder, images)
    with torch.no_grad():
        expected = vit.forward_features(images)
        aux = block_output(vit, images, len(vit.blocks) - 3)
        assert_close(vit.norm(after_blocks), expected)
    assert_close(output.class_tokens, expected[:, :1])
    assert_close(output.patch_tokens, expected[:, vit.num_prefix_tokens :])
    assert_close(output.aux_patch_tokens, aux)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("grid", [GRID, (2, 5), (5, 5)], ids=str)
def test_any_size_gives_the_literal_sequence(name, grid):
    vit, (patch, num_others) = timm_model(name), MODELS[name]
    encoder = ClassTokenViT(vit, CLASSES, REGISTERS).eval()
    images = random_images(grid[0] * patch, grid[1] * patch)

    own = torch.cat([vit.cls_token, *own_tokens(vit)], 1)
    position = vit.pos_embed
    if not vit.no_embed_class:
        own, position = own + position[:, : 1 + num_others], position[:, 1 + num_others :]
    assert own.shape[1] == 1 + num_others
    prefix = [own[:, :1]] * CLASSES + [encoder.register_tokens, own[:, 1:]]
    with torch.no_grad():
        patches = vit.patch_embed(images) + literal_resize(position, GRID, grid)
        x = torch.cat([*(part.expand(2, -1, -1) for part in prefix), patches], 1)
        expected = vit.norm(vit.blocks(x))

    output, _, after_blocks = watched(encoder, images)
    num_patches = grid[0] * grid[1]
    assert after_blocks.shape[1] == CLASSES + REGISTERS + num_others + num_patches
    assert_close(vit.norm(after_blocks).detach(), expected)
    assert_close(output.class_tokens, expected[:, :CLASSES])
    assert_close(output.patch_tokens, expected[:, -num_patches:])
    assert output.aux_patch_tokens.shape == output.patch_tokens.shape
    assert output.attention_scores.shape == (2, CLASSES, *grid)
    assert output.grid == grid


@pytest.mark.parametrize("name", [name for name, (_, others) in MODELS.items() if others])
def test_the_models_other_tokens_take_part(name):
    vit, (patch, num_others) = timm_model(name), MODELS[name]
    encoder = ClassTokenViT(vit, CLASSES, REGISTERS).eval()
    position = 0 if vit.no_embed_class else vit.pos_embed[:, 1 : 1 + num_others]
    assert_close(encoder.other_tokens.data, (torch.cat(own_tokens(vit), 1) + position).detach())

    images = random_images(2 * patch, 2 * patch)
    with torch.no_grad():
        before = encoder(images)
        for index in range(num_others):
            encoder.other_tokens[:, index] *= -1
            after = encoder(images)
            for kind in KINDS:
                change = (getattr(after, kind) - getattr(before, kind)).abs().max()
                assert change > 1e-3, (index, kind)
            before = after


@torch.no_grad()
def test_the_auxiliary_map_is_that_blocks_output_without_norm():
    vit, images = small_vit(), random_images(32, 48)
    for aux_layer, block in ((0, 0), (1, 1), (-3, 0), (-1, 2)):
        output = ClassTokenViT(vit, 1, 0, aux_layer).eval()(images)
        assert_close(output.aux_patch_tokens, block_output(vit, images, block))


@torch.no_grad()
def test_encoder_of_a_plain_model_has_no_other_tokens_and_leaves_its_values_alone():
    vit = small_vit()
    encoder = ClassTokenViT(vit, CLASSES)
    assert encoder.other_tokens is None
    for token in (encoder.class_tokens, encoder.register_tokens, encoder.patch_position):
        token.zero_()
    for key, value in small_vit().state_dict().items():  # always the same weights
        assert torch.equal(vit.state_dict()[key], value), key


def test_class_tokens_start_identical_and_registers_do_not():
    vit = small_vit()
    encoder = ClassTokenViT(vit, CLASSES, 4).eval()
    start = vit.cls_token + vit.pos_embed[:, :1]
    assert torch.equal(encoder.class_tokens, start.expand(1, CLASSES, -1))
    assert encoder.register_tokens.shape == (1, 4, 24)
    offsets = (encoder.register_tokens - start).detach()[0]
    assert 0.01 < offsets.std() < 0.03
    assert torch.pdist(offsets).min() > 0.01
    with torch.no_grad():
        output = encoder(random_images(32, 48))
    for rows in (output.class_tokens, output.attention_scores):
        assert_close(rows, rows[:, :1].expand_as(rows))
    vit = small_vit(no_embed_class=True)  # which gives its class token no position
    encoder = ClassTokenViT(vit, CLASSES)
    assert torch.equal(encoder.class_tokens, vit.cls_token.expand(1, CLASSES, -1))
    assert torch.equal(encoder.patch_position, vit.pos_embed)


def test_permuting_the_class_tokens_permutes_what_belongs_to_them():
    encoder, images = small_encoder(), random_images(32, 48)
    order = torch.tensor([3, 0, 4, 1, 2])
    values = drawn(*encoder.class_tokens.shape, seed=2, dtype=torch.float32)
    with torch.no_grad():
        encoder.class_tokens.copy_(values)
        straight = encoder(images)
        encoder.class_tokens.copy_(values[:, order])
        permuted = encoder(images)._asdict()
    assert torch.pdist(straight.class_tokens[0]).min() > 0.1
    for kind, rows in ((kind, getattr(straight, kind)) for kind in KINDS):
        assert_close(permuted[kind], rows if "patch" in kind else rows[:, order])


def literal_attention(attention, x: torch.Tensor):
    """Textbook attention of one sequence (L, D), head by head: its output and the raw q.k."""
    width = attention.head_dim
    q, k, v = attention.qkv(x).chunk(3, dim=1)
    outputs, products = [], []
    for head in range(attention.num_heads):
        channels = slice(head * width, (head + 1) * width)
        queries, keys = attention.q_norm(q[:, channels]), attention.k_norm(k[:, channels])
        products.append(queries @ keys.T)
        outputs.append(torch.softmax(products[-1] / width**0.5, dim=1) @ v[:, channels])
    return attention.proj(torch.cat(outputs, 1)), torch.stack(products)


@pytest.mark.parametrize(
    "options",
    [{}, {"qk_norm": True}, {"qkv_bias": False}, {"init_values": 1.0}, {"reg_tokens": 3}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_fused_and_explicit_attention_agree(options):
    encoder = ClassTokenViT(small_vit(**options), CLASSES, REGISTERS).eval()
    with torch.no_grad():  # else all rows of the scores are the same
        encoder.class_tokens += drawn(*encoder.class_tokens.shape, seed=3)
    grid = (3, 5)
    output, before, after = watched(encoder, random_images(24, 40))
    block = encoder.blocks[-1]
    for index in range(2):
        with torch.no_grad():
            mixed, products = literal_attention(block.attn, block.norm1(before[index]))
            x = before[index] + block.ls1(mixed)
            x = x + block.ls2(block.mlp(block.norm2(x)))
        assert_close(after[index], x)
        scores = products.sum(0)[:CLASSES, -grid[0] * grid[1] :].reshape(CLASSES, *grid)
        assert_close(output.attention_scores[index], scores)
        assert torch.pdist(scores.flatten(1)).min() > 0.1


def test_every_block_runs_on_fused_attention(monkeypatch):
    lengths = []
    fused = F.scaled_dot_product_attention

    def counting(query, *args, **kwargs):
        lengths.append(query.shape[2])
        return fused(query, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    small_encoder()(random_images(32, 48))
    assert lengths == [CLASSES + REGISTERS + 4 * 6] * 3


def test_scores_pass_gradients_to_queries_and_keys():
    encoder = small_encoder()
    encoder(random_images(32, 48)).attention_scores.square().mean().backward()
    for tensor in (encoder.class_tokens, encoder.patch_position, encoder.blocks[-1].norm1.weight):
        assert tensor.grad.abs().max() > 0
    query, key, value = encoder.blocks[-1].attn.qkv.weight.grad.chunk(3)
    assert query.abs().max() > 0 and key.abs().max() > 0 and value.abs().max() == 0


@pytest.mark.parametrize("old, new", [((4, 4), (7, 7)), ((6, 6), (3, 9)), ((3, 5), (5, 3))])
def test_resized_positions_are_the_literal_ones(old, new):
    position = drawn(1, old[0] * old[1], 3, dtype=torch.float32)
    resized = resize_position(position, old, new)
    assert resized.shape == (1, new[0] * new[1], 3)
    assert_close(resized, literal_resize(position, old, new))
    assert resize_position(position.bfloat16(), old, new).dtype == torch.bfloat16


def test_positions_of_the_same_grid_are_untouched_and_every_grid_size_is_hit():
    position = torch.randn(1, 12, 3)
    assert torch.equal(resize_position(position, (3, 4), (3, 4)), position)
    # Twelve patches in another arrangement are another grid.
    assert not torch.equal(resize_position(position, (3, 4), (4, 3)), position)
    for old in (12, 14, 24, 37):  # the +0.1 keeps rounding from losing a row
        position = torch.zeros(1, old, 1)
        for new in range(1, 80):
            assert resize_position(position, (old, 1), (new, 1)).shape[1] == new, (old, new)


def test_a_single_column_of_patches_is_embedded_in_bf16_as_well():
    encoder, images = small_encoder(), random_images(96, 8)
    expected = encoder.embed(images)[0]
    for _ in range(4):
        left = torch.full((1000, 1000), torch.nan)  # in the memory that is used next
        del left
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert_close(encoder.embed(images)[0], expected, rtol=0, atol=0.1)


def test_what_cannot_be_wrapped_or_cut_into_patches_is_refused():
    for reason, options in (
        ("no class token", {"class_token": False, "global_pool": "avg"}),
        ("position embedding", {"pos_embed": "none"}),
        ("8x4 patches", {"patch_size": (8, 4)}),
        ("ParallelScalingBlock", {"block_fn": ParallelScalingBlock}),
    ):
        refuses(reason, ClassTokenViT, small_vit(**options), 2)
    supported = "supported.* deit.* DINOv2"
    refuses(supported, ClassTokenViT, "eva02_tiny_patch14_224", num_classes=2)
    for aux in (-4, 3):
        refuses(f"aux_layer {aux} .*3 blocks", small_encoder, aux_layer=aux)
    for size in ((33, 48), (32, 44), (0, 48)):
        message = "{}x{} .*8x8".format(*size)
        refuses(message, small_encoder(), torch.zeros(1, 3, *size))


def test_tokens_that_start_apart_get_their_directions_before_the_auxiliary_block():
    torch.manual_seed(0)
    plain, apart = small_encoder(aux_layer=-2), small_encoder(aux_layer=-2, token_start="apart")
    missing = apart.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["class_directions"] and apart.class_directions.shape == (CLASSES, 24)
    images, entering = random_images(32, 48), []
    hooks = [e.blocks[1].register_forward_pre_hook(lambda _, x: entering.extend(x)) for e in
             (plain, apart)]  # fmt: skip
    with torch.no_grad():
        equal, parted = plain(images), apart(images)
    for hook in hooks:
        hook.remove()
    before, after = entering
    assert torch.equal(before[:, CLASSES:], after[:, CLASSES:])  # registers and patches stay
    for c in range(CLASSES):  # half as long as the token, along the class's own direction
        token, direction = before[:, c], apart.class_directions[c].detach()
        assert_close(after[:, c], token + 0.5 * token.norm(dim=1, keepdim=True)
                     * direction / direction.norm())  # fmt: skip
    assert_close(equal.class_tokens, equal.class_tokens[:, :1].expand(-1, CLASSES, -1))
    spread = parted.class_tokens - parted.class_tokens.mean(1, keepdim=True)
    assert (spread.norm(dim=2) > 0.05 * parted.class_tokens.norm(dim=2)).all()


def test_directions_learn_and_their_length_does_not_count():
    encoder, images = small_encoder(token_start="apart"), random_images(32, 48)
    encoder(images).class_tokens.square().sum().backward()
    assert (encoder.class_directions.grad.norm(dim=1) > 0).all()
    with torch.no_grad():
        before = encoder(images).class_tokens
        encoder.class_directions *= 7
        assert_close(encoder(images).class_tokens, before)


def test_a_frozen_position_is_no_parameter_but_is_kept_and_used():
    """So nothing trains or decays it, whatever becomes of parameters without a gradient."""
    free, frozen = small_encoder(), small_encoder(freeze_position=True)
    frozen.load_state_dict(free.state_dict())
    assert torch.equal(frozen.patch_position, free.patch_position)
    names = {name for name, _ in free.named_parameters()}
    assert names - {name for name, _ in frozen.named_parameters()} == {"patch_position"}
    images = random_images(32, 48)
    torch.testing.assert_close(frozen(images).patch_tokens, free(images).patch_tokens)
    tokens = frozen(images).patch_tokens
    frozen.patch_position.zero_()
    assert not torch.allclose(frozen(images).patch_tokens, tokens)


def test_positions_without_a_margin_are_resized_to_the_grid():
    position, old, new = drawn(1, 24, 3, dtype=torch.float32), (4, 6), (3, 9)
    maps = position.unflatten(1, old).permute(0, 3, 1, 2)
    expected = F.interpolate(maps, new, mode="bicubic").flatten(2).mT
    assert_close(resize_position(position, old, new, 0), expected)
    assert not torch.allclose(resize_position(position, old, new), expected)
    whole = small_encoder(position_margin=0)
    assert whole(random_images(24, 40)).patch_tokens.shape == (2, 15, 24)
    assert resize_position(drawn(1, 49, 3), (49, 1), (1, 1), 0).shape == (1, 1, 3)


def test_frozen_blocks_get_no_gradient_and_the_rest_the_same_as_ever():
    torch.manual_seed(0)
    free, frozen = (small_encoder(aux_layer=-1, token_start="apart") for _ in range(2))
    frozen.load_state_dict(free.state_dict())
    frozen.freeze(2)
    images = random_images(32, 48)
    for encoder in (free, frozen):
        output = encoder(images)
        (output.class_tokens.square().sum() + output.patch_tokens.sum()).backward()
    late = ("blocks.2.", "norm.", "class_directions")
    for name, parameter in frozen.named_parameters():
        assert (parameter.grad is not None) == name.startswith(late), name
        if name.startswith(late):
            assert_close(parameter.grad, free.get_parameter(name).grad)
    refuses("frozen_blocks is 4, of 3", frozen.freeze, 4)
    refuses("then stay so: set backbone.token_start=apart", small_encoder().freeze, 1)
