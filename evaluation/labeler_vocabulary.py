"""The words that `labeler.py` looks for: findings, statements of normality, and what negates or weakens them.

Every entry is a regular expression, matched as whole words against lower-case text. A phrase belongs here when a
radiologist would read it the same way in any hospital's report; sentences of one data set do not. The choices
that are not obvious are explained in `docs/evaluation.md`.
"""

from dataclasses import dataclass

OTHER_ABNORMALITY = "Other Abnormality"
"""An abnormality outside the 14 observations. It only rules out No Finding; it is never a label of its own."""


@dataclass(frozen=True)
class FindingPhrases:
    """Phrases that name something; unless negated or weakened they state all `observations` as present.

    `hints` are observations that the phrases leave open even when affirmed (a "nodular opacity" may be a nodule).
    """

    observations: tuple[str, ...]
    phrases: tuple[str, ...]
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statement:
    """A part of the body with a predicate that asserts an observation ("heart … enlarged") or denies it."""

    observation: str
    subject: str
    asserting: str
    denying: str


_NEVER = r"(?!)"
_NO_OTHER_FAILURE = "".join(
    f"(?<!{kind} )"
    for kind in (
        "respiratory",
        "renal",
        "kidney",
        "liver",
        "hepatic",
        "organ",
        "hardware",
        "lead",
        "device",
        "treatment",
    )
)
_NO_BONE = "".join(
    f"(?<!{bone} )" for bone in ("vertebral", "body", "bodies", "plate", "endplate", "spinal", "tracheal")
)
_THORA = r"thora(?:x|xes|ces)"
_BLOOD_OR_WATER = r"(?:hydro|h(?:a|ae)?emo|haemo)-?"
_INTERSTITIAL = r"(?:disease|lung disease|markings?|changes|process|thickening|pattern|abnormalit\w+|fibrosis)"
_JOINED = r"(?: and/or | or | and | nor |, | ?/ ?)"
_HARDWARE_NOUNS = (
    "wire",
    "lead",
    "screw",
    "plate",
    "rod",
    "catheter",
    "clip",
    "suture",
    "stent",
    "port",
    "electrode",
    "nail",
)
_HARDWARE = rf"(?:(?:{'|'.join(_HARDWARE_NOUNS)})s?|hardware|cerclage)"
_BEHIND_HARDWARE = "|".join(
    f"(?<={noun}{link}{broken})"
    for broken in ("fracture", "fractures", "fractured")
    for noun in (*_HARDWARE_NOUNS, "hardware")
    for link in (" ", "s ", " is ", "s is ", "s are ")
)
_ELSE = r"with|and|or|near|adjacent|since|after|following|despite|post|status"
_LUNG_SITE = (
    r"(?:lungs?|pulmonary|(?:mid-?)?lobes?|lingula\w*|bas(?:e|es|al|ilar)|bibasilar|ap(?:ex|ices|ical)|hil(?:um|ar|a)"
    r"|peri-?hilar|supra-?hilar|infra-?hilar|mid-?lung|retrocardiac)"
)
_WHERE_TIPS_LIE = (
    r"(?:svc|ivc|vena cava|cavo-?atrial|caval|atri(?:um|al)|ventric(?:le|ular)|carina|stomach|duodenum|jugular"
    r"|subclavian|brachiocephalic)"
)

FINDINGS: tuple[FindingPhrases, ...] = (
    # At one position the first phrase that matches wins: longer phrases come before their parts.
    FindingPhrases(
        ("Pneumothorax", "Pleural Effusion"),
        (
            rf"{_BLOOD_OR_WATER}pneumo-?{_THORA}",
            rf"pneumo-?{_JOINED}{_BLOOD_OR_WATER}{_THORA}",
            rf"{_BLOOD_OR_WATER}{_JOINED}pneumo-?{_THORA}",
        ),
    ),
    FindingPhrases(
        ("Pleural Effusion", "Pleural Other"), (rf"pleural (?:effusions?|fluid){_JOINED}(?:pleural )?thickening",)
    ),
    FindingPhrases(("Pneumothorax",), (rf"pneumo-?{_THORA}", r"pleural air", r"ptxs?")),
    FindingPhrases(
        ("Pleural Effusion", OTHER_ABNORMALITY),
        (
            rf"pleural{_JOINED}pericardial (?:effusions?|fluid)",
            rf"pericardial{_JOINED}(?:\w+ )?pleural (?:effusions?|fluid)",
        ),
    ),
    FindingPhrases(
        (OTHER_ABNORMALITY,), (r"pericardial (?:effusions?|fluid)", r"(?:joint|knee|suprapatellar) effusions?")
    ),
    FindingPhrases(
        (OTHER_ABNORMALITY,),
        (
            r"(?:soft[ -]tissue|subcutaneous|chest wall|body wall|peripheral|extremity|leg|ankle|facial|laryngeal"
            r"|cerebral|skin|dependent|marrow|scalp|arm|breast)"
            r"(?: and \w+)? o?edema",
            r"o?edema (?:of|in|within|involving) (?:the )?(?:[\w-]+ ){0,2}(?:soft tissues?|chest wall|neck|skin"
            r"|extremit\w+|legs?|arms?)",
            r"anasarca",
            rf"fractur(?:es?|ed)(?:{_BEHIND_HARDWARE})",
            rf"fractur(?:es?(?= of)|ed|e)(?= (?:(?!{_ELSE})[\w-]+ ){{0,5}}?{_HARDWARE}\b)",
        ),
    ),
    FindingPhrases(
        ("Pleural Other",),
        (
            r"pleural(?:[ /-]\w+){0,2}[ /-](?:thickening|scar(?:ring|s)?|plaques?|calcifications?|fibrosis)"
            r"(?:(?:/| or | and )scar(?:ring|s)?)?",
            r"pleural (?:thickening|scar(?:ring|s)?|plaques?|calcifications?|fibrosis)",
            r"(?:bi)?apical (?:pleural )?(?:thickening|capping|caps?)",
            r"thickening of the (?:\w+ ){0,2}(?:pleura|fissures?)|(?:fissural|pleural-based) thickening",
            r"fibro-?thorax|asbestos[\w-]* pleural disease",
            r"calcified pleura\w*",
        ),
    ),
    FindingPhrases(
        ("Pleural Effusion",),
        (
            r"(?:pleural )?(?:effusions?|effs?)",
            r"(?:sub)?pleural (?:(?:\w+ )?fluid|collections?)",
            r"fluid (?:is )?(?:(?!in\b|at\b)\w+ )?(?:in|at|within|along) (?:the |both )?(?:[\w-]+ ){0,3}?(?:bases?"
            r"|hemi-?thorax"
            r"|pleural spaces?|(?:costo-?phrenic|cp) (?:angles?|sulc\w+))",
            rf"{_BLOOD_OR_WATER}{_THORA}",
            r"empyemas?",
        ),
    ),
    FindingPhrases(
        (OTHER_ABNORMALITY,),
        (
            r"fluid (?:is )?(?:\w+ )?(?:in|within|along|into) (?:the |both )?(?:[\w-]+ ){0,3}?fissures?"
            r"|(?:intra-?)?fissural fluid",
        ),
        hints=("Pleural Effusion",),
    ),
    FindingPhrases(
        ("Cardiomegaly",),
        (
            r"cardiomegaly",
            r"cardiac (?:silhouette )?enlargement",
            r"enlargement of (?:the )?(?:\w+ )?(?:heart|cardiac|cardio-?pericardial)(?: silhouette| shadow)?",
        ),
    ),
    FindingPhrases(
        ("Enlarged Cardiomediastinum",),
        (
            r"mediastinal(?: (?:or|and) hilar|/hilar)? (?:widening|enlargement)",
            r"(?:widening|enlargement) of the (?:\w+ )?(?:cardio-?)?mediastin\w+",
        ),
    ),
    FindingPhrases(
        ("Edema",),
        (
            r"(?:pulmonary |interstitial |alveolar )?(?:o?edema|odema)",
            r"(?:(?:pulmonary|central|peri-?hilar|hilar) )*(?:vascular|venous|vasculature|interstitial|vessel)"
            r"(?: \w+)? (?:congesti(?:on|ve)|engorgement)",
            r"(?:(?:pulmonary|central|peri-?hilar|hilar) )*vascular prominence",
            r"(?:congestive |left |right ){0,2}(?:heart|cardiac|ventricular|lv|biventricular) failure",
            rf"{_NO_OTHER_FAILURE}failure(?! of| to|-)",
            r"chf",
            r"cardiac decompensation",
            r"(?:pulmonary |central ){0,2}venous hypertension",
            r"(?:fluid|volume) overload",
            r"(?:vascular|pulmonary venous|venous|lobe|blood) (?:redistribution|cephali[sz]ation|(?:blood "
            r"|venous )?diversion)",
            r"cephali[sz]ation",
            r"(?:congestion|engorgement|distention|distension) of (?:the )?(?:[\w-]+ ){0,2}(?:vessels|vasculature"
            r"|veins)",
            r"kerley(?:'?s)?(?:[- ]?[abc]\b)?(?: lines?)?",
            r"(?:pulmonary )?congesti(?:on|ve (?:changes?|failure))",
        ),
    ),
    FindingPhrases(("Pneumonia",), (r"(?:broncho|pleuro)?-?pneumonia[es]?", r"pneumonitis", r"pneumonic", r"pna")),
    FindingPhrases(("Consolidation",), (r"consolidat(?:ions?|ive|ed|ing)",)),
    FindingPhrases(
        ("Atelectasis",),
        (
            r"(?:plate-?like |sub-?segmental |disco(?:id|genic) |linear |bandlike )?(?:micro-?)?atelecta\w+",
            r"(?:lobe|lobar|segmental|lung|partial|complete|pulmonary) collapse",
            r"collapse of the (?:\w+ ){1,4}(?:lobes?|lung)",
            r"(?:lobe|lung|lingula|segment)s? (?:is|are|remains?|appears?|has) (?:\w+ ){0,2}?collapsed"
            r"|collapsed (?:[\w-]+ ){0,3}?(?:lobe|lung|lingula|segment)s?",
            rf"{_NO_BONE}collapse(?! of (?:the )?(?:\w+ ){{0,2}}?(?:[tl]\d|vertebr\w+|thoracic|lumbar|spine)"
            rf"| fracture| deformit)",
            r"atx|atel",
        ),
    ),
    FindingPhrases(
        ("Lung Opacity",),
        (
            r"(?:reticul\w+-)?nodular (?:[\w-]+ ){0,2}(?:opaci\w+|densit\w+|infiltrat\w+)",
            r"nodular (?:[\w-]+ )?interstitial (?:markings|pattern|disease|changes|prominence|thickening)",
        ),
        hints=("Lung Lesion",),
    ),
    FindingPhrases(
        (OTHER_ABNORMALITY,),
        (
            r"(?:chest wall|breast|axillary|neck|soft[ -]tissue|abdominal|renal|adrenal|hepatic|thyroid"
            r"|subcutaneous) (?:mass(?:es)?|nodul\w+|tumou?rs?)",
        ),
    ),
    FindingPhrases(("Consolidation", "Lung Lesion"), (r"mass-?like (?:\w+ )?consolidat\w+",)),
    FindingPhrases(("Lung Opacity", "Lung Lesion"), (r"mass-?like (?:\w+ )?(?:opaci\w+|densit\w+)",)),
    FindingPhrases(
        ("Lung Lesion",),
        (
            r"(?:micro-?)?nodul(?:es?|ar|arity)",
            r"fibro-?nodular",
            r"mass(?:es)?(?! effect)(?: lesions?)?",
            r"mass-?like",
            r"(?:cavitary|cavitating|pulmonary|lung|parenchymal|coin|nodular) lesions?",
            rf"(?<!cystic )lesions? (?:measuring [\w. ]{{1,30}} )?(?:in|at|within"
            rf"|of) (?:the )?(?:[\w-]+ ){{0,3}}?{_LUNG_SITE}",
            rf"{_LUNG_SITE} (?:\w+ )?lesions?",
            r"cavitations?",
            rf"(?:walled|pulmonary|lung) cavit(?:y|ies)|cavit(?:y|ies) (?:in|within"
            rf"|of) (?:the )?(?:[\w-]+ ){{0,3}}?{_LUNG_SITE}",
            r"neoplasms?|(?:lung|bronchogenic) cancer",
            r"tumou?rs?",
            r"carcinomas?",
            r"(?:pulmonary|lung) metast\w+",
        ),
    ),
    FindingPhrases(
        ("Lung Opacity",),
        (
            r"opaci(?:ty|ties|fications?|fied)",
            r"air-?\s?spaces? (?:disease|opaci\w+|process|densit\w+)",
            r"infiltrat(?:es?|ions?|ive)",
            r"alveolar (?:disease|process)",
            rf"interstitial (?:\w+ )?{_INTERSTITIAL}",
            r"reticul(?:ar|ations?|o-?nodular)",
            r"ground[- ]glass",
            r"(?:non-?calcified )?densit(?:y|ies) (?:measuring [\w. ]{1,30} )?(?:\w+ ){0,3}?"
            rf"(?:in|at|within|of|over|overlying) (?:the )?(?:[\w-]+ ){{0,3}}?{_LUNG_SITE}",
            rf"{_LUNG_SITE} (?:[\w-]+ ){{0,2}}?densit(?:y|ies)",
            r"scar(?:s|ring)?",
            r"cicatri\w+",
        ),
    ),
    FindingPhrases(("Fracture",), (r"(?:micro-?)?fractur(?:es?|ed)(?:-dislocations?)?", r"fx")),
    FindingPhrases((OTHER_ABNORMALITY,), (r"tips shunt", r"breast (?:prosthes[ei]s|implants?)")),
    FindingPhrases(
        ("Support Devices",),
        (
            r"pace-?makers?",
            r"pacers?",
            r"pacing",
            r"aicd|icd",
            r"(?:cardioverter[- ])?defibrillators?",
            r"(?:pulse )?generators?",
            r"leads(?! to)|electrodes?",
            r"(?:micro|port)?catheters?",
            r"picc(?: lines?)?",
            r"port-?a-?cath(?:eter)?s?|(?:medi|infus-?a-?|chest )?-?ports?",
            r"(?:venous|central|jugular|ij|subclavian|arterial|vascular|dialysis|swan-?ganz|tunn?ell?ed|hemodialysis)"
            r" (?:access )?lines?|(?:temperature|esophageal|transesophageal|tee) probes?",
            r"(?:right|left) (?:ij|internal jugular|subclavian)(?= (?:in|tip|terminat\w+|ends|is|has|unchanged|with)\b"
            r"|\W*$|[,;])",
            r"lines?(?= (?:placement|insertion|removal|exchange)\b)",
            r"lines? (?:(?:and|or|/) tubes?|tips?)|(?:all|support|monitoring|indwelling|vascular) (?:\w+ )?lines",
            r"lines(?= (?:have|were|are) (?:all |now |been )*(?:removed|withdrawn|pulled|discontinued|unchanged"
            r"|in place|stable))",
            rf"tips?\b[^;]{{0,50}}?\b{_WHERE_TIPS_LIE}",
            r"in (?:the )?(?:[\w-]+ )?(?:svc|superior vena cava|cavo-?atrial junction)",
            r"(?:(?:endo|naso|oro|trache|et|ng|og|chest|feed|enteric|gastr|support|drain)[\w-]{0,20} )?tub(?:es?"
            r"|ing)",
            r"tracheostomy|tracheotomy|trach|ett|ngt|ogt|dht|g-?tube|j-?tube|peg",
            r"cvc|cvl|cvp|tlc|hd lines?|ppm|picc|bivad|rvad|impella|ecmo(?: cannulae?)?|cannulae?|cannulas"
            r"|pigtails?|sheaths?|introducers?|cordis",
            r"hickman|broviac|quinton|perm-?a?-?cath\w*|pleur-?x|tesio|groshong|mitra-?clip|watchman|linq"
            r"|crt-?[dp]?|biv|avr|mvr|tavr|tavi",
            r"dobb?-?hoff",
            r"shunt(?: (?:tubing|catheter))?",
            r"swan-?ganz",
            r"(?:intra-?aortic )?balloon pump|iabp|lvad|ventricular assist device",
            r"(?:prosthetic|artificial|mechanical|bioprosthetic|bovine|porcine) (?:\w+ )?valves?",
            r"valv(?:e|ular) (?:prosthes[ei]s|replacements?|repair)|prosthes[ei]s",
            r"cardiac monitors?|(?:monitoring|telemetry|ecg|ekg) (?:\w+ )?(?:wires?|leads?|electrodes?)",
            r"(?:hardware|devices?|stimulators?|recorders?|occluders?|drains?)",
            r"(?:ivc|vena cava) filters?",
        ),
    ),
    FindingPhrases(
        (OTHER_ABNORMALITY,),
        (
            r"tubercul\w+|tb|granulom\w+|calcif\w+|lymph ?nodes?|(?:lymph)?adenopathy|sarcoid\w*",
            r"degenerat\w+|spondyl\w+|osteophyt\w+|spurs?|spurring|end-?plate changes|arthr(?:itis|itic|osis|opathy)",
            r"(?:(?:dextro|levo|roto|kypho)-?)?scoliosis|(?:hyper)?kypho\w+|lordosis|curvature|wedg\w+|compress\w+"
            r"|deform\w+|dislocat\w+|sublux\w+",
            r"osteopeni\w+|osteoporo\w+|osteodystrophy|deminerali\w+|sclero\w+|hyperostosis|dish|pectus",
            r"tortuous|tortuosity|ecta(?:tic|sia)|uncoil\w+|unfold\w+|athero\w+|arterioscl\w+|aneurysm\w*",
            r"hyper-?(?:inflat|expan|lucen|aerat)\w*|emphysem\w+|copd|chronic obstructive|air trapping|flatten\w+",
            r"hypo-?(?:inflat|ventil|expan|aerat)\w*",
            r"(?:low|small|decreased|shallow|diminished|reduced) (?:lung |inspiratory )?(?:volumes?|inspiration)",
            r"hernia\w*|eventration|elevat\w+|blunt\w+|thicken\w+|fibro(?:sis|tic)|bronchiect\w+|bronch(?:iol)?itis",
            r"honeycomb\w*|fullness|prominent|prominence|crowding|peribronchial|widen\w+|enlarge[dm]\w*|volume loss"
            r"|shift",
            r"clips?|sternotomy|wires?|sutures?|staples|cabg|bypass|post-?(?:surgical|operative)|spinal fusion",
            r"(?:surgical|operative) (?:changes?|material)|resection|\w+ectomy|thoracotomy|arthroplast\w+|stents?",
            r"(?:fusion|fixation) (?:hardware|plates?|rods?)|fusion|rods?|screws?|implants?",
            r"cysts?|cystic|bulla\w*|bullous|blebs?|luc(?:ent|ency|encies)|densit(?:y|ies)|lesions?",
            r"gallstones?|cholelithiasis|pneumoperitoneum|foreign bod(?:y|ies)|bullets?|shrapnel|metallic|contrast",
            r"rotated|suboptimal|obscur\w+(?! by)|haz(?:e|iness)",
        ),
    ),
)

_HEART = (
    r"(?:heart(?:size)?|cardiac|cardio-?\s?mediastinal|cardio-?pericardial|cardio-?thoracic ratio|ctr)"
    r"(?:,? (?:and|or|&) [\w-]+|/[\w-]+)?"
    r"(?:[ /-](?:sizes?|silhouettes?|shadow|contours?|borders?|outline|structures|diameter))*"
)
_MEDIASTINUM = (
    r"(?:(?:superior|upper) )?(?:cardio-?\s?)?mediastin(?:um|al)(?: and [\w-]+)?"
    r"(?:[ /](?:silhouettes?|contours?|structures|borders?|width|shadow))*"
)
_NOT_NORMAL = r"not (?:quite |entirely )?normal|no longer normal|abnormal(?! contours?)(?:ly (?:large|big|wide))?"
_NORMAL = (
    r"(?<!not )(?<!longer )(?<!quite )(?<!near )(?<!above )(?<!exceeds )(?<!than )(?:normal(?!ly)|normali[sz]ed|nl"
    r"|wnl)|unremarkable"
    r"|within (?:the )?(?:normal )?limits"
    r"|(?:upper|top)(?: \w+)? limits"
)

STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "Cardiomegaly",
        _HEART,
        r"(?:(?:(?:(?:upper|top) (?:limits )?(?:of )?)?normal (?:to"
        r"|or) (?:\w+ )?)?(?:(?<!previously )(?<!formerly )enlarged"
        r"|enlargement|borderline|(?:larger|bigger|big)(?= than| in size|\W*$|[.,;])|(?:above|exceeds"
        r"|greater than) normal"
        r"|large(?= (?:heart|cardiac|for|in|and|but)\b|\W*$|[.,;)]))"
        rf"|increased(?= heart| cardiac| size of)"
        rf"|increased(?! (?!in size|compared|from|since|relative|when)\w)|{_NOT_NORMAL})"
        r"(?! (?!and\b)(?:\w+ )?(?:lymph|nodes?|effusions?|hil\w+|aort\w+|hernia|pulmonary|central|pericardial))",
        _NORMAL,
    ),
    Statement("Enlarged Cardiomediastinum", _MEDIASTINUM, rf"widened|enlarged|wide|{_NOT_NORMAL}", _NORMAL),
    Statement(
        "Edema",
        r"(?:pulmonary |central |peri-?hilar |hilar |lung |lower |upper |lobe ){0,3}(?:vascularity|vasculature"
        r"|vessels"
        r"|vascular (?:markings|pattern|structures))",
        r"congested|engorged|cephali\w+|indistinct|increased|prominent",
        _NEVER,
    ),
)
