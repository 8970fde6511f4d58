"""A global layer of SAM ViT-H's image encoder: ``segment_anything``'s attention, and ours in fused kernels."""

import torch
from segment_anything.modeling.image_encoder import Attention

from benchmarks.timing import seconds
from s3pot_batch.stages.models.segmenters._attention import FoldedAttention

WIDTH, HEADS, ACROSS = 1280, 16, 64


def attention() -> None:
    """Seconds of both for one picture, and how far their answers are apart."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    plain = Attention(WIDTH, HEADS, use_rel_pos=True, input_size=(ACROSS, ACROSS)).to(device).eval()
    for position in (plain.rel_pos_h, plain.rel_pos_w):
        torch.nn.init.normal_(position, std=0.02)  # zero in a new network
    folded, x = FoldedAttention(plain).to(device), torch.randn(1, ACROSS, ACROSS, WIDTH, device=device)
    with torch.no_grad():
        apart = float((plain(x) - folded(x)).abs().max())
        slow, fast = (seconds(lambda layer=layer: layer(x)[0, 0, 0, 0].item()) for layer in (plain, folded))  # type: ignore[misc]
    print(f"attention, {ACROSS}×{ACROSS} tokens of {WIDTH} channels, {device}: {fast:.3f} s, published {slow:.3f} s, "
          f"ratio {slow / fast:.1f}; answers differ by {apart:.1e} at most")  # fmt: skip
