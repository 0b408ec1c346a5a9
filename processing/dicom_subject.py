"""Whether a DICOM is an upright chest radiograph made for looking at, by the few header fields that say so.

Only words of the standard's own vocabulary are ever named: any text may stand in these fields, and it stays there.
"""

from .dicom_header import DicomHeader

# PS3.3 C.7.3.1.1.1; those of radiographs (CR, DX, RF, XA, XC, RG, OT, SC, HC) and retired ones are not in it.
_MODALITY_WORDS = """
    AR ASMT AU BDUS BI BMD CT CTPROTOCOL DG DOC ECG EEG EMG EOG EPS ES FID GM HD IO IOL IVOCT IVUS KER KO LEN LS M3D
    MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS PA PLAN POS PR PT PX REG RESP RTDOSE RTIMAGE RTINTENT RTPLAN
    RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA"""
# PS3.3 A: what an image of a class that holds no radiographs is, for files without Modality.
_MODALITY_OF_CLASS = {
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",
    "1.2.840.10008.5.1.4.1.1.1.2.1": "MG",
    "1.2.840.10008.5.1.4.1.1.1.3": "IO",
    "1.2.840.10008.5.1.4.1.1.1.3.1": "IO",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.3.1": "US",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.6.1": "US",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
_CHEST_WORDS = ("CHEST", "THORA", "TORAX", "LUNG", "PULMO", "RIB", "CXR", "HEART", "STERN", "CLAVIC")
# PS3.16 annex L, without what lies in or contains the chest.
_PART_WORDS = """
    ABDOMEN ABDOMENPELVIS ADRENAL ANKLE ANUS APPENDIX ARM ARTERY BILEDUCT BLADDER BRAIN BREAST BUTTOCK CALCANEUS CALF
    CAROTID CEREBELLUM CERVIX CHEEK COCCYX COLON CSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR
    FINGER FOOT FOREARM FOREHEAD GALLBLADDER HAND HEAD HEADNECK HIP HUMERUS ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE
    LARYNX LEG LIVER LSPINE LSSPINE MANDIBLE MAXILLA MOUTH NECK NOSE ORBIT OVARY PANCREAS PAROTID PATELLA PELVIS PENIS
    PHARYNX PROSTATE RADIUS RECTUM SACRUM SCALP SCROTUM SELLA SHOULDER SINUS SKULL SPINE SPLEEN SSPINE STOMACH TESTIS
    THIGH THUMB THYROID TIBIA TLSPINE TMJ TOE TONGUE TSPINE ULNA URETER URETHRA UTERUS VAGINA WRIST ZYGOMA"""
_DIRECTIONS = frozenset("APRLHF")
# The largest difference between the sides of a pixel that is no more than rounding.
_SQUARE = 0.02
_OTHER_MODALITIES = frozenset(_MODALITY_WORDS.split())
_OTHER_PARTS = tuple(_PART_WORDS.split())


def check_subject(header: DicomHeader) -> None:
    """Tell by `header.doubt` what speaks against a chest radiograph for presentation; silence in the file is fine.

    Raises:
        ImageReadError: in place of a doubt, where strictness was asked for.
    """
    modality = header.word("Modality") or _MODALITY_OF_CLASS.get(header.word("SOPClassUID"), "")
    if modality in _OTHER_MODALITIES:
        header.doubt(f"modality {modality}, which is no chest radiograph")
    part = _other_part(header.word("BodyPartExamined"))
    if part is not None:
        header.doubt(f"body part {part}, which is no chest radiograph")
    if header.word("PresentationIntentType") == "FOR PROCESSING":
        header.doubt("presentation intent FOR PROCESSING: detector values, not the image that a radiologist would see")
    shape, photometric = header.word("PresentationLUTShape"), header.word("PhotometricInterpretation")
    if (shape, photometric) in (("INVERSE", "MONOCHROME2"), ("IDENTITY", "MONOCHROME1")):
        header.doubt(
            f"PresentationLUTShape {shape} contradicts {photometric}, which counts; the image may be a negative"
        )
    _check_orientation(header)
    _check_aspect(header)


def _check_orientation(header: DicomHeader) -> None:
    """Whether rows run to the patient's left (in lateral views to front or back), and columns to the feet.

    Source: PS3.3 C.7.6.1.1.1.
    """
    directions = header.words("PatientOrientation")
    if len(directions) != 2 or not all(word and _DIRECTIONS.issuperset(word) for word in directions):
        return
    row, column = (word[0] for word in directions)
    if row in "HF" or column not in "HF":
        turned = "turned by 90 degrees"
    elif column == "H":
        turned = "upside down"
    elif row == "R":
        turned = "mirrored, the patient's left where the right should be"
    else:
        return
    header.doubt(f"PatientOrientation {row}, {column}: the image is {turned}; it is read as it is stored")


def _check_aspect(header: DicomHeader) -> None:
    """Whether pixels are square."""
    for keyword in ("PixelAspectRatio", "PixelSpacing", "ImagerPixelSpacing"):
        sides = [side for side in header.numbers(keyword)[:2] if side is not None and side > 0]
        if len(sides) == 2 and max(sides) / min(sides) - 1 > _SQUARE:
            header.doubt(f"{keyword} says that pixels are not square; the image is read as if they were")
            return


def _other_part(text: str) -> str | None:
    """The body part of the vocabulary that a text names, unless it also names the chest."""
    if any(word in text for word in _CHEST_WORDS):
        return None
    words = "".join(letter if letter.isalnum() else " " for letter in text).split()
    joined = "".join(words)
    # "C SPINE" and "HAND_LEFT" as well as "CSPINE"; "HANDS" as well as "HAND".
    found = [part for part in _OTHER_PARTS if part == joined or part in words or f"{part}S" in words]
    return max(found, key=len) if found else None
