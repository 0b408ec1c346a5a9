"""Contrastive learning of pairs, with the other processes' pairs as negatives, too."""

import torch
from torch import Tensor, distributed
from torch.nn import functional as F


def gather_batch(local: Tensor) -> Tensor:
    """The rows of all processes, `(processes * batch, ...)`, in the order of the processes; gradients flow back.

    Every process of the default group must call it at the same time. The gradient that a process gets back is the
    sum over what all processes derive, so that after the data-parallel mean over processes the weights' gradient is
    the one of a single process with the whole batch. Without a process group it returns what it is given.

    Raises:
        ValueError: the processes have batches of different shapes.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return local
    shape = torch.tensor(local.shape, device=local.device)
    shapes = [torch.empty_like(shape) for _ in range(distributed.get_world_size())]
    distributed.all_gather(shapes, shape)
    if any(not torch.equal(shape, other) for other in shapes):
        raise ValueError(
            f"the processes have batches of different shapes, {[tuple(other.tolist()) for other in shapes]}; drop the "
            "last batch (dataloader_drop_last=True) or keep the sampler's even batches"
        )
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(local), dim=0)


def contrastive_loss(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of telling each image's text, and each text's image, from all of all processes.

    Args:
        image_embeds: `(batch, width)`, of length 1.
        text_embeds: `(batch, width)`, of length 1, row by row the partners of the images.
        scale: factor of the similarities.

    Raises:
        ValueError: the processes have batches of different shapes.

    Source: CLIP (Radford et al., 2021), figure 3; CXPMRG-Bench (MambaXray-VL), stage 2. The released code takes
    negatives from a process's own batch only.
    """
    similarity = scale * gather_batch(image_embeds) @ gather_batch(text_embeds).T
    partners = torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(similarity, partners) + F.cross_entropy(similarity.T, partners)) / 2


__all__ = ["contrastive_loss", "gather_batch"]
