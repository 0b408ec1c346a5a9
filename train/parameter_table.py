"""What a model trains: parameters by group, as counts and as a table in plain text."""

from dataclasses import dataclass

from torch import nn

from .partial_lora import BlockLinear


@dataclass(frozen=True)
class ParameterGroup:
    """A part of the model, or the adapters on one kind of its modules.

    Attributes:
        name: such as `projector` or `vision_encoder: LoRA on in_proj`.
        trained: parameters that are learned; those of partial adapters that must stay zero are not counted.
        total: all parameters.
    """

    name: str
    trained: int
    total: int


def parameter_groups(model: nn.Module) -> list[ParameterGroup]:
    """The groups of a model in its own order, adapters after the part that they are on."""
    zeros = {
        f"{name}.weight": module.weight.numel() - module.num_trained
        for name, module in model.named_modules()
        if isinstance(module, BlockLinear)
    }
    counts: dict[str, dict[str, list[int]]] = {}
    for name, parameter in model.named_parameters():
        path = name.removeprefix("base_model.model.").split(".")
        # Of a part that peft trains whole there are two: the one that came, and the one that is used.
        if "original_module" in path:
            continue
        part = group = path[0]
        if adapter := next((i for i, piece in enumerate(path) if piece.startswith("lora_")), None):
            # Modules of the language model are many, and not what this is about.
            group = f"{part}: LoRA" + ("" if part == "language_model" else f" on {path[adapter - 1]}")
        count = counts.setdefault(part, {part: [0, 0]}).setdefault(group, [0, 0])
        learned = parameter.numel() - zeros.get(name, 0)
        count[0] += learned if parameter.requires_grad else 0
        count[1] += learned
    return [ParameterGroup(name, *count) for part in counts.values() for name, count in part.items()]


def parameter_table(model: nn.Module) -> str:
    """The groups as lines of text, with their sum."""
    groups = parameter_groups(model)
    trained, total = sum(group.trained for group in groups), sum(group.total for group in groups)
    rows = [("parameters", "trained", "of")]
    rows += [(group.name, f"{group.trained:,}", f"{group.total:,}") for group in groups]
    rows.append((f"all ({trained / max(1, total):.2%} trained)", f"{trained:,}", f"{total:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(f"{name:<{widths[0]}}  {a:>{widths[1]}}  {b:>{widths[2]}}" for name, a, b in rows)


__all__ = ["ParameterGroup", "parameter_groups", "parameter_table"]
