"""What a prompt says of a study's clinical context, and the sections that it asks for."""

import pytest
from tiny import tiny_tokenizer

from mambaxray import MambaXrayImageProcessor, MambaXrayProcessor
from mambaxray.data.phantoms import make_study

WORDS = (
    "Human: <Img> </Img> Describe. Write the findings section of report. impression Assistant: Indication: Technique: "
    "Comparison: Prior image: report: Cough. AP. None. small left effusion. large right ... a b c"
)
IMAGES = ["picture"]


def make_processor(**options):
    size = {"height": 32, "width": 32}
    settings = {"num_image_tokens": 3, "instruction": "Describe."} | options
    return MambaXrayProcessor(MambaXrayImageProcessor(size=size), tiny_tokenizer(WORDS), **settings)


@pytest.fixture
def processor():
    return make_processor(context=("prior_report", "prior_images", "comparison", "technique", "indication"))


FULL = {
    "indication": "Cough.",
    "technique": "AP",
    "comparison": "None.",
    "prior_images": IMAGES,
    "prior_report": "small left effusion.",
}
PARTS = {
    "indication": "Indication: Cough.",
    "technique": "Technique: AP.",
    "comparison": "Comparison: None.",
    "prior_images": "Prior image: <prior_image>",
    "prior_report": "Prior report: small left effusion.",
}


def prompt(*said):
    return f"Human: <Img><image></Img> {' '.join([*said, 'Describe.'])} \nAssistant:"


def test_the_prompt_says_all_that_is_there_in_one_order(processor):
    assert processor.prompt_for(FULL) == prompt(*PARTS.values())


@pytest.mark.parametrize("missing", FULL)
@pytest.mark.parametrize("absent", [None, "", []], ids=repr)
def test_the_prompt_says_nothing_of_what_is_not_there(processor, missing, absent):
    said = [text for name, text in PARTS.items() if name != missing]
    assert processor.prompt_for({**FULL, missing: absent}) == prompt(*said)
    assert processor.prompt_for({name: value for name, value in FULL.items() if name != missing}) == prompt(*said)


def test_without_context_prompts_and_ids_are_as_they_were():
    plain = make_processor()
    assert plain.prompt_for(FULL) == plain.default_prompt == prompt()
    assert plain.study_inputs == {}
    assert "<prior_image>" not in plain.tokenizer.get_vocab()
    saved = plain.to_dict()
    assert not [name for name in saved if "context" in name or "prior" in name or "section" in name]


@pytest.mark.parametrize("name", FULL)
def test_context_that_the_processor_does_not_name_is_not_said(name):
    named = make_processor(context=[name])
    assert named.prompt_for(FULL) == prompt(PARTS[name])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("  Cough \n fever ", "Cough fever."),
        ("Cough?", "Cough?"),
        ("<image> Cough </s> <prior_image><pad>", "Cough."),
        ("<ima<image>ge> a", "<ima ge> a."),
        (" \n ", None),
        ("<image>", None),
    ],
)
def test_context_is_one_line_without_special_tokens(processor, text, said):
    expected = [] if said is None else [f"Indication: {said}"]
    assert processor.prompt_for({"indication": text}) == prompt(*expected)


def test_a_prior_report_is_cut_by_tokens_and_shows_it():
    processor = make_processor(context=["prior_report"], max_prior_report_length=2)
    assert processor.prompt_for({"prior_report": "a b c"}) == prompt("Prior report: a b ...")
    assert processor.prompt_for({"prior_report": "a b"}) == prompt("Prior report: a b.")
    whole = make_processor(context=["prior_report"], max_prior_report_length=None)
    assert whole.prompt_for({"prior_report": "a b c"}) == prompt("Prior report: a b c.")


def test_an_instruction_stands_behind_the_context_and_a_whole_prompt_stands_alone(processor):
    assert processor.prompt_for({"indication": "Cough."}, "a b").count("Indication: Cough. a b") == 1
    assert processor.prompt_for(FULL, "a <image> b") == "a <image> b"


def test_the_prompt_does_not_tell_of_the_reference(processor):
    study = make_study(3, image_size=32) | FULL | {"images": make_study(3, image_size=32)["images"]}
    study["prior_images"] = make_study(4, image_size=32)["images"]
    other = study | {"report": "x", "findings": "x", "impression": "x", "labels": {}}
    ids = [processor.prepare_studies([each])["input_ids"].tolist() for each in (study, other)]
    assert ids[0] == ids[1]


def test_each_placeholder_of_the_prompt_becomes_its_own_run_of_ids():
    processor = make_processor(context=["prior_images"], num_prior_image_tokens=2)
    ids = processor(text=["<image> a <prior_image> b"])["input_ids"][0]
    assert [ids.count(processor.image_token_id), ids.count(processor.prior_image_token_id)] == [3, 2]
    assert ids.index(processor.image_token_id) < ids.index(processor.prior_image_token_id)


def test_a_prompt_of_ones_own_must_fit_the_prior_images(processor):
    image = make_study(1, image_size=32)["images"]
    with pytest.raises(ValueError, match="<prior_image> 1 times, and its study has 0 prior images"):
        processor(images=[image], text=["<image> <prior_image>"])
    with pytest.raises(ValueError, match="<prior_image> 2 times"):
        processor(images=[image], text=["<image> <prior_image> <prior_image>"], prior_images=[image])
    with pytest.raises(ValueError, match="prior images of 2 studies for 1 prompts"):
        processor(images=[image], text=["<image>"], prior_images=[image, None])
    with pytest.raises(ValueError, match="takes no prior images"):
        make_processor()(images=[image], prior_images=[image])
    shown = processor(images=[image], text=["<image>"], prior_images=[image])
    assert "prior_pixel_values" not in shown  # given, but not in the prompt


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": ["age"]}, "unknown context age; there are indication"),
        ({"section_instructions": ["lungs"]}, "unknown section lungs; there are findings"),
        ({"max_prior_report_length": 0}, "max_prior_report_length is 0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_processor(**options)


def test_a_study_that_names_a_section_is_asked_for_it():
    processor = make_processor(section_instructions=["findings", "impression"])
    asked = processor.prompt_for({"section": "impression"})
    assert asked == prompt().replace("Describe.", "Write the impression section of the report.")
    assert processor.prompt_for({}) == processor.prompt_for({"section": ""}) == prompt()
    with pytest.raises(ValueError, match=r"'findings\+impression'; those it was trained for: findings, impression"):
        processor.prompt_for({"section": "findings+impression"})
    with pytest.raises(ValueError, match="'findings'; those it was trained for: none"):
        make_processor().prompt_for({"section": "findings"})


def test_saved_and_loaded_it_says_the_same(tmp_path):
    processor = make_processor(
        context=list(FULL), max_prior_report_length=3, section_instructions={"impression": "Write the impression"}
    )
    processor.save_pretrained(tmp_path)
    again = MambaXrayProcessor.from_pretrained(tmp_path)
    assert again.prompt_for(FULL | {"section": "impression"}) == processor.prompt_for(FULL | {"section": "impression"})
    assert again.to_dict() == processor.to_dict()
