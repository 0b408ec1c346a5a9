"""mambaxray: chest X-ray report generation with Hugging Face transformers.

Importing this package is cheap: it loads neither torch nor transformers. Public names are loaded on first
use, and the model families are known to transformers' Auto classes as soon as those are used.
Research software, not a medical device.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# In a source tree with a plain install, the repository root's `mambaxray/` shadows the installed package and
# lacks the sub-packages, which lie beside it: look there too.
_here = Path(__file__).resolve().parent
if not (_here / "configuration").is_dir() and (_here.parent / "setup.cfg").is_file():
    __path__.append(str(_here.parent))

_PUBLIC = {
    "Family": "configuration.families",
    "register_family": "configuration.families",
    "StudyInput": "configuration.study_inputs",
    "register_vision_family": "configuration.vision_tokens",
    "Evidence": "modeling_mambaxray.layers.image_features",
    "ImageFeatures": "modeling_mambaxray.layers.image_features",
    "MambaXrayModel": "modeling_mambaxray.modeling_mambaxray",
    "VisionMambaConfig": "configuration.configuration_vision_mamba",
    "VMambaConfig": "configuration.configuration_vmamba",
    "MambaXrayConfig": "configuration.configuration_mambaxray",
    "EMRRGConfig": "configuration.configuration_emrrg",
    "AMMRGConfig": "configuration.configuration_ammrg",
    "DiseaseAwareConfig": "configuration.configuration_disease_aware",
    "BidirectionalConfig": "configuration.configuration_bidirectional",
    "MambaXrayDualEncoderConfig": "configuration.configuration_mambaxray_dual_encoder",
    "AMMRGClassificationConfig": "configuration.configuration_ammrg_classification",
    "DiseaseAwarePreTrainingConfig": "configuration.configuration_disease_aware_pretraining",
    "MambaXrayPreTrainingConfig": "configuration.configuration_mambaxray_pretraining",
    "VisionMambaModel": "modeling_mambaxray.modeling_vision_mamba",
    "VMambaModel": "modeling_mambaxray.modeling_vmamba",
    "MambaXrayForConditionalGeneration": "modeling_mambaxray.modeling_mambaxray",
    "EMRRGForConditionalGeneration": "modeling_mambaxray.modeling_emrrg",
    "AMMRGForConditionalGeneration": "modeling_mambaxray.modeling_ammrg",
    "DiseaseAwareForConditionalGeneration": "modeling_mambaxray.modeling_disease_aware",
    "BidirectionalForConditionalGeneration": "modeling_mambaxray.modeling_bidirectional",
    "MambaXrayForPreTraining": "modeling_mambaxray.modeling_mambaxray_pretraining",
    "MambaXrayDualEncoder": "modeling_mambaxray.modeling_mambaxray_dual_encoder",
    "AMMRGForDiseaseClassification": "modeling_mambaxray.modeling_ammrg_classification",
    "DiseaseAwareForPreTraining": "modeling_mambaxray.modeling_disease_aware_pretraining",
    "use_scan_backend": "modeling_mambaxray.ops.scan_choice",
    "load_vision_encoder": "modeling_mambaxray.parts.vision_encoder",
    "encoder_from_pretraining": "modeling_mambaxray.modeling_mambaxray_pretraining",
    "MambaXrayImageProcessor": "processing.image_processing_mambaxray",
    "MambaXrayProcessor": "processing.processing_mambaxray",
    "DiseaseAwareProcessor": "processing.processing_disease_aware",
    "BidirectionalProcessor": "processing.processing_bidirectional",
    "build_generator": "processing.build_generator",
    "generate_continuously": "modeling_mambaxray.generation.continuous_generation",
    "prepare_for_generation": "modeling_mambaxray.generation.recalled_prompts",
    "ImageToTextPipeline": "modeling_mambaxray.generation.pipeline_image_to_text",
    "ReportCollator": "train.collator",
    "ImageCollator": "train.collator",
    "ContrastiveCollator": "train.collator",
    "ClassificationCollator": "train.collator",
    "convert_checkpoint": "train.convert_checkpoint",
    "apply_efficient_tuning": "train.partial_lora",
    "PatchPredictionCallback": "train.patch_prediction_callback",
    "ReportTrainer": "train.report_trainer",
    "load_recipe": "train.recipe",
    "run_recipe": "train.run",
    "load_annotation_json": "data.annotation_json",
    "load_prepared": "data.prepared",
    "load_studies": "data.studies",
    "prepare_studies": "data.prepare",
    "ViewClassifier": "data.view_classifier",
    "train_view_classifier": "train.view_classification",
    "save_view_classifier": "train.view_classification",
    "embedding_distances": "evaluation.embedding_distances",
    "write_embedding_page": "evaluation.pages.embedding_page",
    "read_source": "data.prepare",
    "LabelPolicy": "data.label_policy",
    "make_phantoms": "data.phantoms.studies",
    "compute_retrieval_metrics": "evaluation.retrieval",
    "CheXpertStyleLabeler": "evaluation.labeler",
    "evaluate_model": "evaluation.evaluate_model",
    "generate_predictions": "evaluation.evaluate_model",
    "explain_report": "evaluation.attention",
    "reconstruct_studies": "evaluation.reconstruction",
    "write_reconstruction_page": "evaluation.pages.reconstruction_page",
    "write_attention_page": "evaluation.pages.attention_page",
    "write_evaluation_page": "evaluation.pages.evaluation_page",
    "evaluate_reports": "evaluation.scoring",
    "compare_reports": "evaluation.comparison",
    "report_metrics": "evaluation.trainer_metrics",
    "make_tiny_models": "tiny_models",
    "PushError": "hub",
    "push_folder": "hub",
    "write_model_card": "model_card",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"mambaxray has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


from ._register import register_when_used  # noqa: E402

register_when_used()
