"""A report generator in one folder that needs no other: all weights, adapters merged. For servers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from .configuration.configuration_mambaxray import MambaXrayConfig
from .model_facts import read_facts
from .modeling_mambaxray.hub.repository_code import code_reference
from .modeling_mambaxray.layers.decoder_head import HeadRulesError, check_head_rules
from .modeling_mambaxray.modeling_mambaxray import MambaXrayForConditionalGeneration, MambaXrayModel

if TYPE_CHECKING:
    from .model_facts import ModelFacts

_SCALES = ("output_multiplier", "lm_head_multiplier", "logits_scaling")


class ExportError(ValueError):
    """A model that is not exported. The message says why; nothing was written."""


def export_model(folder: str | Path, output: str | Path, *, for_vllm: bool = True) -> Path:
    """Writes a model with its processor and code into a folder of its own, with all weights.

    Parts that the model takes from elsewhere (a frozen language model) are fetched, and adapters are merged. For vLLM's
    transformers backend, which brings a head of its own, the folder's `auto_map.AutoModel` is the model without its
    head; `AutoModelForImageTextToText` gives the whole one. `docs/serving.md` tells more.

    Args:
        folder: a model's folder, or an adapter's.
        output: folder for the result, new or empty.
        for_vllm: whether that backend is to be able to serve it. Otherwise `auto_map` has no `AutoModel`.

    Returns:
        `output`.

    Raises:
        ExportError: no report generator, or with `for_vllm` one that the backend would serve wrongly.
        FileExistsError: there is something in the folder for the result.
        FileNotFoundError: there is no model in the folder.
        PartNotFoundError: a part is not where it should be.
    """
    folder, output = Path(folder), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty folder: name another one")
    facts = read_facts(folder)
    model = _load(folder, facts)
    if for_vllm and (problem := _not_for_vllm(model)):
        raise ExportError(
            f"{folder}: vLLM's transformers backend would not serve this model as it is: {problem}. Without it in mind "
            "(for_vllm=False, --no-vllm) the model is exported with all its weights for others"
        )
    processor = AutoProcessor.from_pretrained(
        folder if (folder / "processor_config.json").is_file() else facts.adapter.get("base_model_name_or_path", folder)
    )
    model.part_references = {}
    model.save_pretrained(output)
    processor.save_pretrained(output)
    _name_base_model(output, for_vllm)
    return output


def _name_base_model(folder: Path, for_vllm: bool) -> None:
    """Makes `AutoModel` give the model without its head, where only the folder's own code is at hand; or nothing."""
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    auto_map = config.get("auto_map", {})
    auto_map.pop("AutoModel", None)
    if for_vllm:
        auto_map["AutoModel"] = code_reference(MambaXrayModel)
        # The code registers its classes, and what is registered goes before the configuration's names.
        code = folder / f"{auto_map['AutoModel'].partition('.')[0]}.py"
        whole, base = (
            f"AutoModel.register({MambaXrayConfig.__name__}, {cls.__name__}, exist_ok=True)"
            for cls in (MambaXrayForConditionalGeneration, MambaXrayModel)
        )
        text = code.read_text(encoding="utf-8")
        if text.count(whole) != 1:
            raise RuntimeError(f"{code} does not register {MambaXrayForConditionalGeneration.__name__} once")
        code.write_text(text.replace(whole, base), encoding="utf-8")
    file.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _load(folder: Path, facts: "ModelFacts") -> PreTrainedModel:
    """The model on the CPU, every part in its own dtype, adapters merged."""
    source = facts.adapter.get("base_model_name_or_path") or folder
    try:
        model = AutoModelForImageTextToText.from_pretrained(source)
    except ValueError as error:
        if "Unrecognized configuration class" not in str(error):
            raise
        raise ExportError(f"{source} holds no report generator") from error
    if not isinstance(model, MambaXrayForConditionalGeneration):
        raise ExportError(f"{source} holds a {type(model).__name__}, which is not a report generator of mambaxray")
    if facts.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder).merge_and_unload(safe_merge=True)
    return model.eval()


def _not_for_vllm(model: MambaXrayForConditionalGeneration) -> str | None:
    """Why vLLM's transformers backend would not load a model or would compute something else, if so.

    The backend makes the model from `auto_map.AutoModel`, its decoder from `AutoModel`, and a head of its own. It reads
    `language_model.model.…` into the decoder and `language_model.lm_head.…` into the head, which has a bias where the
    weights have one; of the rules that make logits it knows `logit_scale` and `final_logit_softcapping`.
    """
    decoder = model.language_model
    name = type(decoder).__name__
    if type(model) is not MambaXrayForConditionalGeneration:
        return f"{type(model).__name__} does more than a MambaXrayModel, which the backend runs"
    with torch.device("meta"):
        body = AutoModel.from_config(decoder.config)
    if decoder.base_model_prefix != "model" or body.state_dict().keys() != decoder.base_model.state_dict().keys():
        return f"it can't tell which weights of {name} are whose, since they are not named model.…"
    if getattr(decoder, "lm_head", None) is not decoder.get_output_embeddings():
        return f"the head of {name} is not named lm_head"
    if any(getattr(decoder.config, scale, None) not in (None, 1, 1.0) for scale in _SCALES):
        return f"it does not know by what {name} multiplies its logits"
    try:
        check_head_rules(decoder)
    except HeadRulesError as error:
        return str(error)
    return None


__all__ = ["ExportError", "export_model"]
