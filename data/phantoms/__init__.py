"""Phantoms: drawn chest X-rays with known findings and reports, the data set that needs no download.

`drawing` draws one film: `anatomy` samples the person, `frontal` and `lateral` draw the normal chest on a `canvas`,
`signs` and `devices` add the findings, `film` exposes it. `sampling` chooses the findings of a random study, `report`
writes its report (sentences in `finding_sentences` and `normal_sentences`) with labels that are exact, `studies` and
`mapped` make data sets, and `contact_sheet` shows them. Phantoms teach a model to see and to write; they say nothing
about patients. Imports nothing of this package but `data.schema`; `data`, `train`, the command line, tests and
benchmarks import it.
"""

from ..schema import VIEWS
from .contact_sheet import contact_sheet
from .drawing import draw_finding_maps, draw_phantom
from .findings import Finding
from .history import CHANGES, History, sample_history
from .mapped import make_mapped_phantoms
from .studies import encode_study, make_phantoms, make_study

__all__ = [
    "CHANGES",
    "VIEWS",
    "Finding",
    "History",
    "contact_sheet",
    "draw_finding_maps",
    "draw_phantom",
    "encode_study",
    "make_mapped_phantoms",
    "make_phantoms",
    "make_study",
    "sample_history",
]
