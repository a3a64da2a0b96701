"""The zoo: every model that the structure tests run on, one case each."""

from structures.models import convolutional, frameworks, plain, recurrent, transformers

CASES = [
    *plain.CASES,
    *convolutional.CASES,
    *transformers.CASES,
    *recurrent.CASES,
    *frameworks.CASES,
]
