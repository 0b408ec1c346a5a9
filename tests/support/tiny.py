"""Tiny models with random weights, and a tokenizer, shared by tests."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SwinConfig,
    ViTMAEConfig,
)

from mambaxray import (
    AMMRGConfig,
    AMMRGForConditionalGeneration,
    EMRRGConfig,
    EMRRGForConditionalGeneration,
    MambaXrayConfig,
    MambaXrayForConditionalGeneration,
    VisionMambaConfig,
    VMambaConfig,
)
from mambaxray.modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory, TrainingSplit

VOCABULARY = 48
IMAGE_TOKEN_ID = VOCABULARY  # outside the vocabulary, as for a decoder whose embeddings were not resized

_SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

VISION_CONFIGS = {
    "vision_mamba": lambda: VisionMambaConfig(hidden_size=24, num_hidden_layers=2, image_size=32, state_size=4),
    "swin": lambda: SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    ),
    "vmamba": lambda: VMambaConfig(image_size=32, embed_dim=8, depths=[1, 1]),
    "vit_mae": lambda: ViTMAEConfig(image_size=32, **_SIZES),
}
TEXT_CONFIGS = {
    "llama": lambda: LlamaConfig(**_SIZES, **_TOKENS, num_key_value_heads=2),
    "qwen2": lambda: Qwen2Config(**_SIZES, **_TOKENS, num_key_value_heads=2),
    "gemma2": lambda: Gemma2Config(**_SIZES, **_TOKENS, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8),
    "gpt2": lambda: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **_TOKENS),
    "opt": lambda: OPTConfig(
        hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32, **_TOKENS
    ),
}

HYBRID_TEXT_CONFIGS = {
    **{name: TEXT_CONFIGS[name] for name in ("llama", "qwen2", "gemma2")},
    "mistral": lambda: MistralConfig(**_SIZES, **_TOKENS, num_key_value_heads=2, head_dim=8),
    "phi3": lambda: Phi3Config(**_SIZES, **_TOKENS, num_key_value_heads=2),
    "qwen3": lambda: Qwen3Config(**_SIZES, **_TOKENS, num_key_value_heads=2, head_dim=8),
}


def tiny_config(vision: str = "vision_mamba", text: str = "llama") -> MambaXrayConfig:
    return MambaXrayConfig(VISION_CONFIGS[vision](), TEXT_CONFIGS[text](), image_token_id=IMAGE_TOKEN_ID)


def tiny_model(vision: str = "vision_mamba", text: str = "llama", seed: int = 0) -> MambaXrayForConditionalGeneration:
    """Random weights, large enough that the image changes what is generated."""
    torch.manual_seed(seed)
    return with_large_weights(MambaXrayForConditionalGeneration(tiny_config(vision, text)).eval())


def tiny_emrrg(
    text: str = "llama", *, warm_up: float = 1.0, seed: int = 0, **options: object
) -> EMRRGForConditionalGeneration:
    """As `tiny_model`; the hybrid layers, all of them, add as much as `warm_up` lets them, nothing at 0."""
    config = EMRRGConfig(
        VISION_CONFIGS["vision_mamba"](),
        HYBRID_TEXT_CONFIGS[text](),
        image_token_id=IMAGE_TOKEN_ID,
        **{"hybrid_layers": [0, 1]} | options,
    )
    torch.manual_seed(seed)
    model = with_large_weights(EMRRGForConditionalGeneration(config).eval())
    with torch.no_grad():
        for layer in model.cross_attention.layers.values():
            layer.gate.bias.fill_(1.0)
            if layer.gate.warm_up is not None:
                layer.gate.warm_up.fill_(warm_up)
    return model


def made_memory(values: torch.Tensor, name: str = "study", **more: object) -> StudyMemory:
    """A memory with these vectors `(rows, width)`, one row for each study; `more` are its observations and reports."""
    ids = [f"{name}-{row}" for row in range(len(values))]
    split = TrainingSplit({each: f"patient-{each}" for each in ids}, {}, {})
    patients = [split.patients[each] for each in ids]
    return StudyMemory({"values": values}, ids, patients, MemorySource("made", "nothing"), split, **more)


def tiny_ammrg(vision: str = "vision_mamba", *, seed: int = 0, **options: object) -> AMMRGForConditionalGeneration:
    """As `tiny_model`, with memories of random vectors; `options` are fields of the configuration."""
    sizes = {"query_hidden_size": 16, "query_hidden_layers": 2, "query_attention_heads": 2, "encoder_hidden_size": 20}
    sizes |= {"query_intermediate_size": 24, "visual_memory_size": 16, "report_memory_size": 12, "hopfield_heads": 2}
    sizes |= {"hopfield_head_size": 8, "hopfield_value_size": 6}
    config = AMMRGConfig(
        VISION_CONFIGS[vision](), TEXT_CONFIGS["llama"](), image_token_id=IMAGE_TOKEN_ID, **sizes | options
    )
    torch.manual_seed(seed)
    model = with_large_weights(AMMRGForConditionalGeneration(config).eval())
    rows = {"visual": 9, "report": 7}
    memories = {name: made_memory(torch.randn(rows[name], size), name) for name, size in config.memory_sizes.items()}
    model.set_memories(memories)
    return model


def with_large_weights(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "A_log" not in name:
                parameter.mul_(4.0)
    return model


def tiny_tokenizer(words: str) -> PreTrainedTokenizerFast:
    """Word-level, with `<pad>`, `<s>`, `</s>` and `<unk>` as ids 0 to 3."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(words.split())])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
