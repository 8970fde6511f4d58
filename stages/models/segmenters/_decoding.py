"""SAM's mask decoder for a batch of images whose prompts differ in number.

``segment_anything`` decodes several prompts of one image, and its padding points take part in the attention. Here every
image has its own prompts, and padding is masked out: the answer is that of one image after the other.
"""

from typing import cast

import torch
from segment_anything.modeling import MaskDecoder, Sam, TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor
from torch.nn import functional as F


def own_tokens(decoder: MaskDecoder) -> Tensor:
    """5×C: what SAM's decoder puts in front of the prompts, a token for the predicted IoU and one for each mask.

    SAM 2's decoder has others in front; it needs a segmenter of its own.
    """
    return torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])


def decode_masks(
    decoder: MaskDecoder, tokens: Tensor, position: Tensor, prompts: Tensor, padding: Tensor, *, masks: int = 1
) -> tuple[Tensor, Tensor]:
    """Decode the first ``masks`` masks of every image, as ``MaskDecoder.predict_masks`` does.

    Args:
        decoder: the segmenter's.
        tokens: B×C×h×w, with the embedded mask prompts (:func:`embed_label_maps`) or SAM's "no mask" added to them.
        position: 1×C×h×w, where the tokens lie.
        prompts: B×P×C embedded prompts, filled up to the longest.
        padding: B×P bool, true where a prompt is only filling.
        masks: 1 is the mask of ``multimask_output=False``.

    Returns:
        B×masks×4h×4w logits and B×masks predicted IoU.
    """
    b = len(tokens)
    own = own_tokens(decoder)
    queries = torch.cat([own.expand(b, -1, -1), prompts], dim=1)
    hidden = torch.cat([padding.new_zeros(b, len(own)), padding], dim=1)
    queries, keys = two_way(
        decoder.transformer, tokens.flatten(2).transpose(1, 2), position.flatten(2).transpose(1, 2), queries,
        ~hidden[:, None, None],
    )  # fmt: skip
    upscaled = decoder.output_upscaling(keys.transpose(1, 2).reshape(tokens.shape))
    heads = decoder.output_hypernetworks_mlps
    weights = torch.stack([heads[k](queries[:, 1 + k]) for k in range(masks)], dim=1)
    logits = torch.einsum("bkc,bchw->bkhw", weights, upscaled)
    return logits, decoder.iou_prediction_head(queries[:, 0])[:, :masks]


def embed_label_maps(sam: Sam, maps: Tensor) -> Tensor:
    """B×T×T maps (above 0 wanted, below 0 not, 0 unknown) → B×C×T×T, through SAM's mask prompt."""
    masks = F.interpolate(maps[:, None], sam.prompt_encoder.mask_input_size)
    return cast("Tensor", sam.prompt_encoder(points=None, boxes=None, masks=masks)[1])


def two_way(
    transformer: TwoWayTransformer, keys: Tensor, key_position: Tensor, prompts: Tensor, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``TwoWayTransformer.forward`` with a mask over the prompts, and attention that keeps no weights in memory.

    Args:
        transformer: the decoder's own.
        keys: B×T²×C image tokens.
        key_position: 1×T²×C.
        prompts: B×Q×C.
        seen: B×1×1×Q bool, false where a prompt is only filling; without, none is.

    Returns:
        B×Q×C prompts and B×T²×C image tokens.
    """
    queries, keys = through_layers(transformer, keys, key_position, prompts, seen)
    found = attention(transformer.final_attn_token_to_image, queries + prompts, keys + key_position, keys)
    return transformer.norm_final_attn(queries + found), keys


def through_layers(
    transformer: TwoWayTransformer, keys: Tensor, key_position: Tensor, prompts: Tensor, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The same before the prompts' last attention, which changes nothing of the image tokens."""
    queries = prompts
    for layer in transformer.layers:
        queries, keys = _block(cast("TwoWayAttentionBlock", layer), queries, keys, prompts, key_position, seen)
    return queries, keys


def _block(
    block: TwoWayAttentionBlock, queries: Tensor, keys: Tensor, query_position: Tensor, key_position: Tensor,
    seen: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if block.skip_first_layer_pe:
        queries = attention(block.self_attn, queries, queries, queries, seen)
    else:
        q = queries + query_position
        queries = queries + attention(block.self_attn, q, q, queries, seen)
    queries = block.norm1(queries)
    image = keys + key_position
    queries = block.norm2(queries + attention(block.cross_attn_token_to_image, queries + query_position, image, keys))
    queries = block.norm3(queries + block.mlp(queries))
    prompted = attention(block.cross_attn_image_to_token, image, queries + query_position, queries, seen)
    return queries, block.norm4(keys + prompted)


def attention(layer: Attention, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """``Attention.forward`` with a mask over the keys: B×N×C, B×K×C, B×K×C → B×N×C."""
    heads = [
        projected.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2)
        for projected in (layer.q_proj(q), layer.k_proj(k), layer.v_proj(v))
    ]
    attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=seen)
    return cast("Tensor", layer.out_proj(attended.transpose(1, 2).flatten(2)))
