"""The words that say where a finding is, how large and how it has changed, as data for `labeler_details.py`.

Every phrase is a regular expression, matched as whole words against lower-case text.
"""

from dataclasses import dataclass
from enum import Enum, auto

SIDES = ("left", "right", "both")
"""Of the patient; a finding without any has `""`."""
ZONES = ("apical", "upper", "mid", "lower", "basal")
"""From top to bottom. The apex lies in the upper zone and the base in the lower one, see `level_of`."""
LOBES: dict[str, tuple[str, str, str]] = {
    "rul": ("right", "upper", "right upper lobe"),
    "rml": ("right", "mid", "right middle lobe"),
    "rll": ("right", "lower", "right lower lobe"),
    "lul": ("left", "upper", "left upper lobe"),
    "lll": ("left", "lower", "left lower lobe"),
    "lingula": ("left", "mid", "lingula"),
}
"""Abbreviation to side, zone and name. The left lung has no middle lobe; its lingula lies in the mid zone."""
SEVERITIES = ("minimal", "small", "moderate", "large")
CHANGES = ("new", "improved", "unchanged", "worse", "resolved")


def level_of(zone: str) -> str:
    """The third of the lung that a zone belongs to: `upper`, `mid` or `lower`."""
    return {"apical": "upper", "basal": "lower"}.get(zone, zone)


class Both(Enum):
    """Whether words speak of both sides where no side stands beside them."""

    NOT = auto()
    IMPLIED = auto()
    """Unless there is a side in the same list: "right upper and lower *lobes*"."""
    SAID = auto()
    """"Bibasilar", "at the bases"."""


@dataclass(frozen=True)
class Kind:
    """Words of one kind.

    Attributes:
        kind: `side`, `zone`, `lobe`, `severity`, `change`; `increased`, a change where the sentence compares; or
            `ignored`: words that only look like one of these.
        value: what they say.
        phrases: the words.
        both: whether they speak of both sides.
    """

    kind: str
    value: str
    phrases: tuple[str, ...]
    both: Both = Both.NOT


_LUNG = r"(?:lobes?|lobar|lungs?|zones?|fields?|ribs?|hemi-?thora\w+|thora(?:x|ces)|thirds?|portions?|aspects?)"
_BETWEEN = r"(?:(?:[-/,]| and| or| to| through)* ?(?:lung|pulmonary|upper|mid|middle|lower|left|right|both))*"
_IN_LUNG = rf"(?= ?-?(?:{_BETWEEN}[- ]*{_LUNG})\b)"
_IN_LUNGS = rf"(?= ?-?(?:{_BETWEEN}[- ]*(?:lobes|lungs|zones|fields))\b)"
_CHANGING = (
    r"(?:increas\w*|decreas\w*|improv\w*|worsen\w*|worse|larger|smaller|bigger|progress\w*|chang\w*|enlargement|growth"
    r"|reduction|better|less|more|resol\w+|clear\w*|diminish\w*)"
)
_NOT_A_CHANGE = rf"(?! (?:interval |in |but |and )?{_CHANGING}(?! (?:left|right|small|pleural|bi)))"
_ONE_LETTER = r"(?<![/.'’&-]){}(?:[- ]?sided)?(?![/.'’&-]\w| ?[<>\d]| spine)"
_SIZED = r"(?:[- ](?:sized?|volume(?! (?:overload|loss))))?"
_AFTER_A_NOT = r"(?:no|not|without|little)(?: (?:[\w-]+ ){0,4}?)"

KINDS: tuple[Kind, ...] = (
    # A side that belongs to the name of something else, and other words that look like details.
    Kind(
        "ignored",
        "",
        (
            r"(?:left|right)[- ](?:atri\w+|ventric\w+|main-?\s?stem\w*|main bronch\w+|coronary|heart(?! border)"
            r"|cardiac(?! border)|brachiocephalic|innominate|pulmonary arter\w+|anterior (?:descending|oblique)"
            r"|posterior oblique|lateral (?:decubitus|view|projection)|(?:side )?down|decubitus|handed|aortic arch)",
            r"(?:mid|upper|lower|proximal|distal)[- ](?:thoracic|lumbar|cervical|abdom\w+|svc|esophag\w+|trachea\w*)",
            r"apical (?:lordotic|view)|(?:cardiac|heart) apex|apex of the heart",
            r"(?:left|right|upper|lower|both)(?: (?!otherwise)[\w-]+){1,2}?(?: (?:is|are|remains?|appears?)(?: \w+)?)?"
            r" (?:clear|normal|unremarkable)(?! (?:of|to)\b)",
            r"(?:base|bases) of (?:the )?neck",
            r"new (?:york|comparison|line of)",
            r"small (?:bowel|bore|caliber)|large (?:bowel|bore|caliber|body|patient)",
            r"(?:not|no)(?: [\w-]+){0,2}? enlarged",
            r"(?:mild|slight|moderate|minimal|small|marked|significant|large|severe)(?:ly)?"
            rf"(?=(?: (?:interval|further|continued|overall))? {_CHANGING}"
            r"(?: (?:in|of|from|since|compared|when|on|at|or)\b|[^\w]*$|[,;.]))",
            r"(?:smaller|larger|bigger|worse|(?:more|less) \w+)(?= (?:than|on|at|in) (?:the )?(?:left|right|bas\w+"
            r"|up\w+|low\w+))",
            r"(?:more|less) (?:likely|suggestive|typical|consistent|compatible|probable|favored)",
            r"(?:low|decreased|reduced|diminished|small|improved) (?:lung |inspiratory )?(?:volumes?|inspiration"
            r"|effort|aeration)",
        ),
    ),
    # Of what is seen at all times, unless there is a comparison.
    Kind(
        "increased",
        "worse",
        (
            r"increased?(?= (?:[\w-]+ )?(?:interstitial|opaci\w+|densit\w+|markings?|bronchovascular|vascular\w*"
            r"|lucen\w+|ap|retrosternal|airspace|reticular|perihilar|peribronchial|attenuation)\b)",
        ),
    ),
    # How it has changed; before severities and sides, whose words some of these hold.
    Kind(
        "change",
        "unchanged",
        (
            rf"{_AFTER_A_NOT}(?:(?:interval|significant|relevant|real|definite|apparent|appreciable|short-term"
            r"|substantial|further|acute) )*(?:changed?(?! (?:in|of) (?:the )?position)|difference|progression"
            r"|increase[d]?|decrease[d]?|improvement|improved|worsening|worsened|enlargement)",
            r"unchanged|stable|stably|persist\w*|static|similar(?:ly)?(?! to (?:that|those))|as before|identical"
            r"|again|re-?demonstrat\w+|unaltered|chronically stable|grossly stable|same (?:size|appearance|extent)",
        ),
    ),
    Kind(
        "change",
        "improved",
        (
            r"(?:nearly|almost|near|virtually|partial(?:ly)?|partly|most(?:ly)?|largely|incomplete(?:ly)?"
            r"|predominantly|substantial(?:ly)?|essentially)(?:[ -](?:\w+ly|complete|interval)){0,2}[ -]"
            r"(?:re-?solved|cleared|gone|clearing|resolution|re-?absorbed|resorbed|re-?expan\w+)",
            r"improv\w*|decreas\w*|diminish\w*|smaller|resolving|shrunk\w*|shrink\w*|regress\w*|lessen\w*"
            r"|reduced(?! (?:lung|inspir\w+))|reduction|better aerated|less (?:prominent|conspicuous|dense|extensive"
            r"|pronounced|apparent|severe|marked|than)|clearing",
        ),
    ),
    Kind("change", "resolved", (r"re-?solved|resolution|no longer|cleared|gone|disappeared|vanished",)),
    Kind(
        "change",
        "worse",
        (
            r"worse\w*|increas\w*|larger|bigger|progress(?:ed|ing|ion|ive(?:ly)?)|enlarging|grow(?:n|ing|th)|grew"
            r"|reaccumulat\w+|re-?accumulat\w+|deteriorat\w+|more (?:prominent|conspicuous|dense|extensive|pronounced"
            r"|apparent|severe|marked|confluent)|interval enlargement|enlarged(?= (?:since|from|compared"
            r"|in the interval))|exacerbat\w+|expanding",
        ),
    ),
    Kind(
        "change",
        "new",
        (
            r"new|newly|interval (?:development|appearance)(?: of)?|(?:has|have|had) (?:\w+ )?(?:developed|appeared"
            r"|occurred)|not (?:previously|formerly) (?:seen|present|identified|visuali[sz]ed|noted|evident)"
            r"|previously not (?:seen|present)|not (?:seen|present|evident|identified|visuali[sz]ed|noted) (?:on|in"
            r"|previously|before|yesterday|at) ?(?:the )?(?:prior|previous|earlier|comparison)?",
        ),
    ),
    # How large.
    Kind(
        "severity",
        "minimal",
        (
            r"minimal|trace|tiny|minute|minuscule|faint|subtle|borderline|very (?:small|mild)",
            rf"(?:minimal|faint|subt|very mild)ly{_NOT_A_CHANGE}",
        ),
    ),
    Kind(
        "severity",
        "small",
        (
            rf"(?:small|mild|slight){_SIZED}",
            rf"(?:mild|slight)ly{_NOT_A_CHANGE}",
            r"early(?= (?:[\w-]+ ){0,4}(?:pneumonia|consolidation|edema|infiltrate))",
            r"a few|few",
        ),
    ),
    Kind(
        "severity",
        "moderate",
        (
            rf"(?:moderate|medium){_SIZED}",
            rf"moderately{_NOT_A_CHANGE}",
            r"several(?= (?:[\w-]+ ){0,3}(?:plaques|nodules|masses))",
        ),
    ),
    Kind(
        "severity",
        "large",
        (
            rf"(?:large|huge|gross|profound|tension|severe|marked|massive|extensive){_SIZED}",
            rf"(?:severe|marked|massive|extensive|profound)ly{_NOT_A_CHANGE}",
            r"dense(?= (?:[\w-]+ ){0,4}consolidation)|prominent(?= (?:[\w-]+ ){0,4}opacit\w+)",
            r"(?:numerous|innumerable)(?= (?:[\w-]+ ){0,4}(?:plaques|nodules|masses|opacities|metast\w+))",
        ),
    ),
    # Where.
    *(Kind("lobe", name, (name,)) for name in LOBES if name != "lingula"),
    Kind("lobe", "lingula", (r"lingul(?:a|ae|ar)",)),
    Kind("lobe", "rml", (r"(?<!left )(?<!right )(?<!upper and )middle (?:lobe|lobar)",)),
    Kind("zone", "apical", (r"bi-?ap(?:ical|ically)|apices",), Both.SAID),
    Kind("zone", "apical", (r"ap(?:ex|ical(?:ly)?|icolateral|ico-?lateral)",)),
    Kind(
        "zone",
        "basal",
        (r"bi-?bas(?:al|ilar|ally)|bases|(?:costo-?phrenic|cp) (?:angles|sulci|recesses)",),
        Both.SAID,
    ),
    Kind("zone", "basal", (r"bas(?:e|al|ilar|ally)|(?:costo-?phrenic|cp) (?:angle|sulcus|recess)|infra-?basilar",)),
    Kind("zone", "upper", (rf"upper{_IN_LUNGS}",), Both.IMPLIED),
    Kind("zone", "upper", (rf"upper{_IN_LUNG}",)),
    Kind("zone", "mid", (rf"(?:mid|middle){_IN_LUNGS}|mid-?lungs",), Both.IMPLIED),
    Kind("zone", "mid", (rf"(?:mid|middle){_IN_LUNG}|mid-?(?:lung|zone)",)),
    Kind("zone", "lower", (rf"lower{_IN_LUNGS}",), Both.IMPLIED),
    Kind("zone", "lower", (rf"lower{_IN_LUNG}",)),
    Kind("side", "both", (r"bilateral(?:ly)?|both|bi-?hilar|b/l|bilat|b(?= (?:ll|ul|effusion|pleural)\w*\b)",)),
    Kind("side", "both", (r"(?:l|left) ?[<>]=? ?(?:r|right)|(?:r|right) ?[<>]=? ?(?:l|left)",)),
    Kind("side", "left", (rf"(?:left|lt)(?:[- ]?sided)?|{_ONE_LETTER.format('l')}",)),
    Kind("side", "right", (rf"(?:right|rt)(?:[- ]?sided)?|{_ONE_LETTER.format('r')}",)),
)
"""At one place the first phrase that matches wins."""

SEPARATORS: tuple[tuple[str, str], ...] = (
    (
        "link",
        r"\b(?:,? ?(?:(?:which|that|and|this|these) )?(?:(?:may|might|could|would|can) (?:also )?(?:represent|reflect"
        r"|be|indicate|suggest)(?: due to)?|(?:is|are|was|were) (?:most |very |more |likely |probably )*(?:consistent"
        r"|compatible|in keeping|suggestive|concerning|suspicious|worrisome|due|related|secondary|indicative)"
        r"(?: with| of| for| to)?|(?:most |more )?(?:consistent|compatible|in keeping|concordant) with|representing"
        r"|represents?|reflect(?:s|ing)?|suggest(?:s|ing|ive of)?|concerning for|suspicious for|worrisome for"
        r"|indicat(?:es?|ing|ive of)|(?:likely|probably|possibly|presumably)(?: (?:to be|representing|reflecting|due to"
        r"|related to|secondary to))|due to|related to|secondary to|favou?r(?:ed|ing|s)?(?: to (?:be|represent))?))\b",
    ),
    ("link", r"\b(?:consistent|compatible)(?= (?!with\b)\w)"),
    ("link", r", (?:most |more )?(?:likely|probably|possibly|presumably|probable|possible|compatible|consistent)\b"),
    ("hard", r"[;—]|–(?!\d)|--+|(?<= )-(?= )"),
    ("hard", r"\b(?:but|however|although|though|yet|while|whereas|otherwise)\b"),
    ("hard", r"\bthere (?=(?:is|are|has|have|may|might|remains?|persists?|continues|again|also|now)\b)"),
    ("with", r",? ?\b(?:with(?! respect)|without|w/|along with|in addition to|as well as|superimposed on)\b"),
    ("and", r",? ?\b(?:and/or|and|or|nor|plus|versus|vs\.?)(?= )|&|/"),
    ("comma", r"[,()\[\]:]"),
)
"""What ends an item of a sentence. What stands behind a `link` explains what stands before it, and lies there too."""

SIDELESS = frozenset({"Cardiomegaly", "Enlarged Cardiomediastinum", "No Finding"})
"""Observations of what is in the middle of the chest."""
ZONELESS = SIDELESS | {"Support Devices"}
SHARES_PLACES = frozenset(
    {
        "Atelectasis",
        "Consolidation",
        "Pneumonia",
        "Lung Opacity",
        "Lung Lesion",
        "Pleural Effusion",
        "Pleural Other",
        "Pneumothorax",
    }
)
"""Observations that share a place with what they are joined to: "left basilar atelectasis and effusion"."""
