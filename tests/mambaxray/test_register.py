"""What `import mambaxray` costs, and what transformers knows afterwards, each in a fresh Python."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import tiny_tokenizer
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    pipeline,
)
from transformers.pipelines import check_task

_STOCK = "image-text-to-text"


def run(code: str, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_nothing_is_registered_or_loaded_before_the_auto_classes_are() -> None:
    code = """
import sys
import mambaxray
print(*({"torch", "transformers", "numpy"} & set(sys.modules)))
import transformers
ours = "mambaxray.configuration.configuration_mambaxray"
print("torch" in sys.modules, ours in sys.modules)
transformers.AutoConfig
print("mambaxray" in transformers.CONFIG_MAPPING, ours in sys.modules)
"""
    assert run(code).splitlines() == ["False False", "True True"]


@pytest.mark.parametrize(
    "first",
    [
        "import mambaxray; from transformers import AutoModel",
        "import mambaxray; from transformers import pipeline",
        "import mambaxray; from transformers import AutoConfig; AutoConfig.from_pretrained(folder)",
        "from transformers import AutoModel, pipeline; import mambaxray",
        # The Auto classes come in while modules that ours need are half loaded.
        "import mambaxray; from transformers import LlamaForCausalLM",
        pytest.param("from transformers import AutoModel; import mambaxray", marks=pytest.mark.slow),
        pytest.param("from mambaxray import ImageToTextPipeline", marks=pytest.mark.slow),
        pytest.param("from mambaxray import MambaXrayConfig", marks=pytest.mark.slow),
        pytest.param(
            "import mambaxray; from transformers import AutoImageProcessor; AutoImageProcessor.from_pretrained(folder)",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_everything_is_registered_whatever_is_imported_first(first: str, model_folder: Path) -> None:
    code = f"""
import sys
folder = sys.argv[1]
{first}
from transformers import AutoModel, AutoProcessor, pipeline
print(
    type(AutoModel.from_pretrained(folder)).__name__,
    type(AutoProcessor.from_pretrained(folder)).__name__,
    type(pipeline("image-to-text", model=folder)).__name__,
)
"""
    assert run(code, str(model_folder)) == "MambaXrayForConditionalGeneration MambaXrayProcessor ImageToTextPipeline"


@pytest.fixture(scope="module")
def stock_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny captioning model of transformers itself."""
    folder = tmp_path_factory.mktemp("stock")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "photo", "of", "lungs"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        vision_config={**size, "image_size": 32, "patch_size": 16},
        text_config={
            **size,
            "encoder_hidden_size": 16,
            "vocab_size": len(words),
            "bos_token_id": 5,
            "eos_token_id": 3,
            "sep_token_id": 3,
            "pad_token_id": 0,
        },
    )
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    image_processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def test_models_of_others_get_what_transformers_puts_in_the_place_of_the_task(
    stock_folder: Path, pictures: list[Path]
) -> None:
    ours, theirs = (
        pipeline(task, model=stock_folder, device="cpu", batch_size=2) for task in ("image-to-text", _STOCK)
    )
    assert (type(ours), ours.task, ours._batch_size) == (type(theirs), theirs.task, theirs._batch_size)
    call = {"images": str(pictures[0]), "text": "a photo of", "max_new_tokens": 5}
    assert ours(**call) == theirs(**call)


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA: a model of transformers that holds chats about images."""
    folder = tmp_path_factory.mktemp("llava")
    tokenizer = tiny_tokenizer("USER: ASSISTANT: what is this a photo of lungs <image>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**size, image_size=32, patch_size=16),
        text_config=LlamaConfig(**size, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="USER: {% for part in messages[0]['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }} {% endfor %}ASSISTANT:",
    ).save_pretrained(folder)
    return folder


def test_a_chat_with_a_llava_is_the_same_under_both_tasks(llava_folder: Path, pictures: list[Path]) -> None:
    ours, theirs = (pipeline(task, model=llava_folder, device="cpu") for task in ("image-to-text", _STOCK))
    assert type(ours) is type(theirs)
    assert type(ours.model) is LlavaForConditionalGeneration
    content = [{"type": "image", "path": str(pictures[0])}, {"type": "text", "text": "what is this"}]
    call = {"text": [{"role": "user", "content": content}], "max_new_tokens": 4}
    answer = theirs(**call)
    assert answer[0]["generated_text"][-1]["role"] == "assistant"
    assert ours(**call) == answer


def test_a_missing_processor_of_others_is_told_as_without_us(stock_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(stock_folder / name, tmp_path)
    with pytest.raises(OSError, match="preprocessor_config") as theirs:
        pipeline("image-text-to-text", model=tmp_path)
    with pytest.raises(OSError, match="preprocessor_config") as ours:
        pipeline("image-to-text", model=tmp_path)
    assert str(ours.value) == str(theirs.value)


def test_other_deprecated_tasks_are_refused_as_before() -> None:
    with pytest.raises(KeyError, match="summarization has been removed"):
        check_task("summarization")
