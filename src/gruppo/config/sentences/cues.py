"""Rules of a sentence for names: what nouns, verbs and prepositions say that each is; and for the evaluation."""

from gruppo.config.sentences.names import Role, known_set
from gruppo.config.sentences.reading import Reading

_THE = "(the | an? | my | our | some | these | those | all | its | of | given | following | own | local | hub)*"
_ROWS = "(problems? | questions? | puzzles? | tasks? | examples? | exercises? | rows)"
_DATA = (
    "(training | train)? (data~sets? | data | problem~sets? | question~sets? | puzzle~sets? | task~sets? | "
    "problems? | questions? | puzzles? | tasks? | examples? | exercises? | prompts | rows | samples | file | "
    "corpus | benchmark)"
)
_MODEL = (
    "(base | starting | start | pre-?trained | language | instruct | policy | reasoning)* (models? | checkpoints? "
    "| weights | policy | llm | adapter)"
)
_CALLED = (
    "(called | named | at | in | from | is | = | : | of | file | folder | located | under | stored | be | dataset "
    "| data)*"
)
_THE_MODEL = f"{_THE} ({_MODEL} {_CALLED})?"
_TRAIN = (
    "(grpo-train | grpo-tune | train | training | fine~tune | fine~tuning | post-?train | post-?training | tune | "
    "tuning | improve | improving | teach | optimi[sz]e | retrain)"
)
_ALGORITHM = r"(grpo | dapo | gspo | cispo | rloo | reinforce | dr (\.)? grpo | dr[-.]grpo | deepseekmath)"
_EVALUATE = (
    "(evaluated? | evaluating | evaluation | eval | test | tested | testing | validated? | validating | validation "
    "| measured? | measuring | report | reported | reporting | benchmark | benchmarked | benchmarking)"
)
_WHEN = (
    "(it | the | model | results? | this | afterwards | after | before | and | both | then | finally | training | "
    "during | progress | at | end | accuracy | pass@1 | scores? | performance)*"
)
_LEAD = "(and | then | also | finally | please | afterwards)*"
_HELD = "held~out"

OUTPUT = (
    "(and | also | then | finally)* (save | saving | write | writing | store | storing | put | putting | output) "
    "(it | the | run | model | results? | everything | output | to | in | into | under | at | folder | directory)* "
    "NAME",
    "(output~dir | output~directory | output~folder) (= | : | is | to | at)* NAME",
    "(with)? (the)? (output | results? | run) (goes | should | going | go | be | saved)* (in | at | to | into | "
    "under) NAME",
)
EVALUATION = (
    f"{_LEAD} {_EVALUATE} {_WHEN} (on | with | using | against | over | from | = | :) (the | an? | some | its | "
    f"{_HELD} | unseen | evaluation | eval | validation | test | separate)* (({_DATA} | set | split) (from | in | "
    "of | at)?)? NAME (both)? (before and after (training)?)?",
    f"(with | using | and)* NAME (is)? (as | for | {_HELD} for | {_HELD} as | reserved for | kept for) {_THE} "
    f"({_HELD})? (evaluation | eval | testing | validation | test) (set | data | problems | split)?",
    f"{_LEAD} {_THE} ({_HELD} | evaluation | eval | validation | test) (set | data | problems | questions | split)+ "
    f"{_CALLED} NAME",
)
NOUNS: tuple[tuple[Role, str], ...] = (
    ("model", f"{_THE} ((base)? model | base) (= | : | is)+ NAME"),
    ("data", f"{_THE} (data~set | training data | data) (= | : | is)+ NAME"),
    ("data", f"((to)? (solve | answer | do | handle | work on) (the)?)? {_ROWS} (from | in | of) {_THE} "
             f"({_DATA})? NAME"),
    ("data", "(the)? (train | training) (split | set | part | half | portion) (of | from | in) NAME"),
    ("model", f"(based | building | built) (on | upon | off) {_THE_MODEL} NAME"),
    ("model", "on top of NAME"),
    ("model", f"(start | starting | started | begin | beginning | initiali[sz]ed? | initiali[sz]ing | continue | "
              f"continuing | going on) (from | with | at) {_THE_MODEL} NAME"),
    ("model", f"NAME (as | is | for | to be) {_THE} ({_MODEL} | base | start | starting point)"),
    ("data", f"NAME (as | is | to be) {_THE} {_DATA}"),
    ("data", f"NAME for {_THE} training"),
    ("model", f"{_THE} {_MODEL} {_CALLED} NAME"),
    ("model", f"NAME {_MODEL}"),
    ("data", f"(over)? {_THE} {_DATA} {_CALLED} NAME"),
    ("data", f"NAME {_DATA}"),
)  # fmt: skip
"""What a noun beside a name says; the first that fits uses the noun up."""


def read_names(reading: Reading) -> None:
    """Cues to what each name is. Those with a noun go first, for they use it."""
    for match in reading.find(*OUTPUT):
        reading.cue(match.first, "output")
    _test_split(reading)
    for match in reading.find(*EVALUATION):
        reading.cue(match.first, "eval")
        reading.facts.setdefault("evaluation", match.tokens)
    _samples(reading)
    for role, pattern in NOUNS:
        for match in reading.find(pattern):
            reading.cue(match.first, role)
    _prepositions(reading)


def _prepositions(reading: Reading) -> None:
    """What verbs and prepositions say, which is less; the words may serve others too."""
    for match in reading.find(f"{_TRAIN} (of | the | up | my | our)* NAME", keep=True):
        reading.cue(match.first, "model")
    for match in reading.find("(make | making | teach | help | get | give) NAME", keep=True):
        reading.cue(match.first, "model")
    for match in reading.find("from NAME", keep=True):
        reading.cue(match.first, "model", strong=False)
    objects = (
        f"(run | apply | do | use | start | launch | running | applying | try | trying) (the)? {_ALGORITHM} (on | "
        "to) NAME"
    )
    for match in reading.find(objects, "with NAME on &(NAME)", keep=True):
        reading.neutral.add(int(match.first or 0))
    for match in reading.find("(on | over | against) NAME", keep=True):
        if int(match.first or 0) not in reading.neutral:
            reading.cue(match.first, "data", strong=False)


def joined_names(reading: Reading) -> list[tuple[int, int]]:
    """Pairs of names with "and", a comma or the like between them."""
    joint = r"(, | and | & | \+ | plus | or | then | as well as | together with | along with)+"
    pattern = f"NAME {joint} (on | the | also | then)* NAME"
    pairs = [match.groups for match in reading.find(pattern, keep=True)]
    reading.pass_over("(plus | as well as | together with | along with | both)")
    return [(int(first or 0), int(second or 0)) for first, second in pairs]


def _test_split(reading: Reading) -> None:
    """`evaluate on the test split`: of the data set named, or of the one trained on."""
    split = (
        f"(the | its | their)? ({_HELD} | official)? (test~split | test~set | test~part | test~data | test~problems "
        "| test~questions)"
    )
    of = "((of | from) (NAME | it | the data | the same data))?"
    for match in reading.find(f"{_LEAD} {_EVALUATE} {_WHEN} (on | with | using | against | over) {split} !(NAME) {of}"):
        reading.facts["evaluation"] = match.tokens
        if match.first is None:
            reading.facts["test split"] = match.tokens
            continue
        name = reading.text(match.first)
        known = known_set(name)
        reading.facts[f"cited {match.first}"] = match.tokens
        if known is not None and known.test is not None:
            reading.claim("eval.data", known.test, match.tokens)
        else:
            text = f"how is the test split of {name} called? Write name:config/split"
            reading.ask("eval.data", text, match.tokens)


def _samples(reading: Reading) -> None:
    """How many samples the evaluation takes, and that there is to be one."""
    each = "((per | for each | an? | each) (problem | question | prompt)?)?"
    patterns = (
        f"(with | using | draw | drawing | and)* NUM samples {each} (in | for | during | at) (the)? (evaluation | "
        "eval)",
        f"{_LEAD} (evaluated? | evaluating | evaluation) (with | using | of | at | from | and)* NUM samples {each}",
    )
    for match in reading.find(*patterns):
        reading.claim("eval.samples", reading.number(match.first), match.tokens)
        reading.facts.setdefault("evaluation", match.tokens)
    when = (
        "(it | the model | the result | afterwards | after training | after | before | and | then | both | "
        "training | at the end)*"
    )
    for match in reading.find(f"{_LEAD} (evaluated? | evaluating) {when}"):
        reading.facts.setdefault("evaluation", match.tokens)
