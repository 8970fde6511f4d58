"""What a segmenter in ``transformers``' format has to agree with: its model's own forward, and its own decoder."""

import torch

POINTS = torch.tensor([[[0.3, 0.4], [0.8, 0.1], [0.5, 0.9]], [[0.1, 0.2], [0.6, 0.6], [0.2, 0.7]]])
LABELS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])


def asked(segmenter, images):
    """Tokens of pictures, and prompts of ``POINTS``."""
    return segmenter.encode(images), segmenter.embed_points(POINTS, LABELS)


@torch.no_grad()
def assert_as_the_models_forward(segmenter, images):
    """Decoded step by step, or as the library does it at once; returns what that gives."""
    logits, quality = segmenter.decode(*asked(segmenter, images))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    whole = segmenter.sam(
        pixel_values=((images / 255 - mean) / std).permute(0, 3, 1, 2),
        input_points=images.shape[1] * POINTS[:, None], input_labels=LABELS[:, None].long(), multimask_output=False,
    )  # fmt: skip
    torch.testing.assert_close(logits, whole.pred_masks[:, 0, 0])
    torch.testing.assert_close(quality, whole.iou_scores[:, 0, 0])
    return whole


def assert_it_attends_as_its_decoder(segmenter, images):
    """What it gives for attention is what its decoder's transformer gives while it decodes."""
    seen = list[torch.Tensor]()
    transformer = segmenter.sam.mask_decoder.transformer
    handle = transformer.register_forward_hook(lambda _module, _given, found: seen.append(found[1][:, 0]))
    segmenter.decode(*asked(segmenter, images))
    handle.remove()
    torch.testing.assert_close(segmenter.attend(*asked(segmenter, images)), torch.cat(seen))
