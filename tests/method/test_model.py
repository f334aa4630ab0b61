"""The network as a whole: golden outputs, what its heads compute, gradients, optimizer groups."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from more_lib.method.backbones import mini_vit
from more_lib.method.gcr import GraphCategoryRepresentation
from more_lib.method.localization import lam, multiscale_cam
from more_lib.method.model import LargeFOV, MoRe, image_logits
from more_lib.method.released import load_released
from more_lib.method.vit import ClassTokenViT
from more_lib.recipes.loading import load_recipe
from more_lib.recipes.profiles import PROFILES
from more_lib.system.weights import save_weights
from tests.method.helpers import (
    assert_golden,
    drawn,
    golden,
    images,
    reached,
    refuses,
    released_weights,
)

CLASSES, DIM, PATCH = 4, 24, 8


@pytest.fixture(scope="module")
def released_model() -> MoRe:
    return load_released(released_weights("voc_state_dict_shapes"), 20)


@pytest.mark.slow
@torch.no_grad()
def test_forward_equals_the_released_one(released_model):
    expected = golden("forward_voc_224")
    pixels = images(int(expected["input_seed"]), expected["input_shape"])
    before = released_model(pixels, with_gcr=False)
    for name in ("attention_scores", "cam", "class_logits", "aux_logits", "seg_logits"):
        assert_golden(getattr(before, name), expected[name])
    assert_golden(before.aux_cam, expected["cam_aux"])
    assert_golden(before.features[:, ::16], expected["patch_features_every16"])
    assert_golden(before.class_tokens[..., ::8], expected["class_tokens_every8"])
    after = released_model(pixels)  # the graph
    assert_golden(after.class_tokens[..., ::8], expected["gcr_tokens_every8"])
    assert_golden(lam(after.features, after.class_tokens), expected["lam"])


@pytest.mark.slow
def test_multiscale_cam_equals_the_released_one(released_model):
    expected = golden("multiscale_cam_voc")
    pixels = images(int(expected["input_seed"]), expected["input_shape"])
    cam, aux_cam = multiscale_cam(released_model, pixels, tuple(expected["scales"]))
    assert_golden(cam[..., ::4, ::4], expected["cam_every4"])
    assert_golden(aux_cam[..., ::4, ::4], expected["cam_aux_every4"])


@pytest.fixture
def model() -> MoRe:
    """Three narrow blocks; the auxiliary map leaves the first of them. No weight is zero."""
    sizes = dict(img_size=(32, 48), patch_size=PATCH, embed_dim=DIM, depth=3, num_heads=3)
    vit, graph = VisionTransformer(**sizes, num_classes=0), GraphCategoryRepresentation(DIM)
    model = MoRe(ClassTokenViT(vit, CLASSES, num_registers=2), decoder_width=6, graph=graph)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.data += 0.1 * noise
        else:
            parameter.data = 2 * noise * parameter[0].numel() ** -0.5
    return model


def some_images(height: int = 32, width: int = 48, count: int = 2) -> Tensor:
    return drawn(count, 3, height, width, seed=1, dtype=torch.float32)


def test_an_encoder_with_one_token_serves_any_number_of_classes():
    sizes = dict(img_size=(32, 48), patch_size=PATCH, embed_dim=DIM, depth=3, num_heads=3)
    encoder = ClassTokenViT(VisionTransformer(**sizes, num_classes=0), 1, num_registers=0)
    model = MoRe(encoder, decoder_width=6, num_classes=CLASSES)
    output = model(some_images())
    assert output.cam.shape == output.aux_cam.shape == (2, CLASSES, 4, 6)
    assert output.class_logits.shape == (2, CLASSES) and output.class_tokens.shape == (2, 1, DIM)
    assert output.seg_logits.shape == (2, CLASSES + 1, 4, 6)


def test_every_output_has_the_promised_shape_at_another_non_square_size(model):
    output = model(some_images(24, 40, count=3))
    per_class, maps = (3, CLASSES), (3, CLASSES, 3, 5)
    assert {name: tuple(value.shape) for name, value in output._asdict().items()} == {
        "seg_logits": (3, CLASSES + 1, 3, 5),
        "features": (3, DIM, 3, 5),
        "class_tokens": (3, CLASSES, DIM),
        **dict.fromkeys(("class_logits", "aux_logits", "token_logits"), per_class),
        **dict.fromkeys(("attention_scores", "cam", "aux_cam"), maps),
    }


@torch.no_grad()
def test_outputs_are_the_encoders_and_the_heads_transcribed(model):
    """Position by position, on a map that is not square."""
    pixels, (rows, columns) = some_images(), (4, 6)
    output, encoded = model(pixels), model.encoder(pixels)
    for tokens, classifier, cam, logits in (
        (encoded.patch_tokens, model.classifier, output.cam, output.class_logits),
        (encoded.aux_patch_tokens, model.aux_classifier, output.aux_cam, output.aux_logits),
    ):
        weight = classifier.weight[:, :, 0, 0]
        for image, row, column in np.ndindex(2, rows, columns):
            patch = tokens[image, row * columns + column]
            torch.testing.assert_close(cam[image, :, row, column], weight @ patch)
        torch.testing.assert_close(logits, tokens.amax(1) @ weight.T)
        assert cam.min() < 0 < cam.max()
    torch.testing.assert_close(output.features.flatten(2).mT, encoded.patch_tokens)
    gathered = model.graph(encoded.class_tokens, encoded.patch_tokens)
    torch.testing.assert_close(output.class_tokens, gathered)
    before = model(pixels, with_gcr=False).class_tokens
    torch.testing.assert_close(before, encoded.class_tokens)
    assert not torch.allclose(before, gathered)
    torch.testing.assert_close(output.attention_scores, encoded.attention_scores)
    torch.testing.assert_close(output.seg_logits, model.decoder(output.features))
    assert not torch.allclose(output.cam, output.aux_cam)
    torch.testing.assert_close(model.cams(pixels), (output.cam, output.aux_cam))


def test_image_logits_by_hand():
    features = torch.tensor([[[[1.0, -2.0]], [[-5.0, -4.0]]]])  # maxima 1 and -4
    classifier = nn.Conv2d(2, 3, 1, bias=False)
    classifier.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]])[..., None, None]
    assert image_logits(features, classifier).tolist() == [[1.0, -4.0, 6.0]]


def test_decoder_sees_ten_patches_far_and_has_no_bias():
    """Two 3x3 convolutions of dilation 5 reach 10 positions, in steps of 5."""
    decoder, impulse = LargeFOV(2, 3, width=16), torch.zeros(1, 2, 31, 31)
    for weight in decoder.parameters():
        nn.init.uniform_(weight, 0.1, 1.0)
    assert not decoder(impulse).any()
    impulse[..., 15, 15] = 1
    reached = decoder(impulse)[0].ne(0)
    expected = torch.zeros(31, 31, dtype=torch.bool)
    expected[5:26:5, 5:26:5] = True
    assert torch.equal(reached, expected.expand(3, -1, -1))


def test_an_image_that_the_patch_does_not_divide_is_refused(model):
    assert model.patch_size == PATCH
    for call in (model, model.cams):
        refuses("33x48.*8x8", call, some_images(33, 48))


def names(model: MoRe, *beginnings: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(beginnings)}


@pytest.mark.parametrize("kind", ["class_logits", "aux_logits", "seg_logits", "class_tokens"])
def test_gradients_reach_all_that_an_output_depends_on(model, kind):
    later = names(model, "encoder.blocks.1", "encoder.blocks.2", "encoder.norm")
    expected = {
        "class_logits": names(model, "encoder", "classifier"),
        "aux_logits": names(model, "encoder", "aux_classifier") - later,
        "seg_logits": names(model, "encoder", "decoder"),
        "class_tokens": names(model, "encoder", "graph"),
    }
    assert {"encoder.class_tokens", "encoder.patch_position"} < expected[kind]
    output = model(some_images())
    assert reached(model, getattr(output, kind).square().sum()) == expected[kind]


def test_parameter_groups_hold_every_parameter_once_at_its_rate(model):
    settings = PROFILES["mini"].optimizer
    settings = replace(settings, lr=0.5, head_lr_factor=10, token_lr_factor=4, weight_decay=0.1)
    for parts, rates, decays in (
        (1, [0.5, 2.0, 5.0], [0.1, 0.1, 0.1]),
        (2, [0.5, 4.0, 5.0, 1.0], [0.1, 0.05, 0.1, 0.05]),
    ):
        groups = model.parameter_groups(replace(settings, token_parameters=parts))
        assert [group["lr"] for group in groups] == rates
        assert [group["weight_decay"] for group in groups] == decays
        everything = [id(parameter) for group in groups for parameter in group["params"]]
        assert len(everything) == len(set(everything))
        assert set(everything) == {id(parameter) for parameter in model.parameters()}
        encoder, tokens, _, *registers = groups
        assert tokens["params"][0] is model.encoder.class_tokens
        of_encoder = [p for each in (encoder, tokens, *registers) for p in each["params"]]
        assert set(map(id, of_encoder)) == set(map(id, model.encoder.parameters()))
    assert registers[0]["params"][0] is model.encoder.register_tokens


def test_without_decay_are_what_has_one_dimension_and_class_tokens(model):
    settings = replace(PROFILES["mini"].optimizer, decayed="matrices", weight_decay=0.1, lr=0.5)
    everything = {id(p): n for n, p in model.named_parameters()}
    for parts in (1, 2):
        groups = model.parameter_groups(replace(settings, token_parameters=parts))
        placed = [id(p) for group in groups for p in group["params"]]
        assert sorted(placed) == sorted(everything)
        rates, decays = (
            {everything[id(p)]: group[key] for group in groups for p in group["params"]}
            for key in ("lr", "weight_decay")
        )
        plain = model.parameter_groups(replace(settings, token_parameters=parts, decayed="all"))
        assert rates == {everything[id(p)]: g["lr"] for g in plain for p in g["params"]}
        assert decays.pop("encoder.class_tokens") == 0
        registers = decays.pop("encoder.register_tokens")
        assert registers == (0.1 if parts == 1 else 0)
        shapes = {name: p.ndim for name, p in model.named_parameters()}
        assert decays == {name: 0.1 if shapes[name] > 1 else 0 for name in decays}
        assert decays["encoder.blocks.0.norm1.weight"] == decays["encoder.norm.bias"] == 0
        assert decays["encoder.patch_position"] == decays["classifier.weight"] == 0.1


def test_drop_path_grows_evenly_to_its_rate_and_is_off_in_evaluation():
    recipe = load_recipe("mini", ["backbone.drop_path=0.5", "backbone.depth=3"])
    encoder = MoRe.from_recipe(recipe, pretrained=False).encoder
    for part in ("drop_path1", "drop_path2"):
        assert [getattr(b, part).drop_prob for b in encoder.blocks] == [0, 0.25, 0.5]
    pixels = torch.randn(1, 3, 96, 96)
    encoder.train()
    assert not torch.equal(encoder(pixels).patch_tokens, encoder(pixels).patch_tokens)
    encoder.eval()
    assert torch.equal(encoder(pixels).patch_tokens, encoder(pixels).patch_tokens)


class Position(nn.Module):
    """What a token is: itself and its position, two parameters."""

    def __init__(self, position: Tensor) -> None:
        super().__init__()
        self.position = nn.Parameter(position)

    def forward(self, token: Tensor) -> Tensor:
        return token + self.position


def test_tokens_that_are_two_parameters_move_as_the_literal_two_do(model):
    """AdamW under a changing rate and a weight decay that shows, forward pass and all."""
    settings = replace(PROFILES["voc"].optimizer, lr=0.01, weight_decay=0.5)
    ours, literal = (copy.deepcopy(model).double() for _ in range(2))
    names = ("class_tokens", "register_tokens")
    for name in names:
        tokens = getattr(literal.encoder, name)
        position = torch.randn_like(tokens)
        tokens.data -= position
        register_parametrization(literal.encoder, name, Position(position))
    known = set(map(id, literal.encoder.parameters()))
    new = [p for p in literal.parameters() if id(p) not in known]
    plain = [
        {"params": list(literal.encoder.parameters()), "lr": settings.lr},
        {"params": new, "lr": settings.lr * settings.head_lr_factor},
    ]
    optimizers = [
        torch.optim.AdamW(plain, weight_decay=settings.weight_decay),
        torch.optim.AdamW(ours.parameter_groups(settings)),
    ]
    pixels, before = some_images().double(), ours.encoder.register_tokens.detach().clone()
    for step in range(4):
        for network, optimizer in zip((literal, ours), optimizers, strict=True):
            network(pixels).class_tokens.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] *= 0.9 - 0.1 * step
        for name in names:
            found, wanted = (getattr(each.encoder, name) for each in (ours, literal))
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    assert (ours.encoder.register_tokens - before).abs().mean() > 0.01


def test_from_recipe_builds_what_the_recipe_says():
    backbone = [f"backbone.{x}" for x in ("num_registers=3", "aux_layer=-2", "decoder_width=7")]
    recipe = load_recipe("mini", [*backbone, "data.classes=[cat,dog]"])
    model = MoRe.from_recipe(recipe, pretrained=False)
    encoder = model.encoder
    assert encoder.class_tokens.shape[1] == encoder.num_classes == 2
    assert encoder.register_tokens.shape[1] == 3
    assert encoder.aux_block == len(encoder.blocks) - 2
    assert model.classifier.out_channels == model.aux_classifier.out_channels == 2
    assert model.decoder[0].out_channels == 7 and model.decoder[-1].out_channels == 3


def test_from_recipe_keeps_the_first_blocks_alone():
    whole = MoRe.from_recipe(load_recipe("mini")).encoder
    cut = MoRe.from_recipe(load_recipe("mini", ["backbone.depth=4"])).encoder
    assert len(whole.blocks) == 6 and len(cut.blocks) == 4
    for ours, theirs in zip(cut.blocks, whole.blocks, strict=False):
        assert torch.equal(ours.attn.qkv.weight, theirs.attn.qkv.weight)
    assert cut.aux_block == 1  # the third from its own end
    deep = load_recipe("mini", ["backbone.depth=7"])
    message = r"backbone\.depth is 7, but there are 6 blocks"
    refuses(message, MoRe.from_recipe, deep, pretrained=False)


def test_crops_that_cannot_be_cut_in_patches_are_refused_with_a_size_that_can():
    for override, message in (
        ("data.crop_size=50", "data.crop_size is 50, no multiple of a patch's 8 pixels: give 48"),
        ("data.crop_size=3", "data.crop_size is 3, .*: give 8"),
        ("masks.scales=[1.0, 0.08]", "masks.scales holds 0.08, .* data.crop_size 96: drop it"),
    ):
        refuses(message, MoRe.from_recipe, load_recipe("mini", [override]), pretrained=False)


@pytest.mark.slow
def test_from_recipe_builds_the_graph_of_the_recipe():
    switched = ["graph.num_neighbors=7", "graph.tails=patches", "graph.update=plain"]
    recipe = load_recipe("mini", switched)
    graph = MoRe.from_recipe(recipe, pretrained=False).graph
    assert graph.num_neighbors == 7 and graph.switches == recipe.graph
    assert MoRe.from_recipe(PROFILES["voc"], pretrained=False).graph.num_neighbors == 0
    without = MoRe.from_recipe(load_recipe("mini", ["graph.use=false"]), pretrained=False)
    assert without.graph is None
    assert without(torch.randn(1, 3, 96, 96)).class_tokens.shape == (1, 10, 192)


def test_one_seed_gives_the_heads_the_same_start_with_a_graph_and_without():
    def built(graph: str) -> MoRe:
        torch.manual_seed(3)
        return MoRe.from_recipe(load_recipe("mini", [f"graph.use={graph}"]), pretrained=False)

    with_graph, without = built("true").state_dict(), built("false").state_dict()
    assert set(without) < set(with_graph)
    for name, value in without.items():
        torch.testing.assert_close(with_graph[name], value, rtol=0, atol=0)


def test_from_recipe_starts_from_the_backbones_weights(tmp_path):
    file = tmp_path / "backbone.safetensors"
    vit = mini_vit()
    save_weights(vit, file)
    encoder = MoRe.from_recipe(load_recipe("mini", [f"backbone.weights={file}"])).encoder
    for part in ("patch_embed", "blocks", "norm"):
        loaded = getattr(encoder, part).state_dict()
        for key, value in getattr(vit, part).state_dict().items():
            assert torch.equal(loaded[key], value), f"{part}.{key}"
    start = vit.cls_token + vit.pos_embed[:, :1]
    assert torch.equal(encoder.class_tokens[:, -1:], start)
    absent = load_recipe("mini", [f"backbone.weights={tmp_path}/absent.safetensors"])
    refuses("absent.safetensors", MoRe.from_recipe, absent)  # never random ones instead


def test_class_tokens_are_read_out_each_by_its_own_row_or_by_their_means(model):
    tokens = torch.tensor([[[1.0, 2.0, 3.0], [0.0, 0.0, -3.0]]])
    assert model.read_out(tokens).tolist() == [[2.0, -1.0]]
    model.token_classifier = nn.Linear(3, 2)
    model.token_classifier.weight.data = torch.tensor([[1.0, 0.0, 2.0], [4.0, 5.0, 1.0]])
    model.token_classifier.bias.data = torch.tensor([0.5, -1.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        large = torch.tensor([[[256.0, 0.0, 0.5], [64.0, 0.0, 1.0]]], dtype=torch.bfloat16)
        exact = model.read_out(large).tolist()
    assert model.read_out(tokens).tolist() == [[7.5, -4.0]]
    assert exact == [[257.5, 256.0]]  # the first is none of bf16's numbers


def test_a_recipe_with_a_linear_read_out_gets_one_that_learns_and_leaves_the_rest_as_it_was():
    def built(read_out: str) -> MoRe:
        torch.manual_seed(3)
        settings = [f"loss.token_readout={read_out}", "graph.use=false"]
        return MoRe.from_recipe(load_recipe("mini", settings), pretrained=False)

    linear, mean = built("linear"), built("mean")
    assert mean.token_classifier is None
    assert set(linear.state_dict()) - set(mean.state_dict()) == {
        "token_classifier.weight",
        "token_classifier.bias",
    }
    for name, value in mean.state_dict().items():
        assert torch.equal(linear.state_dict()[name], value), name
    logits = linear(torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    moved = reached(linear, logits.token_logits.square().sum())
    assert {"token_classifier.weight", "encoder.class_tokens"} < moved
    assert "classifier.weight" not in moved
    heads = linear.parameter_groups(load_recipe("mini").optimizer)[2]["params"]
    assert any(parameter is linear.token_classifier.weight for parameter in heads)


@torch.no_grad()
def test_without_decoder_all_else_is_the_same():
    recipe = load_recipe("mini", ["data.classes=[cat, dog]", "backbone.name=mini_w48"])
    model, pixels = MoRe.from_recipe(recipe, pretrained=False), drawn(1, 3, 32, 32).float()
    whole, part = model(pixels)._asdict(), model(pixels, with_decoder=False)._asdict()
    assert part.pop("seg_logits").shape == (1, 0, 4, 4)
    del whole["seg_logits"]
    assert all(torch.equal(part[name], values) for name, values in whole.items())
