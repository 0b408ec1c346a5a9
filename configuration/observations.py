"""What the observations of a model are called unless it says otherwise."""

OBSERVATIONS: tuple[str, ...] = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""CheXpert's 14 (Irvin et al., AAAI 2019, table 1), as in `data/schema.py`: neither can take them from the other, since
data sets must be read without transformers, and models know nothing of data sets. A test compares both."""

__all__ = ["OBSERVATIONS"]
