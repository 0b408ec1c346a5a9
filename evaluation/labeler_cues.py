"""The words that decide what a sentence says of the findings it names, as data for `labeler_scopes.py`.

A cue changes the value of mentions in front of it or behind it; a mark tells where one statement ends and the next
begins. Every phrase is a regular expression, matched as whole words against lower-case text. At one place the first
phrase that matches wins, in the order of `CUES` and then of `MARKS`: longer phrases stand before their parts.
"""

from dataclasses import dataclass
from enum import Enum, auto

from ..data.schema import ABSENT, NOT_MENTIONED, PRESENT, UNCERTAIN


class Reach(Enum):
    """Which mentions a cue speaks of."""

    AHEAD = auto()
    """Those that follow: "no effusion"."""
    BACK = auto()
    """Those before it: "effusion has resolved"."""
    EITHER = auto()
    """What follows directly, else those before it: "resolved effusion", "effusion, resolved"."""
    BACK_ALIKE = auto()
    """The nearest before it and others of the same observation: "pneumothorax after removal of the chest tube"."""
    BACK_AGAIN = auto()
    """What the cue before it speaks of: "edema has cleared on the right but persists on the left"."""
    NONE = auto()
    """Nothing. The phrase only looks like a cue: "not only"."""


@dataclass(frozen=True)
class Cue:
    """Phrases that give the mentions within their reach a value."""

    reach: Reach
    value: int | None
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class Mark:
    """Phrases that structure a sentence; `labeler_scopes.py` says what each kind does."""

    kind: str
    phrases: tuple[str, ...]


_SEEN = (
    r"(?:(?:re-?(?!present))?(?:seen|identified|present|appreciated|visuali[sz]ed|noted|demonstrated|evident|detected"
    r"|apparent"
    r"|observed|visible|found|shown|imaged|discerned|recogni[sz]ed|perceived|perceptible|discernible|detectable"
    r"|in place"
    r"|confirmed|delineated|displayed|depicted|conspicuous|encountered))"
)
_SEEN_OR_SUSPECTED = rf"(?:{_SEEN}|suspected|there)"
_IS = r"(?:is|are|was|were|has|have|had|be|been|being|appears?|remains?)"
_SLIGHTLY = (
    r"(?: (?:\w+ly|also|now|since|again|yet|been|be|all|both|in the interim|in the interval|felt|thought|to"
    r"|any|longer|quite|otherwise)){0,4}"
)
_CANNOT = (
    r"(?:can ?not|can't|can’t|could not|couldn't|may not|would not|does not|doesn't|do not|don't|did not|not"
    r"|unable to|inability to|impossible to"
    r"|difficult to|hard to|challenging to|tough to|insufficient to|inadequate to|impossible|difficult|hard"
    r"|cannot be|never)"
)
_EXCLUDE = r"(?:exclu(?:de[sd]?|ding|sion)|rul(?:e[sd]?|ing) out|r/o|rule-?out|eliminated?|refuted?|discount(?:ed)?)"
_EARLIER = (
    r"(?:previous(?:ly)?|prior|before(?:hand)?|earlier|yesterday|then|formerly|initially|originally|last (?:\w+)"
    r"|on the day before|at that time|in (?:19|20)\d\d|(?:\w+ ){1,3}ago"
    r"|(?:on|in|at) (?:the |any |his |her |a |that )?(?:\w+ )?(?:prior|previous|old|older|earlier|remote|comparison"
    r"|preceding|last|outside|yesterday'?s?|lateral"
    r"|frontal|pa|ap|other|first|initial|baseline|examination from|exam from|study from|film from|exam of|study of"
    r"|film of|radiographs? (?:of|from)|ct))"
)
_PARTLY = (
    r"(?:nearly|almost|near|virtually|partial(?:ly)?|partly|most(?:ly)?|largely|incomplete(?:ly)?|predominantly"
    r"|substantial(?:ly)?|"
    r"slow(?:ly)?|gradual(?:ly)?|some(?:what)?|slight(?:ly)?|mild(?:ly)?|minimal(?:ly)?|moderate(?:ly)?"
    r"|significant(?:ly)?|marked(?:ly)?|continu\w+|ongoing|further|progressive(?:ly)?"
    r"|steady|steadily|early|beginning|only|all but|not yet|subtotal(?:ly)?|much of|considerabl[ey]|limited|delayed"
    r"|subtle|a little|in part|mostly|persistent)"
)
_GONE = r"(?:re-?solved|cleared|gone|disappeared|vanished|re-?absorbed|resorbed|absent|evacuated|drained)"
_GOING = r"(?:resolution|clearing|clearance|disappearance|resorption|re-?absorption|evacuation)"
_TAKEN_OUT = (
    r"(?:removed|withdrawn(?! (?:back|by|slightly|about|approximately|to|into|from|approx\S*|~?\d|a |some|several))"
    r"|pulled(?! (?:back|by|slightly|about|approximately|to|into|up|approx\S*|~?\d|a |some|several))(?: out)?"
    r"|taken out|explanted|discontinued|d/?c'?e?d"
    r"|retrieved|extracted)"
)
_MOVED = (
    r"(?:advanced|repositioned|withdrawn|retracted|pulled|removed|replaced|exchanged|readjusted|adjusted|manipulated)"
)
_MOVING = (
    r"(?:advanc\w+|reposition\w+|withdraw\w+|retract\w+|pulling(?: back)?|remov\w+|replac\w+|exchang\w+|adjust\w+)"
)
_UNCLEAR = r"(?:unclear|uncertain|unknown|not clear|not certain|difficult to say|hard to say)"
_SHADOW = (
    r"(?:(?:summation|superimposition|overlap|composite)(?: (?:of (?:\w+ )?)?(?:shadows?|structures|art[ei]facts?"
    r"|tissues?"
    r"|vessels))?|(?:superimposed|overlapping) (?:\w+ )?(?:shadows?|structures|tissues?|vessels)"
    r"|(?:\w+ )?art[ei]facts?|nipple(?: shadows?)?"
    r"|(?:skin|cutaneous) ?folds?)"
)
_OF_SIGNS = (
    r"(?:evidence|signs?|suggestions?|indications?|findings?|suspicion|trace|hint|features?|appearances?|areas?"
    r"|foc(?:us|i)|regions?"
    r"|recurrence|re-?accumulation|development|visuali[sz]ation|residuals?|remnants?|presence|stigmata"
    r"|manifestations?|proof|concern|re-?demonstration"
    r"|(?:degree|component|element|amount)(?! of the)|demonstration|re-?expansion)"
)

_CHANGE = (
    r"(?:change|increase|decrease|improvement|worsening|difference|progression|enlargement|growth|reduction"
    r"|alteration|deterioration"
    r"|regression|decline|migration|expansion|variation|evolution|fluctuation|redistribution|shift|rise|extension"
    r"|stability)"
)

CUES: tuple[Cue, ...] = (
    # Phrases that only look like a cue.
    Cue(
        Reach.NONE,
        None,
        (
            r"(?:there (?:is|can be) )?(?:no|without(?: an?| any)?|beyond(?: any| a)?) doubts?(?! (?:about|of|as))",
            r"not (?:\w+ly )?(?:changed|increased|decreased|improved|worsened|only|progressed|enlarged (?:since"
            r"|compared|from))",
            rf"not (?:as )?(?:well|optimally|fully|completely|entirely|adequately|ideally|sufficiently)[ -]"
            rf"(?:{_SEEN}|evaluated|assessed|defined|included|characteri[sz]ed|{_GONE})",
            # what is new: it was not there before
            rf"not{_SLIGHTLY} {_EARLIER}(?: \w+ly)? {_SEEN_OR_SUSPECTED}",
            rf"(?:previous|former)ly not{_SLIGHTLY} {_SEEN_OR_SUSPECTED}",
            rf"not{_SLIGHTLY} {_SEEN_OR_SUSPECTED}(?: \w+ly)? {_EARLIER}",
            rf"absent {_EARLIER}",
            # a doubt about something else than whether it is there
            r"(?:doubtful|questionable|uncertain|unclear|possible|indeterminate|equivocal) (?:clinical )?"
            r"(?:significance|importance|relevance|a?etiology|age|chronicity|acuity|nature|origin|cause)",
            r"(?:query|\?|possibly|questionably|age) (?:acute|old|chronic|subacute|healed|healing|indeterminate)"
            r"(?=\W*$)",
            # what can't be seen of a thing that is there
            rf"tips? (?:[\w¤-]+ ){{0,6}}?not{_SLIGHTLY} {_SEEN}",
            rf"tips? (?:[\w¤-]+ ){{0,6}}?(?:excluded|no longer {_SEEN})",
            # what is not gone
            rf"(?:not|never|yet to|fail(?:s|ed|ing|ure)?(?: to)?|without|no)(?: [\w-]+){{0,2}}? "
            rf"(?:{_GONE}|{_GOING}|resolve|clear)(?! of)",
            rf"{_PARTLY}(?:[ -](?:\w+ly|complete|interval|but not completely)){{0,2}}[ -]{_GONE}",
            rf"{_PARTLY}(?:[ -]\w+){{0,2}}? {_GOING}(?! of)",
            rf"(?:{_GONE}|{_GOING})(?:,)? (?:only )?(?:in part|partially|partly|incompletely)",
            rf"(?:that|which) (?:was|were|had been)(?: \w+ly)? {_SEEN}",
            r"yet to (?:be )?\w+",
            r"(?:absence|lack|loss|paucity) of (?:(?!¤)[\w-]+ ){1,4}(?=(?:suggest|may|might|could|raises"
            r"|is (?:suspicious|concerning)))",
            # of one side only: "left but not right effusion"
            r"but not (?:the )?(?:left|right)(?=,? ¤)",
            r"but not (?:diagnostic|specific|pathognomonic|definitive|conclusive|typical)(?: (?:of|for))?",
            r"(?:on|at) (?:the )?(?:left|right)(?: side)?,? (?:there (?:is|are) )?none",
            r"(?:is|are|continues? to be|still|now|slowly|gradually|rapidly) clearing(?! of)",
            r"(?<!with )(?<!complete )(?<!interval )clearing(?= (?:(?!of|in|at|on|from|since|with)\w+ ){0,3}¤)",
        ),
    ),
    # What has changed, has not gone, or stands in the way, is there.
    Cue(
        Reach.AHEAD,
        PRESENT,
        (
            rf"{_CHANGE}(?:s(?= (?:in|of) (?:the|this|these|his|her)\b))?"
            r" (?:of|in(?! keeping)|to|within|from|since|involving|regarding|for|with respect to|with regard to"
            r"|as regards|affecting|compared(?: to| with)?)",
            r"(?:interval change|significant change|change),? ",
            rf"(?:consider|recommend\w*|suggest\w*|advis\w+|pending|await\w*)(?: [\w-]+){{0,2}}? {_MOVING}(?: of)?"
            rf"|(?:should|could|can|may|must) be {_MOVED}|(?:prior to|before|until) (?:\w+ )?{_MOVING}(?: of)?",
            r"(?:evaluat\w+|assess\w*|characteri[sz]\w+|clarif\w+|follow(?:-| )?up)(?: of)? (?:the|this|these|those)"
            r"(?= (?:(?!for|of|in|at|on|to)[\w-]+ ){0,3}?¤)",
            rf"(?:{_UNCLEAR} )?(?:whether|if) (?:the|this|these)(?= (?:(?!represent|reflect|is|are|may"
            rf"|could)[\w-]+ ){{0,3}}?¤+ "
            r"(?:is|are|has|have|was|were))",
            r"(?:no|without|not any|little) (?:\w+ )?(?:evidence|indication|suggestion|signs?|proof) that (?:the|this"
            r"|these"
            r"|those)",
            r"(?:decreas|increas|improv|worsen|progress|enlarg)(?:e|ing) (?:of|in)",
            rf"{_GOING} of(?=[^.,;]{{1,80}} (?:is|remains) (?:incomplete|partial|not (?:yet )?complete))",
            rf"{_PARTLY}(?:[ -]\w+){{0,2}}?[ -](?:{_GOING}|resolving|improvement) of",
            r"(?:ensure|document|confirm|assess|assure|demonstrate|verify|monitor|evaluate|establish|show|see"
            rf"|until|for|to)(?: for)?(?: [\w-]+){{0,2}}? {_GOING} of",
            rf"(?:no|not|without|lack of|failure of|non-?)(?: [\w-]+){{0,3}}? {_GOING} of",
        ),
    ),
    Cue(
        Reach.BACK,
        NOT_MENTIONED,
        (
            rf"(?:may|might|could|would) not{_SLIGHTLY} {_SEEN}",
            r"(?<=¤ )(?:can ?not|can't|could not) be (?:assessed|evaluated|judged)",
        ),
    ),
    # What has gone from one place only.
    Cue(
        Reach.BACK_AGAIN,
        PRESENT,
        (
            r"(?:(?<=, )|(?<=and )|(?<=but )|(?<=yet )|(?<=though ))(?:it |they |still |has |have |is |are |now |only "
            r"|slightly |otherwise )*(?:persist\w*|remain\w*|residual|decreased|improved|diminished|increased|worse\w*"
            r"|unchanged|stable|present|seen|smaller|larger|small|large|trace|tiny|minimal|mild|moderate)"
            r" (?:in|at|on|within) (?:the |both |its )*(?:left|right|bases?|ap(?:ex|ices)|(?:upper|lower|mid|middle)"
            r" (?:lobes?|zones?|lungs?)|lung bases?|lingula|rll|lll|rul|lul|rml)",
            r"except(?: for)? (?:in|at|on|within) (?:the |both |its )*(?:left|right|bases?|ap(?:ex|ices)|(?:upper"
            r"|lower|mid|middle)"
            r" (?:lobes?|zones?|lungs?)|lung bases?|lingula|rll|lll|rul|lul|rml)",
            r"(?:that|those|the (?:one|portion|component)) (?:in|at|on|within) (?:the )?(?:left|right|other|opposite"
            r"|(?:lower|upper|left|right) (?:lobes?|bas(?:e|es)))(?: side| lung)? (?:has |have |is |are |now |still )*"
            r"(?:persist\w*|remain\w*|decreased|improved|diminished|increased|worse\w*|unchanged|stable|smaller"
            r"|larger)",
        ),
    ),
    # What is wrong with a thing is not the thing: "no hardware failure".
    Cue(
        Reach.BACK_ALIKE,
        PRESENT,
        (
            r"(?<=¤ )(?:failure|malfunction|complications?|loosening|kink(?:ing|s)?|malposition(?:ing)?"
            r"|displacement|migration|dislodge?ment|discontinuity|breakage|coiling|retraction)",
        ),
    ),
    # What can't be excluded, and other hedges.
    Cue(
        Reach.BACK,
        UNCERTAIN,
        (
            rf"{_CANNOT}(?: \w+){{0,4}}? (?:excluded|ruled out|eliminated|refuted|discounted)",
            rf"(?:still |also |therefore |thus )?possible to (?:\w+ )?{_EXCLUDE}(?=[^\w¤]*$)",
            rf"{_IS}{_SLIGHTLY} (?:also )?(?:an? )?(?:\w+ )?(?:possibility|consideration|concern|question"
            r"|of concern|raised)(?! (?:for|of|that|whether|about)\b)",
            # what may be nothing but a shadow
            rf"(?:(?:may|might|could|likely|probably|possibly|presumably|suspected|questionable|represent\w*|reflect\w*"
            rf"|(?:favou?red|thought|felt) to)(?: (?:have|been|be|an?|the|of|to|due|secondary|related|represent\w*"
            rf"|reflect\w*|simply|merely|just|only|projectional|external|overlying))* |(?<=, )(?:\w+ )?){_SHADOW}",
            r"less (?:favou?red|plausible|convincing|probable)(?: than)?|not (?:favou?red|probable)|in (?:question"
            r"|doubt)",
            r"(?:can ?not|can't|could not)(?: \w+ly)? be (?:confirmed|established|ascertained|assured|verified"
            r"|determined)",
            r"(?:would|should|could|may|might|can|must)(?: also)? be (?:considered|possible|suspected|entertained"
            r"|questioned|raised|present|there|seen|included|unlikely|in the differential|missed|overlooked|hidden"
            r"|masked"
            r"|an? (?:\w+ )?(?:consideration|possibility|concern))",
            r"in the differential",
            r"(?:could|may|might|can) (?:all |also )?(?:have|give|produce|cause|look) (?:this|such|a similar|the same"
            r"|like this)"
            r"(?: \w+)? (?:appearance|picture|pattern|findings?)",
            r"(?:felt|thought|believed|judged|deemed|considered)(?: to be)? (?:\w+ )?(?:unlikely|less likely"
            r"|doubtful|possible|improbable|not likely)",
            r"less likely than",
            rf"{_EXCLUDE}(?: of (?:it|this))? (?:is |was )?(?:not possible|impossible|difficult|limited|hard"
            r"|not reliable)",
        ),
    ),
    Cue(
        Reach.EITHER,
        UNCERTAIN,
        (
            rf"{_CANNOT}(?: \w+){{0,4}}? {_EXCLUDE}(?: of| the possibility of| for)?",
            r"if (?:any|present),? there (?:is|are)",
            r"if (?:any|present|real|there at all|at all(?: present)?)\b,?",
            rf"(?:without|insufficiently)(?: \w+){{0,2}}? {_EXCLUDE}",
            r"(?:limits?|limited|limiting|preclud\w+|hamper\w*|prevent\w*|no)(?: \w+){0,3}? (?:exclusion|exclude"
            r"|excluding|ruling out) of?",
            r"unlikely(?: to (?:be|represent|reflect|indicate))?|less likely(?: to (?:be|represent|reflect))?"
            r"|not likely(?: to (?:be|represent|reflect))?|improbable|doubt(?:ful)?(?: for)?|low (?:suspicion"
            r"|likelihood|probability)(?: for| of)?",
            r"suspect(?:ed|s)?|consider(?:ation|ations)?(?: (?:of|for|include))?|quer(?:y|ied)|question(?:able|ably"
            r"|ed|ing)?(?: of)?|equivocal|possible|conceivable|uncertain|debatable|unconfirmed",
            r"(?:is|are|remains?) (?:uncertain|indeterminate|speculative)",
            r"(?:hardly|scarcely|barely) (?:any|an?)|at most(?: an?)?|(?:little|minimal|trace|none)(?: if any)? (?:or"
            r"|to) no"
            r"|no(?:ne)? (?:or|to) (?:only )?(?:minimal|little|trace)",
            r"(?:in|under) (?:the |an? )?(?:appropriate|correct|proper|right) clinical (?:setting|context|scenario"
            r"|circumstances?)",
        ),
    ),
    Cue(
        Reach.AHEAD,
        UNCERTAIN,
        (
            r"absence of(?=[^.;]{1,60} cannot be)",
            r"whether(?: or not)?(?: there (?:is|are))?(?=[^.;]{1,80} (?:is|remains) (?:uncertain|unclear|unknown))",
            rf"{_UNCLEAR} (?:whether|if)(?: (?:this|these|it|they|there))?(?: (?:represents?|reflects?|is|are))?",
            r"exclusion of(?=[^.]{1,50}(?:possible|difficult|hard|limited))|possibly|possibilit(?:y|ies)(?: of"
            r"| for)?|may|might|could|versus|vs|either|(?<!most )suggest\w*|perhaps|maybe",
            rf"{_CANNOT}(?: \w+){{0,2}}? (?:certain|sure|said|stated|confident)(?: that)? there (?:is|are) no",
            r"atypical for|(?:worry|worried)(?: \w+)? (?:about|for)",
            r"any (?:[\w-]+ ){0,2}?(?=¤+ (?:is|are|would|must) )",
            r"(?:concern(?:ing|ed)?|suspicion|suspicious|worrisome)(?: is)? (?:for|of|about)|potential(?:ly)?"
            r"|conceivabl[ey]",
            r"differentials?(?: \w+){0,2}? (?:includ\w+|considerations?|is|of|would|diagnos[ie]s)|differential"
            r"|indistinguishable from|(?:distinguish\w*|differentiat\w+) (?:this |it )?from|difficult to tell",
        ),
    ),
    # Wishes, tasks and what was once: nothing is said of today's image.
    Cue(
        Reach.AHEAD,
        NOT_MENTIONED,
        (
            r"rule out|r/o|(?:re-?)?evaluat(?:e|ion|ing) (?:for|of)|(?:re-?)?assess(?:ment|ing)?(?: for| of)?"
            r"|(?:to )?exclud(?:e|ing)|(?:to )?(?:look for|search for)"
            r"|to (?:evaluate|identify|detect|characteri[sz]e|confirm|document|clarify|determine|distinguish)"
            r"|histor(?:y|ies)(?: of)?|h/o|hx(?: of)?|recommend\w*|advis\w+|correlat\w+(?: \w+)? for"
            r"|correlat\w+(?: \w+)? with (?:\w+ )?(?:signs?|symptoms?|history|evidence|suspicion|concern)(?: (?:of"
            r"|for))?"
            r"|should there be(?: [\w-]+){0,2}?(?: (?:concern|suspicion))? (?:for|of)|treat(?:ment|ed) (?:for|of)"
            r"|(?:prior|previous) (?:exam\w*|stud(?:y|ies)|films?|radiographs?|images?|ct)(?: [\w/]+){0,3}?"
            r" (?:showing|demonstrating|revealing|(?:that|which) showed)"
            r"|(?:year|yr)s?[- ]old(?: [\w-]+){0,2}? (?:with|presenting with|who has)"
            r"|(?:clinical|clinically) (?:concern(?:ed)?|suspicion|suspected|history|suspicious)(?: for| of)?|(?:if"
            r"|in case|whether)(?: there (?:is|are|were))?|screening for|monitor(?:ing)? for|surveillance (?:for"
            r"|of)",
            r"(?:site|location|region|area) of (?:the )?(?:prior|previous|former|old|remote) ",
        ),
    ),
    # Negations.
    Cue(
        Reach.BACK,
        ABSENT,
        (
            rf"(?:not|no longer|never){_SLIGHTLY} {_SEEN_OR_SUSPECTED}",
            rf"not{_SLIGHTLY} (?:recurred|recurring|re-?accumulated|returned|developed|re-?appeared|occurred)",
            r"subsided|abated|(?:is|are) negative|within (?:the )?(?:normal )?limits(?: of normal)?"
            rf"|none(?: {_SEEN})?|(?:no|nil|neg|negative|no evidence)(?=[^\w¤]*$)|cannot be {_SEEN}|(?:fail(?:s"
            rf"|ed)? to be|not) {_SEEN}",
            rf"(?:with )?(?:complete |interval |now |total )*{_GOING}(?! of)",
        ),
    ),
    Cue(
        Reach.BACK_ALIKE,
        ABSENT,
        (
            rf"{_TAKEN_OUT}|(?:removal|explantation|withdrawal|extraction)(?! of)|extubat(?:ion|ed)",
            r"(?:(?:is|are) (?:now )?|(?<=¤ ))out(?=[^\w¤]*$|[,;] )",
        ),
    ),
    Cue(
        Reach.EITHER,
        ABSENT,
        (
            rf"(?:now |completely |fully |interval |totally |entirely )*{_GONE}",
            r"ruled out",
            r"excluded(?! from)",
        ),
    ),
    Cue(
        Reach.AHEAD,
        ABSENT,
        (
            rf"(?:no|without|w/o|lack of|absence of|devoid of)(?: (?!{_CHANGE}|in\b"
            rf"|of\b)[\w-]+){{0,3}}? {_OF_SIGNS}(?: (?:of|for|to suggest|to indicate))",
            r"no longer|no|without|w/o|negative (?:for|of)|neg for|free (?:of|from)|clear of|absence of|lack of"
            r"|neither|nor|denies|not|never|nothing|none of|devoid of|non-?specific for|isn't|aren't|wasn't|doesn't"
            r"|don't|didn't|hasn't",
            r"rather than|as opposed to|instead of|in place of (?:an? |the )?(?:true|real)|simulat\w+|mimic\w*"
            r"|masquerad\w+|mistaken for|(?:inconsistent|incompatible|not in keeping) with|argues? against"
            r"|arguing against|speaks? against|evidence against"
            r"|not to be confused with",
            r"fail(?:s|ed|ing)? to (?:\w+ )?(?:demonstrate|show|reveal|identify|visuali[sz]e|disclose|confirm"
            r"|detect|depict|display|exhibit|delineate|suggest|find|see)",
            rf"(?:complete |interval |total |full )*{_GOING} of|excludes|rules out|(?:removal|withdrawal"
            r"|explantation|extraction|discontinuation) of",
        ),
    ),
)

_PLACE = (
    r"(?:in|within|at|on|along|about|near|around|over|overlying"
    r"|underlying(?= (?:the|this|that|these|an?|his|her)\b)|underneath|under|beneath|behind"
    r"|above|below|beyond|inside|outside|through|throughout|between|against|by|from|surrounding|adjacent to|next to"
    r"|lateral to|medial to|inferior to|superior to|anterior to|posterior to|distal to|proximal to|abutting"
    r"|projecting (?:over|within)|along with|alongside|together with|associated with|in association with|involving"
    r"|as (?:a )?(?:result|sequela|complication) of|following|after|subsequent to|status[- ]post|s/p|post)"
)

MARKS: tuple[Mark, ...] = (
    Mark(
        "hard",
        (
            r"but|however|although|makes|making|renders?|rendering|though|yet|while|whereas|except(?:ing)?(?: for)?"
            r"|aside from|apart from"
            r"|other than|besides|otherwise|nevertheless|nonetheless",
            r"there(?= (?:is|are|has|have|may|might|remains?|persists?|continues|again|also|now)\b|'s)|in (?:a|this"
            r"|the) patient",
        ),
    ),
    Mark(
        "linked",
        (
            r"(?:consistent|compatible|in keeping|correlat\w+|corresponding|in line|concordant|in agreement"
            r"|commensurate) with|represent\w*|reflect\w*|indicat\w+|correspond\w* to|such as|including|like",
        ),
    ),
    Mark(
        "preferred",
        (r"favou?r(?:s|ed|ing)?|more (?:likely|suggestive|consistent|typical|compatible)(?: with| of)?|prefer\w*",),
    ),
    Mark("over", (r"over|than",)),
    Mark(
        "thing",
        (
            r"infecti(?:on|ons|ous)|malignan(?:cy|cies|t)|cancer|aspiration|ha?emorrhage|lymphoma|tuberculosis|tb"
            r"|embol\w+"
            r"|infarct\w*|dissection|contusions?|abscess\w*|ards|inflammation|benign|acute|significant",
        ),
    ),
    Mark(
        "asserting",
        (r"in (?:(?:good|unchanged|satisfactory|standard|appropriate|expected|stable) )?(?:position|place|situ)",),
    ),
    Mark("preposition", (_PLACE, r"(?:of|to|involving) (?:the|this|these|that|his|her|known)")),
    Mark(
        "given",
        (
            r"(?:limited|obscured|degraded|hampered|complicated|hindered|compromised|precluded|confounded|impaired"
            r"|restricted|explained|caused|silhouetted|accompanied|masked|hidden"
            r"|surrounded|replaced|drained|treated|occupied|impeded|affected|reduced|made difficult) by",
            r"despite|in spite of|notwithstanding|given|considering|owing to|because of|on account of|on (?:a"
            r"|the) background of"
            r"|in the (?:presence|context|setting) of|in addition to|superimposed (?:on|upon)|in light of",
        ),
    ),
    Mark("cause", (r"related to|secondary to|due to|caused by|because|as (?:a )?result of",)),
    Mark("or", (r"and/or|or|nor",)),
    Mark("and", (r"as well as|and also|and|plus",)),
    Mark("with", (r"with(?! (?:respect|regard)\b)|w(?=/(?!o\b))",)),
    Mark(
        "seen",
        (rf"(?:is|are|was|were|has been|have been|can be|could be|to be)(?: (?:\w+ly|otherwise|also))? {_SEEN}",),
    ),
    Mark(
        "trend",
        (
            r"worse\w*|improv\w*|increas\w*|decreas\w*|progress(?:ed|ing|ive(?:ly)?)|enlarging|grow(?:n|ing)|grew"
            r"|shrunk\w*|shrink\w*|resolving|evolving|recurr\w+|larger|smaller|bigger|diminish\w+|reaccumulat\w+",
            r"(?<!than )\d+(?:\.\d+)?(?: ?x ?\d+(?:\.\d+)?)*[ -]?(?:mm|cm)",
        ),
    ),
    Mark(
        "asserting",
        (
            r"(?:un|not )changed|stable|stably|persist\w*|residual|again|re-?demonstrat\w+|continued|continues"
            r"|similar"
            r"|remain\w*|now|as before|(?<!not )(?:only|just|merely)(?! (?:the|on|in|at)\b)"
            r""
            r"|identical|change in|development of",
        ),
    ),
    Mark(
        "verb",
        (
            r"is|are|was|were|has|have|had|measur\w+|extends?|terminat\w+|overl(?:ies|ie|ying)|projects?|lies|ends"
            r"|developed|appears?|occup(?:y|ies)|obscures?|shows?|demonstrates?|limits?"
            r"|causes?|involves?|tracks?|layers?|contributes?|suggests?",
        ),
    ),
    Mark(
        "quantity",
        (
            r"mild(?:ly)?|moderate(?:ly)?|minimal(?:ly)?|small|trace|tiny|slight(?:ly)?|chronic|old|healed|low"
            r"|status|patchy|streaky|linear|calcified|subsegmental|bibasilar|biapical"
            r"|moderate-to-large|large-volume|small-to-moderate|faint|subtle|two|three|four|few|several|multiple"
            r"|scattered"
            r"|plate-?like|interval|likely|probabl[ey]|presumabl[ey]|presumed|known|underlying",
            r"an?|the|heart|cardiac|lungs?|bilateral|left(?:-sided)?|right(?:-sided)?|both|lower|upper|bases|there"
            r"|these|this|its|rll|lll|rul|lul|rml|b/l|bilat|[lr](?= [a-z])|rt|lt",
        ),
    ),
)
"""What the kinds mean: `hard` ends every statement; `or`, `and` and `with` join as a comma does. What stands behind
a `preposition` or a `cause` is taken for granted, and so is what is `given`, whatever was said before it; `linked`
words are no prepositions. A `thing` is what a cue may speak of in place of a finding ("infection cannot be
excluded"). What follows `over` is less likely when something is `preferred`. `seen` is a predicate that a negated
list may have ("no effusion or mass is seen"), `verb` one that it does not have. `asserting` words speak of something
that is there; so does a `trend` behind what it speaks of. In front of it, a `trend` opens a statement as a
`quantity` does: after a comma, "and" or "with", unless "or" closes the list.
"""
