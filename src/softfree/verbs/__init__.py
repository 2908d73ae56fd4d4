"""What each verb of the command line takes and does. Everything heavy is imported when a verb runs."""

from softfree.verbs import convert, explaining, exporting, features, main, measuring, preparing, pretraining, studies
from softfree.verbs.parser import Parser, Verb

VERBS: dict[str, Verb] = {
    name: verb
    for module in (main, preparing, pretraining, features, explaining, exporting, convert, studies, measuring)
    for name, verb in module.VERBS.items()
}

__all__ = ["VERBS", "Parser", "Verb"]
