"""Feature Enhancement (FE): token contrast, an initial prompt, and prompt-conditioned features. Nothing is trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from s3pot_batch.stages.models.protocols import Segmenter
from s3pot_batch.stages.models.windows import TokenWindow, within


@dataclass(frozen=True)
class Enhanced:
    """What FE gives for one pair."""

    contrast: Tensor
    """T×T float32, cosine of raw and reference tokens: 1 where they agree."""
    initial: Tensor
    """2 float32, (x, y) of the initial positive point in 0..1 of the frame."""
    raw: Tensor
    """N×C float32, prompt-conditioned features F(I) of the window's N tokens."""
    reference: Tensor
    """N×C float32, prompt-conditioned features F(R)."""
    window: TokenWindow
    """Which tokens those are."""


def token_centres(tokens: int, device: torch.device | None = None) -> Tensor:
    """T²×2 (x, y) of the tokens' centres in 0..1 of the frame, row by row."""
    at = (torch.arange(tokens, dtype=torch.float32, device=device) + 0.5) / tokens
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def token_region(region: Tensor, tokens: int) -> Tensor:
    """Sample an S×S bool region at the centres of T×T tokens → T×T bool."""
    at = ((torch.arange(tokens) + 0.5) * region.shape[-1] / tokens).long()
    return region[at][:, at]


def enhance(
    segmenter: Segmenter, raw: Tensor, reference: Tensor, inside: Tensor, *, conditioned: bool = True
) -> Enhanced:
    """Contrast the tokens, prompt with the best-agreeing one, and let the decoder's transformer attend to it.

    The same as :func:`enhance_all` of one pair.

    Args:
        segmenter: the frozen segmenter.
        raw: C×T×T tokens E(I); channels of finer maps are not compared.
        reference: C×T×T tokens E(R).
        inside: T×T bool, M at the token centres; at least one is true.
        conditioned: else the features are the plain tokens (the ablation of FE).

    Raises:
        ValueError: no token lies inside M.
    """
    [found] = enhance_all(segmenter, [(raw, reference, inside)], conditioned=conditioned, windowed=False)
    return found


def enhance_all(
    segmenter: Segmenter,
    pairs: Sequence[tuple[Tensor, Tensor, Tensor]],
    *,
    conditioned: bool,
    windowed: bool,
) -> list[Enhanced]:
    """FE of one or more pairs (raw, reference, inside), whose 2B pictures the transformer sees as one batch.

    Windowed, it sees only what is in and around M, of one pair after the other.
    """
    if not all(inside.any() for _, _, inside in pairs):
        raise ValueError("the face region holds no token")
    compared = slice(segmenter.shape.channels)
    contrasts = [F.cosine_similarity(raw[compared], reference[compared], dim=0) for raw, reference, _ in pairs]
    initials = [_agreeing(contrast, inside) for contrast, (_, _, inside) in zip(contrasts, pairs, strict=True)]
    windows = [_around(inside) if windowed else TokenWindow.whole(inside.shape[-1]) for _, _, inside in pairs]
    shown = [window.cut(torch.stack(pair[:2])) for pair, window in zip(pairs, windows, strict=True)]
    if not conditioned:
        features = [two[:, compared].flatten(2).transpose(1, 2) for two in shown]
    elif windowed:
        each = zip(windows, shown, initials, strict=True)
        features = [attended(within(segmenter, window), two, point) for window, two, point in each]
    else:
        points = torch.stack(initials).repeat_interleave(2, dim=0)
        features = [*torch.split(attended(segmenter, torch.cat(shown), points), 2)]
    found = zip(contrasts, initials, features, windows, strict=True)
    return [Enhanced(contrast, initial, two[0], two[1], window) for contrast, initial, two, window in found]


def _around(inside: Tensor) -> TokenWindow:
    return TokenWindow.around(inside.flatten().nonzero(), inside.shape[-1])


def _agreeing(contrast: Tensor, inside: Tensor) -> Tensor:
    """2 float32: the centre of the token inside M, of T×T, at which photo and reference agree best."""
    best = contrast.masked_fill(~inside, -torch.inf).argmax()
    return token_centres(contrast.shape[-1], contrast.device)[best[None]][0]  # by a number, the host would wait for it


def attended(segmenter: Segmenter, tokens: Tensor, points: Tensor) -> Tensor:
    """B×C×T×T tokens and a positive point (x, y in 0..1) for each or for all → B×T²×C prompt-conditioned features."""
    b = len(tokens)
    prompts = segmenter.embed_points(points.reshape(-1, 1, 2).expand(b, 1, 2), points.new_ones(b, 1))
    return segmenter.attend(tokens, prompts)
