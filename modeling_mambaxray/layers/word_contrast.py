"""Contrast of an image with the words of its report, as the language model embeds them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .contrastive import contrastive_loss
from .report_encoder import pool_tokens

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)


class WordContrast(nn.Module):
    """A linear map of the mean visual token, one of the mean word embedding, and the contrastive loss between both.

    Args:
        vision_width: of visual tokens.
        word_width: of the language model's word embeddings.
        width: of the shared space.

    Source: the paper on bidirectional learning, footnote 4 (the text side and the width); CLIP (Radford et al., 2021)
    for the loss, and the learned scale, which starts at 1 / 0.07 and is at most 100.
    """

    def __init__(self, vision_width: int, word_width: int, width: int):
        super().__init__()
        self.visual_projection = nn.Linear(vision_width, width)
        self.word_projection = nn.Linear(word_width, width)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    def forward(self, visual_tokens: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """The loss of studies with visual tokens `(batch, tokens, vision_width)` and words `(batch, length,
        word_width)`, of which those with a mask `(batch, length)` of 0 are padding."""
        dtype = self.word_projection.weight.dtype
        image = self.visual_projection(visual_tokens.to(dtype).mean(dim=1))
        text = self.word_projection(pool_tokens(words.to(dtype), mask, "mean"))
        scale = self.logit_scale.float().clamp(max=math.log(100)).exp()
        return contrastive_loss(F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1), scale)


__all__ = ["INITIAL_LOGIT_SCALE", "WordContrast"]
