"""Parts of a model of which nothing is trained: they stay as they are used."""

from typing import ClassVar, Self


class FrozenPartsMixin:
    """For models with parts that can be frozen.

    Attributes:
        parts_that_can_freeze: names of the parts. One without any parameter to train stays in evaluation mode: no
            dropout, and no new running statistics of batch norms.
    """

    parts_that_can_freeze: ClassVar[tuple[str, ...]] = ("vision_encoder",)

    def train(self, mode: bool = True) -> Self:
        """As usual, but a part without any parameter to train stays as it is used."""
        super().train(mode)
        for name in self.parts_that_can_freeze:
            part = getattr(self, name)
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        return self


__all__ = ["FrozenPartsMixin"]
