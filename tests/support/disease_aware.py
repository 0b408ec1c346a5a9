"""A tiny disease-aware system for phantoms, with a retrieval memory of their training split."""

from functools import cache
from typing import Any

import torch
from tiny import TEXT_CONFIGS, VISION_CONFIGS, with_large_weights

from mambaxray import (
    DiseaseAwareConfig,
    DiseaseAwareForConditionalGeneration,
    DiseaseAwareProcessor,
    MambaXrayImageProcessor,
    make_phantoms,
)
from mambaxray.modeling_mambaxray.layers.study_memory import MemorySource, StudyMemory, TrainingSplit
from mambaxray.train.tokenizer import train_report_tokenizer

EXEMPLAR_TEMPLATE = "Similar: {exemplar} {image} {instruction}"


@cache
def phantoms():
    return make_phantoms(24, image_size=32)


def disease_aware_processor(**options: Any) -> DiseaseAwareProcessor:
    tokenizer = train_report_tokenizer(phantoms()["train"]["report"], vocab_size=320)
    images = MambaXrayImageProcessor(size={"height": 32, "width": 32})
    options = {"exemplar_template": EXEMPLAR_TEMPLATE, "prompt_template": "{image} {instruction}"} | options
    return DiseaseAwareProcessor(images, tokenizer, instruction="Describe the findings.", **options)


def tiny_disease_aware(
    processor: DiseaseAwareProcessor, seed: int = 0, vision: str = "vmamba", **options: Any
) -> DiseaseAwareForConditionalGeneration:
    """Random weights, so large that image and exemplar change what is generated."""
    text = TEXT_CONFIGS["llama"]()
    text.vocab_size = len(processor.tokenizer)
    for name in ("bos", "eos", "pad"):
        setattr(text, f"{name}_token_id", getattr(processor.tokenizer, f"{name}_token_id"))
    text.max_position_embeddings = 512
    options = {"query_hidden_size": 16, "query_attention_heads": 2} | options
    config = DiseaseAwareConfig(VISION_CONFIGS[vision](), text, image_token_id=processor.image_token_id, **options)
    processor.num_image_tokens = config.num_image_tokens
    torch.manual_seed(seed)
    return with_large_weights(DiseaseAwareForConditionalGeneration(config).eval())


@torch.no_grad()
def retrieval_memory(model: DiseaseAwareForConditionalGeneration, processor: DiseaseAwareProcessor) -> StudyMemory:
    """Of the phantoms' training studies, as the model sees them."""
    splits = phantoms()
    train = splits["train"]
    images = processor.prepare_images([*train])
    tokens = model.encode_views(**images)
    return StudyMemory(
        {"visual": tokens.mean(dim=1), "disease": model.disease_queries(tokens).logits},
        train["study_id"],
        train["patient_id"],
        MemorySource("phantoms", "tiny"),
        TrainingSplit.of(study for split in splits.values() for study in split),
        reports=train["report"],
    )


def with_memory(model: DiseaseAwareForConditionalGeneration, processor: DiseaseAwareProcessor):
    model.set_memories({"retrieval": retrieval_memory(model, processor)})
    return model
