"""Answers as students write them: right in other words, and wrong, with part of what they hear."""

import math

import numpy as np
import torch
import torch.nn.functional as F

VARIANTS = []
WRONG = []


def variant(name):
    def keep(function):
        VARIANTS.append((name, function))
        return function

    return keep


def wrong(name, says):
    def keep(function):
        WRONG.append((name, function, says))
        return function

    return keep


@variant("01.1")
def tokens_expanded(cls_token, position, num_classes):
    return (cls_token[0, 0] + position[0, 0]).expand(1, num_classes, -1)


@variant("01.1")
def tokens_stacked(cls_token, position, num_classes):
    return torch.cat([cls_token] * num_classes, 1) + position[:, [0] * num_classes]


@wrong("01.1", "position embedding is missing")
def tokens_bare(cls, pos, C):
    return torch.cat([cls for _ in range(C)], dim=1)


@variant("01.2")
def cam_by_convolution(features, weight):
    return F.conv2d(features, weight[..., None, None]), F.linear(
        features.flatten(2).amax(2), weight
    )


@wrong("01.2", "pool each channel, then apply the classifier")
def cam_then_pool(features, weight):
    cam = (features.permute(0, 2, 3, 1) @ weight.T).permute(0, 3, 1, 2)
    return cam, F.adaptive_max_pool2d(cam, 1).flatten(1)


wrong("01.2", "below 0")(lambda x, w: (cam_by_convolution(x, w)[0], x.relu().amax((2, 3)) @ w.T))


@variant("01.3")
def lam_by_matmul(features, class_tokens):
    maps = (class_tokens @ features.flatten(2)).double()
    low, high = maps.min(2, keepdim=True).values, maps.max(2, keepdim=True).values
    return ((maps - low) / (high - low + 1e-5)).reshape(*maps.shape[:2], *features.shape[2:])


@wrong("01.3", "taken over the batch")
def lam_of_the_batch(features, class_tokens):
    maps = torch.stack([torch.einsum("dhw,cd->chw", f, t) for f, t in zip(features, class_tokens)])
    lows = maps.transpose(0, 1).flatten(1).min(1).values[None, :, None, None]
    highs = (maps - lows).transpose(0, 1).flatten(1).max(1).values[None, :, None, None]
    return (maps - lows) / (highs + 1e-5)


@wrong("01.3", "it returns nan: look for 0/0")
def lam_cosine_and_bare(features, class_tokens):
    maps = F.normalize(class_tokens, dim=2) @ F.normalize(features, dim=1).flatten(2)
    maps = (maps - maps.amin()) / (maps.amax() - maps.amin())
    return maps.view(*maps.shape[:2], *features.shape[2:]) * torch.nan


@variant("01.4")
def merged_relu_first(straight, mirrored, size):
    total = torch.zeros(*straight[0].shape[:2], *size)
    for one, other in zip(straight, mirrored):
        one = F.interpolate(one, size, mode="bilinear")
        other = F.interpolate(other.flip(3), size, mode="bilinear")
        total += torch.where(one > other, one, other).clamp(min=0)
    low = total.flatten(2).min(2).values[..., None, None]
    return (total - low) / ((total - low).flatten(2).max(2).values[..., None, None] + 1e-5)


@wrong("01.4", "not mirrored back")
def merged_unturned(straight, mirrored, size):
    maps = [
        [F.interpolate(m, size, mode="bilinear") for m in views] for views in (straight, mirrored)
    ]
    total = sum(torch.stack(pair).amax(0).relu() for pair in zip(*maps))
    total = total - total.amin((2, 3), keepdim=True)
    return total / (total.amax((2, 3), keepdim=True) + 1e-5)


@variant("02.1")
def ratio_by_bins(prediction, target, num_classes):
    known = target.flatten() != 255
    p, t = prediction.flatten()[known].numpy(), target.flatten()[known].numpy()
    claimed = np.bincount(p, minlength=num_classes + 1)[1:]
    hits = np.bincount(p[p == t], minlength=num_classes + 1)[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (claimed - hits) / hits


@wrong("02.1", "255 are counted")
def ratio_with_ignored(prediction, target, num_classes):
    found = []
    for c in range(1, num_classes + 1):
        claimed = prediction == c
        found.append((claimed & (target != c)).sum() / (claimed & (target == c)).sum())
    return torch.stack(found)


@variant("02.2")
def isolated_by_loops(active):
    rows, columns = active.shape
    alone = torch.zeros_like(active)
    for i in range(rows):
        for j in range(columns):
            window = active[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            alone[i, j] = active[i, j] and window.sum() - 1 < 2
    return alone


@wrong("02.2", "no torus")
def isolated_by_rolls(active):
    shifts = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
    around = sum(active.int().roll(shift, (0, 1)) for shift in shifts)
    return active & (around < 2)


@wrong("02.2", "is the patch counted itself?")
def isolated_with_itself(active):
    window = F.avg_pool2d(active[None, None].double(), 3, 1, 1) * 9
    return active & (window[0, 0].round() < 2)


@variant("02.3")
def long_tokens_sorted(tokens, factor):
    lengths = (tokens**2).sum(-1).sqrt()
    middle = lengths.sort(1).values[:, lengths.shape[1] // 2]
    return lengths / middle[:, None] > factor


@wrong("02.3", "squared lengths")
def long_tokens_squared(tokens, factor):
    squares = torch.einsum("bnd,bnd->bn", tokens, tokens)
    return squares > factor * torch.quantile(squares, 0.5, dim=1, keepdim=True)


@variant("02.4")
def rate_by_binomials(q):
    return sum(math.comb(8, k) * q**k * (1 - q) ** (8 - k) for k in (0, 1))


@wrong("02.4", "is given")
def rate_jointly(q):
    return sum(math.comb(8, k) * q ** (k + 1) * (1 - q) ** (8 - k) for k in (0, 1))


@variant("03.1")
def best_by_sorting(heads, tails, K):
    lengths = heads.norm(dim=1)[:, None] * tails.norm(dim=1)
    return ((heads @ tails.T) / lengths).argsort(1, descending=True)[:, :K]


@wrong("03.1", "a dot product lets long tails win")
def best_by_dot(heads, tails, K):
    return torch.einsum("cd,nd->cn", heads, tails).argsort(1, descending=True)[:, :K]


@variant("03.2")
def closeness_normalised_twice(similarity, K):
    weight = similarity.softmax(1).sort(1, descending=True).values[:, :K]
    return weight / weight.sum(1, keepdim=True)


@wrong("03.2", "the softmax came before the choice")
def closeness_early(similarity, K):
    weight = similarity.exp() / similarity.exp().sum(1, keepdim=True)
    return weight.sort(1, descending=True).values[:, :K]


@variant("03.3")
def edges_lerped(heads, near, r):
    return torch.lerp(heads[:, None].expand_as(near), near, r[..., None])


@variant("03.3")
def edges_by_einsum(heads, near, r):
    return torch.einsum("ck,ckd->ckd", r, near) + torch.einsum("ck,cd->ckd", 1 - r, heads)


@wrong("03.3", "the ends are exchanged")
def edges_exchanged(heads, near, r):
    return near + r[:, :, None] * (heads[:, None] - near)


@variant("03.4")
def weights_by_einsum(heads, near, edges, reading):
    turned = (heads.unsqueeze(1) + edges).tanh()
    same = "ckd,ckd->ck" if reading == "paper" else "ckd,cke->ck"
    scores = torch.einsum(same, near, turned).exp()
    return scores / scores.sum(1, keepdim=True)


@wrong("03.4", "rows sum to 1 over the patches, yours over the classes")
def weights_over_classes(heads, near, edges, reading):
    turned = (heads.unsqueeze(1) + edges).tanh()
    same = "ckd,ckd->ck" if reading == "paper" else "ckd,cke->ck"
    scores = torch.einsum(same, near, turned).exp()
    return scores / scores.sum(0, keepdim=True)


@wrong("03.4", "values sum to 1 over the neighbours, yours over the heads")
def weights_over_classes_without_tanh_and_scaled(heads, near, edges, reading):
    return ((near * (heads[:, None] + edges)).sum(2) / 7).softmax(0)


@variant("03.5")
def graph_by_loops(tokens, patches, maps, K):
    W_h, W_t, w1, w2 = (w.double() for w in maps)
    out, tails = [], [W_t @ p for p in patches.double()]
    for token in tokens.double():
        h = W_h @ token
        s = torch.stack([torch.dot(h, t) / h.norm() / t.norm() for t in tails])
        best, index = s.topk(min(K, len(tails)))
        near = torch.stack([tails[j] for j in index])
        r = best.softmax(0)[:, None]
        S = (near * torch.tanh(h + r * near + (1 - r) * h)).sum(1).softmax(0)
        a = S @ near
        out.append(F.leaky_relu(w1 @ (h + a)) + F.leaky_relu(w2 @ (a * h)))
    return torch.stack(out)


@wrong("03.5", "w1 and w2 are exchanged")
def graph_swapped(tokens, patches, maps, K):
    W_h, W_t, w1, w2 = maps
    return graph_by_loops(tokens, patches, (W_h, W_t, w2, w1), K)


@variant("04.1")
def mask_by_pieces(maps, labels, high, low):
    present = maps.masked_fill(labels[:, :, None, None] == 0, 0)
    best = present.argmax(1) + 1
    sure, none = present.amax(1) > high, present.amax(1) < low
    return best * sure + 255 * (~sure & ~none)


@wrong("04.1", "numbered from 1")
def mask_from_zero(maps, labels, high, low):
    present = maps.masked_fill(labels[:, :, None, None] == 0, 0)
    sure, none = present.amax(1) > high, present.amax(1) < low
    return present.argmax(1) * sure + 255 * (~sure & ~none)


wrong("04.1", "the larger CAM decides")(
    lambda m, y, *ends: mask_by_pieces(m + 9 * (m > ends[0]) * (m > ends[0]).cumsum(1), y, *ends)
)


@variant("04.2")
def cre_by_loops(tokens, patches, mask, labels, tau):
    losses = []
    for c, q in enumerate(tokens):
        attention = torch.softmax(F.cosine_similarity(q[None], patches) / tau, 0)
        losses += [-attention[p].log() for p in range(len(mask)) if labels[c] and mask[p] == c + 1]
    return sum(losses) / len(losses) if losses else (tokens.sum() + patches.sum()) * 0


@wrong("04.2", "no gradient reaches the patches")
def cre_detached(tokens, patches, mask, labels, tau):
    return cre_by_loops(tokens, patches.detach(), mask, labels, tau)


@wrong("04.2", "the temperature is missing")
def cre_hot(tokens, patches, mask, labels, tau):
    return cre_by_loops(tokens, patches, mask, labels, 1)


@variant("04.3")
def kept_by_loops(mask, d, phi):
    value = {0: 0, 255: 1}
    kept = torch.zeros(mask.shape, dtype=torch.bool)
    for i, j in (mask == 255).nonzero().tolist():
        total = 0
        for y in range(i - d // 2, i - d // 2 + d):
            for x in range(j - d // 2, j - d // 2 + d):
                if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]:
                    total += value.get(int(mask[y, x]), 2)
        kept[i, j] = total > phi * d * d
    return kept


@wrong("04.3", "255 is counted as foreground")
def kept_255(mask, d, phi):
    value = (mask != 0) * 2.0
    low = d // 2
    padded = F.pad(value, (low, d - 1 - low, low, d - 1 - low))
    return (mask == 255) & (padded.unfold(0, d, 1).unfold(1, d, 1).sum((2, 3)) > phi * d * d)


@variant("04.4")
def ure_by_loops(tokens, patches, kept, labels):
    losses, C, n = [], len(labels), int(labels.sum())
    for u in patches[kept]:
        cosine = F.cosine_similarity(tokens.detach(), u[None]).abs()
        near, far = (cosine * labels).sum() / (n + 1), (cosine * (1 - labels)).sum() / (C - n + 1)
        losses.append((1 - near) / 2 + far / 2)
    return torch.stack(losses).mean() if losses else patches.sum() * 0


@wrong("04.4", "a gradient reaches the class tokens")
def ure_attached(tokens, patches, kept, labels):
    cosine = torch.stack([F.cosine_similarity(t[None], patches) for t in tokens])[:, kept].abs()
    near = (cosine * labels[:, None]).sum(0) / (labels.sum() + 1)
    far = (cosine * (1 - labels)[:, None]).sum(0) / ((1 - labels).sum() + 1)
    return (0.5 * (1 - near) + 0.5 * far).sum() / max(int(kept.sum()), 1)


@variant("04.5")
def parts_by_a_step(loss, token, num_classes):
    tokens = torch.nn.Parameter(token.repeat(num_classes, 1))
    loss(tokens).backward()
    moved = tokens.detach() - tokens.grad
    return not torch.allclose(moved, moved[:1].expand_as(moved), atol=1e-6)


def step_of(loss, token, num_classes):
    tokens = torch.nn.Parameter(token.repeat(num_classes, 1))
    loss(tokens).backward()
    return tokens.grad


@wrong("04.5", "a gradient that is the same for all")
def parts_by_any_gradient(loss, token, num_classes):
    return step_of(loss, token, num_classes).norm().item() > 1e-6


wrong("04.5", "not the first two alone")(
    lambda *given: not torch.allclose(*step_of(*given)[:2], atol=1e-6)
)
wrong("04.5", "channel by channel")(lambda *given: bool(step_of(*given).norm(dim=1).std() > 1e-6))
wrong("04.5", "a difference has two signs")(
    lambda *given: bool((step_of(*given) - step_of(*given)[0]).max() > 1e-6)
)


@variant("05.1")
def factor_by_maximum(t, warmup, iterations):
    climb = 1e-6 + (1 - 1e-6) * t / warmup
    return np.where(t < warmup, climb, np.power(1 - t / iterations, 0.9))


@wrong("05.1", "decay counts from the first iteration on")
def factor_shifted(t, warmup, iterations):
    if t < warmup:
        return 1e-6 + (1 - 1e-6) * t / warmup
    return (1 - (t - warmup) / (iterations - warmup)) ** 0.9


@variant("05.2")
def segmentation_picked(logits, mask):
    rows, numbers = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1]), mask.flatten()
    total = logits.sum() * 0
    for half in (numbers == 0, (numbers > 0) & (numbers < 255)):
        if half.any():
            total = total + F.cross_entropy(rows[half].double(), numbers[half]) / 2
    return total


@wrong("05.2", "0/0")
def segmentation_with_nan(logits, mask):
    loss = F.cross_entropy(logits, mask, ignore_index=255, reduction="none")
    return (loss[mask == 0].mean() + loss[(mask > 0) & (mask < 255)].mean()) / 2


@wrong("05.2", "0/0")
def segmentation_with_nan_where_a_half_is_empty(logits, mask):
    return segmentation_with_nan(logits, mask) if (mask != 255).any() else logits.sum() * 0


@wrong("05.2", "one mean over all pixels")
def segmentation_at_once(logits, mask):
    loss = F.cross_entropy(logits, mask, ignore_index=255, reduction="sum")
    return loss / ((mask != 255).sum() + 1e-6)


@variant("05.3")
def discrepancy_by_cross_entropy(tokens, tau):
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    scores = torch.einsum("bcd,bed->bce", unit, unit) / tau
    B, C, _ = tokens.shape
    return F.cross_entropy(scores.flatten(0, 1), torch.arange(C).repeat(B))


@wrong("05.3", "no token is detached")
def discrepancy_detached(tokens, tau):
    return sum(
        F.cross_entropy(F.normalize(t) @ F.normalize(t).T.detach() / tau, torch.arange(len(t)))
        for t in tokens
    ) / len(tokens)


@variant("05.4")
def energy_by_loops(place, rgb, s, gate, sigmas):
    total = 0
    for i in range(len(s)):
        for j in range(len(s)):
            far = ((place[i] - place[j]) / sigmas[0]).norm() ** 2
            far = far + ((rgb[i] - rgb[j]) / sigmas[1]).norm() ** 2
            total = total - gate[i] * torch.exp(-far / 2) * torch.dot(s[i], s[j])
    return total


@wrong("05.4", "factor of one half")
def energy_doubled(place, rgb, s, gate, sigmas):
    features = torch.cat([place / sigmas[0], rgb / sigmas[1]], 1)
    kernel = torch.exp(-(torch.cdist(features, features) ** 2))
    return -torch.einsum("i,ij,ik,jk->", gate, kernel, s, s)


@variant("05.5")
def halfway_unfactored(C, tau):
    return 1 + tau * math.log((C**0.5 - 1) / (C - 1))


@wrong("05.5", "ln of the root of C")
def halfway_of_the_fraction(C, tau):
    return 1 + tau * math.log(C / 2 - 1) - tau * math.log(C - 1)


@variant("06.1")
def miou_by_loops(matrix):
    found = []
    for c in range(len(matrix)):
        union = matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]
        if union > 0:
            found.append(matrix[c, c].item() / union.item())
    return np.mean(found)


@wrong("06.1", "a class that is nowhere counts as 0")
def miou_with_zeros(matrix):
    hits = torch.diag(matrix)
    return (hits / (matrix.sum(0) + matrix.sum(1) - hits).clamp(min=1)).mean()


def miou_over(matrix, classes):
    hits = matrix.diagonal()
    return (hits / (matrix.sum(0) + matrix.sum(1) - hits))[classes].mean()


wrong("06.1", "its IoU is 0")(lambda matrix: miou_over(matrix, matrix.sum(1) > 0))
wrong("06.1", "its IoU is 0")(lambda matrix: miou_over(matrix, matrix.diagonal() > 0))


@variant("06.3")
def crf_by_products(p, kernel, weight):
    scale = kernel.sum(1).rsqrt()
    unnormalised = p * torch.exp(weight * (scale[:, None] * kernel * scale) @ p)
    return unnormalised / unnormalised.sum(1, keepdim=True)


@wrong("06.3", "own scores are forgotten")
def crf_forgetful(p, kernel, weight):
    scale = kernel.sum(1).rsqrt()
    return torch.softmax(weight * torch.diag(scale) @ kernel @ torch.diag(scale) @ p, -1)


@variant("06.4")
def iou_multiplied(kappa, recall):
    return recall.double() / (recall * kappa.nan_to_num(0, 1e30) + 1)


@wrong("06.4", "this is Dice")
def iou_dice(kappa, recall):
    precision = 1 / (1 + kappa)
    return 2 / (1 / precision + 1 / recall)


@variant("07.1")
def verdict_by_squares(before, after, better):
    if not before.numel() * after.numel():
        return "not run"
    gain = np.mean(after.numpy()) - np.mean(before.numpy())
    gain = -gain if better == "lower" else gain
    variances = [np.var(x.numpy(), ddof=1) if len(x) > 1 else 0 for x in (before, after)]
    return "not shown" if gain <= 0 or gain**2 < sum(variances) else "Shown"


@wrong("07.1", "right sign is not enough")
def verdict_by_sign(before, after, better):
    if len(before) == 0 or len(after) == 0:
        return "not run"
    up = after.mean() > before.mean()
    return "shown" if up == (better == "higher") else "not shown"


def but(said, where, *given):
    return said if where else verdict_by_squares(*given)


wrong("07.1", "and there alone")(lambda b, a, of: but("shown", len(b) == len(a) == 1, b, a, of))
wrong("07.1", "no gain")(lambda b, a, of: but("shown", b.tolist() == a.tolist(), b, a, of))
wrong("07.1", "what was not run")(lambda b, a, of: but("not shown", not len(b), b, a, of))
wrong("07.1", "the deviation of the second is missing")(
    lambda b, a, of: verdict_by_squares(b, a if len(b) > 1 else a[:1] * 0 + a.mean(), of)
)
wrong("07.1", "the deviation of the second is missing")(
    lambda b, a, of: verdict_by_squares(b, b - b.mean() + a.mean(), of) if len(a) else "not run"
)


@variant("07.3")
def paired_in_numpy(before, after):
    gains = (after - before).numpy()
    return [gains.mean(), np.sqrt(gains.var(ddof=1) / len(gains))]


@wrong("07.3", "share their seeds")
def paired_not(before, after):
    error = ((before.std() ** 2 + after.std() ** 2) / len(before)).sqrt()
    return after.mean() - before.mean(), error


@variant("08.1")
def table_by_sets(cells, classes):
    sets = [{" ".join(name.split()) for name in cell.split(";")} for cell in cells]
    return np.array([[name in names for name in classes] for names in sets]).astype(int)


@wrong("08.1", "compare whole names")
def table_by_substrings(cells, classes):
    return torch.tensor([[int(cell.find(name) >= 0) for name in classes] for cell in cells])


@variant("08.2")
def mask_unique(mask, num_classes):
    labels = torch.zeros(num_classes, dtype=torch.int32)
    for value in mask.unique().tolist():
        if 0 < value <= num_classes:
            labels[value - 1] = 1
    return labels


@wrong("08.2", "0 is the background, no class")
def mask_one_hot(mask, num_classes):
    known = mask[mask != 255]
    return (
        F.one_hot(known, num_classes + 1).amax(0)
        if len(known)
        else torch.zeros(num_classes + 1, dtype=torch.int64)
    )


@variant("08.3")
def alone_by_loops(labels):
    C = labels.shape[1]
    found = torch.zeros(C, C, dtype=torch.bool)
    for i in range(C):
        rows = labels[labels[:, i] == 1]
        for j in range(C):
            found[i, j] = i != j and len(rows) > 0 and bool(rows[:, j].all())
    return found


@wrong("08.3", "never alone in words only")
def alone_vacuous(labels):
    C = labels.shape[1]
    return torch.stack([(labels >= labels[:, [i]]).all(0) for i in range(C)]) & ~torch.eye(C).bool()


@variant("10.1")
def crops_by_loops(maps, labels, corners, size, high, low):
    present = maps[labels == 1]
    m = present.max(0).values if len(present) else torch.zeros(maps.shape[1:])
    roi = torch.ones(m.shape, dtype=torch.int64)
    roi[m <= low], roi[m >= high] = 0, 2
    windows = roi.unfold(0, size, 1).unfold(1, size, 1).sum((2, 3)) / size**2
    return roi, windows[corners[:, 0], corners[:, 1]] > 0.2


@wrong("10.1", "judges a crop by its middle pixel")
def crops_by_centres(maps, labels, corners, size, high, low):
    roi, _ = crops_by_loops(maps, labels, corners, size, high, low)
    return roi, roi[tuple((corners + size // 2).T)] >= 1


@wrong("10.1", "take the mean of the ROI")
def crops_by_shares(maps, labels, corners, size, high, low):
    roi, _ = crops_by_loops(maps, labels, corners, size, high, low)
    crops = [roi[i : i + size, j : j + size] != 0 for i, j in corners.tolist()]
    return roi, torch.tensor([crop.double().mean() > 0.2 for crop in crops])


@variant("10.2")
def contrast_by_loops(z, t, positive, tau):
    total, P = z.sum() * 0, int(positive.sum())
    for teacher in t.detach():
        scores = torch.stack([torch.dot(teacher, view) / tau for view in z])
        for k in range(len(z)):
            if positive[k]:
                rivals = torch.cat([scores[[k]], scores[~positive]])
                total = total + F.cross_entropy(rivals[None], torch.tensor([0]))
        total = total + torch.cat([torch.zeros(1), scores[~positive]]).logsumexp(0)
    return total / P / 2


@wrong("10.2", "positives do not compete with each other")
def contrast_as_usual(z, t, positive, tau):
    scores = t.detach() @ z.T / tau
    repulsion = torch.log(1 + scores[:, ~positive].exp().sum(1))
    pulls = -scores.log_softmax(1)[:, positive].sum(1)
    return (pulls + repulsion).mean() / positive.sum()


@wrong("10.2", "a gradient reaches t")
def contrast_attached(z, t, positive, tau):
    e = torch.einsum("vo,ko->vk", t, z).div(tau).exp()
    S = (e * ~positive).sum(1, keepdim=True)
    cost = (-(e / (e + S)).log() * positive).sum() + (1 + S).log().sum()
    return cost / positive.sum() / 2


@variant("10.3")
def apart_by_products(f1, f2):
    unit = [f / f.norm(dim=1, keepdim=True) for f in (f1, f2)]
    halves = [unit[0].detach() * unit[1], unit[0] * unit[1].detach()]
    return sum(1 + half.sum(1).mean() for half in halves)


@variant("10.3")
def apart_by_one_cosine(f1, f2):
    cosine = torch.stack([F.cosine_similarity(a, b, dim=0) for a, b in zip(f1, f2)]).mean()
    return 2 + cosine + cosine.detach()


@wrong("10.3", "yours along the channels")
def apart_by_patches(f1, f2):
    return sum(
        1 + F.cosine_similarity(*pair, dim=0).mean()
        for pair in ((f1.detach(), f2), (f1, f2.detach()))
    )


@wrong("10.3", "nothing is detached")
def apart_attached(f1, f2):
    return 2 + 2 * F.cosine_similarity(f1, f2).mean()


@variant("10.5")
def seeds_by_loops(attention, cam, affinity, decay):
    logits, seeds = [], torch.zeros_like(cam)
    for c, scores in enumerate(cam):
        weights = [decay**j for j in range(len(scores))]
        ranked = sorted(scores.tolist(), reverse=True)
        logits.append(sum(w * s for w, s in zip(weights, ranked)) / sum(weights))
        fused = torch.sqrt(attention[:, c].mean(0) * torch.where(scores > 0, scores, 0))
        seeds[c] = affinity @ fused
    return np.array(logits), seeds


@wrong("10.5", "yours gathers by its columns")
def seeds_from_columns(attention, cam, affinity, decay):
    logits, _ = seeds_by_loops(attention, cam, affinity, decay)
    return logits, (attention.mean(0) * cam.clamp(min=0)).sqrt() @ affinity


@wrong("10.5", "ReLU is for the map alone")
def seeds_of_positives(attention, cam, affinity, decay):
    return seeds_by_loops(attention, cam.relu(), affinity, decay)
