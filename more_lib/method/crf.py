"""Dense CRF: the last touch that makes masks follow the edges of the photograph (notebook 06).

Every pixel is a neighbour of every other, the nearer in place and colour the more, and mean field
finds the labels that agree best with the scores and with each other (Krähenbühl and Koltun, NIPS
2011). Two ways lead there: exact sums over all pairs of pixels, for GPUs and for small pictures,
and pydensecrf2's permutohedral lattice, which is approximate and the way for CPUs at full size.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from more_lib.method.gaussian import EXACT_ON_CPU, bilateral_features, gaussian_sum
from more_lib.method.lattice import lattice_mean_field
from more_lib.system.errors import InputError
from more_lib.system.precision import no_autocast
from more_lib.system.shapes import check_shapes

Array: TypeAlias = Tensor | np.ndarray
Method = Literal["auto", "exact", "lattice"]

# Probabilities below this count as this much: -log 0 would outvote every neighbour. It is the
# value of pydensecrf's own helper for unaries.
LEAST_PROBABILITY = 1e-5


@dataclass(frozen=True)
class CrfParams:
    """How strongly, and over what, neighbours count. The defaults are the released ones for LAM.

    iterations: of mean field. Weights and standard deviations of the two kernels: ``gaussian``
    looks at the position alone, ``bilateral`` at position and colour. ``sigma_xy`` and
    ``gaussian_sigma`` are in pixels, ``sigma_rgb`` in grey levels of 0..255.
    Raises ``InputError`` for negative iterations or weights and for a sigma that is not positive.
    """

    iterations: int = 10
    gaussian_weight: float = 3.0
    gaussian_sigma: float = 1.0
    bilateral_weight: float = 4.0
    bilateral_sigma_xy: float = 67.0
    bilateral_sigma_rgb: float = 3.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if "sigma" in name and not value > 0:
                raise InputError(f"dense CRF's {name} is {value}; it must be positive")
            if not value >= 0:
                raise InputError(f"dense CRF's {name} is {value}; it must not be negative")


# As released: MoRe's for LAM, which its decoder has here too; ToCo's and DuPL's for their decoders.
CRF_PARAMS = {
    "released": CrfParams(),
    "toco": CrfParams(gaussian_weight=1.0, bilateral_sigma_xy=121.0, bilateral_sigma_rgb=5.0),
}


def dense_crf(
    image: Array, probabilities: Array, params: CrfParams | None = None, method: Method = "auto"
) -> Tensor:
    """Mean field of a fully connected CRF: scores of classes that follow the image's edges.

    image: (H, W, 3) uint8. probabilities: (K, H, W) in [0, 1], background included; a pixel's need
    not add up to 1. Tensors of any device or arrays. Returns (K, H, W) float32 on the device of
    ``probabilities``, which add up to 1. The labels are its ``argmax(0)``.

    With unaries u_i(l) = -log p_i(l), Q starts as softmax(-u) and ``iterations`` times becomes

        Q_i(l) = softmax over l of -u_i(l) + sum over m, j of w_m k_m(i, j) Q_j(l),
        k_m(i, j) = exp(-|f_i - f_j|^2 / 2) / sqrt(z_i z_j),   z_i = sum over j of exp(-...),

    which is Potts' model: what a label gains here, the others pay there. f is position / sigma for
    the Gaussian kernel and (x / sigma_xy, y / sigma_xy, rgb / sigma_rgb) for the bilateral one.
    The normalisation, and that j = i counts, are pydensecrf's own defaults.

    method: "exact", "lattice" (extra ``crf``), or "auto" as ``choose_method`` says. From 64×96
    pixels on they give 98.3 to 99.6 % of a photograph's pixels the same label (four photographs,
    two to five noisy classes, where CRF itself changes 4 to 32 %), at 48×64 97.7 to 99.6 %.
    What is left is the lattice's bilateral kernel, too low in the tails: less than half beyond a
    distance of 3. So more weight stays on the pixel itself, 0.26 instead of 0.23 at 48 pixels, and
    one with few others of its colour holds on to its label (taken apart in test_crf.py).

    Cost on one CPU thread: exact, 2.5 s for 64×96 pixels, growing with the square of their number
    (3.5e10 pairs an iteration for 375×500), in memory that is linear in it; the lattice, 0.02 s,
    and 0.6 s for 375×500 with 3 classes, 1.2 s with 21.

    Raises ``InputError`` when image and probabilities do not fit or hold other values, and when
    the lattice is wanted without pydensecrf2.
    """
    return _start(image, probabilities, params, method)()


def dense_crf_many(
    pairs: Iterable[tuple[Array, Array] | tuple[Array, Array, CrfParams]],
    params: CrfParams | None = None,
    method: Method = "auto",
    workers: int | None = None,
) -> Generator[Tensor, None, None]:
    """``dense_crf`` of many images and probabilities, in their order, over several processes.

    pairs: of ``dense_crf``'s image and probabilities, some with parameters of their own instead of
    ``params``, read as they are needed: at most 2 * ``workers`` are under way. Every picture's
    method is chosen for itself, and only the lattice goes to the ``workers`` processes (as many as
    torch has threads, if not given), which start with the first picture that needs them and end
    with the generator. They are spawned: a script must call this under
    ``if __name__ == "__main__"``.

    Raises what ``dense_crf`` raises, and ``RuntimeError`` when a process dies.
    """
    workers = workers or torch.get_num_threads()
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    waiting: deque[Callable[[], Tensor]] = deque()
    try:
        for image, probabilities, *own in pairs:
            chosen = own[0] if own else params
            waiting.append(_start(image, probabilities, chosen, method, pool))
            if len(waiting) == 2 * workers:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()
    except BrokenProcessPool:
        raise RuntimeError(
            f"one of {workers} dense CRF processes died; if memory ran out, give fewer workers, "
            "and call dense_crf_many under `if __name__ == '__main__'` in a script"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def with_background(maps: Tensor) -> Tensor:
    """The maps with the background's score, 1 - the largest of them, in front.

    maps: (..., C, H, W) in [0, 1]. Returns (..., 1 + C, H, W), what ``dense_crf`` takes.
    """
    return torch.cat([1 - maps.amax(-3, keepdim=True), maps], dim=-3)


def has_lattice() -> bool:
    """Whether pydensecrf2, and with it the lattice, is installed."""
    return find_spec("pydensecrf") is not None


def choose_method(
    height: int, width: int, device: torch.device | str = "cpu", method: Method = "auto"
) -> Literal["exact", "lattice"]:
    """Which of the two ``dense_crf`` takes for a picture whose probabilities lie on ``device``.

    "auto" is exact on a GPU at any size and on a CPU up to ``EXACT_ON_CPU`` pixels, the lattice
    otherwise. Raises ``InputError`` for another method, and for a lattice without pydensecrf2.
    """
    if method not in ("auto", "exact", "lattice"):
        raise InputError(f"dense CRF's method {method!r} is unknown; give auto, exact or lattice")
    if method == "auto":
        exact = height * width <= EXACT_ON_CPU or torch.device(device).type != "cpu"
        method = "exact" if exact else "lattice"
    if method == "lattice" and not has_lattice():
        raise InputError(
            f"dense CRF of {height}×{width} pixels by lattice needs pydensecrf2: "
            "`pip install -e .[crf]`; without it, give a GPU or the slow method exact"
        )
    return method


def _start(
    image: Array,
    probabilities: Array,
    params: CrfParams | None,
    method: Method,
    pool: ProcessPoolExecutor | None = None,
) -> Callable[[], Tensor]:
    """What gives the result; with a ``pool``, a lattice is under way there already."""
    image, probabilities = (
        x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.array(x))
        for x in (image, probabilities)
    )
    check_shapes(image=(image, "H W 3"), probabilities=(probabilities, "K H W"))
    if image.dtype != torch.uint8:
        raise InputError(f"dense CRF's image is {image.dtype}; give uint8")
    probabilities = probabilities.float()
    within = (probabilities >= 0) & (probabilities <= 1.01)  # bf16 rounds a 1 by less
    if not probabilities.numel() or not within.all():
        raise InputError("dense CRF's probabilities must lie in [0, 1]; softmax or min-max first")
    probabilities, params = probabilities.clamp(min=LEAST_PROBABILITY), params or CrfParams()
    device, (height, width) = probabilities.device, image.shape[:2]
    if choose_method(height, width, device, method) == "exact":
        return partial(_exact, image.to(device), probabilities, params)
    arrays = image.cpu().numpy(), probabilities.cpu().numpy()
    lattice = partial(lattice_mean_field, *arrays, asdict(params))
    result = pool.submit(lattice).result if pool else lattice
    return lambda: torch.from_numpy(result()).to(device)


def _exact(image: Tensor, probabilities: Tensor, params: CrfParams) -> Tensor:
    """Mean field with sums over all pairs of pixels."""
    with torch.no_grad(), no_autocast(probabilities):
        height, width = image.shape[:2]
        log_probability = probabilities.log()
        # The Gaussian of the position is one of the rows times one of the columns, sums z included.
        rows = _line_kernel(height, params.gaussian_sigma, image.device) * params.gaussian_weight
        columns = _line_kernel(width, params.gaussian_sigma, image.device)
        pixels = image.permute(2, 0, 1)[None].float()
        features = bilateral_features(pixels, params.bilateral_sigma_rgb, params.bilateral_sigma_xy)
        scale = gaussian_sum(features, torch.ones_like(features[..., :1])).rsqrt()
        scale *= params.bilateral_weight**0.5  # on either side

        belief = log_probability.softmax(0)
        for _ in range(params.iterations):
            near = rows @ belief @ columns
            like = scale * gaussian_sum(features, scale * belief.flatten(1).T[None])
            belief = (log_probability + near + like[0].T.view_as(belief)).softmax(0)
        return belief


def _line_kernel(length: int, sigma: float, device: torch.device) -> Tensor:
    """(length, length): the normalised Gaussian of the pixels of a line."""
    place = torch.arange(length, device=device, dtype=torch.float32) / sigma
    kernel = torch.exp(-(place[:, None] - place).square() / 2)
    scale = kernel.sum(0).rsqrt()
    return scale[:, None] * kernel * scale
