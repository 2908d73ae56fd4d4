"""A whole study from a table: a plan, cross-validated trainings, their ensemble, and one report.

``auto`` runs it, ``inspection`` and ``plan`` decide, ``members`` trains, ``pooling`` joins the predictions for
held-out samples. ``learning_curve`` trains the same recipe on growing parts of the patients, and
``tune`` searches for a better one.
"""
