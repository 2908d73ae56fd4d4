"""What each verb of the command line takes and does. Everything heavy is imported when a verb runs."""

from softfree.verbs import convert, explaining, features, main, measuring, preparing, studies
from softfree.verbs.parser import Parser, Verb

VERBS: dict[str, Verb] = main.VERBS | preparing.VERBS | features.VERBS | explaining.VERBS | convert.VERBS | studies.VERBS | measuring.VERBS

__all__ = ["VERBS", "Parser", "Verb"]
