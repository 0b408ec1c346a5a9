"""`MambaXrayProcessor`: the prompt's layout in ids, labels, padding, chat template, saving and loading."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, PreTrainedTokenizerFast
from transformers.pipelines.base import pad_collate_fn

from mambaxray import MambaXrayImageProcessor, MambaXrayProcessor

INSTRUCTION = "Generate a comprehensive and detailed diagnosis report for this chest xray image."
REPORTS = ["The heart is normal.", "No effusion. The heart is normal."]
TOKENS = 3  # image placeholders


@pytest.fixture
def picture(grey: np.ndarray) -> Image.Image:
    return Image.fromarray(grey)


def _make(tokenizer: PreTrainedTokenizerFast, **options: object) -> MambaXrayProcessor:
    image_processor = MambaXrayImageProcessor(size={"height": 32, "width": 32})
    return MambaXrayProcessor(image_processor, tokenizer, num_image_tokens=TOKENS, **options)


@pytest.fixture
def processor(tokenizer: PreTrainedTokenizerFast) -> MambaXrayProcessor:
    return _make(tokenizer)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _prompt(processor: MambaXrayProcessor, instruction: str = INSTRUCTION) -> list[int]:
    """The released code's layout, written out: bos | before the image | image | after the image."""
    tokenizer = processor.tokenizer
    before, after = _ids(tokenizer, "Human: <Img>"), _ids(tokenizer, f"</Img> {instruction} \nAssistant:")
    return [tokenizer.bos_token_id, *before, *[processor.image_token_id] * TOKENS, *after]


# Prompts


def test_default_prompt_has_the_released_layout(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    inputs = processor(picture)
    assert inputs["input_ids"].tolist() == [_prompt(processor)]
    assert inputs["attention_mask"].all()
    assert inputs["pixel_values"].shape == (1, 1, 3, 32, 32)
    assert inputs["pixel_attention_mask"].tolist() == [[True]]
    assert set(inputs) == set(processor.model_input_names)


def test_views_of_a_study_share_one_run_of_placeholders(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    inputs = processor([[picture, picture], [picture]])
    assert (inputs["input_ids"] == processor.image_token_id).sum(1).tolist() == [TOKENS, TOKENS]
    assert inputs["pixel_attention_mask"].tolist() == [[True, True], [True, False]]


def test_text_without_image_token_is_the_instruction(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    assert processor(picture, "Is there effusion?")["input_ids"].tolist() == [_prompt(processor, "Is there effusion?")]


def test_text_with_image_token_is_taken_as_it_is(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    tokenizer = processor.tokenizer
    image = [processor.image_token_id] * TOKENS
    expected = [tokenizer.bos_token_id, *_ids(tokenizer, "See "), *image, *_ids(tokenizer, " and tell:")]
    for text in ("See <image> and tell:", "<s>See <image> and tell:"):
        assert processor(picture, text)["input_ids"].tolist() == [expected]
    assert processor(picture, "<image>")["input_ids"].tolist() == [[tokenizer.bos_token_id, *image]]


def test_one_text_serves_all_studies(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    assert torch.equal(
        processor([picture, picture], "What?")["input_ids"], processor([picture] * 2, ["What?"] * 2)["input_ids"]
    )


def test_prompts_are_padded_on_the_left(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    short, long = "What?", "What about the heart, and is there effusion?"
    inputs = processor([picture, picture], [short, long])
    expected = _prompt(processor, short)
    missing = len(_prompt(processor, long)) - len(expected)
    assert inputs["input_ids"][0].tolist() == [processor.tokenizer.pad_token_id] * missing + expected
    assert inputs["attention_mask"][0].tolist() == [0] * missing + [1] * len(expected)
    assert inputs["attention_mask"][1].all()


def test_pipelines_that_batch_prompts_pad_them_on_the_left_too(
    processor: MambaXrayProcessor, picture: Image.Image
) -> None:
    collate = pad_collate_fn(processor.tokenizer, processor.image_processor)
    texts = ["What?", "What about the heart?"]
    batch = collate([dict(processor(picture, text)) for text in texts])
    together = processor([picture, picture], texts)
    for name in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(batch[name], together[name])


def test_text_alone_is_prepared_without_pictures(processor: MambaXrayProcessor) -> None:
    tokenizer = processor.tokenizer
    inputs = processor(text="Hello")
    assert inputs["input_ids"] == [[tokenizer.bos_token_id, *_ids(tokenizer, "Hello")]]
    assert "pixel_values" not in inputs
    assert processor(text=processor.default_prompt)["input_ids"] == [_prompt(processor)]


def test_texts_alone_come_unpadded_unless_tensors_are_asked_for(processor: MambaXrayProcessor) -> None:
    rows = processor(text=["A", "A longer one"])["input_ids"]
    assert len(rows[0]) < len(rows[1])
    padded = processor(text=["A", "A longer one"], return_tensors="pt")
    assert padded["attention_mask"].sum(1).tolist() == [len(row) for row in rows]


def test_bos_is_left_out_on_request_and_never_doubled(processor: MambaXrayProcessor) -> None:
    ids, bos = _ids(processor.tokenizer, "Hello"), processor.tokenizer.bos_token_id
    assert processor(text="Hello", add_special_tokens=False)["input_ids"] == [ids]
    assert processor(text="<s>Hello", add_special_tokens=False)["input_ids"] == [[bos, *ids]]
    assert processor(text="<s>Hello")["input_ids"] == [[bos, *ids]]


def test_padding_can_be_chosen(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    plain = processor([picture] * 2, ["A", "A longer one"])
    right = processor([picture] * 2, ["A", "A longer one"], padding_side="right", pad_to_multiple_of=8)
    assert right["input_ids"].shape[1] % 8 == 0
    assert right["attention_mask"].sum(1).equal(plain["attention_mask"].sum(1))
    assert right["attention_mask"][:, 0].all()
    assert processor(text="A", padding=True, pad_to_multiple_of=8)["attention_mask"][0][0] == 0


def test_truncation_keeps_the_placeholders_or_is_refused(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    whole = processor(picture, reports=REPORTS[0])
    cut = processor(picture, reports=REPORTS[0], truncation=True, max_length=whole["input_ids"].shape[1] - 2)
    assert cut["input_ids"].equal(whole["input_ids"][:, :-2])
    assert cut["labels"].equal(whole["labels"][:, :-2])
    assert processor(picture, max_length=1)["input_ids"].shape[1] > 1
    first = whole["input_ids"][0].tolist().index(processor.image_token_id)
    with pytest.raises(ValueError, match=f"max_length={first + 1} cuts the image placeholders"):
        processor(picture, truncation=True, max_length=first + 1)


def test_serving_engines_learn_where_the_placeholders_are(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    inputs = processor(
        images=[picture],
        text="<s>See <image> and tell:",
        return_tensors="pt",
        return_mm_token_type_ids=True,
        return_text_replacement_offsets=True,
        add_special_tokens=False,
        truncation=False,
    )
    assert inputs["mm_token_type_ids"].equal((inputs["input_ids"] == processor.image_token_id).long())
    (offsets,) = inputs["text_replacement_offsets"]
    assert [(entry["type"], entry["span"], entry["new_span"]) for entry in offsets] == [
        ("image", (7, 14), (7, 7 + TOKENS * len("<image>")))
    ]
    replaced = _ids(processor.tokenizer, offsets[0]["replacement"])
    assert replaced == [processor.image_token_id] * TOKENS
    tokens = processor._get_num_multimodal_tokens(image_sizes=[(3000, 2500), (64, 64)])
    assert tokens["num_image_tokens"] == [TOKENS, TOKENS]
    assert tokens["num_image_patches"] == [1, 1]


def test_without_padding_or_tensors_lists_keep_their_lengths(
    processor: MambaXrayProcessor, picture: Image.Image
) -> None:
    inputs = processor([picture, picture], ["A", "A longer one"], padding=False, return_tensors=None)
    assert [len(row) for row in inputs["input_ids"]] == [
        len(_prompt(processor, text)) for text in ("A", "A longer one")
    ]


# Reports


def test_report_and_its_eos_follow_the_prompt_and_alone_are_labels(
    processor: MambaXrayProcessor, picture: Image.Image
) -> None:
    tokenizer, prompt = processor.tokenizer, _prompt(processor)
    inputs = processor([picture, picture], reports=REPORTS)
    targets = [[*_ids(tokenizer, report), tokenizer.eos_token_id] for report in REPORTS]
    missing = len(targets[1]) - len(targets[0])
    assert inputs["input_ids"].tolist() == [
        prompt + targets[0] + [tokenizer.pad_token_id] * missing,
        prompt + targets[1],
    ]
    assert inputs["attention_mask"].tolist() == [
        [1] * len(prompt + targets[0]) + [0] * missing,
        [1] * len(prompt + targets[1]),
    ]
    ignored = [-100] * len(prompt)
    assert inputs["labels"].tolist() == [ignored + targets[0] + [-100] * missing, ignored + targets[1]]


def test_prompts_come_beside_the_full_sequences_when_asked_for(
    processor: MambaXrayProcessor, picture: Image.Image
) -> None:
    texts = ["What?", "What about the heart?"]
    prompts = processor([picture, picture], texts)
    full = processor([picture, picture], texts, REPORTS, include_prompt=True)
    assert torch.equal(full["prompt_input_ids"], prompts["input_ids"])
    assert torch.equal(full["prompt_attention_mask"], prompts["attention_mask"])
    assert torch.equal(full["pixel_values"], prompts["pixel_values"])


def test_truncated_report_has_no_eos(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    tokens = _ids(processor.tokenizer, REPORTS[0])
    labels = processor(picture, reports=REPORTS[0], max_report_length=len(tokens))["labels"][0]
    assert labels[labels != -100].tolist() == tokens
    labels = processor(picture, reports=REPORTS[0], max_report_length=len(tokens) + 1)["labels"][0]
    assert labels[labels != -100].tolist() == [*tokens, processor.tokenizer.eos_token_id]
    with pytest.raises(ValueError, match="max_report_length is 0"):
        processor(picture, reports=REPORTS[0], max_report_length=0)


def test_words_in_a_report_never_become_special_tokens(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    inputs = processor(picture, reports="No <image> </s> effusion.")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == TOKENS
    assert (inputs["input_ids"] == processor.tokenizer.eos_token_id).sum() == 1
    prompt_length = len(_prompt(processor))
    assert processor.post_process_image_text_to_text(inputs["input_ids"], prompt_length=prompt_length) == [
        "No <image> </s> effusion."
    ]


def test_empty_report_is_its_eos_alone(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    labels = processor(picture, reports="")["labels"][0]
    assert labels[labels != -100].tolist() == [processor.tokenizer.eos_token_id]


def test_labels_are_masked_by_position_where_pad_equals_a_real_token(
    tokenizer: PreTrainedTokenizerFast, picture: Image.Image
) -> None:
    tokenizer.pad_token = "."  # as in models whose pad is an ordinary token
    processor = _make(tokenizer)
    full_stop = tokenizer.pad_token_id
    labels = processor([picture, picture], reports=REPORTS)["labels"]
    assert (labels == full_stop).sum(1).tolist() == [1, 2]


# Tokenizers that lack special tokens


def test_missing_pad_token_is_replaced_by_eos_under_the_mask(
    tokenizer_with_eos_only: PreTrainedTokenizerFast, picture: Image.Image
) -> None:
    processor = _make(tokenizer_with_eos_only)
    inputs = processor([picture, picture], reports=REPORTS)
    eos = tokenizer_with_eos_only.eos_token_id
    padding = inputs["attention_mask"][0] == 0
    assert padding.any()
    assert (inputs["input_ids"][0][padding] == eos).all()
    assert (inputs["labels"] == eos).sum(1).tolist() == [1, 1]


def test_missing_bos_token_is_left_out(tokenizer_with_eos_only: PreTrainedTokenizerFast, picture: Image.Image) -> None:
    ids = _make(tokenizer_with_eos_only)(picture)["input_ids"][0].tolist()
    assert ids[: len(_ids(tokenizer_with_eos_only, "Human: <Img>"))] == _ids(tokenizer_with_eos_only, "Human: <Img>")


def test_no_token_but_the_image_token_is_ever_added(
    tokenizer: PreTrainedTokenizerFast, bare_tokenizer: PreTrainedTokenizerFast
) -> None:
    for one in (tokenizer, bare_tokenizer):
        before = len(one)
        processor = _make(one)
        assert processor.image_token_id == before
        assert len(one) == before + 1
        assert _make(one).image_token_id == before
        assert len(one) == before + 1
    assert bare_tokenizer.pad_token is None
    assert bare_tokenizer.eos_token is None


def test_reports_without_an_eos_token_are_refused(
    bare_tokenizer: PreTrainedTokenizerFast, picture: Image.Image
) -> None:
    processor = _make(bare_tokenizer)
    assert processor([picture, picture], ["A", "A longer one"])["attention_mask"].sum(1).tolist()[0] > TOKENS
    with pytest.raises(ValueError, match="no eos token"):
        processor(picture, reports="Normal.")


# Errors


def test_calls_that_do_not_fit_together_are_refused(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    for arguments, message in [
        ({}, "images, text, or both"),
        ({"images": [picture, picture], "text": ["one"]}, "1 texts for 2 studies"),
        ({"images": [picture, picture], "reports": ["one"]}, "1 reports for 2 studies"),
        ({"images": picture, "text": "<image><image> What?"}, "2 times"),
        ({"images": picture, "padding": "max_length"}, "padding is 'max_length'"),
        ({"images": picture, "videos": [picture]}, "not videos"),
    ]:
        with pytest.raises(ValueError, match=message):
            processor(**arguments)


def test_unknown_option_of_text_alone_is_refused(processor: MambaXrayProcessor) -> None:
    with pytest.raises(TypeError, match="sise"):
        processor(text="Hello", sise=3)


def test_unknown_option_is_refused(processor: MambaXrayProcessor, picture: Image.Image) -> None:
    with pytest.raises(TypeError, match="max_lenght"):
        processor(picture, max_lenght=3)


def test_prompt_template_must_hold_both_fields(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"must hold \{image\} once"):
        _make(tokenizer, prompt_template="Tell {instruction}")
    with pytest.raises(ValueError, match="num_image_tokens is 0"):
        MambaXrayProcessor(MambaXrayImageProcessor(), tokenizer, num_image_tokens=0)


# Back to text


def test_generated_ids_become_text_without_prompt_and_special_tokens(
    processor: MambaXrayProcessor, picture: Image.Image
) -> None:
    prompts = processor([picture, picture], ["What?", "What about the heart?"])["input_ids"]
    tokenizer = processor.tokenizer
    reports = [[*_ids(tokenizer, " " + report), tokenizer.eos_token_id] for report in REPORTS]
    longest = max(len(report) for report in reports)
    tail = torch.tensor([report + [tokenizer.pad_token_id] * (longest - len(report)) for report in reports])
    generated = torch.cat([prompts, tail], dim=1)
    length = prompts.shape[1]
    assert processor.post_process_image_text_to_text(generated, prompt_length=length) == REPORTS
    assert processor.post_process_image_text_to_text(generated[1], prompt_length=length) == REPORTS[1:]
    assert processor.post_process_image_text_to_text(generated[1].tolist(), prompt_length=length) == REPORTS[1:]
    assert processor.post_process_image_text_to_text(generated.numpy(), prompt_length=length) == REPORTS
    whole = processor.post_process_image_text_to_text(generated)
    assert whole == [
        f"Human: <Img></Img> {text} \nAssistant: {report}"
        for text, report in zip(["What?", "What about the heart?"], REPORTS, strict=True)
    ]


# Chat


def _message(*content: dict[str, object]) -> list[dict[str, object]]:
    return [{"role": "user", "content": list(content)}]


def test_chat_template_renders_the_papers_prompt(processor: MambaXrayProcessor) -> None:
    chat = _message({"type": "image"}, {"type": "text", "text": INSTRUCTION})
    prompt = f"<s>{processor.default_prompt}"
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == prompt
    assert processor.apply_chat_template(chat) == prompt.removesuffix("Assistant:")


@pytest.mark.parametrize(
    "prompt_template", ["Q: {image} {instruction} A:", "{instruction}\nlook {image}", "<x>{image}</x>\n{instruction}\n"]
)
def test_chat_template_follows_the_prompt_template(tokenizer: PreTrainedTokenizerFast, prompt_template: str) -> None:
    processor = _make(tokenizer, prompt_template=prompt_template)
    chat = _message({"type": "image"}, {"type": "text", "text": "What about {image}?"})
    rendered = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert rendered == f"<s>{processor.build_prompt('What about {image}?')}"
    answered = [*chat, {"role": "assistant", "content": "None."}]
    assert processor.apply_chat_template(answered) == f"{rendered}None.</s>"
    assert "image" not in processor.apply_chat_template([{"role": "user", "content": "What?"}])


def test_chat_without_text_asks_the_processors_own_instruction(tokenizer: PreTrainedTokenizerFast) -> None:
    processor = _make(tokenizer, instruction='Say "normal" or not.')
    rendered = processor.apply_chat_template(_message({"type": "image"}), add_generation_prompt=True)
    assert rendered == f"<s>{processor.default_prompt}"


def test_chat_template_without_bos_where_the_tokenizer_has_none(
    tokenizer_with_eos_only: PreTrainedTokenizerFast,
) -> None:
    processor = _make(tokenizer_with_eos_only)
    rendered = processor.apply_chat_template(_message({"type": "image"}), add_generation_prompt=True)
    assert rendered == processor.default_prompt


def test_chat_with_answers_and_system_message(processor: MambaXrayProcessor) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Normal."}]},
        {"role": "user", "content": "Sure?"},
    ]
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == (
        "<s>Be brief. \nHuman: <Img><image></Img> What? \nAssistant:Normal.</s>Human: Sure? \nAssistant:"
    )


def test_chat_can_continue_an_answer(processor: MambaXrayProcessor) -> None:
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "The heart"}]},
    ]
    rendered = processor.apply_chat_template(chat, continue_final_message=True)
    assert rendered == "<s>Human: <Img><image></Img> What? \nAssistant:The heart"


def test_tokenized_chat_equals_the_direct_call(processor: MambaXrayProcessor, png: Path) -> None:
    views = [{"type": "image", "path": str(png)}, {"type": "image", "image": Image.open(png)}]
    inputs = processor.apply_chat_template(
        _message(*views), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    direct = processor([[png, png]])
    assert set(inputs) == set(direct)
    for name, values in direct.items():
        assert torch.equal(inputs[name], values)


def test_batch_of_chats_is_tokenized(processor: MambaXrayProcessor, png: Path) -> None:
    chats = [_message({"type": "image", "path": str(png)}, {"type": "text", "text": text}) for text in ("A?", "Or B?")]
    inputs = processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    direct = processor([png, png], ["A?", "Or B?"])
    assert torch.equal(inputs["input_ids"], direct["input_ids"])
    assert torch.equal(inputs["pixel_values"], direct["pixel_values"])


def test_chats_without_return_tensors_are_unpadded_lists_and_arrays(processor: MambaXrayProcessor, png: Path) -> None:
    chats = [_message({"type": "image", "path": str(png)}, {"type": "text", "text": text}) for text in ("A?", "Or B?")]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    inputs = processor.apply_chat_template(chats, **options)
    assert inputs["input_ids"] == [_prompt(processor, "A?"), _prompt(processor, "Or B?")]
    assert inputs["attention_mask"] == [[1] * len(row) for row in inputs["input_ids"]]
    assert isinstance(inputs["pixel_values"], np.ndarray)
    assert inputs["pixel_values"].shape == (2, 1, 3, 32, 32)
    assert inputs["pixel_attention_mask"].tolist() == [[True], [True]]
    tensors = processor.apply_chat_template(chats, **options, processor_kwargs={"return_tensors": "pt"})
    assert torch.equal(tensors["pixel_values"], torch.tensor(inputs["pixel_values"]))


def test_assistant_masks_are_refused(processor: MambaXrayProcessor) -> None:
    with pytest.raises(ValueError, match="give prompt and completion apart"):
        processor.apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )


# Saving


@pytest.mark.parametrize("loader", [MambaXrayProcessor, AutoProcessor])
def test_saved_processor_loads_equal(
    loader: type, tokenizer: PreTrainedTokenizerFast, picture: Image.Image, tmp_path: Path
) -> None:
    processor = _make(
        tokenizer,
        image_token="<xray>",
        instruction="What do you see?",
        prompt_template="Q: {image} {instruction} A:",
    )
    processor.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path)
    assert type(loaded) is MambaXrayProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.chat_template == processor.chat_template
    assert (loaded.image_token_id, loaded.num_image_tokens) == (processor.image_token_id, TOKENS)
    before, after = processor([picture], reports=REPORTS[0]), loaded([picture], reports=REPORTS[0])
    for name, values in before.items():
        assert torch.equal(after[name], values)
    ids = before["input_ids"]
    assert loaded.post_process_image_text_to_text(ids) == processor.post_process_image_text_to_text(ids)


def test_custom_chat_template_survives_saving(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    template = "{{ messages[0].content }}!"
    _make(tokenizer, chat_template=template).save_pretrained(tmp_path)
    loaded = MambaXrayProcessor.from_pretrained(tmp_path)
    assert loaded.apply_chat_template([{"role": "user", "content": "Hi"}]) == "Hi!"


def test_options_can_be_changed_while_loading(processor: MambaXrayProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    assert MambaXrayProcessor.from_pretrained(tmp_path, num_image_tokens=7).num_image_tokens == 7


@pytest.mark.parametrize("loader", [MambaXrayProcessor, AutoProcessor])
@pytest.mark.parametrize(
    "change",
    [{"instruction": 'Say "ja".'}, {"prompt_template": "Q: {image} {instruction} A:"}, {"image_token": "<xray>"}],
    ids=lambda change: next(iter(change)),
)
def test_chat_follows_what_is_changed_while_loading(
    loader: type, change: dict[str, str], processor: MambaXrayProcessor, tmp_path: Path
) -> None:
    processor.save_pretrained(tmp_path)
    loaded = loader.from_pretrained(tmp_path, **change)
    assert loaded.default_prompt != processor.default_prompt
    chat = _message({"type": "image"})
    assert loaded.apply_chat_template(chat, add_generation_prompt=True) == f"<s>{loaded.default_prompt}"
    loaded.save_pretrained(tmp_path / "again")
    again = loader.from_pretrained(tmp_path / "again")
    assert again.chat_template == loaded.chat_template
    assert again.default_prompt == loaded.default_prompt


def test_chat_follows_what_is_changed_later(processor: MambaXrayProcessor) -> None:
    processor.instruction = "What now?"
    rendered = processor.apply_chat_template(_message({"type": "image"}), add_generation_prompt=True)
    assert rendered == f"<s>{processor.default_prompt}"


def test_own_chat_template_stays_when_the_instruction_is_changed(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    own = _make(tokenizer).chat_template.replace("Assistant", "Radiologist")
    _make(tokenizer, chat_template=own).save_pretrained(tmp_path)
    assert MambaXrayProcessor.from_pretrained(tmp_path, instruction="What now?").chat_template == own
    given = MambaXrayProcessor.from_pretrained(tmp_path, instruction="What now?", chat_template="{{ 1 }}")
    assert given.chat_template == "{{ 1 }}"
