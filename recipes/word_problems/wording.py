"""Word lists of the augmentation."""

import re

NOT_NAMES = frozenset(
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August"
    " September October November December How What When Where The There They She His Her Each Every Everyone And But"
    " For With From This That These Those You Your Our Its All Some Many Much Find Now Then After Before Inc LCM GCD Mrs Christmas Halloween Day Bars Company Corporation County Chinese Americans Australians".split()
)

KEPT_NOUNS = frozenset(
    "dollars cents hours minutes seconds days weeks months years times miles feet inches yards meters centimeters cm"
    " kilometers pounds ounces grams kilograms liters gallons quarts pints cups degrees boxes bags packs packages rows"
    " groups shelves piles stacks pages teams tables trips classes was is has his hers its pairs sections sets this"
    " points people less more ones others goes gives buys sells takes uses eats makes gets weighs costs needs wants"
    " pieces buckets containers bundles cartons cases jars tanks cages vans buses cars tons units halves dimes nickels"
    " quarters pennies does plus always perhaps across towards upstairs downstairs kids students friends children".split()
)

PRONOUNS = {
    "he": "she", "she": "he", "He": "She", "She": "He", "his": "her", "her": "his", "His": "Her", "Her": "His",
    "him": "her", "brother": "sister", "sister": "brother", "mom": "dad", "dad": "mom", "mother": "father",
    "father": "mother", "boys": "girls", "girls": "boys",
}  # fmt: skip

_GROUPS = (
    "in all|in total|altogether",
    "in all|total|in total|altogether",
    "bought|purchased",
    "picked|collected|gathered",
    "picked|collected|gathered|grabbed",
    "gave|handed",
    "gave away|donated|handed out",
    "found|discovered|spotted",
    "baked|cooked|prepared",
    "ate|finished|gobbled up",
    "lost|misplaced|dropped",
    "equally|evenly",
    "each|every",
    "left|remaining",
    "still have|have left|have now",
    "started with|began with|had at first",
    "to start with|to begin with|at first|initially|in the beginning|originally",
    "needs|requires|wants",
    "saved|earned|made",
    "large|big|huge|giant",
    "small|little|tiny",
    "store|shop|market|mall",
    "also|additionally",
    "split|divided|shared",
    "if she|if he|if they",
    "mom|dad|mother|father|aunt|uncle|sister|brother|cousin|grandmother",
    "friend|neighbor|classmate|teammate",
    "red|blue|green|yellow|orange|purple|white|black|pink|brown",
    "monday|tuesday|wednesday|thursday|friday|saturday|sunday",
    "park|beach|school|library|zoo|farm|garden",
    "how many .ore|how many more",
    "does|did",
    "give away|sell|throw away",
    "sold|gave away",
    "received|was given",
    "invited|asked",
    "will he need|does he need",
    "wants to|decided to|would like to|plans to",
    "there are|there were",
    "there is|there was",
    "cost|was|is priced at",
)

_ONE_WAY = ("each|every", "does|did", "if she|if he|if they", "how many .ore|how many more", "left|remaining",
            "cost|was|is priced at", "will he need|does he need", "saved|earned|made", "needs|requires|wants")  # fmt: skip

SYNONYMS = tuple(
    (tuple(group.split("|")), re.compile(rf"\b(?:{group})\b")) for group in _GROUPS if group not in _ONE_WAY
)
