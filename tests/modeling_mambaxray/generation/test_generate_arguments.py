"""What `model.generate` takes, as of any model of transformers: embeddings, assistants, lengths."""

import pytest
import torch
from tiny import tiny_config, tiny_emrrg, tiny_model
from transformers import AutoModelForImageTextToText, GenerationConfig

from mambaxray import MambaXrayForConditionalGeneration
from mambaxray.modeling_mambaxray.generation.report_generation import DEFAULT_MAX_NEW_TOKENS


def inputs_for(model, words=2):
    torch.manual_seed(0)
    prompt = [1, *[model.config.image_token_id] * model.config.num_image_tokens, *[5] * words]
    return {"input_ids": torch.tensor([prompt, prompt]), "pixel_values": torch.randn(2, 3, 32, 32)}


def unending(model):
    """The same model with a report that never ends by itself."""
    model.generation_config.eos_token_id = None
    return model


def test_embeddings_in_place_of_ids_give_the_same_report():
    model = tiny_model()
    inputs = inputs_for(model)
    features = model.get_image_features(inputs["pixel_values"])
    embeddings = model.merge_image_features(inputs["input_ids"], torch.stack(list(features.pooler_output)))
    options = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(**inputs, **options)
    found = model.generate(inputs_embeds=embeddings, **options)
    assert torch.equal(found, expected[:, inputs["input_ids"].shape[1] :])


@pytest.mark.parametrize("of", ["itself", "another"])
def test_a_report_generator_is_an_assistant_that_changes_no_token(of):
    model = tiny_model()
    assistant = model if of == "itself" else tiny_model(seed=1)
    inputs = {name: value[:1] for name, value in inputs_for(model).items()}
    options = {"max_new_tokens": 12, "do_sample": False}
    seen = []
    assistant.vision_encoder.register_forward_hook(lambda *call: seen.append(call))
    assert torch.equal(
        model.generate(**inputs, assistant_model=assistant, **options), model.generate(**inputs, **options)
    )
    assert seen, "the assistant looks at the image itself"


def test_an_assistant_that_does_not_understand_the_prompt_is_refused():
    model = tiny_model()
    inputs = {name: value[:1] for name, value in inputs_for(model).items()}
    with pytest.raises(ValueError, match=r"LlamaForCausalLM can't be the assistant.*does not see the image"):
        model.generate(**inputs, assistant_model=model.language_model)
    with pytest.raises(ValueError, match="the assistant's num_image_tokens is 16, the model's 5"):
        model.generate(**inputs, assistant_model=tiny_model("swin"))


@pytest.mark.parametrize("text", ["gpt2", "opt"])
def test_a_sequence_beyond_the_decoders_positions_is_told(text):
    model = tiny_model(text=text)
    limit = model.config.text_config.max_position_embeddings
    with pytest.raises(ValueError, match=f"longer than the {limit} positions of the {text} decoder"):
        model.generate(**inputs_for(model, limit), max_new_tokens=2)
    with pytest.raises(ValueError, match=f"longer than the {limit} positions"):
        model(**inputs_for(model, limit))
    nearly = inputs_for(model, limit - 10 - model.config.num_image_tokens)
    with pytest.raises(ValueError, match="give max_new_tokens up to 9"):
        model.generate(**nearly, max_new_tokens=10)
    assert unending(model).generate(**nearly, max_new_tokens=9, do_sample=False).shape[1] == limit


def test_every_way_to_make_a_model_writes_whole_reports_where_no_length_is_named(tmp_path):
    made = unending(MambaXrayForConditionalGeneration(tiny_config()).eval())
    made.save_pretrained(tmp_path)
    GenerationConfig().save_pretrained(tmp_path)
    loaded = unending(AutoModelForImageTextToText.from_pretrained(tmp_path))
    assert loaded.generation_config.max_new_tokens is None
    for model in (made, loaded, unending(tiny_emrrg())):
        inputs = inputs_for(model)
        written = model.generate(**inputs, do_sample=False)
        assert written.shape[1] == inputs["input_ids"].shape[1] + DEFAULT_MAX_NEW_TOKENS
    # A length that is named is kept.
    assert made.generate(**inputs, max_length=20).shape[1] == 20
    made.generation_config.max_new_tokens = 3
    assert made.generate(**inputs).shape[1] == inputs["input_ids"].shape[1] + 3
