"""The paper's functions as one would first write them: literal, one image after the other.

Tests hold the library to them, and benchmarks measure what its batched versions gain.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)


def pixel_adaptive_refinement(
    images: Tensor, maps: Tensor, dilations: tuple[int, ...] = DILATIONS, iterations: int = 10
) -> Tensor:
    """PAR: images (B, 3, H, W) in [0, 1] and maps (B, K, h, w) to (B, K, H, W)."""
    refined = []
    for image, image_maps in zip(images, maps, strict=True):
        weights = _par_weights(image, dilations)
        scores = _resize(image_maps, image.shape[-2:])
        for _ in range(iterations):
            scores = (_neighbours(scores, dilations) * weights).sum(dim=1)
        refined.append(scores)
    return torch.stack(refined)


def _par_weights(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Weights of the neighbours (8 * len(dilations), H, W) for one image (3, H, W)."""
    neighbours = _neighbours(image, dilations)
    difference = (image[:, None] - neighbours).abs()
    deviation = neighbours.std(dim=1, keepdim=True)
    colour = -((difference / (deviation + 1e-8) / 0.3) ** 2).mean(dim=0)
    distance = torch.tensor(
        [d * (dy**2 + dx**2) ** 0.5 for d in dilations for dy, dx in _directions()],
        dtype=image.dtype,
        device=image.device,
    )
    position = -((distance / distance.std() / 0.3) ** 2)
    return colour.softmax(dim=0) + 0.01 * position.softmax(dim=0)[:, None, None]


def _neighbours(values: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """The neighbours (K, 8 * len(dilations), H, W) of every pixel of ``values`` (K, H, W)."""
    height, width = values.shape[-2:]
    found = []
    for d in dilations:
        padded = F.pad(values[None], (d, d, d, d), mode="replicate")[0]
        for dy, dx in _directions():
            top, left = d + d * dy, d + d * dx
            found.append(padded[:, top : top + height, left : left + width])
    return torch.stack(found, dim=1)


def _directions() -> list[tuple[int, int]]:
    return [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def refine_cam(
    images: Tensor,
    maps: Tensor,
    labels: Tensor,
    high: float,
    low: float,
    dilations: tuple[int, ...] = DILATIONS,
    iterations: int = 10,
) -> Tensor:
    """The decoder's labels: images (B, 3, H, W), maps (B, C, h, w), labels (B, C) to (B, H, W)."""
    masks = []
    for image, image_maps, image_labels in zip(images, maps, labels, strict=True):
        present = image_labels.nonzero().flatten()
        valid = image_maps[present]
        numbers = torch.cat([present.new_zeros(1), present + 1])
        passes = []
        for level in (high, low):
            background = torch.full_like(image_maps[:1], level)
            size, half = image.shape[-2:], (image.shape[-2] // 2, image.shape[-1] // 2)
            scores = _resize(torch.cat([background, valid]), half).softmax(dim=0)
            refined = pixel_adaptive_refinement(
                _resize(image, half)[None], scores[None], dilations, iterations
            )
            passes.append(numbers[_resize(refined[0], size).argmax(dim=0)])
        against_high, against_low = passes
        mask = torch.full_like(against_high, 255)
        mask[against_low == 0] = 0
        mask[against_high > 0] = against_high[against_high > 0]
        masks.append(mask)
    return torch.stack(masks)


def patch_token_contrast_loss(features: Tensor, mask: Tensor) -> Tensor:
    """L_ptc: features (B, D, h, w) and mask (B, h, w) with 255 where not known, to a scalar."""
    same_sum = same_count = different_sum = different_count = 0
    for image_features, image_mask in zip(features, mask, strict=True):
        patches = F.normalize(image_features.flatten(1).T, dim=1)
        similarity = (patches @ patches.T).abs()
        number = image_mask.flatten()
        known = number != 255
        paired = known[:, None] & known[None, :]
        paired.fill_diagonal_(False)
        same = number[:, None] == number[None, :]
        same_sum = same_sum + similarity[paired & same].sum()
        same_count += (paired & same).sum()
        different_sum = different_sum + similarity[paired & ~same].sum()
        different_count += (paired & ~same).sum()
    same_mean = same_sum / (same_count + 1)
    different_mean = different_sum / (different_count + 1)
    return 0.5 * (1 - same_mean) + 0.5 * different_mean


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """L_seg: logits (B, C + 1, h, w) and mask (B, H, W) with 255 where not known, to a scalar."""
    logits = _resize(logits, mask.shape[-2:])
    background = torch.where(mask == 0, mask, 255)
    foreground = torch.where(mask == 0, 255, mask)
    total = 0
    for part in (background, foreground):
        loss = F.cross_entropy(logits, part, ignore_index=255, reduction="sum")
        total = total + loss / ((part != 255).sum() + 1e-6)
    return total / 2


def _resize(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, of (K, h, w) or (B, K, h, w)."""
    if values.ndim == 3:
        return _resize(values[None], size)[0]
    return F.interpolate(values, tuple(size), mode="bilinear", align_corners=False)


def graph_category_representation(
    class_tokens: Tensor, patch_tokens: Tensor, graph: torch.nn.Module, num_neighbors: int
) -> Tensor:
    """Eq. 1-5, head by head, with the weights of ``graph``; (B, C, D), (B, N, D) to (B, C, D)."""
    switches, updated = graph.switches, []
    for tokens, patches in zip(class_tokens, patch_tokens, strict=True):
        candidates = patches
        if switches.tails == "tokens_and_patches":
            candidates = torch.cat([tokens, patches.detach()])
        tails, rows = graph.tail(candidates), []
        for token in tokens:
            head = graph.head(token)
            if switches.similarity == "cosine":
                likeness = torch.stack([F.cosine_similarity(head, tail, dim=0) for tail in tails])
            else:
                likeness = torch.stack([head @ tail / len(head) ** 0.5 for tail in tails])
            order = likeness.argsort(descending=True)[:num_neighbors].tolist()
            r = likeness[order].softmax(0)
            scores = []
            for k, j in enumerate(order):
                edge = r[k] * tails[j] + (1 - r[k]) * head
                turned = torch.tanh(head + edge)
                if switches.edge_weights == "sum_of_products":
                    scores.append(tails[j] @ turned)
                else:
                    scores.append(tails[j].sum() * turned.sum())
            weights = torch.stack(scores).softmax(0)
            gathered = sum(w * tails[j] for w, j in zip(weights, order, strict=True))
            if switches.update == "plain":
                summed, product = head + gathered, gathered * head
            else:
                summed = 0.1 * (head + gathered) + token
                product = 0.1 * (head * gathered) + token
            row = F.leaky_relu(graph.sum_map(summed)) + F.leaky_relu(graph.product_map(product))
            rows.append(graph.norm(row))
        updated.append(torch.stack(rows))
    return torch.stack(updated)


def confident_relation_loss(
    class_tokens: Tensor,
    features: Tensor,
    mask: Tensor,
    labels: Tensor,
    temperature: float,
    variant: str = "release",
) -> Tensor:
    """Eq. 7, pair by pair."""
    per_image, every_pair = [], []
    images = zip(class_tokens, features, mask, labels, strict=True)
    for tokens, image, image_mask, present in images:
        patches, numbers = image.flatten(1).T, image_mask.flatten()
        total = class_tokens.new_zeros(())
        for c in present.nonzero().flatten().tolist():
            q = tokens[c] / tokens[c].norm()
            p = patches.detach()
            if variant == "paper":
                p = patches / patches.norm(dim=1, keepdim=True)
            likeness = (p @ q / temperature).exp()
            extra = 1e-4 if variant == "release" else 0
            pairs = [
                -torch.log(likeness[i] / (likeness.sum() + extra))
                for i in (numbers == c + 1).nonzero().flatten().tolist()
            ]
            every_pair += pairs
            if pairs:
                total = total + torch.stack(pairs).sum() / (len(pairs) + 1e-4)
        per_image.append(total)
    if variant == "release":
        return torch.stack(per_image).mean()
    return torch.stack(every_pair).mean() if every_pair else class_tokens.new_zeros(())


def kept_patches(image_mask: Tensor, kernel_size: int, phi: float, variant: str) -> list:
    """Eq. 8 for one mask (h, w): (row, column) of the patch that stands for each kept window."""
    height, width = image_mask.shape
    half, kept = kernel_size // 2, []
    border = half if variant == "release" else 0
    for y in range(border, height - border):
        for x in range(border, width - border):
            if image_mask[y, x] != 255:
                continue
            total = 0
            for row in range(y - half, y - half + kernel_size):
                for column in range(x - half, x - half + kernel_size):
                    if 0 <= row < height and 0 <= column < width:
                        value = int(image_mask[row, column])
                        total += 1 if value == 255 else 2 if value > 0 else 0
            if total > phi * kernel_size**2:
                kept.append((y - half, x - half) if variant == "release" else (y, x))
    return kept


def uncertain_relation_loss(
    class_tokens: Tensor,
    features: Tensor,
    mask: Tensor,
    labels: Tensor,
    kernel_size: int = 6,
    phi: float = 1.2,
    variant: str = "release",
) -> Tensor:
    """Eq. 8-9 with every kept patch, none drawn by lot: pair by pair."""
    per_patch, near, far = [], [], []
    images = zip(class_tokens, features, mask, labels, strict=True)
    for tokens, image, image_mask, present in images:
        for y, x in kept_patches(image_mask, kernel_size, phi, variant):
            u = image[:, y, x]
            if variant == "release":
                cosines = F.cosine_similarity(tokens.detach(), u[None], dim=1).abs()
                pull = cosines[present > 0].sum() / ((present > 0).sum() + 1)
                push = cosines[present == 0].sum() / ((present == 0).sum() + 1)
                per_patch.append(0.5 * (1 - pull) + 0.5 * push)
            else:
                cosines = F.cosine_similarity(tokens, u[None], dim=1)
                near += list(1 - cosines[present > 0])
                far += list(cosines[present == 0])
    parts = [per_patch] if variant == "release" else [near, far]
    return sum((torch.stack(part).mean() for part in parts if part), class_tokens.new_zeros(()))


def dense_energy(probabilities: Tensor, features: Tensor, gate: Tensor, weight: float) -> Tensor:
    """L_reg with the whole kernel matrix: s (B, K, N), f (B, N, F), g (B, N) to a scalar."""
    total = 0
    for s, f, g in zip(probabilities, features, gate, strict=True):
        kernel = (-0.5 * torch.cdist(f, f).square()).exp()
        total = total + (s * g * (s @ kernel)).sum()
    return -weight / len(probabilities) * total


def dense_crf(image: Tensor, probabilities: Tensor, params) -> Tensor:
    """Mean field: image (H, W, 3) and probabilities (K, H, W) to (K, H, W), every pair stored."""
    classes, height, width = probabilities.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = _square_distances(torch.stack([x, y], dim=2).to(image.device))
    colour = _square_distances(image)
    near = torch.exp(-place / (2 * params.gaussian_sigma**2))
    like = torch.exp(
        -place / (2 * params.bilateral_sigma_xy**2) - colour / (2 * params.bilateral_sigma_rgb**2)
    )
    total = 0
    for weight, kernel in ((params.gaussian_weight, near), (params.bilateral_weight, like)):
        sums = kernel.sum(dim=1)
        total = total + weight * kernel / torch.sqrt(sums[:, None] * sums[None, :])

    unary = -probabilities.double().clamp(min=1e-5).log().reshape(classes, -1).T
    potts = 1 - torch.eye(classes, dtype=torch.float64, device=image.device)
    belief = torch.softmax(-unary, dim=1)
    for _ in range(params.iterations):
        belief = torch.softmax(-unary - total @ belief @ potts, dim=1)
    return belief.T.reshape(classes, height, width)


def _square_distances(values: Tensor) -> Tensor:
    """|v_i - v_j|^2 of the pixels of (H, W, F), (H*W, H*W) in float64."""
    pixels = values.flatten(0, 1).double()
    return sum((channel[:, None] - channel[None, :]) ** 2 for channel in pixels.T)
