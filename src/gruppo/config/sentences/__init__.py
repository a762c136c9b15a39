"""The parts of `gruppo.config.sentence`: words, names, rules, and what becomes of them."""
