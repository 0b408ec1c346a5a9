"""The report of a similar study in the prompt: where it stands, how long it may be, and that it stays mere words."""

import pytest
from disease_aware import disease_aware_processor, phantoms

REPORT = "The heart is enlarged. There is a small left pleural effusion. No pneumothorax."


@pytest.fixture(scope="module")
def processor():
    return disease_aware_processor(num_image_tokens=4)


def tokens_of(processor, text):
    return processor.tokenizer(text, add_special_tokens=False)["input_ids"]


def prompt_with(processor, report, **study):
    return processor.prompt_for({"exemplar": {"report": report}, **study})


def test_the_order_is_retrieved_report_image_and_what_is_written(processor):
    study = phantoms()["train"][0]
    batch = processor.prepare_studies([{**study, "exemplar": {"report": REPORT}}], with_reports=True)
    text = processor.tokenizer.decode(batch["input_ids"][0])
    places = [text.index(part) for part in (REPORT, "<image>", "Describe the findings.", study["report"][:20])]
    assert places == sorted(places)
    assert batch["input_ids"].eq(processor.image_token_id).sum() == 4


def test_a_study_without_an_exemplar_has_the_plain_prompt(processor):
    plain = processor.prompt_for({})
    assert plain == processor.prompt_for({"exemplar": None}) == processor.default_prompt
    assert "Similar" not in plain


@pytest.mark.parametrize("limit", [1, 2, 5, 17])
def test_the_exemplar_takes_no_more_tokens_than_it_may(limit):
    short = disease_aware_processor(max_exemplar_tokens=limit)
    for report in phantoms()["train"]["report"][:6]:
        shortened = short.cut_to_tokens(short.one_line(report), limit)
        assert len(tokens_of(short, shortened)) <= limit
        assert " ".join(report.split()).startswith(shortened)
        following = " ".join(report.split())[len(shortened) :]
        assert not shortened or following[:1] in ("", " ")
        assert prompt_with(short, report).startswith(f"Similar: {shortened} <image>")


def test_what_fits_is_left_whole(processor):
    assert REPORT in prompt_with(processor, REPORT)


@pytest.mark.parametrize("text", ["{image}", "{instruction}", "<image>", "</s>", "{exemplar} \\1"])
def test_nothing_in_a_report_is_taken_for_more_than_words(processor, text):
    study = {**phantoms()["train"][0], "exemplar": {"report": f"The {text} is enlarged."}}
    batch = processor.prepare_studies([study])
    ids = batch["input_ids"][0].tolist()
    assert ids.count(processor.image_token_id) == 4
    assert ids.count(processor.tokenizer.eos_token_id) == 0
    assert processor.prompt_for(study).count("Describe the findings.") == 1


def test_context_and_sections_stand_in_the_prompt_as_without_an_exemplar():
    said = disease_aware_processor(context=["indication"], section_instructions=["impression"])
    study = {"exemplar": {"report": REPORT}, "indication": "Cough", "section": "impression"}
    expected = "<image> Indication: Cough. Write the impression section of the report."
    assert said.prompt_for(study) == f"Similar: {REPORT} {expected}"
    assert said.prompt_for({**study, "exemplar": None}) == expected


def test_an_instruction_that_is_a_whole_prompt_stays_one(processor):
    study = {"exemplar": {"report": REPORT}}
    assert processor.prompt_for(study, "Look at <image> closely.") == "Look at <image> closely."
    assert processor.prompt_for(study, "Say all.") == f"Similar: {REPORT} <image> Say all."


def test_the_exemplar_never_comes_from_the_studys_own_report(processor):
    study = phantoms()["train"][0]
    with_own, without = ({**study, "report": report} for report in (study["report"], "Something else."))
    assert processor.prompt_for(processor.without_withheld(with_own)) == processor.prompt_for(
        processor.without_withheld(without)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exemplar_template": "{image} {instruction}"}, r"must hold \{exemplar\} once"),
        ({"exemplar_template": "{exemplar} {image} {image} {instruction}"}, r"must hold \{image\} once"),
        ({"max_exemplar_tokens": 0}, "max_exemplar_tokens must be positive, got 0"),
    ],
)
def test_options_that_say_something_impossible_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        disease_aware_processor(**options)
