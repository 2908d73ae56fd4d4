"""What each verb of the command line takes and does. Everything heavy is imported when a verb runs."""

from softfree.verbs import main, measuring, studies
from softfree.verbs.parser import Parser, Verb

VERBS: dict[str, Verb] = main.VERBS | studies.VERBS | measuring.VERBS

__all__ = ["VERBS", "Parser", "Verb"]
