"""Word lists of the augmentation."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NOT_NAMES = _words(
    """
    Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April May June July August
    September October November December How What When Where The There They She His Her Each Every Everyone And But
    For With From This That These Those You Your Our Its All Some Many Much Find Now Then After Before Inc LCM GCD
    Mrs Christmas Halloween Day Bars Company Corporation County Chinese Americans Australians
    """
)

KEPT_NOUNS = _words(
    """
    dollars cents hours minutes seconds days weeks months years times miles feet inches yards meters centimeters cm
    kilometers pounds ounces grams kilograms liters gallons quarts pints cups degrees boxes bags packs packages rows
    groups shelves piles stacks pages teams tables trips classes was is has his hers its pairs sections sets this
    points people less more ones others goes gives buys sells takes uses eats makes gets weighs costs needs wants
    pieces buckets containers bundles cartons cases jars tanks cages vans buses cars tons units halves dimes nickels
    quarters pennies does plus always perhaps across towards upstairs downstairs kids students friends children
    """
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
    "still have|have left|have now",
    "started with|began with|had at first",
    "to start with|to begin with|at first|initially|in the beginning|originally",
    "large|big|huge|giant",
    "small|little|tiny",
    "store|shop|market|mall",
    "also|additionally",
    "split|divided|shared",
    "mom|dad|mother|father|aunt|uncle|sister|brother|cousin|grandmother",
    "friend|neighbor|classmate|teammate",
    "red|blue|green|yellow|orange|purple|white|black|pink|brown",
    "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday",
    "park|beach|school|library|zoo|farm|garden",
    "give away|sell|throw away",
    "sold|gave away",
    "received|was given",
    "invited|asked",
    "wants to|decided to|would like to|plans to",
    "there are|there were",
    "there is|there was",
    "handed out|passed out",
    "do they have|have they got",
    "does he have|has he got",
    "does she have|has she got",
    "did he buy|did he purchase",
    "did she buy|did she purchase",
)

SYNONYMS = tuple((tuple(group.split("|")), re.compile(rf"\b(?:{group})\b", re.IGNORECASE)) for group in _GROUPS)
